"""Changes a text before it is standardized, as the `steps` of a manifest's entry say."""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING, Final

from bilstm_runtime.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bilstm_runtime.preprocessing_spec import Characters, TextStep

MAX_READ: Final = 4 * 10**8
"""Largest number of characters that the steps may read of a text, again and again: about two
seconds. A pattern such as `<[^>]+>` may read all of the
text from each of its characters."""

_WHITESPACE: Final = "\t\n\v\f\r "
_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_UPPER: Final = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)


def make_change(steps: Sequence[TextStep]) -> Callable[[str], str] | None:
    """Return a function that applies steps to a text; None for no steps."""
    changes = [(step, _change(step)) for step in steps]
    if not changes:
        return None

    def change(text: str) -> str:
        read = 0
        for step, one in changes:
            read += _characters_read(step, len(text))
            if read > MAX_READ:
                message = (
                    f"a text has {len(text)} characters, too many for the patterns that this "
                    f"model replaces; give it in parts"
                )
                raise InputError(message)
            text = one(text)
        return text

    return change


def _characters_read(step: TextStep, count: int) -> int:
    """The largest number of characters that a step reads of a text of this many."""
    parts = step.pattern
    at = next((n for n, one in enumerate(parts) if one.least != one.most), len(parts))
    for_each = 1 + sum(one.least for one in parts[:at])
    if at == len(parts) - 1:
        for_each += parts[at].least  # whatever follows is replaced, and read once
    elif at < len(parts):
        most = parts[at].most
        after = sum(one.least for one in parts[at + 1 :])
        for_each += (count if most is None else min(count, most)) * (1 + min(count, after))
    return count * for_each


def _change(step: TextStep) -> Callable[[str], str]:
    if step.kind == "lower":
        return lambda text: text.translate(_LOWER)
    if step.kind == "upper":
        return lambda text: text.translate(_UPPER)
    if step.kind == "strip":
        return lambda text: text.strip(_WHITESPACE)
    if step.kind == "join":
        before, after = step.by
        return lambda text: f"{before}{text}{after}"
    pattern, by = re.compile("".join(map(_expression, step.pattern))), step.by
    return lambda text: pattern.sub(lambda match: match[0].join(by), text)


def _expression(characters: Characters) -> str:
    """Return a regular expression for characters in a row."""
    numbers = characters.ranges
    inner = "".join(
        f"\\U{low:08x}-\\U{high:08x}" for low, high in zip(numbers[::2], numbers[1::2], strict=True)
    )
    most = "" if characters.most is None else characters.most
    return f"[{inner}]{{{characters.least},{most}}}"
