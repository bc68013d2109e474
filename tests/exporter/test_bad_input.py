"""What goes wrong: one clear line, the documented exit code, and nothing left behind."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers as kl

from bilstm_exporter import export, pipeline, prepared
from bilstm_exporter.errors import (
    ExportError,
    ModelFileError,
    OptionError,
    OutputFolderError,
    UnsupportedModelError,
)
from bilstm_exporter.targets import TARGETS, Conversion

from .models import MODELS, floats

PARITY, OPTION, MODEL, FOLDER, INTERRUPTED = 1, 2, 3, 4, 130

OWN_LAYERS = '''
import keras
import numpy as np
import tensorflow as tf
from keras import ops


class Doubler(keras.layers.Layer):
    def call(self, x):
        return x * 2


class Looks(keras.layers.Layer):
    """Decides by the values of its input."""

    def call(self, x):
        return x * 2 if float(ops.max(x)) > 0 else x

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class Numpy(keras.layers.Layer):
    def call(self, x):
        return ops.convert_to_tensor(np.sort(ops.convert_to_numpy(x)))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class Fails(keras.layers.Layer):
    def call(self, x):
        raise RuntimeError("no such luck")

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class Noisy(keras.layers.Layer):
    def call(self, x):
        return x + keras.random.normal(ops.shape(x))


class Digamma(keras.layers.Layer):
    """Neither format has it."""

    def call(self, x):
        return tf.math.digamma(x * x + 1)


class Asinh(keras.layers.Layer):
    """ONNX has it, TFLite has not."""

    def call(self, x):
        return ops.arcsinh(x)


STATE = {"Doubler": Doubler}
'''


@pytest.fixture
def here(run, tmp_path) -> Path:
    """The folder that commands run in, with ``own_layers.py`` in it."""
    (tmp_path / "own_layers.py").write_text(OWN_LAYERS)
    yield tmp_path
    sys.modules.pop("own_layers", None)


@pytest.fixture
def with_layer(here, monkeypatch):
    """Save ``own.keras``, which uses a layer of own_layers."""

    def save(name: str) -> str:
        monkeypatch.syspath_prepend(here)
        import own_layers

        floats(getattr(own_layers, name)(), kl.LSTM(2)).save(here / "own.keras")
        del sys.modules["own_layers"]
        return "own.keras"

    return save


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
        ("text.keras", b"this is no model", "no Keras model"),
        ("binary.h5", bytes(range(256)), "no Keras model"),
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
    assert "damaged or cut short" in fails(MODEL, "cut.keras")


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
    assert "damaged or cut short" in fails(MODEL, "model.h5")


def test_an_h5_file_that_holds_weights_only(fails, tmp_path):
    MODELS["lstm"]().save_weights(tmp_path / "only.weights.h5")
    message = fails(MODEL, "only.weights.h5")
    assert "weights" in message
    assert "model" in message


def test_an_h5_file_is_exported(run, h5):
    assert run("model.h5", "--quiet", "--formats", "onnx").code == 0
    assert (h5.parent / "model-edge" / "model.onnx").is_file()


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
    assert run("model.h5", "--quiet").code == 0
    from bilstm_runtime import load

    ids = np.array([[1, 2, 0], [4, 0, 3]], np.float32)
    answers = load(tmp_path / "model-edge").predict(ids)
    for answer, wanted in zip(answers, model(ids), strict=True):
        np.testing.assert_allclose(answer, wanted, rtol=1e-4, atol=1e-5)


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


def test_a_lambda_runs_with_trust(run, code, here):
    assert run(code, "--trust-code", "--quiet").code == 0
    model = keras.saving.load_model(here / code, safe_mode=False)
    x = np.ones((2, 4, 3), np.float32)
    from bilstm_runtime import load

    answer = load(here / "code-edge").predict(x)
    np.testing.assert_allclose(answer, model(x).numpy(), rtol=1e-4, atol=1e-5)


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


# --- options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--formats", "nonsense"), "nonsense; choose from onnx, tflite"),
        (("--formats", "onnx,nonsense"), "nonsense; choose from onnx, tflite"),
        (("--formats", ""), "choose from onnx, tflite"),
        (("--formats", "onnx,onnx"), "twice"),
        (("--batch", "0"), "at least 1"),
        (("--batch", "-3"), "at least 1"),
        (("--time", "0"), "at least 1"),
        (("--opset", "7"), "13 to 18"),
        (("--opset", "99"), "13 to 18"),
    ],
)
def test_options_that_cannot_be_used(fails, saved, arguments, words):
    message = fails(OPTION, saved("lstm"), *arguments)
    assert words in message
    assert arguments[0].removeprefix("--") in message


@pytest.mark.parametrize("argument", ["--batch=x", "--opset=1.5", "--no-such-flag"])
def test_options_that_are_none(run, saved, argument, capsys):
    with pytest.raises(SystemExit) as ended:
        run(saved("lstm"), argument)
    assert ended.value.code == OPTION
    assert "export-bilstm: error: " in capsys.readouterr().err


def test_no_model_at_all(fails):
    assert "no model" in fails(OPTION)


@pytest.mark.parametrize(
    ("build", "arguments", "words"),
    [
        (lambda: floats(kl.Conv1D(2, 5), kl.LSTM(2)), ("--time", "4"), "at least 5"),
        (lambda: floats(kl.LSTM(2), shape=(6, 3)), ("--time", "5"), "fixed at 6"),
        (lambda: floats(kl.Dense(2), shape=(3,)), ("--time", "5"), "no time axis"),
    ],
)
def test_an_axis_that_cannot_be_fixed_so(fails, tmp_path, build, arguments, words):
    build().save(tmp_path / "m.keras")
    assert words in fails(OPTION, "m.keras", *arguments)


# --- the output folder


def test_a_folder_that_is_no_bundle_is_never_replaced(fails, saved, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("my only copy")
    for arguments in ((), ("--overwrite",)):
        message = fails(FOLDER, saved("lstm"), "--out", "out", *arguments)
        assert "no bundle" in message
        assert "--out" in message


def test_a_file_in_the_way(fails, saved, tmp_path):
    (tmp_path / "out").write_text("x")
    for arguments in ((), ("--overwrite",)):
        assert "no folder" in fails(FOLDER, saved("lstm"), "--out", "out", *arguments)


def test_a_link_in_the_way(fails, saved, tmp_path):
    (tmp_path / "out").symlink_to("nowhere")
    assert "out" in fails(FOLDER, saved("lstm"), "--out", "out", "--overwrite")


def test_a_bundle_is_replaced_only_if_asked(run, fails, saved, tmp_path):
    arguments = (saved("lstm"), "--out", "out", "--formats", "onnx", "--quiet")
    assert run(*arguments).code == 0
    (tmp_path / "out" / "golden.npz").write_bytes(b"changed")
    (tmp_path / "out" / "model.tflite").write_bytes(b"of an export before")
    message = fails(FOLDER, *arguments)
    assert "--overwrite" in message
    assert run(*arguments, "--overwrite").code == 0
    names = sorted(path.name for path in tmp_path.rglob("*"))
    assert names == ["golden.npz", "manifest.json", "model.onnx", "out"]
    assert (tmp_path / "out" / "golden.npz").read_bytes() != b"changed"


def test_a_failed_export_leaves_the_bundle_that_was_there(run, fails, saved, tmp_path, monkeypatch):
    arguments = (saved("lstm"), "--out", "out", "--formats", "onnx", "--overwrite", "--quiet")
    assert run(*arguments).code == 0
    _make_wrong("onnx", monkeypatch)
    fails(PARITY, *arguments)  # which compares the folder before and after


def test_an_empty_folder_can_be_filled(run, saved, tmp_path):
    (tmp_path / "out").mkdir()
    arguments = (saved("lstm"), "--out", "out", "--formats", "onnx", "--quiet", "--overwrite")
    assert run(*arguments).code == 0


def test_a_name_too_long(fails, saved):
    assert "too long" in fails(FOLDER, saved("lstm"), "--out", "x" * 300)


def test_a_parent_that_is_a_file(fails, saved, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "file/out" in fails(FOLDER, saved("lstm"), "--out", "file/out")


def test_a_folder_that_no_one_can_make(fails, saved):
    assert "/proc/out" in fails(FOLDER, saved("lstm"), "--out", "/proc/out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(fails, saved, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "locked/out" in fails(FOLDER, saved("lstm"), "--out", "locked/out")


def test_folders_made_on_the_way_are_removed_again(fails, tmp_path):
    floats(kl.Conv1D(2, 5), kl.LSTM(2)).save(tmp_path / "m.keras")
    fails(OPTION, "m.keras", "--out", "new/deeper/out", "--time", "4")


def test_folders_on_the_way_are_made(run, saved, tmp_path):
    arguments = ("--out", "new/deeper/out", "--formats", "onnx", "--quiet")
    assert run(saved("lstm"), *arguments).code == 0
    assert (tmp_path / "new" / "deeper" / "out" / "manifest.json").is_file()


# --- models that cannot be exported


def _sparse() -> keras.Model:
    return keras.Sequential([keras.Input((4,), sparse=True, name="counts"), kl.Dense(2)])


def _text() -> keras.Model:
    x = keras.Input((1,), dtype="string", name="text")
    return keras.Model(x, kl.TextVectorization(vocabulary=["a", "b"])(x))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (_sparse, ("'counts'", "sparse", "dense")),
        (_text, ("text",)),
    ],
    ids=["sparse", "text"],
)
def test_models_that_cannot_be_exported(fails, tmp_path, build, words):
    build().save(tmp_path / "m.keras")
    message = fails(MODEL, "m.keras")
    for word in words:
        assert word in message


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "mixed_bfloat16", "float64"])
def test_other_policies_are_exported_and_told(run, tmp_path, policy):
    """They compute in float32, which the report says, with the difference."""
    floats(kl.LSTM(2, dtype=policy), kl.Dense(2, dtype=policy)).save(tmp_path / "m.keras")
    ran = run("m.keras", "--quiet", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["declared_difference"] > 0


def test_a_stateful_model_is_exported(run, tmp_path):
    x = keras.Input(batch_shape=(2, 5, 3), name="x")
    keras.Sequential([x, kl.LSTM(2, stateful=True, name="memory")]).save(tmp_path / "m.keras")
    assert run("m.keras", "--quiet").code == 0


@pytest.mark.parametrize("name", ["Looks", "Numpy"])
def test_a_layer_that_cannot_be_traced(fails, with_layer, name):
    message = fails(MODEL, with_layer(name), "--custom-objects", "own_layers")
    assert "cannot be traced" in message
    assert f"{name}.call()" in message
    assert "keras.ops" in message


def test_a_layer_that_fails(fails, with_layer):
    message = fails(MODEL, with_layer("Fails"), "--custom-objects", "own_layers")
    assert "no such luck" in message


def test_a_layer_that_is_random(fails, with_layer):
    fails(MODEL, with_layer("Noisy"), "--custom-objects", "own_layers")


@pytest.mark.parametrize("suffix", ["my model", "modèle", "_model", "a:b"])
def test_models_of_any_name(run, tmp_path, suffix):
    """Keras allows them, so its weights deserve an export."""
    model = keras.Sequential([keras.Input((None, 3)), kl.LSTM(2, name=f"n {suffix}")], name=suffix)
    model.save(tmp_path / "m.keras")
    assert run("m.keras", "--quiet", "--formats", "onnx").code == 0


def test_weights_that_are_not_finite(fails, tmp_path):
    model = MODELS["lstm"]()
    model.set_weights([weight * np.nan for weight in model.get_weights()])
    model.save(tmp_path / "m.keras")
    assert "could not be compared" in fails(PARITY, "m.keras")


@pytest.mark.parametrize("formats", ["onnx", "tflite", "onnx,tflite"])
def test_an_operator_that_no_format_has(fails, with_layer, formats):
    arguments = ("--custom-objects", "own_layers", "--formats", formats)
    message = fails(MODEL, with_layer("Digamma"), *arguments)
    assert f"{formats.split(',')[0]} has no operator for: Digamma" in message
    assert "--formats" in message


def test_an_operator_that_one_format_lacks(run, fails, with_layer, here):
    arguments = (with_layer("Asinh"), "--custom-objects", "own_layers")
    assert "tflite has no operator for: Asinh" in fails(MODEL, *arguments)
    assert run(*arguments, "--formats", "onnx", "--quiet").code == 0  # as the message says
    assert sorted(path.name for path in (here / "own-edge").iterdir()) == [
        "golden.npz",
        "manifest.json",
        "model.onnx",
    ]


# --- wrong answers, and being stopped


def _make_wrong(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build the artifact from a model whose recurrences are wrong by a thousandth."""
    from dataclasses import replace

    right = TARGETS[name]

    def convert(trace, interface, *, opset) -> Conversion:
        def wrong(lowering):
            def lower(recurrence, *tensors):
                result = lowering(recurrence, *tensors)
                return replace(result, last_output=result.last_output + 1e-3)

            return trace(lower)

        return right.convert(wrong, interface, opset=opset)

    monkeypatch.setitem(TARGETS, name, replace(right, convert=convert))


@pytest.mark.parametrize("name", ["onnx", "tflite"])
def test_a_wrong_lowering_writes_nothing(fails, saved, monkeypatch, name):
    _make_wrong(name, monkeypatch)
    message = fails(PARITY, saved("lstm"))
    assert f"model.{name} does not give Keras's answer" in message
    for word in ("'label'", "probe", "times the tolerance", "No bundle was written"):
        assert word in message


@pytest.fixture
def listening(monkeypatch):
    """Let a function of the test's hear of every stage."""
    from contextlib import contextmanager

    from bilstm_exporter import cli

    def listen(hear):
        @contextmanager
        def listener(*, quiet):
            yield hear

        monkeypatch.setattr(cli, "progress_listener", listener)

    return listen


@pytest.mark.parametrize("stage", ["loading", "reading", "asking", "writing tflite", "checking"])
def test_an_interrupt_leaves_nothing(run, saved, tmp_path, listening, stage):
    def stop(name):
        if name.startswith(stage):
            raise KeyboardInterrupt

    listening(stop)
    ran = run(saved("lstm"), "--out", "out")
    assert ran.code == INTERRUPTED
    assert "interrupted" in ran.err
    assert "Traceback" not in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lost_as", [None, ValueError("TensorFlow's own words")])
def test_an_interrupt_that_a_library_loses_still_ends_it(run, saved, tmp_path, listening, lost_as):
    """As TensorFlow's tracing does: Ctrl-C comes out as another error, or not at all."""
    import signal

    def stop(name):
        if name.startswith("reading"):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            if lost_as is not None:
                raise lost_as

    listening(stop)
    ran = run(saved("lstm"), "--out", "out")
    assert ran.code == INTERRUPTED
    assert "interrupted" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(fails, saved, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline, "bundle", SimpleNamespace(**vars(pipeline.bundle)))
    monkeypatch.setattr(pipeline.bundle, "write", full)
    message = fails(FOLDER, saved("lstm"), "--formats", "onnx")
    assert "No space left on device" in message


def test_a_file_that_cannot_be_read_on_the_way_is_not_the_folders_fault(tmp_path):
    """As of a layer of the user's that reads one, or of data."""
    from bilstm_exporter.folder import staged

    foreign = FileNotFoundError(2, "No such file or directory", str(tmp_path / "other" / "x.csv"))
    for error in (foreign, OSError("a socket is closed"), TimeoutError(110, "timed out")):
        with pytest.raises(type(error)) as raised, staged(tmp_path / "out", overwrite=False):
            raise error
        assert raised.value is error
        assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_the_folders_fault(tmp_path):
    from bilstm_exporter.folder import staged

    with (
        pytest.raises(OutputFolderError, match="out cannot be written: Is a directory"),
        staged(tmp_path / "out", overwrite=False) as aside,
    ):
        (aside / "model.onnx").mkdir()
        (aside / "model.onnx").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_told(fails, saved, monkeypatch):
    def greedy(*_args, **_kwargs):
        raise MemoryError

    monkeypatch.setattr(prepared, "find_interface", greedy)
    assert "MemoryError" in fails(MODEL, saved("lstm"))


# --- from Python, and as a process


@pytest.mark.parametrize(
    ("model", "options", "error", "builtin"),
    [
        ("nothere.keras", {}, ModelFileError, ValueError),
        ("nothere.keras", {"opset": 3}, OptionError, ValueError),
        (_sparse, {}, UnsupportedModelError, NotImplementedError),
    ],
)
def test_errors_from_python_have_classes(tmp_path, model, options, error, builtin):
    assert issubclass(error, ExportError)
    assert issubclass(error, builtin)
    with pytest.raises(error):
        export(model() if callable(model) else model, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_from_python(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputFolderError) as raised:
        export(MODELS["lstm"](), tmp_path / "out")
    assert isinstance(raised.value, OSError)


def test_an_unknown_option_from_python(tmp_path):
    with pytest.raises(TypeError, match="quantize"):
        export(MODELS["lstm"](), tmp_path / "out", quantize=True)


def process(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bilstm_exporter.cli", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("cut.keras", "--quiet"), MODEL),
        (("cut.keras", "--opset", "7"), OPTION),
        (("good.keras", "--out", "cut.keras"), FOLDER),
    ],
)
def test_a_process_ends_with_one_line_and_the_code(saved, tmp_path, arguments, code):
    content = saved("lstm").read_bytes()
    (tmp_path / "good.keras").write_bytes(content)
    (tmp_path / "cut.keras").write_bytes(content[:-99])
    done = process(tmp_path, *arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("export-bilstm: error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.keras", "good.keras"]


def test_a_tensorflow_error_below_python_is_not_shown(with_layer, here):
    """The converter writes pages to the process's stderr."""
    done = process(here, with_layer("Asinh"), "--custom-objects", "own_layers", "--quiet")
    assert done.returncode == MODEL
    error, title, *table = filter(str.strip, done.stderr.splitlines())
    assert "Asinh" in error
    assert title.startswith("own (keras3: saved by Keras ")
    layers = ("layer", "─", r"asinh\S* ", r"lstm\S* ", r"asinh\S* in tflite: refused")
    assert len(table) == len(layers), done.stderr
    for line, words in zip(table, layers, strict=True):
        assert re.match(words, line.strip())


def test_debug_shows_the_traceback_and_the_line(run, saved):
    ran = run("nothere.keras", "--debug")
    assert ran.code == MODEL
    assert "Traceback (most recent call last)" in ran.err
    assert ran.err.splitlines()[-1].startswith("export-bilstm: error: ")
