"""Symmetric quantization of weights: one scale a channel, a row or a block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Scales tried, as parts of the one that just holds the largest weight. With few levels, cutting
# off a few large weights costs less than the coarser steps that would hold them.
_SHRINK = {8: (1.0,), 4: tuple(np.linspace(1.0, 0.6, 17))}


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


def quantize(weight: np.ndarray, axes: tuple[int, ...], bits: int = 8) -> Quantized:
    """Quantize with the scale that gives the least squared error.

    Args:
        weight: float32, finite.
        axes: Those that share a scale: all but the channels.
        bits: 8 or 4.

    Returns:
        The integers and scales; all zeros, with a scale of 1, where the weights are zeros.
    """
    most = 2 ** (bits - 1) - 1
    weight = np.asarray(weight, np.float32)
    largest = np.abs(weight).max(axis=axes, keepdims=True, initial=0).astype(np.float64) / most
    # Below the least normal float32 a scale is imprecise, and such weights are as good as zero.
    largest = np.where(largest < np.finfo(np.float32).tiny, 1.0, largest)
    best_scale = best_error = None
    for shrink in _SHRINK[bits]:
        scale = (largest * shrink).astype(np.float32)
        error = np.square(_round(weight, scale, most) * scale - weight).sum(axis=axes, keepdims=True)
        if best_scale is None or best_error is None:
            best_scale, best_error = scale, error
        else:
            better = error < best_error
            best_scale = np.where(better, scale, best_scale)
            best_error = np.where(better, error, best_error)
    if best_scale is None:  # there is always a first
        best_scale = largest.astype(np.float32)
    return Quantized(_round(weight, best_scale, most).astype(np.int8), best_scale, bits)


def _round(weight: np.ndarray, scale: np.ndarray, most: int) -> np.ndarray:
    return np.clip(np.rint(weight / scale), -most, most).astype(np.float32)


def pack_int4(values: np.ndarray) -> np.ndarray:
    """Two integers a byte, the first in the low half: how ONNX and TFLite both pack int4.

    Args:
        values: int8 within -8 and 7, any shape.

    Returns:
        uint8 ``[ceil(size / 2)]``.
    """
    flat = values.reshape(-1).astype(np.uint8) & 0x0F
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return flat[0::2] | (flat[1::2] << 4)
