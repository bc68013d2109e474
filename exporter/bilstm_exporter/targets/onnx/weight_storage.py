"""Constants in fewer bits, and the operators that take them back to float32.

The operators are of the standard domain and read constants only, so onnxruntime folds them
when it loads the file: the weights are small on disk and as fast as ever in memory. (It folds no
DequantizeLinear, which it would run anew for every answer.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bilstm_exporter.quantization.affine import as_halves, quantize
from bilstm_exporter.quantization.recipes import Precision
from bilstm_exporter.targets.onnx.builder import Builder

# Numbers that share a scale in int4: 32 and a float16 scale make 4.5 bits a number.
BLOCK = 32
_ZERO_POINT = 8  # of the unsigned nibbles
_HALF_MAX = float(np.finfo(np.float16).max)


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
        return Parts(precision, (stored.values, as_halves(stored.scale)), weight.shape[1])
    rows, columns = weight.shape
    blocks, size = _blocks(columns)
    padded = np.zeros((rows, blocks * size), np.float32)
    padded[:, :columns] = weight
    stored = quantize(padded.reshape(rows, blocks, size), (2,), bits=4, half_scales=True)
    nibbles = (stored.values.astype(np.int16) + _ZERO_POINT).astype(np.uint8)
    # The first half of every block in the low nibbles, the second in the high ones.
    packed = nibbles[..., : size // 2] | (nibbles[..., size // 2 :] << 4)
    return Parts(precision, (packed, as_halves(stored.scale)), columns)


def groups_of(weight: np.ndarray, axis: int, precision: Precision) -> np.ndarray:
    """``[groups, numbers]``: those that share a scale when a weight is stored by `store`."""
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    if precision is not Precision.INT4:
        return rows
    blocks, size = _blocks(rows.shape[1])
    padded = np.zeros((len(rows), blocks * size), np.float32)
    padded[:, : rows.shape[1]] = rows
    return padded.reshape(-1, size)


def _blocks(columns: int) -> tuple[int, int]:
    """How many blocks a row has, and of how many numbers: halves of whole bytes."""
    blocks = max(1, -(-columns // BLOCK))
    size = -(-columns // blocks)
    return blocks, size + size % 2


def store(weight: np.ndarray, axis: int, precision: Precision) -> Parts:
    """Store a weight of any rank, channel by channel; see `store_rows`."""
    channels_first = np.moveaxis(weight, axis, 0)
    return store_rows(channels_first.reshape(len(channels_first), -1), precision)


def write_weight(build: Builder, parts: Parts, shape: tuple[int, ...], axis: int) -> ir.Value:
    """Write the operators that make a weight stored by `store` float32 again.

    Args:
        build: Takes the nodes.
        parts: The weight.
        shape: Of the weight.
        axis: Of its channels.
    """
    channels = shape[axis]
    rest = (*shape[:axis], *shape[axis + 1 :])
    # Channels come first in what is stored; axes of size 1 before them make no difference.
    moved = int(np.prod(shape[:axis])) > 1
    final = (channels, *rest) if moved else shape
    whole = _restored(build, parts, build.constant)
    if parts.precision is Precision.INT4:
        whole = _cut(build, parts, whole)
    if parts.precision is Precision.INT4 or final != (channels, parts.columns):
        whole = build.op("Reshape", whole, build.constant(final, "int64"))
    if not moved:
        return whole
    return build.op("Transpose", whole, perm=[*range(1, axis + 1), 0, *range(axis + 1, len(shape))])


def write_rows(build: Builder, parts: Parts, ids: ir.Value) -> ir.Value:
    """Write the operators that take rows of a stored table, and make those float32 again.

    Args:
        build: Takes the nodes.
        parts: The table ``[rows, columns]``.
        ids: Which rows: integers of any shape.

    Returns:
        The shape of ``ids``, then ``[columns]``.
    """
    shape = None
    if parts.precision is Precision.INT4:  # whose blocks are an axis of their own
        columns = build.constant([parts.columns])
        shape = build.op("Concat", build.op("Shape", ids), columns, axis=0)
        ids = build.op("Reshape", ids, build.constant([-1]))
    rows = _restored(
        build, parts, lambda constant: build.op("Gather", build.constant(constant), ids, axis=0)
    )
    return rows if shape is None else build.op("Reshape", _cut(build, parts, rows), shape)


def write_scale(build: Builder, scale: np.ndarray) -> ir.Value:
    """A scale in float32, stored in float16 where that is exact."""
    half = as_halves(scale)
    stored = build.constant(half)
    if half.dtype == np.float32:
        return stored
    return build.op("Cast", stored, to=int(ir.DataType.FLOAT))


def _restored(build: Builder, parts: Parts, read: Callable[[np.ndarray], ir.Value]) -> ir.Value:
    """What is read of a stored weight, in float32; int4 in blocks ``[rows, blocks, numbers]``."""

    def cast(value: ir.Value) -> ir.Value:
        return build.op("Cast", value, to=int(ir.DataType.FLOAT))

    stored = read(parts.constants[0])
    if parts.precision is Precision.FLOAT16:
        return cast(stored)
    if parts.precision is Precision.INT4:
        # There is no operator on nibbles.
        low = build.op("Mod", stored, build.constant(16, "uint8"))
        high = build.op("BitShift", stored, build.constant(4, "uint8"), direction="RIGHT")
        stored = build.op("Concat", low, high, axis=2)
    whole = cast(stored)
    if parts.precision is Precision.INT4:
        whole = build.op("Sub", whole, build.constant(_ZERO_POINT, "float32"))
    scale = read(parts.constants[1])
    return build.op("Mul", whole, cast(scale) if parts.constants[1].dtype == np.float16 else scale)


def _cut(build: Builder, parts: Parts, blocks: ir.Value) -> ir.Value:
    """Leave out what fills up the last block."""
    _, count, half = parts.constants[0].shape
    if 2 * count * half == parts.columns:
        return blocks
    flat = build.op("Reshape", blocks, build.constant([-1, 2 * count * half]))
    return build.op("Slice", flat, *(build.constant([value]) for value in (0, parts.columns, 1)))
