"""In which numbers a weight is stored: the fewest that the plan allows and that can hold it.

A weight that a precision cannot hold goes up to the next one, with the reason in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bilstm_exporter.quantization.affine import (
    Quantized,
    as_halves,
    lost,
    pack_int4,
    quantize,
    quantize_at,
    serves_all,
    squared_error,
    why_not_float16,
)
from bilstm_exporter.quantization.recipes import Precision

# Weights of a block share a scale in int4; XNNPACK takes multiples of 32. On the three trained
# models of benchmarks/real_data.py blocks of 64 keep as many decisions as blocks of 32, but for
# languages 97.05 % against 97.5 (of which accuracy gains: -0.1 against -0.6 points), in 5 % less
# room.
BLOCKS = (64, 32)
# What a channel's own scale takes in a file: four bytes, and eight of a zero point.
_SCALE_BYTES = 12
# A scale serves at least as many numbers of a table, for which narrow rows are taken together:
# a scale of its own for each row of eight would be a fifth of the table.
TABLE_GROUP = {Precision.INT8: 128, Precision.INT4: 64}
# Scales and zero points of its channels are more than a thirtieth of a matrix with fewer inputs,
# which has one scale if that serves nearly as well.
_ONE_SCALE_INPUTS = 32 * _SCALE_BYTES
# How many times the squared error a scale in common with another matrix may cost.
_COMMON_ERROR = 2.0
_MIN_WEIGHTS_PER_SCALE = 16  # weights that share a scale of a constant of any shape


@dataclass(frozen=True)
class Stored:
    """A weight as it is stored.

    Attributes:
        precision: In which.
        data: What is written: halves, int8, or packed int4; float32 as it was.
        scales: float32 ``[channels]`` for integers, float16 ``[rows, blocks]`` for blocks.
        axis: Of the channels.
        group: How many rows of a table share a scale.
        reason: Why in no fewer bits, or "".
    """

    precision: Precision
    data: np.ndarray
    scales: np.ndarray | None = None
    axis: int = 0
    group: int = 1
    reason: str = ""

    @property
    def blockwise(self) -> bool:
        """Whether a row has several scales."""
        return self.scales is not None and self.scales.ndim > 1


Attempt = Callable[[np.ndarray, Precision], Stored | str]


def store_matrix(
    weight: np.ndarray,
    precision: Precision,
    *,
    blocks: bool = True,
    scales: np.ndarray | None = None,
) -> Stored:
    """A matrix ``[channels, inputs]`` of a product.

    Args:
        weight: float32.
        precision: The lowest that will do.
        blocks: Whether a channel may have several scales, in int4.
        scales: Of ``common_scales``, for int8.
    """

    def attempt(weight: np.ndarray, precision: Precision) -> Stored | str:
        inputs = weight.shape[1]
        if precision is Precision.INT8:
            one = quantize(weight, (0, 1))
            if inputs < _ONE_SCALE_INPUTS and serves_all(weight, one):
                return _integers(weight, one)
            found = quantize(weight, (1,)) if scales is None else quantize_at(weight, scales)
            return _integers(weight, found)
        if inputs % 2:
            return "an odd number of inputs, which XNNPACK does not take in int4"
        if _is_narrow(inputs):
            return f"with {inputs} inputs, int4 and its scales take more room"
        block = next((size for size in BLOCKS if inputs % size == 0), 0)
        if blocks and block:
            parts = weight.reshape(len(weight), -1, block)
            # The format has float16 here, but XNNPACK goes on with bfloat16.
            found = quantize(parts, (2,), 4, half_scales=True, short_scales=True)
            halves = as_halves(found.scale[..., 0])
            if halves.dtype == np.float16 and not lost(parts, found):
                return Stored(precision, pack_int4(found.values), halves)
        return _integers(weight, quantize(weight, (1,), 4))

    return _climb(weight, precision, attempt)


def _is_narrow(inputs: int) -> bool:
    """Whether int4 with a scale a channel takes more room than int8 with one scale in all."""
    return inputs <= inputs / 2 + _SCALE_BYTES


def common_scales(matrices: Sequence[np.ndarray]) -> np.ndarray | None:
    """Scales ``[channels, 1]`` for matrices whose products are added, stored once for all.

    A scale for each of 128 weights would be a thirtieth of an int8 file; the kernels of a
    recurrent layer, whose errors add up anyway, share theirs where that costs little.

    Args:
        matrices: ``[channels, inputs]`` each, of as many channels.

    Returns:
        The scales, or None where one matrix would lose too much.
    """
    if len(matrices) < 2 or not all(np.isfinite(matrix).all() for matrix in matrices):
        return None
    scales = np.asarray(quantize(np.concatenate(list(matrices), axis=1), (1,)).scale)
    for matrix in matrices:
        own, shared = quantize(matrix, (1,)), quantize_at(matrix, scales)
        if squared_error(matrix, shared) > _COMMON_ERROR * squared_error(matrix, own) or lost(
            matrix, shared
        ):
            return None
    return scales


def store_table(table: np.ndarray, precision: Precision) -> Stored:
    """A table ``[rows, columns]`` whose rows are looked up."""
    rows, columns = table.shape

    def attempt(table: np.ndarray, precision: Precision) -> Stored | str:
        group = -(-TABLE_GROUP[precision] // columns)
        if precision is Precision.INT4 and columns % 2:
            return "an odd number of columns, which are no whole bytes in int4"
        padded = np.zeros((-(-rows // group) * group, columns), np.float32)
        padded[:rows] = table
        found = quantize(
            padded.reshape(-1, group * columns), (1,), int(precision), half_scales=True
        )
        values = found.values.reshape(-1, columns)[:rows]
        data = pack_int4(values) if precision is Precision.INT4 else values
        return Stored(precision, data, as_halves(found.scale).reshape(-1), group=group)

    return _climb(table, precision, attempt)


def store_any(weight: np.ndarray, precision: Precision) -> Stored:
    """Any other weight, which is taken back to float before it is read."""

    def attempt(weight: np.ndarray, precision: Precision) -> Stored | str:
        if precision is Precision.INT4:
            return "int4 is for embeddings and matrix products"
        found = {
            axis: quantize(weight, tuple(other for other in range(weight.ndim) if other != axis))
            for axis in _channel_axes(weight)
        }
        errors = {axis: squared_error(weight, item) for axis, item in found.items()}
        nearest = min(errors, key=errors.__getitem__)
        return _integers(weight, found[nearest], nearest)

    return _climb(weight, precision, attempt)


def _climb(weight: np.ndarray, precision: Precision, attempt: Attempt) -> Stored:
    """Try a precision, then the next higher one."""
    if not np.isfinite(weight).all():
        return Stored(Precision.FLOAT32, weight, reason="it has NaN or infinity")
    reason = ""
    for step in sorted(step for step in Precision if step >= precision):
        if step is Precision.FLOAT32:
            break
        stored = _halves(weight) if step is Precision.FLOAT16 else attempt(weight, step)
        if isinstance(stored, Stored):
            return replace(stored, reason=reason)
        reason = stored
    return Stored(Precision.FLOAT32, weight, reason=reason)


def _halves(weight: np.ndarray) -> Stored | str:
    return why_not_float16(weight) or Stored(Precision.FLOAT16, weight.astype(np.float16))


def _integers(weight: np.ndarray, found: Quantized, axis: int = 0) -> Stored | str:
    if lost(weight, found):
        return f"beside its largest numbers, int{found.bits} would lose the others"
    data = found.values if found.bits == Precision.INT8 else pack_int4(found.values)
    return Stored(Precision(found.bits), data, found.scale.reshape(-1), axis)


def _channel_axes(weight: np.ndarray) -> list[int]:
    """Axes whose channels are long enough to be worth a scale each; else the shortest."""
    axes = [
        a for a, size in enumerate(weight.shape) if weight.size >= _MIN_WEIGHTS_PER_SCALE * size
    ]
    return axes or [int(np.argmin(weight.shape))]
