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
from tf2onnx.onnx_opset.math import FloorDiv, FloorMod
from tf2onnx.tf_utils import TF_TO_ONNX_DTYPE
from tf2onnx.utils import make_name

from bilstm_exporter.errors import UnsupportedModelError, UnsupportedOperatorError
from bilstm_exporter.targets.onnx.builder import Builder
from bilstm_exporter.targets.onnx.marker_nodes import MARKER_OPERATOR

Handler = Callable[[Any, Any, str, Any], None]

_FAILED_NODE = re.compile(r"Failed to convert node '([^']+)'")
_INT64_MIN = np.iinfo(np.int64).min
# What a handler or an optimizer of tf2onnx raises; of a handler, tf2onnx has logged the operator.
_CONVERTER_ERRORS = (ValueError, LookupError, AttributeError, TypeError, RuntimeError)


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

            def convert() -> Any:
                return tfonnx.process_tf_graph(
                    tf_graph,
                    opset=opset,
                    custom_op_handlers={name: (handler, []) for name, handler in known.items()},
                    extra_opset=extra,
                    input_names=inputs,
                    output_names=outputs,
                )

            try:
                graph = _optimized(convert)
            except _CONVERTER_ERRORS as error:
                raise _explained(tf_graph, failures, error) from error
            model: ir.Model = ir.from_proto(graph.make_model("bilstm-edge"))
    _restore_interface(model.graph, inputs)
    _restore_domain(model.graph, domain)
    _compute_outputs(model.graph)
    _pad_dilated(model.graph)
    _count_down(model.graph, opset)
    passes.RemoveInitializersFromInputsPass()(model)
    _refuse_unknown_operators(model, opset, domain)
    return model


def _optimized(convert: Callable[[], Any]) -> Any:
    graph = convert()
    try:
        return optimizer.optimize_graph(graph, catch_errors=False)
    except _CONVERTER_ERRORS:
        # Some equations of Einsum cannot be decomposed, and some Transposes not be moved. The graph
        # is half changed then: convert it anew, and leave out the optimizer that fails.
        return optimizer.optimize_graph(convert(), catch_errors=True)


def _restore_interface(graph: ir.Graph, names: list[str]) -> None:
    """Restore the order of the function's inputs."""
    by_name = {value.name: value for value in graph.inputs}
    graph.inputs.clear()
    graph.inputs.extend([by_name[name] for name in names])


def _restore_domain(graph: ir.Graph, domain: str | None) -> None:
    """Restore the domain of the markers in branches; tf2onnx copies these nodes without it."""
    for node in graph.all_nodes():
        if domain and node.op_type == MARKER_OPERATOR:
            node.domain = domain


def _compute_outputs(graph: ir.Graph) -> None:
    """Write an Identity for every constant output; the checker requires outputs of nodes."""
    for place, value in enumerate(graph.outputs):
        if value.is_initializer():
            node = ir.node("Identity", [value])
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            graph.append(node)
            graph.outputs[place] = node.outputs[0]


def _pad_dilated(graph: ir.Graph) -> None:
    """Give dilated convolutions their padding; onnxruntime refuses dilations with auto_pad."""
    for node in graph.all_nodes():
        if node.op_type != "Conv" or "dilations" not in node.attributes:
            continue
        dilations = node.attributes["dilations"].as_ints()
        strides = node.attributes.get_ints("strides", [1] * len(dilations))
        kernel, automatic = node.inputs[1], node.attributes.get_string("auto_pad", "NOTSET")
        if (
            automatic not in {"SAME_UPPER", "SAME_LOWER"}
            or max(dilations) == 1
            or max(strides) > 1  # the padding depends on the length of the input
            or kernel is None
            or kernel.shape is None
        ):
            continue
        sizes = [size for size in kernel.shape[2:] if isinstance(size, int)]
        if len(sizes) != len(dilations):
            continue
        totals = [(size - 1) * step for size, step in zip(sizes, dilations, strict=True)]
        smaller, larger = [n // 2 for n in totals], [n - n // 2 for n in totals]
        pads = [*smaller, *larger] if automatic == "SAME_UPPER" else [*larger, *smaller]
        del node.attributes["auto_pad"]
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)


def _count_down(graph: ir.Graph, opset: int) -> None:
    """Write a Range with a negative step as a difference.

    onnxruntime fuses a Gather at the places of a Range into a Slice, which takes the limit -1 for
    the last place.
    """
    for number, node in enumerate(list(graph.all_nodes())):
        step = node.inputs[2] if node.op_type == "Range" else None
        found = None if step is None else ir.convenience.get_const_tensor(step)
        if found is None or found.numpy() >= 0:
            continue
        start, limit, _ = node.inputs
        build = Builder(f"range_{number}", opset)
        zero = build.constant(0, found.numpy().dtype)
        count = build.op("Range", zero, build.op("Sub", start, limit), build.op("Neg", step))
        build.replace(node, [build.op("Sub", start, count)])


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


def _log1p(context: Any, node: Any, _name: str, _args: Any) -> None:
    """Write log(1 + x); the rounding error near 0 is far below the tolerance."""
    one = _constant(context, node, "one", np.ones((), _numpy_dtype(context, node.input[0])))
    more = context.make_node(
        "Add", [node.input[0], one], shapes=node.output_shapes, dtypes=node.output_dtypes
    )
    _replace(context, node, "Log", [more.output[0]])


def _bucketize(context: Any, node: Any, _name: str, _args: Any) -> None:
    """Count the boundaries that are less than or equal to x."""
    boundaries = np.asarray(node.get_attr_value("boundaries"), np.float32)
    values = node.input[0]
    if context.get_dtype(values) != onnx.TensorProto.FLOAT:  # float64 holds every integer here
        boundaries = boundaries.astype(np.float64)
        values = _cast(context, values, onnx.TensorProto.DOUBLE)
    axis = _constant(context, node, "axis", np.array([-1], np.int64))
    column = context.make_node("Unsqueeze", [values, axis])
    reached = context.make_node(
        "GreaterOrEqual", [column.output[0], _constant(context, node, "boundaries", boundaries)]
    )
    ones = _cast(context, reached.output[0], onnx.TensorProto.INT32)
    last = _constant(context, node, "last", np.array([-1], np.int64))
    _replace(context, node, "ReduceSum", [ones, last], {"keepdims": 0})


def _one_hot(context: Any, node: Any, _name: str, _args: Any) -> None:
    """Compare with 0, 1, ...; ONNX's operator counts a negative index from the end."""
    indices, depth, on, off = node.input
    rank = context.get_rank(indices)
    axis = node.get_attr_value("axis", -1)
    axis = rank if axis == -1 else axis
    kind = context.get_dtype(on)
    column = context.make_node(
        "Unsqueeze",
        [
            _cast(context, indices, onnx.TensorProto.INT64),
            _constant(context, node, "axis", np.array([axis], np.int64)),
        ],
    )
    # A scalar, also if an optimization gave the depth one axis.
    scalar = context.make_node(
        "Reshape",
        [
            _cast(context, depth, onnx.TensorProto.INT64),
            _constant(context, node, "scalar", np.zeros([0], np.int64)),
        ],
    )
    classes = context.make_node(
        "Range",
        [
            _constant(context, node, "start", np.array(0, np.int64)),
            scalar.output[0],
            _constant(context, node, "step", np.array(1, np.int64)),
        ],
    )
    shape = np.array([-1] + [1] * (rank - axis), np.int64)
    row = context.make_node(
        "Reshape", [classes.output[0], _constant(context, node, "shape", shape)]
    )
    is_class = context.make_node("Equal", [column.output[0], row.output[0]])
    if kind != onnx.TensorProto.BOOL:
        _replace(context, node, "Where", [is_class.output[0], on, off])
        return
    # onnxruntime has no Where of bool.
    numbers = [_cast(context, value, onnx.TensorProto.INT32) for value in (on, off)]
    chosen = context.make_node("Where", [is_class.output[0], *numbers])
    _replace(context, node, "Cast", [chosen.output[0]], {"to": kind})


def _update_slice(context: Any, node: Any, _name: str, _args: Any) -> None:
    """Select between the tensor and its update, which is padded to the same shape."""
    tensor, update, indices = node.input
    dtype, int64 = context.get_dtype(tensor), onnx.TensorProto.INT64

    def write(op_type: str, inputs: list[str], attributes: Any = None, kind: int = int64) -> str:
        made = context.make_node(op_type, inputs, attr=attributes or {}, dtypes=[kind])
        return str(made.output[0])

    size = write("Shape", [update])
    room = write("Sub", [write("Shape", [tensor]), size])
    # A start that is out of bounds is moved, as in TensorFlow.
    zero = _constant(context, node, "zero", np.zeros([1], np.int64))
    start = write("Max", [write("Min", [_cast(context, indices, int64), room]), zero])
    pads = write("Concat", [start, write("Sub", [room, start])], {"axis": 0})
    one = {"value": onnx.numpy_helper.from_array(np.ones([1], np.int32))}
    inside = write("ConstantOfShape", [size], one, onnx.TensorProto.INT32)
    inside = write("Pad", [inside, pads], kind=onnx.TensorProto.INT32)
    condition = _cast(context, inside, onnx.TensorProto.BOOL)
    # onnxruntime has no Where of bool.
    kind = onnx.TensorProto.INT32 if dtype == onnx.TensorProto.BOOL else dtype
    padded = write("Pad", [_cast(context, update, kind), pads], kind=kind)
    chosen = write("Where", [condition, padded, _cast(context, tensor, kind)], kind=kind)
    _replace(context, node, "Cast", [chosen], {"to": dtype})


def _scatter_nd(context: Any, node: Any, _name: str, _args: Any) -> None:
    """Add updates of the same index, as TensorFlow does."""
    indices, updates, shape = node.input
    zero = np.zeros([1], _numpy_dtype(context, updates))
    zeros = context.make_node(
        "ConstantOfShape",
        [_cast(context, shape, onnx.TensorProto.INT64)],
        attr={"value": onnx.numpy_helper.from_array(zero)},
    )
    inputs = [zeros.output[0], _cast(context, indices, onnx.TensorProto.INT64), updates]
    _replace(context, node, "ScatterND", inputs, {"reduction": "add"})


def _floor_mod(context: Any, node: Any, name: str, args: Any) -> None:
    """Write Mod, which is the remainder of a floored division for integers."""
    if _is_float(context, node.input[0]):
        FloorMod.version_7(context, node, name=name, args=args)
    else:
        _replace(context, node, "Mod", list(node.input))


def _floor_div(context: Any, node: Any, name: str, args: Any) -> None:
    """Subtract the remainder before the division; ONNX's division of integers truncates."""
    if _is_float(context, node.input[0]):
        FloorDiv.version_6(context, node, name=name, args=args)
        return
    dtypes, shapes = node.output_dtypes, node.output_shapes
    rest = context.make_node("Mod", list(node.input), dtypes=dtypes, shapes=shapes)
    multiple = context.make_node(
        "Sub", [node.input[0], rest.output[0]], dtypes=dtypes, shapes=shapes
    )
    _replace(context, node, "Div", [multiple.output[0], node.input[1]])


def _is_float(context: Any, name: str) -> bool:
    return np.issubdtype(_numpy_dtype(context, name), np.floating)


def _numpy_dtype(context: Any, name: str) -> Any:
    return onnx.helper.tensor_dtype_to_np_dtype(context.get_dtype(name))


def _constant(context: Any, node: Any, role: str, value: np.ndarray) -> str:
    name = make_name(f"{node.name}_{role}")
    return str(context.make_const(name, value).output[0])


def _cast(context: Any, name: str, dtype: int) -> str:
    if context.get_dtype(name) == dtype:
        return name
    node = context.make_node("Cast", [name], attr={"to": dtype}, dtypes=[dtype])
    return str(node.output[0])


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
    "FloorDiv": _floor_div,
    "FloorMod": _floor_mod,
    "Log1p": _log1p,
    "OneHot": _one_hot,
    "ReverseV2": _reverse,
    "ScatterNd": _scatter_nd,
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
    if not operators:
        operators = _of_other_dtypes(graph)
    if operators:
        return UnsupportedOperatorError(operators, format_name="onnx")
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    message = f"tf2onnx cannot convert the model: {first[:500]}. Use --formats tflite to skip ONNX"
    return UnsupportedModelError(message)


def _of_other_dtypes(graph: tf.Graph) -> dict[str, str]:
    """Return the operators whose outputs have a dtype that tf2onnx does not know, by type."""
    return {
        f"{operation.type} to {output.dtype.name}": operation.name
        for operation in graph.get_operations()
        for output in operation.outputs
        if output.dtype not in TF_TO_ONNX_DTYPE
    }


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
