"""A model as the rest of the exporter sees it, whichever library runs it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bilstm_exporter.ir.recurrence import Lowering
from bilstm_runtime.comparison import Tolerance
from bilstm_runtime.spec import TextPreprocessing

# float32 keeps 24 bits, 6e-8 of a value. A few hundred steps of sums over some hundred
# units, in another order than Keras's, lose up to three decimal digits of that; what is
# wrong by more than this is not rounding. docs/numerics.md has the measurements.
TOLERANCE = Tolerance(absolute=1e-5, relative=1e-4)

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class DeclaredInput:
    """One input as the model declares it.

    Attributes:
        name: The model's name for it.
        shape: With the batch axis first; None where the size is free.
        dtype: A numpy dtype name.
        declared: Whether the model states shape and dtype itself; otherwise they
            come from the call that built it and are only an example.
    """

    name: str
    shape: Shape
    dtype: str
    declared: bool = True


@dataclass(frozen=True)
class Origin:
    """Where a model came from.

    Attributes:
        file: The file's name, or "" for a model in memory.
        sha256: Of the file, or of nothing.
        keras_version: Of the Keras that wrote the file, or of the one that holds the model.
        why: What decided which Keras reads it, in a few words.
    """

    file: str
    sha256: str
    keras_version: str
    why: str


NamedLayer = tuple[str, str]
"""The name and the class of a layer."""


@dataclass(frozen=True)
class ModelLayers:
    """What is known of a model's layers, whether or not it could be loaded.

    Attributes:
        model: The model's name.
        generation: The library that read it, or would read it, and why.
        layers: In the order of the model.
        text_layers: Those that the manifest describes in place of the artifacts.
    """

    model: str
    generation: str
    layers: Sequence[NamedLayer]
    text_layers: Sequence[NamedLayer] = ()


class KerasModel(Protocol):
    """A readable model.

    Attributes:
        name: For the manifest.
        generation: Which library reads the model, and so defines what is right.
        inputs: In the order of the model, without the states.
        states: What a stateful model keeps from one call to the next.
        output_names: In the order in which ``reference`` returns them, without the states.
        output_structure: ``"single"``, ``"list"`` or ``"dict"``.
        keras_model: The Keras model that is called.
        preprocessing: How ids are made of text for the inputs that take text.
    """

    name: str
    generation: str
    inputs: tuple[DeclaredInput, ...]
    states: tuple[DeclaredInput, ...]
    output_names: tuple[str, ...]
    output_structure: str
    preprocessing: tuple[TextPreprocessing, ...]
    keras_model: Any

    @property
    def state_count(self) -> int:
        """How many states there are."""
        ...

    @property
    def flat_inputs(self) -> tuple[DeclaredInput, ...]:
        """The inputs, then the states: what ``reference`` and ``trace`` take."""
        ...

    @property
    def flat_output_names(self) -> tuple[str, ...]:
        """The names of the outputs, then of the states: what ``reference`` returns."""
        ...

    def pack_inputs(self, arrays: Sequence[Any]) -> Any:
        """Arrays, one per input, in the structure that the Keras model takes."""
        ...

    def reference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What the model answers, called eagerly: the definition of right."""
        ...

    def accepts_shapes(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Whether the layers' own arithmetic of shapes allows inputs of these shapes.

        TensorFlow's kernels do not refuse all that is too short: a depthwise convolution
        answers with what it finds in memory.
        """
        ...

    def native_dtype_reference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """What the model answers in its own dtypes, or None if it computes in float32 anyway.

        ``reference`` is the answer in float32, in which every model is exported.
        """
        ...

    def perturbed_reference(self, inputs: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
        """What the model answers when every weight is off by one rounding, up or down."""
        ...

    def final_states(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The final states of every recurrence in one eager call, ``[batch, ...]`` each."""
        ...

    def layers(self) -> list[tuple[str, str]]:
        """Name and class of every layer that does something itself, in the model's order."""
        ...

    def text_layers(self) -> list[tuple[str, str]]:
        """Name and class of every layer that the manifest describes in place of the artifacts."""
        ...

    def weights(self) -> list[tuple[str, np.ndarray]]:
        """Every weight with the name of the layer it belongs to, as in ``layers``."""
        ...

    def trace(self, lowering: Lowering, inputs: Sequence[DeclaredInput]) -> Any:
        """Trace the model at these shapes, weights as constants.

        Returns:
            A ``tf.ConcreteFunction`` from ``input_0``, ``input_1``, ... to a dict
            of ``output_0``, ``output_1``, ...
        """
        ...


def layer_of_node(node: str, layers: Collection[str]) -> str | None:
    """The innermost layer in whose scope a node of a traced graph stands, or None.

    Args:
        node: Its name, such as ``"model_1/encoder_1/Erf"``; tracing numbers scopes.
        layers: The names of the layers.
    """
    for scope in reversed(node.split("/")):
        found = [layer for layer in layers if re.fullmatch(rf"{re.escape(layer)}(_\d+)*", scope)]
        if found:
            return max(found, key=len)
    return None
