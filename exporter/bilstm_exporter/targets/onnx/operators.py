"""Lists the operators of an ONNX file, as a runtime has to support them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx

from bilstm_exporter.targets.operators import OperatorUse

_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})


def list_operators(content: bytes) -> list[OperatorUse]:
    """List the operators of an ONNX file, those of inner graphs too.

    Args:
        content: The file's bytes.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content))
    versions = {entry.domain: entry.version for entry in model.opset_import}
    return list(_listed(model.graph, versions, {}, frozenset()))


def _listed(
    graph: Any, versions: Mapping[str, int], outer: Mapping[str, str], fixed: frozenset[str]
) -> Iterator[OperatorUse]:
    dtypes = {**outer, **{tensor.name: _dtype(tensor.data_type) for tensor in graph.initializer}}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type:
            dtypes[value.name] = _dtype(value.type.tensor_type.elem_type)
    fixed |= {tensor.name for tensor in graph.initializer}
    fixed |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}

    producers = {name: node for node in graph.node for name in node.output}
    read = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}

    def of(name: str) -> str | None:
        return dtypes.get(name) if name else ""

    for node in graph.node:
        attributes = {}
        for attribute in node.attribute:
            value = onnx.helper.get_attribute_value(attribute)
            if isinstance(value, onnx.GraphProto):
                yield from _listed(value, versions, dtypes, fixed)
            elif not isinstance(value, (onnx.TensorProto, onnx.SparseTensorProto)):
                attributes[attribute.name] = _plain(value)
        yield OperatorUse(
            f"{node.domain}.{node.op_type}" if node.domain else node.op_type,
            tuple(map(of, node.input)),
            tuple(map(of, node.output)),
            versions.get(node.domain, 1),
            attributes,
            frozenset(i for i, name in enumerate(node.input) if name in fixed),
            node.name,
            _needs_lengths(node, read, producers),
        )


def _needs_lengths(node: Any, read: set[str], producers: Mapping[str, Any]) -> bool:
    """Whether final states that something reads depend on the lengths of an operator."""
    if node.op_type not in _RECURRENT or len(node.input) <= 4 or not node.input[4]:
        return False
    kernel = producers.get(node.input[1])
    # `bilstm_exporter.targets.onnx.lowering` joins a column to the kernel of an LSTM that keeps
    # its cell state, and reads no other final state.
    return not (kernel and kernel.op_type == "Concat") and not read.isdisjoint(node.output[1:])


def _plain(value: Any) -> Any:
    """Decode the strings of an attribute."""
    if isinstance(value, bytes):
        return value.decode()
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _dtype(number: int) -> str:
    if number == onnx.TensorProto.STRING:
        return "str"
    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number)))
