"""Chooses the stored form of a weight: the lowest allowed precision that can represent it.

If a precision cannot represent a weight, the next higher one is tried, and the reason is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bilstm_exporter.quantization.affine import (
    Quantized,
    as_float16_if_exact,
    loses_small_weights,
    one_scale_suffices,
    pack_int4,
    quantize,
    quantize_with_scale,
    squared_error,
    why_not_float16,
)
from bilstm_exporter.quantization.recipes import Precision

# Weights of a block share a scale in int4; XNNPACK supports multiples of 32. On the three trained
# models of benchmarks/real_data.py, blocks of 64 take 5 % less space than blocks of 32 and keep
# as many predicted classes, except for languages: 97.05 % against 97.5 % of them, with an accuracy
# change of -0.1 against -0.6 points.
BLOCKS = (64, 32)
# Bytes per channel scale in a file: four for the scale and eight for the zero point.
_SCALE_BYTES = 12
# Minimum elements per scale of a table; narrow rows share a scale. A scale for each row of eight
# elements would be a fifth of the table.
TABLE_GROUP = {Precision.INT8: 128, Precision.INT4: 64}
# With fewer inputs, channel scales and zero points are more than 1/32 of the matrix; it then gets
# one scale if the error allows it.
_ONE_SCALE_INPUTS = 32 * _SCALE_BYTES
# Largest factor by which sharing scales with another matrix may increase the squared error.
_COMMON_ERROR = 2.0
_MIN_WEIGHTS_PER_SCALE = 16  # minimum, for a constant of any shape


@dataclass(frozen=True)
class Stored:
    """A stored weight.

    Attributes:
        precision: The precision it is stored in.
        data: The stored values: float32, float16, int8 or packed int4.
        scales: float32 ``[channels]`` for integers, float16 ``[rows, blocks]`` for blocks.
        axis: The channel axis.
        group: Number of table rows that share a scale.
        reason: Why a lower precision was not possible, or "".
    """

    precision: Precision
    data: np.ndarray
    scales: np.ndarray | None = None
    axis: int = 0
    group: int = 1
    reason: str = ""

    @property
    def blockwise(self) -> bool:
        """Whether a row has one scale per block."""
        return self.scales is not None and self.scales.ndim > 1


Attempt = Callable[[np.ndarray, Precision], Stored | str]


def store_matrix(
    weight: np.ndarray,
    precision: Precision,
    *,
    blocks: bool = True,
    scales: np.ndarray | None = None,
) -> Stored:
    """Store a matrix ``[channels, inputs]`` of a matrix product.

    Args:
        weight: float32.
        precision: The requested precision.
        blocks: Whether an int4 channel may have several scales.
        scales: Scales from `common_scales`, for int8.
    """

    def attempt(weight: np.ndarray, precision: Precision) -> Stored | str:
        inputs = weight.shape[1]
        if precision is Precision.INT8:
            single = quantize(weight, (0, 1))
            if inputs < _ONE_SCALE_INPUTS and one_scale_suffices(weight, single):
                return _integers(weight, single)
            quantized = (
                quantize(weight, (1,)) if scales is None else quantize_with_scale(weight, scales)
            )
            return _integers(weight, quantized)
        if inputs % 2:
            return "an odd number of inputs, which XNNPACK does not support in int4"
        if _is_narrow(inputs):
            return f"with {inputs} inputs, int4 and its scales take more space"
        block = next((size for size in BLOCKS if inputs % size == 0), 0)
        if blocks and block:
            parts = weight.reshape(len(weight), -1, block)
            # The format stores float16 scales, but XNNPACK converts them to bfloat16.
            quantized = quantize(parts, (2,), 4, float16_scales=True, bfloat16_scales=True)
            float16_scales = as_float16_if_exact(quantized.scale[..., 0])
            if float16_scales.dtype == np.float16 and not loses_small_weights(parts, quantized):
                return Stored(precision, pack_int4(quantized.values), float16_scales)
        return _integers(weight, quantize(weight, (1,), 4))

    return _store_at_lowest(weight, precision, attempt)


def _is_narrow(inputs: int) -> bool:
    """Whether int4 with channel scales takes more space than int8 with a single scale."""
    return inputs <= inputs / 2 + _SCALE_BYTES


def common_scales(matrices: Sequence[np.ndarray]) -> np.ndarray | None:
    """Shared scales ``[channels, 1]`` for matrices whose products are added.

    A scale for every 128 weights would be about a thirtieth of an int8 file. The kernels of a
    recurrent layer share scales if the error increases little; their errors add up anyway.

    Args:
        matrices: ``[channels, inputs]`` each, with the same number of channels.

    Returns:
        The scales, or None if the error of one matrix would be too large.
    """
    if len(matrices) < 2 or not all(np.isfinite(matrix).all() for matrix in matrices):
        return None
    scales = np.asarray(quantize(np.concatenate(list(matrices), axis=1), (1,)).scale)
    for matrix in matrices:
        own, shared = quantize(matrix, (1,)), quantize_with_scale(matrix, scales)
        if squared_error(matrix, shared) > _COMMON_ERROR * squared_error(
            matrix, own
        ) or loses_small_weights(matrix, shared):
            return None
    return scales


def store_table(table: np.ndarray, precision: Precision) -> Stored:
    """Store a table ``[rows, columns]`` whose rows are looked up."""
    rows, columns = table.shape

    def attempt(table: np.ndarray, precision: Precision) -> Stored | str:
        group = -(-TABLE_GROUP[precision] // columns)
        if precision is Precision.INT4 and columns % 2:
            return "an odd number of columns, which do not fill whole bytes in int4"
        padded = np.zeros((-(-rows // group) * group, columns), np.float32)
        padded[:rows] = table
        quantized = quantize(
            padded.reshape(-1, group * columns), (1,), int(precision), float16_scales=True
        )
        values = quantized.values.reshape(-1, columns)[:rows]
        data = pack_int4(values) if precision is Precision.INT4 else values
        return Stored(
            precision, data, as_float16_if_exact(quantized.scale).reshape(-1), group=group
        )

    return _store_at_lowest(table, precision, attempt)


def store_any(weight: np.ndarray, precision: Precision) -> Stored:
    """Store any other weight, which is dequantized before it is read."""

    def attempt(weight: np.ndarray, precision: Precision) -> Stored | str:
        if precision is Precision.INT4:
            return "int4 is for embeddings and matrix products"
        candidates = {
            axis: quantize(weight, tuple(other for other in range(weight.ndim) if other != axis))
            for axis in _channel_axes(weight)
        }
        errors = {axis: squared_error(weight, item) for axis, item in candidates.items()}
        best = min(errors, key=errors.__getitem__)
        return _integers(weight, candidates[best], best)

    return _store_at_lowest(weight, precision, attempt)


def _store_at_lowest(weight: np.ndarray, precision: Precision, attempt: Attempt) -> Stored:
    """Store a weight in the lowest possible precision from the requested one upwards."""
    if not np.isfinite(weight).all():
        return Stored(Precision.FLOAT32, weight, reason="it contains NaN or infinity")
    reason = ""
    for candidate in sorted(item for item in Precision if item >= precision):
        if candidate is Precision.FLOAT32:
            break
        stored = _float16(weight) if candidate is Precision.FLOAT16 else attempt(weight, candidate)
        if isinstance(stored, Stored):
            return replace(stored, reason=reason)
        reason = stored
    return Stored(Precision.FLOAT32, weight, reason=reason)


def _float16(weight: np.ndarray) -> Stored | str:
    return why_not_float16(weight) or Stored(Precision.FLOAT16, weight.astype(np.float16))


def _integers(weight: np.ndarray, quantized: Quantized, axis: int = 0) -> Stored | str:
    if loses_small_weights(weight, quantized):
        return f"int{quantized.bits} would round most weights next to the largest ones to zero"
    data = quantized.values if quantized.bits == Precision.INT8 else pack_int4(quantized.values)
    return Stored(Precision(quantized.bits), data, quantized.scale.reshape(-1), axis)


def _channel_axes(weight: np.ndarray) -> list[int]:
    """Axes whose channels have enough weights for a scale each; else the shortest axis."""
    axes = [
        a for a, size in enumerate(weight.shape) if weight.size >= _MIN_WEIGHTS_PER_SCALE * size
    ]
    return axes or [int(np.argmin(weight.shape))]
