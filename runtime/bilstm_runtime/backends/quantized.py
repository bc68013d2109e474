"""Floats as the integers of a file whose inputs or outputs are quantized, and back."""

from __future__ import annotations

import numpy as np

from bilstm_runtime.spec import AnyArray, Quantization, integer_limits


def quantize(values: AnyArray, quantization: Quantization | None) -> AnyArray:
    """Quantize floats, if this input is quantized; see `docs/manifest.md`."""
    if quantization is None:
        return values
    low, high = integer_limits(quantization.dtype)
    with np.errstate(over="ignore"):  # infinity is clipped like any large value
        steps = np.rint(values / np.float32(quantization.scale)) + quantization.zero_point
    integers: AnyArray = np.clip(steps, low, high).astype(quantization.dtype)
    return integers


def dequantize(stored: AnyArray, quantization: Quantization | None) -> AnyArray:
    """Dequantize integers, if this output is quantized."""
    if quantization is None:
        return stored
    return (stored.astype(np.float32) - np.float32(quantization.zero_point)) * np.float32(
        quantization.scale
    )
