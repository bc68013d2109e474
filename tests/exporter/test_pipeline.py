"""Whole exports from Python: what is written, and what is reported."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.verification.agreement import Agreement
from exporter.models import bilstm, floats
from zoo import randomize


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """A tagger, exported in float32 and int8 to both formats, with its report."""
    model = floats(bilstm(16), keras.layers.Dense(16, name="tags"), shape=(None, 12))
    randomize(model, 1)
    folder = tmp_path_factory.mktemp("quantized") / "edge"
    return model, export(model, folder, recipes="float32,int8")


def test_int8_is_a_third_of_the_size_and_its_error_is_reported(quantized):
    _, report = quantized
    sizes = {artifact.file: artifact.bytes for artifact in report.artifacts}
    assert set(sizes) == {
        "model.onnx",
        "model.tflite",
        "model.int8.onnx",
        "model.int8.tflite",
    }
    assert sizes["model.int8.onnx"] < sizes["model.onnx"] / 2
    for artifact in report.artifacts:
        is_exact = artifact.recipe == "float32"
        assert isinstance(artifact.parity, Agreement) is not is_exact
        assert {form.storage for form in artifact.weights} == (set() if is_exact else {"int8"})
        assert 0 < artifact.parity.max_abs_error < (1e-5 if is_exact else 0.5)
        assert is_exact or 1e-4 < artifact.parity.relative_error < 0.03


def test_int8_is_close_to_keras_in_the_runtime(quantized):
    model, report = quantized
    x = np.random.default_rng(0).normal(size=(3, 20, 12)).astype("float32")
    reference = model(x).numpy()
    scale = np.sqrt(np.square(reference).mean())
    for backend in ("onnx", "litert"):
        output = bilstm_runtime.load(report.bundle, backend=backend, recipe="int8").predict(x)
        error = np.sqrt(np.square(output - reference).mean())
        assert 1e-5 < error / scale < 0.03


def test_every_artifact_passes_its_check(quantized):
    """Quantized ones on their own recorded outputs."""
    _, report = quantized
    done = bilstm_runtime.check(report.bundle)
    assert done.passed
    assert len(done.checks) == 4
    manifest = json.loads((report.bundle / "manifest.json").read_text())
    recorded = {item["file"]: item.get("own_answers", False) for item in manifest["artifacts"]}
    assert recorded == {
        "model.onnx": False,
        "model.tflite": False,
        "model.int8.onnx": True,
        "model.int8.tflite": True,
    }


def test_progress_names_the_stages(quantized, tmp_path):
    model, report = quantized
    stages = []
    export(model, tmp_path / "out", formats="onnx", progress=stages.append)
    assert stages[:2] == ["reading the model", "calling Keras for its outputs"]
    assert "writing onnx" in stages
    assert set(stages) <= set(report.seconds)


def test_integers_throughout_leave_nothing_to_the_next_run(tmp_path):
    """LiteRT's fused LSTM keeps its states in the file, so that each run must reset them."""
    model = floats(keras.layers.LSTM(8, return_sequences=True, name="tags"), shape=(None, 6))
    randomize(model, 2)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(24, 5, 6)).astype("float32")
    options = {"recipes": "int8-full", "formats": "tflite", "batch": 1, "time": 5}
    report = export(model, tmp_path / "edge", data=data, **options)
    (artifact,) = report.artifacts
    assert isinstance(artifact.parity, Agreement)
    (entry,) = json.loads((tmp_path / "edge" / "manifest.json").read_text())["artifacts"]
    assert entry["reset_between_runs"] is True
    runtime = bilstm_runtime.load(tmp_path / "edge")
    first, other, again = (runtime.predict(data[i : i + 1]) for i in (0, 1, 0))
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(first, again)
    error = np.sqrt(np.square(first - model(data[:1]).numpy()).mean())
    assert error < 0.05
    assert bilstm_runtime.check(tmp_path / "edge").passed
