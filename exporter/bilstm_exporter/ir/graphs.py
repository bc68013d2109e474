"""Traced TensorFlow functions: nothing may refer to a tensor outside of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,  # no public name; tf2onnx and the TFLite converter use it
)


def without_captures(function: Any) -> Any:
    """Make constants of the tensors outside of a traced function that it refers to.

    Statistics that a layer keeps outside its variables, as an adapted Normalization
    does, and weights made constant in an outer graph, would otherwise become inputs
    of the artifact.

    Args:
        function: A ``tf.ConcreteFunction``.

    Returns:
        The same function with no inputs but its own, and the same structured outputs.

    Raises:
        ValueError: It refers to a tensor of an outer graph that is no constant; its name.
    """
    captured = function.captured_inputs
    if not captured:
        return function
    outputs = function.structured_outputs
    count = len(function.inputs) - len(captured)
    if any(tensor.dtype == tf.resource for tensor in captured):
        # A layer's tf.Variable that Keras does not know of; its value is a weight like others.
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


def _constant_value(tensor: Any) -> np.ndarray:
    value = tensor.numpy() if hasattr(tensor, "numpy") else tf.get_static_value(tensor)
    if value is None:
        raise ValueError(tensor.name)
    array: np.ndarray = np.asarray(value)
    return array
