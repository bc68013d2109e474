"""A tf_keras model that computes in another dtype, built again in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import tf_keras

from bilstm_exporter.errors import UnsupportedModelError

_OTHERS = frozenset({"float16", "bfloat16", "float64"})


def in_float32(model: Any) -> Any:
    """The model itself, or where its layers compute in another dtype, the same in float32.

    Raises:
        UnsupportedModelError: It cannot be built again from its configuration.
    """
    layers = list(model._flatten_layers())  # noqa: SLF001 - no public way to nested layers
    others = {
        layer.name: layer.compute_dtype
        for layer in layers
        if layer.compute_dtype in _OTHERS and not isinstance(layer, tf_keras.layers.InputLayer)
    }
    if not others:
        return model
    try:
        with tf_keras.utils.custom_object_scope({type(x).__name__: type(x) for x in layers}):
            twin = type(model).from_config(_with_float32(model.get_config()))
    except (NotImplementedError, TypeError, ValueError) as error:
        name, dtype = next(iter(others.items()))
        message = (
            f"layer {name!r} computes in {dtype}; only float32 can be exported, and the model "
            f"cannot be built again in it ({error}): build it with the policy 'float32' and load "
            f"the same weights"
        )
        raise UnsupportedModelError(message) from error
    twin.set_weights([np.asarray(weight).astype(np.float32) for weight in model.get_weights()])
    return twin


def _with_float32(config: Any) -> Any:
    """A configuration whose layers compute in float32; its inputs stay as they are."""
    if isinstance(config, list):
        return [_with_float32(item) for item in config]
    if not isinstance(config, dict) or config.get("class_name") == "InputLayer":
        return config
    return {
        key: "float32" if key == "dtype" and _is_float(value) else _with_float32(value)
        for key, value in config.items()
    }


def _is_float(dtype: Any) -> bool:
    name = dtype["config"].get("name") if isinstance(dtype, dict) else dtype
    return isinstance(name, str) and "float" in name
