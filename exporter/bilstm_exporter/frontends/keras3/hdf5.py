"""Keras 3's operators in its own HDF5 files, which it writes but does not read.

A functional model holds an operator as a layer of its own wherever a function of keras.ops, or
the mask of an Embedding, stands between its layers. The native format names its module; HDF5
has the class alone, and Keras 3 looks for that among its layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras.src.ops.operation import Operation


def operations() -> dict[str, Any]:
    """Every operator of Keras 3 by its class's name, as custom objects for an HDF5 file."""
    return {
        cls.__name__: _layer_or_operation(getattr(keras.layers, cls.__name__, None), cls)
        for cls in _subclasses(Operation)
        if cls.__module__.startswith("keras.src.ops.")
    }


def _subclasses(cls: type) -> Iterator[type]:
    subclasses: list[type] = cls.__subclasses__()
    for subclass in subclasses:
        yield subclass
        yield from _subclasses(subclass)


def _layer_or_operation(layer: Any, operation: Any) -> Any:
    """The operator, or what tells it from the layer of the same name, such as Add."""
    if layer is None:
        return operation

    class Either:
        """Only a layer can be trained, and says so in its configuration."""

        @staticmethod
        def from_config(config: dict[str, Any]) -> Any:
            return (layer if "trainable" in config else operation).from_config(config)

    return Either
