"""Which layer a constant of an artifact belongs to.

Converters rename, transpose, reorder and share constants, and the names they leave do not tell
two layers apart. The values stay, so a constant is known by them, in any order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


class WeightOwners:
    """Layers by the values of their weights.

    Args:
        weights: Pairs of a layer's name and one of its weights; parts into which an exporter
            divides a weight are further pairs.
    """

    def __init__(self, weights: Iterable[tuple[str, np.ndarray]]) -> None:
        self._layers: dict[bytes, list[str]] = {}
        for layer, weight in weights:
            owners = self._layers.setdefault(_fingerprint(weight), [])
            if layer not in owners:
                owners.append(layer)

    def of(self, constant: np.ndarray) -> tuple[str, ...]:
        """The layers that have these values as a weight; several where they are the same."""
        return tuple(self._layers.get(_fingerprint(constant), ()))


def _fingerprint(weight: np.ndarray) -> bytes:
    """The same for the same values in any order and shape."""
    values = np.sort(np.asarray(weight, np.float32), axis=None) + np.float32(0)  # -0 is 0
    return hashlib.sha256(values.tobytes()).digest()
