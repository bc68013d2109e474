"""A model that has been read and inspected: what targets build from and checks compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bilstm_exporter.ir.markers import MarkedGraph, mark_recurrences
from bilstm_exporter.ir.recurrence import Lowering
from bilstm_exporter.keras_model import DeclaredInput, KerasModel, Origin
from bilstm_exporter.quantization.recipes import WeightOwners
from bilstm_runtime.spec import BATCH, TIME, Axis, InputSpec, ModelSpec


@dataclass(frozen=True)
class LoadedModel:
    """A Keras model and its description.

    Attributes:
        keras: The model; its eager call is the reference.
        origin: Where it came from.
        spec: What it takes and returns.
        typical_sizes: For each named axis a size at which the model runs.
        first_graph: The graph traced for inspection, which serves again for the same shapes.
    """

    keras: KerasModel
    origin: Origin
    spec: ModelSpec
    typical_sizes: Mapping[str, int]
    first_graph: MarkedGraph

    @property
    def generation(self) -> str:
        """The library that read the model, and why."""
        return f"{self.keras.generation}: {self.origin.why}"

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
        """The names of the outputs and states inside the artifacts, none of them an input's."""
        taken = set(self.input_names)
        names: list[str] = []
        for spec in self.spec.file_outputs:
            name = spec.name
            while name in taken:
                name += "_output"
            taken.add(name)
            names.append(name)
        return tuple(names)

    @property
    def free_axes(self) -> dict[str, Axis]:
        """The axes whose size is not fixed, by name, the batch among them."""
        axes = (axis for spec in self.spec.file_inputs for axis in spec.axes)
        return {axis.name: axis for axis in axes if axis.size is None and axis.name}

    @property
    def time_axes(self) -> frozenset[str]:
        """The names of the time axes: that of the second axis of any input."""
        return time_axes(self.call_inputs)

    def shapes(self, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        """The shapes of `call_inputs` at these sizes, typical ones where none is given."""
        return shapes_at(self.call_inputs, {**self.typical_sizes, **sizes})

    @cached_property
    def declared_inputs(self) -> list[DeclaredInput]:
        """The inputs and states to trace with; None where an axis is free."""
        return [
            DeclaredInput(spec.name, tuple(axis.size for axis in spec.axes), spec.dtype)
            for spec in self.spec.file_inputs
        ]

    def trace(self, lowering: Lowering) -> Any:
        """Trace the model at the shapes of the spec: a ``tf.ConcreteFunction``."""
        return self.keras.trace(lowering, self.declared_inputs)

    @cached_property
    def marked_graph(self) -> MarkedGraph:
        """The model traced at the shapes of the spec, every recurrence a marker."""
        if self.first_graph.has_shapes([spec.shape for spec in self.declared_inputs]):
            return self.first_graph
        return mark_recurrences(self.trace)

    @cached_property
    def weight_owners(self) -> WeightOwners:
        """Which layer a constant of an artifact belongs to."""
        return WeightOwners(self.keras.weights())


def shapes_at(
    inputs: tuple[InputSpec, ...] | list[InputSpec], sizes: Mapping[str, int]
) -> list[tuple[int, ...]]:
    """The shapes of inputs whose named axes have these sizes."""
    return [
        tuple(axis.size if axis.size is not None else sizes[axis.name or ""] for axis in spec.axes)
        for spec in inputs
    ]


def time_axes(inputs: tuple[InputSpec, ...] | list[InputSpec]) -> frozenset[str]:
    """The names of the time axes of inputs."""
    names = {spec.axes[1].name for spec in inputs if len(spec.axes) > 1}
    every = {axis.name for spec in inputs for axis in spec.axes}
    return frozenset(name for name in (names | (every & {TIME})) if name not in (None, BATCH))
