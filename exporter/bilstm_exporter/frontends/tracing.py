"""What tracing leaves to do, whichever library was traced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,  # no public name; tf2onnx and the TFLite converter use it
)

from bilstm_exporter.errors import UnsupportedModelError, plain_text
from bilstm_exporter.explanation import layer_of_node

# Not PyFuncStateless, which marks a recurrence on its way to ONNX.
_PYTHON = frozenset({"EagerPyFunc", "PyFunc"})


def without_captures(function: Any) -> Any:
    """Make constants of the tensors outside itself that a traced function refers to.

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


def off_by_one_rounding(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The float32 values next to these, up or down at random; others as they are."""
    if values.dtype != np.float32:
        return values
    towards = np.where(rng.integers(2, size=values.shape), np.float32(np.inf), -np.float32(np.inf))
    return np.asarray(np.nextafter(values, towards, dtype=np.float32))


def untraceable(error: Exception, written_with: str) -> UnsupportedModelError:
    """Say that a model runs but cannot be traced, and how a layer must be written."""
    lines = [line.strip() for line in plain_text(error).splitlines() if line.strip()]
    return UnsupportedModelError(
        f"the model runs eagerly but cannot be traced into a graph: {' '.join(lines[:2])[:400]}. "
        f"A layer that looks at the values of its inputs, or computes with numpy, must be "
        f"written with {written_with}"
    )


def refuse_python(function: Any, layers: Sequence[tuple[str, str]]) -> None:
    """Refuse a graph that calls back into Python: it only looks like one that can be exported.

    Args:
        function: A ``tf.ConcreteFunction``.
        layers: Name and class of every layer, to say whose call it is.

    Raises:
        UnsupportedModelError: It calls Python.
    """
    for operation in function.graph.get_operations():
        if operation.type in _PYTHON:
            layer = layer_of_node(operation.name, layers)
            where = f"layer {layer!r}" if layer else f"the node {operation.name}"
            message = (
                f"{where} computes in Python (tf.numpy_function or tf.py_function, "
                f"{operation.type}), which no artifact can do; write it with keras.ops or "
                f"TensorFlow operations, or compute it before the model"
            )
            raise UnsupportedModelError(message)


def unique_names(names: Iterable[str]) -> tuple[str, ...]:
    """Number the names that stand twice."""
    unique: list[str] = []
    for name in names:
        suffix = sum(other == name or other.startswith(f"{name}_") for other in unique)
        candidate = name
        while candidate in unique:
            candidate = f"{name}_{suffix}"
            suffix += 1
        unique.append(candidate)
    return tuple(unique)
