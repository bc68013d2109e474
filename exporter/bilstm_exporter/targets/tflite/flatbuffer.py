"""Edits of the converted flatbuffer: interface, deduplication and unused loop variables."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert.schema_py_generated import (
    BufferT,
    BuiltinOperator,
    MetadataT,
    ReshapeOptionsT,
    ShapeOptionsT,
    TensorType,
)
from ai_edge_litert.tools import flatbuffer_utils

from bilstm_exporter.errors import OutputFolderError
from bilstm_exporter.targets.tflite.graph_editor import GraphEditor, operator_name
from bilstm_exporter.targets.tflite.metadata import NAME as METADATA
from bilstm_exporter.targets.tflite.metadata import make_metadata
from bilstm_runtime.spec import ModelSpec

_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16  # of a constant: required by the schema; also the widest load of a kernel


def read(content: bytes) -> Any:
    """Read a flatbuffer into its object form."""
    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


def read_converted(content: bytes, own: tuple[int, int] | None = None) -> Any:
    """Read a file of the converter, and put its inputs and outputs in the order of the model.

    The converter lists them in an order of its own, and one tensor can stand for several outputs,
    or for an input and an output. Most users of a TFLite file go by position, so each output gets
    a tensor of its own.

    Args:
        content: A model with one signature, whose inputs and outputs are named ``input_0``, ...
            and ``output_0``, ... (numbered in order).
        own: The number of inputs and outputs of the model itself; `loop_splicing` removes those
            that follow. None: all.

    Raises:
        OutputFolderError: It has no signature: the converter writes the model to the temporary
            folder, and loses the signature without an error if it cannot.
    """
    model = read(content)
    if not model.signatureDefs:
        message = (
            f"TensorFlow could not write the model to the temporary folder {tempfile.gettempdir()} "
            f"to convert it: free space there, or name another folder in TMPDIR"
        )
        raise OutputFolderError(message)
    signature, subgraph = model.signatureDefs[0], model.subgraphs[0]
    signature.inputs.sort(key=position)
    signature.outputs.sort(key=position)
    subgraph.inputs = [tensor_map.tensorIndex for tensor_map in signature.inputs]
    given, returned = own or (len(signature.inputs), len(signature.outputs))
    used = set(subgraph.inputs[:given])
    for tensor_map in signature.outputs[:returned]:
        if tensor_map.tensorIndex in used:
            tensor_map.tensorIndex = _copied(model, tensor_map.tensorIndex)
        used.add(tensor_map.tensorIndex)
    subgraph.outputs = [tensor_map.tensorIndex for tensor_map in signature.outputs]
    return model


def _copied(model: Any, number: int) -> int:
    """Add an operator at the end that copies a tensor bit for bit; returns the copy.

    RESHAPE copies any dtype and rank. Its shape is constant with at most one free axis, and comes
    from SHAPE otherwise.
    """
    edit = GraphEditor(model, model.subgraphs[0])
    tensor = edit.subgraph.tensors[number]
    copy = edit.add_like(tensor, tensor.type)
    edit.subgraph.tensors[copy].quantization = tensor.quantization
    signature = tensor.shapeSignature
    shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
    target = shape if signature is None or not len(signature) else [int(size) for size in signature]
    inputs = [number]
    options = ReshapeOptionsT()
    if target.count(-1) > 1:
        sizes = edit.add_vector(len(target), TensorType.INT32)
        shape_options = ShapeOptionsT()
        shape_options.outType = TensorType.INT32
        edit.insert(None, BuiltinOperator.SHAPE, inputs, sizes, version=1, options=shape_options)
        inputs = [number, sizes]
    elif target:  # without a shape, the result is a scalar
        inputs = [number, edit.add_constant(np.array(target, np.int32), [len(target)])]
        options.newShape = target
    edit.insert(None, BuiltinOperator.RESHAPE, inputs, copy, version=1, options=options)
    return copy


def finish(
    model: Any,
    input_names: Sequence[str],
    output_names: Sequence[str],
    spec: ModelSpec | None = None,
) -> bytes:
    """Give inputs and outputs the model's names, remove duplicates, and serialize.

    Args:
        model: A model read by `read_converted`.
        input_names: The model's input names, in that order.
        output_names: The model's output names, in that order.
        spec: The model, for the standard metadata; None for a file without.
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
    _drop_unused_metadata(model, named)
    _share_equal_buffers(model)
    _number_tensors_by_use(model)
    if spec is None:
        return _packed(model)
    metadata = make_metadata(spec, input_names, output_names)
    _add_metadata(model, metadata.buffer)
    return metadata.appended_to(_packed(model))


def _add_metadata(model: Any, content: bytes) -> None:
    buffer, entry = BufferT(), MetadataT()
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    entry.name, entry.buffer = METADATA, len(model.buffers) - 1
    model.metadata = [entry]


def position(tensor_map: Any) -> int:
    """The index of the model's input or output that a signature entry refers to."""
    return int(tensor_map.name.decode().rpartition("_")[2])


def operators(model: Any) -> tuple[str, ...]:
    """The builtin operators of a model, sorted by name, without duplicates."""
    names = {
        operator_name(model, operator)
        for subgraph in model.subgraphs
        for operator in subgraph.operators
    }
    return tuple(sorted(names))


def _drop_unused_metadata(model: Any, named: set[int]) -> None:
    """Remove inner names, which contain Keras layer paths, and empty quantization tables.

    They are a considerable part of a small file.
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
    """Share equal buffers, such as the kernel in a loop's main part and its remainder."""
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
    model.metadata = None  # the converter's options
    model.buffers = kept


def _number_tensors_by_use(model: Any) -> None:
    """Number tensors by first use, so that equal subgraphs are written identically.

    The two directions of a layer are an example. Unused tensors are removed.
    """
    for number, subgraph in enumerate(model.subgraphs):
        order: dict[int, int] = {}

        def place(tensor: int, order: dict[int, int] = order) -> int:
            return order.setdefault(tensor, len(order)) if tensor >= 0 else tensor

        signatures = model.signatureDefs if number == 0 else ()
        # Tensors of operators come first: loops differ in inputs that they only pass on.
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
    """Writes equal vectors once, and aligns constants to the widest load."""

    def __init__(self) -> None:
        super().__init__(1024)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802 - the base's name
        """Write a vector, or return the offset of an equal one."""
        if x.dtype == np.uint8:
            aligned = 1 << min(x.size, _ALIGNMENT).bit_length() - 1 if x.size else 1
            self.Prep(4, x.size)  # the length precedes the data
            self.Prep(aligned, x.size)
            return int(super().CreateNumpyVector(x))
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = int(super().CreateNumpyVector(x))
        return self._written[key]


class _SharedTable:
    """A table referenced by several others; it is packed in the first call."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._offset: int | None = None

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802 - flatbuffers calls it
        """The offset of the packed table."""
        if self._offset is None:
            self._offset = int(self._table.Pack(builder))
        return self._offset


def _packed(model: Any) -> bytes:
    """Serialize a model; equal tables, frequent in unrolled steps and loops, are shared."""
    tables: dict[Any, _SharedTable] = {}

    def once(table: Any) -> _SharedTable | None:
        return None if table is None else tables.setdefault(_key(table), _SharedTable(table))

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
        # All keys are computed before nested tables are replaced.
        packed = [once(tensor) for tensor in subgraph.tensors]
        for tensor in subgraph.tensors:
            tensor.quantization = once(tensor.quantization)
        subgraph.tensors = packed
        packed = [once(operator) for operator in subgraph.operators]
        for operator in subgraph.operators:
            operator.builtinOptions = once(operator.builtinOptions)
        subgraph.operators = packed
    # The condition subgraphs of all loops are equal.
    model.subgraphs = [once(subgraph) for subgraph in model.subgraphs]
    builder = _SharingBuilder()
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _key(value: Any) -> Any:
    """A key that is equal for equal tables."""
    if isinstance(value, _SharedTable):
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
    """Remove loop variables that are read only to compute their own next value."""
    loops = [
        (subgraph, operator)
        for subgraph in model.subgraphs
        for operator in subgraph.operators
        if operator_name(model, operator) == "WHILE"
    ]
    uses = Counter(number for _, operator in loops for number in _graphs(operator))
    for subgraph, operator in loops:
        if any(uses[number] > 1 for number in _graphs(operator)):
            continue  # another loop may read the variable
        cond, body = (model.subgraphs[number] for number in _graphs(operator))
        for index in reversed(range(len(operator.inputs))):
            if _is_read(subgraph, operator.outputs[index]) or _is_read(cond, cond.inputs[index]):
                continue
            producers = _self_only_operators(body, index)
            if producers is None:
                continue
            body.operators = [one for one in body.operators if one not in producers]
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


def _self_only_operators(body: Any, index: int) -> Sequence[Any] | None:
    """The operators that compute a variable's next value, or None if they have another use."""
    variable, result = body.inputs[index], body.outputs[index]
    if variable == result or list(body.outputs).count(result) > 1:
        return None  # loop-invariant, not a variable
    readers = [operator for operator in body.operators if variable in operator.inputs]
    producers = [operator for operator in body.operators if result in operator.outputs]
    alone = len(producers) == 1 and all(reader is producers[0] for reader in readers)
    if not alone or len(producers[0].outputs) > 1 or variable in body.outputs:
        return None
    if any(result in operator.inputs for operator in body.operators):
        return None
    return producers
