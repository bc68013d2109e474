"""Files of old versions are read as models that compute what those versions computed.

Each is compared with the model it was made from. What is exported of a model that was read does
not depend on its file: `test_models` exports every kind of layer, `test_files` every kind of file.
"""

import json

import h5py
import numpy as np
import pytest
import tf_keras
from tf_keras import layers as L

from bilstm_exporter.errors import UnsupportedModelError
from bilstm_exporter.frontends.files.model_file import inspect
from bilstm_exporter.frontends.keras2.legacy_config import updated_config
from bilstm_exporter.frontends.loading import read

from .cases import masked, randomize, sequential
from .compare import check_read, inputs
from .dialects import (
    bare_sequential,
    cudnn_weights,
    keras1_weights,
    layers_of,
    rewrite,
    to_cudnn,
    to_keras1,
)

HARD = {"recurrent_activation": "hard_sigmoid"}


def saved(model, tmp_path, seed=5):
    randomize(model, seed)
    path = tmp_path / "old.h5"
    model.save(path)
    return path


def tagger():
    return masked(
        L.Dropout(0.2),
        L.Bidirectional(L.LSTM(3, return_sequences=True, **HARD), merge_mode="concat"),
        L.TimeDistributed(L.Dense(4, activation="tanh")),
        L.LSTM(3, return_sequences=True, **HARD),
        L.GRU(3, reset_after=False, **HARD),
        L.Dense(2, activation="softmax"),
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_keras1_sequential(tmp_path):
    model = tagger()
    path = saved(model, tmp_path)
    rewrite(
        path,
        lambda config: to_keras1(bare_sequential(config)),
        version="1.2.2",
        weights=keras1_weights,
    )
    found, origin = check_read(model, path)
    assert origin.why.endswith("saved by Keras 1.2.2")
    assert found.generation.startswith("tf_keras 2.")


@pytest.mark.parametrize(
    ("version", "saver"),
    [("1.2.2", "Keras"), ("2.15.0", "Keras"), ("2.16.0", "tf_keras"), ("2.21.0", "tf_keras")],
)
def test_the_library_that_saved_a_file(version, saver, tmp_path):
    path = tmp_path / "model.json"
    config = {"class_name": "Sequential", "config": {"layers": []}, "keras_version": version}
    path.write_text(json.dumps(config))
    found = inspect(path)
    assert (found.generation, found.why) == ("tf_keras", f"saved by {saver} {version}")


@pytest.mark.filterwarnings("ignore")
def test_keras1_convolution(tmp_path):
    model = sequential(
        L.Conv1D(6, 3, padding="same", activation="relu"),
        L.MaxPooling1D(2),
        L.SimpleRNN(3),
        L.Dense(2),
    )
    path = saved(model, tmp_path)
    rewrite(
        path,
        lambda config: to_keras1(bare_sequential(config)),
        version="1.1.0",
        weights=keras1_weights,
        weights_version="1.1.0",
    )
    check_read(model, path)


def merge_config(layers, mode="concat", **settings):
    return {
        "class_name": "Merge",
        "config": {
            "name": "merge_1", "layers": layers, "mode": mode, "mode_type": "raw",
            "concat_axis": -1, "dot_axes": -1, "output_shape": None, "output_shape_type": "raw",
            "output_mask": None, "output_mask_type": "raw", "arguments": {}, **settings,
        },
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave", "max", "dot", "cos"])
def test_keras1_merge(mode, tmp_path):
    a, b = L.Input((4,), name="a"), L.Input((4,), name="b")
    classes = {"concat": L.Concatenate(name="merge_1"), "sum": L.Add(name="merge_1"),
               "mul": L.Multiply(name="merge_1"), "ave": L.Average(name="merge_1"),
               "max": L.Maximum(name="merge_1"), "dot": L.Dot(-1, name="merge_1"),
               "cos": L.Dot(-1, normalize=True, name="merge_1")}  # fmt: skip
    merged = classes[mode]([L.Dense(3)(a), L.Dense(3)(b)])
    model = tf_keras.Model([a, b], L.Dense(2)(merged))
    path = saved(model, tmp_path)

    def change(config):
        for layer in layers_of(config):
            if layer["config"].get("name") == "merge_1":
                layer.update(merge_config([], mode))
        return {**to_keras1(config), "class_name": "Model"}

    rewrite(path, change, version="1.2.0")
    check_read(model, path, sizes=((2, 3),))


@pytest.mark.filterwarnings("ignore")
def test_keras1_sequential_with_branches(tmp_path):
    words, features = L.Input((None,), dtype="int32"), L.Input((4,))
    left = L.LSTM(3, name="lstm_1", **HARD)(L.Embedding(12, 4, name="embedding_1")(words))
    right = L.Dense(5, name="dense_1")(features)
    merged = L.Concatenate(name="merge_1")([left, right])
    model = tf_keras.Model([words, features], L.Dense(2, name="dense_2")(merged))
    path = saved(model, tmp_path)

    def change(config):
        by_name = {layer["config"]["name"]: layer for layer in layers_of(to_keras1(config))}
        names = ("embedding_1", "lstm_1", "dense_1", "dense_2")
        layers = [{k: by_name[n][k] for k in ("class_name", "config")} for n in names]
        embedding, lstm, dense, last = layers
        embedding["config"].update(batch_input_shape=[None, None], input_dim=12, output_dim=4)
        dense["config"].update(batch_input_shape=[None, 4])
        branches = [
            {"class_name": "Sequential", "config": [embedding, lstm]},
            {"class_name": "Sequential", "config": [dense]},
        ]
        return {"class_name": "Sequential", "config": [merge_config(branches), last]}

    rewrite(path, change, version="1.0.8", weights=keras1_weights)
    check_read(model, path)


def test_keras1_merge_with_a_function_is_refused():
    config = {"class_name": "Model", "config": {"layers": [merge_config([], mode=["4wE=", None])]}}
    with pytest.raises(UnsupportedModelError, match="merge_1"):
        updated_config(config, {})


@pytest.mark.parametrize("mode", [1, 2])
def test_keras1_batch_normalization_modes_are_refused(mode):
    layer = {"class_name": "BatchNormalization", "config": {"name": "bn", "mode": mode, "axis": -1}}
    with pytest.raises(UnsupportedModelError, match="'bn'"):
        updated_config({"class_name": "Sequential", "config": [layer]}, {})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("version", ["2.0.6", "2.2.2"])
def test_sequential_as_a_list(version, tmp_path):
    model = tagger()
    path = saved(model, tmp_path)
    rewrite(path, bare_sequential, version=version, weights_version=version)
    check_read(model, path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_gru_older_than_reset_after(tmp_path):
    model = sequential(L.Bidirectional(L.GRU(3, reset_after=False, **HARD)), L.Dense(2))
    path = saved(model, tmp_path)

    def change(config):
        for layer in layers_of(config):
            if isinstance(layer["config"], dict):
                layer["config"].pop("reset_after", None)
        return config

    rewrite(path, change, version="2.0.9", weights_version="2.0.9")
    check_read(model, path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_cudnn(tmp_path):
    model = masked(L.Bidirectional(L.LSTM(3, return_sequences=True)), L.GRU(3), L.Dense(2))
    path = saved(model, tmp_path)
    rewrite(path, to_cudnn, version="2.2.4", weights=cudnn_weights, weights_version="2.2.4")
    check_read(model, path)


@pytest.mark.filterwarnings("ignore")
def test_custom_initializers_and_regularizers_need_no_custom_objects(tmp_path):
    model = sequential(L.LSTM(3), L.Dense(2))
    path = saved(model, tmp_path)

    def change(config):
        for layer in layers_of(config):
            if layer["class_name"] == "LSTM":
                layer["config"]["kernel_regularizer"] = "my_regularizer"
                layer["config"]["kernel_initializer"] = {"class_name": "Mine", "config": {}}
        return config

    rewrite(path, change, version="2.3.1", weights_version="2.3.1")
    check_read(model, path)


@pytest.mark.filterwarnings("ignore")
def test_nothing_but_old_keys_tells_the_generation(tmp_path):
    model = sequential(L.LSTM(3, **HARD), L.Dense(2))
    path = saved(model, tmp_path)
    with h5py.File(path, "r+") as file:
        del file.attrs["keras_version"]
    source, origin = read(path)
    assert source.generation.startswith("tf_keras")
    assert "keys of Keras 2" in origin.why
    arrays = inputs(model, np.random.default_rng(0), 2, 5)
    np.testing.assert_array_equal(source.reference(arrays)[0], model(arrays[0]))


def test_repair_leaves_custom_classes_and_the_config_alone():
    config = {
        "class_name": "Sequential",
        "config": [
            {"class_name": "GRU", "config": {"name": "mine", "kernel_initializer": "zeros"}},
            {"class_name": "LSTM", "config": {"name": "a", "output_dim": 3, "inner_init": "x"}},
        ],
    }
    before = json.dumps(config)
    mine, lstm = updated_config(config, {"GRU": object})["config"]
    assert json.dumps(config) == before
    assert mine["config"] == {"name": "mine", "kernel_initializer": "zeros"}
    assert lstm["config"] == {"name": "a", "units": 3}
