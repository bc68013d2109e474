"""Keras 3 models: their inputs and outputs, calls and traces."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from bilstm_exporter.frontends.base_model import (
    BaseModel,
    declared_states,
    first_call,
    named_layers,
    named_states,
    output_names,
    refuse_kind,
    removed_layers,
    structure_name,
)
from bilstm_exporter.frontends.keras3.inputs import inputs_of
from bilstm_exporter.frontends.keras3.operators import convertible_operators
from bilstm_exporter.frontends.keras3.recurrent import (
    check_contract,
    compiled_recurrences,
    lowered_recurrences,
    observed_states,
)
from bilstm_exporter.frontends.keras3.text import cut_off_labels, split_off_text
from bilstm_exporter.frontends.reference.compiled_loops import CompiledLoops
from bilstm_exporter.frontends.tracing import (
    random_layer,
    refuse_python,
    trace_function,
    with_lowered_loops,
)
from bilstm_exporter.ir.graphs import without_captures
from bilstm_exporter.ir.recurrence import Lowering
from bilstm_exporter.keras_model import DeclaredInput


def layers_of(model: keras.Model) -> list[tuple[str, str]]:
    """Return name and class of every layer that is not a container, in the model's order."""
    return named_layers(model._flatten_layers(), keras)  # noqa: SLF001 - the only way to all


class Keras3Model(BaseModel):
    """A Keras 3 model on the TensorFlow backend.

    Args:
        model: A built model, with its weights.
        name: The name for the manifest; by default the model's own.

    Raises:
        ModelFileError: The model was never built.
        UnsupportedModelError: The model cannot be exported to any format.
    """

    generation = "keras3"

    def __init__(self, model: keras.Model, name: str | None = None) -> None:
        check_contract()
        ending, labels = cut_off_labels(model)
        split = split_off_text(ending)
        self.keras_model, self.preprocessing = split.model, split.preprocessing
        self._described = split.layers
        self._text_layers = removed_layers(model, ending, split.layers, keras)
        self.name = name or self.keras_model.name
        self._structure, self.inputs = inputs_of(self.keras_model)
        _refuse_unexportable(self.keras_model, self.inputs)
        described = {id(layer) for text in split.layers for layer in text._flatten_layers()}  # noqa: SLF001 - the only way to all
        self._policies = {
            layer: layer.dtype_policy
            for layer in self._all_layers()
            if layer.dtype_policy.compute_dtype != "float32" and id(layer) not in described
        }
        symbolic = [
            keras.KerasTensor(spec.shape, spec.dtype, name=spec.name) for spec in self.inputs
        ]
        with first_call(self.name, self.inputs, "keras.ops"):
            outputs = self._outputs(self.keras_model, symbolic)
        self.output_structure = structure_name(outputs)
        self.output_names = _output_names(self.keras_model, outputs)
        self.labels = {self.output_names[number]: names for number, names in labels.items()}
        self.states = declared_states(named_states(self._all_layers()))

    def native_dtype_reference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """Call the model with its own dtype policies; None if they are all float32."""
        return self._eager_outputs(self.keras_model, inputs) if self._policies else None

    def accepts_shapes(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Whether the layers' shape inference accepts inputs of these shapes."""
        count = len(self.inputs)
        tensors = [
            keras.KerasTensor(shape, spec.dtype)
            for shape, spec in zip(shapes[:count], self.inputs, strict=True)
        ]
        try:
            outputs = self._flat_outputs(self.keras_model, tensors)
        except (ValueError, TypeError, tf.errors.OpError):
            return False
        return all(size != 0 for output in outputs for size in output.shape)

    def layers(self) -> list[tuple[str, str]]:
        """Return name and class of every layer that is not a container, in the model's order."""
        text = {id(layer) for one in self._described for layer in one._flatten_layers()}  # noqa: SLF001 - the only way to all
        layers = self._all_layers()
        return named_layers((layer for layer in layers if id(layer) not in text), keras)

    def text_layers(self) -> list[tuple[str, str]]:
        """Return name and class of the layers that the manifest describes, not the artifacts."""
        return self._text_layers

    def pack_inputs(self, arrays: Sequence[Any]) -> Any:
        """Arrange one array or tensor per input in the structure that the Keras model takes."""
        return tree.pack_sequence_as(self._structure, list(arrays))

    def trace(self, lowering: Lowering, inputs: Sequence[DeclaredInput]) -> Any:
        """Trace the model; see `KerasModel.trace`."""
        values = [(variable, self._to_numpy(variable)) for variable in self.keras_model.variables]
        states, count = self._state_variables(self.keras_model), len(self.inputs)

        def call(*tensors: Any) -> dict[str, Any]:
            # Created inside the graph: a constant created outside would become one of its inputs.
            constants = [(variable, tf.constant(value)) for variable, value in values]
            with keras.StatelessScope(state_mapping=constants), self._in_float32():
                for variable, value in zip(states, tensors[count:], strict=True):
                    variable.assign(value)
                outputs = self._flat_outputs(self.keras_model, tensors[:count])
                outputs = [*outputs, *map(tf.convert_to_tensor, states)]
                outputs = [tf.identity(tensor) for tensor in outputs]
            return {f"output_{i:04}": tensor for i, tensor in enumerate(outputs)}

        with lowered_recurrences(lowering), convertible_operators():
            function = trace_function(
                call, inputs, self.keras_model, library=keras, ops="keras.ops"
            )
        refuse_python(function, self.layers())
        return with_lowered_loops(without_captures(function), lowering, self.layers())

    def convertible_forms(self, lowering: Lowering) -> contextlib.AbstractContextManager[None]:
        """Write operators in convertible forms; see `KerasModel.convertible_forms`."""
        del lowering
        return convertible_operators()

    def random_layer(self, inputs: Sequence[np.ndarray]) -> str | None:
        """Return the layer that draws random numbers; see `KerasModel.random_layer`."""
        return random_layer(keras.layers.Layer, lambda: self.eager_reference(inputs))

    def _all_layers(self) -> Iterable[Any]:
        layers: Iterable[Any] = self.keras_model._flatten_layers()  # noqa: SLF001 - the only way
        return layers

    def _state_variables(self, model: Any) -> list[Any]:
        layers = model._flatten_layers()  # noqa: SLF001 - no public way to nested layers
        return [variable for _, variable in named_states(layers)]

    def _outputs(self, model: Any, tensors: Sequence[Any]) -> Any:
        # On a GPU, Keras would use cuDNN, whose outputs differ for masked inputs.
        with tf.device("/CPU:0"):
            return model(self.pack_inputs(tensors), training=False)

    def _flat_outputs(self, model: Any, tensors: Sequence[Any]) -> list[Any]:
        return list(tree.flatten(self._outputs(model, tensors)))

    def _observed_states(self) -> contextlib.AbstractContextManager[list[Any]]:
        return observed_states()

    def _compiled_loops(self, loops: CompiledLoops) -> contextlib.AbstractContextManager[None]:
        return compiled_recurrences(loops)

    def _in_float32(self) -> contextlib.AbstractContextManager[None]:
        return _float32_policies(self._policies)

    @staticmethod
    def _to_numpy(tensor: Any) -> np.ndarray:
        array: np.ndarray = keras.ops.convert_to_numpy(tensor)
        return array


class _ComputesInFloat32(keras.DTypePolicy):  # type: ignore[misc] # keras has no types
    """Computes in float32 on variables of another dtype, which are cast when they are read."""

    def __init__(self, declared: Any) -> None:
        super().__init__("float32")
        self._declared = declared

    @property
    def variable_dtype(self) -> str:
        return str(self._declared.variable_dtype)


@contextlib.contextmanager
def _float32_policies(policies: dict[Any, Any]) -> Iterator[None]:
    """Make layers with other dtype policies compute in float32; their weights are cast."""
    try:
        for layer, policy in policies.items():
            layer.dtype_policy = _ComputesInFloat32(policy)
        yield
    finally:
        for layer, policy in policies.items():
            layer.dtype_policy = policy


def _output_names(model: keras.Model, outputs: Any) -> tuple[str, ...]:
    """Name each output after its layer, or its key in a dict."""
    keys = None
    if isinstance(outputs, dict):
        keys = [str(path[0]) for path, _ in tree.flatten_with_path(outputs)]
    inner = getattr(model, "_functional", None) or model
    return output_names(len(tree.flatten(outputs)), keys, getattr(inner, "output_names", None))


def _refuse_unexportable(model: keras.Model, inputs: Sequence[DeclaredInput]) -> None:
    for spec, tensor in zip(inputs, getattr(model, "inputs", None) or inputs, strict=False):
        for kind in ("sparse", "ragged"):
            if getattr(tensor, kind, False):
                refuse_kind(spec.name, kind)
