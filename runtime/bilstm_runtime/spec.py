"""What a model takes and returns: the one description that prediction and export share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final, TypeAlias

BATCH: Final = "batch"
"""Name of axis 0 of every input and output."""

DTYPES: Final = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
)  # fmt: skip
OUTPUT_STRUCTURES: Final = ("single", "list", "dict")

MAX_AXIS: Final = 2**24
"""Largest size of one axis: beyond any real model, small enough not to exhaust an allocator."""

KINDS: Final = ("text_vectorization", "string_lookup")
STANDARDIZATIONS: Final = ("lower", "strip_punctuation", "lower_and_strip_punctuation")
SPLITS: Final = ("whitespace", "character")

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
class TextPreprocessing:
    """How the ids of one input are made of strings.

    Attributes:
        input: The input of the manifest that takes the ids.
        kind: The Keras layer that did it, one of `KINDS`.
        standardize: What is done to a string first, one of `STANDARDIZATIONS`, or None.
        split: What a string is cut into, one of `SPLITS`; None where it is one token whole.
        output_sequence_length: How many ids every text gets, by cutting and padding at its end;
            None for as many as it has tokens.
        vocabulary: The tokens that are known, each once.
        first_id: The id of the first of them; the others follow.
        mask_token: The token that stands for padding, known or not; None if none does.
        padding_id: The id of padding; None if there is none.
        unknown_id: The id of every other token; None where other tokens are refused.
    """

    input: str
    kind: str
    standardize: str | None
    split: str | None
    output_sequence_length: int | None
    vocabulary: tuple[str, ...]
    first_id: int
    mask_token: str | None
    padding_id: int | None
    unknown_id: int | None


@dataclass(frozen=True)
class ModelSpec:
    """What a model takes and returns.

    Attributes:
        name: The name of the Keras model.
        inputs: In the order of the model.
        outputs: In the order of the model.
        states: What a stateful model carries from one call to the next; in every model file they
            are further inputs and outputs, after the model's own.
        output_structure: ``"single"``, ``"list"`` or ``"dict"``: what the Keras model returns.
        padding_neutral: Whether padding on the right changes no output.
        rows_independent: Whether no row of a batch changes the output of another.
        preprocessing: How the ids of inputs that take text are made of it.
    """

    name: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    states: tuple[StateSpec, ...] = ()
    output_structure: str = "single"
    padding_neutral: bool = False
    rows_independent: bool = False
    preprocessing: tuple[TextPreprocessing, ...] = ()

    @property
    def file_inputs(self) -> tuple[InputSpec | StateSpec, ...]:
        """What a model file takes: the inputs, then the states."""
        return (*self.inputs, *self.states)

    @property
    def file_outputs(self) -> tuple[OutputSpec | StateSpec, ...]:
        """What a model file returns: the outputs, then the states."""
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

    @property
    def can_pad(self) -> bool:
        """Whether sequences of this model may be padded on the right.

        Padding must change no output, and no output may have an axis whose size the model
        derives: nobody could tell which of its steps come from the padding.
        """
        derived = any(a.name is None and a.size is None for o in self.outputs for a in o.axes)
        return self.padding_neutral and not derived


def integer_limits(dtype: str) -> tuple[int, int]:
    """Least and greatest value of an integer dtype, given by name.

    >>> integer_limits("uint8")
    (0, 255)
    """
    if dtype == "bool":
        return 0, 1
    bits = int(dtype.rpartition("int")[2])
    return (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
