"""Functions of tensors that both converters support, for the front ends of both Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def before_flip(tensor: Any, axis: int) -> Any:
    """Return the tensor before a reversal of this axis, or None if it is not a reversal.

    Bidirectional flips the output of its backward layer, which is already a flip.
    """
    operation = getattr(tensor, "op", None)
    if operation is not None and operation.type == "ReverseV2":
        before, axes = operation.inputs
        if list(tf.get_static_value(axes)) == [axis % len(tensor.shape)]:
            return before
    return None


def softplus(x: Any) -> Any:
    """Compute softplus as exactly as TensorFlow's kernel; TFLite's log(1 + exp(x)) is inexact.

    Args:
        x: A float tensor of any shape.

    Returns:
        A tensor of the same shape and dtype.
    """
    x = tf.convert_to_tensor(x)
    small = tf.exp(-tf.abs(x))
    # log1p: if small < 2**-12, log(1 + small) is small to 24 bits.
    return tf.maximum(x, 0) + tf.where(small < 2**-12, small, tf.math.log(1 + small))


def per_group(
    original: Callable[..., Any], groups: int, inputs: Any, kernel: Any, *args: Any, **kwargs: Any
) -> Any:
    """Call a convolution once per group, and concatenate the channels of the outputs.

    Args:
        original: The convolution, ``original(inputs, kernel, *args, **kwargs)``.
        groups: The number of groups.
        inputs: ``[batch, ..., groups * channels]``.
        kernel: ``[..., channels, filters]``; each group has its share of the filters.
        *args: Further arguments of the convolution.
        **kwargs: The same.
    """
    parts = zip(
        tf.split(inputs, groups, axis=-1),
        tf.split(tf.convert_to_tensor(kernel), groups, axis=-1),
        strict=True,
    )
    return tf.concat([original(x, k, *args, **kwargs) for x, k in parts], axis=-1)
