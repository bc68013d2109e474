"""Symmetric quantization of weights: one scale per channel, row or block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bilstm_exporter.quantization.recipes import Precision

# Scales to try, as fractions of the scale that represents the largest weight. In 4 bits, clipping
# a few large weights causes less error than the coarser steps needed to represent them.
_SHRINK = {8: (1.0,), 4: tuple(np.linspace(1.0, 0.6, 17))}
# Twice the smallest normal float16, because scales are reduced; subnormals lose precision.
_MIN_HALF = 2 * float(np.finfo(np.float16).tiny)
_MAX_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Quantized:
    """Integers and their scales; a weight is about ``values * scale``.

    Attributes:
        values: int8, the shape of the weight.
        scale: float32, the same rank, with size 1 on every axis along which a scale is shared.
        bits: 8 or 4: values are within ``±(2**(bits-1) - 1)``.
    """

    values: np.ndarray
    scale: np.ndarray
    bits: int

    @property
    def dequantized(self) -> np.ndarray:
        """The represented values, float32."""
        return np.asarray(self.values * self.scale, np.float32)


def quantize(
    weight: np.ndarray,
    axes: tuple[int, ...],
    bits: int = 8,
    *,
    float16_scales: bool = False,
    bfloat16_scales: bool = False,
) -> Quantized:
    """Quantize symmetrically.

    An int8 scale represents the largest weight; an int4 scale minimizes the squared error.

    Args:
        weight: float32, finite.
        axes: The axes along which a scale is shared: all but the channel axis.
        bits: 8 or 4.
        float16_scales: Choose scales exact in float16, if all are within its normal range.
        bfloat16_scales: Choose scales exact in bfloat16.

    Returns:
        The integers and scales; weights of zeros give integers of zeros and a scale of 1.
    """
    max_value = 2 ** (bits - 1) - 1
    weight = np.asarray(weight, np.float32)
    largest = np.abs(weight).max(axis=axes, keepdims=True, initial=0).astype(np.float64) / max_value
    # A subnormal float32 scale is imprecise, and such weights are practically zero.
    largest = np.where(largest < np.finfo(np.float32).tiny, 1.0, largest)
    float16_scales &= bool((largest >= _MIN_HALF).all() and (largest <= _MAX_HALF).all())
    scales, errors = [], []
    for shrink in _SHRINK[bits]:
        scale = (largest * shrink).astype(np.float16 if float16_scales else np.float32)
        scale = scale.astype(np.float32)
        scales.append(_to_bfloat16(scale) if bfloat16_scales else scale)
        error = _round(weight, scales[-1], max_value) * scales[-1] - weight
        errors.append(np.square(error).sum(axis=axes, keepdims=True))
    best = np.argmin(errors, axis=0)[np.newaxis]
    scale = np.take_along_axis(np.asarray(scales), best, axis=0)[0]
    return Quantized(_round(weight, scale, max_value).astype(np.int8), scale, bits)


def quantize_with_scale(weight: np.ndarray, scale: np.ndarray) -> Quantized:
    """Quantize to int8 with the given scales; each must cover its channel's largest weight."""
    return Quantized(_round(np.asarray(weight, np.float32), scale, 127).astype(np.int8), scale, 8)


def quantize_multiplier(weight: np.ndarray, *, per_channel: bool = True) -> Quantized:
    """Quantize a matrix whose products with uint8 are summed in pairs in 16 bits.

    Processors with AVX2 but without VNNI use ``vpmaddubsw``: it adds two adjacent products and
    saturates the sum at 32767 without an error. The scales are chosen so that no pair saturates for
    any other factor. Every processor then gives the same sums.

    Args:
        weight: float32 ``[inputs, channels]``, finite; pairs are adjacent along ``inputs``.
        per_channel: Whether each channel has its own scale, instead of one for the matrix.

    Returns:
        int8 integers and the scale ``[1, channels]`` or ``[1, 1]``. Two adjacent integers of one
        sign add up to at most 128.
    """
    weight = np.asarray(weight, np.float32)
    padded = np.concatenate([weight, np.zeros((len(weight) % 2, weight.shape[1]), np.float32)])
    pairs = padded.reshape(-1, 2, weight.shape[1])
    pair_sums = np.maximum(np.maximum(pairs, 0).sum(axis=1), np.maximum(-pairs, 0).sum(axis=1))
    axes = 0 if per_channel else (0, 1)
    largest = pair_sums.max(axis=axes, keepdims=True, initial=0).astype(np.float64) / 127
    largest = np.where(largest < np.finfo(np.float32).tiny, 1.0, largest)
    # float16 halves the size of the scales; rounding up keeps every pair in range.
    if (largest >= _MIN_HALF).all() and (largest <= _MAX_HALF / 2).all():
        half = largest.astype(np.float16)
        largest = np.where(half < largest, np.nextafter(half, np.float16(np.inf)), half)
    scale = np.asarray(largest, np.float32)
    return Quantized(_round(weight, scale, 127).astype(np.int8), scale, 8)


def squared_error(weight: np.ndarray, quantized: Quantized) -> float:
    """The squared quantization error, summed over all elements of a weight."""
    return float(np.square(quantized.dequantized - weight, dtype=np.float64).sum())


def _to_bfloat16(scale: np.ndarray) -> np.ndarray:
    """Round float32 to the nearest bfloat16 value, half up in magnitude."""
    bits = scale.view(np.uint32).astype(np.uint64)
    return ((bits + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _round(weight: np.ndarray, scale: np.ndarray, max_value: int) -> np.ndarray:
    return np.asarray(np.clip(np.rint(weight / scale), -max_value, max_value), np.float32)


def as_float16_if_exact(scale: np.ndarray) -> np.ndarray:
    """Convert scales to float16 if that is exact; otherwise return them unchanged."""
    half = np.minimum(scale, _MAX_HALF).astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), scale) else scale


def pack_int4(values: np.ndarray) -> np.ndarray:
    """Pack two int4 values per byte, the first in the low half, as TFLite does.

    Args:
        values: int8 between -8 and 7, any shape.

    Returns:
        uint8 ``[ceil(size / 2)]``.
    """
    flat = values.reshape(-1).astype(np.uint8) & 0x0F
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return flat[0::2] | (flat[1::2] << 4)


# Largest fraction of a channel's nonzero weights that may be quantized to zero, and the number of
# nonzero weights from which this is checked.
_MAX_LOST_FRACTION, _MIN_NONZERO = 0.75, 8
# Largest root mean square error of a matrix with one scale, relative to that of the weights.
# In trained LSTMs it is 0.006 with a scale per channel, 0.006 to 0.022 with one scale, and about
# 0.1 in int4.
ONE_SCALE_ERROR = 0.025
# The relative error of a normal float16 is 2**-11; twice that is allowed for the largest weight.
_HALF_ERROR = 2.0**-10


def lowest_storable_precision(groups: np.ndarray, precision: Precision) -> tuple[Precision, str]:
    """The requested precision, or the next higher one that can represent a weight.

    Args:
        groups: ``[groups, elements]``; in integers the elements of a group share a scale.
        precision: The requested precision.

    Returns:
        The precision, and the reason if it is not the requested one, or "".
    """
    reason = ""
    for candidate in sorted(item for item in Precision if item >= precision):
        problem = "" if candidate is Precision.FLOAT32 else _why_not(groups, candidate)
        if not problem:
            return candidate, reason
        reason = problem
    return Precision.FLOAT32, reason


def loses_small_weights(weight: np.ndarray, quantized: Quantized) -> bool:
    """Whether a large weight causes most weights with the same scale to become zero."""
    shared = tuple(axis for axis, size in enumerate(quantized.scale.shape) if size == 1)
    nonzero = weight != 0
    count = nonzero.sum(axis=shared)
    lost = (nonzero & (quantized.values == 0)).sum(axis=shared)
    return bool(((count >= _MIN_NONZERO) & (lost > _MAX_LOST_FRACTION * count)).any())


def one_scale_suffices(weight: np.ndarray, quantized: Quantized) -> bool:
    """Whether a matrix ``[channels, inputs]`` needs no scale per channel.

    Args:
        weight: The matrix.
        quantized: The matrix quantized with one scale.
    """
    per_channel = np.broadcast_to(quantized.scale, (len(weight), 1))
    if loses_small_weights(weight, Quantized(quantized.values, per_channel, quantized.bits)):
        return False
    size = float(np.square(weight, dtype=np.float64).sum())
    return squared_error(weight, quantized) <= ONE_SCALE_ERROR**2 * size


def why_not_float16(weight: np.ndarray) -> str:
    """The reason why float16 cannot represent a weight, or ""."""
    largest = float(np.abs(weight).max(initial=0))
    if largest > float(np.finfo(np.float16).max):
        return "a weight is outside float16's range"
    if float(np.abs(weight.astype(np.float16) - weight).max(initial=0)) > _HALF_ERROR * largest:
        return "its weights are too small for float16"
    return ""


def _why_not(groups: np.ndarray, precision: Precision) -> str:
    if not np.isfinite(groups).all():
        return "it contains NaN or infinity"
    if precision is Precision.FLOAT16:
        return why_not_float16(groups)
    if loses_small_weights(groups, quantize(groups, (1,), int(precision))):
        return f"{precision.label} would round most weights next to the largest ones to zero"
    return ""
