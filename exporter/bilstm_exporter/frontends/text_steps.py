"""Describes operators that change text before a text layer splits it and looks it up."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_runtime.preprocessing_spec import Characters, TextStep

# The only parser of regular expressions in Python's library.
_parser: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")

# What TensorFlow's regular expressions, those of RE2, mean by a class; Python's mean more.
_CLASSES = {"CATEGORY_SPACE": "\t\n\f\r ", "CATEGORY_DIGIT": "0-9", "CATEGORY_WORD": "0-9A-Za-z_"}
_LAST = 0x10FFFF
_PLAIN: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "StringLower": ("lower", tf.strings.lower),
    "StringUpper": ("upper", tf.strings.upper),
    "StringStrip": ("strip", tf.strings.strip),
}
# Operators that return the strings that they take.
_SAME = frozenset({"EnsureShape", "Identity", "StopGradient"})


@dataclass(frozen=True)
class Change:
    """One operator.

    Attributes:
        step: What the manifest says of it.
        apply: Applies the operator to a tensor of strings.
    """

    step: TextStep
    apply: Callable[[Any], Any]


def changed_by(operation: Any) -> tuple[Change, Any] | None:
    """Describe an operator that changes strings.

    Args:
        operation: An operator of a graph.

    Returns:
        The change, and the tensor of the strings; None if the manifest has no such step.
    """
    if operation.type != "StringJoin":
        change = _change(operation)
        return None if change is None else (change, operation.inputs[0])
    strings = [one for one in operation.inputs if _constant(one) is None]
    if len(strings) != 1:
        return None
    try:
        return _join(operation, strings[0]), strings[0]
    except UnicodeDecodeError:
        return None


def changes_by(function: Callable[[Any], Any], shape: Sequence[int | None]) -> list[Change] | str:
    """Find what a function of strings does.

    Args:
        function: It takes and returns a tensor of strings.
        shape: The shape of the tensor.

    Returns:
        The operators; or what is in the way: the type of one without a step, or an error.
    """
    try:
        spec = tf.TensorSpec(list(shape), tf.string)
        graph = tf.function(function, autograph=False).get_concrete_function(spec)
        outputs = graph.outputs
    except Exception as error:  # noqa: BLE001 - it may be any code
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    if len(outputs) != 1 or outputs[0].dtype != tf.string:
        return "no tensor of strings is returned"
    found: list[Change] = []
    tensor = outputs[0]
    while tensor is not graph.inputs[0]:
        change = changed_by(tensor.op)
        if change is not None:
            found.append(change[0])
            tensor = change[1]
        elif tensor.op.type in _SAME:
            tensor = tensor.op.inputs[0]
        else:
            return str(tensor.op.type)
    return found[::-1]


def _change(operation: Any) -> Change | None:
    kind, apply = _PLAIN.get(operation.type, ("", None))
    if apply is not None:
        has_encoding = kind != "strip" and operation.get_attr("encoding")
        return None if has_encoding else Change(TextStep(kind=kind), apply)
    if operation.type == "StaticRegexReplace":
        pattern, rewrite = (operation.get_attr(name) for name in ("pattern", "rewrite"))
    elif operation.type == "RegexReplace":
        pattern, rewrite = (_constant(one) for one in operation.inputs[1:])
    else:
        return None
    if pattern is None or rewrite is None or not operation.get_attr("replace_global"):
        return None
    return _replacement(pattern, rewrite)


def _replacement(pattern: bytes, rewrite: bytes) -> Change | None:
    try:
        text = pattern.decode()
        characters, by = _characters(text), _rewritten(rewrite.decode(), is_group=_is_group(text))
    except UnicodeDecodeError:
        return None
    if characters is None or by is None:
        return None
    apply = partial(tf.strings.regex_replace, pattern=pattern, rewrite=rewrite)
    step = TextStep(kind="replace", by=by, pattern=characters)
    return None if step.violation() else Change(step, apply)


def _join(operation: Any, text: Any) -> Change:
    parts = list(operation.inputs)
    separator = operation.get_attr("separator").decode()
    at = next(number for number, one in enumerate(parts) if one is text)
    words = [(_constant(one) or b"").decode() for one in parts]
    before = "".join(f"{word}{separator}" for word in words[:at])
    after = "".join(f"{separator}{word}" for word in words[at + 1 :])
    step = TextStep(kind="join", by=(before, after))
    return Change(step, lambda tensor: tf.strings.join([before, tensor, after]))


def _constant(tensor: Any) -> bytes | None:
    """Return the value of a constant string, or None."""
    value = tf.get_static_value(tensor)
    return None if value is None or np.ndim(value) else bytes(np.asarray(value).item())


def _is_group(pattern: str) -> bool:
    """Whether a pattern of characters is one group, as ``([?!])``, so that it is the match."""
    return pattern[:1] == "(" and pattern[1:2] != "?" and pattern.find(")") == len(pattern) - 1


def _rewritten(rewrite: str, *, is_group: bool) -> tuple[str, ...] | None:
    """Return the strings around the matches that a rewrite names; None if it names groups."""
    parts = re.split(r"(\\.?)", rewrite)
    found = [""]
    for number, part in enumerate(parts):
        if number % 2 == 0:
            found[-1] += part
        elif part == r"\0" or (is_group and part == r"\1"):
            found.append("")
        elif part == "\\\\":
            found[-1] += "\\"
        else:
            return None
    return tuple(found)


def _characters(pattern: str) -> tuple[Characters, ...] | None:
    """Describe a regular expression of characters in a row; None for any other."""
    if "[:" in pattern:  # classes of RE2 that Python reads as characters
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            parsed = _parser.parse(pattern)
    except (re.error, RecursionError, OverflowError, Warning):
        return None
    if parsed.state.flags != re.UNICODE.value:
        return None
    found = [_one(*item) for item in parsed]
    one_or_more = any(one is not None and one.least for one in found)
    return tuple(one for one in found if one) if None not in found and one_or_more else None


def _one(kind: Any, value: Any) -> Characters | None:
    """Describe one item of a parsed expression."""
    name = str(kind)
    if name == "MAX_REPEAT":
        least, most, items = value
        inner = _one(*items[0]) if len(items) == 1 else None
        if inner is None or (inner.least, inner.most) != (1, 1):
            return None
        limit = None if most == _parser.MAXREPEAT else int(most)
        if max(int(least), limit or 0) > 1000 or limit == 0:  # as in RE2
            return None
        return Characters(ranges=inner.ranges, least=int(least), most=limit)
    if name == "SUBPATTERN":
        _, added, removed, items = value
        return None if added or removed or len(items) != 1 else _one(*items[0])
    ranges = _ranges(name, value)
    return None if not ranges else Characters(ranges=ranges, most=1)


def _ranges(name: str, value: Any) -> tuple[int, ...]:
    """Return the first and last character of each range, one after the other."""
    if name == "LITERAL":
        return (value, value)
    if name == "NOT_LITERAL":
        return _others([(value, value)])
    if name == "ANY":
        return _others([(10, 10)])
    if name != "IN":
        return ()
    names = [(str(kind), item) for kind, item in value]
    is_negated = names[0][0] == "NEGATE"
    found = [_pairs(*one) for one in names[is_negated:]]
    pairs = sorted(pair for some in found for pair in some)
    if not all(found):
        return ()
    return _others(pairs) if is_negated else tuple(end for pair in pairs for end in pair)


def _pairs(name: str, value: Any) -> list[tuple[int, int]]:
    """Return the ranges of one item of a set; none for an unknown one."""
    if name == "LITERAL":
        return [(value, value)]
    if name == "RANGE":
        return [(int(value[0]), int(value[1]))]
    plain = str(value).replace("_NOT_", "_")
    if name != "CATEGORY" or plain not in _CLASSES:
        return []
    if plain == str(value):
        return _class(_CLASSES[plain])
    others = _others(_class(_CLASSES[plain]))
    return list(zip(others[::2], others[1::2], strict=True))


def _class(text: str) -> list[tuple[int, int]]:
    """Return the ranges of a class such as ``0-9_``."""
    found = re.findall(r"(.)-(.)|(.)", text, re.DOTALL)
    return [(ord(low or one), ord(high or one)) for low, high, one in found]


def _others(pairs: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Return the ranges of all characters that some ranges leave out."""
    found: list[int] = []
    start = 0
    for low, high in sorted(pairs):
        if low > start:
            found += [start, low - 1]
        start = max(start, high + 1)
    if start <= _LAST:
        found += [start, _LAST]
    return tuple(found)
