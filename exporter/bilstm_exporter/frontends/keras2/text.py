"""Splits models of tf_keras after their text layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras.src.engine.functional import Functional

from bilstm_exporter.frontends import label_layers, text_layers
from bilstm_exporter.frontends.submodel import nodes_of
from bilstm_runtime.preprocessing_spec import TextPreprocessing


def split_off_text(model: Any) -> tuple[Any, tuple[TextPreprocessing, ...]]:
    """Split a model after its text layers; see `text_layers.split_off_text`."""
    return text_layers.split_off_text(model, _LIBRARY)


def cut_off_labels(model: Any) -> tuple[Any, Mapping[int, tuple[str, ...]]]:
    """Cut off layers that return strings; see `label_layers.cut_off_labels`."""
    return label_layers.cut_off_labels(model, _LIBRARY)


def _new_input(shape: tuple[int | None, ...], dtype: Any, _replaced: Any, name: str) -> Any:
    return tf_keras.Input(batch_size=shape[0], shape=shape[1:], dtype=dtype, name=name)


def _call_again(graph: Any, inputs: list[Any], skipped: Sequence[Any]) -> Any:
    """Call the layers as `Functional` does; its own way has no place for other layers."""
    layers = set(map(id, skipped))
    tensors: dict[str, Any] = {
        str(id(old)): new for old, new in zip(graph.inputs, inputs, strict=True)
    }
    for node in nodes_of(graph):
        if node.is_input:
            continue
        if id(node.layer) in layers:
            found = tensors[node.flat_input_ids[0]]
        else:
            # Takes each tensor from a list of one for each use.
            arguments, options = node.map_arguments(
                {key: [tensor] * len(node.flat_input_ids) for key, tensor in tensors.items()}
            )
            found = node.layer(*arguments, **options)
        tensors.update(zip(node.flat_output_ids, tf.nest.flatten(found), strict=True))
    outputs = [tensors[str(id(output))] for output in graph.outputs]
    return tf.nest.pack_sequence_as(graph._nested_outputs, outputs)  # noqa: SLF001 - the only way


_LIBRARY = text_layers.Library(tf_keras, Functional, _new_input, tf.cast, _call_again)
