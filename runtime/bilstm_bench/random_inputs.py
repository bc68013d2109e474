"""Random inputs that a model takes, the same for the same seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bilstm_runtime.spec import integer_limits

if TYPE_CHECKING:
    from bilstm_bench.plan import Shape
    from bilstm_runtime.bundle.manifest import Manifest
    from bilstm_runtime.spec import InputSpec
    from bilstm_runtime.values import AnyArray


def make_inputs(
    manifest: Manifest, shape: Shape, *, padding: float = 0.0, seed: int = 0
) -> dict[str, AnyArray]:
    """Make one input of this size.

    Ids are drawn evenly from the vocabulary without the one that marks padding, floats from
    the declared range or, without one, from the normal distribution. An input that the Keras
    model began with a text layer gets ids.

    Args:
        manifest: What the model takes.
        shape: Its size.
        padding: The share of the steps, at the end of every sequence, that holds the mask
            value, in inputs that have one; at least one step stays.
        seed: The same seed gives the same values.

    Returns:
        For each input by name an array `[batch, ...]` in the dtype the model takes.
    """
    rng = np.random.default_rng([seed, shape.batch, shape.length or 0])
    return {spec.name: _values(spec, shape, padding, rng) for spec in manifest.inputs}


def _values(spec: InputSpec, shape: Shape, padding: float, rng: np.random.Generator) -> AnyArray:
    sizes = [shape.batch]
    for axis in spec.axes[1:]:
        if axis.name is None or shape.length is None:
            sizes.append(axis.size or axis.min)
        else:
            sizes.append(min(axis.size or shape.length, shape.length))
    values = _draw(spec, tuple(sizes), rng)
    if padding and spec.mask_value is not None and len(sizes) > 1:
        real = max(1, round(sizes[1] * (1 - padding)))
        values[:, real:] = spec.mask_value
    return values


def _draw(spec: InputSpec, sizes: tuple[int, ...], rng: np.random.Generator) -> AnyArray:
    dtype = np.dtype(spec.dtype)
    values: AnyArray
    if dtype.kind == "b":
        return rng.integers(0, 2, sizes).astype(dtype)
    if dtype.kind in "iu":
        low, high = _whole_range(spec)
        values = rng.integers(low, high, sizes, dtype=np.int64, endpoint=True).astype(dtype)
        if spec.mask_value is not None and high > low:
            other = low if spec.mask_value != low else low + 1
            values[values == spec.mask_value] = other
        return values
    if spec.range is None:
        return rng.standard_normal(sizes).astype(dtype)
    low_end, high_end = spec.range
    values = rng.uniform(low_end, high_end, sizes).astype(dtype)
    return np.clip(values, low_end, high_end)


def _whole_range(spec: InputSpec) -> tuple[int, int]:
    """The values of a whole number: its range, or a few small numbers."""
    if spec.range is not None:
        return int(spec.range[0]), min(int(spec.range[1]), 2**63 - 1)
    low, high = integer_limits(spec.dtype)
    return max(low, 0), min(high, 100)
