"""The values of an input: converting their dtype without loss, and checking their range."""

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

# The methods of arrays go through Python functions to these.
_largest, _smallest = np.maximum.reduce, np.minimum.reduce

_KINDS = {"b": "booleans", "i": "whole numbers", "u": "whole numbers", "f": "floats"}


class ValueRule:
    """What values one input takes.

    Attributes:
        dtype: The numpy dtype the model takes.
        holds: Whether all values of an array in `dtype`, at least one, are allowed: a quick answer
            that may be False without need.
    """

    dtype: np.dtype[Any]
    holds: Callable[[AnyArray], bool]

    def __init__(self, spec: InputSpec) -> None:
        """Work out the rule of one input."""
        self.dtype = np.dtype(spec.dtype)
        self._spec = spec
        self._range = spec.range
        self._is_float = self.dtype.kind == "f"
        self.holds = _quick_check(self.dtype, spec.range)

    def convert(self, array: AnyArray, label: str) -> AnyArray:
        """Convert values to `dtype` and check them.

        Args:
            array: Values of any dtype, at least one.
            label: What they are, such as "input 'tokens', example 3".

        Returns:
            The values in `dtype`; the same array where it has that dtype already.

        Raises:
            InputTypeError: The dtype is never converted.
            InputError: A value cannot be converted without loss, or is not allowed.
        """
        converted = array if array.dtype == self.dtype else self._cast(array, label)
        if not self.holds(converted):
            self._check(converted, label)
        return converted

    def _cast(self, array: AnyArray, label: str) -> AnyArray:
        found, wanted = array.dtype.kind, self.dtype.kind
        if found not in _KINDS or (found == "b") != (wanted == "b"):
            message = f"{label} has the dtype {array.dtype}; the model takes {self._wanted()}"
            raise InputTypeError(message)
        if wanted in "iu":
            return self._cast_to_integers(array, label)
        with np.errstate(over="ignore", invalid="ignore"):
            cast = array.astype(self.dtype)
        if found == "f":
            lost = np.isfinite(array) & ~np.isfinite(cast)
            what = f"is too large for {self.dtype}"
        else:
            lost = _inexact(array, cast)
            what = f"has no exact {self.dtype}"
        _refuse_where(lost, array, label, f"{what}; the model takes {self._wanted()}")
        return cast

    def _cast_to_integers(self, array: AnyArray, label: str) -> AnyArray:
        low, high = integer_limits(self.dtype.name)
        if array.dtype.kind == "f":
            exact = array.astype(np.float64)
            broken = ~(np.floor(exact) == exact) | np.isinf(exact)  # a NaN is broken too
            _refuse_where(
                broken, array, label, f"is not a whole number; the model takes {self._wanted()}"
            )
            beyond = (exact < low) | (exact >= high + 1)  # no float64 lies between
        else:
            beyond = (array < low) | (array > high)
        _refuse_where(beyond, array, label, self._outside())
        return array.astype(self.dtype)

    def _check(self, array: AnyArray, label: str) -> None:
        """Say which value is not allowed, if any is not."""
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
        what = "vocabulary" if self.dtype.kind in "iu" else "range"
        return f"is outside of the {what} {low} to {high}"

    def _wanted(self) -> str:
        return f"{_KINDS[self.dtype.kind]} ({self.dtype})"


def _quick_check(
    dtype: np.dtype[Any], bounds: tuple[float, float] | None
) -> Callable[[AnyArray], bool]:
    """See `ValueRule.holds`.

    It is asked of every prediction, after a run of the model has driven all of Python and numpy out
    of the caches: what counts is how few functions it goes through.
    """
    if bounds is None:
        return _all_finite if dtype.kind == "f" else lambda _: True
    low, high = bounds
    if dtype.kind in "iu" and low == 0:
        # Seen as unsigned, a negative id is a huge one: one reduction checks both ends.
        unsigned = np.dtype(f"u{dtype.itemsize}")
        return lambda array: bool(_largest(array.view(unsigned), axis=None) <= high)
    return lambda array: bool(  # a NaN compares as False
        _smallest(array, axis=None) >= low and _largest(array, axis=None) <= high
    )


def _all_finite(array: AnyArray) -> bool:
    """Whether no value is NaN or infinite.

    The sum of the squares shows either, in one pass that makes no array. Only a sum that is not
    finite, as it may be of large values too, takes a second look.
    """
    return math.isfinite(np.vdot(array, array)) or bool(np.isfinite(array).all())


def _inexact(integers: AnyArray, floats: AnyArray) -> AnyArray:
    """Where integers became floats of another value, `bool` of the same shape."""
    exact_to = 2 ** (np.finfo(floats.dtype).nmant + 1)
    wrong: AnyArray = (integers > exact_to) | (integers < -exact_to)
    if wrong.any():
        pairs = zip(integers[wrong].tolist(), floats[wrong].tolist(), strict=True)
        wrong[wrong] = [np.isinf(cast) or int(cast) != value for value, cast in pairs]
    return wrong


def _refuse_where(wrong: AnyArray, array: AnyArray, label: str, what: str) -> None:
    """Raise `InputError` naming the first value at which `wrong` is true, if there is one."""
    if not wrong.any():
        return
    index = np.unravel_index(int(np.argmax(wrong)), array.shape)
    place = ", ".join(str(int(i)) for i in index)
    count = int(np.count_nonzero(wrong))
    more = f" ({count} such values in all)" if count > 1 else ""
    message = f"{label}: the value {array[index]} at [{place}] {what}{more}"
    raise InputError(message)
