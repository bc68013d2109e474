"""Which models get windows of a long recording."""

import hashlib
import json

import keras
import numpy as np
import pytest
from keras import layers as kl

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.errors import OptionError
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.processing.recordings import with_windows
from bilstm_runtime.preprocessing_spec import TokenizerPreprocessing, WindowPreprocessing
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec, StateSpec

BATCH, FREE, FEATURES = Axis("batch", None), Axis("time", None, 5), Axis(None, 3)
FIXED = InputSpec("x", "float32", (BATCH, Axis("time", 50), FEATURES))
OPEN = InputSpec("x", "float32", (BATCH, FREE, FEATURES))
WORDS = TokenizerPreprocessing(
    input="x", level="word", lower=True, filters="", separator=" ", vocabulary=("so",)
)


def spec(*inputs, **others):
    return ModelSpec("m", inputs, (OutputSpec("y", "float32", (BATCH,)),), **others)


@pytest.mark.parametrize(
    ("item", "window", "hop", "wanted"),
    [
        (FIXED, 50, 25, (50, 25)),
        (FIXED, None, 60, (50, 60)),
        (FIXED, 50, None, (50, 50)),
        (OPEN, 20, None, (20, 20)),
    ],
)
def test_what_is_not_given_follows_from_the_model(item, window, hop, wanted):
    found = with_windows(spec(item), window, hop).windows
    assert found == WindowPreprocessing(input="x", window=wanted[0], hop=wanted[1])


def test_without_options_there_are_no_windows():
    assert with_windows(spec(FIXED), None, None) == spec(FIXED)


@pytest.mark.parametrize(
    ("described", "window", "message"),
    [
        (spec(FIXED), 40, r"exactly 50 steps \('x' is \[batch, 50, 3\]\)"),
        (spec(OPEN), None, "give the length of a window"),
        (spec(OPEN), 4, "at least 5 steps"),
        (spec(FIXED, FIXED), 50, "one input of sequences"),
        (spec(InputSpec("x", "float32", (BATCH,))), 50, "one input of sequences"),
        (spec(FIXED, preprocessing=(WORDS,)), 50, "'x' takes text"),
        (spec(FIXED, states=(StateSpec("h", "float32", (Axis("batch", 1),)),)), 50, "stateful"),
    ],
)
def test_windows_that_do_not_fit_are_refused(described, window, message):
    with pytest.raises(OptionError, match=message):
        with_windows(described, window, 5)


@pytest.mark.parametrize("name", ["window", "hop"])
def test_impossible_steps_are_refused(name):
    with pytest.raises(OptionError, match=f"{name}: 0; it is a number of steps"):
        ExportOptions(**{name: 0})


@pytest.mark.slow
@pytest.mark.parametrize("formats", ["onnx", "tflite"])
def test_a_bundle_with_windows(tmp_path, formats):
    x = keras.Input((12, 3), name="series")
    y = kl.Dense(2, activation="softmax", name="moves")(kl.Bidirectional(kl.LSTM(4))(x))
    model = keras.Model(x, y)
    export(model, tmp_path / "edge", formats=formats, labels=["still", "walks"], window=12, hop=5)
    entry = json.loads((tmp_path / "edge" / "manifest.json").read_text())["preprocessing"]
    assert entry == [{"input": "series", "kind": "sliding_windows", "window": 12, "hop": 5}]
    recording = np.random.default_rng(0).normal(size=(40, 3)).astype("f4")
    found = bilstm_runtime.load(tmp_path / "edge").classify_windows(recording)
    assert [(one.start, one.end) for (one,) in found] == [(n, n + 12) for n in range(0, 29, 5)]
    scores = np.asarray(model(np.stack([recording[n : n + 12] for n in range(0, 29, 5)])))
    assert [one.label for (one,) in found] == [["still", "walks"][n] for n in scores.argmax(1)]
    np.testing.assert_allclose([one.score for (one,) in found], scores.max(1), atol=1e-5)
    assert bilstm_runtime.check(tmp_path / "edge").passed
    check_golden_windows(tmp_path / "edge")


def check_golden_windows(folder):
    """The file goes from a recording to the answers, and check-bilstm compares each part."""
    file = folder / "golden_windows.json"
    content = json.loads(file.read_text())
    (case,) = content
    assert len(case["recording"]) == 12 + 2 * 5 + 2
    assert case["windows"] == [{"start": n, "end": n + 12} for n in (0, 5, 10)]
    found = bilstm_runtime.load(folder).classify_windows(case["recording"])
    for answers, (label,) in zip(case["answers"]["moves"], found, strict=True):
        assert answers == [{**vars(label), "score": pytest.approx(label.score, abs=1e-5)}]
    manifest = json.loads((folder / "manifest.json").read_text())
    for change, message in (
        (lambda case: case["windows"][1].update(start=6), "the windows of recording 0"),
        (lambda case: case["answers"]["moves"][2][0].update(end=20), "the answers to recording 0"),
        (lambda case: case["recording"][13].reverse(), "the output 'moves'"),
    ):
        wrong = json.loads(json.dumps(content))
        change(wrong[0])
        data = json.dumps(wrong).encode()
        file.write_bytes(data)
        manifest["golden_windows"].update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        (folder / "manifest.json").write_text(json.dumps(manifest))
        report = bilstm_runtime.check(folder)
        assert not report.passed
        assert message in report.checks[0].reason
