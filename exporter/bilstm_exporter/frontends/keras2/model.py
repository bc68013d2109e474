"""Models of tf_keras, the last Keras 2: what they declare and answer, how they are traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from bilstm_exporter.errors import ExportError, ModelFileError, UnsupportedModelError
from bilstm_exporter.frontends.keras2.float32 import in_float32
from bilstm_exporter.frontends.keras2.operators import plain_operators
from bilstm_exporter.frontends.keras2.recurrent import (
    check_contract,
    constant_weights,
    lowered_recurrences,
    observed_states,
)
from bilstm_exporter.frontends.layer_weights import weights_by_layer
from bilstm_exporter.frontends.recurrent_layers import named_layers
from bilstm_exporter.frontends.tracing import (
    off_by_one_rounding,
    refuse_python,
    unique_names,
    untraceable,
)
from bilstm_exporter.ir.graphs import without_captures
from bilstm_exporter.ir.recurrence import Lowering
from bilstm_exporter.keras_model import DeclaredInput


def layers_of(model: Any) -> list[tuple[str, str]]:
    """Name and class of every layer that does something itself, in the model's order."""
    return named_layers(model._flatten_layers(include_self=False), tf_keras)  # noqa: SLF001 - the only way


class Keras2Source:
    """A tf_keras model (a ``Source``).

    Args:
        model: Built, with its weights.
        name: For the manifest; by default the model's own.

    Raises:
        ModelFileError: The model was never built.
        UnsupportedModelError: The model cannot be exported, whatever the format.
    """

    preprocessing: tuple[Any, ...] = ()

    def __init__(self, model: Any, name: str | None = None) -> None:
        check_contract()
        self.preprocessing = ()
        self.generation = f"tf_keras {tf_keras.__version__}"
        self.name = name or model.name
        _refuse_unexportable(model)
        self._declared, self._model = model, in_float32(model)
        self._structure, inputs = _inputs(model)
        outputs = self._output_structure(inputs)
        nested = tf.nest.is_nested(outputs)
        self.output_structure = (
            "dict" if isinstance(outputs, dict) else "list" if nested else "single"
        )
        # A stateful model is one without memory whose states come and go with each call.
        states = _named_states(self._model)
        self.state_count = len(states)
        self.inputs = (
            *inputs,
            *(DeclaredInput(name, tuple(state.shape), "float32") for name, state in states),
        )
        names = [*_output_names(model, outputs), *(name for name, _ in states)]
        self.output_names = unique_names(names)

    def reference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What the model answers, called eagerly: the definition of right."""
        return self._eager_answer(self._model, inputs)

    def allows(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Whether the layers' own arithmetic of shapes allows inputs of these shapes."""
        count = len(self.inputs) - self.state_count
        pairs = zip(self.inputs[:count], shapes[:count], strict=True)
        try:
            function = _traced(
                lambda *tensors: tf.nest.flatten(self._answer(self._model, tensors)),
                [replace(spec, shape=shape) for spec, shape in pairs],
            )
        except (UnsupportedModelError, tf.errors.OpError):
            return False
        return not any(0 in output.shape for output in function.outputs)

    def declared_reference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """What the model answers in its own dtype policies, or None if they are all float32."""
        if self._declared is self._model:
            return None
        return self._eager_answer(self._declared, inputs)

    def rounded_reference(self, inputs: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
        """What the model answers when every weight is off by one rounding, up or down."""
        rng = np.random.default_rng(seed)
        with _restored(self._model.variables) as values:
            for variable, value in zip(self._model.variables, values, strict=True):
                variable.assign(off_by_one_rounding(value, rng))
            return self.reference(inputs)

    def final_states(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The final states of every recurrence in one eager call, ``[batch, ...]`` each."""
        with observed_states() as states:
            self.reference(inputs)
        return [state.numpy() for state in states]

    def layers(self) -> list[tuple[str, str]]:
        """Name and class of every layer that does something itself, in the model's order."""
        return layers_of(self._model)

    def text_layers(self) -> list[tuple[str, str]]:
        """None: text into models of Keras 2 is refused."""
        return []

    def weights(self) -> list[tuple[str, np.ndarray]]:
        """Every weight with the name of the layer it belongs to, as in ``layers``."""
        return weights_by_layer(
            self._model._flatten_layers(include_self=False),  # noqa: SLF001 - the only way
            self.layers(),
            np.asarray,
        )

    def trace(self, lowering: Lowering, inputs: Sequence[DeclaredInput]) -> Any:
        """Trace the model at these shapes, weights as constants."""
        variables = [variable for _, variable in _named_states(self._model)]

        def call(*tensors: Any) -> dict[str, Any]:
            count = len(tensors) - len(variables)
            with constant_weights(variables, tensors[count:]) as states:
                outputs = [*tf.nest.flatten(self._answer(self._model, tensors[:count])), *states()]
            return {f"output_{i:04}": tf.identity(tensor) for i, tensor in enumerate(outputs)}

        with lowered_recurrences(lowering), plain_operators(lowering):
            function = _traced(call, inputs)
            refuse_python(function, self.layers())
            return without_captures(function)

    def _eager_answer(self, model: Any, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        variables = [variable for _, variable in _named_states(model)]
        count = len(inputs) - len(variables)
        with _restored(variables):
            for variable, value in zip(variables, inputs[count:], strict=True):
                variable.assign(value)
            outputs = self._answer(model, [tf.constant(array) for array in inputs[:count]])
            return [tensor.numpy() for tensor in (*tf.nest.flatten(outputs), *variables)]

    def _answer(self, model: Any, tensors: Sequence[Any]) -> Any:
        packed = tf.nest.pack_sequence_as(self._structure, list(tensors))
        # On a GPU tf_keras would take cuDNN, which answers masks differently or not at all.
        with tf.device("/CPU:0"):
            return model(packed, training=False)

    def _output_structure(self, inputs: Sequence[DeclaredInput]) -> Any:
        structure = getattr(self._model, "_nested_outputs", None)
        if structure is not None:
            return structure
        function = _traced(lambda *tensors: self._answer(self._model, tensors), inputs)
        return function.structured_outputs


@contextlib.contextmanager
def _restored(variables: Sequence[Any]) -> Iterator[list[np.ndarray]]:
    """Put the values of variables back afterwards; yields them."""
    values = [variable.numpy() for variable in variables]
    try:
        yield values
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def _named_states(model: Any) -> list[tuple[str, Any]]:
    """The states that a stateful model keeps, by name."""
    return [
        (f"{layer.name}_state_{number}", variable)
        for layer in model._flatten_layers()  # noqa: SLF001 - no public way to nested layers
        if getattr(layer, "stateful", False) and isinstance(layer, tf_keras.layers.RNN)
        for number, variable in enumerate(tf.nest.flatten(layer.states))
        if variable is not None
    ]


def _traced(call: Any, inputs: Sequence[DeclaredInput]) -> Any:
    signature = [
        tf.TensorSpec(spec.shape, spec.dtype, name=f"input_{i}") for i, spec in enumerate(inputs)
    ]
    try:
        return tf.function(call, autograph=False).get_concrete_function(*signature)
    except ExportError:
        raise
    # A layer may be anybody's code: one that looks at the values of a tensor, or uses numpy
    # on it, raises whatever that raises.
    except Exception as error:
        raise untraceable(error, "TensorFlow operations") from error


def _inputs(model: Any) -> tuple[Any, tuple[DeclaredInput, ...]]:
    """The structure in which a model takes its inputs, and their specs, flat."""
    structure = getattr(model, "_nested_inputs", None)
    if structure is not None:
        flat = tf.nest.flatten(structure)
        if not isinstance(structure, dict) and len(flat) == 1:
            structure = flat[0]
        # Without a declared shape a Sequential knows only that of the call that built it.
        declared = getattr(model, "_has_explicit_input_shape", True)
        specs = [
            DeclaredInput(name, tuple(tensor.shape), tensor.dtype.name, declared)
            for name, tensor in zip(_input_names(model, flat), flat, strict=True)
        ]
        return structure, tuple(specs)
    saved = model.save_spec(dynamic_batch=True)
    if saved is None:
        message = (
            f"the model {model.name!r} was never built, so its input shapes are unknown: "
            f"call it once on an example and export again"
        )
        raise ModelFileError(message)
    structure = saved[0][0]
    flat = tf.nest.flatten(structure)
    specs = [
        DeclaredInput(
            name=f"input_{i}" if len(flat) > 1 else "input",
            shape=tuple(spec.shape),
            dtype=spec.dtype.name,
            declared=False,
        )
        for i, spec in enumerate(flat)
    ]
    return structure, tuple(specs)


def _input_names(model: Any, flat: Sequence[Any]) -> tuple[str, ...]:
    names = list(getattr(model, "input_names", None) or [])
    if len(names) != len(flat):
        names = [tensor.name for tensor in flat]
    return unique_names(names)


def _output_names(model: Any, outputs: Any) -> tuple[str, ...]:
    """The layer that gives each output, or its key in a dict; made unique."""
    if isinstance(outputs, dict):
        return unique_names([str(key) for key in sorted(outputs)])
    count = len(tf.nest.flatten(outputs))
    names = list(getattr(model, "output_names", None) or [])
    if len(names) != count:
        names = ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
    return unique_names(names)


def _refuse_unexportable(model: Any) -> None:
    for tensor in getattr(model, "inputs", None) or []:
        spec = getattr(tensor, "type_spec", None)
        kind = {tf.RaggedTensorSpec: "ragged", tf.SparseTensorSpec: "sparse"}.get(type(spec))
        if kind:
            message = (
                f"input {tensor.name!r} is {kind}; only dense inputs can be exported: "
                f"declare it dense and pad it, with a mask"
            )
            raise UnsupportedModelError(message)
        if tensor.dtype == tf.string:
            message = (
                f"input {tensor.name!r} takes text; the artifacts start at numbers: export the "
                f"part of the model after its text layer, and look the ids up before it"
            )
            raise UnsupportedModelError(message)
