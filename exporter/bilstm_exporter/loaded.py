"""A loaded and inspected model: the source of every target and the reference of every check."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bilstm_exporter.ir.graphs import unread_inputs
from bilstm_exporter.ir.markers import MarkedGraph, mark_recurrences
from bilstm_exporter.ir.recurrence import Lowering
from bilstm_exporter.keras_model import DeclaredInput, KerasModel, Origin
from bilstm_exporter.quantization.recipes import WeightOwners
from bilstm_runtime.preprocessing_spec import TokenizerFilePreprocessing
from bilstm_runtime.spec import BATCH, TIME, Axis, InputSpec, ModelSpec


@dataclass(frozen=True)
class LoadedModel:
    """A Keras model and its description.

    Attributes:
        keras: The model; its eager call is the reference.
        origin: Where it came from.
        spec: Its inputs and outputs.
        typical_sizes: For each named axis, a size at which the model runs.
        first_graph: The graph traced for inspection; reused for the same shapes.
        files: The files of tokenizers, by their names in the bundle.
        usual_steps: How many steps a recurrence usually runs over at once, if time is free and
            that is known.
    """

    keras: KerasModel
    origin: Origin
    spec: ModelSpec
    typical_sizes: Mapping[str, int]
    first_graph: MarkedGraph
    files: Mapping[str, bytes] = field(default_factory=dict)
    usual_steps: int | None = None

    def read_file(self, item: TokenizerFilePreprocessing) -> bytes:
        """Return the content of a tokenizer's file."""
        return self.files[item.file]

    @property
    def generation(self) -> str:
        """The library that read the model, and why."""
        return f"{self.keras.generation}: {self.origin.why}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the model, in sentences."""
        cut = tuple(
            f"No file has strings: the output {name!r} is the number of the class, and its strings "
            f"are the labels that classify, tag and run-bilstm return."
            for name in self.keras.labels
        )
        notes = (*self.origin.notes, *cut)
        names = [repr(self.input_names[i]) for i in unread_inputs(self.first_graph.function)]
        if not names:
            return notes
        unread = f"No output depends on {'the input' if len(names) == 1 else 'the inputs'}"
        note = f"{unread} {', '.join(names)}. {self.origin.advice}".strip()
        return (*notes, note)

    @cached_property
    def call_inputs(self) -> tuple[InputSpec, ...]:
        """The arrays that one call takes: the inputs, then the states."""
        states = (InputSpec(s.name, s.dtype, s.axes) for s in self.spec.states)
        return (*self.spec.inputs, *states)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs and states inside the artifacts."""
        return tuple(spec.name for spec in self.spec.file_inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs and states inside the artifacts, distinct from the inputs."""
        used = set(self.input_names)
        names: list[str] = []
        for spec in self.spec.file_outputs:
            name = spec.name
            while name in used:
                name += "_output"
            used.add(name)
            names.append(name)
        return tuple(names)

    @property
    def free_axes(self) -> dict[str, Axis]:
        """The axes without a fixed size, including the batch, by name."""
        axes = (axis for spec in self.spec.file_inputs for axis in spec.axes)
        return {axis.name: axis for axis in axes if axis.size is None and axis.name}

    @property
    def time_axes(self) -> frozenset[str]:
        """The names of the time axes; see `time_axes`."""
        return time_axes(self.call_inputs)

    def fixing_advice(self, free: Collection[str]) -> str:
        """Say how the user can give these free axes a size."""
        options = [
            f"--{option} N"
            for option, names in ((BATCH, {BATCH}), (TIME, self.time_axes))
            if not names.isdisjoint(free)
        ]
        parts = [f"add {' '.join(options)}, the size in every call"] if options else []
        for spec in self.call_inputs:
            for index, axis in enumerate(spec.axes):
                if axis.name in free and axis.name not in {BATCH, *self.time_axes}:
                    parts.append(
                        f"build the model with a size for axis {index} of the input {spec.name!r} "
                        f"({axis.name}), which no option fixes"
                    )
        return "; ".join(parts)

    def shapes(self, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        """Return the shapes of `call_inputs` at these sizes; typical sizes for the other axes."""
        return shapes_at(self.call_inputs, {**self.typical_sizes, **sizes})

    @cached_property
    def declared_inputs(self) -> list[DeclaredInput]:
        """The inputs and states to trace with; the size of a free axis is None."""
        return [
            DeclaredInput(spec.name, tuple(axis.size for axis in spec.axes), spec.dtype)
            for spec in self.spec.file_inputs
        ]

    def trace(self, lowering: Lowering) -> Any:
        """Trace the model at the shapes of the spec; returns a ``tf.ConcreteFunction``."""
        return self.keras.trace(lowering, self.declared_inputs)

    @cached_property
    def marked_graph(self) -> MarkedGraph:
        """The model traced at the shapes of the spec, with a marker for each recurrence."""
        if self.first_graph.has_shapes([spec.shape for spec in self.declared_inputs]):
            return self.first_graph
        return mark_recurrences(self.trace)

    @cached_property
    def weight_owners(self) -> WeightOwners:
        """Finds the layer that a constant of an artifact belongs to."""
        return WeightOwners(self.keras.weights())


def shapes_at(
    inputs: tuple[InputSpec, ...] | list[InputSpec], sizes: Mapping[str, int]
) -> list[tuple[int, ...]]:
    """Return the shapes of inputs whose named axes have these sizes."""
    return [
        tuple(axis.size if axis.size is not None else sizes[axis.name or ""] for axis in spec.axes)
        for spec in inputs
    ]


def time_axes(inputs: tuple[InputSpec, ...] | list[InputSpec]) -> frozenset[str]:
    """Return the names of the time axes: the second axis of each input, and any axis "time"."""
    names = {spec.axes[1].name for spec in inputs if len(spec.axes) > 1}
    all_names = {axis.name for spec in inputs for axis in spec.axes}
    return frozenset(name for name in (names | (all_names & {TIME})) if name not in (None, BATCH))
