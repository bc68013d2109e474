"""Models that cannot be exported, and exports that end early: one line, nothing left behind."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as kl

from bilstm_exporter import export, pipeline
from bilstm_exporter.bundle import folder
from bilstm_exporter.bundle.folder import staged
from bilstm_exporter.errors import (
    ExportError,
    ModelFileError,
    OptionError,
    OutputFolderError,
    UnsupportedModelError,
)
from bilstm_exporter.inspection import properties
from exporter.models import MODELS, floats

BUNDLE = Path(__file__).parents[2] / "runtime" / "fixtures" / "tagger"
PARITY, OPTION, MODEL, FOLDER, INTERRUPTED, TERMINATED = 1, 2, 3, 4, 130, 143


# --- models that cannot be exported


def _sparse() -> keras.Model:
    return keras.Sequential([keras.Input((4,), sparse=True, name="counts"), kl.Dense(2)])


def _text() -> keras.Model:
    x = keras.Input((1,), dtype="string", name="text")
    return keras.Model(x, [x, kl.TextVectorization(vocabulary=["a", "b"])(x)])


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy",
    [
        "mixed_float16",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("float16", "mixed_bfloat16", "float64")
        ),
    ],
)
def test_other_policies_are_exported_and_told(run, tmp_path, policy):
    """They compute in float32, which the report says, with the difference."""
    floats(kl.LSTM(2, dtype=policy), kl.Dense(2, dtype=policy)).save(tmp_path / "m.keras")
    ran = run("m.keras", "--quiet", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["declared_difference"] > 0


@pytest.mark.slow
def test_a_stateful_model_is_exported(run, tmp_path):
    x = keras.Input(batch_shape=(2, 5, 3), name="x")
    keras.Sequential([x, kl.LSTM(2, stateful=True, name="memory")]).save(tmp_path / "m.keras")
    assert run("m.keras", "--quiet").code == 0


@pytest.mark.parametrize("name", ["Looks", "Numpy"])
def test_a_layer_that_cannot_be_traced(fails, with_layer, name):
    message = fails(MODEL, with_layer(name), "--custom-objects", "own_layers")
    assert "cannot be traced" in message
    assert f"({name})" in message
    assert "Exception encountered" not in message
    assert "keras.ops" in message


def test_a_layer_that_fails(fails, with_layer):
    message = fails(MODEL, with_layer("Fails"), "--custom-objects", "own_layers")
    assert "no such luck" in message


@pytest.mark.slow
def test_a_layer_that_is_random(fails, with_layer):
    message = fails(MODEL, with_layer("Noisy"), "--custom-objects", "own_layers")
    assert "layer 'noisy" in message


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["my model", "modèle", "_model", "a:b"])
def test_models_of_any_name(run, tmp_path, suffix):
    """Keras allows them, so its weights deserve an export."""
    model = keras.Sequential([keras.Input((None, 3)), kl.LSTM(2, name=f"n {suffix}")], name=suffix)
    model.save(tmp_path / "m.keras")
    assert run("m.keras", "--quiet", "--formats", "onnx").code == 0


@pytest.mark.slow
def test_weights_that_are_not_finite(fails, tmp_path):
    model = MODELS["lstm"]()
    model.set_weights([weight * np.nan for weight in model.get_weights()])
    model.save(tmp_path / "m.keras")
    assert "could not be compared" in fails(PARITY, "m.keras")


@pytest.mark.parametrize(
    "formats",
    ["onnx", *(pytest.param(n, marks=pytest.mark.slow) for n in ("tflite", "onnx,tflite"))],
)
def test_an_operator_that_no_format_has(fails, with_layer, formats):
    arguments = ("--custom-objects", "own_layers", "--formats", formats)
    message = fails(MODEL, with_layer("Digamma"), *arguments)
    assert f"{formats.split(',')[0]} has no operator for: Digamma" in message
    assert "--formats" in message


@pytest.mark.slow
def test_an_operator_that_one_format_lacks(run, fails, with_layer, here):
    arguments = (with_layer("Bits"), "--custom-objects", "own_layers")
    assert "tflite has no operator for: BitwiseOr" in fails(MODEL, *arguments)
    assert run(*arguments, "--formats", "onnx", "--quiet").code == 0  # as the message says
    assert sorted(path.name for path in (here / "own-edge").iterdir()) == [
        "golden.npz",
        "manifest.json",
        "model.onnx",
    ]


# --- wrong outputs, and interrupts


@pytest.mark.parametrize("name", ["onnx", "tflite"])
@pytest.mark.slow
def test_a_wrong_lowering_writes_nothing(fails, saved, make_wrong, name):
    make_wrong(name)
    message = fails(PARITY, saved("lstm"))
    assert f"model.{name} does not reproduce Keras's outputs" in message
    for word in ("'label'", "probe", "times the tolerance", "No bundle was written"):
        assert word in message


@pytest.fixture
def listening(monkeypatch):
    """Let a function of the test's hear of every stage."""
    from contextlib import contextmanager

    from bilstm_exporter.cli import export as export_command

    def listen(hear):
        @contextmanager
        def listener(*, quiet):
            yield hear

        monkeypatch.setattr(export_command, "progress_listener", listener)

    return listen


@pytest.mark.parametrize("stage", ["loading", "reading", "calling", "writing tflite", "checking"])
@pytest.mark.slow
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


@pytest.mark.parametrize("stage", ["loading", "reading", "calling", "writing tflite", "checking"])
@pytest.mark.slow
def test_sigterm_ends_it_like_an_interrupt(run, saved, tmp_path, listening, stage):
    """And the libraries' last words, from Python and below, are not shown."""

    def stop(name):
        if name.startswith(stage):
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                os.write(2, b"from below Python\n")
                logging.getLogger("tensorflow").error("never used")

    listening(stop)
    before = signal.getsignal(signal.SIGTERM)
    ran = run(saved("lstm"), "--out", "out")
    assert ran.code == TERMINATED
    assert ran.err == "export-bilstm: terminated; nothing was written\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before
    assert not logging.root.manager.disable


def test_a_second_interrupt_while_the_first_cleans_up(tmp_path, monkeypatch):
    removed = []
    rmtree = shutil.rmtree

    def impatient(*args, **options):
        removed.append(args)
        if len(removed) == 1:
            raise KeyboardInterrupt
        rmtree(*args, **options)

    monkeypatch.setattr("bilstm_exporter.bundle.folder.shutil.rmtree", impatient)
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "out", overwrite=False):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_a_bundle_is_replaced_keeps_the_old_one(tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(BUNDLE, out)
    old = (out / "manifest.json").read_text()
    rename = Path.rename

    def stop(path, target):
        if Path(target) == out and path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(folder, "_exchange", lambda *_: False)  # a system without such a call
    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt), staged(out, overwrite=True) as aside:
        (aside / "manifest.json").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "manifest.json").read_text() == old


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
# From "writing tflite" on, a small model is exported in less than half a second.
@pytest.mark.parametrize(
    ("number", "stage", "seconds"),
    [
        (signal.SIGINT, "loading TensorFlow", 0.5),
        (signal.SIGINT, "calling Keras", 0.5),
        (signal.SIGINT, "writing tflite", 0.0),
        (signal.SIGTERM, "calling Keras", 0.5),
    ],
)
def test_a_signal_ends_the_process_with_one_line(saved, tmp_path, number, stage, seconds):
    command = [sys.executable, "-m", "bilstm_exporter.cli", str(saved("lstm")), "--out", "out"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background have it ignored, and so has what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    try:
        for line in process.stderr:
            if line.startswith(stage):
                break
        time.sleep(seconds)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert out == ""
    (last,) = [line for line in err.splitlines() if not line.endswith(" ...")]
    assert last.endswith("; nothing was written")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(fails, saved, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline, "write_bundle", full)
    message = fails(FOLDER, saved("lstm"), "--formats", "onnx")
    assert "No space left on device" in message


def test_a_file_that_cannot_be_read_on_the_way_is_not_the_folders_fault(tmp_path):
    """A layer of the user's may read one, and so does data."""
    foreign = FileNotFoundError(2, "No such file or directory", str(tmp_path / "other" / "x.csv"))
    for error in (foreign, OSError("a socket is closed"), TimeoutError(110, "timed out")):
        with pytest.raises(type(error)) as raised, staged(tmp_path / "out", overwrite=False):
            raise error
        assert raised.value is error
        assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_the_folders_fault(tmp_path):
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

    monkeypatch.setattr(properties, "find_interface", greedy)
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


def test_another_backend_of_keras_from_python(tmp_path, monkeypatch):
    model = MODELS["lstm"]()
    for known_by in ("keras", "environment"):
        if known_by == "keras":
            monkeypatch.setattr(keras.config, "backend", lambda: "torch")
        else:
            monkeypatch.delitem(sys.modules, "keras")
            monkeypatch.setenv("KERAS_BACKEND", "torch")
        with pytest.raises(OptionError, match=r"the backend 'torch' in .*: save it with"):
            export(model, tmp_path / "out")


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


@pytest.mark.slow
def test_a_tensorflow_error_below_python_is_not_shown(with_layer, here):
    """The converter writes pages to the process's stderr."""
    done = process(here, with_layer("Bits"), "--custom-objects", "own_layers", "--quiet")
    assert done.returncode == MODEL
    error, title, *table = filter(str.strip, done.stderr.splitlines())
    assert "BitwiseOr" in error
    assert title.startswith("own (keras3: saved by Keras ")
    layers = ("layer", "─", r"bits\S* ", r"lstm\S* ", r"bits\S* in tflite: refused")
    assert len(table) == len(layers), done.stderr
    for line, words in zip(table, layers, strict=True):
        assert re.match(words, line.strip())


def test_debug_shows_the_traceback_and_the_line(run, saved):
    ran = run("nothere.keras", "--debug")
    assert ran.code == MODEL
    assert "Traceback (most recent call last)" in ran.err
    assert ran.err.splitlines()[-1].startswith("export-bilstm: error: ")
