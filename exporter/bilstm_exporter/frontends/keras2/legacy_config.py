"""Configurations of Keras 1 and of early Keras 2, in the words that tf_keras knows.

Each rule fires on the old word itself, not on a version, because files lie about
theirs. What says only how a model was trained (initializers, regularizers,
constraints, dropout of weights) is left out: the weights come from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bilstm_exporter.errors import UnsupportedModelError
from bilstm_exporter.frontends.keras2.legacy_merge import (
    INPUT_DTYPE,
    merge_layer,
    with_typed_input,
    without_merged_branches,
)

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
# The layers that exist under these names today, whose training settings can be left out.
_TRAINED = _RECURRENT | {
    "BatchNormalization", "Conv1D", "Conv2D", "ConvLSTM2D", "Dense", "Embedding", "GRUCell",
    "LSTMCell", "LayerNormalization", "PReLU", "SeparableConv1D", "SimpleRNNCell",
}  # fmt: skip
_TRAINING_ENDINGS = ("_initializer", "_regularizer", "_constraint")
_DATA_FORMATS = {"tf": "channels_last", "th": "channels_first"}


def repaired(config: Any, custom_objects: Mapping[str, Any]) -> Config:
    """A configuration that tf_keras builds the same model from.

    Args:
        config: As the file has it; not changed.
        custom_objects: Classes of the user's, whose configuration stays as it is.

    Raises:
        UnsupportedModelError: It uses something of Keras 1 that no later Keras has.
    """
    return without_merged_branches(_repaired_value(config, custom_objects))


def _repaired_value(value: Any, custom_objects: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_repaired_value(item, custom_objects) for item in value]
    if not isinstance(value, dict):
        return value
    inner = {key: _repaired_value(item, custom_objects) for key, item in value.items()}
    name = inner.get("class_name")
    if name == "Sequential":
        return with_typed_input(inner)
    if not isinstance(name, str) or name in custom_objects:
        return inner
    return _repaired_layer(inner, name) if isinstance(inner.get("config"), dict) else inner


def _repaired_layer(layer: Config, name: str) -> Config:
    if name == "Merge":
        return merge_layer(layer)
    config: Config = dict(layer["config"])
    if name in {"Model", "Functional"}:
        return {**layer, "class_name": "Functional"} if "input_layers" in config else layer
    if name in {"CuDNNGRU", "CuDNNLSTM"}:
        config.update(activation="tanh", recurrent_activation="sigmoid")
        config.update({"reset_after": True} if name == "CuDNNGRU" else {})
    name = _CLASSES.get(name, name)
    extra = _input_dtype(name, config)
    _rename_keras1(name, config)
    if name in _TRAINED:
        config = {k: v for k, v in config.items() if not k.endswith(_TRAINING_ENDINGS)}
    if name in {"GRU", "GRUCell"}:
        config.setdefault("reset_after", False)  # older than the setting
    if "batch_shape" in config:
        config.setdefault("batch_input_shape", config.pop("batch_shape"))
    return {**layer, **extra, "class_name": name, "config": config}


def _input_dtype(name: str, config: Config) -> Config:
    """Take Keras 1's ``input_dtype`` out of a layer: it is the input's, not the layer's."""
    dtype = config.pop(INPUT_DTYPE, None)
    if dtype is None:
        return {}
    if name == "InputLayer":
        config["dtype"] = dtype
        return {}
    return {INPUT_DTYPE: dtype}


def _rename_keras1(name: str, config: Config) -> None:
    """Bring the keys of Keras 1 up to date, in place."""
    training = _KERAS1_TRAINING & set(config)
    for key in training:
        del config[key]
    for old in _KERAS1_NAMES.keys() & config.keys():
        config[_KERAS1_NAMES[old]] = config.pop(old)
    if config.get("strides", "") is None:  # Keras 1's word for the default
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
        raise UnsupportedModelError(message)


def _input_shape(name: str, config: Config) -> None:
    """``input_dim`` and ``input_length`` are a shape, unless that stands there too."""
    size, length = config.pop("input_dim", None), config.pop("input_length", None)
    if size is not None and "batch_input_shape" not in config:
        has_time = name in _RECURRENT or name == "Conv1D"
        config["batch_input_shape"] = [None, length, size] if has_time else [None, size]
