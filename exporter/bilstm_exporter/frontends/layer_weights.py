"""Which layer a weight belongs to, the same way for every generation of Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np


def weights_by_layer(
    layers: Iterable[Any], named: list[tuple[str, str]], to_numpy: Callable[[Any], np.ndarray]
) -> list[tuple[str, np.ndarray]]:
    """Every float weight, and the halves into which an exporter may divide it, with its layer.

    Args:
        layers: All layers of a model, outer ones before what is inside them.
        named: Name and class of those that do something themselves.
        to_numpy: Reads a variable.
    """
    names = {name for name, _ in named}
    owners: dict[int, tuple[Any, Any]] = {}
    for layer in layers:
        if layer.name in names:
            # A Bidirectional has the weights of the layers in it, which come after it.
            owners.update((id(variable), (variable, layer)) for variable in layer.weights)
    found = []
    for variable, layer in owners.values():
        value = np.asarray(to_numpy(variable))
        if value.dtype.kind == "f" or value.dtype.name == "bfloat16":
            value = value.astype(np.float32)
            found += [(layer.name, part) for part in (value, *_gate_parts(layer, value))]
    return found


def _gate_parts(layer: Any, weight: np.ndarray) -> list[np.ndarray]:
    """A GRU that resets before its matrix product multiplies two gates and then the third."""
    units = getattr(layer, "units", None)
    if not isinstance(units, int) or weight.ndim != 2 or weight.shape[1] != 3 * units:
        return []
    return [weight[:, : 2 * units], weight[:, 2 * units :]]
