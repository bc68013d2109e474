"""The manifest of a bundle: what manifest.json says, as frozen dataclasses.

`bilstm_runtime.bundle.manifest_json` reads and writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bilstm_runtime.comparison import Tolerance
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec, StateSpec, TextPreprocessing

FORMAT_VERSION: Final = 1
MANIFEST_FILE: Final = "manifest.json"
QUANTIZED_DTYPES: Final = ("int8", "uint8", "int16")


@dataclass(frozen=True)
class Source:
    """The Keras file the bundle was made from."""

    file: str
    sha256: str
    generation: str


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
        spec: What the model takes and returns.
        source: The Keras file that the bundle was made from.
        artifacts: The model files.
        golden: The recorded inputs and outputs.
        tolerance: How near outputs must come to Keras's.
        recommended_recipe: The recipe to run where nobody says otherwise.
        recommended_reason: Why, in a sentence, where a search chose it.
        versions: The libraries that made the bundle.
    """

    spec: ModelSpec
    source: Source
    artifacts: tuple[Artifact, ...]
    golden: Golden
    tolerance: Tolerance
    recommended_recipe: str
    recommended_reason: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    # To be removed: use `spec`.
    @property
    def name(self) -> str:
        """Use `spec`."""
        return self.spec.name

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """Use `spec`."""
        return self.spec.inputs

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """Use `spec`."""
        return self.spec.outputs

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """Use `spec`."""
        return self.spec.states

    @property
    def output_structure(self) -> str:
        """Use `spec`."""
        return self.spec.output_structure

    @property
    def padding_neutral(self) -> bool:
        """Use `spec`."""
        return self.spec.padding_neutral

    @property
    def rows_independent(self) -> bool:
        """Use `spec`."""
        return self.spec.rows_independent

    @property
    def preprocessing(self) -> tuple[TextPreprocessing, ...]:
        """Use `spec`."""
        return self.spec.preprocessing

    @property
    def file_inputs(self) -> tuple[InputSpec | StateSpec, ...]:
        """Use `spec`."""
        return self.spec.file_inputs

    @property
    def file_outputs(self) -> tuple[OutputSpec | StateSpec, ...]:
        """Use `spec`."""
        return self.spec.file_outputs

    @property
    def batch(self) -> Axis:
        """Use `spec`."""
        return self.spec.batch

    @property
    def sequence_axes(self) -> dict[str, Axis]:
        """Use `spec`."""
        return self.spec.sequence_axes
