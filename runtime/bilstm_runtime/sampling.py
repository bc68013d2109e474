"""Draws random valid values for an input."""

from __future__ import annotations

import numpy as np

from bilstm_runtime.spec import InputSpec, integer_limits

# The range of standardized features. With much larger values, float32 rounding alone would
# exceed the tolerance in models that return their inputs.
FLOAT_ENDS = (-10.0, 10.0)
# Integers without a vocabulary: enough distinct values, but small enough for most category counts.
_DEFAULT_INTEGERS = (0, 9)


def limits(spec: InputSpec) -> tuple[float, float]:
    """Return the lowest and the highest value to draw for an input."""
    if spec.range is not None:
        return spec.range
    kind = np.dtype(spec.dtype).kind
    if kind == "f":
        return FLOAT_ENDS
    if spec.dtype == "uint8":
        return integer_limits(spec.dtype)
    return (0, 1) if kind == "b" else _DEFAULT_INTEGERS


def random_values(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw random values, none of which is the mask value.

    Args:
        spec: The input.
        shape: The shape of the array.
        rng: The source of randomness.

    Returns:
        An array of the input's dtype: N(0, 1), or uniform over the range of integers.
    """
    if np.dtype(spec.dtype).kind == "f" and spec.range is None:
        return without_mask_value(spec, rng.standard_normal(shape))
    low, high = limits(spec)
    return without_mask_value(spec, rng.integers(int(low), int(high), shape, endpoint=True))


def without_mask_value(spec: InputSpec, values: np.ndarray) -> np.ndarray:
    """Replace the mask value by an adjacent value, and cast to the input's dtype."""
    values = values.astype(spec.dtype)
    if spec.mask_value is None or spec.dtype == "bool":
        return values
    low, high = limits(spec)
    other = spec.mask_value + 1 if spec.mask_value + 1 <= high else max(low, spec.mask_value - 1)
    return np.where(values == spec.mask_value, np.asarray(other, spec.dtype), values)
