"""Operations on tensors along time, in the forms whose shapes LiteRT knows before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

# No public name; the converter turns it into the builtin DYNAMIC_UPDATE_SLICE,
# where tensor_scatter_nd_update becomes eight operators over the whole buffer.
from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_dynamic_update_slice


def time_major(tensor: Any) -> Any:
    """Swap batch and time."""
    return tf.transpose(tensor, [1, 0, *range(2, len(tensor.shape))])


def turned(outputs: Any) -> Any:
    """``[batch, time, ...]`` in the opposite order of time; None where there is nothing."""
    return None if outputs is None else tf.reverse(outputs, [1])


def put(buffer: Any, block: Any, start: Any) -> Any:
    """The buffer ``[rows, ...]`` with a block of rows at a position; None where there is none."""
    if buffer is None:
        return None
    indices = tf.stack([start, *[0] * (len(buffer.shape) - 1)])
    return xla_dynamic_update_slice(buffer, block, indices)


def part_of(steps: Any, shape: Sequence[int], index: Any = slice(None)) -> Any:
    """The first numbers ``[time, batch, *shape]`` of ``[time, batch, ...]``, or None if too few."""
    sizes = list(steps.shape[2:])
    if len(sizes) != len(shape) or not all(
        size is not None and size >= wanted for size, wanted in zip(sizes, shape, strict=True)
    ):
        return None
    return steps[(index, slice(None), *(slice(size) for size in shape))]


def select(mask: Any, valid: Any, masked: Any) -> Any:
    """Choose by a bool mask of the leading axes."""
    while len(mask.shape) < len(valid.shape):
        mask = tf.expand_dims(mask, -1)
    return tf.where(mask, valid, masked)
