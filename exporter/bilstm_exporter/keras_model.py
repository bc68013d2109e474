"""The interface to a Keras model, independent of the library that runs it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bilstm_exporter.ir.recurrence import Lowering
from bilstm_runtime.comparison import Tolerance
from bilstm_runtime.preprocessing_spec import TextEntry

# float32 has 24 bits, a relative precision of 6e-8. Sums over some hundred units in another
# order than Keras's lose up to three decimal digits of that in a few hundred steps. A larger
# error is not rounding. docs/numerics.md has the measurements.
TOLERANCE = Tolerance(absolute=1e-5, relative=1e-4)

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class DeclaredInput:
    """One input as the model declares it.

    Attributes:
        name: The name in the model.
        shape: The shape with the batch axis first; None for a free axis.
        dtype: A numpy dtype name.
        declared: Whether the model declares shape and dtype. If not, they come from the call
            that built the model and are only an example.
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
        sha256: The SHA-256 of the file; for a model in memory, that of no bytes.
        keras_version: The version of Keras that wrote the file or created the model in memory.
        why: The reason for the choice of the Keras that reads it, in a few words.
        notes: What the user should know about the reading of the model, in sentences.
        advice: What to do if the model is one for training, with its loss or labels; or "".
        weights: Returns every weight of the model by ``LAYER/WEIGHT``, also of layers that
            ``--outputs`` leaves out.
    """

    file: str
    sha256: str
    keras_version: str
    why: str
    notes: tuple[str, ...] = ()
    advice: str = ""
    weights: Callable[[], Mapping[str, np.ndarray]] = dict


NamedLayer = tuple[str, str]
"""The name and the class of a layer."""


@dataclass(frozen=True)
class ModelLayers:
    """The layers of a model, whether or not it could be loaded.

    Attributes:
        model: The model's name.
        generation: The library that read it, or would read it, and why.
        layers: The layers in the order of the model.
        text_layers: The layers that the manifest describes, and no artifact contains.
    """

    model: str
    generation: str
    layers: Sequence[NamedLayer]
    text_layers: Sequence[NamedLayer] = ()


class KerasModel(Protocol):
    """A loaded Keras model.

    Attributes:
        name: The name for the manifest.
        generation: The library that runs the model, and so defines the reference.
        inputs: The inputs in the order of the model, without the states.
        states: The states that a stateful model keeps from one call to the next.
        output_names: The names in the order in which ``reference`` returns the outputs, without
            the states.
        output_structure: ``"single"``, ``"list"`` or ``"dict"``.
        keras_model: The Keras model that is called.
        preprocessing: How text becomes ids, for the inputs that take text.
        labels: By output, the strings of the classes that the model returned before its layers for
            strings were cut off.
    """

    name: str
    generation: str
    inputs: tuple[DeclaredInput, ...]
    states: tuple[DeclaredInput, ...]
    output_names: tuple[str, ...]
    output_structure: str
    preprocessing: tuple[TextEntry, ...]
    labels: Mapping[str, tuple[str, ...]]
    keras_model: Any

    @property
    def state_count(self) -> int:
        """The number of states."""
        ...

    @property
    def flat_inputs(self) -> tuple[DeclaredInput, ...]:
        """The inputs of ``reference`` and ``trace``: the inputs, then the states."""
        ...

    @property
    def flat_output_names(self) -> tuple[str, ...]:
        """The names of the arrays that ``reference`` returns: the outputs, then the states."""
        ...

    def pack_inputs(self, arrays: Sequence[Any]) -> Any:
        """Arrange one array per input in the structure that the Keras model takes."""
        ...

    def reference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs of an eager call in float32.

        The call may be a compiled function, if that was proven equal to the eager call.

        Args:
            inputs: One array per entry of ``flat_inputs``.

        Returns:
            One array per entry of ``flat_output_names``.
        """
        ...

    def eager_reference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs of an eager call, as ``reference`` does; never compiled."""
        ...

    def call_eagerly(self) -> None:
        """Let every later call be eager."""
        ...

    def accepts_shapes(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Whether the layers' shape inference allows inputs of these shapes.

        TensorFlow's kernels do not reject every input that is too short: a depthwise convolution
        returns uninitialized memory.
        """
        ...

    def native_dtype_reference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """Return the outputs in the model's own dtypes, or None for a float32 model.

        Every model is exported in float32, as in ``reference``.
        """
        ...

    def perturbed_reference(self, inputs: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
        """Return the outputs with every weight moved one float32 step up or down.

        Args:
            inputs: See ``reference``.
            seed: Selects the directions.
        """
        ...

    def rounded_reference(self, inputs: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
        """Return the outputs with every weight and every result off by up to twenty roundings.

        Args:
            inputs: See ``reference``.
            seed: Selects the changes. With an even seed, functions such as sigmoid reach the ends
                of their range; with an odd one they do not.
        """
        ...

    def final_states(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the final states of every recurrence in one eager call, ``[batch, ...]`` each."""
        ...

    def random_layer(self, inputs: Sequence[np.ndarray]) -> str | None:
        """Return the name of the first layer whose outputs differ between two equal calls."""
        ...

    def layers(self) -> list[tuple[str, str]]:
        """Return name and class of every layer that is not a container, in the model's order."""
        ...

    def text_layers(self) -> list[tuple[str, str]]:
        """Return name and class of the layers that the manifest describes, not the artifacts."""
        ...

    def sampling_rates(self) -> list[int]:
        """Return the different rates for which layers such as MelSpectrogram were made, in Hz."""
        ...

    def weights(self) -> list[tuple[str, np.ndarray]]:
        """Return every weight with the name of its layer, as in ``layers``."""
        ...

    def input_statistics(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Return what normalization layers know of their inputs.

        Returns:
            The layer's name, the mean and the standard deviation per feature, in the order of
            the model.
        """
        ...

    def trace(self, lowering: Lowering, inputs: Sequence[DeclaredInput]) -> Any:
        """Trace the model at these shapes, with weights as constants.

        Args:
            lowering: Writes the recurrences.
            inputs: The inputs, then the states.

        Returns:
            A ``tf.ConcreteFunction`` that takes ``input_0``, ``input_1``, ... and returns a dict
            of ``output_0000``, ``output_0001``, ...

        Raises:
            UnsupportedModelError: A layer cannot be traced, or calls Python.
        """
        ...

    def convertible_forms(self, lowering: Lowering) -> contextlib.AbstractContextManager[None]:
        """Write operators in the forms in which ``trace`` writes them, in this context."""
        ...


def layer_of_node(node: str, layers: Collection[str]) -> str | None:
    """Return the innermost layer whose name scope contains a node of a traced graph, or None.

    Args:
        node: Its name, such as ``"model_1/encoder_1/Erf"``; tracing appends numbers to scopes.
        layers: The names of the layers.
    """
    for scope in reversed(node.split("/")):
        found = [layer for layer in layers if re.fullmatch(rf"{re.escape(layer)}(_\d+)*", scope)]
        if found:
            return max(found, key=len)
    return None


_NODE = re.compile(r"\'?\b\w[\w.>-]*(?:/[\w.>-]+)+(?::\d+)?\'?")


def in_terms_of_layers(text: str, layers: Sequence[NamedLayer]) -> tuple[str, list[str]]:
    """Replace the nodes of a traced graph in a converter's or runtime's message by their layers.

    Args:
        text: The message.
        layers: The layers of the model.

    Returns:
        The message, and the names of the layers in it.
    """
    kinds = dict(layers)
    found: list[str] = []

    def layer(match: re.Match[str]) -> str:
        name = layer_of_node(match[0].strip("'").partition(":")[0], kinds)
        if name is None:
            return match[0]
        found.append(name)
        return f"layer {name!r} ({kinds[name]})"

    return _NODE.sub(layer, text), list(dict.fromkeys(found))
