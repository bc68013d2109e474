"""The manifest of a bundle: what manifest.json says, as frozen dataclasses.

`bilstm_runtime.bundle.manifest_json` reads and writes it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bilstm_runtime.preprocessing import TextPreprocessing

FORMAT_VERSION: Final = 1
MANIFEST_FILE: Final = "manifest.json"
BATCH: Final = "batch"
"""Name of axis 0 of every input and output."""

DTYPES: Final = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
)  # fmt: skip
QUANTIZED_DTYPES: Final = ("int8", "uint8", "int16")
OUTPUT_STRUCTURES: Final = ("single", "list", "dict")

MAX_AXIS: Final = 2**24
"""Largest size of one axis: beyond any real model, small enough not to exhaust an allocator."""

Number: TypeAlias = int | float


@dataclass(frozen=True)
class Axis:
    """One axis of an input or output.

    Attributes:
        name: Axes of one name have one size; None for an axis that stands alone.
        size: The fixed size, or None where any size will do.
        min: The least size that works; always 1 for a fixed axis.
    """

    name: str | None
    size: int | None
    min: int = 1


@dataclass(frozen=True)
class InputSpec:
    """One input of the model.

    Attributes:
        name: The Keras name of the input.
        dtype: A numpy dtype name, one of `DTYPES`.
        axes: Its axes; the first is the batch.
        range: Least and greatest value allowed, both included: the vocabulary, for ids.
        mask_value: The value that marks a step as padding; None without a mask. A float that
            is not finite is written as the string "NaN", "Infinity" or "-Infinity".
    """

    name: str
    dtype: str
    axes: tuple[Axis, ...]
    range: tuple[Number, Number] | None = None
    mask_value: Number | None = None


@dataclass(frozen=True)
class OutputSpec:
    """One output of the model; a free axis without a name has a size the model derives."""

    name: str
    dtype: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class StateSpec:
    """A state of a stateful model: an extra input and output of its files, zeros at first.

    Attributes:
        name: The layer and the number of its state.
        dtype: A numpy dtype name.
        axes: Its axes, all of fixed size; the first is the batch.
    """

    name: str
    dtype: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class Source:
    """The Keras file the bundle was made from."""

    file: str
    sha256: str
    generation: str


@dataclass(frozen=True)
class Tolerance:
    """Answers agree where `|y - reference| <= absolute + relative * |reference|`."""

    absolute: float
    relative: float


@dataclass(frozen=True)
class Quantization:
    """How an input or output of a file holds its floats: ``value = (stored - zero_point) * scale``.

    Attributes:
        dtype: Of what is stored, "int8" or "uint8" or "int16".
        scale: Greater than 0.
        zero_point: A value of that dtype.
    """

    dtype: str
    scale: float
    zero_point: int


@dataclass(frozen=True)
class Artifact:
    """One model file.

    Attributes:
        file: Its name inside the bundle folder.
        format: "onnx", "tflite", or a format later exporters add.
        recipe: How the numbers are stored, such as "float32".
        bytes: Its size.
        sha256: Its checksum, 64 lower-case hexadecimal digits.
        inputs: The names inside the file, in the order of the manifest's inputs, then its states.
        outputs: The names inside the file, in the order of the manifest's outputs, then its states.
        parity: What the exporter measured; free form.
        tolerance: How near its answers come to Keras's, where not as near as the bundle's own.
        own_answers: Whether the golden file holds what it answered at export, beside Keras's.
        quantized_inputs: By the name inside the file, for those that take integers for floats.
        quantized_outputs: The same for the outputs.
        reset_between_runs: Whether the file remembers one run in the next unless it is reset.
    """

    file: str
    format: str
    recipe: str
    bytes: int
    sha256: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parity: Mapping[str, object] = field(default_factory=dict)
    tolerance: Tolerance | None = None
    own_answers: bool = False
    quantized_inputs: Mapping[str, Quantization] = field(default_factory=dict)
    quantized_outputs: Mapping[str, Quantization] = field(default_factory=dict)
    reset_between_runs: bool = False


@dataclass(frozen=True)
class Golden:
    """The file of recorded inputs, of Keras's answers to them and of artifacts' own."""

    file: str
    bytes: int
    sha256: str
    cases: int


@dataclass(frozen=True)
class Manifest:
    """All of manifest.json.

    Attributes:
        padding_neutral: Padding on the right changes no answer.
        rows_independent: No row of a batch changes the answer to another.
        recommended_recipe: The recipe to run where nobody says otherwise.
        recommended_reason: Why, in a sentence, where a search chose it.
        states: What a stateful model carries from one run to the next.
        preprocessing: How the ids of inputs that take text are made of it.
    """

    name: str
    source: Source
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    output_structure: str
    padding_neutral: bool
    rows_independent: bool
    recommended_recipe: str
    artifacts: tuple[Artifact, ...]
    golden: Golden
    tolerance: Tolerance
    versions: Mapping[str, str] = field(default_factory=dict)
    states: tuple[StateSpec, ...] = ()
    preprocessing: tuple[TextPreprocessing, ...] = ()
    recommended_reason: str = ""

    @property
    def file_inputs(self) -> tuple[InputSpec | StateSpec, ...]:
        """What a model file takes: the inputs, then the states."""
        return (*self.inputs, *self.states)

    @property
    def file_outputs(self) -> tuple[OutputSpec | StateSpec, ...]:
        """What a model file gives: the outputs, then the states."""
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


def integer_limits(dtype: str) -> tuple[int, int]:
    """Least and greatest value of an integer dtype, given by name.

    >>> integer_limits("uint8")
    (0, 255)
    """
    if dtype == "bool":
        return 0, 1
    bits = int(dtype.rpartition("int")[2])
    return (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
