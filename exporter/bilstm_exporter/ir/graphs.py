"""Traced TensorFlow functions without captured tensors and unused branches."""

from __future__ import annotations

from collections.abc import Sequence
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
    function = without_unread_branches(function)
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
        mapping = dict(zip([t.name for t in (*own, *places)], (*tensors, *values), strict=True))
        results = _imported(graph_def, mapping, function.outputs)
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
        results = _imported(graph_def, mapping, function.outputs)
        return [tf.identity(result) for result in results]

    signature = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name=f"step_{number}")
        for number, tensor in enumerate(inputs)
    ]
    with tf.init_scope():
        whole = tf.function(call, autograph=False).get_concrete_function(*signature)
    return whole, captured


def without_unread_branches(function: Any) -> Any:
    """Remove the operators with effects, and the loops, that no output depends on.

    A layer may add a loss or a metric while it is called, such as CTC. Its operators are in the
    graph, and what they assign to; no output reads them. The converters do not remove all of them.

    Args:
        function: A ``tf.ConcreteFunction``.

    Returns:
        The same function if it has no such operators; else one with the same inputs and
        structured outputs. Its captured tensors are those that the outputs need.
    """
    graph, outputs = function.graph, function.structured_outputs
    needed = _needed_operations(function)
    inputs = {tensor.op for tensor in function.inputs}
    if not any(
        _has_effects(operation)
        for operation in graph.get_operations()
        if operation not in needed and operation not in inputs
    ):
        return function
    count = len(function.inputs) - len(function.captured_inputs)
    own = function.inputs[:count]
    captured = [
        (place, value)
        for place, value in zip(function.inputs[count:], function.captured_inputs, strict=True)
        if place.op in needed
    ]
    kept = {operation.name for operation in needed} | {tensor.op.name for tensor in own}
    graph_def = graph.as_graph_def()
    nodes = [node for node in graph_def.node if node.name in kept]
    for node in nodes:
        read = [name for name in node.input if name.removeprefix("^") in kept or name[:1] != "^"]
        node.input[:] = read
    del graph_def.node[:]
    graph_def.node.extend(nodes)

    def call(*tensors: Any) -> Any:
        mapping = dict(zip([tensor.name for tensor in own], tensors, strict=True))
        new_graph = tf.compat.v1.get_default_graph()
        for place, value in captured:
            mapping[place.name] = new_graph.capture(value)
        for variable in graph.variables:
            if any(variable.handle is value for _, value in captured):
                new_graph.watch_variable(variable)
        results = _imported(graph_def, mapping, function.outputs)
        return tf.nest.pack_sequence_as(outputs, results)

    signature = [tf.TensorSpec(tensor.shape, tensor.dtype, name=tensor.op.name) for tensor in own]
    with tf.init_scope():
        return tf.function(call, autograph=False).get_concrete_function(*signature)


def inlined(function: Any, tensors: Sequence[Any]) -> list[Any]:
    """Write the operators of a traced function without captured inputs into the current graph.

    Args:
        function: A ``tf.ConcreteFunction``.
        tensors: Its inputs.

    Returns:
        Its outputs.
    """
    mapping = dict(zip([tensor.name for tensor in function.inputs], tensors, strict=True))
    return _imported(function.graph.as_graph_def(), mapping, function.outputs)


def _imported(graph_def: Any, mapping: dict[str, Any], outputs: Any) -> list[Any]:
    """Import a graph into the current one; returns its outputs, with their static shapes."""
    for node in graph_def.node:
        # A gradient of its own, as that of silu, cannot be saved with the imported operator.
        node.attr.pop("_gradient_op_type", None)
    results: list[Any] = tf.graph_util.import_graph_def(
        graph_def,
        input_map=mapping,
        return_elements=[tensor.name for tensor in outputs],
        name="",
    )
    for result, output in zip(results, outputs, strict=True):
        result.set_shape(output.shape)
    return results


def unread_inputs(function: Any) -> list[int]:
    """Return the numbers of the inputs that no output depends on."""
    needed = _needed_operations(function)
    count = len(function.inputs) - len(function.captured_inputs)
    return [i for i, tensor in enumerate(function.inputs[:count]) if tensor.op not in needed]


def _needed_operations(function: Any) -> set[Any]:
    """Return the operators that the outputs depend on."""
    needed = {tensor.op for tensor in function.outputs}
    # TensorFlow makes what is returned wait for every operator with an effect.
    pending = [tensor.op for output in needed for tensor in output.inputs]
    while pending:
        operation = pending.pop()
        if operation not in needed:
            needed.add(operation)
            pending += [tensor.op for tensor in operation.inputs]
            pending += operation.control_inputs
    return needed


def _has_effects(operation: Any) -> bool:
    """Whether TensorFlow runs an operator that no output depends on, or it contains functions."""
    if operation.type in {"Placeholder", "VarHandleOp"}:
        return False
    functions = any(attr.HasField("func") for attr in operation.node_def.attr.values())
    return bool(operation.op_def.is_stateful) or functions


def _constant_value(tensor: Any) -> np.ndarray:
    value = tensor.numpy() if hasattr(tensor, "numpy") else tf.get_static_value(tensor)
    if value is None:
        raise ValueError(tensor.name)
    array: np.ndarray = np.asarray(value)
    return array
