"""An embedding of stored rows: only those that are asked for are taken back to float."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from bilstm_exporter.quantization.recipes import Precision
from bilstm_exporter.targets.tflite.graph_editor import GraphEditor
from bilstm_exporter.targets.tflite.weight_storage import Stored

_BUILTIN = schema.BuiltinOperator
_TENSOR = schema.TensorType
_KINDS = {
    Precision.INT4: _TENSOR.INT4,
    Precision.INT8: _TENSOR.INT8,
    Precision.FLOAT16: _TENSOR.FLOAT16,
}


def write_lookup(edit: GraphEditor, gather: Any, stored: Stored) -> None:
    """Put a lookup in a stored table in the place of one in float32.

    Args:
        edit: Of the subgraph.
        gather: The GATHER of whole rows.
        stored: Its table.
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
    """The scale of every row, ``[..., 1]`` float32."""
    tensors, result = edit.subgraph.tensors, int(gather.outputs[0])
    scales = np.asarray(stored.scales)
    number = edit.add_constant(scales, [len(scales), 1])
    if stored.group > 1:
        ids = _divided(edit, gather, ids, stored.group)
    kind = _TENSOR.FLOAT32 if scales.dtype == np.float32 else _TENSOR.FLOAT16
    found = edit.add_like(tensors[result], kind, last=1)
    _gather(edit, gather, number, ids, found, 5)
    if kind == _TENSOR.FLOAT32:
        return found
    floats = edit.add_like(tensors[result], _TENSOR.FLOAT32, last=1)
    _cast(edit, gather, found, floats)
    return floats


def _divided(edit: GraphEditor, gather: Any, ids: int, group: int) -> int:
    """Which group each id belongs to."""
    tensor = edit.subgraph.tensors[ids]
    if tensor.type != _TENSOR.INT32:  # FLOOR_DIV knows no int64
        narrow = edit.add_like(tensor, _TENSOR.INT32)
        _cast(edit, gather, ids, narrow)
        ids = narrow
    divisor = edit.add_constant(np.array(group, np.int32), [])
    groups = edit.add_like(tensor, _TENSOR.INT32)
    options = schema.FloorDivOptionsT()
    edit.insert(gather, _BUILTIN.FLOOR_DIV, [ids, divisor], groups, version=1, options=options)
    return groups


def _gather(  # noqa: PLR0913, PLR0917 - a whole operator
    edit: GraphEditor, before: Any, table: int, ids: int, rows: int, version: int
) -> None:
    options = schema.GatherOptionsT()
    edit.insert(before, _BUILTIN.GATHER, [table, ids], rows, version=version, options=options)


def _cast(edit: GraphEditor, before: Any, source: int, result: int) -> None:
    tensors = edit.subgraph.tensors
    options = schema.CastOptionsT()
    options.inDataType, options.outDataType = tensors[source].type, tensors[result].type
    edit.insert(before, _BUILTIN.CAST, [source], result, version=6, options=options)
