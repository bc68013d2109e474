"""A model file of a bundle, as its manifest describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from bilstm_runtime.comparison import Tolerance
from bilstm_runtime.constraints import BYTES, FILE_NAME, SHA256, WORD, Choices, Flag, Range

QUANTIZED_DTYPES: Final = ("int8", "uint8", "int16")

MIN_SCALE: Final = 1e-30
"""Below it, and above its inverse, float32 overflows or underflows."""


@dataclass(frozen=True)
class Quantization:
    """How an input or output of a file stores floats: ``value = (stored - zero_point) * scale``.

    Attributes:
        dtype: The dtype of the stored integers, one of `QUANTIZED_DTYPES`.
        scale: Greater than 0.
        zero_point: A value of that dtype.
    """

    dtype: Annotated[str, Choices(QUANTIZED_DTYPES)]
    scale: Annotated[float, Range(MIN_SCALE, 1 / MIN_SCALE)]
    zero_point: Annotated[int, Flag.OF_DTYPE]


@dataclass(frozen=True)
class Artifact:
    """One model file.

    Attributes:
        file: Its name inside the bundle folder.
        format: "onnx", "tflite", or a format that later exporters add.
        recipe: How the numbers are stored, such as "float32".
        bytes: Its size.
        sha256: Its checksum, 64 lower-case hexadecimal digits.
        inputs: The names inside the file, in the order of the model's inputs, then its states.
        outputs: The names inside the file, in the order of the model's outputs, then its states.
        parity: What the exporter measured; free form.
        quantized_inputs: By the name inside the file, the inputs that take integers for floats.
        quantized_outputs: The same for the outputs.
        reset_between_runs: Whether the file keeps state from one run to the next unless it is
            reset.
        tolerance: The tolerance of its outputs, where it is not that of the bundle.
        own_answers: Whether the golden file records its outputs at export, beside Keras's.
    """

    file: Annotated[str, FILE_NAME]
    format: Annotated[str, WORD]
    recipe: Annotated[str, WORD]
    bytes: Annotated[int, BYTES]
    sha256: Annotated[str, SHA256]
    inputs: Annotated[tuple[str, ...], Flag.AT_LEAST_ONE]
    outputs: Annotated[tuple[str, ...], Flag.AT_LEAST_ONE]
    parity: Annotated[Mapping[str, object], Flag.OPTIONAL] = field(default_factory=dict)
    quantized_inputs: Annotated[Mapping[str, Quantization], Flag.OMIT_DEFAULT] = field(
        default_factory=dict
    )
    quantized_outputs: Annotated[Mapping[str, Quantization], Flag.OMIT_DEFAULT] = field(
        default_factory=dict
    )
    reset_between_runs: Annotated[bool, Flag.OMIT_DEFAULT] = False
    tolerance: Annotated[Tolerance | None, Flag.OMIT_DEFAULT] = None
    own_answers: Annotated[bool, Flag.OMIT_DEFAULT] = False
