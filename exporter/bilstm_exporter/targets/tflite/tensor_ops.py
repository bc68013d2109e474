"""Tensor operations in forms that LiteRT computes exactly, with shapes that it knows in advance."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_dynamic_update_slice

from bilstm_exporter.ir.traversal import before

# Operators whose result may lie in the memory of their input.
_SAME_BUFFER = frozenset({"EnsureShape", "ExpandDims", "Identity", "Reshape", "Squeeze"})
# XNNPACK's sigmoid (seen in LiteRT 2.3 on x86) gives NaN beyond 1e26. A float32 sigmoid is 0 or 1,
# to 4e-44, beyond 100.
_SATURATING = 100.0
_LARGE = 1e8
_is_limited = ContextVar("the inputs of sigmoids are limited", default=False)


def limited_sigmoid(x: Any) -> Any:
    """Write the sigmoid of a tensor, which may hold any float32; None if it is limited already."""
    if x.dtype != tf.float32 or _is_limited.get():
        return None
    with limited_sigmoids():
        return tf.sigmoid(_limited(x, _SATURATING))


@contextlib.contextmanager
def limited_sigmoids() -> Iterator[None]:
    """State that the inputs of all sigmoids that are written in this context are below 1e26."""
    token = _is_limited.set(True)
    try:
        yield
    finally:
        _is_limited.reset(token)


def limited_gates(projected: Any, largest_product: float) -> Any:
    """Limit the input projection of gates that saturate, for all steps together.

    Args:
        projected: The projection, of any shape.
        largest_product: The largest hidden projection, which is added to it in each step. The sum
            still saturates if the projection is limited.
    """
    return _limited(projected, max(_LARGE, 4 * largest_product))


def _limited(x: Any, limit: float) -> Any:
    return tf.maximum(tf.minimum(x, tf.constant(limit, x.dtype)), tf.constant(-limit, x.dtype))


def time_major(tensor: Any) -> Any:
    """Swap batch and time."""
    return tf.transpose(tensor, [1, 0, *range(2, len(tensor.shape))])


def reverse_time(outputs: Any) -> Any:
    """Reverse ``[batch, time, ...]`` in time; None stays None."""
    return None if outputs is None else tf.reverse(outputs, [1])


def write_rows(buffer: Any, block: Any, start: Any) -> Any:
    """Write a block of rows into a buffer ``[rows, ...]`` at row ``start``; None stays None."""
    if buffer is None:
        return None
    indices = tf.stack([start, *[0] * (len(buffer.shape) - 1)])
    return xla_dynamic_update_slice(buffer, block, indices)


def loop_results(results: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
    """Copy each result of a loop's body that is another variable, such as the state before.

    LiteRT moves the results to the variables one by one, so that such a variable would have its new
    value already.

    Args:
        results: The results of the body, in the order of the variables.
        variables: The inputs of the body.
    """
    copies = []
    for place, result in enumerate(results):
        source = before(tf.convert_to_tensor(result), _SAME_BUFFER)
        if any(source is variable for n, variable in enumerate(variables) if n != place):
            # Not an Identity or Reshape, which the converter or LiteRT would not compute.
            result = tf.gather(tf.expand_dims(result, 0), 0)  # noqa: PLW2901
        copies.append(result)
    return copies


def leading_elements(steps: Any, shape: Sequence[int], index: Any = slice(None)) -> Any:
    """The leading ``[time, batch, *shape]`` of ``[time, batch, ...]``, or None if too small."""
    sizes = list(steps.shape[2:])
    if len(sizes) != len(shape) or not all(
        size is not None and size >= count for size, count in zip(sizes, shape, strict=True)
    ):
        return None
    return steps[(index, slice(None), *(slice(size) for size in shape))]


def select(mask: Any, valid: Any, masked: Any) -> Any:
    """Select ``valid`` or ``masked`` by a bool mask of the leading axes."""
    while len(mask.shape) < len(valid.shape):
        mask = tf.expand_dims(mask, -1)
    return tf.where(mask, valid, masked)


# Arbitrary masks without a loop or branch: valid steps are moved to the front, and their outputs
# are moved back. The integer operators are supported by int8-full files and microcontrollers. The
# recurrence processes the valid steps first, then steps whose outputs are unused.


class ValidSteps:
    """Moves the valid steps of a mask to the front, and their outputs back.

    Args:
        mask: ``[batch, time] bool`` in processing order; fixed shape.
    """

    def __init__(self, mask: Any) -> None:
        self._batch, self._time = mask.shape
        self._valid = tf.cast(mask, tf.int32)
        # Number of valid steps up to and including each step.
        self._count = tf.cumsum(self._valid, axis=1)

    def to_front(self, sequences: Any) -> Any:
        """``[batch, time, ...]`` with every row's valid steps first, in their order."""
        steps = tf.reshape(tf.range(self._time), [1, self._time, 1])
        before = tf.cast(tf.expand_dims(self._count, 1) <= steps, tf.int32)
        # The index of valid step j is the number of steps whose count is at most j.
        source = tf.minimum(tf.reduce_sum(before, axis=2), self._time - 1)
        return tf.gather(sequences, source, batch_dims=1)

    def back(self, outputs: Any, *, zeros: bool) -> Any:
        """Move outputs ``[batch, time, ...]`` back to the positions of their steps.

        Args:
            outputs: Outputs in the order of ``to_front``.
            zeros: Whether a masked step outputs zeros. If False, it repeats the previous output
                (initially zeros).
        """
        index = self._count * self._valid if zeros else self._count
        return tf.gather(_prepend(tf.zeros_like(outputs[:, :1]), outputs), index, batch_dims=1)

    def final(self, first: Any, states: Any) -> Any:
        """The state ``[batch, ...]`` after the last valid step, or ``first`` if there is none."""
        last = self._count[:, self._time - 1 :]
        state = tf.gather(_prepend(tf.expand_dims(first, 1), states), last, batch_dims=1)
        return tf.squeeze(state, axis=1)


def _prepend(first: Any, steps: Any) -> Any:
    parts: Sequence[Any] = (first, steps)
    return tf.concat(parts, axis=1)
