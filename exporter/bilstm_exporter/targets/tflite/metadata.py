"""The standard metadata of a TFLite file: names, descriptions and ranges, labels and vocabularies.

Readers are the packages tflite-support and mediapipe. The tables and the numbers of their fields
are those of metadata_schema.fbs of tflite-support 0.4.4. A file that the metadata names lies in a
ZIP archive behind the model, uncompressed, because MediaPipe reads it in place.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import flatbuffers

from bilstm_exporter.targets.tflite.text_classifier import RegexTokenizer, regex_tokenizer
from bilstm_runtime.preprocessing_spec import TextPreprocessing
from bilstm_runtime.spec import BATCH, Axis, InputSpec, ModelSpec, OutputSpec, StateSpec

NAME = "TFLITE_METADATA"
"""The name under which a model lists the buffer."""

_IDENTIFIER = b"M001"
_MIN_PARSER, _TOKENIZER_PARSER = "1.0.0", "1.2.1"
_AXIS_LABELS, _VOCABULARY = 2, 5  # AssociatedFileType
_REGEX_TOKENIZER = 6  # ProcessUnitOptions
_FEATURES = 1  # ContentProperties: a tensor that is not an image, a bounding box or sound
_NO_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class _File:
    """A file that describes a tensor."""

    name: str
    description: str
    kind: int
    lines: Sequence[str]


@dataclass(frozen=True)
class _Tensor:
    """What the metadata says of one tensor."""

    name: str
    description: str
    axes: tuple[Axis, ...]
    limits: tuple[float, float] | None = None
    files: Sequence[_File] = ()
    separators: str = ""
    """The pattern between the tokens of a text; the first file is then their vocabulary."""


@dataclass(frozen=True)
class Metadata:
    """The metadata of a model.

    Attributes:
        buffer: The flatbuffer.
        files: The files that it names.
    """

    buffer: bytes
    files: Mapping[str, bytes] = field(default_factory=dict)

    def appended_to(self, content: bytes) -> bytes:
        """Return the bytes of a model, with the files behind it."""
        if not self.files:
            return content
        buffer = io.BytesIO(content)
        with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
            for name, data in self.files.items():
                archive.writestr(zipfile.ZipInfo(name, _NO_DATE), data)
        return buffer.getvalue()


def make_metadata(
    spec: ModelSpec, input_names: Sequence[str], output_names: Sequence[str]
) -> Metadata:
    """Make the metadata of a model.

    Args:
        spec: The model.
        input_names: The names of its inputs and states in the file, in order.
        output_names: The same for the outputs.
    """
    tokenizer = regex_tokenizer(spec)
    separators = "" if tokenizer is None else tokenizer.pattern
    inputs = [
        _Tensor(
            name,
            _input_text(item),
            item.axes,
            _limits(item),
            _vocabulary(spec, name) if tokenizer is None else _word_ids(name, tokenizer),
            separators,
        )
        for name, item in zip(input_names, spec.file_inputs, strict=True)
    ]
    outputs = [
        _Tensor(name, _shape_text(item), item.axes, files=_labels(spec, name))
        for name, item in zip(output_names, spec.file_outputs, strict=True)
    ]
    files = {
        file.name: ("\n".join(file.lines) + "\n").encode()
        for tensor in (*inputs, *outputs)
        for file in tensor.files
    }
    return Metadata(_packed(spec.name, inputs, outputs), files)


def _shape_text(item: InputSpec | OutputSpec | StateSpec) -> str:
    sizes = [str(axis.name or "any") if axis.size is None else str(axis.size) for axis in item.axes]
    return f"{item.dtype} [{', '.join(sizes)}]"


def _input_text(item: InputSpec | StateSpec) -> str:
    text = _shape_text(item)
    if not isinstance(item, InputSpec):
        return f"{text}; a state: zeros, then the returned one"
    if item.mask_value is not None:
        text += f"; a step of {item.mask_value} is padding"
    if item.sample_rate is not None:
        text += f"; {item.sample_rate} steps per second"
    return text


def _limits(item: InputSpec | StateSpec) -> tuple[float, float] | None:
    if not isinstance(item, InputSpec) or item.range is None:
        return None
    return float(item.range[0]), float(item.range[1])


def _vocabulary(spec: ModelSpec, name: str) -> list[_File]:
    """The file of the tokens of a text input, if each token is one line."""
    for item in spec.texts:
        if item.input == name and isinstance(item, TextPreprocessing):
            return _file(f"vocab_{name}.txt", "the tokens", _VOCABULARY, item.vocabulary)
    return []


def _word_ids(name: str, tokenizer: RegexTokenizer) -> list[_File]:
    """The file of the tokens with their ids, as MediaPipe reads it."""
    return _file(f"vocab_{name}.txt", "the tokens and their ids", _VOCABULARY, tokenizer.vocabulary)


def _labels(spec: ModelSpec, name: str) -> list[_File]:
    """The file of the classes of an output, if they have names."""
    for item in spec.decoding:
        labels = getattr(item, "labels", None)
        if item.output == name and labels:
            return _file(f"labels_{name}.txt", "the classes", _AXIS_LABELS, labels)
    return []


def _file(name: str, description: str, kind: int, lines: Sequence[str]) -> list[_File]:
    if any("\n" in line or "\r" in line for line in lines):
        return []
    plain = "".join(char if char.isalnum() or char in "._-" else "_" for char in name)
    return [_File(plain, description, kind, lines)]


def _packed(name: str, inputs: Sequence[_Tensor], outputs: Sequence[_Tensor]) -> bytes:
    """Write the ModelMetadata of a model with one subgraph."""
    builder = flatbuffers.Builder(1024)
    graph = {
        2: _vector(builder, [_tensor(builder, one) for one in inputs]),
        3: _vector(builder, [_tensor(builder, one) for one in outputs]),
    }
    model = {
        0: builder.CreateString(name),
        3: _vector(builder, [_table(builder, 10, graph)]),
        7: builder.CreateString(
            _TOKENIZER_PARSER if any(one.separators for one in inputs) else _MIN_PARSER
        ),
    }
    builder.Finish(_table(builder, 8, model), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _tensor(builder: flatbuffers.Builder, tensor: _Tensor) -> int:
    names = [axis.name or "" for axis in tensor.axes]
    fields = {
        0: builder.CreateString(tensor.name),
        1: builder.CreateString(tensor.description),
        3: _content(builder),
    }
    if any(name != BATCH and name for name in names):
        fields[2] = _vector(builder, [builder.CreateString(name) for name in names])
    if tensor.limits is not None:
        low, high = (_floats(builder, value) for value in tensor.limits)
        fields[5] = _table(builder, 2, {0: high, 1: low})
    if tensor.separators:
        fields[4] = _vector(builder, [_regex_unit(builder, tensor)])
    if tensor.files:
        fields[6] = _vector(builder, [_associated(builder, file) for file in tensor.files])
    return _table(builder, 7, fields)


def _content(builder: flatbuffers.Builder) -> int:
    properties = _table(builder, 0, {})
    return _table(builder, 3, {1: properties}, {0: _FEATURES})


def _regex_unit(builder: flatbuffers.Builder, tensor: _Tensor) -> int:
    """Write the ProcessUnit of a tokenizer that splits where a pattern matches."""
    files = _vector(builder, [_associated(builder, tensor.files[0])])
    options = _table(builder, 2, {0: builder.CreateString(tensor.separators), 1: files})
    return _table(builder, 2, {1: options}, {0: _REGEX_TOKENIZER})


def _associated(builder: flatbuffers.Builder, file: _File) -> int:
    texts = {0: builder.CreateString(file.name), 1: builder.CreateString(file.description)}
    return _table(builder, 5, texts, {2: file.kind})


def _table(
    builder: flatbuffers.Builder,
    size: int,
    offsets: Mapping[int, int],
    numbers: Mapping[int, int] | None = None,
) -> int:
    """Write a table of offsets to other objects, and of small numbers, by field."""
    builder.StartObject(size)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, number in (numbers or {}).items():
        builder.PrependInt8Slot(slot, number, 0)
    return int(builder.EndObject())


def _vector(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    return _numbers(builder, offsets, builder.PrependUOffsetTRelative)


def _floats(builder: flatbuffers.Builder, value: float) -> int:
    return _numbers(builder, [value], builder.PrependFloat32)


def _numbers(
    builder: flatbuffers.Builder, values: Sequence[float], prepend: Callable[[float], None]
) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        prepend(value)
    return int(builder.EndVector())
