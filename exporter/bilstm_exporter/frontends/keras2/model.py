"""Models of tf_keras, the last Keras 2: their inputs and outputs, calls and traces."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras.src.layers.rnn import gru_lstm_utils
from tf_keras.src.layers.rnn.dropout_rnn_cell_mixin import DropoutRNNCellMixin

from bilstm_exporter.errors import UnsupportedModelError
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
from bilstm_exporter.frontends.keras2.inputs import inputs_of
from bilstm_exporter.frontends.keras2.operators import convertible_operators
from bilstm_exporter.frontends.keras2.recurrent import (
    check_contract,
    compiled_recurrences,
    constant_weights,
    lowered_recurrences,
    observed_states,
)
from bilstm_exporter.frontends.keras2.text import cut_off_labels, split_off_text
from bilstm_exporter.frontends.patching import replaced
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

_OTHER_FLOATS = frozenset({"float16", "bfloat16", "float64"})


def layers_of(model: Any) -> list[tuple[str, str]]:
    """Return name and class of every layer that is not a container, in the model's order."""
    return named_layers(model._flatten_layers(include_self=False), tf_keras)  # noqa: SLF001 - the only way


class Keras2Model(BaseModel):
    """A tf_keras model.

    Args:
        model: A built model, with its weights.
        name: The name for the manifest; by default the model's own.

    Raises:
        ModelFileError: The model was never built.
        UnsupportedModelError: The model cannot be exported to any format.
    """

    def __init__(self, model: Any, name: str | None = None) -> None:
        check_contract()
        self.generation = f"tf_keras {tf_keras.__version__}"
        self.name = name or model.name
        _refuse_unexportable(model)
        whole, (ending, labels) = model, cut_off_labels(model)
        split = split_off_text(ending)
        model, self.preprocessing = split.model, split.preprocessing
        self._text_layers = removed_layers(whole, ending, split.layers, tf_keras)
        self._described = split.layers
        self._native, self.keras_model = model, _rebuilt_in_float32(model)
        self._structure, self.inputs = inputs_of(model)
        with first_call(self.name, self.inputs, "TensorFlow operations"):
            outputs = self._output_structure()
        self.output_structure = structure_name(outputs)
        self.output_names = _output_names(model, outputs)
        self.labels = {self.output_names[number]: names for number, names in labels.items()}
        self.states = declared_states(_named_states(self.keras_model))

    def native_dtype_reference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """Call the model with its own dtype policies; None if they are all float32."""
        if self._native is self.keras_model:
            return None
        return self._eager_outputs(self._native, inputs)

    def accepts_shapes(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Whether the layers' shape inference accepts inputs of these shapes."""
        pairs = zip(self.inputs, shapes[: len(self.inputs)], strict=True)
        try:
            function = self._traced(
                lambda *tensors: self._flat_outputs(self.keras_model, tensors),
                [replace(spec, shape=shape) for spec, shape in pairs],
            )
        except (UnsupportedModelError, tf.errors.OpError):
            return False
        return not any(0 in output.shape for output in function.outputs)

    def layers(self) -> list[tuple[str, str]]:
        """Return name and class of every layer that is not a container, in the model's order."""
        text = {id(layer) for one in self._described for layer in one._flatten_layers()}  # noqa: SLF001 - the only way to all
        layers = self._all_layers()
        return named_layers((layer for layer in layers if id(layer) not in text), tf_keras)

    def text_layers(self) -> list[tuple[str, str]]:
        """Return name and class of the layers that the manifest describes, not the artifacts."""
        return self._text_layers

    def pack_inputs(self, arrays: Sequence[Any]) -> Any:
        """Arrange one array or tensor per input in the structure that the Keras model takes."""
        return tf.nest.pack_sequence_as(self._structure, list(arrays))

    def trace(self, lowering: Lowering, inputs: Sequence[DeclaredInput]) -> Any:
        """Trace the model; see `KerasModel.trace`."""
        variables, count = self._state_variables(self.keras_model), len(self.inputs)

        def call(*tensors: Any) -> dict[str, Any]:
            with constant_weights(variables, tensors[count:]) as states:
                outputs = [*self._flat_outputs(self.keras_model, tensors[:count]), *states()]
            return {f"output_{i:04}": tf.identity(tensor) for i, tensor in enumerate(outputs)}

        with lowered_recurrences(lowering), convertible_operators(lowering):
            function = self._traced(call, inputs)
            refuse_python(function, self.layers())
            return with_lowered_loops(without_captures(function), lowering, self.layers())

    def convertible_forms(self, lowering: Lowering) -> contextlib.AbstractContextManager[None]:
        """Write operators in convertible forms; see `KerasModel.convertible_forms`."""
        return convertible_operators(lowering)

    def random_layer(self, inputs: Sequence[np.ndarray]) -> str | None:
        """Return the layer that draws random numbers; see `KerasModel.random_layer`."""
        return random_layer(tf_keras.layers.Layer, lambda: self.eager_reference(inputs))

    def _all_layers(self) -> Iterable[Any]:
        layers: Iterable[Any] = self.keras_model._flatten_layers(include_self=False)  # noqa: SLF001 - the only way
        return layers

    def _state_variables(self, model: Any) -> list[Any]:
        return [variable for _, variable in _named_states(model)]

    def _outputs(self, model: Any, tensors: Sequence[Any]) -> Any:
        # ConvLSTM layers keep the dropout masks of their first eager call: another batch size would
        # fail, though `predict` accepts it. In inference, the masks are ones.
        for layer in model._flatten_layers(include_self=False):  # noqa: SLF001 - the only way
            if isinstance(layer, DropoutRNNCellMixin):
                layer.reset_dropout_mask()
                layer.reset_recurrent_dropout_mask()
        # On a GPU, tf_keras would use cuDNN, whose outputs differ for masked inputs.
        with tf.device("/CPU:0"):
            return model(self.pack_inputs(tensors), training=False)

    def _flat_outputs(self, model: Any, tensors: Sequence[Any]) -> list[Any]:
        return list(tf.nest.flatten(self._outputs(model, tensors)))

    def _output_structure(self) -> Any:
        structure = getattr(self.keras_model, "_nested_outputs", None)
        if structure is not None:
            return structure
        try:
            call = self._traced(
                lambda *tensors: self._outputs(self.keras_model, tensors), self.inputs
            )
        except UnsupportedModelError:  # perhaps only at the sizes of the example that built it
            zeros = [tf.zeros([n or 1 for n in one.shape], one.dtype) for one in self.inputs]
            return self._outputs(self.keras_model, zeros)
        return call.structured_outputs

    def _traced(self, call: Callable[..., Any], inputs: Sequence[DeclaredInput]) -> Any:
        ops = "TensorFlow operations"
        return trace_function(call, inputs, self.keras_model, library=tf_keras, ops=ops)

    def _compiled_loops(self, loops: CompiledLoops) -> contextlib.AbstractContextManager[None]:
        return compiled_recurrences(loops)

    def _observed_states(self) -> contextlib.AbstractContextManager[list[Any]]:
        return observed_states()

    def _without_alternatives(self) -> contextlib.AbstractContextManager[None]:
        # Keras registers a function for GPUs beside each recurrence, with its gradient.
        register = (gru_lstm_utils, "function_register")
        return replaced({register: lambda function, *_, **__: function})

    @staticmethod
    def _to_numpy(tensor: Any) -> np.ndarray:
        return np.asarray(
            tf.sparse.to_dense(tensor) if isinstance(tensor, tf.SparseTensor) else tensor
        )


def _named_states(model: Any) -> list[tuple[str, Any]]:
    layers = model._flatten_layers()  # noqa: SLF001 - no public way to nested layers
    return named_states(layer for layer in layers if isinstance(layer, tf_keras.layers.RNN))


def _output_names(model: Any, outputs: Any) -> tuple[str, ...]:
    """Name each output after its layer, or its key in a dict."""
    keys = [str(key) for key in sorted(outputs)] if isinstance(outputs, dict) else None
    return output_names(len(tf.nest.flatten(outputs)), keys, getattr(model, "output_names", None))


def _refuse_unexportable(model: Any) -> None:
    for tensor in getattr(model, "inputs", None) or []:
        spec = getattr(tensor, "type_spec", None)
        kind = {tf.RaggedTensorSpec: "ragged", tf.SparseTensorSpec: "sparse"}.get(type(spec))
        if kind:
            refuse_kind(tensor.name, kind)


def _rebuilt_in_float32(model: Any) -> Any:
    """Return the model, or a float32 copy if a layer computes in another dtype.

    Raises:
        UnsupportedModelError: The model cannot be rebuilt from its configuration.
    """
    layers = list(model._flatten_layers())  # noqa: SLF001 - no public way to nested layers
    others = {
        layer.name: layer.compute_dtype
        for layer in layers
        if layer.compute_dtype in _OTHER_FLOATS
        and not isinstance(layer, tf_keras.layers.InputLayer)
    }
    if not others:
        return model
    try:
        with tf_keras.utils.custom_object_scope({type(x).__name__: type(x) for x in layers}):
            copy = type(model).from_config(_with_float32(model.get_config()))
    except (NotImplementedError, TypeError, ValueError) as error:
        name, dtype = next(iter(others.items()))
        message = (
            f"layer {name!r} computes in {dtype}; only float32 can be exported, and the model "
            f"cannot be rebuilt in float32 ({error}): build it with the policy 'float32' and load "
            f"the same weights"
        )
        raise UnsupportedModelError(message, layers=list(others)) from error
    copy.set_weights([np.asarray(weight).astype(np.float32) for weight in model.get_weights()])
    return copy


def _with_float32(config: Any) -> Any:
    """Return a configuration whose layers compute in float32; the inputs are not changed."""
    if isinstance(config, list):
        return [_with_float32(item) for item in config]
    if not isinstance(config, dict) or config.get("class_name") == "InputLayer":
        return config
    return {
        key: "float32" if key == "dtype" and _is_float(value) else _with_float32(value)
        for key, value in config.items()
    }


def _is_float(dtype: Any) -> bool:
    name = dtype["config"].get("name") if isinstance(dtype, dict) else dtype
    return isinstance(name, str) and "float" in name
