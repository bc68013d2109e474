"""Model files and user code that cannot be used: one clear line, and nothing left behind."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as kl

from exporter.models import MODELS, floats

OPTION, MODEL = 2, 3


# --- files


def _zip(*members: tuple[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def test_no_such_file(fails):
    assert "nothere.keras" in fails(MODEL, "nothere.keras")


def test_a_folder(fails, tmp_path):
    (tmp_path / "model.keras").mkdir()
    assert "folder" in fails(MODEL, "model.keras")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("empty.keras", b"", "empty"),
        ("empty.h5", b"", "empty"),
        ("text.keras", b"this is no model", "not a Keras model"),
        ("binary.h5", bytes(range(256)), "not a Keras model"),
        ("noconfig.keras", _zip(("notes.txt", "x")), "config.json"),
        ("noconfig.zip", _zip(("metadata.json", "{}")), "config.json"),
        ("notjson.keras", _zip(("config.json", "{"), ("metadata.json", "{}")), "damaged"),
        ("list.keras", _zip(("config.json", "[]"), ("metadata.json", "[]")), "list.keras"),
        ("other.keras", _zip(("config.json", '{"a": 1}'), ("metadata.json", "{}")), "other.keras"),
    ],
)
def test_a_file_that_is_no_model(fails, tmp_path, file, content, words):
    (tmp_path / file).write_bytes(content)
    message = fails(MODEL, file)
    assert file in message
    assert words in message


def test_a_config_nested_without_end(fails, tmp_path):
    config = "[" * 100_000 + "]" * 100_000
    (tmp_path / "deep.keras").write_bytes(_zip(("config.json", config), ("metadata.json", "{}")))
    assert "deep.keras" in fails(MODEL, "deep.keras")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_a_truncated_keras_file(fails, saved, tmp_path, kept):
    content = saved("lstm").read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: int(kept * len(content))])
    assert "damaged or truncated" in fails(MODEL, "cut.keras")


def test_a_keras_file_with_a_changed_byte(fails, saved, tmp_path):
    content = bytearray(saved("lstm").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "changed.keras").write_bytes(content)
    assert "damaged" in fails(MODEL, "changed.keras")


def test_a_keras_file_without_weights(fails, saved, tmp_path):
    with zipfile.ZipFile(saved("lstm")) as archive:
        members = [(n, archive.read(n).decode()) for n in ("config.json", "metadata.json")]
    (tmp_path / "bare.keras").write_bytes(_zip(*members))
    assert "bare.keras" in fails(MODEL, "bare.keras")


@pytest.fixture
def h5(tmp_path, saved) -> Path:
    """A model in Keras 3's legacy format."""
    path = tmp_path / "model.h5"
    keras.saving.load_model(saved("lstm")).save(path)
    return path


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_a_truncated_h5_file(fails, h5, kept):
    content = h5.read_bytes()
    h5.write_bytes(content[: int(kept * len(content))])
    assert "damaged or truncated" in fails(MODEL, "model.h5")


def test_an_h5_file_that_holds_weights_only(fails, tmp_path):
    MODELS["lstm"]().save_weights(tmp_path / "only.weights.h5")
    message = fails(MODEL, "only.weights.h5")
    assert "weights" in message
    assert "model" in message


@pytest.mark.slow
def test_an_h5_file_is_exported(run, h5):
    assert run("model.h5", "--quiet", "--formats", "onnx").code == 0
    assert (h5.parent / "model-edge" / "model.onnx").is_file()


@pytest.mark.slow
def test_an_h5_file_with_operators_between_its_layers(run, tmp_path):
    """Keras 3 writes them, and the masks of its embeddings, but does not read them."""
    x = keras.Input((None,), name="ids")
    both = kl.Add()([kl.Embedding(5, 4, mask_zero=True)(x), kl.Embedding(5, 4, mask_zero=True)(x)])
    last = kl.Bidirectional(kl.LSTM(3))(both)
    halves = keras.ops.reshape(last, (-1, 2, 3))
    model = keras.Model(x, [last, halves * 2 + keras.ops.mean(halves, axis=-1, keepdims=True)])
    model.save(tmp_path / "model.h5")
    with pytest.raises(ValueError, match="NotEqual"):
        keras.saving.load_model(tmp_path / "model.h5", compile=False)  # one day it may
    assert run("model.h5", "--quiet", "--formats", "onnx").code == 0
    from bilstm_runtime import load

    ids = np.array([[1, 2, 0], [4, 0, 3]], np.float32)
    outputs = load(tmp_path / "model-edge").predict(ids)
    for output, expected in zip(outputs, model(ids), strict=True):
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_setting_with_the_name_of_a_function(run, tmp_path):
    inputs = keras.Input((None, 3))
    x = keras.layers.Bidirectional(keras.layers.GRU(2, return_sequences=True))(inputs)
    x = keras.layers.Attention(score_mode="dot")([x, x])
    keras.Model(inputs, keras.layers.Dense(2)(x)).save(tmp_path / "model.h5")
    with pytest.raises(TypeError, match="score_mode"):
        keras.saving.load_model(tmp_path / "model.h5", compile=False)  # one day it may
    assert run("model.h5", "--quiet", "--formats", "onnx").code == 0


def test_what_a_file_is_does_not_depend_on_its_name(run, saved, tmp_path):
    (tmp_path / "model.bin").write_bytes(saved("lstm").read_bytes())
    assert run("model.bin", "--quiet", "--formats", "onnx").code == 0
    assert (tmp_path / "model-edge" / "model.onnx").is_file()


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
def test_a_model_that_was_never_built(fails, tmp_path):
    keras.Sequential([kl.LSTM(2)]).save(tmp_path / "raw.keras")
    assert "never built" in fails(MODEL, "raw.keras")


# --- code


def test_an_unknown_layer_is_named_with_what_to_do(fails, with_layer):
    message = fails(MODEL, with_layer("Doubler"))
    assert "'Doubler'" in message
    assert "--custom-objects" in message


def bent(x):
    return keras.ops.tanh(x) * 0.5


@keras.saving.register_keras_serializable("own package")
class Packed(kl.Layer):
    """Its registered name has the package in it."""


class OwnCell(kl.LSTMCell):
    """A cell of the user's own."""


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (lambda: kl.LSTM(2, activation=bent, name="own"), "bent"),
        (lambda: kl.Activation(bent, name="own"), "bent"),
        (lambda: Packed(name="own"), "Packed"),
        (lambda: kl.RNN(OwnCell(2), name="own"), "OwnCell"),
    ],
)
def test_an_unknown_object_is_named_as_the_user_wrote_it(
    run, tmp_path, monkeypatch, layer, name, ending
):
    keras.Sequential([keras.Input((None, 3)), layer()]).save(tmp_path / f"own{ending}")
    monkeypatch.setattr(keras.src.saving.object_registration, "GLOBAL_CUSTOM_OBJECTS", {})
    monkeypatch.setattr(sys.modules[__name__], name, None)  # Keras looks in the module
    ran = run(f"own{ending}")
    assert ran.code == MODEL
    assert f"uses {name!r} (in layer 'own'), which Keras {keras.__version__} does" in ran.message
    assert ran.message.partition("--custom-objects ")[2] in {
        f"my_module:{name}",
        f"{__name__}:{name}",
    }
    assert ran.table["own"][1].startswith("refused")


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_python_code_as_a_setting_names_the_layer(fails, tmp_path, ending):
    model = floats(kl.Dense(3, activation=lambda x: x * 2, name="doubles"), kl.LSTM(2))
    model.save(tmp_path / f"own{ending}")
    message = fails(MODEL, f"own{ending}")
    assert "Python code as a setting of layer 'doubles' (Dense)" in message
    assert "--builder" in message


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no_such_module", "no_such_module"),
        ("own_layers:Nothing", "Nothing"),
        (":Doubler", ":Doubler"),
    ],
)
def test_custom_objects_that_are_not_there(fails, with_layer, spec, words):
    message = fails(OPTION, with_layer("Doubler"), "--custom-objects", spec)
    assert "--custom-objects" in message
    assert words in message


@pytest.mark.parametrize("source", ["def f(:\n", "raise RuntimeError('at import')\n"])
def test_custom_objects_that_cannot_be_imported(fails, with_layer, here, source):
    (here / "broken_layers.py").write_text(source)
    message = fails(OPTION, with_layer("Doubler"), "--custom-objects", "broken_layers")
    assert "broken_layers" in message


@pytest.mark.parametrize("spec", ["own_layers", "own_layers:Doubler", "own_layers:STATE"])
@pytest.mark.slow
def test_custom_objects_from_the_current_folder(run, with_layer, here, monkeypatch, spec):
    file = with_layer("Doubler")
    monkeypatch.undo()  # with_layer's sys.path
    monkeypatch.chdir(here)
    path = list(sys.path)
    arguments = ("--custom-objects", spec, "--formats", "onnx", "--quiet")
    assert run(file, *arguments).code == 0
    assert (here / "own-edge" / "manifest.json").is_file()
    assert sys.path == path


@pytest.fixture
def code(here) -> str:
    """A model with Python code in it."""
    floats(kl.Lambda(lambda x: x * 3), kl.LSTM(2)).save(here / "code.keras")
    return "code.keras"


def test_a_lambda_needs_trust(fails, code):
    message = fails(MODEL, code)
    assert "layer 'lambda" in message
    assert "--trust-code" in message


@pytest.mark.slow
def test_a_lambda_runs_with_trust(run, code, here):
    assert run(code, "--trust-code", "--quiet").code == 0
    model = keras.saving.load_model(here / code, safe_mode=False)
    x = np.ones((2, 4, 3), np.float32)
    from bilstm_runtime import load

    output = load(here / "code-edge").predict(x)
    np.testing.assert_allclose(output, model(x).numpy(), rtol=1e-4, atol=1e-5)


def test_a_lambda_in_h5_needs_trust(fails, here, code):
    keras.saving.load_model(here / code, safe_mode=False).save(here / "code.h5")
    assert "--trust-code" in fails(MODEL, "code.h5")


def test_a_lambda_deep_inside_needs_trust(fails, here):
    inner = floats(kl.Lambda(lambda x: x * 3), kl.Dense(2))
    floats(kl.TimeDistributed(kl.Dense(3)), inner, kl.LSTM(2)).save(here / "code.keras")
    assert "--trust-code" in fails(MODEL, "code.keras")


def test_trust_does_not_outlive_the_export(run, fails, code):
    assert run(code, "--trust-code", "--quiet", "--formats", "onnx").code == 0
    assert "--trust-code" in fails(MODEL, code, "--out", "other")
