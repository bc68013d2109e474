"""What models of Keras 2 and Keras 3 have in common: calls, states, names, weights."""

from __future__ import annotations

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from bilstm_exporter.errors import ExportError, UnsupportedModelError, plain_text
from bilstm_exporter.frontends.reference.compiled_calls import Call, CompiledCalls
from bilstm_exporter.frontends.reference.compiled_loops import CompiledLoops
from bilstm_exporter.frontends.reference.roundings import RoundedCalls, moved_weights
from bilstm_exporter.ir.recurrence import Lowering
from bilstm_exporter.keras_model import DeclaredInput
from bilstm_runtime.preprocessing_spec import TextEntry


@contextlib.contextmanager
def first_call(name: str, inputs: Sequence[DeclaredInput], ops: str) -> Iterator[None]:
    """Explain the errors of the first call of a model; a subclassed one can raise any.

    Args:
        name: The model's name.
        inputs: The inputs that it is called with.
        ops: The operations that a layer may use, for the message.

    Raises:
        UnsupportedModelError: The call failed.
    """
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        lines = [line.strip() for line in plain_text(error).splitlines() if line.strip()]
        shapes = ", ".join(f"{one.name} {list(one.shape)}" for one in inputs)
        message = (
            f"the model {name!r} cannot be called with the inputs that it records ({shapes}): "
            f"{' '.join(lines[:2])[:400].rstrip('.')}. If its call takes several arguments, or "
            f"dicts in each other, wrap it in keras.Model(inputs, model(...)) with one keras.Input "
            f"for each tensor, and export that. Layers that read the values of tensors in Python "
            f"must be written with {ops}"
        )
        raise UnsupportedModelError(message) from error


class BaseModel(ABC):
    """A Keras model that can be called and traced (a `KerasModel`).

    A stateful model is treated as a stateless one: its states are inputs and outputs of every
    call.

    Attributes:
        name: The name for the manifest.
        generation: The library that runs the model; its outputs are the reference.
        keras_model: The model that is called, in the library of its generation.
        inputs: The inputs in the order of the model, without the states.
        states: The states of a stateful model; each is an input and an output.
        output_names: The names in the order in which ``reference`` returns the outputs, without
            the states.
        output_structure: ``"single"``, ``"list"`` or ``"dict"``.
        preprocessing: How text becomes ids, for the inputs that take text.
        labels: By output, the strings of the classes that the model returned before its layers for
            strings were cut off.
    """

    name: str
    generation: str
    keras_model: Any
    inputs: tuple[DeclaredInput, ...]
    states: tuple[DeclaredInput, ...]
    output_names: tuple[str, ...]
    output_structure: str
    preprocessing: tuple[TextEntry, ...] = ()
    labels: Mapping[str, tuple[str, ...]]

    @property
    def state_count(self) -> int:
        """The number of states."""
        return len(self.states)

    @property
    def flat_inputs(self) -> tuple[DeclaredInput, ...]:
        """The inputs of ``reference`` and ``trace``: the inputs, then the states."""
        return (*self.inputs, *self.states)

    @property
    def flat_output_names(self) -> tuple[str, ...]:
        """The names of the arrays that ``reference`` returns: the outputs, then the states."""
        return unique_names([*self.output_names, *(spec.name for spec in self.states)])

    def reference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs of an eager call in float32, in which every model is exported.

        Args:
            inputs: One array per input, then one per state.

        Returns:
            One array per output, then one per state.
        """
        with self._in_float32():
            return self._calls.outputs(inputs)

    def eager_reference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs of an eager call; ``reference`` may use an equal compiled function."""
        with self._in_float32():
            return self._calls.eager_outputs(inputs)

    def call_eagerly(self) -> None:
        """Let every later call be eager."""
        self._calls.disprove()

    @abstractmethod
    def native_dtype_reference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """Call the model in its declared dtypes; None if they are all float32."""

    def perturbed_reference(self, inputs: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
        """Call the model with every weight moved one float32 step up or down at random."""
        rng = np.random.default_rng(seed)
        variables = self.keras_model.variables
        with self._restored(variables) as values:
            for variable, value in zip(variables, values, strict=True):
                variable.assign(_adjacent_floats(value, rng))
            return self.reference(inputs)

    def rounded_reference(self, inputs: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
        """Call the model with weights and results of operators that are off by some roundings."""
        variables = self.keras_model.variables
        with self._restored(variables) as values, self._in_float32():
            for variable, value in zip(variables, moved_weights(values, seed), strict=True):
                variable.assign(value)
            call = self._rounded_calls.with_seed(seed)
            return self._outputs_and_states(self.keras_model, call, inputs)

    def final_states(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the final states of every recurrence in one eager call, ``[batch, ...]`` each."""
        with self._in_float32():
            return self._calls_for_states.outputs(inputs)

    @abstractmethod
    def accepts_shapes(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Whether the layers' shape inference accepts inputs of these shapes.

        TensorFlow's kernels do not reject every input that is too short: a depthwise convolution
        returns uninitialized memory.
        """

    @abstractmethod
    def layers(self) -> list[tuple[str, str]]:
        """Return name and class of every layer that is not a container, in the model's order."""

    def text_layers(self) -> list[tuple[str, str]]:
        """Return name and class of the layers that the manifest describes, not the artifacts."""
        return []

    def sampling_rates(self) -> list[int]:
        """Return the different rates for which layers such as MelSpectrogram were made, in Hz."""
        found = (getattr(layer, "sampling_rate", None) for layer in self._all_layers())
        return sorted({int(rate) for rate in found if isinstance(rate, (int, float)) and rate >= 1})

    def weights(self) -> list[tuple[str, np.ndarray]]:
        """Return every weight with the name of its layer, as in ``layers``."""
        return _weights_by_layer(self._all_layers(), self.layers(), self._to_numpy)

    def input_statistics(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Return name, mean and standard deviation of every normalization layer."""
        found = []
        for layer in self._all_layers():
            mean = getattr(layer, "moving_mean", getattr(layer, "mean", None))
            variance = getattr(layer, "moving_variance", getattr(layer, "variance", None))
            if mean is not None and variance is not None and not callable(mean):
                values = [
                    np.asarray(self._to_numpy(value), np.float64) for value in (mean, variance)
                ]
                found.append((layer.name, values[0], np.sqrt(np.maximum(values[1], 0.0))))
        return found

    @abstractmethod
    def pack_inputs(self, arrays: Sequence[Any]) -> Any:
        """Arrange one array or tensor per input in the structure that the Keras model takes."""

    # --- implemented for each generation of Keras

    @abstractmethod
    def convertible_forms(self, lowering: Lowering) -> contextlib.AbstractContextManager[None]:
        """Write operators in the forms in which ``trace`` writes them, in this context."""

    @abstractmethod
    def _all_layers(self) -> Iterable[Any]:
        """Return all layers, outer ones before the layers inside them."""

    @abstractmethod
    def _state_variables(self, model: Any) -> list[Any]:
        """Return the variables of the states."""

    @abstractmethod
    def _flat_outputs(self, model: Any, tensors: Sequence[Any]) -> list[Any]:
        """Call a model on flat inputs; returns its flat outputs."""

    @abstractmethod
    def _observed_states(self) -> contextlib.AbstractContextManager[list[Any]]:
        """Collect the final states of every recurrence in a context."""

    @abstractmethod
    def _compiled_loops(self, loops: CompiledLoops) -> contextlib.AbstractContextManager[None]:
        """Run the loops of recurrent layers through ``loops`` in a context."""

    def _in_float32(self) -> contextlib.AbstractContextManager[None]:
        """Make the layers of ``keras_model`` compute in float32."""
        return contextlib.nullcontext()

    def _without_alternatives(self) -> contextlib.AbstractContextManager[None]:
        """Let layers trace no functions for other devices."""
        return contextlib.nullcontext()

    @staticmethod
    @abstractmethod
    def _to_numpy(tensor: Any) -> np.ndarray:
        """Return the value of a variable or tensor."""

    # --- shared

    @functools.cached_property
    def _calls(self) -> CompiledCalls:
        """The calls of the model; they return its outputs and states."""

        def run(call: Call, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            return self._outputs_and_states(self.keras_model, call, inputs)

        def call(*tensors: Any) -> list[Any]:
            return self._flat_outputs(self.keras_model, tensors)

        loops, free = self._loops, self._has_free_batch
        return CompiledCalls(call, run, has_free_batch=free, loops=loops)

    @functools.cached_property
    def _rounded_calls(self) -> RoundedCalls:
        def call(*tensors: Any) -> list[Any]:
            with self._without_alternatives():
                return self._flat_outputs(self.keras_model, tensors)

        return RoundedCalls(call)

    @functools.cached_property
    def _calls_for_states(self) -> CompiledCalls:
        """The calls of the model; they return the final states of its recurrences."""

        def call(*tensors: Any) -> list[Any]:
            with self._observed_states() as states:
                self._flat_outputs(self.keras_model, tensors)
            return [tf.convert_to_tensor(state) for state in states]

        def run(call: Call, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            found = self._outputs_and_states(self.keras_model, call, inputs)
            return found[: len(found) - self.state_count]

        loops, free = self._loops, self._has_free_batch
        return CompiledCalls(call, run, has_free_batch=free, loops=loops, proof=self._calls)

    @functools.cached_property
    def _loops(self) -> CompiledLoops:
        return CompiledLoops(self._compiled_loops)

    @property
    def _has_free_batch(self) -> bool:
        return not self.states and all(s.declared and s.shape[:1] == (None,) for s in self.inputs)

    def _eager_outputs(self, model: Any, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        def call(*tensors: Any) -> list[Any]:
            return self._flat_outputs(model, tensors)

        return self._outputs_and_states(model, call, inputs)

    def _outputs_and_states(
        self, model: Any, call: Call, inputs: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Return what ``call`` returns, then the states after it."""
        variables, count = self._state_variables(model), len(self.inputs)
        with self._restored(variables):
            for variable, value in zip(variables, inputs[count:], strict=True):
                variable.assign(value)
            outputs = call(*(tf.constant(array) for array in inputs[:count]))
            return [self._to_numpy(tensor) for tensor in (*outputs, *variables)]

    @contextlib.contextmanager
    def _restored(self, variables: Sequence[Any]) -> Iterator[list[np.ndarray]]:
        """Yield the values of variables, and restore them on exit."""
        values = [self._to_numpy(variable) for variable in variables]
        try:
            yield values
        finally:
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)


def named_states(layers: Iterable[Any]) -> list[tuple[str, Any]]:
    """Return name and variable of every state of stateful recurrent layers."""
    return [
        (f"{layer.name}_state_{number}", variable)
        for layer in layers
        if getattr(layer, "stateful", False) and getattr(layer, "states", None) is not None
        for number, variable in enumerate(tf.nest.flatten(layer.states))
        if variable is not None
    ]


def declared_states(named: Iterable[tuple[str, Any]]) -> tuple[DeclaredInput, ...]:
    """Return the states as inputs."""
    return tuple(DeclaredInput(name, tuple(state.shape), "float32") for name, state in named)


def structure_name(outputs: Any) -> str:
    """Return the structure of outputs: ``"single"``, ``"list"`` or ``"dict"``."""
    if not tf.nest.is_nested(outputs):
        return "single"
    return "dict" if isinstance(outputs, dict) else "list"


def output_names(count: int, keys: Sequence[str] | None, declared: Any) -> tuple[str, ...]:
    """Return a unique name for each output.

    Args:
        count: The number of outputs.
        keys: Their keys, for outputs in a dict.
        declared: Their names in the model, or None.
    """
    names = list(declared or []) if keys is None else list(keys)
    if len(names) != count:
        names = ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
    return unique_names(names)


def refuse_kind(name: str, kind: str) -> NoReturn:
    """Raise an error for an input that is sparse or ragged.

    Raises:
        UnsupportedModelError: Always.
    """
    message = (
        f"input {name!r} is {kind}; only dense inputs can be exported: declare it dense and pad "
        f"it, with a mask"
    )
    raise UnsupportedModelError(message)


def removed_layers(
    whole: Any, kept: Any, texts: Iterable[Any], library: Any
) -> list[tuple[str, str]]:
    """Return name and class of the layers that the manifest describes, not the artifacts.

    Args:
        whole: The model.
        kept: The part of it before its layers for strings, or the model itself.
        texts: Its text layers.
        library: ``keras`` or ``tf_keras``.
    """
    remaining = set(map(id, kept.layers))
    labels = [] if kept is whole else [one for one in whole.layers if id(one) not in remaining]
    return [
        (layer.name, type(layer).__name__)
        for layer in (*texts, *labels)
        if not isinstance(layer, library.layers.InputLayer)
    ]


def named_layers(layers: Iterable[Any], library: Any) -> list[tuple[str, str]]:
    """Return name and class of every layer that is not a container or a cell.

    Args:
        layers: All layers of a model, including nested ones.
        library: ``keras`` or ``tf_keras``.
    """
    layers = list(layers)
    containers = (library.Model, library.layers.Wrapper, library.layers.InputLayer)
    cells = {id(layer.cell) for layer in layers if isinstance(layer, library.layers.RNN)}
    return [
        (layer.name, type(layer).__name__)
        for layer in layers
        if not isinstance(layer, containers) and id(layer) not in cells
    ]


def unique_names(names: Iterable[str]) -> tuple[str, ...]:
    """Append numbers to names that occur more than once."""
    unique: list[str] = []
    for name in names:
        suffix = sum(other == name or other.startswith(f"{name}_") for other in unique)
        candidate = name
        while candidate in unique:
            candidate = f"{name}_{suffix}"
            suffix += 1
        unique.append(candidate)
    return tuple(unique)


def _weights_by_layer(
    layers: Iterable[Any], named: list[tuple[str, str]], to_numpy: Callable[[Any], np.ndarray]
) -> list[tuple[str, np.ndarray]]:
    """Return every float weight with its layer's name, and the parts a target may split it into.

    Args:
        layers: All layers of a model, outer ones before the layers inside them.
        named: Name and class of the layers that are not containers.
        to_numpy: Reads a variable.
    """
    names = {name for name, _ in named}
    owners: dict[int, tuple[Any, Any]] = {}
    for layer in layers:
        if layer.name in names:
            # A Bidirectional lists the weights of its inner layers, which come later and win.
            owners.update((id(variable), (variable, layer)) for variable in layer.weights)
    found = []
    for variable, layer in owners.values():
        value = np.asarray(to_numpy(variable))
        if value.dtype.kind == "f" or value.dtype.name == "bfloat16":
            value = value.astype(np.float32)
            found += [(layer.name, part) for part in (value, *_gate_parts(layer, value))]
    return found


def _gate_parts(layer: Any, weight: np.ndarray) -> list[np.ndarray]:
    """Return every run of gates of a weight ``[..., gates * units]`` of two or three gates.

    The step of a GRU with ``reset_after=False`` multiplies by two gates, then by the third. An
    RNN layer has no units, but its cell has. The four gates of an LSTM are never divided.
    """
    units = getattr(getattr(layer, "cell", layer), "units", None)
    if (
        not isinstance(units, int)
        or weight.ndim != 2
        or weight.shape[1]
        not in (
            2 * units,
            3 * units,
        )
    ):
        return []
    gates = weight.shape[1] // units
    return [
        weight[:, first * units : end * units]
        for end in range(1, gates + 1)
        for first in range(end)
        if end - first < gates
    ]


def _adjacent_floats(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the adjacent float32 values, up or down at random; other dtypes unchanged."""
    if values.dtype != np.float32:
        return values
    towards = np.where(rng.integers(2, size=values.shape), np.float32(np.inf), -np.float32(np.inf))
    return np.asarray(np.nextafter(values, towards, dtype=np.float32))
