"""Storing the weights of an ONNX model in fewer bits.

An LSTM and a large matrix product become onnxruntime's operators that compute in integers; an
embedding gives the rows it is asked for in float; every other weight is only stored in fewer bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from bilstm_exporter.quantization.affine import (
    Quantized,
    as_halves,
    lowest_storable_precision,
    quantize,
    quantize_multiplier,
    serves_all,
    why_not_float16,
)
from bilstm_exporter.quantization.recipes import Precision, PrecisionPlan, WeightOwners
from bilstm_exporter.targets.base import WeightForm
from bilstm_exporter.targets.onnx.builder import Builder

# Constants in fewer bits, and the operators that restore float32.
# The operators are of the standard domain and read constants only, so onnxruntime folds them
# when it loads the file: the weights are small on disk and as fast as ever in memory. (It folds no
# DequantizeLinear, which it would run anew in every call.)

# Numbers that share a scale in int4: 32 and a float16 scale make 4.5 bits a number.
BLOCK = 32
_ZERO_POINT = 8  # of the unsigned nibbles
_HALF_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Parts:
    """A stored weight: constants with one row for each row of the weight, and how to join them.

    Attributes:
        precision: How it is stored.
        constants: ``[rows, ...]``; what decoding needs.
        columns: Of the weight ``[rows, columns]``.
    """

    precision: Precision
    constants: tuple[np.ndarray, ...]
    columns: int


def store_rows(weight: np.ndarray, precision: Precision) -> Parts:
    """Store a weight row by row.

    Args:
        weight: float32 ``[rows, columns]``; a row (or, in int4, a block of one) shares a scale.
        precision: FLOAT16, INT8 or INT4; FLOAT16 must fit.
    """
    if precision is Precision.FLOAT16:
        return Parts(precision, (weight.astype(np.float16),), weight.shape[1])
    if precision is Precision.INT8:
        stored = quantize(weight, (1,), half_scales=True)
        return Parts(precision, (stored.values, as_halves(stored.scale)), weight.shape[1])
    rows, columns = weight.shape
    blocks, size = _blocks(columns)
    padded = np.zeros((rows, blocks * size), np.float32)
    padded[:, :columns] = weight
    stored = quantize(padded.reshape(rows, blocks, size), (2,), bits=4, half_scales=True)
    nibbles = (stored.values.astype(np.int16) + _ZERO_POINT).astype(np.uint8)
    # The first half of every block in the low nibbles, the second in the high ones.
    packed = nibbles[..., : size // 2] | (nibbles[..., size // 2 :] << 4)
    return Parts(precision, (packed, as_halves(stored.scale)), columns)


def groups_of(weight: np.ndarray, axis: int, precision: Precision) -> np.ndarray:
    """``[groups, numbers]``: those that share a scale when a weight is stored by `store`."""
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    if precision is not Precision.INT4:
        return rows
    blocks, size = _blocks(rows.shape[1])
    padded = np.zeros((len(rows), blocks * size), np.float32)
    padded[:, : rows.shape[1]] = rows
    return padded.reshape(-1, size)


def _blocks(columns: int) -> tuple[int, int]:
    """How many blocks a row has, and of how many numbers: halves of whole bytes."""
    blocks = max(1, -(-columns // BLOCK))
    size = -(-columns // blocks)
    return blocks, size + size % 2


def store(weight: np.ndarray, axis: int, precision: Precision) -> Parts:
    """Store a weight of any rank, channel by channel; see `store_rows`."""
    channels_first = np.moveaxis(weight, axis, 0)
    return store_rows(channels_first.reshape(len(channels_first), -1), precision)


def write_weight(build: Builder, parts: Parts, shape: tuple[int, ...], axis: int) -> ir.Value:
    """Write the operators that make a weight stored by `store` float32 again.

    Args:
        build: Takes the nodes.
        parts: The weight.
        shape: Of the weight.
        axis: Of its channels.
    """
    channels = shape[axis]
    rest = (*shape[:axis], *shape[axis + 1 :])
    # Channels come first in what is stored; axes of size 1 before them make no difference.
    moved = int(np.prod(shape[:axis])) > 1
    final = (channels, *rest) if moved else shape
    whole = _restored(build, parts, build.constant)
    if parts.precision is Precision.INT4:
        whole = _without_fill(build, parts, whole)
    if parts.precision is Precision.INT4 or final != (channels, parts.columns):
        whole = build.op("Reshape", whole, build.constant(final, "int64"))
    if not moved:
        return whole
    return build.op("Transpose", whole, perm=[*range(1, axis + 1), 0, *range(axis + 1, len(shape))])


def write_rows(build: Builder, parts: Parts, ids: ir.Value) -> ir.Value:
    """Write the operators that take rows of a stored table, and make those float32 again.

    Args:
        build: Takes the nodes.
        parts: The table ``[rows, columns]``.
        ids: Which rows: integers of any shape.

    Returns:
        The shape of ``ids``, then ``[columns]``.
    """
    shape = None
    if parts.precision is Precision.INT4:  # whose blocks are an axis of their own
        columns = build.constant([parts.columns])
        shape = build.op("Concat", build.op("Shape", ids), columns, axis=0)
        ids = build.op("Reshape", ids, build.constant([-1]))
    rows = _restored(
        build, parts, lambda constant: build.op("Gather", build.constant(constant), ids, axis=0)
    )
    return rows if shape is None else build.op("Reshape", _without_fill(build, parts, rows), shape)


def write_scale(build: Builder, scale: np.ndarray) -> ir.Value:
    """A scale in float32, stored in float16 where that is exact."""
    half = as_halves(scale)
    stored = build.constant(half)
    if half.dtype == np.float32:
        return stored
    return build.op("Cast", stored, to=int(ir.DataType.FLOAT))


def _restored(build: Builder, parts: Parts, read: Callable[[np.ndarray], ir.Value]) -> ir.Value:
    """What is read of a stored weight, in float32; int4 in blocks ``[rows, blocks, numbers]``."""

    def cast(value: ir.Value) -> ir.Value:
        return build.op("Cast", value, to=int(ir.DataType.FLOAT))

    stored = read(parts.constants[0])
    if parts.precision is Precision.FLOAT16:
        return cast(stored)
    if parts.precision is Precision.INT4:
        # There is no operator on nibbles.
        low = build.op("Mod", stored, build.constant(16, "uint8"))
        high = build.op("BitShift", stored, build.constant(4, "uint8"), direction="RIGHT")
        stored = build.op("Concat", low, high, axis=2)
    whole = cast(stored)
    if parts.precision is Precision.INT4:
        whole = build.op("Sub", whole, build.constant(_ZERO_POINT, "float32"))
    scale = read(parts.constants[1])
    return build.op("Mul", whole, cast(scale) if parts.constants[1].dtype == np.float16 else scale)


def _without_fill(build: Builder, parts: Parts, blocks: ir.Value) -> ir.Value:
    """Leave out what fills up the last block."""
    _, count, half = parts.constants[0].shape
    if 2 * count * half == parts.columns:
        return blocks
    flat = build.op("Reshape", blocks, build.constant([-1, 2 * count * half]))
    return build.op("Slice", flat, *(build.constant([value]) for value in (0, parts.columns, 1)))


MICROSOFT = "com.microsoft"
# A smaller weight would save less than the operators that restore it take.
MIN_ELEMENTS = 256
# A smaller product costs as much time to quantize its input for as it saves.
MIN_DYNAMIC_ELEMENTS = 16_384
# The axis of a weight's output channels, by what reads it and at which input.
_CHANNELS = {
    ("LSTM", 1): 1, ("LSTM", 2): 1, ("GRU", 1): 1, ("GRU", 2): 1, ("RNN", 1): 1, ("RNN", 2): 1,
    ("Conv", 1): 0, ("ConvTranspose", 1): 1, ("MatMul", 1): -1, ("MatMul", 0): -2,
    ("Gather", 0): 0,
}  # fmt: skip
_RECURRENT = ("LSTM", "GRU", "RNN")
_NO_OPERATOR = "onnxruntime has no quantized {}: stored in int8, computed in float"


@dataclass(frozen=True)
class _Use:
    """One weight where it is read."""

    node: ir.Node
    index: int
    array: np.ndarray
    precision: Precision
    layer: str
    reason: str = ""

    @property
    def axis(self) -> int:
        """Of the channels."""
        axis = _CHANNELS.get((self.node.op_type, self.index), -1)
        if self.node.op_type == "Gemm":
            transposed = self.node.attributes.get("transB")
            axis = 0 if transposed is not None and transposed.as_int() else -1
        return axis % self.array.ndim

    def form(self, *, dynamic: bool = False, reason: str = "") -> WeightForm:
        return WeightForm(
            self.layer,
            self.node.op_type,
            self.array.size,
            self.precision.label,
            dynamic,
            self.reason or reason,
        )


def store_weights(model: ir.Model, plan: PrecisionPlan, owners: WeightOwners) -> list[WeightForm]:
    """Store every weight as the plan says, in place, and report how each was stored.

    Args:
        model: All float32.
        plan: The precision of every layer's weights.
        owners: Which layer a constant belongs to.

    Returns:
        One entry for each weight that is large enough to be worth storing in another way.
    """
    writer = _Writer()
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in list(graph):
            uses = {use.index: use for use in _uses(node, plan, owners)}
            if uses:
                writer.write(node, uses)
    if writer.uses_microsoft:
        model.graph.opset_imports[MICROSOFT] = 1
    for graph in (model.graph, *model.graph.subgraphs()):
        for name, value in list(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del graph.initializers[name]
    common.DeduplicateInitializersPass()(model)  # zero points and such
    changed = any(form.storage != Precision.FLOAT32.label for form in writer.forms)
    return writer.forms if changed else []


def _uses(node: ir.Node, plan: PrecisionPlan, owners: WeightOwners) -> Iterator[_Use]:
    arrays = {
        index: value.const_value.numpy()
        for index, value in enumerate(node.inputs)
        if value is not None
        and value.is_initializer()
        and value.const_value is not None
        and value.const_value.dtype == ir.DataType.FLOAT
    }
    recurrent = node.op_type in _RECURRENT
    # Both kernels of a recurrence are stored alike, whatever the size of one of them.
    largest = max((arrays[index].size for index in (1, 2) if index in arrays), default=0)
    for index, array in arrays.items():
        size = largest if recurrent else array.size
        layers = owners.of(array)
        # A constant of no layer may be a table that has to be exact, as of positions or of masks.
        known = layers or (node.op_type, index) in _CHANNELS
        is_bias = recurrent and index > 2
        if array.ndim > 1 and known and not is_bias and size >= MIN_ELEMENTS:
            yield _at_storable_precision(
                _Use(node, index, array, plan.of(layers), ", ".join(layers))
            )


def _at_storable_precision(use: _Use) -> _Use:
    """The same in a precision that can hold it."""
    groups = groups_of(use.array, use.axis, use.precision)
    precision, reason = lowest_storable_precision(groups, use.precision)
    return replace(use, precision=precision, reason=reason)


class _Writer:
    """Writes weights, each once for all that read it in the same way."""

    def __init__(self) -> None:
        self.forms: list[WeightForm] = []
        self.uses_microsoft = False
        self._restored: dict[tuple[ir.Value, Precision, int], ir.Value] = {}
        self._count = 0

    def write(self, node: ir.Node, uses: dict[int, _Use]) -> None:
        if node.op_type == "LSTM" and self._dynamic_lstm(node, uses):
            return
        if self._dynamic_product(node, uses) or self._rows(node, uses):
            return
        for use in uses.values():
            self._restore(node, use)
        if any(use.precision is not Precision.FLOAT32 for use in uses.values()):
            self._store_bias(node)

    def _store_bias(self, node: ir.Node) -> None:
        """A recurrence's biases are a good part of a small file, and float16 is enough for them."""
        value = node.inputs[3] if node.op_type in _RECURRENT and len(node.inputs) > 3 else None
        array = None if value is None or value.const_value is None else value.const_value.numpy()
        if array is None or array.dtype != np.float32 or why_not_float16(array):
            return
        if node.graph is not None:
            build = self._builder()
            node.replace_input_with(3, _bias(build, array))
            build.put_first(node.graph)

    def _dynamic_lstm(self, node: ir.Node, uses: dict[int, _Use]) -> bool:
        if {index for index, use in uses.items() if use.precision is Precision.INT8} != {1, 2}:
            return False
        self._store_bias(node)
        build = self._builder()
        stored, scales = {}, {}
        for index, use in uses.items():
            directions = _multipliers([matrix.T for matrix in use.array])
            stored[index] = build.constant(np.stack([part.values for part in directions]))
            scale = np.concatenate([part.scale for part in directions])
            scale = scale[:, 0] if scale.shape[1] == 1 else scale
            zero_point = build.constant(np.zeros(scale.shape, np.int8))
            scales[index] = (write_scale(build, scale), zero_point)
            self.forms.append(use.form(dynamic=True))
        inputs = [*node.inputs, *[None] * (8 - len(node.inputs))]
        inputs[1], inputs[2] = stored[1], stored[2]
        outputs = build.ops(
            "DynamicQuantizeLSTM",
            len(node.outputs),
            *inputs,
            *scales[1],
            *scales[2],
            domain=MICROSOFT,
            **{name: attribute.value for name, attribute in node.attributes.items()},
        )
        self._put(node, build, outputs)
        return True

    def _dynamic_product(self, node: ir.Node, uses: dict[int, _Use]) -> bool:
        """``MatMul`` and ``Gemm`` with a large constant matrix on the right."""
        use = uses.get(1)
        if (
            use is None
            or use.precision is not Precision.INT8
            or use.array.ndim != 2
            or use.array.size < MIN_DYNAMIC_ELEMENTS
        ):
            return False
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        transposed = attributes.pop("transB", 0)
        plain = all(attributes.get(name, 1) == 1 for name in ("alpha", "beta"))
        if node.op_type == "Gemm" and (attributes.get("transA", 0) or not plain):
            return False
        if node.op_type not in {"MatMul", "Gemm"}:
            return False
        build = self._builder()
        stored = quantize_multiplier(use.array.T if transposed else use.array)
        scale = stored.scale[0]
        product = build.ops(
            "DynamicQuantizeMatMul",
            1,
            node.inputs[0],
            build.constant(stored.values),
            write_scale(build, scale),
            build.constant(np.zeros(scale.shape, np.int8)),
            domain=MICROSOFT,
        )[0]
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            product = build.op("Add", product, node.inputs[2])
        self.forms.append(use.form(dynamic=True))
        self._put(node, build, [product])
        return True

    def _builder(self) -> Builder:
        self._count += 1
        return Builder(f"w{self._count}", opset=0)  # names are a good part of a small file

    def _put(self, node: ir.Node, build: Builder, outputs: list[ir.Value]) -> None:
        for old, new in zip(node.outputs, outputs, strict=True):
            new.name, new.type, new.shape = old.name, old.type, old.shape
        build.replace(node, outputs)
        self.uses_microsoft = True

    def _rows(self, node: ir.Node, uses: dict[int, _Use]) -> bool:
        """An embedding: only the rows that are asked for are restored."""
        use, ids = uses.get(0), node.inputs[1] if len(node.inputs) > 1 else None
        axis = node.attributes.get("axis")
        if node.op_type != "Gather" or use is None or ids is None:
            return False
        if use.array.ndim != 2 or (axis is not None and axis.as_int() != 0):
            return False
        if self._stays(use):
            return True
        build = self._builder()
        rows = write_rows(build, store_rows(use.array, use.precision), ids)
        old = node.outputs[0]
        rows.name, rows.type, rows.shape = old.name, old.type, old.shape
        build.replace(node, [rows])
        self.forms.append(use.form())
        return True

    def _restore(self, node: ir.Node, use: _Use) -> None:
        """Any other weight: stored in fewer bits, and float again before it is read."""
        if self._stays(use):
            return
        value = node.inputs[use.index]
        axis = use.axis
        reason = ""
        if use.precision is Precision.INT8 and node.op_type in _RECURRENT:
            reason = _NO_OPERATOR.format(node.op_type)
        self.forms.append(use.form(reason=reason))
        if value is None:
            return
        key = (value, use.precision, axis)
        if key not in self._restored:
            build = self._builder()
            parts = store(use.array, axis, use.precision)
            whole = write_weight(build, parts, use.array.shape, axis)
            if isinstance(value.graph, ir.Graph):
                build.put_first(value.graph)
            self._restored[key] = whole
        node.replace_input_with(use.index, self._restored[key])

    def _stays(self, use: _Use) -> bool:
        """Whether a weight is left in float32, which is then reported."""
        if use.precision is not Precision.FLOAT32:
            return False
        self.forms.append(use.form())
        return True


def _multipliers(matrices: Sequence[np.ndarray]) -> list[Quantized]:
    """The matrices ``[inputs, channels]`` of each direction, with one scale if that will do.

    Scales of channels take onnxruntime longer: with one, int8 is 1.16 times faster at 64 units,
    1.19 at 128 and 1.07 at 256 (Xeon with AVX-512 VNNI).
    """
    one = [quantize_multiplier(matrix, per_channel=False) for matrix in matrices]
    if all(
        serves_all(matrix.T, replace(found, values=found.values.T))
        for matrix, found in zip(matrices, one, strict=True)
    ):
        return one
    return [quantize_multiplier(matrix) for matrix in matrices]


def _bias(build: Builder, array: np.ndarray) -> ir.Value:
    """ONNX's LSTM has two biases, where Keras's has one: zeros need not be stored."""

    def half(part: np.ndarray) -> ir.Value:
        if part.any():
            stored = build.constant(part.astype(np.float16))
            return build.op("Cast", stored, to=int(ir.DataType.FLOAT))
        return build.op("ConstantOfShape", build.constant(part.shape, "int64"))

    return build.op("Concat", *(half(part) for part in np.split(array, 2, axis=1)), axis=1)
