"""Configurations of Keras 1 and of early Keras 2, rewritten for tf_keras.

Each rule tests for the old key or class, not for a version, because the version in a file is
often wrong. Settings that only affect training (initializers, regularizers, constraints, dropout
of weights) are removed: the weights come from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tf_keras

from bilstm_exporter.errors import UnsupportedModelError

Config = dict[str, Any]

_CLASSES = {
    "AtrousConvolution1D": "Conv1D",
    "AtrousConvolution2D": "Conv2D",
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "CuDNNGRU": "GRU",
    "CuDNNLSTM": "LSTM",
    "TimeDistributedDense": "Dense",
    "UnifiedGRU": "GRU",
    "UnifiedLSTM": "LSTM",
}
_RECURRENT = frozenset({"GRU", "LSTM", "SimpleRNN"})
_UNITS = _RECURRENT | {"Dense"}
_KERAS1_NAMES = {
    "atrous_rate": "dilation_rate",
    "bias": "use_bias",
    "border_mode": "padding",
    "filter_length": "kernel_size",
    "inner_activation": "recurrent_activation",
    "nb_filter": "filters",
    "p": "rate",
    "pool_length": "pool_size",
    "sigma": "stddev",
    "stride": "strides",
    "subsample": "strides",
    "subsample_length": "strides",
}
_KERAS1_TRAINING = frozenset(
    {
        "W_constraint", "W_regularizer", "U_constraint", "U_regularizer", "b_constraint",
        "b_regularizer", "beta_init", "consume_less", "dropout_U", "dropout_W",
        "forget_bias_init", "gamma_init", "init", "inner_init", "weights",
    }
)  # fmt: skip
_TRAINING_ENDINGS = ("_initializer", "_regularizer", "_constraint")
# The key under which a rewritten layer keeps the dtype of its input; tf_keras ignores it.
_INPUT_DTYPE = "input_dtype"

_MERGE_MODES = {
    "ave": "Average",
    "concat": "Concatenate",
    "cos": "Dot",
    "dot": "Dot",
    "max": "Maximum",
    "mul": "Multiply",
    "sum": "Add",
}
_DATA_FORMATS = {"tf": "channels_last", "th": "channels_first"}


def updated_config(config: Any, custom_objects: Mapping[str, Any]) -> Config:
    """Return a configuration from which tf_keras builds the same model.

    Args:
        config: The configuration in the file; it is not changed.
        custom_objects: The user's own classes, whose configuration is not changed.

    Raises:
        UnsupportedModelError: It uses a feature of Keras 1 that no later Keras has.
    """
    return _without_merged_branches(_updated_value(config, custom_objects))


def _updated_value(value: Any, custom_objects: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_updated_value(item, custom_objects) for item in value]
    if not isinstance(value, dict):
        return value
    inner = {key: _updated_value(item, custom_objects) for key, item in value.items()}
    name = inner.get("class_name")
    if name == "Sequential":
        return _with_typed_input(inner)
    if not isinstance(name, str) or name in custom_objects:
        return inner
    return _updated_layer(inner, name) if isinstance(inner.get("config"), dict) else inner


def _updated_layer(layer: Config, name: str) -> Config:
    if name == "Merge":
        return _merge_layer(layer)
    config: Config = dict(layer["config"])
    if name in {"Model", "Functional"}:
        return {**layer, "class_name": "Functional"} if "input_layers" in config else layer
    if name in {"CuDNNGRU", "CuDNNLSTM"}:
        config.update(activation="tanh", recurrent_activation="sigmoid")
        config.update({"reset_after": True} if name == "CuDNNGRU" else {})
    name = _CLASSES.get(name, name)
    extra = _input_dtype(name, config)
    _rename_keras1(name, config)
    if hasattr(tf_keras.layers, name):
        config = {k: v for k, v in config.items() if not k.endswith(_TRAINING_ENDINGS)}
    if name in {"GRU", "GRUCell"}:
        config.setdefault("reset_after", False)  # older than the setting
    if "batch_shape" in config:
        config.setdefault("batch_input_shape", config.pop("batch_shape"))
    return {**layer, **extra, "class_name": name, "config": config}


def _input_dtype(name: str, config: Config) -> Config:
    """Remove Keras 1's ``input_dtype`` from a layer: it belongs to the input, not the layer."""
    dtype = config.pop(_INPUT_DTYPE, None)
    if dtype is None:
        return {}
    if name == "InputLayer":
        config["dtype"] = dtype
        return {}
    return {_INPUT_DTYPE: dtype}


def _rename_keras1(name: str, config: Config) -> None:
    """Rename the keys of Keras 1 to the current ones, in place."""
    training = _KERAS1_TRAINING & set(config)
    for key in training:
        del config[key]
    for old in _KERAS1_NAMES.keys() & config.keys():
        config[_KERAS1_NAMES[old]] = config.pop(old)
    if config.get("strides", "") is None:  # the default, in Keras 1
        del config["strides"]
    if "nb_row" in config:
        config["kernel_size"] = [config.pop("nb_row"), config.pop("nb_col")]
    data_format = _DATA_FORMATS.get(config.pop("dim_ordering", ""))
    if data_format is not None and name.endswith("2D"):
        config["data_format"] = data_format
    if name == "BatchNormalization":
        _refuse_mode(config)
    elif name == "Embedding":
        config.pop("dropout", None)
    elif name in _UNITS and "output_dim" in config:
        config["units"] = config.pop("output_dim")
        _input_shape(name, config)
    elif training:
        _input_shape(name, config)


def _refuse_mode(config: Config) -> None:
    if config.pop("mode", 0) != 0:
        message = (
            f"layer {config.get('name')!r} is a BatchNormalization of Keras 1 in a mode that no "
            f"later Keras has; train the model again with mode=0, or with a later Keras"
        )
        raise UnsupportedModelError(message, layers=(str(config.get("name")),))


def _input_shape(name: str, config: Config) -> None:
    """Replace ``input_dim`` and ``input_length`` by a shape, unless a shape is given too."""
    size, length = config.pop("input_dim", None), config.pop("input_length", None)
    if size is not None and "batch_input_shape" not in config:
        has_time = name in _RECURRENT or name == "Conv1D"
        config["batch_input_shape"] = [None, length, size] if has_time else [None, size]


# --- Merge, and Sequential models that begin with merged branches


def _merge_layer(layer: Config) -> Config:
    """Return the current layer for a Merge; its branches, if any, stay in ``"branches"``.

    Raises:
        UnsupportedModelError: The mode is a user's own function.
    """
    config = layer["config"]
    mode, name = config.get("mode", "sum"), config.get("name")
    if not isinstance(mode, str) or mode not in _MERGE_MODES:
        message = (
            f"layer {name!r} is a Merge of Keras 1 with a custom function as mode; only the "
            f"modes {', '.join(sorted(_MERGE_MODES))} can be read: replace it by one of these"
        )
        raise UnsupportedModelError(message, layers=(str(name),))
    new: Config = {"name": name}
    if mode == "concat":
        new["axis"] = config.get("concat_axis", -1)
    elif mode in {"dot", "cos"}:
        axes = config.get("dot_axes", -1)
        # Keras 1 writes one list of axes for each tensor.
        new["axes"] = (
            [a[0] if isinstance(a, list) else a for a in axes] if isinstance(axes, list) else axes
        )
        new["normalize"] = mode == "cos"
    merged = {**layer, "class_name": _MERGE_MODES[mode], "config": new}
    if config.get("layers"):
        merged["branches"] = config["layers"]
    return merged


def _with_typed_input(model: Config) -> Config:
    """Add an InputLayer to a Sequential whose first layer declares the dtype of its input."""
    layers = _layers(model)
    if (
        not layers
        or _INPUT_DTYPE not in layers[0]
        or "batch_input_shape" not in layers[0]["config"]
    ):
        return model
    layers = [_input_layer(layers[0]), *layers]
    config = model["config"]
    return {**model, "config": {**config, "layers": layers} if isinstance(config, dict) else layers}


def _input_layer(first: Config) -> Config:
    """Return the InputLayer that a Sequential creates for its first layer."""
    config = first["config"]
    return {
        "class_name": "InputLayer",
        "config": {
            "batch_input_shape": config["batch_input_shape"],
            "dtype": first.get(_INPUT_DTYPE, "float32"),
            "name": f"{config['name']}_input",
        },
    }


def _without_merged_branches(model: Config) -> Config:
    """Convert a Sequential that begins with merged branches to a functional model."""
    layers = _layers(model)
    if model.get("class_name") != "Sequential" or not layers or "branches" not in layers[0]:
        return model
    graph = _Graph()
    last = graph.add_chain(layers)
    return {
        **model,
        "class_name": "Functional",
        "config": {
            "name": "sequential",
            "layers": graph.layers,
            "input_layers": [[name, 0, 0] for name in graph.inputs],
            "output_layers": [[last, 0, 0]],
        },
    }


class _Graph:
    """The layers of a functional model, and the names of its inputs."""

    def __init__(self) -> None:
        self.layers: list[Config] = []
        self.inputs: list[str] = []

    def add_chain(self, layers: list[Config]) -> str:
        """Add the layers of a Sequential; returns the name of the last."""
        before: list[str] = []
        for layer in layers:
            if "branches" in layer:
                before = [self.add_chain(_branch_layers(branch)) for branch in layer["branches"]]
            elif not before and layer["class_name"] != "InputLayer":
                before = [self.add_chain([_input_layer(layer)])]
            name = layer["config"]["name"]
            if layer["class_name"] == "InputLayer":
                self.inputs.append(name)
            self._add(layer, name, before)
            before = [name]
        return before[0]

    def _add(self, layer: Config, name: str, before: list[str]) -> None:
        nodes = [[[other, 0, 0, {}] for other in before]] if before else []
        own = {key: value for key, value in layer.items() if key != "branches"}
        self.layers.append({**own, "name": name, "inbound_nodes": nodes})


def _layers(model: Config) -> list[Config]:
    config = model.get("config")
    if isinstance(config, dict):
        config = config.get("layers")
    return config if isinstance(config, list) else []


def _branch_layers(branch: Config) -> list[Config]:
    if branch.get("class_name") == "Sequential":
        return _layers(branch)
    message = (
        f"a Merge of Keras 1 joins a {branch.get('class_name')}; only Sequential branches can be "
        f"read: build the model with a later Keras, and export it with --builder and --weights"
    )
    raise UnsupportedModelError(message)
