"""What is settled in the file itself, after the converter: names, and weights kept once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ai_edge_litert.tools import flatbuffer_utils


def read(content: bytes) -> Any:
    """A model's flatbuffer as objects."""
    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


def finish(model: Any, input_names: Sequence[str], output_names: Sequence[str]) -> bytes:
    """Name the inputs and outputs as the model does, and store equal constants once.

    Args:
        model: A model with one signature, whose inputs and outputs are named
            ``input_0``, ... and ``output_0``, ... (the digits tell the order).
        input_names: The model's names, in that order.
        output_names: The same for the outputs.
    """
    signature = model.signatureDefs[0]
    tensors = model.subgraphs[0].tensors
    named: set[int] = set()
    for maps, names in ((signature.inputs, input_names), (signature.outputs, output_names)):
        for tensor_map in maps:
            name = names[int(tensor_map.name.decode().rpartition("_")[2])]
            tensor_map.name = name.encode()
            tensors[tensor_map.tensorIndex].name = name.encode()
            named.add(tensor_map.tensorIndex)
    _drop_inner_names(model, named)
    _share_equal_buffers(model)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _drop_inner_names(model: Any, kept: set[int]) -> None:
    """Inner tensors carry the path of Keras layers in their names, a good part of a small file."""
    for number, subgraph in enumerate(model.subgraphs):
        for index, tensor in enumerate(subgraph.tensors):
            if number or index not in kept:
                tensor.name = b""


def _share_equal_buffers(model: Any) -> None:
    """A loop's main part and its remainder hold the same kernel, each its own copy."""
    first: dict[bytes, int] = {}
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is None or not len(data) or tensor.isVariable:
                continue
            kept = first.setdefault(bytes(data), tensor.buffer)
            if kept != tensor.buffer:
                model.buffers[tensor.buffer].data = None
                tensor.buffer = kept
