"""The description of a model's stream files: how a sequence is computed chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from bilstm_runtime.constraints import Flag, Items, Key, Range
from bilstm_runtime.spec import (
    MAX_AXIS,
    MAX_FILES,
    MAX_MIN,
    MAX_TENSORS,
    MAX_VALUES,
    Artifact,
    InputSpec,
    ModelSpec,
    Violation,
)

__all__ = ["MAX_STEPS", "StreamOutputSpec", "StreamSpec"]

MAX_STEPS: Final = 2**20
"""Largest chunk and largest look-ahead, in steps."""


@dataclass(frozen=True)
class StreamOutputSpec:
    """What a stream returns for one output of the model.

    Attributes:
        is_sequence: Whether it returns one entry per step; if not, a running answer: the output
            for the sequence so far.
        rate: Steps per entry, for models with pooling or strides.
    """

    is_sequence: bool
    rate: Annotated[int, Range(1, MAX_MIN)] = 1


@dataclass(frozen=True)
class StreamSpec:
    """The stream files of a model.

    Attributes:
        files: The inputs, outputs and states of each file. Inputs: those of the model, of one
            chunk; with a look-ahead, those with a time axis once more, for the steps after the
            chunk, and `has_ahead`, 1 if these steps count, else 0; with `starts_from_data`,
            `goes_on`, 1 if the sequence goes on after these steps, else 0.
        artifacts: The files.
        timed: The names of the model's inputs that have a time axis; the others have one value
            per stream.
        outputs: What a stream returns, in the order of the model's outputs.
        chunk: The number of steps by which a stream advances at once, by default.
        lookahead: The number of steps after a chunk that its outputs may depend on, by default.
        has_ahead: Whether the files take a look-ahead.
        unit: Chunk and look-ahead are multiples of it.
        overlap: By how many steps a chunk is longer than the stream advances.
        has_tail: Whether the last `overlap` steps of a sequence have outputs of their own, as they
            do if a layer leaves out steps and a later one pads the sequence again.
        min_steps: The length of the shortest sequence.
        right_context: The look-ahead that the windows of convolutions and pooling reach.
        has_backward: Whether a backward layer starts at the end of the look-ahead. If not, every
            output is exact with a look-ahead of at least `right_context`.
        starts_from_data: Whether backward layers start at states that were estimated from data,
            where the sequence goes on after the look-ahead. They start as in the model at its end.
        attends: Whether steps attend to other steps, of which they see those of the chunk and its
            look-ahead. Outputs are then exact only if these are the whole sequence.
        agreement: The exporter's measurements, in free form.
    """

    files: ModelSpec
    artifacts: Annotated[tuple[Artifact, ...], Flag.AT_LEAST_ONE, Items(MAX_FILES)]
    timed: Annotated[tuple[str, ...], Flag.AT_LEAST_ONE, Items(MAX_TENSORS)]
    outputs: Annotated[tuple[StreamOutputSpec, ...], Flag.AT_LEAST_ONE, Items(MAX_TENSORS)]
    chunk: Annotated[int, Range(1, MAX_STEPS)]
    lookahead: Annotated[int, Range(0, MAX_STEPS)]
    has_ahead: bool
    unit: Annotated[int, Range(1, MAX_MIN)] = 1
    overlap: Annotated[int, Range(0, MAX_MIN)] = 0
    has_tail: Annotated[bool, Flag.OMIT_DEFAULT] = False
    min_steps: Annotated[int, Range(1, MAX_MIN)] = 1
    right_context: Annotated[int, Range(0, MAX_AXIS), Key(("right_context",))] = 0
    has_backward: bool = False
    starts_from_data: Annotated[bool, Flag.OMIT_DEFAULT] = False
    attends: Annotated[bool, Flag.OMIT_DEFAULT] = False
    agreement: Annotated[Mapping[str, object], Flag.OPTIONAL] = field(default_factory=dict)

    @property
    def own_inputs(self) -> tuple[InputSpec, ...]:
        """The inputs of the files that are those of the model."""
        added = (len(self.timed) + 1 if self.has_ahead else 0) + self.starts_from_data
        return self.files.inputs[: len(self.files.inputs) - added]

    def violation(self) -> Violation | None:  # noqa: PLR0911 (one return per rule)
        """The rule of the manifest that this breaks, if any."""
        if self.starts_from_data and not self.has_ahead:
            return "starts_from_data", "false without a look-ahead"
        own = [item.name for item in self.own_inputs]
        if not own or any(name not in own for name in self.timed):
            return "timed", "names of inputs of the model, which 'files' lists first"
        by_name = {item.name: item for item in self.files.inputs}
        if any(len(by_name[name].axes) < 2 for name in self.timed):
            return "timed", "inputs with a time axis"
        if len(self.outputs) != len(self.files.outputs):
            return "outputs", "one entry for each output of the model"
        if any(self.unit % output.rate for output in self.outputs):
            return "unit", "a multiple of every 'rate'"
        if self.chunk % self.unit or self.lookahead % self.unit:
            return "unit", "a divisor of 'chunk' and 'lookahead'"
        largest = max(
            math.prod(axis.size or 1 for axis in by_name[name].axes) for name in self.timed
        )
        if largest * (self.chunk + self.lookahead + self.overlap) > MAX_VALUES:
            return "chunk", f"chunks of at most {MAX_VALUES} values"
        if len({(item.format, item.recipe) for item in self.artifacts}) < len(self.artifacts):
            return "artifacts", "one file for each format and recipe"
        return None
