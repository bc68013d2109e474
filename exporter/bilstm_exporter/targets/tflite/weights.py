"""Stores the weights of a TFLite model in fewer bits, by editing the flatbuffer.

A matrix product computes in integers: XNNPACK quantizes its other input at run time. An embedding
dequantizes only the rows it looks up. Every other weight is only stored in fewer bits: LiteRT
dequantizes constants once, when it plans a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from bilstm_exporter.quantization.recipes import Precision, PrecisionPlan, WeightOwners
from bilstm_exporter.targets.base import WeightForm
from bilstm_exporter.targets.tflite.graph_editor import (
    GraphEditor,
    constant,
    operator_code,
    operator_name,
)
from bilstm_exporter.targets.tflite.weight_storage import (
    Stored,
    common_scales,
    store_any,
    store_matrix,
    store_table,
)

# For a smaller weight the operators that restore it take more space than is saved.
MIN_ELEMENTS = 256
# Operators with weights, and the input index of the weight.
_WEIGHTS = {
    ("FULLY_CONNECTED", 1), ("GATHER", 0), ("CONV_2D", 1), ("CONV_3D", 1),
    ("DEPTHWISE_CONV_2D", 1), ("TRANSPOSE_CONV", 1), ("BATCH_MATMUL", 1), ("BATCH_MATMUL", 0),
}  # fmt: skip
_WEIGHT_ONLY = "stored in {}, computed in float: an integer {} would use one scale for all steps"
_BUILTIN = schema.BuiltinOperator
_TENSOR = schema.TensorType
_KINDS = {
    Precision.INT4: _TENSOR.INT4,
    Precision.INT8: _TENSOR.INT8,
    Precision.FLOAT16: _TENSOR.FLOAT16,
}


def store_weights(model: Any, plan: PrecisionPlan, owners: WeightOwners) -> list[WeightForm]:
    """Store every weight as the plan says, in place, and report how each was stored.

    Args:
        model: The float32 model, before `flatbuffer.finish`.
        plan: The precision of every layer's weights.
        owners: Which layer a constant belongs to.

    Returns:
        One entry per weight of at least `MIN_ELEMENTS` elements; empty if all stay float32.
    """
    writer = _Writer(model, plan, owners)
    for subgraph in model.subgraphs:
        writer.write(subgraph)
    _drop_unread(model)
    changed = any(form.storage != Precision.FLOAT32.label for form in writer.forms.values())
    return list(writer.forms.values()) if changed else []


@dataclass(frozen=True)
class _Use:
    """One read of a constant by an operator."""

    operator: Any
    name: str
    index: int
    values: np.ndarray
    layers: tuple[str, ...]
    precision: Precision

    @property
    def tensor(self) -> int:
        return int(self.operator.inputs[self.index])


class _Writer:
    """Decides once for all copies of a weight, and writes it once per subgraph."""

    def __init__(self, model: Any, plan: PrecisionPlan, owners: WeightOwners) -> None:
        self.forms: dict[tuple[str, bytes], WeightForm] = {}
        self._model = model
        self._plan = plan
        self._owners = owners
        self._layers: dict[bytes, tuple[str, ...]] = {}
        self._stored: dict[tuple[str, bytes], Stored] = {}
        self._tied = _tied(model)
        self._common = self._common_scales(model)

    def write(self, subgraph: Any) -> None:
        """Store the weights that one subgraph reads."""
        edit = GraphEditor(self._model, subgraph)
        written: dict[tuple[int, str], int] = {}
        for use in list(self._uses(subgraph)):
            kind = _storage_kind(use)
            stored = self._store(use, kind)
            if stored.precision is Precision.FLOAT32:
                continue
            if kind == "table" and _is_lookup(use):
                write_lookup(edit, use.operator, stored)
                continue
            key = (use.tensor, kind)
            if key not in written:
                written[key] = self._constant(edit, use, stored, kind)
            use.operator.inputs[use.index] = written[key]
            if kind == "matrix" and stored.precision is not Precision.FLOAT16:
                operator_code(self._model, _BUILTIN.FULLY_CONNECTED, 12)
                use.operator.builtinOptions.asymmetricQuantizeInputs = True

    def _uses(self, subgraph: Any) -> Iterator[_Use]:
        for operator in subgraph.operators:
            name = operator_name(self._model, operator)
            for index, number in enumerate(operator.inputs):
                values = constant(self._model, subgraph.tensors[number]) if number >= 0 else None
                if values is None or values.size < MIN_ELEMENTS:
                    continue
                layers = self._layers_of(values)
                # A constant of no layer may have to be exact, such as a table of positions.
                if values.ndim > 1 and (layers or (name, index) in _WEIGHTS):
                    yield _Use(operator, name, index, values, layers, self._plan.of(layers))

    def _common_scales(self, model: Any) -> dict[bytes, np.ndarray]:
        """Scales shared by matrices of a layer, by the values of each matrix."""
        matrices: dict[tuple[tuple[str, ...], int], dict[bytes, np.ndarray]] = {}
        for subgraph in model.subgraphs:
            for use in self._uses(subgraph):
                content = use.values.tobytes()
                can_share = use.precision is Precision.INT8 and bool(use.layers)
                if can_share and _storage_kind(use) == "matrix" and content not in self._tied:
                    key = (use.layers, len(use.values))
                    matrices.setdefault(key, {})[content] = use.values
        common = {}
        for group in matrices.values():
            scales = common_scales(list(group.values()))
            if scales is not None:
                common.update(dict.fromkeys(group, scales))
        return common

    def _layers_of(self, values: np.ndarray) -> tuple[str, ...]:
        content = values.tobytes()
        if content not in self._layers:
            self._layers[content] = self._owners.of(values)
        return self._layers[content]

    def _store(self, use: _Use, kind: str) -> Stored:
        content = use.values.tobytes()
        key = (kind, content)
        if key not in self._stored:
            self._stored[key] = self._decide(use, kind)
        stored = self._stored[key]
        form_key = (use.name, content)
        if form_key not in self.forms:
            label = stored.precision.label
            dynamic = kind == "matrix" and stored.precision < Precision.FLOAT16
            reason = stored.reason
            if not reason and kind == "any" and stored.precision < Precision.FLOAT16:
                reason = _WEIGHT_ONLY.format(label, use.name)
            self.forms[form_key] = WeightForm(
                ", ".join(use.layers), use.name, use.values.size, label, dynamic, reason
            )
        return stored

    def _decide(self, use: _Use, kind: str) -> Stored:
        if use.precision is Precision.FLOAT32:
            return Stored(Precision.FLOAT32, use.values)
        if kind == "table":
            return store_table(use.values, use.precision)
        if kind == "matrix":
            if use.values.tobytes() in self._tied:
                return _as_matrix(store_table(use.values, use.precision), len(use.values))
            scales = self._common.get(use.values.tobytes())
            plain = _is_plain(use.operator)
            return store_matrix(use.values, use.precision, blocks=plain, scales=scales)
        return store_any(use.values, use.precision)

    def _constant(self, edit: GraphEditor, use: _Use, stored: Stored, kind: str) -> int:
        """Add a stored constant; returns it, or the tensor that it is dequantized to."""
        shape, tensor_type = use.values.shape, _KINDS[stored.precision]
        quantization = None if stored.scales is None else _quantization(edit, stored)
        number = edit.add_constant(stored.data, shape, kind=tensor_type, quantization=quantization)
        if kind == "matrix" and stored.precision < Precision.FLOAT16:
            return number
        restored = edit.add_like(edit.subgraph.tensors[use.tensor], _TENSOR.FLOAT32)
        edit.insert(
            edit.subgraph.operators[0],
            _BUILTIN.DEQUANTIZE,
            [number],
            restored,
            version=5 if stored.precision is Precision.INT8 else 3,
            options=schema.DequantizeOptionsT(),
        )
        return restored


def _storage_kind(use: _Use) -> str:
    """How a weight is stored: ``"matrix"``, ``"table"`` or ``"any"``."""
    if use.name == "FULLY_CONNECTED" and use.index == 1:
        return "matrix"
    return "table" if _is_lookup(use) else "any"


def _is_lookup(use: _Use) -> bool:
    """Whether the use is a GATHER of whole rows of a matrix."""
    if use.name != "GATHER" or use.index or use.values.ndim != 2:
        return False
    options = use.operator.builtinOptions
    return options is None or not (options.axis or options.batchDims)


def _is_plain(operator: Any) -> bool:
    """Whether no activation is fused; without XNNPACK, blockwise products ignore it."""
    none = schema.ActivationFunctionType.NONE
    return bool(operator.builtinOptions.fusedActivationFunction == none)


def _tied(model: Any) -> set[bytes]:
    """The values of constants read by both GATHER and FULLY_CONNECTED, stored once for both."""
    seen: dict[str, set[bytes]] = {"FULLY_CONNECTED": set(), "GATHER": set()}
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            name = operator_name(model, operator)
            if name in seen:
                tensor = subgraph.tensors[operator.inputs[name == "FULLY_CONNECTED"]]
                values = constant(model, tensor)
                if values is not None:
                    seen[name].add(values.tobytes())
    return seen["FULLY_CONNECTED"] & seen["GATHER"]


def _as_matrix(table: Stored, rows: int) -> Stored:
    """Convert a stored table to the matrix of a product, with one scale per row."""
    if table.scales is None:
        return table
    scales = np.repeat(table.scales.astype(np.float32), table.group)[:rows]
    return Stored(table.precision, table.data, scales, reason=table.reason)


def _quantization(edit: GraphEditor, stored: Stored) -> Any:
    """The quantization table of an integer tensor."""
    quantization = schema.QuantizationParametersT()
    quantization.quantizedDimension = stored.axis
    scales = np.asarray(stored.scales)
    if stored.blockwise:
        details = schema.BlockwiseQuantizationT()
        details.scales = edit.add_constant(scales, scales.shape)
        details.zeroPoints = -1  # none
        details.blockSize = stored.data.size * 2 // scales.size
        quantization.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        quantization.details = details
        return quantization
    quantization.scale = scales
    quantization.zeroPoint = np.zeros(scales.size, np.int64)
    return quantization


def _drop_unread(model: Any) -> None:
    """Detach the buffers of constants that were replaced."""
    for subgraph in model.subgraphs:
        read = {*subgraph.inputs, *subgraph.outputs}
        for operator in subgraph.operators:
            read.update(operator.inputs)
        for tensor in subgraph.tensors:
            if tensor.quantization is not None and tensor.quantization.details is not None:
                read.add(tensor.quantization.details.scales)
        for number, tensor in enumerate(subgraph.tensors):
            if number not in read and tensor.buffer:
                tensor.buffer = 0


# A lookup in a stored table: only the rows that are looked up are dequantized.


def write_lookup(edit: GraphEditor, gather: Any, stored: Stored) -> None:
    """Replace a lookup in a float32 table by one in a stored table.

    Args:
        edit: The editor of the subgraph.
        gather: The GATHER of whole rows.
        stored: The stored table.
    """
    tensors = edit.subgraph.tensors
    table, ids = tensors[gather.inputs[0]], int(gather.inputs[1])
    result = int(gather.outputs[0])
    number = edit.add_constant(stored.data, table.shape, kind=_KINDS[stored.precision])
    rows = edit.add_like(tensors[result], _KINDS[stored.precision])
    gather_version = 7 if stored.precision is Precision.INT4 else 5
    _gather(edit, gather, number, ids, rows, gather_version)
    if stored.scales is None:
        _cast(edit, gather, rows, result)
    else:
        floats = edit.add_like(tensors[result], _TENSOR.FLOAT32)
        _cast(edit, gather, rows, floats)
        scale = _scales(edit, gather, ids, stored)
        edit.insert(
            gather, _BUILTIN.MUL, [floats, scale], result, version=1, options=schema.MulOptionsT()
        )
    edit.subgraph.operators = [item for item in edit.subgraph.operators if item is not gather]


def _scales(edit: GraphEditor, gather: Any, ids: int, stored: Stored) -> int:
    """Look up the scale of every row, ``[..., 1] float32``."""
    tensors, result = edit.subgraph.tensors, int(gather.outputs[0])
    scales = np.asarray(stored.scales)
    number = edit.add_constant(scales, [len(scales), 1])
    if stored.group > 1:
        ids = _group_ids(edit, gather, ids, stored.group)
    kind = _TENSOR.FLOAT32 if scales.dtype == np.float32 else _TENSOR.FLOAT16
    scale = edit.add_like(tensors[result], kind, last=1)
    _gather(edit, gather, number, ids, scale, 5)
    if kind == _TENSOR.FLOAT32:
        return scale
    floats = edit.add_like(tensors[result], _TENSOR.FLOAT32, last=1)
    _cast(edit, gather, scale, floats)
    return floats


def _group_ids(edit: GraphEditor, gather: Any, ids: int, group: int) -> int:
    """Compute the group of each id."""
    tensor = edit.subgraph.tensors[ids]
    if tensor.type != _TENSOR.INT32:  # FLOOR_DIV does not support int64
        narrow = edit.add_like(tensor, _TENSOR.INT32)
        _cast(edit, gather, ids, narrow)
        ids = narrow
    divisor = edit.add_constant(np.array(group, np.int32), [])
    groups = edit.add_like(tensor, _TENSOR.INT32)
    options = schema.FloorDivOptionsT()
    edit.insert(gather, _BUILTIN.FLOOR_DIV, [ids, divisor], groups, version=1, options=options)
    return groups


def _gather(  # noqa: PLR0913, PLR0917 - the parts of an operator
    edit: GraphEditor, before: Any, table: int, ids: int, rows: int, version: int
) -> None:
    options = schema.GatherOptionsT()
    edit.insert(before, _BUILTIN.GATHER, [table, ids], rows, version=version, options=options)


def _cast(edit: GraphEditor, before: Any, source: int, result: int) -> None:
    tensors = edit.subgraph.tensors
    options = schema.CastOptionsT()
    options.inDataType, options.outDataType = tensors[source].type, tensors[result].type
    edit.insert(before, _BUILTIN.CAST, [source], result, version=6, options=options)
