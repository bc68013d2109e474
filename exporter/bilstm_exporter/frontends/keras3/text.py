"""Splits Keras 3 models after their text layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import tree
from keras.src.models.functional import Functional

from bilstm_exporter.frontends import label_layers, text_layers
from bilstm_exporter.frontends.keras3.inputs import inputs_of
from bilstm_exporter.frontends.submodel import graph_of, nodes_of
from bilstm_exporter.frontends.text_calls import Library
from bilstm_exporter.frontends.text_layers import ModelAfterText
from bilstm_exporter.frontends.tracing import trace_function
from bilstm_exporter.keras_model import DeclaredInput


def split_off_text(model: keras.Model) -> ModelAfterText:
    """Split a model after its text layers; see `text_layers.split_off_text`."""
    return text_layers.split_off_text(model, _LIBRARY)


def cut_off_labels(model: keras.Model) -> tuple[keras.Model, Mapping[int, tuple[str, ...]]]:
    """Cut off layers that return strings; see `label_layers.cut_off_labels`."""
    return label_layers.cut_off_labels(model, _LIBRARY)


class _WithIds(keras.Model):  # type: ignore[misc] # keras has no types
    """A model in which the text layers of another return ids that are inputs."""

    def __init__(self, inputs: Sequence[Any], function: Callable[..., Any], whole: Any) -> None:
        super().__init__(name=whole.name)
        self.whole = whole
        self.inputs = list(inputs)
        self.output_names = getattr(graph_of(whole) or whole, "output_names", None)
        self._function = function
        self.built = True

    def call(self, inputs: Any) -> Any:
        return self._function(*tree.flatten(inputs))


def _new_input(shape: tuple[int | None, ...], dtype: Any, name: str) -> Any:
    return keras.Input(batch_shape=shape, dtype=dtype, name=name)


def _call_again(graph: Any, given: dict[int, Any]) -> Any:
    tensors = dict(given)
    for node in nodes_of(graph):
        outputs = [one for one in node.outputs if id(one) not in tensors]
        if node.is_input or not outputs or any(id(x) not in tensors for x in node.input_tensors):
            continue
        arguments, options = node.arguments.fill_in(tensors)
        found = tree.flatten(node.operation(*arguments, **options))
        tensors.update(zip(map(id, node.outputs), found, strict=True))
    outputs = [tensors[id(output)] for output in graph.outputs]
    return tree.pack_sequence_as(graph._outputs_struct, outputs)  # noqa: SLF001 - the only way


def _trace(call: Callable[..., Any], inputs: Sequence[DeclaredInput], model: Any) -> Any:
    return trace_function(call, inputs, model, library=keras, ops="keras.ops")


_LIBRARY = Library(
    keras,
    Functional,
    inputs_of,
    _new_input,
    keras.ops.cast,
    _call_again,
    tree.pack_sequence_as,
    _WithIds,
    _trace,
)
