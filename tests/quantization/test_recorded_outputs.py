"""`check-bilstm` on quantized files: wrong files fail, right files pass with other kernels."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil

import ai_edge_litert.interpreter as litert
import numpy as np
import onnxruntime as ort
import pytest

from bilstm_exporter import export
from bilstm_runtime import check

from .conversions import bilstm_tagger, constants

pytestmark = pytest.mark.slow

# Factor on the weights that must be detected, by file. For saturated inputs the outputs of
# int8-full are so far from Keras that half a recurrent kernel is within the error.
FILES = {"model.int8.onnx": 0.9, "model.int8.tflite": 0.9, "model.int8-full.tflite": 0.0}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "bundle"
    data = np.random.default_rng(0).normal(0, 1, (24, 6, 12)).astype(np.float32)
    export(bilstm_tagger(units=16), folder, recipes="all", data=data, batch=1, time=6)
    return folder


@pytest.fixture
def changed(exported, tmp_path):
    """Copy the bundle with another file, or without recorded outputs; checksums are right."""

    def make(file, content=None, *, recorded_at_export=True):
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(exported, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        item = next(item for item in manifest["artifacts"] if item["file"] == file)
        if content is not None:
            (folder / file).write_bytes(content)
            item["bytes"], item["sha256"] = len(content), hashlib.sha256(content).hexdigest()
        if not recorded_at_export:
            del item["own_answers"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return make


def checked(folder, file):
    return next(item for item in check(folder).checks if item.file == file)


def weights(file, content):
    """Every matrix of int8 in a file, by shape: those of one shape are the gates of one layer."""
    if file.endswith(".onnx"):
        found = list(constants(content).values())
    else:
        interpreter = litert.Interpreter(
            model_content=content,
            experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
        details = interpreter.get_tensor_details()
        found = [
            interpreter.get_tensor(item["index"])
            for item in details
            if item["dtype"] is np.int8 and np.prod(item["shape"]) > 100
        ]
    layers = {}
    for array in found:
        if array.dtype == np.int8 and array.ndim > 1 and array.any() and array.tobytes() in content:
            layers.setdefault(array.shape, []).append(array)
    return list(layers.values())


def test_right_files_pass(exported):
    report = check(exported)
    assert report.passed
    for item in report.checks:
        assert item.reference == ("Keras" if item.recipe == "float32" else "export")
        assert item.recipe == "float32" or item.max_abs_error == 0


@pytest.mark.parametrize("file", FILES)
def test_a_layer_under_another_scale_fails(exported, changed, file):
    content = (exported / file).read_bytes()
    layers = weights(file, content)
    assert len(layers) > 1
    undetected = []
    for layer in layers:
        wrong = content
        for matrix in layer:
            smaller = np.rint(matrix * FILES[file]).astype(np.int8)
            wrong = wrong.replace(matrix.tobytes(), smaller.tobytes())
        item = checked(changed(file, wrong), file)
        assert item.passed is False
        undetected.append(checked(changed(file, wrong, recorded_at_export=False), file).passed)
    assert any(undetected) or "full" not in file  # Keras's outputs alone do not show it


@pytest.mark.parametrize("other", ["model.onnx", "model.float16.onnx", "model.int4.onnx"])
def test_the_file_of_another_recipe_fails(exported, changed, other):
    item = checked(changed("model.int8.onnx", (exported / other).read_bytes()), "model.int8.onnx")
    assert item.passed is False


@pytest.mark.parametrize("file", FILES)
def test_without_recorded_outputs_keras_is_the_reference(exported, changed, file):
    item = checked(changed(file, recorded_at_export=False), file)
    assert (item.passed, item.reference) == (True, "Keras")
    assert item.max_abs_error > 0


def test_right_files_pass_with_other_kernels(exported, monkeypatch):
    """As on a processor for which the backends choose other kernels."""
    plain = functools.partial(
        litert.Interpreter,
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    monkeypatch.setattr(litert, "Interpreter", plain)

    class Unoptimized(ort.SessionOptions):
        def __init__(self):
            super().__init__()
            self.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL

    monkeypatch.setattr(ort, "SessionOptions", Unoptimized)
    report = check(exported)
    assert report.passed
    full = next(item for item in report.checks if item.recipe == "int8-full")
    assert full.max_abs_error > 0  # other kernels must round differently, or the test is void
