"""Splits models of tf_keras after their text layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras.src.engine.functional import Functional

from bilstm_exporter.frontends import label_layers, text_layers
from bilstm_exporter.frontends.keras2.inputs import inputs_of
from bilstm_exporter.frontends.submodel import graph_of, nodes_of
from bilstm_exporter.frontends.text_calls import Library
from bilstm_exporter.frontends.text_layers import ModelAfterText
from bilstm_exporter.frontends.tracing import trace_function
from bilstm_exporter.keras_model import DeclaredInput


def split_off_text(model: Any) -> ModelAfterText:
    """Split a model after its text layers; see `text_layers.split_off_text`."""
    return text_layers.split_off_text(model, _LIBRARY)


def cut_off_labels(model: Any) -> tuple[Any, Mapping[int, tuple[str, ...]]]:
    """Cut off layers that return strings; see `label_layers.cut_off_labels`."""
    return label_layers.cut_off_labels(model, _LIBRARY)


class _WithIds(tf_keras.Model):  # type: ignore[misc] # tf_keras has no types
    """A model in which the text layers of another return ids that are inputs."""

    def __init__(self, inputs: Sequence[Any], function: Callable[..., Any], whole: Any) -> None:
        super().__init__(name=whole.name)
        self.whole = whole
        self.inputs = list(inputs)
        self.input_names = [one.name for one in inputs]
        self.output_names = getattr(graph_of(whole) or whole, "output_names", None)
        self._nested_inputs = list(inputs)
        self._function = function
        self.built = True

    def call(self, inputs: Any) -> Any:
        return self._function(*tf.nest.flatten(inputs))


def _new_input(shape: tuple[int | None, ...], dtype: Any, name: str) -> Any:
    return tf_keras.Input(batch_size=shape[0], shape=shape[1:], dtype=dtype, name=name)


def _call_again(graph: Any, given: dict[int, Any]) -> Any:
    """Call the layers as `Functional` does; its own way has no place for other tensors."""
    tensors = {str(key): tensor for key, tensor in given.items()}
    for node in nodes_of(graph):
        outputs = [one for one in node.flat_output_ids if one not in tensors]
        if node.is_input or not outputs or any(x not in tensors for x in node.flat_input_ids):
            continue
        # Takes each tensor from a list of one for each use.
        arguments, options = node.map_arguments(
            {key: [tensor] * len(node.flat_input_ids) for key, tensor in tensors.items()}
        )
        found = node.layer(*arguments, **options)
        tensors.update(zip(node.flat_output_ids, tf.nest.flatten(found), strict=True))
    outputs = [tensors[str(id(output))] for output in graph.outputs]
    return tf.nest.pack_sequence_as(graph._nested_outputs, outputs)  # noqa: SLF001 - the only way


def _trace(call: Callable[..., Any], inputs: Sequence[DeclaredInput], model: Any) -> Any:
    return trace_function(call, inputs, model, library=tf_keras, ops="TensorFlow operations")


_LIBRARY = Library(
    tf_keras,
    Functional,
    inputs_of,
    _new_input,
    tf.cast,
    _call_again,
    tf.nest.pack_sequence_as,
    _WithIds,
    _trace,
)
