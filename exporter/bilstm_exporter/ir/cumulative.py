"""Cumulative operators of any associative function, of which no format has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def cumulative(  # noqa: PLR0913 - as in TensorFlow, and the function
    x: Any,
    axis: Any,
    exclusive: bool,  # noqa: FBT001 - as in TensorFlow
    reverse: bool,  # noqa: FBT001
    *,
    combine: Callable[[Any, Any], Any],
    neutral: Any,
) -> Any:
    """Combine each step with the results 1, 2, 4, ... steps before, until every step has all.

    Args:
        x: The tensor.
        axis: The axis, a tensor.
        exclusive: Whether a step is left out of its own result.
        reverse: Whether steps are combined with those that follow.
        combine: An associative function of two tensors.
        neutral: The number that it combines with any other one to that one.

    Returns:
        A tensor of the shape of ``x``; None if the axis or the rank is not known.
    """
    place = tf.get_static_value(axis)
    if place is None or x.shape.rank is None:
        return None
    place = int(place) % x.shape.rank
    whole = [[0, 0]] * x.shape.rank
    size = x.shape[place] if x.shape[place] is not None else tf.shape(x)[place]

    def shifted(steps: Any, values: Any) -> Any:
        """Move along the axis by a number of steps; neutral numbers move in."""
        padding = [*whole]
        padding[place] = [0, steps] if reverse else [steps, 0]
        moved = tf.pad(values, padding, constant_values=tf.constant(neutral, x.dtype))
        before = [slice(None)] * place
        moved = moved[(*before, slice(steps, None) if reverse else slice(None, size))]
        moved.set_shape(x.shape)  # TFLite has no EnsureShape inside a loop
        return moved

    tensor = shifted(tf.minimum(1, size), x) if exclusive else x
    if isinstance(size, int):
        steps = 1
        while steps < size:
            tensor, steps = combine(tensor, shifted(steps, tensor)), 2 * steps
        return tf.identity(tensor)
    return tf.while_loop(
        lambda steps, _: steps < size,
        lambda steps, values: (2 * steps, combine(values, shifted(steps, values))),
        [tf.constant(1), tensor],
        shape_invariants=[tf.TensorShape([]), x.shape],
    )[1]
