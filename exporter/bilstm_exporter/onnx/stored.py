"""Constants in fewer bits, and the operators that take them back to float32.

The operators are of the standard domain and read constants only, so onnxruntime folds them
when it loads the file: the weights are small on disk and as fast as ever in memory. (It folds no
DequantizeLinear, which it would run anew for every answer.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bilstm_exporter.onnx.builder import Builder
from bilstm_exporter.quantization.affine import quantize
from bilstm_exporter.recipes import Precision

# Numbers that share a scale in int4: 32 and a float16 scale make 4.5 bits a number.
BLOCK = 32
_ZERO_POINT = 8  # of the unsigned nibbles
_HALF_MAX = float(np.finfo(np.float16).max)


def fits_float16(weight: np.ndarray) -> bool:
    """Whether no number of a weight becomes infinite in float16."""
    return bool(np.abs(weight).max(initial=0) <= _HALF_MAX)


@dataclass(frozen=True)
class Parts:
    """A stored weight: constants with one row for each row of the weight, and how to join them.

    Attributes:
        precision: How it is stored.
        constants: ``[rows, ...]``; what decoding needs.
        columns: Of the weight ``[rows, columns]``.
    """

    precision: Precision
    constants: tuple[np.ndarray, ...]
    columns: int


def store_rows(weight: np.ndarray, precision: Precision) -> Parts:
    """Store a weight row by row.

    Args:
        weight: float32 ``[rows, columns]``; a row (or, in int4, a block of one) shares a scale.
        precision: FLOAT16, INT8 or INT4; FLOAT16 must fit.
    """
    if precision is Precision.FLOAT16:
        return Parts(precision, (weight.astype(np.float16),), weight.shape[1])
    if precision is Precision.INT8:
        stored = quantize(weight, (1,), half_scales=True)
        return Parts(precision, (stored.values, _halved(stored.scale)), weight.shape[1])
    rows, columns = weight.shape
    blocks = max(1, -(-columns // BLOCK))
    size = -(-columns // blocks)
    size += size % 2  # halves of whole bytes
    padded = np.zeros((rows, blocks * size), np.float32)
    padded[:, :columns] = weight
    stored = quantize(padded.reshape(rows, blocks, size), (2,), bits=4, half_scales=True)
    nibbles = (stored.values.astype(np.int16) + _ZERO_POINT).astype(np.uint8)
    # The first half of every block in the low nibbles, the second in the high ones.
    packed = nibbles[..., : size // 2] | (nibbles[..., size // 2 :] << 4)
    return Parts(precision, (packed, _halved(stored.scale)), columns)


def _halved(scale: np.ndarray) -> np.ndarray:
    """Scales in float16 if it holds them exactly."""
    half = np.minimum(scale, _HALF_MAX).astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), scale) else scale


def write_rows(build: Builder, parts: Parts, ids: ir.Value | None = None) -> ir.Value:
    """Write the operators that make a stored weight float32 again.

    Args:
        build: Takes the nodes.
        parts: The weight.
        ids: Take these rows only: integers of any shape.

    Returns:
        float32 ``[rows, columns]``, or the shape of ``ids`` and ``[columns]``.
    """
    if ids is not None and parts.precision is Precision.INT4:
        flat = _write(build, parts, build.op("Reshape", ids, build.constant([-1])))
        columns = build.constant([parts.columns])
        return build.op(
            "Reshape", flat, build.op("Concat", build.op("Shape", ids), columns, axis=0)
        )
    return _write(build, parts, ids)


def _write(build: Builder, parts: Parts, ids: ir.Value | None) -> ir.Value:
    def rows(constant: np.ndarray) -> ir.Value:
        value = build.constant(constant)
        return value if ids is None else build.op("Gather", value, ids, axis=0)

    def cast(value: ir.Value) -> ir.Value:
        return build.op("Cast", value, to=int(ir.DataType.FLOAT))

    first = rows(parts.constants[0])
    if parts.precision is Precision.FLOAT16:
        return cast(first)
    scale = rows(parts.constants[1])
    if parts.constants[1].dtype == np.float16:
        scale = cast(scale)
    if parts.precision is Precision.INT8:
        return build.op("Mul", cast(first), scale)
    return _write_int4(build, parts, first, scale)


def _write_int4(build: Builder, parts: Parts, packed: ir.Value, scale: ir.Value) -> ir.Value:
    four = build.constant(4, "uint8")
    # There is no operator on nibbles, but what is shifted out of a byte is gone.
    low = build.op(
        "BitShift", build.op("BitShift", packed, four, direction="LEFT"), four, direction="RIGHT"
    )
    high = build.op("BitShift", packed, four, direction="RIGHT")
    nibbles = build.op("Cast", build.op("Concat", low, high, axis=2), to=int(ir.DataType.FLOAT))
    centred = build.op("Sub", nibbles, build.constant(_ZERO_POINT, "float32"))
    blocks = build.op("Mul", centred, scale)
    _, count, half = parts.constants[0].shape
    flat = build.op("Reshape", blocks, build.constant([-1, 2 * count * half]))
    if 2 * count * half == parts.columns:
        return flat
    return build.op("Slice", flat, *(build.constant([value]) for value in (0, parts.columns, 1)))
