"""Converts a TensorFlow function to an ONNX model and keeps recurrence markers.

tf2onnx converts everything but the recurrences. For operators that it converts inefficiently or
not at all, a handler here writes the direct form.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import tensorflow as tf
from onnx_ir.passes import common as passes
from tf2onnx import optimizer, tf_loader, tfonnx

from bilstm_exporter.errors import UnsupportedModelError, UnsupportedOperatorError

Handler = Callable[[Any, Any, str, Any], None]

_FAILED_NODE = re.compile(r"Failed to convert node '([^']+)'")
_INT64_MIN = np.iinfo(np.int64).min


def to_onnx(
    function: Any, opset: int, handlers: dict[str, Handler] | None = None, domain: str | None = None
) -> ir.Model:
    """Convert a concrete function.

    Args:
        function: A ``tf.ConcreteFunction`` whose weights are constants.
        opset: The ONNX opset.
        handlers: tf2onnx handlers by TensorFlow operator, in addition to this module's.
        domain: A private operator domain that the handlers use.

    Raises:
        UnsupportedOperatorError: ONNX or tf2onnx does not support an operator.
        UnsupportedModelError: tf2onnx failed for another reason.
    """
    inputs = [tensor.name for tensor in function.inputs]
    outputs = [tensor.name for tensor in function.outputs]
    known = {**_DIRECT_FORMS, **(handlers or {})}
    extra = [onnx.helper.make_opsetid(domain, 1)] if domain else None
    with _quiet_converter() as failures, tf.device("/cpu:0"):
        graph_def = tf_loader.from_function(function, inputs, outputs)
        with tf.Graph().as_default() as tf_graph:
            tf.import_graph_def(graph_def, name="")
            try:
                graph = tfonnx.process_tf_graph(
                    tf_graph,
                    opset=opset,
                    custom_op_handlers={name: (handler, []) for name, handler in known.items()},
                    extra_opset=extra,
                    input_names=inputs,
                    output_names=outputs,
                )
            # Any error in a tf2onnx handler; tf2onnx has logged the operator.
            except (ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
                raise _explained(tf_graph, failures, error) from error
            graph = optimizer.optimize_graph(graph, catch_errors=False)
            model: ir.Model = ir.from_proto(graph.make_model("bilstm-edge"))
    _restore_interface(model.graph, inputs)
    passes.RemoveInitializersFromInputsPass()(model)
    _refuse_unknown_operators(model, opset, domain)
    return model


def _restore_interface(graph: ir.Graph, names: list[str]) -> None:
    """Restore the order of the function's inputs."""
    by_name = {value.name: value for value in graph.inputs}
    graph.inputs.clear()
    graph.inputs.extend([by_name[name] for name in names])


def _reverse(context: Any, node: Any, _name: str, _args: Any) -> None:
    """Write a Slice with step -1; tf2onnx writes a ReverseSequence between transposes."""
    axes = np.atleast_1d(node.inputs[1].get_tensor_value(as_list=False)).astype(np.int64)
    _replace(
        context,
        node,
        "Slice",
        [node.input[0]]
        + [
            context.make_const(f"{node.name}_{role}", values).output[0]
            for role, values in [
                ("starts", np.full(len(axes), -1)),
                ("ends", np.full(len(axes), _INT64_MIN)),
                ("axes", axes),
                ("steps", np.full(len(axes), -1)),
            ]
        ],
    )


def _select(context: Any, node: Any, _name: str, _args: Any) -> None:
    """Write Where, which broadcasts as SelectV2 does."""
    _replace(context, node, "Where", list(node.input))


def _expm1(context: Any, node: Any, _name: str, _args: Any) -> None:
    """Write exp(x) - 1; the rounding error near 0 is far below the tolerance."""
    power = context.make_node(
        "Exp", list(node.input), shapes=node.output_shapes, dtypes=node.output_dtypes
    )
    one = context.make_const(f"{node.name}_one", np.array(1.0, np.float32))
    _replace(context, node, "Sub", [power.output[0], one.output[0]])


def _erfc(context: Any, node: Any, _name: str, _args: Any) -> None:
    """Write 1 - erf(x)."""
    error = context.make_node(
        "Erf", list(node.input), shapes=node.output_shapes, dtypes=node.output_dtypes
    )
    one = context.make_const(f"{node.name}_one", np.array(1.0, np.float32))
    _replace(context, node, "Sub", [one.output[0], error.output[0]])


def _bucketize(context: Any, node: Any, _name: str, _args: Any) -> None:
    """Count the boundaries that are less than or equal to x."""
    boundaries = np.asarray(node.get_attr_value("boundaries"), np.float32)

    def constant(role: str, value: Any) -> str:
        return str(context.make_const(f"{node.name}_{role}", np.asarray(value)).output[0])

    column = context.make_node(
        "Unsqueeze", [node.input[0], constant("axis", np.array([-1], np.int64))]
    )
    reached = context.make_node(
        "GreaterOrEqual", [column.output[0], constant("boundaries", boundaries)]
    )
    ones = context.make_node("Cast", [reached.output[0]], attr={"to": onnx.TensorProto.INT32})
    inputs = [ones.output[0], constant("last", np.array([-1], np.int64))]
    _replace(context, node, "ReduceSum", inputs, {"keepdims": 0})


def _update_slice(context: Any, node: Any, _name: str, _args: Any) -> None:
    """Pad the update to the size of the operand, and select it where it is."""
    dtypes, shapes = node.output_dtypes, node.output_shapes
    int64 = {"to": onnx.TensorProto.INT64}

    def add(kind: str, *inputs: str, **attributes: Any) -> str:
        return str(context.make_node(kind, list(inputs), **attributes).output[0])

    def constant(role: str, value: Any) -> str:
        return str(context.make_const(f"{node.name}_{role}", np.asarray(value)).output[0])

    operand, update, start = node.input
    size = add("Shape", update)
    room = add("Sub", add("Shape", operand), size)
    # As in TensorFlow, an update that would exceed the operand is moved.
    start = add("Max", add("Cast", start, attr=int64), constant("zero", np.int64(0)))
    start = add("Min", start, room)
    pads = add("Concat", start, add("Sub", room, start), attr={"axis": 0})
    zero = np.zeros((), onnx.helper.tensor_dtype_to_np_dtype(dtypes[0]))
    padded = context.make_node(
        "Pad", [update, pads, constant("fill", zero)], dtypes=dtypes, shapes=shapes
    )
    ones = add(
        "ConstantOfShape", size, attr={"value": onnx.numpy_helper.from_array(np.ones(1, np.int32))}
    )
    where = add("Pad", ones, pads, constant("outside", np.int32(0)))
    where = add("Cast", where, attr={"to": onnx.TensorProto.BOOL})
    _replace(context, node, "Where", [where, padded.output[0], operand])


def _replace(
    context: Any,
    node: Any,
    op_type: str,
    inputs: list[str],
    attributes: dict[str, Any] | None = None,
) -> None:
    shapes, dtypes, outputs = node.output_shapes, node.output_dtypes, node.output
    context.remove_node(node.name)
    context.make_node(
        op_type,
        inputs,
        outputs=outputs,
        attr=attributes or {},
        shapes=shapes,
        dtypes=dtypes,
        name=node.name,
    )


_DIRECT_FORMS: dict[str, Handler] = {
    "Bucketize": _bucketize,
    "Erfc": _erfc,
    "Expm1": _expm1,
    "ReverseV2": _reverse,
    "SelectV2": _select,
    "XlaDynamicUpdateSlice": _update_slice,
}


def _refuse_unknown_operators(model: ir.Model, opset: int, domain: str | None) -> None:
    """Refuse operators that tf2onnx left in the model under their TensorFlow names."""
    unknown = {
        node.op_type: node.name or ""
        for node in model.graph.all_nodes()
        if node.domain != domain and not onnx.defs.has(node.op_type, opset, node.domain)
    }
    if unknown:
        raise UnsupportedOperatorError(unknown, format_name="onnx")


class _Failures(logging.Handler):
    """Collects the names of the operators that tf2onnx logs as failed."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.nodes: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        match = _FAILED_NODE.search(record.getMessage())
        if match:
            self.nodes.append(match[1])


def _explained(graph: tf.Graph, failures: _Failures, error: Exception) -> UnsupportedModelError:
    operators = {}
    for name in failures.nodes:
        with contextlib.suppress(KeyError):  # a node that tf2onnx created
            operators[graph.get_operation_by_name(name).type] = name
    if operators:
        return UnsupportedOperatorError(operators, format_name="onnx")
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    message = f"tf2onnx cannot convert the model: {first[:500]}. Use --formats tflite to skip ONNX"
    return UnsupportedModelError(message)


@contextlib.contextmanager
def _quiet_converter() -> Iterator[_Failures]:
    """Hide tf2onnx's log from the terminal; the raised error has the same content."""
    logger = logging.getLogger("tf2onnx")
    failures = _Failures()
    level, propagate, handlers = logger.level, logger.propagate, list(logger.handlers)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    logger.handlers[:] = [failures]
    try:
        yield failures
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers
