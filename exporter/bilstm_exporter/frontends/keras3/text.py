"""Splits Keras 3 models after their text layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras.src.models.functional import Functional

from bilstm_exporter.frontends import label_layers, text_layers
from bilstm_runtime.preprocessing_spec import TextPreprocessing


def split_off_text(model: keras.Model) -> tuple[keras.Model, tuple[TextPreprocessing, ...]]:
    """Split a model after its text layers; see `text_layers.split_off_text`."""
    return text_layers.split_off_text(model, _LIBRARY)


def cut_off_labels(model: keras.Model) -> tuple[keras.Model, Mapping[int, tuple[str, ...]]]:
    """Cut off layers that return strings; see `label_layers.cut_off_labels`."""
    return label_layers.cut_off_labels(model, _LIBRARY)


def _new_input(shape: tuple[int | None, ...], dtype: Any, replaced: Any, name: str) -> Any:
    return keras.Input(batch_shape=shape, dtype=dtype, sparse=replaced.sparse, name=name)


def _call_again(graph: Any, inputs: list[Any], skipped: Sequence[Any]) -> Any:
    layers = set(map(id, skipped))
    return graph._run_through_graph(  # noqa: SLF001 - Keras calls the layers this way
        inputs, operation_fn=lambda layer: _identity if id(layer) in layers else layer
    )


def _identity(inputs: Any) -> Any:
    return inputs


_LIBRARY = text_layers.Library(keras, Functional, _new_input, keras.ops.cast, _call_again)
