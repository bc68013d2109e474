"""Operators and dtypes that TFLite Micro lacks, written with those that it has.

Its kernels take float32 and int8, and few other dtypes. Masks are bools and positions are integers,
so they pass many operators as float32, which holds them exactly: a position is below 2**24.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from bilstm_exporter.targets.operators import Form
from bilstm_exporter.targets.tflite.error_function import (
    ERF_DENOMINATOR,
    ERF_END,
    ERF_NUMERATOR,
)
from bilstm_exporter.targets.tflite.graph_editor import GraphEditor, operator_code, operator_name

_BUILTIN = schema.BuiltinOperator
_TENSOR = schema.TensorType
_BOOL, _INT32, _FLOAT = _TENSOR.BOOL, _TENSOR.INT32, _TENSOR.FLOAT32
_NUMPY = {_BOOL: np.bool_, _INT32: np.int32}

# The inputs that may be int32 or int64.
_INDEX_INPUT = {"GATHER": 1, "ONE_HOT": 0}
_COMPARISONS = frozenset(
    {"EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL"}
)  # fmt: skip

_ALL = None
# For each operator: the positions of the inputs that share the dtype of its outputs, and the dtypes
# that its kernel lacks and float32 replaces.
_AS_FLOATS: dict[str, tuple[tuple[int, ...] | None, frozenset[int]]] = {
    **{name: ((0,), frozenset({_BOOL, _INT32})) for name in (
        "BATCH_TO_SPACE_ND", "EXPAND_DIMS", "GATHER", "GATHER_ND", "MIRROR_PAD",
        "SPACE_TO_BATCH_ND", "TRANSPOSE",
    )},
    **{name: ((0,), frozenset({_INT32})) for name in (
        "ABS", "CUMSUM", "NEG", "REDUCE_MAX", "REDUCE_MIN", "SQUARE", "SUM",
    )},
    **{name: ((0,), frozenset({_BOOL})) for name in ("PAD", "SPLIT_V", "UNPACK", "ZEROS_LIKE")},
    **{name: (_ALL, frozenset({_INT32})) for name in ("ADD_N", "FLOOR_DIV", "FLOOR_MOD")},
    "DYNAMIC_UPDATE_SLICE": ((0, 1), frozenset({_BOOL})),
    "FILL": ((1,), frozenset({_BOOL})),
    "PACK": (_ALL, frozenset({_BOOL})),
    "PADV2": ((0, 2), frozenset({_BOOL})),
    "SELECT_V2": ((1, 2), frozenset({_BOOL, _INT32})),
    "SPLIT": ((1,), frozenset({_BOOL})),
}  # fmt: skip


def write_forms(model: Any, forms: AbstractSet[Form]) -> None:
    """Write operators in dtypes that TFLite Micro has, in place, if the runtimes need that.

    Args:
        model: The model, before `flatbuffer.finish`.
        forms: The forms that the runtimes need; those of other formats are ignored.
    """
    if Form.MICRO not in forms:
        return
    for subgraph in model.subgraphs:
        edit = GraphEditor(model, subgraph)
        for operator in list(subgraph.operators):
            name = operator_name(model, operator)
            if name in _REWRITES:
                _REWRITES[name](edit, operator)
            elif name in _AS_FLOATS:
                _through_floats(edit, operator, name)


def _through_floats(edit: GraphEditor, operator: Any, name: str) -> None:
    places, lacking = _AS_FLOATS[name]
    inputs = range(len(operator.inputs)) if places is None else places
    if edit.subgraph.tensors[operator.inputs[inputs[0]]].type in lacking:
        _inputs_as_floats(edit, operator, inputs)
        _outputs_from_floats(edit, operator)


def _index_in_floats(edit: GraphEditor, operator: Any) -> None:
    if edit.subgraph.tensors[operator.inputs[0]].type == _INT32:
        _inputs_as_floats(edit, operator, (0,))


def _any_as_all(edit: GraphEditor, operator: Any) -> None:
    """Write that not all are false."""
    operands, result = operator.inputs[0], operator.outputs[0]
    negated, every = (edit.add_like(edit.subgraph.tensors[n], _BOOL) for n in (operands, result))
    _insert_not(edit, operator, operands, negated)
    all_of = edit.insert(
        operator, _BUILTIN.REDUCE_ALL, [negated, operator.inputs[1]], every, version=1
    )
    all_of.builtinOptions, all_of.builtinOptionsType = (
        operator.builtinOptions,
        operator.builtinOptionsType,
    )
    _insert_not(edit, operator, every, result)
    edit.subgraph.operators = [one for one in edit.subgraph.operators if one is not operator]


def _select_as_v2(edit: GraphEditor, operator: Any) -> None:
    """Write SELECT of operands of one shape as SELECT_V2."""
    shapes = {
        tuple(() if edit.subgraph.tensors[n].shape is None else edit.subgraph.tensors[n].shape)
        for n in operator.inputs
    }
    if len(shapes) > 1:  # a condition for whole rows
        return
    operator.opcodeIndex = operator_code(edit.model, _BUILTIN.SELECT_V2, 1)
    operator.builtinOptions = schema.SelectV2OptionsT()
    operator.builtinOptionsType = schema.BuiltinOptions.SelectV2Options
    _through_floats(edit, operator, "SELECT_V2")


def _tile_as_broadcast(edit: GraphEditor, operator: Any) -> None:
    """Broadcast each repeated axis from size 1, for constant repetitions of fixed shapes."""
    tensors = edit.subgraph.tensors
    source, result = tensors[operator.inputs[0]], tensors[operator.outputs[0]]
    data = edit.model.buffers[tensors[operator.inputs[1]].buffer].data
    shape = [] if source.shape is None else [int(size) for size in source.shape]
    is_free = source.shapeSignature is not None and -1 in list(source.shapeSignature)
    if data is None or not len(data) or is_free:
        return
    kind = np.int64 if tensors[operator.inputs[1]].type == _TENSOR.INT64 else np.int32
    current = int(operator.inputs[0])
    for axis, count in enumerate(np.frombuffer(bytes(data), kind)):
        if count == 1:
            continue
        before, after = math.prod(shape[:axis]), math.prod(shape[axis:])
        shape[axis] *= int(count)
        apart = _reshaped(edit, operator, current, [before, 1, after])
        repeated = edit.add_like(source, source.type)
        tensors[repeated].shape = [before, int(count), after]
        tensors[repeated].quantization = source.quantization
        target = edit.add_constant(np.array([before, count, after], np.int32), [3])
        options = schema.BroadcastToOptionsT()
        edit.insert(
            operator, _BUILTIN.BROADCAST_TO, [apart, target], repeated, version=2, options=options
        )
        current = _reshaped(edit, operator, repeated, shape)
    _reshaped(edit, operator, current, shape, int(operator.outputs[0]))
    result.quantization = source.quantization
    edit.subgraph.operators = [one for one in edit.subgraph.operators if one is not operator]


def _reshaped(
    edit: GraphEditor, before: Any, number: int, shape: Sequence[int], result: int | None = None
) -> int:
    """Reshape a tensor before an operator, into a new tensor unless ``result`` is given."""
    tensors = edit.subgraph.tensors
    if result is None:
        result = edit.add_like(tensors[number], tensors[number].type)
        tensors[result].shape = list(shape)
        tensors[result].quantization = tensors[number].quantization
    options = schema.ReshapeOptionsT()
    options.newShape = list(shape)
    target = edit.add_constant(np.array(shape, np.int32), [len(shape)])
    edit.insert(before, _BUILTIN.RESHAPE, [number, target], result, version=1, options=options)
    return result


class _Floats:
    """Writes arithmetic on float32 tensors of one shape in the place of an operator.

    Args:
        edit: The editor.
        operator: The operator, which `finish` removes.
    """

    def __init__(self, edit: GraphEditor, operator: Any) -> None:
        self._edit, self._operator = edit, operator
        self.x = int(operator.inputs[0])

    def op(self, name: str, *operands: float) -> int:
        """Add an operator on tensors and numbers; returns its output."""
        inputs = [
            self._edit.add_constant(np.array(one, np.float32), [])
            if isinstance(one, float)
            else one
            for one in operands
        ]
        result = self._edit.add_like(self._edit.subgraph.tensors[self.x], _FLOAT)
        self._insert(name, inputs, result)
        return result

    def finish(self, name: str, *operands: int) -> None:
        """Add the last operator, whose output is that of the replaced one."""
        self._insert(name, list(operands), int(self._operator.outputs[0]))
        operators = self._edit.subgraph.operators
        self._edit.subgraph.operators = [one for one in operators if one is not self._operator]

    def polynomial(self, coefficients: Sequence[float], x: int) -> int:
        """Add a polynomial; the coefficient of the highest power is first."""
        value = self.op("ADD", self.op("MUL", x, coefficients[0]), coefficients[1])
        for coefficient in coefficients[2:]:
            value = self.op("ADD", self.op("MUL", value, x), coefficient)
        return value

    def _insert(self, name: str, inputs: Sequence[int], result: int) -> None:
        options = _ARITHMETIC[name]
        self._edit.insert(
            self._operator,
            getattr(_BUILTIN, name),
            inputs,
            result,
            version=1,
            options=None if options is None else options(),
        )


_ARITHMETIC: dict[str, Callable[[], Any] | None] = {
    "ADD": schema.AddOptionsT,
    "DIV": schema.DivOptionsT,
    "MAXIMUM": schema.MaximumMinimumOptionsT,
    "MINIMUM": schema.MaximumMinimumOptionsT,
    "MUL": schema.MulOptionsT,
    "TANH": None,
}


def _is_float(edit: GraphEditor, operator: Any) -> bool:
    return bool(edit.subgraph.tensors[operator.inputs[0]].type == _FLOAT)


def _gelu(edit: GraphEditor, operator: Any) -> None:
    """Write x / 2 * (1 + erf(x / sqrt(2))), or with a tanh if the operator approximates."""
    if not _is_float(edit, operator):
        return
    write = _Floats(edit, operator)
    x = write.x
    if operator.builtinOptions is not None and operator.builtinOptions.approximate:
        cube = write.op("MUL", write.op("MUL", x, x), x)
        inner = write.op("ADD", x, write.op("MUL", cube, 0.044715))
        erf = write.op("TANH", write.op("MUL", inner, math.sqrt(2 / math.pi)))
    else:
        scaled = write.op("MUL", x, math.sqrt(0.5))
        limited = write.op("MINIMUM", write.op("MAXIMUM", scaled, -ERF_END), ERF_END)
        square = write.op("MUL", limited, limited)
        numerator = write.op("MUL", limited, write.polynomial(ERF_NUMERATOR, square))
        erf = write.op("DIV", numerator, write.polynomial(ERF_DENOMINATOR, square))
    write.finish("MUL", write.op("MUL", x, 0.5), write.op("ADD", erf, 1.0))


def _limit_to_1(edit: GraphEditor, operator: Any) -> None:
    """Write the limits -1 and 1."""
    if _is_float(edit, operator):
        write = _Floats(edit, operator)
        at_least = write.op("MAXIMUM", write.x, -1.0)
        write.finish("MINIMUM", at_least, edit.add_constant(np.array(1, np.float32), []))


def _one_hot(edit: GraphEditor, operator: Any) -> None:
    """Compare with the classes, and select; the classes are the last axis of a fixed shape."""
    tensors = edit.subgraph.tensors
    indices, result = tensors[operator.inputs[0]], tensors[operator.outputs[0]]
    shape = [] if result.shape is None else [int(size) for size in result.shape]
    is_free = result.shapeSignature is not None and -1 in list(result.shapeSignature)
    if is_free or operator.builtinOptions.axis not in {-1, len(shape) - 1}:
        return
    if indices.type not in {_INT32, _TENSOR.INT64}:
        return
    apart = _reshaped(edit, operator, int(operator.inputs[0]), [*shape[:-1], 1])
    kind = np.int32 if indices.type == _INT32 else np.int64
    classes = edit.add_constant(np.arange(shape[-1], dtype=kind), [shape[-1]])
    is_class = edit.add_like(result, _BOOL)
    options = schema.EqualOptionsT()
    edit.insert(operator, _BUILTIN.EQUAL, [apart, classes], is_class, version=1, options=options)
    operator.opcodeIndex = operator_code(edit.model, _BUILTIN.SELECT_V2, 1)
    operator.builtinOptions = schema.SelectV2OptionsT()
    operator.builtinOptionsType = schema.BuiltinOptions.SelectV2Options
    operator.inputs = [is_class, *(int(number) for number in operator.inputs[2:])]
    _through_floats(edit, operator, "SELECT_V2")


def _insert_not(edit: GraphEditor, before: Any, source: int, result: int) -> None:
    options = schema.LogicalNotOptionsT()
    edit.insert(before, _BUILTIN.LOGICAL_NOT, [source], result, version=1, options=options)


def _inputs_as_floats(edit: GraphEditor, operator: Any, places: Iterable[int]) -> None:
    inputs = list(operator.inputs)
    for place in places:
        inputs[place] = _as_float(edit, operator, int(inputs[place]))
    operator.inputs = inputs


def _as_float(edit: GraphEditor, before: Any, number: int) -> int:
    """Cast a tensor to float32 before an operator; a constant becomes another one."""
    tensor = edit.subgraph.tensors[number]
    data = edit.model.buffers[tensor.buffer].data
    if data is not None and len(data):
        values = np.frombuffer(bytes(data), _NUMPY[tensor.type]).astype(np.float32)
        return edit.add_constant(values, [] if tensor.shape is None else list(tensor.shape))
    floats = edit.add_like(tensor, _FLOAT)
    _insert_cast(edit, before, number, floats)
    return floats


def _outputs_from_floats(edit: GraphEditor, operator: Any) -> None:
    """Let an operator compute float32, and restore the dtype of its outputs after it."""
    operators, tensors = edit.subgraph.operators, edit.subgraph.tensors
    place = next(index for index, one in enumerate(operators) if one is operator) + 1
    after = operators[place] if place < len(operators) else None
    outputs = list(operator.outputs)
    for index, number in enumerate(outputs):
        outputs[index] = edit.add_like(tensors[number], _FLOAT)
        if tensors[number].type == _BOOL:
            _insert_not_zero(edit, after, outputs[index], number)
        else:
            _insert_cast(edit, after, outputs[index], number)
    operator.outputs = outputs


def _cast(edit: GraphEditor, operator: Any) -> None:
    """Write the casts that the kernels lack: to bool (before 2026-10), and of int32 to int64."""
    number, result = int(operator.inputs[0]), int(operator.outputs[0])
    kinds = tuple(edit.subgraph.tensors[tensor].type for tensor in (number, result))
    if kinds == (_INT32, _TENSOR.INT64):
        if not _read_as_int32(edit, number, result):
            return
    elif kinds[1] == _BOOL != kinds[0]:
        _insert_not_zero(edit, operator, number, result)
    else:
        return
    edit.subgraph.operators = [one for one in edit.subgraph.operators if one is not operator]


def _read_as_int32(edit: GraphEditor, narrow: int, wide: int) -> bool:
    """Let all readers of an int64 tensor read the int32 tensor that it was cast from.

    Returns:
        Whether all do. If one cannot, such as an operator of arithmetic, nothing changes.
    """
    if wide in list(edit.subgraph.outputs):
        return False
    replaced = []
    for reader in edit.subgraph.operators:
        inputs = [int(number) for number in reader.inputs]
        if wide not in inputs:
            continue
        name = operator_name(edit.model, reader)
        others = [number for number in inputs if number != wide]
        if name in _COMPARISONS:
            found = [_int32_constant(edit, number) for number in others]
            others = [number for number in found if number is not None]
            if len(others) < len(found):
                return False
        elif name != "CAST" and inputs.index(wide) != _INDEX_INPUT.get(name):
            return False
        rest = iter(others)
        replaced.append((reader, [narrow if n == wide else next(rest) for n in inputs]))
    for reader, inputs in replaced:
        reader.inputs = inputs
        if operator_name(edit.model, reader) == "CAST" and reader.builtinOptions is not None:
            reader.builtinOptions.inDataType = _INT32
    return True


def _int32_constant(edit: GraphEditor, number: int) -> int | None:
    """Return a constant of int32 with the values of one of int64; None if there is none."""
    tensor = edit.subgraph.tensors[number]
    data = edit.model.buffers[tensor.buffer].data
    if data is None or not len(data):
        return None
    values = np.frombuffer(bytes(data), np.int64)
    narrow = values.astype(np.int32)
    shape = [] if tensor.shape is None else list(tensor.shape)
    return edit.add_constant(narrow, shape) if np.array_equal(narrow, values) else None


def _insert_not_zero(edit: GraphEditor, before: Any, source: int, result: int) -> None:
    kind = edit.subgraph.tensors[source].type
    zero = edit.add_constant(np.zeros((), np.int64 if kind == _TENSOR.INT64 else np.int32), [])
    if kind == _FLOAT:
        zero = edit.add_constant(np.zeros((), np.float32), [])
    options = schema.NotEqualOptionsT()
    inputs = [source, zero]
    edit.insert(before, _BUILTIN.NOT_EQUAL, inputs, result, version=1, options=options)


def _insert_cast(edit: GraphEditor, before: Any, source: int, result: int) -> None:
    options = schema.CastOptionsT()
    options.inDataType = edit.subgraph.tensors[source].type
    options.outDataType = edit.subgraph.tensors[result].type
    edit.insert(before, _BUILTIN.CAST, [source], result, version=1, options=options)


_REWRITES: dict[str, Callable[[GraphEditor, Any], None]] = {
    "ARG_MAX": _index_in_floats,
    "ARG_MIN": _index_in_floats,
    "CAST": _cast,
    "GELU": _gelu,
    "ONE_HOT": _one_hot,
    "REDUCE_ANY": _any_as_all,
    "RELU_N1_TO_1": _limit_to_1,
    "SELECT": _select_as_v2,
    "TILE": _tile_as_broadcast,
}
