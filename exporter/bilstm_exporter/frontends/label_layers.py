"""Cuts off the layers at the end of a model that turn class numbers into strings.

No format has strings: the class numbers become the output, and the strings are its labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.errors import UnsupportedModelError
from bilstm_exporter.frontends.submodel import (
    graph_of,
    node_inputs,
    nodes_of,
    owner_of,
    with_outputs,
)
from bilstm_exporter.frontends.text_calls import Library
from bilstm_exporter.frontends.text_layers import clear_table_initializers


def cut_off_labels(model: Any, library: Library) -> tuple[Any, Mapping[int, tuple[str, ...]]]:
    """Cut off every ``StringLookup(invert=True)`` whose result the model returns.

    Args:
        model: The model; neither it nor its layers are changed.
        library: Its generation of Keras.

    Returns:
        The model with the class numbers as outputs, and for each of these, by its position, the
        strings of the classes. The model itself and an empty dict if it has no such layer.

    Raises:
        UnsupportedModelError: Such a layer takes no integers, or has strings that are not UTF-8.
    """
    graph = graph_of(model)
    if not isinstance(graph, library.functional) or type(model).call not in (
        library.functional.call,
        library.keras.Sequential.call,
    ):
        return model, {}
    numbers, names = {}, {}
    returned = {id(tensor) for tensor in tf.nest.flatten(graph.outputs)}
    for node in nodes_of(graph):
        layer, outputs = owner_of(node), tf.nest.flatten(node.outputs)
        is_inverse = isinstance(layer, library.keras.layers.StringLookup) and layer.invert
        if is_inverse and id(outputs[0]) in returned:
            (numbers[id(outputs[0])],) = node_inputs(node)
            names[id(outputs[0])] = _strings(layer, numbers[id(outputs[0])])
    if not numbers:
        return model, {}
    clear_table_initializers()
    positions = {
        position: names[id(tensor)]
        for position, tensor in enumerate(tf.nest.flatten(graph.outputs))
        if id(tensor) in names
    }
    return with_outputs(model, numbers, library.keras), positions


def _strings(layer: Any, numbers: Any) -> tuple[str, ...]:
    """Return the string of each class, as the layer returns it."""
    dtype = tf.as_dtype(numbers.dtype)
    if not dtype.is_integer:
        message = (
            f"the StringLookup layer {layer.name!r} has invert=True and takes {dtype.name}; "
            f"class numbers are integers: take the argmax of the scores before the layer"
        )
        raise UnsupportedModelError(message, layers=(layer.name,))
    found = np.asarray(layer(tf.range(layer.vocabulary_size(), dtype=tf.int64))).reshape(-1)
    try:
        return tuple(word.decode() for word in found.tolist())
    except UnicodeDecodeError as error:
        message = (
            f"the StringLookup layer {layer.name!r} returns strings that are not UTF-8 ({error}); "
            f"export the model without this layer, and give names with --labels"
        )
        raise UnsupportedModelError(message, layers=(layer.name,)) from error
