"""Traced TensorFlow functions without captured tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,  # no public name; tf2onnx and the TFLite converter use it
)


def without_captures(function: Any) -> Any:
    """Replace the captured tensors of a traced function by constants.

    Otherwise they become inputs of the artifact. Examples are the statistics of an adapted
    Normalization layer, and weights that are constants of an outer graph.

    Args:
        function: A ``tf.ConcreteFunction``.

    Returns:
        The same function without captured inputs, with the same structured outputs.

    Raises:
        ValueError: A captured tensor is not a constant; the message is its name.
    """
    captured = function.captured_inputs
    if not captured:
        return function
    outputs = function.structured_outputs
    count = len(function.inputs) - len(captured)
    if any(tensor.dtype == tf.resource for tensor in captured):
        # A tf.Variable of a layer that Keras does not track.
        function = convert_variables_to_constants_v2(function, lower_control_flow=False)
        captured = function.captured_inputs
    graph_def = function.graph.as_graph_def()
    own, places = function.inputs[:count], function.inputs[count:]

    def call(*tensors: Any) -> Any:
        values = [tf.constant(array) for array in arrays]
        names = [tensor.name for tensor in function.outputs]
        mapping = dict(zip([t.name for t in (*own, *places)], (*tensors, *values), strict=True))
        results = tf.graph_util.import_graph_def(
            graph_def, input_map=mapping, return_elements=names, name=""
        )
        for result, output in zip(results, function.outputs, strict=True):
            result.set_shape(output.shape)
        return tf.nest.pack_sequence_as(outputs, results)

    arrays = [_constant_value(tensor) for tensor in captured]
    signature = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name=tensor.name.split(":")[0]) for tensor in own
    ]
    with tf.init_scope():
        return tf.function(call, autograph=False).get_concrete_function(*signature)


def with_captured_inputs(function: Any) -> tuple[Any, list[Any]]:
    """Make the captured tensors of a traced function inputs.

    Args:
        function: A ``tf.ConcreteFunction`` of tensors that returns a list of tensors.

    Returns:
        The function with its captured tensors as its last inputs, and these tensors.
    """
    captured = list(function.captured_inputs)
    graph_def = function.graph.as_graph_def()
    inputs = list(function.inputs)

    def call(*tensors: Any) -> Any:
        mapping = dict(zip([tensor.name for tensor in inputs], tensors, strict=True))
        results = tf.graph_util.import_graph_def(
            graph_def,
            input_map=mapping,
            return_elements=[tensor.name for tensor in function.outputs],
            name="",
        )
        for result, output in zip(results, function.outputs, strict=True):
            result.set_shape(output.shape)
        return [tf.identity(result) for result in results]

    signature = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name=f"step_{number}")
        for number, tensor in enumerate(inputs)
    ]
    with tf.init_scope():
        whole = tf.function(call, autograph=False).get_concrete_function(*signature)
    return whole, captured


def _constant_value(tensor: Any) -> np.ndarray:
    value = tensor.numpy() if hasattr(tensor, "numpy") else tf.get_static_value(tensor)
    if value is None:
        raise ValueError(tensor.name)
    array: np.ndarray = np.asarray(value)
    return array
