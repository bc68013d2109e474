"""Checks that a value is a text."""

from __future__ import annotations

from typing import Any, Final

from bilstm_runtime.errors import InputError, InputTypeError

_SHOWN: Final = 40
"""The maximum number of characters of a text in a message."""


def checked_text(text: Any, label: str) -> str:
    """Return a text that UTF-8 can encode; raises the errors of `utf8_of`."""
    utf8_of(text, label)
    return str(text)


def utf8_of(text: Any, label: str) -> bytes:
    """Return the UTF-8 of a text.

    Raises:
        InputTypeError: It is not a `str`.
        InputError: It contains a lone surrogate.
    """
    if isinstance(text, str):
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            message = (
                f"{label}: {shown(text)} contains a lone surrogate, or comes from bytes that are "
                f"not UTF-8, at position {error.start}"
            )
            raise InputError(message) from error
    if isinstance(text, bytes):
        message = f"{label} holds bytes; decode them first: [text.decode() for text in texts]"
    elif isinstance(text, (list, tuple)):
        message = f"{label} is a list of {len(text)}; the model takes one text per example, a str"
    else:
        message = f"{label} holds {text!r:.40} ({type(text).__name__}) among texts; expected a str"
    raise InputTypeError(message)


def shown(text: Any) -> str:
    """Return a text for messages, cut if it is long."""
    found = repr(text[: 2 * _SHOWN] if isinstance(text, str) else text)
    return found if len(found) <= _SHOWN else f"{found[:_SHOWN]}..."
