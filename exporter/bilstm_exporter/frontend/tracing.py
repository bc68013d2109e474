"""What tracing leaves to do, whichever library was traced."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def without_captures(function: Any) -> Any:
    """Make constants of the eager tensors that a traced function refers to.

    Statistics that a layer keeps outside its variables, as an adapted Normalization
    does, would otherwise become inputs of the artifact.

    Args:
        function: A ``tf.ConcreteFunction``.

    Returns:
        The same function with no inputs but its own, and the same structured outputs.
    """
    captured = function.captured_inputs
    if not captured:
        return function
    graph_def = function.graph.as_graph_def()
    count = len(function.inputs) - len(captured)
    own, places = function.inputs[:count], function.inputs[count:]
    outputs = function.structured_outputs

    def call(*tensors: Any) -> Any:
        values = [tf.constant(value.numpy()) for value in eager]
        names = [tensor.name for tensor in function.outputs]
        mapping = dict(zip([t.name for t in (*own, *places)], (*tensors, *values), strict=True))
        results = tf.graph_util.import_graph_def(
            graph_def, input_map=mapping, return_elements=names, name=""
        )
        for result, output in zip(results, function.outputs, strict=True):
            result.set_shape(output.shape)
        return tf.nest.pack_sequence_as(outputs, results)

    eager = list(captured)
    signature = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name=tensor.name.split(":")[0]) for tensor in own
    ]
    return tf.function(call, autograph=False).get_concrete_function(*signature)
