"""Lists the operators of a TFLite file, as a runtime has to support them."""

from __future__ import annotations

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from bilstm_exporter.targets.operators import OperatorUse
from bilstm_exporter.targets.tflite.flatbuffer import read
from bilstm_exporter.targets.tflite.graph_editor import operator_name

_DTYPES = {
    code: name.lower() for name, code in vars(schema.TensorType).items() if not name.startswith("_")
}


def list_operators(content: bytes) -> list[OperatorUse]:
    """List the operators of a TFLite file, those of all subgraphs.

    Args:
        content: The file's bytes.
    """
    return operators_of(read(content))


def operators_of(model: Any) -> list[OperatorUse]:
    """List the operators of all subgraphs of a model in object form."""
    return [
        _listed(model, subgraph, operator)
        for subgraph in model.subgraphs
        for operator in subgraph.operators
    ]


def _listed(model: Any, subgraph: Any, operator: Any) -> OperatorUse:
    def dtypes(indices: Any) -> tuple[str, ...]:
        return tuple(
            "" if index < 0 else _DTYPES[subgraph.tensors[index].type] for index in indices
        )

    def is_constant(index: int) -> bool:
        data = model.buffers[subgraph.tensors[index].buffer].data
        return data is not None and len(data) > 0

    def rank(index: int) -> int:
        shape = subgraph.tensors[index].shape
        return 0 if shape is None else len(shape)

    inputs = [] if operator.inputs is None else [int(index) for index in operator.inputs]
    outputs = [] if operator.outputs is None else [int(index) for index in operator.outputs]
    options = {} if operator.builtinOptions is None else vars(operator.builtinOptions)
    name = subgraph.tensors[outputs[0]].name if outputs else b""
    return OperatorUse(
        operator_name(model, operator),
        dtypes(inputs),
        dtypes(outputs),
        model.operatorCodes[operator.opcodeIndex].version,
        {key: value for key, value in options.items() if isinstance(value, (bool, int, float))},
        frozenset(i for i, index in enumerate(inputs) if index >= 0 and is_constant(index)),
        name.decode() if isinstance(name, bytes) else str(name or ""),
        rank=max((rank(index) for index in (*inputs, *outputs) if index >= 0), default=None),
    )
