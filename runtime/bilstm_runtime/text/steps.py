"""Changes a text before it is standardized, as the `steps` of a manifest's entry say."""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bilstm_runtime.preprocessing_spec import Characters, TextStep

_WHITESPACE: Final = "\t\n\v\f\r "
_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_UPPER: Final = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)


def make_change(steps: Sequence[TextStep]) -> Callable[[str], str] | None:
    """Return a function that applies steps to a text; None for no steps."""
    changes = [_change(step) for step in steps]
    if not changes:
        return None

    def change(text: str) -> str:
        for one in changes:
            text = one(text)
        return text

    return change


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
