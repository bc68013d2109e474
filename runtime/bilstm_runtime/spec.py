"""The description of a model and its files, which all packages of bilstm-edge share."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from bilstm_runtime.constraints import (
    BYTES,
    FILE_NAME,
    SHA256,
    WORD,
    Choices,
    Flag,
    Items,
    Key,
    Range,
)
from bilstm_runtime.decoding_spec import Decoding
from bilstm_runtime.preprocessing_spec import (
    Preprocessing,
    TextEntry,
    TextPreprocessing,
    WindowPreprocessing,
)

AnyArray: TypeAlias = npt.NDArray[Any]
T = TypeVar("T")

BATCH: Final = "batch"
"""Name of axis 0 of every input, and of most outputs."""
TIME: Final = "time"
"""Name of the first time axis; others are ``time_2``, ``time_3``, ..."""

DTYPES: Final = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
)  # fmt: skip
OUTPUT_STRUCTURES: Final = ("single", "list", "dict")

MAX_AXIS: Final = 2**24
"""Largest size of one axis: larger than in any real model, but small enough to allocate."""

MAX_MIN: Final = 2**18
"""Largest minimum of a free axis: a minimum comes from the windows of convolutions and pooling."""

MAX_VALUES: Final = 2**28
"""Largest number of values in the smallest array that an input takes, and in a state."""

MAX_AXES: Final = 32
"""Largest number of axes: that of numpy 1."""

MAX_TENSORS: Final = 4096
"""Largest number of inputs, of outputs and of states."""

MAX_FILES: Final = 256
"""Largest number of model files."""

QUANTIZED_DTYPES: Final = ("int8", "uint8", "int16")

MIN_SCALE: Final = 1e-30
"""Smallest scale of a quantization: float32 cannot compute with smaller scales or their inverse."""

Number: TypeAlias = int | float
Violation: TypeAlias = tuple[str, str]
"""The member of a dataclass that breaks a rule ("" for the object itself), and what is expected."""

_Dtype: TypeAlias = Annotated[str, Choices(DTYPES)]
_DtypeNumber: TypeAlias = Annotated[Number, Flag.OF_DTYPE]
_AxisSize: TypeAlias = Annotated[int, Range(1, MAX_AXIS)]


@dataclass(frozen=True)
class Axis:
    """One axis of an input or output.

    Attributes:
        name: The name; axes of one name have one size. None for an axis of its own.
        size: The fixed size, or None for a free axis.
        min: The smallest valid size; always 1 for a fixed axis.
        from_values: Whether the size depends on the values of the inputs, such as the length of
            the longest text of a batch; only for a free axis of an output, which has no name.
    """

    name: str | None
    size: _AxisSize | None
    min: Annotated[int, Range(1, MAX_MIN), Flag.OMIT_DEFAULT] = 1
    from_values: Annotated[bool, Flag.OMIT_DEFAULT] = False

    def violation(self) -> Violation | None:
        """The rule of the manifest that this breaks, if any."""
        if self.size is not None and self.min != 1:
            return "", "no 'min' on an axis of fixed size"
        if self.from_values and (self.size is not None or self.name is not None):
            return "", "no size and no name on an axis whose size depends on values"
        return None


_Axes: TypeAlias = Annotated[tuple[Axis, ...], Flag.AT_LEAST_ONE, Items(MAX_AXES)]
_Names: TypeAlias = Annotated[tuple[str, ...], Flag.AT_LEAST_ONE, Items(2 * MAX_TENSORS)]


def _axes_violation(axes: tuple[Axis, ...]) -> Violation | None:
    if any(axis.from_values for axis in axes):
        return "axes", "no axis whose size depends on values"
    if axes[0].name != BATCH or BATCH in [axis.name for axis in axes[1:]]:
        return "axes", "the first axis, and no other, to be named 'batch'"
    return None


def _sizes_violation(axes: tuple[Axis, ...]) -> Violation | None:
    """The rule that the axes of an input break, if any."""
    if any(axis.name is None and axis.size is None for axis in axes):
        return "axes", "a name on every axis of free size of an input"
    if math.prod(axis.size or axis.min for axis in axes) > MAX_VALUES:
        return "axes", f"sizes, or minima, whose product is at most {MAX_VALUES}"
    return None


@dataclass(frozen=True)
class InputSpec:
    """One input of the model.

    Attributes:
        name: The Keras name of the input.
        dtype: A numpy dtype name, one of `DTYPES`.
        axes: Its axes; the first is the batch.
        range: The lowest and the highest allowed value, both included: the vocabulary, for ids.
        mask_value: The value that marks a step as padding; None without a mask. A float that
            is not finite is written as the string "NaN", "Infinity" or "-Infinity".
        sample_rate: The number of steps in a second, for an input of sound.
    """

    name: str
    dtype: _Dtype
    axes: _Axes
    range: Annotated[tuple[Number, Number], Flag.OF_DTYPE] | None = None
    mask_value: _DtypeNumber | None = None
    sample_rate: Annotated[Annotated[int, Range(1, MAX_AXIS)] | None, Flag.OMIT_DEFAULT] = None

    def violation(self) -> Violation | None:
        """The rule of the manifest that this breaks, if any."""
        wrong = _axes_violation(self.axes) or _sizes_violation(self.axes)
        if wrong:
            return wrong
        if self.range is not None:
            low, high = self.range
            if not low <= high or math.isinf(low) or math.isinf(high):
                return "range", "two finite numbers, the lower first"
            if self.mask_value is not None and not low <= self.mask_value <= high:
                return "mask_value", f"a value in the range {low} to {high} of the same input"
        if self.sample_rate is not None and not self.can_be_sound:
            return "sample_rate", "an input of sound, [batch, time] or [batch, time, channels]"
        return None

    @property
    def can_be_sound(self) -> bool:
        """Whether it takes floats, `[batch, time]` or `[batch, time, channels]`."""
        return len(self.axes) in (2, 3) and np.dtype(self.dtype).kind == "f"


@dataclass(frozen=True)
class OutputSpec:
    """One output of the model.

    Attributes:
        name: The Keras name of the output.
        dtype: A numpy dtype name, one of `DTYPES`.
        axes: Its axes; none for a scalar. The model computes the size of a free axis without a
            name. The first axis need not be the batch: time may come first, or the model takes
            the mean over the batch.
    """

    name: str
    dtype: _Dtype
    axes: tuple[Axis, ...]

    @property
    def has_rows(self) -> bool:
        """Whether the first axis is the batch: row n belongs to example n."""
        return bool(self.axes) and self.axes[0].name == BATCH

    def violation(self) -> Violation | None:
        """The rule of the manifest that this breaks, if any."""
        if [axis.name for axis in self.axes].count(BATCH) > 1:
            return "axes", "no more than one axis named 'batch'"
        return None


@dataclass(frozen=True)
class StateSpec:
    """A state of a stateful model: an extra input and output of its files, initially zeros.

    Attributes:
        name: The layer and the number of its state.
        dtype: A numpy dtype name.
        axes: Its axes, all of fixed size; the first is the batch.
    """

    name: str
    dtype: _Dtype
    axes: _Axes

    def violation(self) -> Violation | None:
        """The rule of the manifest that this breaks, if any."""
        wrong = _axes_violation(self.axes)
        if not wrong and any(axis.size is None for axis in self.axes):
            return "", "a state whose axes all have a fixed size"
        if not wrong and math.prod(axis.size or 1 for axis in self.axes) > MAX_VALUES:
            return "axes", f"sizes whose product is at most {MAX_VALUES}"
        return wrong


@dataclass(frozen=True)
class ModelSpec:
    """The inputs, outputs and states of a model.

    Attributes:
        name: The name of the Keras model.
        inputs: The inputs in the order of the model.
        outputs: The outputs in the order of the model.
        states: The states that a stateful model keeps from one call to the next. In every model
            file they are additional inputs and outputs, after the model's own.
        output_structure: The structure that the Keras model returns: ``"single"``, ``"list"`` or
            ``"dict"``.
        padding_neutral: Whether padding on the right changes no output.
        rows_independent: Whether every output has one row for each example, and no row of a batch
            changes the output of another. If not, examples run together, as given.
        preprocessing: How the strings of inputs that take text become ids, or a recording examples.
        decoding: How outputs become labels or tags, for outputs that have names of classes.
    """

    name: str
    inputs: Annotated[tuple[InputSpec, ...], Flag.AT_LEAST_ONE, Items(MAX_TENSORS)]
    outputs: Annotated[tuple[OutputSpec, ...], Flag.AT_LEAST_ONE, Items(MAX_TENSORS)]
    states: Annotated[tuple[StateSpec, ...], Flag.OMIT_DEFAULT, Items(MAX_TENSORS)] = ()
    output_structure: Annotated[str, Choices(OUTPUT_STRUCTURES)] = "single"
    padding_neutral: Annotated[bool, Key(("padding", "neutral"))] = False
    rows_independent: bool = False
    preprocessing: Annotated[tuple[Preprocessing, ...], Flag.OMIT_DEFAULT, Items(MAX_TENSORS)] = ()
    decoding: Annotated[tuple[Decoding, ...], Flag.OMIT_DEFAULT, Items(MAX_TENSORS)] = ()

    def violation(self) -> Violation | None:
        """The rule of the manifest that this breaks, if any."""
        if self.rows_independent and not (
            all(item.has_rows for item in self.outputs) and not self.has_value_sizes
        ):
            return "", (
                "'rows_independent' false: an output does not begin with the batch, or has an "
                "axis whose size depends on values"
            )
        return None

    def pack_outputs(self, outputs: Sequence[Any]) -> Any:
        """Arrange outputs, one per entry of `outputs`, in the structure of the Keras model."""
        if self.output_structure == "single":
            return outputs[0]
        if self.output_structure == "list":
            return list(outputs)
        return {spec.name: output for spec, output in zip(self.outputs, outputs, strict=True)}

    def flatten_outputs(self, outputs: Any) -> list[Any]:
        """Return what `pack_outputs` arranged as a list, in the order of `outputs`."""
        if self.output_structure == "single":
            return [outputs]
        return list(outputs.values() if isinstance(outputs, dict) else outputs)

    @property
    def texts(self) -> tuple[TextEntry, ...]:
        """The entries of `preprocessing` that make ids of texts."""
        return tuple(
            item for item in self.preprocessing if not isinstance(item, WindowPreprocessing)
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """For each input, the name under which its value is given: its own, or that of raw data.

        Several inputs have the same one if one value makes them all.
        """
        named = {
            item.input: item.source
            for item in self.preprocessing
            if isinstance(item, TextPreprocessing) and item.source is not None
        }
        return tuple(named.get(item.name, item.name) for item in self.inputs)

    @property
    def text_names(self) -> tuple[str, ...]:
        """The names in `sources` under which texts are given."""
        texts = {
            item.input
            for item in self.texts
            if not (isinstance(item, TextPreprocessing) and item.integers is not None)
        }
        pairs = zip(self.inputs, self.sources, strict=True)
        return tuple(dict.fromkeys(source for one, source in pairs if one.name in texts))

    @property
    def raw_inputs(self) -> tuple[InputSpec, ...]:
        """What `predict` takes: an entry for each different name in `sources`.

        An input that shares its name with others has the axes of the first of them.
        """
        found: dict[str, InputSpec] = {}
        for name, item in zip(self.sources, self.inputs, strict=True):
            if name not in found or name == item.name:
                found[name] = dataclasses.replace(item, name=name)
        return tuple(found.values())

    @property
    def windows(self) -> WindowPreprocessing | None:
        """The entry of `preprocessing` that cuts recordings into windows, if there is one."""
        found = (item for item in self.preprocessing if isinstance(item, WindowPreprocessing))
        return next(found, None)

    @property
    def has_value_sizes(self) -> bool:
        """Whether the size of an output depends on the values of the inputs."""
        return any(axis.from_values for item in self.outputs for axis in item.axes)

    @property
    def file_inputs(self) -> tuple[InputSpec | StateSpec, ...]:
        """The inputs of a model file: the inputs of the model, then the states."""
        return (*self.inputs, *self.states)

    @property
    def file_outputs(self) -> tuple[OutputSpec | StateSpec, ...]:
        """The outputs of a model file: the outputs of the model, then the states."""
        return (*self.outputs, *self.states)

    @property
    def batch(self) -> Axis:
        """The batch axis, which all inputs and outputs share."""
        return self.inputs[0].axes[0]

    @property
    def sequence_axes(self) -> dict[str, Axis]:
        """The named axes of the inputs other than the batch, with the largest `min` of each."""
        found: dict[str, Axis] = {}
        for axis in (axis for spec in self.inputs for axis in spec.axes[1:]):
            if axis.name is not None:
                known = found.get(axis.name, axis)
                found[axis.name] = dataclasses.replace(axis, min=max(axis.min, known.min))
        return found

    def split_inputs(self, arrays: Sequence[T]) -> tuple[list[T], list[T]]:
        """Split the inputs of a model file into the inputs of the model and the states."""
        count = len(self.inputs)
        return list(arrays[:count]), list(arrays[count:])

    def split_outputs(self, arrays: Sequence[T]) -> tuple[list[T], list[T]]:
        """Split the outputs of a model file into the outputs of the model and the states."""
        count = len(self.outputs)
        return list(arrays[:count]), list(arrays[count:])

    @property
    def can_pad(self) -> bool:
        """Whether sequences of this model may be padded on the right.

        Padding must change no output, and no output may have an axis whose size the model
        computes: it is not known which of its steps come from the padding.
        """
        derived = any(a.name is None and a.size is None for o in self.outputs for a in o.axes)
        return self.padding_neutral and not derived


@dataclass(frozen=True)
class Tolerance:
    """Outputs agree if ``|output - reference| <= absolute + relative * |reference|``."""

    absolute: Annotated[float, Range(0)]
    relative: Annotated[float, Range(0)]


@dataclass(frozen=True)
class Quantization:
    """How an input or output of a file stores floats: ``value = (stored - zero_point) * scale``.

    Attributes:
        dtype: The dtype of the stored integers, one of `QUANTIZED_DTYPES`.
        scale: The scale, greater than 0.
        zero_point: The zero point, a value of that dtype.
    """

    dtype: Annotated[str, Choices(QUANTIZED_DTYPES)]
    scale: Annotated[float, Range(MIN_SCALE, 1 / MIN_SCALE)]
    zero_point: Annotated[int, Flag.OF_DTYPE]


RUN: Final = "run"
BY_TABLE: Final = "operator table"


@dataclass(frozen=True)
class RuntimeProof:
    """A runtime that an artifact is made for.

    Attributes:
        name: The target of the export, such as "onnxruntime" or "openvino".
        version: The version of that runtime.
        how: "run": the export ran the artifact in it and compared it with Keras. "operator table":
            the operators and dtypes of the artifact are those that this version has.
        arena_bytes: For an interpreter that works in one block of memory of fixed size, as TFLite
            Micro does, the bytes that the artifact needed there.
    """

    name: Annotated[str, WORD]
    version: Annotated[str, WORD]
    how: Annotated[str, Choices((RUN, BY_TABLE))]
    arena_bytes: Annotated[Annotated[int, BYTES] | None, Flag.OMIT_DEFAULT] = None


@dataclass(frozen=True)
class Artifact:
    """One model file.

    Attributes:
        file: Its name inside the bundle folder.
        format: "onnx", "tflite", or a format that later exporters add.
        recipe: How the numbers are stored, such as "float32".
        bytes: Its size in bytes.
        sha256: Its SHA-256, 64 lower-case hexadecimal digits.
        inputs: The names inside the file, in the order of the model's inputs, then its states.
        outputs: The names inside the file, in the order of the model's outputs, then its states.
        parity: The exporter's measurements, in free form.
        quantized_inputs: The quantization of the inputs that take integers for floats, by the
            name inside the file.
        quantized_outputs: The same for the outputs.
        reset_between_runs: Whether the file keeps state between runs, so that it must be reset.
        tolerance: The tolerance of its outputs, if it differs from the bundle's.
        recorded_at_export: Whether the golden file also contains its outputs at export.
        runtimes: The runtimes that the export made it for, and how it was checked for each.
        largest_input: The largest absolute value of float inputs for which it gives numbers, as
            Keras does; None if it does for every float32.
    """

    file: Annotated[str, FILE_NAME]
    format: Annotated[str, WORD]
    recipe: Annotated[str, WORD]
    bytes: Annotated[int, BYTES]
    sha256: Annotated[str, SHA256]
    inputs: _Names
    outputs: _Names
    parity: Annotated[Mapping[str, object], Flag.OPTIONAL] = field(default_factory=dict)
    quantized_inputs: Annotated[
        Mapping[str, Quantization], Flag.OMIT_DEFAULT, Items(MAX_TENSORS)
    ] = field(default_factory=dict)
    quantized_outputs: Annotated[
        Mapping[str, Quantization], Flag.OMIT_DEFAULT, Items(MAX_TENSORS)
    ] = field(default_factory=dict)
    reset_between_runs: Annotated[bool, Flag.OMIT_DEFAULT] = False
    tolerance: Annotated[Tolerance | None, Flag.OMIT_DEFAULT] = None
    recorded_at_export: Annotated[bool, Key(("own_answers",)), Flag.OMIT_DEFAULT] = False
    runtimes: Annotated[tuple[RuntimeProof, ...], Flag.OMIT_DEFAULT, Items(MAX_FILES)] = ()
    largest_input: Annotated[float | None, Flag.OMIT_DEFAULT] = None


@functools.cache
def integer_limits(dtype: str) -> tuple[int, int]:
    """Return the lowest and the highest value of an integer dtype, given by name.

    >>> integer_limits("uint8")
    (0, 255)
    """
    if dtype == "bool":
        return 0, 1
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)
