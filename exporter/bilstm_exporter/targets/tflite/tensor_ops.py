"""Operations on tensors along time, in the forms whose shapes LiteRT knows before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_dynamic_update_slice


def time_major(tensor: Any) -> Any:
    """Swap batch and time."""
    return tf.transpose(tensor, [1, 0, *range(2, len(tensor.shape))])


def reversed_in_time(outputs: Any) -> Any:
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


# Any mask without a loop or a branch: valid steps move to the front, their outputs move back. The
# indices are integers, in operators that full-integer files and microcontrollers have. The
# recurrence runs over the valid steps first, then over steps whose outputs nothing reads.


class ValidSteps:
    """Where the valid steps of a mask are, and where their outputs belong.

    Args:
        mask: ``[batch, time] bool`` in the order in which steps are processed; fixed shape.
    """

    def __init__(self, mask: Any) -> None:
        self._batch, self._time = mask.shape
        self._valid = tf.cast(mask, tf.int32)
        # How many steps are valid up to and with this one.
        self._count = tf.cumsum(self._valid, axis=1)

    def to_front(self, sequences: Any) -> Any:
        """``[batch, time, ...]`` with every row's valid steps first, in their order."""
        steps = tf.reshape(tf.range(self._time), [1, self._time, 1])
        before = tf.cast(tf.expand_dims(self._count, 1) <= steps, tf.int32)
        # As many steps are passed before the j-th valid one as have counted at most j.
        source = tf.minimum(tf.reduce_sum(before, axis=2), self._time - 1)
        return tf.gather(sequences, source, batch_dims=1)

    def back(self, outputs: Any, *, zeros: bool) -> Any:
        """Outputs ``[batch, time, ...]`` of the steps in front, each where its step was.

        Args:
            outputs: In the order of ``to_front``.
            zeros: Whether a masked step gives zeros; otherwise it repeats the output before
                it, zeros at first.
        """
        index = self._count * self._valid if zeros else self._count
        return tf.gather(_after(tf.zeros_like(outputs[:, :1]), outputs), index, batch_dims=1)

    def final(self, first: Any, states: Any) -> Any:
        """The state ``[batch, ...]`` after the last valid step, or the first one without any."""
        last = self._count[:, self._time - 1 :]
        found = tf.gather(_after(tf.expand_dims(first, 1), states), last, batch_dims=1)
        return tf.squeeze(found, axis=1)


def _after(first: Any, steps: Any) -> Any:
    parts: Sequence[Any] = (first, steps)
    return tf.concat(parts, axis=1)
