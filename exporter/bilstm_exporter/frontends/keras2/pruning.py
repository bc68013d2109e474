"""Pruning wrappers of tensorflow_model_optimization, loaded without that package.

A wrapper calls the layer inside it. Its own variables (masks, thresholds, a counter of steps) serve
training; only the masks matter later: the wrapper multiplies the layer's weights by them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tf_keras

from bilstm_exporter.frontends.files.training_settings import PRUNING_WRAPPERS

_OWN_WEIGHT = re.compile(r"(mask|threshold|pruning_step)(_\d+)?")


class PruneLowMagnitude(tf_keras.layers.Wrapper):  # type: ignore[misc] # tf_keras has no types
    """Calls the layer inside it, as the wrapper of the same name does.

    Like that wrapper, it does not pass masks on to the next layer. Its name is the one under which
    ``.keras`` files store the weights.
    """

    def __init__(self, layer: Any, **settings: Any) -> None:
        kept = ("name", "dtype", "trainable", "batch_input_shape")
        super().__init__(layer, **{key: settings[key] for key in kept if key in settings})
        self._masks: list[np.ndarray] = []
        if not hasattr(self, "_batch_input_shape") and hasattr(layer, "_batch_input_shape"):
            self._batch_input_shape = layer._batch_input_shape  # noqa: SLF001 - as Keras does

    def call(self, inputs: Any, training: Any = None, **settings: Any) -> Any:
        """Call the layer inside."""
        if "training" in inspect.signature(self.layer.call).parameters:
            settings["training"] = training
        return self.layer.call(inputs, **settings)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the output of the layer inside."""
        return self.layer.compute_output_shape(input_shape)

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Read the masks from the wrapper's variables in a ``.keras`` or ``.weights.h5`` file."""
        values = [np.asarray(store[key]) for key in sorted(store, key=int)]
        values = [value for value in values if value.ndim]
        half = len(values) // 2
        # The weights themselves are stored in front of the masks, if the wrapper lists them.
        has_weights = [v.shape for v in values[:half]] == [v.shape for v in values[half:]]
        self._masks = values[half:] if has_weights else values

    def apply_masks(self, masks: Sequence[np.ndarray] = ()) -> None:
        """Multiply the weights of the layer by their masks.

        Args:
            masks: The wrapper's variables in the order of the file; by default, those that it has
                read.
        """
        waiting = [value for value in masks or self._masks if value.ndim]
        for weight in self.layer.weights:
            if waiting and waiting[0].shape == tuple(weight.shape):
                mask = waiting.pop(0)
                if np.isin(mask, (0, 1)).all():
                    weight.assign(weight * mask)


WRAPPERS: dict[str, Any] = dict.fromkeys(PRUNING_WRAPPERS, PruneLowMagnitude)


def pruned_layers(model: Any) -> list[PruneLowMagnitude]:
    """Return the pruning wrappers of a layer or model, in order, also those in other models."""
    layers = model._flatten_layers()  # noqa: SLF001 - no public way to nested layers
    return [layer for layer in layers if isinstance(layer, PruneLowMagnitude)]


def without_wrappers(
    layer: Any, names: Sequence[str], values: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], dict[str, list[np.ndarray]]]:
    """Divide the weights of a layer in an HDF5 file into its own and those of wrappers.

    Args:
        layer: A pruning wrapper, or a model that contains some.
        names: The names of the weights in the file.
        values: The weights.

    Returns:
        The layer's own weights, and the other ones by the first part of their names, which is the
        name of the wrapper.

    Raises:
        ValueError: The weights do not fit the layer.
    """
    own: list[np.ndarray] = []
    others: dict[str, list[np.ndarray]] = {}
    for name, value in zip(names, values, strict=True):
        wrapper, _, last = name.partition(":")[0].rpartition("/")
        if _OWN_WEIGHT.fullmatch(last):
            others.setdefault(wrapper.rpartition("/")[2], []).append(value)
        else:
            own.append(value)
    expected = [*layer.trainable_weights, *layer.non_trainable_weights]
    if [value.shape for value in own] != [tuple(weight.shape) for weight in expected]:
        message = (
            f"the weights of layer {layer.name!r}, which is or contains a pruning wrapper, do not "
            f"fit it: strip the wrappers with tfmot.sparsity.keras.strip_pruning, and save the "
            f"model again"
        )
        raise ValueError(message)
    return own, others
