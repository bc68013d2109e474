"""Forms of TensorFlow operators of which TFLite has no builtin operator, or none of their dtype.

They are used while a model is traced for TFLite only; see `bilstm_exporter.ir.operator_forms`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.func_graph import FuncGraph  # no public name
from tensorflow.python.ops.control_flow_v2_func_graphs import WhileBodyFuncGraph  # no public name

from bilstm_exporter.errors import UnsupportedOperatorError
from bilstm_exporter.ir.cumulative import cumulative
from bilstm_exporter.ir.operator_forms import Form, combined, in_other_dtypes, operator_forms
from bilstm_exporter.ir.traversal import ELEMENTWISE, ancestors
from bilstm_exporter.targets.tflite.converter import convert_function
from bilstm_exporter.targets.tflite.error_function import (
    ERF_DENOMINATOR,
    ERF_END,
    ERF_NUMERATOR,
)
from bilstm_exporter.targets.tflite.tensor_ops import limited_sigmoid

# The converter writes an Einsum as one BatchMatMul, which needs these labels: some that are
# summed, and some of each operand alone.


def _einsum(inputs: Sequence[Any], equation: str | bytes) -> Any:
    """Write an Einsum that is not one BatchMatMul as several, or as a product with broadcasting."""
    left, _, right = tf.compat.as_str(equation).replace(" ", "").partition("->")
    terms = left.split(",")
    tensors = list(inputs)
    if "." in left:
        return None
    for place, term in enumerate(terms):
        label = next((label for label in term if term.count(label) > 1), None)
        if label is not None:
            tensors[place], terms[place] = _diagonal(tensors[place], term, label)
            return tf.einsum(f"{','.join(terms)}->{right}", *tensors)
    if len(terms) == 1:
        return _reduced(tensors[0], terms[0], right)
    if len(terms) > 2:
        needed = set("".join(terms[2:])) | set(right)
        between = "".join(label for label in dict.fromkeys(terms[0] + terms[1]) if label in needed)
        first = tf.einsum(f"{terms[0]},{terms[1]}->{between}", *tensors[:2])
        return tf.einsum(f"{','.join([between, *terms[2:]])}->{right}", first, *tensors[2:])
    return _einsum_of_two(tensors, terms, right)


def _einsum_of_two(tensors: list[Any], terms: list[str], right: str) -> Any:
    """Write an Einsum of two operands; None if it is one BatchMatMul."""
    one, other = terms
    # A label of one operand only that is not in the output is summed first.
    for place, (term, alone) in enumerate([(one, other), (other, one)]):
        gone = [label for label in term if label not in alone and label not in right]
        if gone:
            tensors[place] = tf.reduce_sum(tensors[place], [term.index(label) for label in gone])
            terms[place] = "".join(label for label in term if label not in gone)
            return tf.einsum(f"{','.join(terms)}->{right}", *tensors)
    if not any(label in other and label not in right for label in one):
        aligned = [_aligned(*pair, right) for pair in zip(tensors, terms, strict=True)]
        return aligned[0] * aligned[1]
    if set(one) <= set(other) and not set(other) <= set(one):
        # The converter gives a product of a vector and a matrix one axis too many.
        return tf.einsum(f"{other},{one}->{right}", *tensors[::-1])
    unused = [chr(code) for code in range(ord("A"), ord("z") + 1) if chr(code).isalpha()]
    unused = [label for label in unused if label not in one + other + right]
    added = []
    for place, (term, alone) in enumerate([(one, other), (other, one)]):
        if all(label in alone for label in term):
            label = unused.pop()
            tensors[place] = tf.expand_dims(tensors[place], -1)
            terms[place] += label
            added.append(label)
    if not added:
        return None
    result = tf.einsum(f"{','.join(terms)}->{right}{''.join(added)}", *tensors)
    return tf.squeeze(result, list(range(-len(added), 0)))


def _diagonal(tensor: Any, term: str, label: str) -> tuple[Any, str]:
    """Replace two axes of one label by their diagonal, as the last axis."""
    pair = [axis for axis, other in enumerate(term) if other == label][:2]
    rest = [axis for axis in range(len(term)) if axis not in pair]
    matrix = tf.transpose(tensor, [*rest, *pair])
    return tf.linalg.diag_part(matrix), "".join(term[axis] for axis in rest) + label


def _reduced(tensor: Any, term: str, labels: str) -> Any:
    """Sum the axes whose labels are not kept, and transpose the others."""
    gone = [axis for axis, label in enumerate(term) if label not in labels]
    if not gone:
        return tf.transpose(tensor, [term.index(label) for label in labels])
    kept = "".join(label for label in term if label in labels)
    return _aligned(tf.reduce_sum(tensor, gone), kept, labels)


def _aligned(tensor: Any, term: str, labels: str) -> Any:
    """Transpose an operand into the order of the labels, with size 1 for labels it lacks."""
    order = sorted(range(len(term)), key=lambda axis: labels.index(term[axis]))
    if order != list(range(len(term))):
        tensor = tf.transpose(tensor, order)
    for axis, label in enumerate(labels):
        if label not in term:
            tensor = tf.expand_dims(tensor, axis)
    return tensor


def _transpose(x: Any, perm: Any) -> Any:
    """Give each level of loops its own constant for an order of axes.

    The converter stores one constant for the same order inside and outside of a loop. Next to a
    ReLU or tanh it moves that constant into the loop, and then refuses the file.
    """
    order = tf.get_static_value(perm)
    if order is None or perm.dtype == tf.int64:
        return None
    graph, depth = tf.compat.v1.get_default_graph(), 0
    while graph is not None:
        depth += isinstance(graph, WhileBodyFuncGraph)
        graph = getattr(graph, "outer_graph", None)
    if not depth:
        return None
    added = range(len(order), len(order) + depth - 1)  # axes of size 1
    for _ in added:
        x = tf.expand_dims(x, -1)
    result = tf.transpose(x, tf.constant([*order, *added], tf.int64))
    for _ in added:
        result = tf.gather(result, 0, axis=-1)
    return result


def _squeeze(input: Any, squeeze_dims: Sequence[int] = ()) -> Any:  # noqa: A002
    """Slice after a Transpose; the converter removes a Squeeze there, and keeps its axis."""
    shape = input.shape
    if shape.rank is None or not _is_transposed(input):
        return None
    axes = {axis % shape.rank for axis in squeeze_dims}
    if not axes:
        if not shape.is_fully_defined():
            return None
        axes = {axis for axis, size in enumerate(shape) if size == 1}
    return input[tuple(0 if axis in axes else slice(None) for axis in range(shape.rank))]


def _is_transposed(tensor: Any) -> bool:
    """Whether a Transpose is before operators through which the converter moves it."""
    waiting, seen = [tensor], set()
    while waiting:
        operation = waiting.pop().op
        is_outside = operation.type == "Placeholder" and isinstance(
            getattr(operation.graph, "outer_graph", None), FuncGraph
        )
        if operation.type == "Transpose" or is_outside:
            return True
        if operation.type in ELEMENTWISE and operation.name not in seen:
            seen.add(operation.name)
            waiting.extend(operation.inputs)
    return False


def _roll(input: Any, shift: Any, axis: Any) -> Any:  # noqa: A002
    """Exchange the two parts of each axis."""
    tensor = input
    axes = tf.get_static_value(axis)
    if axes is None or tensor.shape.rank is None:
        return None
    shifts = tf.reshape(shift, [-1])
    for number, place in enumerate(int(value) % tensor.shape.rank for value in np.ravel(axes)):
        static = tf.get_static_value(shifts)
        amount = shifts[number] if static is None else int(static[number])
        size = tensor.shape[place]
        if size == 0:
            continue
        if size is None:
            # An empty axis stays empty: the remainder is by at least 1.
            size = tf.maximum(tf.cast(tf.shape(tensor)[place], shifts.dtype), 1)
        cut = -amount % size
        before = [slice(None)] * place
        tensor = tf.concat(
            [tensor[(*before, slice(cut, None))], tensor[(*before, slice(None, cut))]], place
        )
    return tf.identity(tensor)


def _cumprod(
    x: Any,
    axis: Any,
    exclusive: bool = False,  # noqa: FBT001, FBT002
    reverse: bool = False,  # noqa: FBT001, FBT002
) -> Any:
    return cumulative(x, axis, exclusive, reverse, combine=tf.multiply, neutral=1)


def _dense_bincount(input: Any, size: Any, weights: Any, binary_output: bool = False) -> Any:  # noqa: A002, FBT001, FBT002
    """Add the weights of the elements that equal each number below the size."""
    size = tf.cast(tf.reshape(size, []), tf.int32)
    found = tf.one_hot(input, size, dtype=weights.dtype)
    if binary_output:
        counts = tf.reduce_max(found, -2)
        # Of no elements, the largest is the lowest number.
        return tf.maximum(counts, tf.zeros([], weights.dtype))
    if weights.shape.num_elements() != 0:
        found *= tf.expand_dims(weights, -1)
    return tf.reduce_sum(found, -2)


def _scatter_extreme(segments: Callable[..., Any], combine: Callable[..., Any]) -> Form:
    def form(tensor: Any, indices: Any, updates: Any, **_: Any) -> Any:
        """Reduce the updates of each element or slice, then combine them with the tensor."""
        depth = indices.shape[-1]
        if depth is None or tensor.shape.rank is None:
            return None
        shape = tf.shape(tensor)
        sizes = tf.unstack(shape[:depth])
        places, number = tf.zeros([1], tf.int32), tf.constant(1)
        for axis in reversed(range(depth)):
            places += tf.reshape(tf.cast(indices[..., axis], tf.int32), [-1]) * number
            number *= sizes[axis]
        rows = tf.reshape(updates, tf.concat([[-1], shape[depth:]], 0))
        found = tf.reshape(segments(rows, places, number), shape)
        # Without an update, the segment has an extreme number, which is not infinite.
        ones = tf.ones_like(places)
        updated = tf.math.unsorted_segment_sum(ones, places, number) > 0
        rest = [1] * (tensor.shape.rank - depth)
        updated = tf.reshape(updated, tf.concat([shape[:depth], rest], 0))
        result = tf.where(updated, combine(tensor, found), tensor)
        result.set_shape(tensor.shape)
        return result

    return form


def _erf(x: Any) -> Any:
    """Write a rational function of x."""
    tensor = tf.clip_by_value(x, -ERF_END, ERF_END)
    square = tensor * tensor
    return tensor * _polynomial(ERF_NUMERATOR, square) / _polynomial(ERF_DENOMINATOR, square)


def _erfc(x: Any) -> Any:
    """Write 1 - erf(x); None inside a GELU, which the converter fuses."""
    return None if _is_scaled_for_gelu(x) else _complement(x)


def _complement(x: Any) -> Any:
    return 1 - _erf(x)


def _is_scaled_for_gelu(x: Any) -> bool:
    """Whether this is x / sqrt(2), as in tf.nn.gelu."""
    if x.op.type not in {"RealDiv", "Mul"}:
        return False
    constants = [tf.get_static_value(source) for source in x.op.inputs]
    root = 2**0.5 if x.op.type == "RealDiv" else 0.5**0.5
    return any(value is not None and np.allclose(value, root) for value in constants)


def _polynomial(coefficients: Sequence[float], x: Any) -> Any:
    value = coefficients[0] * x + coefficients[1]
    for coefficient in coefficients[2:]:
        value = value * x + coefficient
    return value


def _atan(x: Any) -> Any:
    """Write the angle of (1, x)."""
    return tf.atan2(x, tf.ones_like(x))


def _asin(x: Any) -> Any:
    """Write the angle of a right triangle with this side; NaN outside [-1, 1]."""
    return tf.atan2(x, tf.sqrt((1 - x) * (1 + x)))


def _acos(x: Any) -> Any:
    """Write the angle of a right triangle with this side; NaN outside [-1, 1]."""
    return tf.atan2(tf.sqrt((1 - x) * (1 + x)), x)


def _tan(x: Any) -> Any:
    """Write sin(x) / cos(x)."""
    return tf.sin(x) / tf.cos(x)


_LOG_2 = float(np.log(2))
_SQUARE_IS_FINITE = 1e18  # below the root of the largest float32


def _sinh(x: Any) -> Any:
    """Write exp(x) / 2 - exp(-x) / 2, which overflows no earlier than sinh."""
    return tf.exp(x - _LOG_2) - tf.exp(-x - _LOG_2)


def _cosh(x: Any) -> Any:
    """Write exp(x) / 2 + exp(-x) / 2, which overflows no earlier than cosh."""
    return tf.exp(x - _LOG_2) + tf.exp(-x - _LOG_2)


def _asinh(x: Any) -> Any:
    """Write log(|x| + sqrt(x ** 2 + 1)) with the sign of x."""
    tensor = tf.abs(x)
    small = tf.minimum(tensor, _SQUARE_IS_FINITE)
    root = tf.sqrt(small * small + 1)
    return tf.sign(x) * tf.where(
        tensor > small, tf.math.log(tensor) + _LOG_2, tf.math.log(small + root)
    )


def _acosh(x: Any) -> Any:
    """Write log(x + sqrt((x - 1) * (x + 1))); NaN below 1."""
    small = tf.minimum(x, _SQUARE_IS_FINITE)
    root = tf.sqrt((small - 1) * (small + 1))
    near = tf.where(x < 1, tf.sqrt(small - 1), tf.math.log(small + root))
    return tf.where(x > small, tf.math.log(x) + _LOG_2, near)


def _atanh(x: Any) -> Any:
    """Write log((1 + x) / (1 - x)) / 2."""
    return tf.math.log((1 + x) / (1 - x)) / 2


def _is_inf(x: Any) -> Any:
    """Compare with the largest number; the converter's own form finds no infinity."""
    return tf.abs(x) > x.dtype.max


def _is_finite(x: Any) -> Any:
    """Compare with the largest number; NaN is not less."""
    return tf.abs(x) <= x.dtype.max


def _softmax(logits: Any) -> Any:
    """Let the result be NaN for a row of -inf only, as of a text that is all padding.

    TFLite's operator returns numbers. The converter takes exponentials over their sum for it.
    """
    if not _may_be_infinite(logits):
        return None
    exponentials = tf.exp(logits - tf.reduce_max(logits, -1, keepdims=True))
    result = exponentials / tf.reduce_sum(exponentials, -1, keepdims=True)
    return _where_finite(logits, result)


def _where_finite(logits: Any, result: Any) -> Any:
    """Return the rows of a result whose logits are not all -inf; NaN for the others."""
    # The converter writes the lowest number for a constant of -inf.
    finite = tf.cast(logits > logits.dtype.min, logits.dtype)
    nan = tf.constant(np.nan, result.dtype)
    return tf.where(tf.reduce_max(finite, -1, keepdims=True) > 0, result, nan)


def _may_be_infinite(tensor: Any) -> bool:
    """Whether the operators before a tensor put -inf into it: a constant, or the log of a mask."""
    names, _ = ancestors([tensor], ())
    operations = [tensor.graph.get_operation_by_name(name) for name in names]
    return any(
        operation.type == "Log"
        or (
            operation.type == "Const"
            and operation.outputs[0].dtype.is_floating
            and np.isneginf(tf.get_static_value(operation.outputs[0])).any()
        )
        for operation in operations
    )


def _rsqrt(x: Any) -> Any:
    """Sum squares over several axes in two steps, so that the converter does not fuse an L2 norm.

    It takes ``x * rsqrt(max(sum(x ** 2), epsilon))`` for TFLite's operator, which normalizes the
    last axis only.
    """
    if x.op.type != "Maximum" or x.op.inputs[0].op.type != "Sum":
        return None
    total, least = x.op.inputs
    squares, axes = total.op.inputs
    places = tf.get_static_value(axes)
    if places is None or np.size(places) < 2 or not total.op.get_attr("keep_dims"):
        return None
    first, *rest = (int(place) for place in np.ravel(places))
    total = tf.reduce_sum(tf.reduce_sum(squares, first, keepdims=True), rest, keepdims=True)
    return tf.math.rsqrt(tf.maximum(total, least))


# Integers. TFLite has most operators for int32, and few of them for int64.


def _abs(x: Any) -> Any:
    """Write max(x, -x) for int64."""
    return tf.maximum(x, -x) if x.dtype == tf.int64 else None


def _sign(x: Any) -> Any:
    """Compare with 0, for int64."""
    if x.dtype != tf.int64:
        return None
    return tf.cast(x > 0, tf.int64) - tf.cast(x < 0, tf.int64)


def _floor_div(x: Any, y: Any) -> Any:
    """Estimate the quotient of int64 in float32, and correct it until nothing remains."""
    if x.dtype != tf.int64:
        return None
    rest = x - tf.math.floormod(x, y)  # a multiple of y
    divisor, quotient = tf.cast(y, tf.float32), tf.zeros([], tf.int64)
    # Each estimate is right in its 22 leading bits, and the last of three in all.
    for _ in range(4):
        part = tf.cast(tf.round(tf.cast(rest, tf.float32) / divisor), tf.int64)
        quotient, rest = quotient + part, rest - part * y
    return quotient


def _truncate_div(x: Any, y: Any) -> Any:
    """Give the quotient of the absolute values its sign, for int64."""
    if x.dtype != tf.int64:
        return None
    return tf.sign(x) * tf.sign(y) * tf.math.floordiv(tf.abs(x), tf.abs(y))


_LARGEST_POWER = 16


def _pow(x: Any, y: Any) -> Any:
    """Multiply int64 with itself, for a constant exponent."""
    power = tf.get_static_value(y)
    if x.dtype != tf.int64 or power is None or np.ndim(power) or not 0 <= power <= _LARGEST_POWER:
        return None
    result = tf.ones_like(x)
    for _ in range(int(power)):
        result *= x
    return result


def _arg(reduce: Callable[..., Any]) -> Form:
    def form(input: Any, dimension: Any, output_type: Any = tf.int64) -> Any:  # noqa: A002
        """Find the first element of int64 that equals the largest (smallest) one."""
        if input.dtype != tf.int64:
            return None
        axis = tf.reshape(dimension, [1])
        found = tf.equal(input, reduce(input, axis, keepdims=True))
        return tf.raw_ops.ArgMax(
            input=tf.cast(found, tf.int32), dimension=dimension, output_type=output_type
        )

    return form


def _split(split_dim: Any, value: Any, num_split: int) -> Any:
    """Slice int64."""
    axis = tf.get_static_value(split_dim)
    if value.dtype != tf.int64 or axis is None or value.shape.rank is None:
        return None
    size = value.shape[int(axis)]
    part = (tf.shape(value)[int(axis)] if size is None else size) // num_split
    return _slices(value, int(axis), [part] * num_split)


def _split_v(value: Any, size_splits: Any, split_dim: Any, num_split: int) -> Any:
    """Slice int64."""
    axis, sizes = tf.get_static_value(split_dim), tf.get_static_value(size_splits)
    if value.dtype != tf.int64 or axis is None or sizes is None or (sizes < 0).any():
        return None
    return _slices(value, int(axis), [int(size) for size in sizes[:num_split]])


def _slices(value: Any, axis: int, sizes: Sequence[Any]) -> list[Any]:
    before, start, parts = [slice(None)] * (axis % value.shape.rank), 0, []
    for size in sizes:
        parts.append(value[(*before, slice(start, start + size))])
        start += size
    return parts


def _unpack(value: Any, num: int, axis: int = 0) -> Any:
    """Slice int64."""
    if value.dtype not in (tf.int64, tf.int16) or value.shape.rank is None:
        return None
    before = [slice(None)] * (axis % value.shape.rank)
    return [value[(*before, index)] for index in range(num)]


def _scatter_sub(tensor: Any, indices: Any, updates: Any, **_: Any) -> Any:
    """Add the negative updates."""
    return tf.tensor_scatter_nd_add(tensor, indices, -updates)


def _dynamic_partition(data: Any, partitions: Any, num_partitions: int) -> Any:
    """Select the rows of each part."""
    return [tf.boolean_mask(data, tf.equal(partitions, part)) for part in range(num_partitions)]


def _dynamic_stitch(indices: Sequence[Any], data: Sequence[Any]) -> Any:
    """Write all rows at once to their places."""
    ranks = [places.shape.rank for places in indices]
    if None in ranks or None in [rows.shape.rank for rows in data]:
        return None
    places = tf.concat([tf.reshape(one, [-1]) for one in indices], 0)
    tail = tf.shape(data[0])[ranks[0] :]
    rows = tf.concat([tf.reshape(one, tf.concat([[-1], tail], 0)) for one in data], 0)
    count = tf.reduce_max(tf.concat([places, [-1]], 0)) + 1
    start = tf.zeros(tf.concat([[count], tail], 0), data[0].dtype)
    found = tf.tensor_scatter_nd_update(start, tf.expand_dims(places, 1), rows)
    found.set_shape([None, *data[0].shape[ranks[0] :]])
    return found


# Operators of which TFLite lacks some dtypes.
_MOVING = (
    "BatchToSpaceND", "BroadcastTo", "ConcatV2", "Fill", "GatherNd", "GatherV2", "MatrixBandPart",
    "MirrorPad", "OneHot", "OnesLike", "Pack", "Pad", "PadV2", "ReverseSequence", "ReverseV2",
    "ScatterNd", "Select", "SelectV2", "Slice", "SpaceToBatchND", "Split", "SplitV",
    "StridedSlice", "TensorScatterUpdate", "Tile", "Transpose", "Unpack", "ZerosLike",
)  # fmt: skip
_COMPUTING = (
    "Abs", "AddN", "AddV2", "ArgMax", "ArgMin", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3",
    "Ceil", "ClipByValue", "Conv2D", "Cos", "Cumsum", "DepthwiseConv2dNative", "Div", "DivNoNan",
    "Einsum", "Elu", "Equal", "Erf", "Exp", "Expm1", "Floor", "FloorDiv", "FloorMod", "Greater",
    "GreaterEqual", "IsFinite", "IsInf", "IsNan", "LeakyRelu", "Less", "LessEqual", "Log",
    "Log1p", "LogSoftmax", "MatMul", "Max", "Maximum", "Mean", "Min", "Minimum", "Mul", "Neg",
    "NotEqual", "Pow", "Prod", "Range", "RealDiv", "Reciprocal", "Relu", "Relu6", "Rint", "Round",
    "Rsqrt", "Selu", "Sigmoid", "Sign", "Sin", "Softmax", "Softplus", "Softsign", "Sqrt",
    "Square", "SquaredDifference", "Sub", "Sum", "Tanh", "TopKV2",
)  # fmt: skip
_NO_SMALL_INTEGERS = (
    "MatrixBandPart", "MirrorPad", "Pad", "PadV2", "ReverseSequence", "ReverseV2", "Select",
    "SelectV2", "SpaceToBatchND", "Split", "SplitV", "TensorScatterUpdate", "Tile",
)  # fmt: skip
# PAD takes bools from its version 5 on, which LiteRT alone has.
_NO_BOOLS = ("MirrorPad", "Pad", "PadV2", "ReverseSequence", "Split", "SplitV")


def _lacking() -> dict[str, dict[Any, Any]]:
    """Return the dtypes that TFLite's operators lack, and the ones to use instead."""
    # A computation in float64 becomes one of float32, as the model's own; the outputs are compared.
    floats = {tf.float16: tf.float32, tf.float64: tf.float32}
    integers = {tf.uint8: tf.int32, tf.int8: tf.int32, tf.int16: tf.int32}
    dtypes = {operator: {**floats} for operator in (*_MOVING, *_COMPUTING)}
    for operator in (*_NO_SMALL_INTEGERS, *_COMPUTING):
        dtypes[operator] |= integers
    for operator in _NO_BOOLS:
        dtypes[operator][tf.bool] = tf.int32
    return dtypes


_OTHER_OPERATORS: dict[str, Form] = {
    "Abs": _abs,
    "Acos": _acos,
    "Acosh": _acosh,
    "ArgMax": _arg(tf.reduce_max),
    "ArgMin": _arg(tf.reduce_min),
    "Asin": _asin,
    "Asinh": _asinh,
    "Atan": _atan,
    "Atanh": _atanh,
    "Cosh": _cosh,
    "Cumprod": _cumprod,
    "DenseBincount": _dense_bincount,
    "DynamicPartition": _dynamic_partition,
    "DynamicStitch": _dynamic_stitch,
    "Einsum": _einsum,
    "Erf": _erf,
    "Erfc": _erfc,
    "FloorDiv": _floor_div,
    "IsFinite": _is_finite,
    "IsInf": _is_inf,
    "Pow": _pow,
    "Roll": _roll,
    "Rsqrt": _rsqrt,
    "Sign": _sign,
    "Sinh": _sinh,
    "Split": _split,
    "Squeeze": _squeeze,
    "Softmax": _softmax,
    "SplitV": _split_v,
    "Tan": _tan,
    "TensorScatterMax": _scatter_extreme(tf.math.unsorted_segment_max, tf.maximum),
    "TensorScatterMin": _scatter_extreme(tf.math.unsorted_segment_min, tf.minimum),
    "TensorScatterSub": _scatter_sub,
    "Transpose": _transpose,
    "TruncateDiv": _truncate_div,
    "Unpack": _unpack,
}

TFLITE_FORMS: dict[str, Form] = {
    **_OTHER_OPERATORS,
    **{
        operator: combined(
            in_other_dtypes(operator, dtypes),
            *([_OTHER_OPERATORS[operator]] if operator in _OTHER_OPERATORS else []),
        )
        for operator, dtypes in _lacking().items()
    },
}
"""The forms by the type of operator."""

TFLITE_FLOAT_FORMS: dict[str, Form] = {
    **TFLITE_FORMS,
    "Sigmoid": combined(TFLITE_FORMS["Sigmoid"], limited_sigmoid),
}
"""The same for files that compute in floats, whose inputs may have any value."""


def trace_and_convert(
    trace: Callable[[], tuple[Any, Any]], forms: Mapping[str, Form]
) -> tuple[Any, Any, bytes]:
    """Trace a model with forms of operators, and convert it to a float32 file.

    Args:
        trace: Returns the traced function, and anything else.
        forms: The forms by the type of operator.

    Returns:
        What ``trace`` returned, and the file.
    """
    with operator_forms(forms):
        function, other = trace()
    try:
        return function, other, convert_function(function)
    except UnsupportedOperatorError as error:
        if "Erfc" not in error.operators:
            raise
    # The converter fuses a GELU only if nothing else reads the half of its input.
    with operator_forms({**forms, "Erfc": _complement}):
        function, other = trace()
    return function, other, convert_function(function)
