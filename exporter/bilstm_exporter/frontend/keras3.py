"""Keras 3 models: what they declare, what they answer, how they are traced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from bilstm_exporter.errors import ExportError, ModelFileError, UnsupportedModelError
from bilstm_exporter.frontend.keras3_ops import plain_operators
from bilstm_exporter.frontend.keras3_seam import (
    check_contract,
    lowered_recurrences,
    observed_states,
)
from bilstm_exporter.frontend.source import DeclaredInput
from bilstm_exporter.frontend.tracing import (
    off_by_one_rounding,
    unique_names,
    untraceable,
    without_captures,
)
from bilstm_exporter.recurrence import Lowering


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
        self._model = model
        self.name = name or model.name
        self._structure, self.inputs = _inputs(model)
        _refuse_unexportable(model, self.inputs)
        symbolic = [
            keras.KerasTensor(spec.shape, spec.dtype, name=spec.name) for spec in self.inputs
        ]
        outputs = self._call(symbolic)
        self.output_names = _output_names(model, outputs)
        self.output_structure = _structure_name(outputs)

    def reference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What the model answers, called eagerly: the definition of right."""
        outputs = self._call([tf.constant(array) for array in inputs])
        return [keras.ops.convert_to_numpy(output) for output in tree.flatten(outputs)]

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
        with observed_states() as states:
            self._call([tf.constant(array) for array in inputs])
        return [keras.ops.convert_to_numpy(state) for state in states]

    def trace(self, lowering: Lowering, inputs: Sequence[DeclaredInput]) -> Any:
        """Trace the model at these shapes, weights as constants."""
        values = [
            (variable, keras.ops.convert_to_numpy(variable)) for variable in self._model.variables
        ]

        def call(*tensors: Any) -> dict[str, Any]:
            # Made in the graph: a constant made outside would become one of its inputs.
            constants = [(variable, tf.constant(value)) for variable, value in values]
            with keras.StatelessScope(state_mapping=constants):
                outputs = tree.flatten(self._call(tensors))
            return {f"output_{i}": tf.identity(tensor) for i, tensor in enumerate(outputs)}

        signature = [
            tf.TensorSpec(spec.shape, spec.dtype, name=f"input_{i}")
            for i, spec in enumerate(inputs)
        ]
        with lowered_recurrences(lowering), plain_operators():
            try:
                function = tf.function(call, autograph=False).get_concrete_function(*signature)
            except ExportError:
                raise
            # What a layer raises when it looks at the values of a tensor, or uses numpy on it.
            except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
                raise untraceable(error, "keras.ops") from error
        return without_captures(function)

    def _call(self, tensors: Sequence[Any]) -> Any:
        return self._model(tree.pack_sequence_as(self._structure, list(tensors)), training=False)


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
        if spec.dtype == "string":
            message = (
                f"input {spec.name!r} takes text; the artifacts start at numbers: export the "
                f"part of the model after its text layer, and look the ids up before it"
            )
            raise UnsupportedModelError(message)
    for layer in model._flatten_layers():  # noqa: SLF001 - no public way to nested layers
        if getattr(layer, "stateful", False):
            message = (
                f"layer {layer.name!r} is stateful, and its states cannot be exported yet: "
                f"build the model with stateful=False and load the same weights"
            )
            raise UnsupportedModelError(message)
