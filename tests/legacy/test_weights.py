"""Weights in TensorFlow checkpoints and in the files of TensorFlow.js."""

import importlib
import json

import numpy as np
import pytest
import tensorflow as tf

from bilstm_exporter.errors import ModelFileError
from bilstm_exporter.frontends.files.model_file import is_legacy
from bilstm_exporter.frontends.loading import read

pytestmark = pytest.mark.filterwarnings("ignore")
x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
libraries = pytest.mark.parametrize("library", ["keras", "tf_keras"])


def model_of(library, units=3):
    keras = importlib.import_module(library)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((None, 4)),
            layers.Bidirectional(layers.LSTM(units, return_sequences=True)),
            layers.BatchNormalization(),
            layers.Dense(2),
        ]
    )
    rng = np.random.default_rng(3)
    model.set_weights([rng.random(w.shape).astype("float32") for w in model.get_weights()])
    return model


def check(model, path, weights=None):
    source, origin = read(path, weights=weights)
    np.testing.assert_allclose(source.reference([x])[0], model(x), 1e-6, 1e-6)
    return origin


@libraries
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("ending", ["", ".index"])
@pytest.mark.slow
def test_a_checkpoint(library, named, ending, tmp_path):
    model = model_of(library)
    (tmp_path / "model.json").write_text(model.to_json())
    prefix = tmp_path / "model.ckpt"
    if named:
        tf.train.Checkpoint(model=model).write(str(prefix))
    elif library == "tf_keras":
        model.save_weights(prefix)
    else:
        tf.train.Checkpoint(model).write(str(prefix))
    weights = tmp_path / f"model.ckpt{ending}"
    check(model, tmp_path / "model.json", weights)
    assert is_legacy(None, str(weights))


@libraries
@pytest.mark.slow
def test_a_checkpoint_of_another_model(library, tmp_path):
    (tmp_path / "model.json").write_text(model_of(library).to_json())
    tf.train.Checkpoint(model=model_of(library, units=2)).write(str(tmp_path / "model.ckpt"))
    with pytest.raises(ModelFileError, match=r"model\.ckpt"):
        read(tmp_path / "model.json", weights=tmp_path / "model.ckpt")


def save_tfjs(model, library, folder, *, renamed=False, quantized=False):
    manifest, content = [], b""
    for i, weight in enumerate(w for layer in model.layers for w in layer.weights):
        value = np.asarray(weight)
        name = f"weight_{i}" if renamed else weight.name.partition(":")[0]
        entry = {"name": name, "shape": list(value.shape), "dtype": "float32"}
        if quantized:
            entry["quantization"] = {"dtype": "uint8", "scale": 1 / 255, "min": 0.0}
            value = np.round(value * 255).astype("uint8")
            weight.assign(value / np.float32(255))
        manifest.append(entry)
        content += value.tobytes()
    cut = len(content) // 2
    (folder / "group1-shard1of2.bin").write_bytes(content[:cut])
    (folder / "group1-shard2of2.bin").write_bytes(content[cut:])
    config = json.loads(model.to_json())
    version = importlib.import_module(library).__version__
    document = {
        "format": "layers-model",
        "modelTopology": {"keras_version": version, "model_config": config},
        "weightsManifest": [
            {"paths": ["group1-shard1of2.bin", "group1-shard2of2.bin"], "weights": manifest}
        ],
    }
    (folder / "model.json").write_text(json.dumps(document))
    return document


@libraries
@pytest.mark.parametrize("renamed", [True, False])
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.slow
def test_a_model_of_tensorflow_js(library, renamed, quantized, tmp_path):
    model = model_of(library)
    save_tfjs(model, library, tmp_path, renamed=renamed, quantized=quantized)
    assert check(model, tmp_path / "model.json").file == "model.json"


@pytest.mark.parametrize("path", ["../secret.bin", "/etc/hostname", "missing.bin"])
@pytest.mark.slow
def test_weights_of_tensorflow_js_lie_beside_it(path, tmp_path):
    document = save_tfjs(model_of("tf_keras"), "tf_keras", tmp_path)
    document["weightsManifest"][0]["paths"][0] = path
    (tmp_path / "model.json").write_text(json.dumps(document))
    with pytest.raises(ModelFileError, match=r"file of weights"):
        read(tmp_path / "model.json")


def test_a_graph_model_of_tensorflow_js(tmp_path):
    document = {"format": "graph-model", "modelTopology": {"node": []}, "weightsManifest": []}
    (tmp_path / "model.json").write_text(json.dumps(document))
    with pytest.raises(ModelFileError, match=r"graph-model.*layers.*Export the Keras model"):
        read(tmp_path / "model.json")


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("x.tflite", b"\x1c\0\0\0TFL3", "TFLite"),
        ("x.bin", b"\x1c\0\0\0TFL3", "TFLite"),
        ("x.onnx", b"\x08\x09\x12\x05", "ONNX"),
        ("frozen.pb", b"\n\x10\n\x05", "TensorFlow"),
    ],
)
def test_a_file_of_another_format(name, content, kind, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=rf"{kind}.*Export the Keras model"):
        read(tmp_path / name)
