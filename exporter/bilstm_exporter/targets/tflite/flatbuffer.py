"""What is settled in the file itself, after the converter: names, and everything kept once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert.schema_py_generated import BufferT
from ai_edge_litert.tools import flatbuffer_utils

from bilstm_exporter.targets.tflite.graph_editor import operator_name

_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16  # of a constant: what the schema asks for, and the widest load of a kernel


def read(content: bytes) -> Any:
    """A model's flatbuffer as objects."""
    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


def finish(model: Any, input_names: Sequence[str], output_names: Sequence[str]) -> bytes:
    """Name the inputs and outputs as the model does, and store everything once.

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
            name = names[position(tensor_map)]
            tensor_map.name = name.encode()
            tensors[tensor_map.tensorIndex].name = name.encode()
            named.add(tensor_map.tensorIndex)
    drop_unused_variables(model)
    _drop_what_nothing_reads(model, named)
    _share_equal_buffers(model)
    _number_tensors_by_use(model)
    return _packed(model)


def position(tensor_map: Any) -> int:
    """Which input or output of the model an entry of the signature is."""
    return int(tensor_map.name.decode().rpartition("_")[2])


def operators(model: Any) -> tuple[str, ...]:
    """The builtin operators of a model, each once, in order of their names."""
    found = {
        operator_name(model, operator)
        for subgraph in model.subgraphs
        for operator in subgraph.operators
    }
    return tuple(sorted(found))


def _drop_what_nothing_reads(model: Any, named: set[int]) -> None:
    """Inner names, which carry the path of Keras layers, and quantization that says nothing.

    Together a good part of a small file.
    """
    for number, subgraph in enumerate(model.subgraphs):
        subgraph.name = None if number else subgraph.name
        for index, tensor in enumerate(subgraph.tensors):
            if number or index not in named:
                tensor.name = None
            quantization = tensor.quantization
            if quantization is not None and not (
                quantization.detailsType
                or (quantization.scale is not None and len(quantization.scale))
            ):
                tensor.quantization = None


def _share_equal_buffers(model: Any) -> None:
    """A loop's main part and its remainder hold the same kernel, each its own copy."""
    kept: list[Any] = [BufferT()]  # buffer 0 is the empty one
    numbers: dict[bytes, int] = {}

    def number(buffer: Any) -> int:
        data = model.buffers[buffer].data
        if data is None or not len(data):
            return 0
        content = bytes(data)
        if content not in numbers:
            numbers[content] = len(kept)
            shared = BufferT()
            shared.data = np.frombuffer(content, np.uint8)
            kept.append(shared)
        return numbers[content]

    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            tensor.buffer = 0 if tensor.isVariable else number(tensor.buffer)
    model.metadata = None  # the converter's notes on how it was run
    model.buffers = kept


def _number_tensors_by_use(model: Any) -> None:
    """So that the same operators on other constants, as those of two directions, are written alike.

    Tensors that nothing uses go.
    """
    for number, subgraph in enumerate(model.subgraphs):
        order: dict[int, int] = {}

        def place(tensor: int, order: dict[int, int] = order) -> int:
            return order.setdefault(tensor, len(order)) if tensor >= 0 else tensor

        signatures = model.signatureDefs if number == 0 else ()
        # What operators use comes first: loops differ in the inputs that they only hand on.
        for operator in subgraph.operators:
            operator.inputs = [place(tensor) for tensor in operator.inputs]
            operator.outputs = [place(tensor) for tensor in operator.outputs]
            if operator.intermediates is not None:
                operator.intermediates = [place(tensor) for tensor in operator.intermediates]
        subgraph.inputs = [place(tensor) for tensor in subgraph.inputs]
        subgraph.outputs = [place(tensor) for tensor in subgraph.outputs]
        for signature in signatures:
            for tensor_map in (*signature.inputs, *signature.outputs):
                tensor_map.tensorIndex = place(tensor_map.tensorIndex)
        for tensor in list(order):  # scales are tensors too
            quantization = subgraph.tensors[tensor].quantization
            if quantization is not None and quantization.details is not None:
                quantization.details.scales = place(quantization.details.scales)
        subgraph.tensors = [subgraph.tensors[tensor] for tensor in order]


class _SharingBuilder(flatbuffers.Builder):  # type: ignore[misc] # has no stubs
    """Writes equal vectors once, and constants where the widest load can read them."""

    def __init__(self) -> None:
        super().__init__(1024)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802 - the base's name
        """Write a vector, or find it where it is written already."""
        if x.dtype == np.uint8:
            aligned = 1 << min(x.size, _ALIGNMENT).bit_length() - 1 if x.size else 1
            self.Prep(4, x.size)  # the length stands before the data
            self.Prep(aligned, x.size)
            return int(super().CreateNumpyVector(x))
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = int(super().CreateNumpyVector(x))
        return self._written[key]


class _Once:
    """A table that several others refer to: packed the first time, referred to afterwards."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._offset: int | None = None

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802 - what flatbuffers calls
        """Where the table is written."""
        if self._offset is None:
            self._offset = int(self._table.Pack(builder))
        return self._offset


def _packed(model: Any) -> bytes:
    """The file. The steps of a loop, and its loops, repeat most of their tables."""
    tables: dict[Any, _Once] = {}

    def once(table: Any) -> _Once | None:
        return None if table is None else tables.setdefault(_key(table), _Once(table))

    for subgraph in model.subgraphs:
        subgraph.inputs, subgraph.outputs = _integers(subgraph.inputs), _integers(subgraph.outputs)
        for tensor in subgraph.tensors:
            tensor.shape = _integers(tensor.shape)
            if tensor.shapeSignature is not None:
                tensor.shapeSignature = _integers(tensor.shapeSignature)
        for operator in subgraph.operators:
            operator.inputs = _integers(operator.inputs)
            operator.outputs = _integers(operator.outputs)
            operator.intermediates = operator.intermediates or None
            operator.mutatingVariableInputs = operator.mutatingVariableInputs or None
        # Keys are taken while the tables are still tables.
        packed = [once(tensor) for tensor in subgraph.tensors]
        for tensor in subgraph.tensors:
            tensor.quantization = once(tensor.quantization)
        subgraph.tensors = packed
        packed = [once(operator) for operator in subgraph.operators]
        for operator in subgraph.operators:
            operator.builtinOptions = once(operator.builtinOptions)
        subgraph.operators = packed
    # The loops of all layers ask the same question.
    model.subgraphs = [once(subgraph) for subgraph in model.subgraphs]
    builder = _SharingBuilder()
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _key(value: Any) -> Any:
    """Equal for equal tables."""
    if isinstance(value, _Once):
        return id(value)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tobytes()
    if isinstance(value, (list, tuple)):
        return tuple(map(_key, value))
    if hasattr(value, "__dict__"):
        members = tuple((name, _key(member)) for name, member in sorted(vars(value).items()))
        return type(value).__name__, members
    return value


def _integers(values: Any) -> np.ndarray:
    return np.asarray([] if values is None else values, np.int32)


# Unused loop variables, such as the counter that TensorFlow gives every loop: LiteRT would
# increment and copy it at every iteration.


def drop_unused_variables(model: Any) -> None:
    """Take variables out of loops that nothing reads but what makes their own next value."""
    loops = [
        (subgraph, operator)
        for subgraph in model.subgraphs
        for operator in subgraph.operators
        if operator_name(model, operator) == "WHILE"
    ]
    uses = Counter(number for _, operator in loops for number in _graphs(operator))
    for subgraph, operator in loops:
        if any(uses[number] > 1 for number in _graphs(operator)):
            continue  # another loop may read what this one does not
        cond, body = (model.subgraphs[number] for number in _graphs(operator))
        for index in reversed(range(len(operator.inputs))):
            if _is_read(subgraph, operator.outputs[index]) or _is_read(cond, cond.inputs[index]):
                continue
            makers = _only_for_itself(body, index)
            if makers is None:
                continue
            body.operators = [one for one in body.operators if one not in makers]
            for owner, name in (
                (operator, "inputs"),
                (operator, "outputs"),
                (body, "inputs"),
                (body, "outputs"),
                (cond, "inputs"),
            ):
                kept = list(getattr(owner, name))
                del kept[index]
                setattr(owner, name, kept)


def _graphs(loop: Any) -> tuple[int, int]:
    """The numbers of a loop's condition and body."""
    options = loop.builtinOptions
    return options.condSubgraphIndex, options.bodySubgraphIndex


def _is_read(subgraph: Any, tensor: int) -> bool:
    readers = (operator.inputs for operator in subgraph.operators)
    return tensor in subgraph.outputs or any(tensor in inputs for inputs in readers)


def _only_for_itself(body: Any, index: int) -> Sequence[Any] | None:
    """The operators that make the next value of a variable, if they serve nothing else."""
    variable, result = body.inputs[index], body.outputs[index]
    if variable == result or list(body.outputs).count(result) > 1:
        return None  # an input of the loop, not a variable
    readers = [operator for operator in body.operators if variable in operator.inputs]
    makers = [operator for operator in body.operators if result in operator.outputs]
    alone = len(makers) == 1 and all(reader is makers[0] for reader in readers)
    if not alone or len(makers[0].outputs) > 1 or variable in body.outputs:
        return None
    if any(result in operator.inputs for operator in body.operators):
        return None
    return makers
