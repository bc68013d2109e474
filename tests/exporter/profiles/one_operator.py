"""TFLite models of one operator, to find out what a runtime's kernels take."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

TYPES: dict[str, tuple[int, Any]] = {
    name: (getattr(schema.TensorType, name.upper()), dtype)
    for name, dtype in (
        ("float32", np.float32),
        ("int8", np.int8),
        ("int16", np.int16),
        ("int32", np.int32),
        ("int64", np.int64),
        ("bool", np.bool_),
        ("uint8", np.uint8),
        ("float16", np.float16),
    )
}
DATA = "data"
"""The dtype of a tensor that has the dtype under test."""

# What the kernels of these operators demand of the scale and zero point of their output.
_OUTPUTS = {
    ("SOFTMAX", "int8"): (1 / 256, -128),
    ("LOGISTIC", "int8"): (1 / 256, -128),
    ("TANH", "int8"): (1 / 128, 0),
    ("L2_NORMALIZATION", "int8"): (1 / 128, 0),
    ("LOG_SOFTMAX", "int8"): (16 / 256, 127),
    ("SOFTMAX", "int16"): (2**-15, 0),
    ("LOGISTIC", "int16"): (2**-15, 0),
    ("TANH", "int16"): (2**-15, 0),
}

Tensor = tuple[str, Any]
"""The dtype, or `DATA`, and the shape, or the values of a constant."""


@dataclass(frozen=True)
class Operator:
    """How to use an operator.

    Attributes:
        inputs: Its inputs.
        outputs: Its outputs.
        options: The class of its options, or "".
        attributes: Values of the options.
    """

    inputs: list[Tensor]
    outputs: list[Tensor]
    options: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)


def const(*values: int) -> Tensor:
    return "int32", np.array(values, np.int32)


MATRIX: Tensor = (DATA, (2, 3))
IMAGE: Tensor = (DATA, (1, 4, 4, 2))
_PADS: Tensor = ("int32", np.array([[0, 0], [1, 0]], np.int32))
_CROPS: Tensor = ("int32", np.zeros((2, 2), np.int32))
_POOL = {"strideW": 1, "strideH": 1, "filterWidth": 2, "filterHeight": 2, "padding": 1}
_INT32 = schema.TensorType.INT32

OPERATORS: dict[str, Operator] = {
    **{
        name: Operator([MATRIX], [MATRIX])
        for name in (
            "ABS CEIL COS ELU EXP FLOOR HARD_SWISH LOG LOGISTIC LOG_SOFTMAX NEG RELU RELU6 ROUND "
            "RSQRT SIN SQRT SQUARE TANH ZEROS_LIKE"
        ).split()
    },
    **{
        name: Operator([MATRIX, MATRIX], [MATRIX], options)
        for name, options in {
            "ADD": "AddOptions",
            "SUB": "SubOptions",
            "MUL": "MulOptions",
            "DIV": "DivOptions",
            "FLOOR_DIV": "FloorDivOptions",
            "FLOOR_MOD": "FloorModOptions",
            "MAXIMUM": "MaximumMinimumOptions",
            "MINIMUM": "MaximumMinimumOptions",
            "SQUARED_DIFFERENCE": "SquaredDifferenceOptions",
            "PRELU": "",
            "ADD_N": "AddNOptions",
        }.items()
    },
    **{
        name: Operator([MATRIX, MATRIX], [("bool", (2, 3))])
        for name in "EQUAL NOT_EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL".split()
    },
    **{
        name: Operator([MATRIX, const(1)], [(DATA, (2,))], "ReducerOptions")
        for name in "SUM MEAN REDUCE_MAX REDUCE_MIN REDUCE_ALL REDUCE_ANY REDUCE_PROD".split()
    },
    **{
        name: Operator(
            [MATRIX, const(1)], [("int32", (2,))], "ArgMaxOptions", {"outputType": _INT32}
        )
        for name in ("ARG_MAX", "ARG_MIN")
    },
    **{
        name: Operator([IMAGE], [(DATA, (1, 3, 3, 2))], "Pool2DOptions", _POOL)
        for name in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D")
    },
    "SOFTMAX": Operator([MATRIX], [MATRIX], "SoftmaxOptions", {"beta": 1.0}),
    "LEAKY_RELU": Operator([MATRIX], [MATRIX], "LeakyReluOptions", {"alpha": 0.1}),
    "LOGICAL_NOT": Operator([MATRIX], [MATRIX], "LogicalNotOptions"),
    "BATCH_MATMUL": Operator(
        [(DATA, (1, 2, 3)), (DATA, (1, 3, 2))], [(DATA, (1, 2, 2))], "BatchMatMulOptions"
    ),
    "BATCH_TO_SPACE_ND": Operator(
        [(DATA, (4, 1, 1, 2)), const(2, 2), _CROPS], [(DATA, (1, 2, 2, 2))]
    ),
    "SPACE_TO_BATCH_ND": Operator(
        [(DATA, (1, 2, 2, 2)), const(2, 2), _CROPS], [(DATA, (4, 1, 1, 2))]
    ),
    "SPACE_TO_DEPTH": Operator(
        [(DATA, (1, 2, 2, 1))], [(DATA, (1, 1, 1, 4))], "SpaceToDepthOptions", {"blockSize": 2}
    ),
    "DEPTH_TO_SPACE": Operator(
        [(DATA, (1, 1, 1, 4))], [(DATA, (1, 2, 2, 1))], "DepthToSpaceOptions", {"blockSize": 2}
    ),
    "BROADCAST_TO": Operator([(DATA, (1, 3)), const(2, 3)], [MATRIX]),
    "CONCATENATION": Operator(
        [MATRIX, MATRIX], [(DATA, (2, 6))], "ConcatenationOptions", {"axis": 1}
    ),
    "CUMSUM": Operator([MATRIX, const(1)], [MATRIX], "CumsumOptions"),
    "DYNAMIC_UPDATE_SLICE": Operator([MATRIX, (DATA, (1, 3)), const(1, 0)], [MATRIX]),
    "EXPAND_DIMS": Operator([MATRIX, const(0)], [(DATA, (1, 2, 3))], "ExpandDimsOptions"),
    "FILL": Operator([const(2, 3), (DATA, ())], [MATRIX], "FillOptions"),
    "GATHER": Operator([MATRIX, const(0, 1, 0)], [(DATA, (3, 3))], "GatherOptions"),
    "GATHER_ND": Operator([MATRIX, ("int32", np.array([[0], [1]], np.int32))], [MATRIX]),
    "L2_NORMALIZATION": Operator([MATRIX], [MATRIX], "L2NormOptions"),
    "MIRROR_PAD": Operator([MATRIX, _PADS], [(DATA, (2, 4))], "MirrorPadOptions", {"mode": 1}),
    "PACK": Operator(
        [MATRIX, MATRIX], [(DATA, (2, 2, 3))], "PackOptions", {"valuesCount": 2, "axis": 0}
    ),
    "UNPACK": Operator(
        [MATRIX], [(DATA, (3,)), (DATA, (3,))], "UnpackOptions", {"num": 2, "axis": 0}
    ),
    "PAD": Operator([MATRIX, _PADS], [(DATA, (2, 4))], "PadOptions"),
    "PADV2": Operator([MATRIX, _PADS, (DATA, ())], [(DATA, (2, 4))], "PadV2Options"),
    "RESHAPE": Operator([MATRIX, const(6)], [(DATA, (6,))], "ReshapeOptions", {"newShape": [6]}),
    "RESIZE_BILINEAR": Operator(
        [IMAGE, const(2, 2)], [(DATA, (1, 2, 2, 2))], "ResizeBilinearOptions"
    ),
    "RESIZE_NEAREST_NEIGHBOR": Operator(
        [IMAGE, const(2, 2)], [(DATA, (1, 2, 2, 2))], "ResizeNearestNeighborOptions"
    ),
    "REVERSE_V2": Operator([MATRIX, const(1)], [MATRIX], "ReverseV2Options"),
    "SELECT_V2": Operator([("bool", (2, 3)), MATRIX, MATRIX], [MATRIX], "SelectV2Options"),
    "SHAPE": Operator([MATRIX], [("int32", (2,))], "ShapeOptions", {"outType": _INT32}),
    "SLICE": Operator([MATRIX, const(0, 1), const(2, 2)], [(DATA, (2, 2))], "SliceOptions"),
    "STRIDED_SLICE": Operator(
        [MATRIX, const(0, 0), const(1, 3), const(1, 1)], [(DATA, (1, 3))], "StridedSliceOptions"
    ),
    "SPLIT": Operator(
        [const(0), MATRIX], [(DATA, (1, 3)), (DATA, (1, 3))], "SplitOptions", {"numSplits": 2}
    ),
    "SPLIT_V": Operator(
        [MATRIX, const(1, 2), const(1)],
        [(DATA, (2, 1)), (DATA, (2, 2))],
        "SplitVOptions",
        {"numSplits": 2},
    ),
    "SQUEEZE": Operator([(DATA, (1, 3))], [(DATA, (3,))], "SqueezeOptions", {"squeezeDims": [0]}),
    "TRANSPOSE": Operator([MATRIX, const(1, 0)], [(DATA, (3, 2))], "TransposeOptions"),
    # Operators that TFLite Micro lacks.
    "TILE": Operator([MATRIX, const(1, 2)], [(DATA, (2, 6))], "TileOptions"),
    "POW": Operator([MATRIX, MATRIX], [MATRIX], "PowOptions"),
    "SIGN": Operator([MATRIX], [MATRIX]),
    "GELU": Operator([MATRIX], [MATRIX], "GeluOptions"),
    "ONE_HOT": Operator(
        [const(0, 1), const(3), (DATA, ()), (DATA, ())],
        [MATRIX],
        "OneHotOptions",
        {"axis": -1},
    ),
    "RELU_N1_TO_1": Operator([MATRIX], [MATRIX]),
    "TOPK_V2": Operator([MATRIX, const(1)], [(DATA, (2, 1)), ("int32", (2, 1))], "TopKV2Options"),
}


# The constants of operators on tensors with some axes of size 1 before their own, by position; the
# values for these axes come before those of the operator's own.
_LEADING = {
    "BROADCAST_TO": {1: 1},
    "DYNAMIC_UPDATE_SLICE": {2: 0},
    "SLICE": {1: 0, 2: 1},
    "STRIDED_SLICE": {1: 0, 2: 1, 3: 1},
}


def with_rank(name: str, rank: int) -> Operator:
    """An operator of `RANKED` on tensors with that many axes."""
    operator = OPERATORS[name]
    more = rank - max(len(shape) for kind, shape in operator.inputs if kind == DATA)
    ones = (1,) * more
    inputs = [(kind, (*ones, *s)) if kind == DATA and s != () else (kind, s)
              for kind, s in operator.inputs]  # fmt: skip
    outputs = [(kind, (*ones, *shape)) for kind, shape in operator.outputs]
    for position, value in _LEADING.get(name, {}).items():
        inputs[position] = const(*[value] * more, *operator.inputs[position][1])
    attributes = dict(operator.attributes)
    if name in {"PAD", "PADV2"}:
        pads = np.concatenate([np.zeros((more, 2), np.int32), operator.inputs[1][1]])
        inputs[1] = ("int32", pads)
    elif name == "CONCATENATION":
        attributes["axis"] += more
    elif name == "GATHER_ND":
        inputs[1] = ("int32", np.array([[0] * more + [0], [0] * more + [1]], np.int32))
        outputs = operator.outputs
    elif name == "REVERSE_V2":
        inputs[1] = const(1 + more)
    elif name == "TRANSPOSE":
        inputs[1] = const(*range(more), more + 1, more)
    return replace(operator, inputs=inputs, outputs=outputs, attributes=attributes)


RANKED = (
    "BATCH_MATMUL BROADCAST_TO CONCATENATION DYNAMIC_UPDATE_SLICE GATHER_ND L2_NORMALIZATION PAD "
    "PADV2 PRELU REVERSE_V2 SLICE STRIDED_SLICE TRANSPOSE"
).split()
"""Operators of which a runtime may take few axes only."""


def depends_on_dtype(name: str) -> bool:
    """Whether an operator has tensors of the dtype under test."""
    operator = OPERATORS[name]
    return any(dtype == DATA for dtype, _ in (*operator.inputs, *operator.outputs))


def dtypes_of(name: str, dtype: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The dtypes of the inputs and of the outputs, with this dtype under test."""
    operator = OPERATORS[name]
    inputs, outputs = (
        tuple(dtype if one == DATA else one for one, _ in side)
        for side in (operator.inputs, operator.outputs)
    )
    return inputs, outputs


def one_operator(
    name: str, dtype: str, operator: Operator | None = None
) -> tuple[bytes, list[np.ndarray]]:
    """A model of one operator in this dtype, by default as in `OPERATORS`, and inputs of ones."""
    operator = operator or OPERATORS[name]
    model, graph, used = schema.ModelT(), schema.SubGraphT(), schema.OperatorT()
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
    model.version, model.buffers, model.operatorCodes = 3, [schema.BufferT()], [code]
    graph.tensors, graph.inputs, used.opcodeIndex = [], [], 0
    arrays = []

    def add(tensor: Tensor, *, is_output: bool) -> int:
        kind, shape = tensor
        kind = dtype if kind == DATA else kind
        new = schema.TensorT()
        new.type, new.buffer, new.shape = TYPES[kind][0], 0, list(np.shape(shape))
        if isinstance(shape, np.ndarray):
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(shape.tobytes(), np.uint8)
            model.buffers.append(buffer)
            new.buffer = len(model.buffers) - 1
        else:
            new.shape = list(shape)
        if kind in {"int8", "int16", "uint8"}:
            scale, zero_point = _OUTPUTS.get((name, kind), (0.05, 0)) if is_output else (0.05, 0)
            new.quantization = schema.QuantizationParametersT()
            new.quantization.scale = np.array([scale], np.float32)
            new.quantization.zeroPoint = np.array([zero_point], np.int64)
        graph.tensors.append(new)
        number = len(graph.tensors) - 1
        if not is_output and not isinstance(shape, np.ndarray):
            graph.inputs.append(number)
            arrays.append(np.ones(shape, TYPES[kind][1]))
        return number

    used.inputs = [add(tensor, is_output=False) for tensor in operator.inputs]
    used.outputs = [add(tensor, is_output=True) for tensor in operator.outputs]
    if operator.options:
        used.builtinOptions = getattr(schema, f"{operator.options}T")()
        vars(used.builtinOptions).update(operator.attributes)
        used.builtinOptionsType = getattr(schema.BuiltinOptions, operator.options)
    graph.operators, graph.outputs = [used], list(used.outputs)
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output()), arrays
