"""Files in the formats of older Keras versions, derived from files of today's tf_keras.

The keys are those of the releases' own `get_config` methods; weights are laid out as
those releases saved them.
"""

import json

import h5py
import numpy as np


def rewrite(path, change=None, *, version=None, weights=None, weights_version=None):
    """Change the configuration, the version and the weights of an HDF5 file, in place.

    `change(config)` gives the new configuration; `weights(layer_name, arrays)` the new list of
    arrays of a layer.
    """
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        if change is not None:
            file.attrs["model_config"] = json.dumps(change(config)).encode()
        if version is not None:
            file.attrs["keras_version"] = version.encode()
        group = file["model_weights"]
        if weights_version is None:
            del group.attrs["keras_version"]
        else:
            group.attrs["keras_version"] = weights_version.encode()
        if weights is not None:
            for layer in group.attrs["layer_names"]:
                name = layer.decode() if isinstance(layer, bytes) else layer
                _rewrite_layer(group[name], name, weights)


def _rewrite_layer(group, layer, weights):
    arrays = [np.asarray(group[name]) for name in group.attrs["weight_names"]]
    new = weights(layer, arrays)
    for key in list(group):
        del group[key]
    names = [f"{layer}_w{i}".encode() for i in range(len(new))]
    group.attrs["weight_names"] = names
    for name, array in zip(names, new, strict=True):
        group.create_dataset(name.decode(), data=array)


def layers_of(config):
    """Every layer's `{"class_name", "config"}` in a configuration, nested ones too."""
    if isinstance(config, dict):
        if "class_name" in config and isinstance(config.get("config"), (dict, list)):
            yield config
        for value in config.values():
            yield from layers_of(value)
    elif isinstance(config, list):
        for value in config:
            yield from layers_of(value)


_KERAS1_WORDS = {
    "LSTM": {"units": "output_dim", "recurrent_activation": "inner_activation"},
    "GRU": {"units": "output_dim", "recurrent_activation": "inner_activation"},
    "SimpleRNN": {"units": "output_dim"},
    "Dense": {"units": "output_dim", "use_bias": "bias"},
    "Conv1D": {
        "filters": "nb_filter", "kernel_size": "filter_length", "strides": "subsample_length",
        "padding": "border_mode", "use_bias": "bias",
    },
    "MaxPooling1D": {"pool_size": "pool_length", "strides": "stride", "padding": "border_mode"},
    "Dropout": {"rate": "p"},
    "Embedding": {},
}  # fmt: skip
_KERAS1_CLASSES = {"Conv1D": "Convolution1D"}
_KERAS1_EXTRAS = {
    "LSTM": {
        "init": "glorot_uniform", "inner_init": "orthogonal", "forget_bias_init": "one",
        "W_regularizer": None, "U_regularizer": None, "b_regularizer": None, "dropout_W": 0.2,
        "dropout_U": 0.2, "consume_less": "cpu", "input_dim": 4, "input_length": None,
        "return_sequences": None, "go_backwards": None, "stateful": False, "unroll": False,
    },
    "Dense": {
        "init": "uniform", "W_regularizer": None, "b_regularizer": None, "activity_regularizer":
        None, "W_constraint": None, "b_constraint": None, "input_dim": None, "activation": None,
    },
    "Embedding": {
        "init": "uniform", "W_regularizer": None, "W_constraint": None, "dropout": 0.1,
        "activity_regularizer": None, "input_length": None, "input_dtype": "int32",
        "input_dim": None, "output_dim": None, "mask_zero": None,
    },
    "Conv1D": {
        "init": "glorot_uniform", "W_regularizer": None, "b_regularizer": None, "input_dim": None,
        "input_length": None, "activation": None,
    },
}  # fmt: skip
_KERAS1_EXTRAS["GRU"] = _KERAS1_EXTRAS["SimpleRNN"] = _KERAS1_EXTRAS["LSTM"]


def to_keras1(config):
    """The words of Keras 1.2 for a Sequential or functional configuration."""
    for layer in layers_of(config):
        name, old = layer["class_name"], layer["config"]
        if name not in _KERAS1_WORDS:
            continue
        words = _KERAS1_WORDS[name]
        extras = _KERAS1_EXTRAS.get(name, {})
        new = {"name": old["name"], "trainable": True}
        new.update({words.get(k, k): old[k] for k in old if k in words or k in extras})
        new.update({k: v for k, v in extras.items() if new.get(k) is None and k not in old})
        if name in {"Conv1D", "MaxPooling1D"}:
            for key in ("filter_length", "subsample_length", "pool_length", "stride"):
                if key in new:
                    new[key] = new[key][0]
        if "batch_input_shape" in old:
            new["batch_input_shape"] = old["batch_input_shape"]
        layer["class_name"], layer["config"] = _KERAS1_CLASSES.get(name, name), new
    return config


def bare_sequential(config):
    """A Sequential as Keras wrote it before 2.2.3: a list, without an InputLayer."""
    first, *rest = config["config"]["layers"]
    assert first["class_name"] == "InputLayer"
    rest[0]["config"]["batch_input_shape"] = first["config"]["batch_input_shape"]
    return {"class_name": "Sequential", "config": rest}


def keras1_weights(layer, arrays):
    """One array a gate, in Keras 1's order i, c, f, o and z, r, h."""
    if "lstm" in layer and "bidirectional" not in layer:
        return _split_gates(arrays, (0, 2, 1, 3))
    if "gru" in layer and "bidirectional" not in layer:
        return _split_gates(arrays, (0, 1, 2))
    if "bidirectional" in layer:
        half = len(arrays) // 2
        return _split_gates(arrays[:half], (0, 2, 1, 3)) + _split_gates(arrays[half:], (0, 2, 1, 3))
    if "conv1d" in layer:
        return [arrays[0][:, None], arrays[1]]
    return arrays


def _split_gates(arrays, order):
    gates = [np.split(array, len(order), axis=-1) for array in arrays]
    return [parts[gate] for gate in order for parts in gates]


_FIXED_BY_CUDNN = {
    "activation", "recurrent_activation", "use_bias", "dropout", "implementation",
    "recurrent_dropout", "unroll", "time_major", "reset_after",
}  # fmt: skip


def to_cudnn(config):
    """CuDNNLSTM and CuDNNGRU, which have no settings for what cuDNN fixes."""
    for layer in layers_of(config):
        if layer["class_name"] in {"LSTM", "GRU"}:
            layer["class_name"] = f"CuDNN{layer['class_name']}"
            for key in _FIXED_BY_CUDNN & layer["config"].keys():
                del layer["config"][key]
    return config


def cudnn_weights(layer, arrays):
    """Kernels column by column in each gate, recurrent kernels transposed, biases in a row."""
    if "lstm" in layer or "gru" in layer:
        gates = 4 if "lstm" in layer else 3
        result = []
        for kernel, recurrent, bias in zip(arrays[::3], arrays[1::3], arrays[2::3], strict=True):
            kernels = [k.T.reshape(k.shape) for k in np.split(kernel, gates, axis=1)]
            recurrents = [r.T for r in np.split(recurrent, gates, axis=1)]
            flat = np.concatenate([0.25 * bias, 0.75 * bias]) if gates == 4 else bias.reshape(-1)
            result += [np.hstack(kernels), np.hstack(recurrents), flat]
        return result
    return arrays
