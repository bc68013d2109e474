"""Symmetric quantization of weights: one scale a channel, a row or a block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bilstm_exporter.quantization.recipes import Precision

# Scales tried, as parts of the one that just holds the largest weight. With few levels, clipping a
# few large weights costs less than the coarser steps that would represent them.
_SHRINK = {8: (1.0,), 4: tuple(np.linspace(1.0, 0.6, 17))}
# Twice the least normal float16, as scales are made smaller; below, it loses digits.
_MIN_HALF = 2 * float(np.finfo(np.float16).tiny)
_MAX_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Quantized:
    """Integers and their scales; a weight is about ``values * scale``.

    Attributes:
        values: int8, the shape of the weight.
        scale: float32, the same rank, with size 1 on every axis that shares a scale.
        bits: 8 or 4: values are within ``±(2**(bits-1) - 1)``.
    """

    values: np.ndarray
    scale: np.ndarray
    bits: int

    @property
    def dequantized(self) -> np.ndarray:
        """What the integers stand for, float32."""
        return np.asarray(self.values * self.scale, np.float32)


def quantize(
    weight: np.ndarray,
    axes: tuple[int, ...],
    bits: int = 8,
    *,
    half_scales: bool = False,
    short_scales: bool = False,
) -> Quantized:
    """Quantize symmetrically.

    To int8 with the scale that just holds the largest weight, to int4 with the one that gives the
    least squared error.

    Args:
        weight: float32, finite.
        axes: Those that share a scale: all but the channels.
        bits: 8 or 4.
        half_scales: Choose scales that float16 holds exactly, if it can hold all of them.
        short_scales: Choose scales that bfloat16 holds exactly.

    Returns:
        The integers and scales; all zeros, with a scale of 1, where the weights are zeros.
    """
    most = 2 ** (bits - 1) - 1
    weight = np.asarray(weight, np.float32)
    largest = np.abs(weight).max(axis=axes, keepdims=True, initial=0).astype(np.float64) / most
    # Below the least normal float32 a scale is imprecise, and such weights are as good as zero.
    largest = np.where(largest < np.finfo(np.float32).tiny, 1.0, largest)
    half_scales &= bool((largest >= _MIN_HALF).all() and (largest <= _MAX_HALF).all())
    scales, errors = [], []
    for shrink in _SHRINK[bits]:
        scale = (largest * shrink).astype(np.float16 if half_scales else np.float32)
        scale = scale.astype(np.float32)
        scales.append(_short(scale) if short_scales else scale)
        off = _round(weight, scales[-1], most) * scales[-1] - weight
        errors.append(np.square(off).sum(axis=axes, keepdims=True))
    least = np.argmin(errors, axis=0)[np.newaxis]
    scale = np.take_along_axis(np.asarray(scales), least, axis=0)[0]
    return Quantized(_round(weight, scale, most).astype(np.int8), scale, bits)


def quantize_at(weight: np.ndarray, scale: np.ndarray) -> Quantized:
    """Quantize to int8 with scales that are given, none too small for its channel."""
    return Quantized(_round(np.asarray(weight, np.float32), scale, 127).astype(np.int8), scale, 8)


def quantize_multiplier(weight: np.ndarray, *, per_channel: bool = True) -> Quantized:
    """Quantize a matrix whose products with uint8 are summed in pairs in 16 bits.

    Processors with AVX2 but without VNNI multiply so (``vpmaddubsw``): they add two neighbours'
    products and cut the sum off at 32767, without a word. Scales are chosen so that no pair reaches
    that, whatever the other factor is, and every processor gives the same sums.

    Args:
        weight: float32 ``[inputs, channels]``, finite; neighbours are along ``inputs``.
        per_channel: Whether each channel has a scale of its own; otherwise one serves all.

    Returns:
        int8 integers, of which two neighbours of one sign add up to 128 at most, and the scale
        ``[1, channels]`` or ``[1, 1]``.
    """
    weight = np.asarray(weight, np.float32)
    padded = np.concatenate([weight, np.zeros((len(weight) % 2, weight.shape[1]), np.float32)])
    pairs = padded.reshape(-1, 2, weight.shape[1])
    together = np.maximum(np.maximum(pairs, 0).sum(axis=1), np.maximum(-pairs, 0).sum(axis=1))
    axes = 0 if per_channel else (0, 1)
    largest = together.max(axis=axes, keepdims=True, initial=0).astype(np.float64) / 127
    largest = np.where(largest < np.finfo(np.float32).tiny, 1.0, largest)
    # A scale that float16 holds takes half the place; rounded up, it still holds every pair.
    if (largest >= _MIN_HALF).all() and (largest <= _MAX_HALF / 2).all():
        half = largest.astype(np.float16)
        largest = np.where(half < largest, np.nextafter(half, np.float16(np.inf)), half)
    scale = np.asarray(largest, np.float32)
    return Quantized(_round(weight, scale, 127).astype(np.int8), scale, 8)


def squared_error(weight: np.ndarray, found: Quantized) -> float:
    """What quantizing a weight costs, summed over all its numbers."""
    return float(np.square(found.dequantized - weight, dtype=np.float64).sum())


def _short(scale: np.ndarray) -> np.ndarray:
    """The nearest numbers of eight significant bits, of which float32 has three times as many."""
    bits = scale.view(np.uint32).astype(np.uint64)
    return ((bits + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _round(weight: np.ndarray, scale: np.ndarray, most: int) -> np.ndarray:
    return np.asarray(np.clip(np.rint(weight / scale), -most, most), np.float32)


def as_halves(scale: np.ndarray) -> np.ndarray:
    """Scales in float16 if it holds them exactly, else as they are."""
    half = np.minimum(scale, _MAX_HALF).astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), scale) else scale


def pack_int4(values: np.ndarray) -> np.ndarray:
    """Two integers a byte, the first in the low half: how TFLite packs int4.

    Args:
        values: int8 within -8 and 7, any shape.

    Returns:
        uint8 ``[ceil(size / 2)]``.
    """
    flat = values.reshape(-1).astype(np.uint8) & 0x0F
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return flat[0::2] | (flat[1::2] << 4)


# Part of a channel's weights that may vanish beside its largest one, and of how many at least.
_LOST_PART, _LOST_OF = 0.75, 8
# Root mean square of the error that one scale may leave in a matrix, as a part of the weights' own.
# Scales of channels leave 0.006 in trained LSTMs, one scale 0.006 to 0.022, int4 some 0.1.
ONE_SCALE_ERROR = 0.025
# A float16 is good to 2**-11 of its value; to twice that of the largest weight if it is normal.
_HALF_ERROR = 2.0**-10


def lowest_storable_precision(groups: np.ndarray, precision: Precision) -> tuple[Precision, str]:
    """The precision to store a weight in: the one wanted, or the next that can hold it.

    Args:
        groups: ``[groups, numbers]``; the numbers of a group share a scale in integers.
        precision: Which is wanted.

    Returns:
        The precision, and why it is not the one wanted, or "".
    """
    reason = ""
    for step in sorted(step for step in Precision if step >= precision):
        why_not = "" if step is Precision.FLOAT32 else _why_not(groups, step)
        if not why_not:
            return step, reason
        reason = why_not
    return Precision.FLOAT32, reason


def lost(weight: np.ndarray, found: Quantized) -> bool:
    """Whether one large number makes most of those that share its scale zeros."""
    shared = tuple(axis for axis, size in enumerate(found.scale.shape) if size == 1)
    there = weight != 0
    count = there.sum(axis=shared)
    gone = (there & (found.values == 0)).sum(axis=shared)
    return bool(((count >= _LOST_OF) & (gone > _LOST_PART * count)).any())


def serves_all(weight: np.ndarray, found: Quantized) -> bool:
    """Whether one scale serves a matrix ``[channels, inputs]``, or scales of channels are worth it.

    Args:
        weight: The matrix.
        found: It under one scale.
    """
    each = np.broadcast_to(found.scale, (len(weight), 1))
    if lost(weight, Quantized(found.values, each, found.bits)):
        return False
    size = float(np.square(weight, dtype=np.float64).sum())
    return squared_error(weight, found) <= ONE_SCALE_ERROR**2 * size


def why_not_float16(weight: np.ndarray) -> str:
    """Why float16 cannot hold a weight; "" if it can."""
    largest = float(np.abs(weight).max(initial=0))
    if largest > float(np.finfo(np.float16).max):
        return "a number is beyond float16's range"
    if float(np.abs(weight.astype(np.float16) - weight).max(initial=0)) > _HALF_ERROR * largest:
        return "its numbers are too small for float16"
    return ""


def _why_not(groups: np.ndarray, precision: Precision) -> str:
    if not np.isfinite(groups).all():
        return "it has NaN or infinity"
    if precision is Precision.FLOAT16:
        return why_not_float16(groups)
    if lost(groups, quantize(groups, (1,), int(precision))):
        return f"beside its largest numbers, {precision.label} would lose the others"
    return ""
