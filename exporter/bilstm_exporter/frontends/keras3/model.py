"""Keras 3 models: what they declare, what they answer, how they are traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from bilstm_exporter.errors import ExportError, ModelFileError, UnsupportedModelError
from bilstm_exporter.frontends.keras3.operators import plain_operators
from bilstm_exporter.frontends.keras3.recurrent import (
    check_contract,
    lowered_recurrences,
    observed_states,
)
from bilstm_exporter.frontends.keras3.text import cut_text
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


def layers_of(model: keras.Model) -> list[tuple[str, str]]:
    """Name and class of every layer that does something itself, in the model's order."""
    return named_layers(model._flatten_layers(), keras)  # noqa: SLF001 - the only way to all


def _removed_layers(whole: keras.Model, kept: keras.Model) -> list[tuple[str, str]]:
    """Name and class of the layers that a model was cut behind."""
    if kept is whole:
        return []
    left = set(map(id, kept.layers))
    return [
        (layer.name, type(layer).__name__)
        for layer in whole.layers
        if id(layer) not in left and not isinstance(layer, keras.layers.InputLayer)
    ]


class Keras3Source:
    """A Keras 3 model on the TensorFlow backend (a ``Source``).

    Args:
        model: Built, with its weights.
        name: For the manifest; by default the model's own.

    Raises:
        ModelFileError: The model was never built.
        UnsupportedModelError: The model cannot be exported, whatever the format.
    """

    generation = "keras3"

    def __init__(self, model: keras.Model, name: str | None = None) -> None:
        check_contract()
        kept, self.preprocessing = cut_text(model)
        self._text_layers = _removed_layers(model, kept)
        model = kept
        self._model = model
        self.name = name or model.name
        self._structure, self.inputs = _inputs(model)
        _refuse_unexportable(model, self.inputs)
        self._policies = {
            layer: layer.dtype_policy
            for layer in model._flatten_layers()  # noqa: SLF001 - no public way to nested layers
            if layer.dtype_policy.compute_dtype != "float32"
        }
        symbolic = [
            keras.KerasTensor(spec.shape, spec.dtype, name=spec.name) for spec in self.inputs
        ]
        outputs = self._model_answer(symbolic)
        self.output_structure = _structure_name(outputs)
        # A stateful model is one without memory whose states come and go with each call.
        states, self._states = _states(model)
        self.state_count = len(states)
        self.inputs = (*self.inputs, *states)
        names = [*_output_names(model, outputs), *(spec.name for spec in states)]
        self.output_names = unique_names(names)

    def reference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What the model answers, called eagerly: the definition of right."""
        with _restored(self._states):
            outputs = self._call([tf.constant(array) for array in inputs])
            return [keras.ops.convert_to_numpy(output) for output in outputs]

    def allows(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Whether the layers' own arithmetic of shapes allows inputs of these shapes."""
        count = len(self.inputs) - self.state_count
        tensors = [
            keras.KerasTensor(shape, spec.dtype)
            for shape, spec in zip(shapes[:count], self.inputs[:count], strict=True)
        ]
        try:
            outputs = tree.flatten(self._model_answer(tensors))
        except (ValueError, TypeError, tf.errors.OpError):
            return False
        return all(size != 0 for output in outputs for size in output.shape)

    def declared_reference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """What the model answers in its own dtype policies, or None if they are all float32."""
        if not self._policies:
            return None
        with _restored(self._states):
            outputs = self._call([tf.constant(array) for array in inputs], policies={})
            return [keras.ops.convert_to_numpy(output) for output in outputs]

    def rounded_reference(self, inputs: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
        """What the model answers when every weight is off by one rounding, up or down."""
        rng = np.random.default_rng(seed)
        shifted = [
            (variable, off_by_one_rounding(keras.ops.convert_to_numpy(variable), rng))
            for variable in self._model.variables
        ]
        with keras.StatelessScope(state_mapping=shifted):
            return self.reference(inputs)

    def final_states(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The final states of every recurrence in one eager call, ``[batch, ...]`` each."""
        with observed_states() as states, _restored(self._states):
            self._call([tf.constant(array) for array in inputs])
        return [keras.ops.convert_to_numpy(state) for state in states]

    def layers(self) -> list[tuple[str, str]]:
        """Name and class of every layer that does something itself, in the model's order."""
        return layers_of(self._model)

    def text_layers(self) -> list[tuple[str, str]]:
        """Name and class of every layer that the manifest describes in place of the artifacts."""
        return self._text_layers

    def weights(self) -> list[tuple[str, np.ndarray]]:
        """Every weight with the name of the layer it belongs to, as in ``layers``."""
        return weights_by_layer(
            self._model._flatten_layers(),  # noqa: SLF001 - the only way to all
            self.layers(),
            keras.ops.convert_to_numpy,
        )

    def trace(self, lowering: Lowering, inputs: Sequence[DeclaredInput]) -> Any:
        """Trace the model at these shapes, weights as constants."""
        values = [
            (variable, keras.ops.convert_to_numpy(variable)) for variable in self._model.variables
        ]

        def call(*tensors: Any) -> dict[str, Any]:
            # Made in the graph: a constant made outside would become one of its inputs.
            constants = [(variable, tf.constant(value)) for variable, value in values]
            with keras.StatelessScope(state_mapping=constants):
                outputs = [tf.identity(tensor) for tensor in self._call(tensors)]
            return {f"output_{i:04}": tensor for i, tensor in enumerate(outputs)}

        signature = [
            tf.TensorSpec(spec.shape, spec.dtype, name=f"input_{i}")
            for i, spec in enumerate(inputs)
        ]
        with lowered_recurrences(lowering), plain_operators():
            try:
                function = tf.function(call, autograph=False).get_concrete_function(*signature)
            except ExportError:
                raise
            # A layer may be anybody's code: one that looks at the values of a tensor, or uses
            # numpy on it, raises whatever that raises.
            except Exception as error:
                raise untraceable(error, "keras.ops") from error
        refuse_python(function, self.layers())
        return without_captures(function)

    def _call(self, tensors: Sequence[Any], policies: dict[Any, Any] | None = None) -> list[Any]:
        """The flat outputs and the new states, for the flat inputs and the states."""
        count = len(tensors) - len(self._states)
        for variable, value in zip(self._states, tensors[count:], strict=True):
            variable.assign(value)
        with _float32_policies(self._policies if policies is None else policies):
            outputs = tree.flatten(self._model_answer(tensors[:count]))
        return [*outputs, *(tf.convert_to_tensor(variable) for variable in self._states)]

    def _model_answer(self, tensors: Sequence[Any]) -> Any:
        packed = tree.pack_sequence_as(self._structure, list(tensors))
        # On a GPU Keras would take cuDNN, which answers masks differently or not at all.
        with tf.device("/CPU:0"):
            return self._model(packed, training=False)


@contextlib.contextmanager
def _restored(variables: Sequence[Any]) -> Iterator[None]:
    """Put the values of variables back afterwards."""
    values = [keras.ops.convert_to_numpy(variable) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def _states(model: keras.Model) -> tuple[list[DeclaredInput], list[Any]]:
    """The states that a stateful model keeps, as inputs, and the variables that hold them."""
    found = [
        (f"{layer.name}_state_{number}", variable)
        for layer in model._flatten_layers()  # noqa: SLF001 - no public way to nested layers
        if getattr(layer, "stateful", False) and getattr(layer, "states", None) is not None
        for number, variable in enumerate(tree.flatten(layer.states))
    ]
    specs = [DeclaredInput(name, tuple(variable.shape), "float32") for name, variable in found]
    return specs, [variable for _, variable in found]


class _ComputesInFloat32(keras.DTypePolicy):  # type: ignore[misc] # keras has no types
    """Computes in float32 on variables of another dtype, which are cast where they are used."""

    def __init__(self, declared: Any) -> None:
        super().__init__("float32")
        self._declared = declared

    @property
    def variable_dtype(self) -> str:
        return str(self._declared.variable_dtype)


@contextlib.contextmanager
def _float32_policies(policies: dict[Any, Any]) -> Iterator[None]:
    """Let layers compute in float32 that are declared otherwise; their weights are cast."""
    try:
        for layer, policy in policies.items():
            layer.dtype_policy = _ComputesInFloat32(policy)
        yield
    finally:
        for layer, policy in policies.items():
            layer.dtype_policy = policy


def _inputs(model: keras.Model) -> tuple[Any, tuple[DeclaredInput, ...]]:
    """The structure in which a model takes its inputs, and their specs, flat."""
    declared = getattr(model, "inputs", None)
    if declared:
        inner = getattr(model, "_functional", None) or model
        structure = getattr(inner, "_inputs_struct", declared)
        specs = [
            DeclaredInput(tensor.name, tuple(tensor.shape), tensor.dtype)
            for tensor in tree.flatten(structure)
        ]
        return structure, tuple(specs)
    if not model.built:
        message = (
            f"the model {model.name!r} was never built, so its input shapes are unknown: "
            f"call it once on an example, or give it a keras.Input, and export again"
        )
        raise ModelFileError(message)
    return _inputs_of_subclass(model)


def _inputs_of_subclass(model: keras.Model) -> tuple[Any, tuple[DeclaredInput, ...]]:
    """A subclassed model tells only the shapes of the call that built it."""
    config = model.get_build_config() or {}
    shapes = config.get("input_shape") or config.get("shapes_dict")
    if not shapes:
        message = (
            f"the subclassed model {model.name!r} does not say what inputs it takes: "
            f"call it once on an example, save it again, and export that file"
        )
        raise ModelFileError(message)
    structure, flat = _shape_structure(shapes)
    specs = [
        DeclaredInput(
            name=name if len(flat) > 1 or name else "input",
            shape=(None, *shape[1:]),
            dtype=keras.config.floatx(),
            declared=False,
        )
        for name, shape in flat
    ]
    return structure, tuple(specs)


def _shape_structure(shapes: Any) -> tuple[Any, list[tuple[str, tuple[int | None, ...]]]]:
    """Read a tuple of sizes, a list of such tuples, or a dict of them."""
    if isinstance(shapes, dict):
        names = sorted(shapes)
        return dict.fromkeys(names, 0), [(name, tuple(shapes[name])) for name in names]
    if all(size is None or isinstance(size, int) for size in shapes):
        return 0, [("input", tuple(shapes))]
    flat = [(f"input_{i}", tuple(shape)) for i, shape in enumerate(shapes)]
    return [0] * len(flat), flat


def _output_names(model: keras.Model, outputs: Any) -> tuple[str, ...]:
    """The layer that gives each output, or its key in a dict; made unique."""
    inner = getattr(model, "_functional", None) or model
    names: Iterable[str]
    if isinstance(outputs, dict):
        names = [str(path[0]) for path, _ in tree.flatten_with_path(outputs)]
    else:
        count = len(tree.flatten(outputs))
        names = getattr(inner, "output_names", None) or []
        if len(list(names)) != count:
            names = ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
    return unique_names(names)


def _structure_name(outputs: Any) -> str:
    if not tree.is_nested(outputs):
        return "single"
    return "dict" if isinstance(outputs, dict) else "list"


def _refuse_unexportable(model: keras.Model, inputs: Sequence[DeclaredInput]) -> None:
    for spec, tensor in zip(inputs, getattr(model, "inputs", None) or inputs, strict=False):
        for kind in ("sparse", "ragged"):
            if getattr(tensor, kind, False):
                message = (
                    f"input {spec.name!r} is {kind}; only dense inputs can be exported: "
                    f"declare it dense and pad it, with a mask"
                )
                raise UnsupportedModelError(message)
