"""Converts the values of an input to its dtype without loss, and checks their range."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm_runtime.errors import InputError, InputTypeError
from bilstm_runtime.spec import AnyArray, integer_limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from bilstm_runtime.spec import InputSpec

__all__ = ["AnyArray", "ValueRule"]

# The methods array.max and array.min call these through Python functions, which takes longer.
_largest, _smallest = np.maximum.reduce, np.minimum.reduce

_KINDS = {"b": "booleans", "i": "whole numbers", "u": "whole numbers", "f": "floats"}


def ragged_place(value: Any) -> str:
    """Say where nested lists differ in length; empty if they do not.

    >>> ragged_place([[1, 2], [3, 4], [5]])
    'row 0 has 2 values, and row 2 has 1 value'
    """
    if not isinstance(value, (list, tuple)):
        return ""
    counts = [len(row) if isinstance(row, (list, tuple)) else None for row in value]
    for number, count in enumerate(counts):
        if count != counts[0]:
            (first, other) = (
                "is a number" if one is None else f"has {one} value{'' if one == 1 else 's'}"
                for one in (counts[0], count)
            )
            return f"row 0 {first}, and row {number} {other}"
    places = ((number, ragged_place(row)) for number, row in enumerate(value))
    return next((f"in row {number}, {place}" for number, place in places if place), "")


class ValueRule:
    """The allowed values of one input.

    Attributes:
        dtype: The numpy dtype the model takes.
        accepts: A fast check whether all values of an array in `dtype`, with at least one value,
            are allowed. It may be False for some arrays that are allowed.
    """

    dtype: np.dtype[Any]
    accepts: Callable[[AnyArray], bool]

    def __init__(self, spec: InputSpec) -> None:
        """Derive the rule of one input."""
        self.dtype = np.dtype(spec.dtype)
        self._spec = spec
        self._range = spec.range
        self._is_float = self.dtype.kind == "f"
        self.accepts = _quick_check(self.dtype, spec.range)

    def convert(self, array: AnyArray, label: str) -> AnyArray:
        """Convert values to `dtype` and check them.

        Args:
            array: Values of any dtype, at least one.
            label: Their name in messages, such as "input 'tokens', example 3".

        Returns:
            The values in `dtype`; the same array if it already has that dtype.

        Raises:
            InputTypeError: The dtype is never converted.
            InputError: A value cannot be converted without loss, or is not allowed.
        """
        converted = array if array.dtype == self.dtype else self._cast(array, label)
        if not self.accepts(converted):
            self._check(converted, label)
        return converted

    def _cast(self, array: AnyArray, label: str) -> AnyArray:
        found, target = array.dtype.kind, self.dtype.kind
        if found not in _KINDS or (found == "b") != (target == "b"):
            message = f"{label} has the dtype {array.dtype}; the model takes {self._expected()}"
            raise InputTypeError(message)
        if target in "iu":
            return self._cast_to_integers(array, label)
        with np.errstate(over="ignore", invalid="ignore"):
            cast = array.astype(self.dtype)
        if found == "f":
            lost = np.isfinite(array) & ~np.isfinite(cast)
            problem = f"is too large for {self.dtype}"
        else:
            lost = _inexact(array, cast)
            problem = f"has no exact {self.dtype}"
        _refuse_where(lost, array, label, f"{problem}; the model takes {self._expected()}")
        return cast

    def _cast_to_integers(self, array: AnyArray, label: str) -> AnyArray:
        low, high = integer_limits(self.dtype.name)
        if array.dtype.kind == "f":
            exact = array.astype(np.float64)
            fractional = ~(np.floor(exact) == exact) | np.isinf(exact)  # True for NaN too
            _refuse_where(
                fractional,
                array,
                label,
                f"is not a whole number; the model takes {self._expected()}",
            )
            outside = (exact < low) | (exact >= high + 1)  # float64 may not represent `high`
        else:
            outside = (array < low) | (array > high)
        _refuse_where(outside, array, label, self._outside())
        return array.astype(self.dtype)

    def _check(self, array: AnyArray, label: str) -> None:
        """Raise `InputError` for the first value that is not allowed."""
        masked = np.zeros(array.shape, dtype=bool)
        mask_value = self._spec.mask_value
        if self._is_float and mask_value is not None:
            masked = np.isnan(array) if np.isnan(mask_value) else array == mask_value
        if self._is_float:
            _refuse_where(
                ~np.isfinite(array) & ~masked, array, label, "is not finite; clean the data first"
            )
        if self._range is not None:
            low, high = self._range
            outside = ((array < low) | (array > high)) & ~masked
            _refuse_where(outside, array, label, self._outside())

    def _outside(self) -> str:
        if self._range is None:
            return f"does not fit {self.dtype}"
        low, high = self._range
        limits = "vocabulary" if self.dtype.kind in "iu" else "range"
        return f"is outside of the {limits} {low} to {high}"

    def _expected(self) -> str:
        return f"{_KINDS[self.dtype.kind]} ({self.dtype})"


def _quick_check(
    dtype: np.dtype[Any], bounds: tuple[float, float] | None
) -> Callable[[AnyArray], bool]:
    """Make the check `ValueRule.accepts`.

    The check runs for every prediction, after a run of the model has evicted Python and numpy from
    the CPU caches. Its time depends on the number of function calls.
    """
    if bounds is None:
        return _all_finite if dtype.kind == "f" else lambda _: True
    low, high = bounds
    if dtype.kind in "iu" and low == 0:
        # Viewed as unsigned, a negative id is very large: one reduction checks both limits.
        unsigned = np.dtype(f"u{dtype.itemsize}")
        return lambda array: bool(_largest(array.view(unsigned), axis=None) <= high)
    return lambda array: bool(  # a NaN compares as False
        _smallest(array, axis=None) >= low and _largest(array, axis=None) <= high
    )


def _all_finite(array: AnyArray) -> bool:
    """Whether no value is NaN or infinite.

    The sum of squares is finite only if all values are, and takes one pass and no temporary array.
    It can also overflow for large values, so a sum that is not finite takes a second pass.
    """
    return math.isfinite(np.vdot(array, array)) or bool(np.isfinite(array).all())


def has_nan(array: AnyArray) -> bool:
    """Whether a value is NaN: only then is the sum of squares NaN, and not infinite."""
    return array.dtype.kind == "f" and math.isnan(np.vdot(array, array))


def _inexact(integers: AnyArray, floats: AnyArray) -> AnyArray:
    """Return a `bool` mask of the integers that became floats of another value."""
    exact_to = 2 ** (np.finfo(floats.dtype).nmant + 1)
    wrong: AnyArray = (integers > exact_to) | (integers < -exact_to)
    if wrong.any():
        pairs = zip(integers[wrong].tolist(), floats[wrong].tolist(), strict=True)
        wrong[wrong] = [np.isinf(cast) or int(cast) != value for value, cast in pairs]
    return wrong


def _refuse_where(wrong: AnyArray, array: AnyArray, label: str, problem: str) -> None:
    """Raise `InputError` for the first value at which `wrong` is true, if there is one."""
    if not wrong.any():
        return
    index = np.unravel_index(int(np.argmax(wrong)), array.shape)
    position = ", ".join(str(int(i)) for i in index)
    count = int(np.count_nonzero(wrong))
    more = f" ({count} such values in all)" if count > 1 else ""
    message = f"{label}: the value {array[index]} at [{position}] {problem}{more}"
    raise InputError(message)
