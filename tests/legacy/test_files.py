"""Every kind of old file that can be written, and files refused with a message."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers as L

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.cli.export import main
from bilstm_exporter.errors import (
    MissingLibraryError,
    ModelFileError,
    OptionError,
    UnknownObjectError,
    UntrustedCodeError,
)
from bilstm_exporter.frontends.loading import read

from .cases import CASES, OBJECTS, OwnAttention, Subclassed, masked, randomize, sequential
from .compare import check, check_read, inputs, tf_keras_outputs

STEP = 1 if os.environ.get("ZOO_ALL") else 6
FIXTURES = Path(__file__).parent / "fixtures"

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def model():
    model = masked(L.Bidirectional(L.LSTM(3, recurrent_activation="hard_sigmoid")), L.Dense(2))
    randomize(model, 1)
    return model


@pytest.mark.parametrize("name", sorted(p.name for p in FIXTURES.glob("*[5s]")))
@pytest.mark.slow
def test_fixture(name):
    """What `make_fixtures.py` saved with its outputs is read correctly."""
    source, origin = read(FIXTURES / name, custom_objects=OBJECTS)
    arrays = np.load(FIXTURES / "answers.npz")
    found = source.reference([arrays[f"{Path(name).stem}_input"]])[0]
    np.testing.assert_allclose(found, arrays[f"{Path(name).stem}_output"], 1e-6, 1e-6)
    assert source.generation.startswith("tf_keras")
    assert origin.why


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".h5", ".keras", ""])
def test_whole_files(ending, model, tmp_path):
    path = tmp_path / f"model{ending}"
    model.save(path, save_format=None if ending else "tf")
    report = check(model, path, tmp_path / "bundle")
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["source"]["generation"] == report.generation
    assert report.generation.startswith(f"tf_keras {tf_keras.__version__}: ")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES.keys() - {"subclassed"})[::STEP])
def test_every_model_comes_back_from_hdf5(name, tmp_path):
    model = CASES[name]()
    model.save(tmp_path / "model.h5")
    source, _ = read(tmp_path / "model.h5", custom_objects=OBJECTS)
    arrays = inputs(model, np.random.default_rng(0), 3, 6)
    found = source.native_dtype_reference([*arrays, *zeros(source)]) or source.reference(
        [*arrays, *zeros(source)]
    )
    wanted = tf_keras_outputs(model, arrays)
    for a, b in zip(found, wanted, strict=False):  # states come last
        np.testing.assert_allclose(a, b, 1e-6, 1e-6)


def zeros(source):
    specs = source.states
    return [np.zeros(spec.shape, spec.dtype) for spec in specs]


@pytest.mark.slow
def test_a_file_under_another_name(model, tmp_path):
    model.save(tmp_path / "model.keras")
    check_read(model, (tmp_path / "model.keras").rename(tmp_path / "model.bin"))
    model.save(tmp_path / "model.hdf5")
    check_read(model, tmp_path / "model.hdf5")


@pytest.mark.slow
def test_subclassed_saved_model_needs_its_class(tmp_path):
    model = CASES["subclassed"]()
    model.save(tmp_path / "saved", save_format="tf")
    with pytest.raises(UnknownObjectError, match="--custom-objects"):
        read(tmp_path / "saved")
    check_read(model, tmp_path / "saved", custom_objects={"Subclassed": Subclassed})


def test_saved_model_without_keras(tmp_path):
    module = tf.Module()
    module.call = tf.function(lambda x: x + 1, input_signature=[tf.TensorSpec([None])])
    tf.saved_model.save(module, tmp_path / "saved")
    with pytest.raises(ModelFileError, match=r"model\.save"):
        read(tmp_path / "saved")


@pytest.mark.parametrize("weights", ["weights.h5", "model.h5", "x.weights.h5"])
@pytest.mark.slow
def test_json_and_weights(weights, model, tmp_path):
    (tmp_path / "model.json").write_text(model.to_json())
    if weights == "model.h5":
        model.save(tmp_path / weights)
    else:
        model.save_weights(tmp_path / weights)
    check_read(model, tmp_path / "model.json", weights=tmp_path / weights)


@pytest.mark.slow
def test_an_export_of_json_and_weights(model, tmp_path):
    (tmp_path / "model.json").write_text(model.to_json())
    model.save_weights(tmp_path / "weights.h5")
    weights = tmp_path / "weights.h5"
    check(model, tmp_path / "model.json", tmp_path / "bundle", weights=weights)


def test_json_in_json(model, tmp_path):
    """What json.dump(model.to_json(), file) writes."""
    (tmp_path / "model.json").write_text(json.dumps(model.to_json()))
    model.save_weights(tmp_path / "weights.h5")
    source, _ = read(tmp_path / "model.json", weights=tmp_path / "weights.h5")
    (x,) = inputs(model, np.random.default_rng(0), 2, 5)
    np.testing.assert_array_equal(source.reference([x])[0], tf_keras_outputs(model, [x])[0])


def test_json_of_keras_0(tmp_path):
    layer = {"name": "LSTM", "output_dim": 4, "input_dim": 3, "cache_enabled": True}
    config = {"name": "Sequential", "layers": [layer], "class_mode": "categorical"}
    (tmp_path / "model.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=r"Keras 0.*--builder"):
        read(tmp_path / "model.json", weights=tmp_path / "weights.h5")


def test_json_of_keras_3(tmp_path):
    import keras

    model = keras.Sequential([keras.Input((None, 4)), keras.layers.LSTM(3)])
    (tmp_path / "model.json").write_text(model.to_json())
    model.save_weights(tmp_path / "x.weights.h5")
    source, origin = read(tmp_path / "model.json", weights=tmp_path / "x.weights.h5")
    x = np.ones((2, 5, 4), np.float32)
    np.testing.assert_array_equal(source.reference([x])[0], model(x))
    assert "keys of Keras 3" in origin.why


def test_json_alone_and_weights_alone(model, tmp_path):
    (tmp_path / "model.json").write_text(model.to_json())
    with pytest.raises(OptionError, match="--weights"):
        read(tmp_path / "model.json")
    model.save_weights(tmp_path / "weights.h5")
    with pytest.raises(ModelFileError, match=r"--weights.*--builder"):
        read(tmp_path / "weights.h5")


def test_yaml_is_refused(tmp_path):
    (tmp_path / "model.yaml").write_text("class_name: Sequential\n")
    with pytest.raises(ModelFileError, match=r"YAML.*JSON"):
        read(tmp_path / "model.yaml")


@pytest.mark.slow
def test_weights_of_another_model(model, tmp_path):
    (tmp_path / "model.json").write_text(model.to_json())
    sequential(L.LSTM(2)).save_weights(tmp_path / "weights.h5")
    with pytest.raises(ModelFileError, match=r"weights\.h5"):
        read(tmp_path / "model.json", weights=tmp_path / "weights.h5")


BUILDER = """
from {library} import Sequential, layers

def build():
    return Sequential([
        layers.Input((None, 4)),
        layers.LSTM(3, recurrent_activation="hard_sigmoid"),
        layers.Dense(2),
    ])

def nothing():
    return None

def needs(units):
    return units
"""


@pytest.mark.slow
@pytest.mark.parametrize("library", ["tf_keras", "keras"])
def test_builder(library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"builder_of_{library}"
    Path(f"{name}.py").write_text(BUILDER.format(library=library))
    with pytest.raises(OptionError, match="without arguments"):
        read(None, builder=f"{name}:needs")
    with pytest.raises(ModelFileError, match="NoneType"):
        read(None, builder=f"{name}:nothing")
    with pytest.raises(OptionError, match="has no "):
        read(None, builder=f"{name}:typo")
    with pytest.raises(OptionError, match="module:function"):
        read(None, builder=name)
    with pytest.raises(OptionError, match="do not give a model file"):
        read("model.h5", builder=f"{name}:build")
    model = sys.modules[name].build()
    file = "x.weights.h5"
    model.save_weights(file)
    report = export(None, "bundle", builder=f"{name}:build", weights=file, formats=("onnx",))
    assert report.generation.endswith(f"built by {name}:build")
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    found = bilstm_runtime.load("bundle").predict(x)
    np.testing.assert_allclose(found, model(x), 1e-4, 1e-5)


def test_no_model_at_all():
    with pytest.raises(OptionError, match="--builder"):
        read(None)
    assert main(["--quiet"]) == 2


OLD_LAYER = """
from tensorflow.keras import backend as K
from tensorflow.keras.layers import Layer

class OwnAttention(Layer):
    def build(self, shape):
        self.w = self.add_weight(name="w", shape=(shape[-1], 1))
        self.b = self.add_weight(name="b", shape=(1,))

    def call(self, x, mask=None):
        weights = K.exp(K.squeeze(K.tanh(K.dot(x, self.w) + self.b), -1))
        if mask is not None:
            weights *= K.cast(mask, "float32")
        weights /= K.sum(weights, axis=1, keepdims=True) + K.epsilon()
        return K.sum(x * K.expand_dims(weights), axis=1)

    def compute_mask(self, inputs, mask=None):
        return None
"""


@pytest.mark.slow
def test_custom_layers_written_for_tensorflow_keras(tmp_path):
    """In the command, `tensorflow.keras` is the Keras that reads the file."""
    model = CASES["attention-own"]()
    model.save(tmp_path / "model.h5")
    (tmp_path / "old_layers.py").write_text(OLD_LAYER)
    command = [sys.executable, "-m", "bilstm_exporter.cli", "model.h5", "--quiet"]
    run = [*command, "--custom-objects", "old_layers:OwnAttention"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = [*command, "--overwrite"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "--custom-objects" in done.stderr


@pytest.mark.slow
def test_custom_layer_of_the_wrong_keras(tmp_path):
    import keras

    class Own(keras.layers.Layer):
        pass

    CASES["attention-own"]().save(tmp_path / "model.h5")
    with pytest.raises(UnknownObjectError, match="layer of Keras 3"):
        read(tmp_path / "model.h5", custom_objects={"OwnAttention": Own})
    read(tmp_path / "model.h5", custom_objects={"OwnAttention": OwnAttention})


@pytest.mark.parametrize("ending", [".h5", ".keras", pytest.param("", marks=pytest.mark.slow)])
def test_code_needs_trust(ending, tmp_path):
    model = sequential(L.LSTM(3, return_sequences=True), L.Lambda(lambda x: x[:, -1] * 2.0))
    path = tmp_path / f"model{ending}"
    model.save(path, save_format=None if ending else "tf")
    with pytest.raises(UntrustedCodeError, match=r"'lambda.*--trust-code"):
        read(path)
    check_read(model, path, trust_code=True)


@pytest.mark.slow
def test_functions_that_reach_files_need_trust(tmp_path):
    model = CASES["operators"]()
    path = tmp_path / "model.json"
    text = model.to_json()
    assert '"math.multiply"' in text
    path.write_text(text.replace('"math.multiply"', '"io.write_file"'))
    model.save_weights(tmp_path / "weights.h5")
    with pytest.raises(UntrustedCodeError, match="--trust-code"):
        read(path, weights=tmp_path / "weights.h5")


@pytest.mark.slow
def test_saved_model_that_calls_python_needs_trust(tmp_path):
    class Calls(L.Layer):
        def call(self, x):
            return tf.ensure_shape(tf.py_function(lambda y: y, [x], tf.float32), x.shape)

    sequential(L.LSTM(3), Calls()).save(tmp_path / "saved", save_format="tf")
    with pytest.raises(UntrustedCodeError, match="EagerPyFunc"):
        read(tmp_path / "saved")


def test_ragged_inputs_are_refused_in_words(tmp_path):
    ragged = L.Input((None, 4), ragged=True)
    tf_keras.Model(ragged, L.LSTM(3)(ragged)).save(tmp_path / "ragged.h5")
    with pytest.raises(NotImplementedError, match="ragged"):
        read(tmp_path / "ragged.h5")


def test_without_tf_keras(model, tmp_path, monkeypatch):
    model.save(tmp_path / "model.h5")
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(MissingLibraryError, match=r"bilstm-edge\[legacy\]"):
        read(tmp_path / "model.h5")


@pytest.mark.slow
def test_stateful_is_carried_and_reset(tmp_path):
    model = CASES["stateful"]()
    rng = np.random.default_rng(2)
    arrays = [rng.normal(size=(2, 5, 4)).astype("float32") for _ in range(3)]
    export(model, tmp_path / "bundle")
    wanted = [model(x, training=False).numpy() for x in arrays]
    for backend in ("onnx", "litert"):
        loaded = bilstm_runtime.load(tmp_path / "bundle", backend=backend)
        for _ in range(2):
            for x, y in zip(arrays, wanted, strict=True):
                np.testing.assert_allclose(loaded.predict(x), y, 1e-4, 1e-5)
            loaded.reset()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixed-precision", "float64"])
def test_other_precisions_are_exported_in_float32(name, tmp_path):
    model = CASES[name]()
    export(model, tmp_path / "bundle")
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["outputs"][0]["dtype"] == "float32"


@pytest.mark.parametrize(("inbound", "index"), [("b", 0), ("a", 0), ("b", 7), ("b", -1)])
def test_layers_that_wait_for_each_other(tmp_path, inbound, index):
    """tf_keras itself would wait forever."""
    x = L.Input((3,), name="x")
    parsed = json.loads(tf_keras.Model(x, L.Dense(3, name="b")(L.Dense(3, name="a")(x))).to_json())
    parsed["config"]["layers"][1]["inbound_nodes"] = [[[inbound, index, 0, {}]]]
    (tmp_path / "model.json").write_text(json.dumps(parsed))
    (tmp_path / "model.h5").write_bytes((FIXTURES / "tf_keras.h5").read_bytes())
    with pytest.raises(ModelFileError, match=r"wait for each other, or are missing: '[ab]'"):
        read(tmp_path / "model.json", weights=tmp_path / "model.h5")
