"""A model as the rest of the exporter sees it, whichever library runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bilstm_exporter.ir.recurrence import Lowering
from bilstm_runtime.spec import TextPreprocessing

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


class Source(Protocol):
    """A readable model.

    Attributes:
        name: For the manifest.
        generation: Which library reads the model, and so defines what is right.
        inputs: In the order of the model.
        output_names: In the order in which ``reference`` returns them.
        output_structure: ``"single"``, ``"list"`` or ``"dict"``.
        state_count: How many of the last inputs, and as many of the last outputs, are states
            that a stateful model carries from one call to the next.
        preprocessing: How ids are made of text for the inputs that take text.
    """

    name: str
    generation: str
    inputs: tuple[DeclaredInput, ...]
    output_names: tuple[str, ...]
    output_structure: str
    state_count: int
    preprocessing: tuple[TextPreprocessing, ...]

    def reference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What the model answers, called eagerly: the definition of right."""
        ...

    def allows(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Whether the layers' own arithmetic of shapes allows inputs of these shapes.

        TensorFlow's kernels do not refuse all that is too short: a depthwise convolution
        answers with what it finds in memory.
        """
        ...

    def declared_reference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """What the model answers in its own dtypes, or None if it computes in float32 anyway.

        ``reference`` is the answer in float32, in which every model is exported.
        """
        ...

    def rounded_reference(self, inputs: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
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
