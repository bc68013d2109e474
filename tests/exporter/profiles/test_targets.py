"""Exports for a target: what is run, what is refused, and what the manifest says of it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys

import keras
import numpy as np
import pytest
from keras import layers as kl

from bilstm_exporter import export
from bilstm_exporter.errors import OptionError, TargetError
from bilstm_exporter.profiles import PROFILES, Kernel, Profile, Verifier
from bilstm_runtime.bundle.folder import open_bundle
from exporter.models import MODELS, floats


class _Same:
    """A runtime that is onnxruntime, with outputs that are wrong by ``error``."""

    def __init__(self, content, artifact, error):
        import onnxruntime

        self.session = onnxruntime.InferenceSession(content)
        self.artifact, self.error = artifact, error

    def run(self, arrays):
        feeds = dict(zip(self.artifact.inputs, arrays, strict=True))
        outputs = self.session.run(list(self.artifact.outputs), feeds)
        return [np.asarray(one + one.dtype.type(self.error)) for one in outputs]


def open_same(content, artifact, spec):
    return _Same(content, artifact, 0.0)


def open_wrong(content, artifact, spec):
    return _Same(content, artifact, 0.01)


def open_failing(content, artifact, spec):
    message = "it does not run"
    raise RuntimeError(message)


def open_aborting(content, artifact, spec):
    sys.stderr.write("assertion failed\n")
    sys.stderr.flush()
    os.abort()


def verifier(opener):
    return Verifier("numpy", "numpy", f"{__name__}:{opener.__name__}")


@pytest.fixture
def toy(monkeypatch):
    """Register a runtime for ONNX files under the name ``toy``."""

    def add(**given):
        monkeypatch.setitem(PROFILES, "toy", Profile("toy", "Toy", "onnx", "3.2", **given))

    return add


def runtimes(folder):
    """What the manifest says of the runtimes of each file."""
    manifest = open_bundle(folder).manifest
    return {
        artifact.file: [(one.name, one.version, one.how) for one in artifact.runtimes]
        for artifact in manifest.artifacts
    }


def test_without_a_target_the_backends_are_named(exported):
    bundle = exported("lstm")
    found = runtimes(bundle.folder)
    assert found["model.onnx"] == [
        ("onnxruntime", importlib.metadata.version("onnxruntime"), "run")
    ]
    assert [one[0] for one in found["model.tflite"]] == ["litert"]
    assert bundle.report.artifacts[0].runtimes[0].name == "onnxruntime"
    assert bundle.report.to_dict()["artifacts"][0]["runtimes"][0]["how"] == "run"


@pytest.mark.slow
def test_a_runtime_runs_every_probe(toy, tmp_path, run, saved):
    toy(verifier=verifier(open_same))
    ran = run(saved("lstm"), "--target", "toy", "--recipes", "float32,int8")
    assert ran.code == 0
    version = importlib.metadata.version("numpy")
    assert f"Compared with Keras in Toy {version} too: model.onnx, model.int8.onnx." in ran.out
    found = runtimes(tmp_path / "lstm-edge")
    proof = [("toy", version, "run")]
    assert found == {"model.onnx": proof, "model.int8.onnx": proof}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("opener", "problem"),
    [
        (open_wrong, "times the tolerance"),
        (open_failing, "it does not run"),
        (open_aborting, "ended its process while model.onnx was open"),
    ],
)
def test_a_runtime_with_wrong_outputs_is_refused(toy, tmp_path, opener, problem):
    toy(verifier=verifier(opener))
    with pytest.raises(TargetError, match=rf"model.onnx is right .* Toy .*{problem}"):
        export(MODELS["lstm"](), tmp_path / "bundle", target="toy")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_a_runtime_that_is_not_installed_is_checked_by_its_table(toy, tmp_path, run, saved):
    absent = Verifier("no_such_package", "no-such-package", "no_such_module:open")
    toy(verifier=absent, kernels={}, lists_all=False)
    ran = run(saved("lstm"), "--target", "toy,web")
    assert "Made for Toy 3.2, by its table of operators only: model.onnx." in ran.out
    web = "onnxruntime-web 1.30, which has the operators of onnxruntime; not run there"
    assert f"Made for {web}: model.onnx." in " ".join(ran.out.split())
    assert ("toy", "3.2", "operator table") in runtimes(tmp_path / "lstm-edge")["model.onnx"]


@pytest.mark.slow
def test_an_operator_that_a_runtime_lacks_is_named_with_its_layer(toy, run, saved):
    lacks = Kernel(attributes={"hidden_size": [4]}, instead="train it with 4 units")
    toy(kernels={"LSTM": [lacks]}, lists_all=False)
    ran = run(saved("stacked"), "--target", "toy")
    assert ran.code == 3
    assert "Toy 3.2 has no LSTM (float32" in ran.message
    assert "hidden_size is 3 (train it with 4 units)" in ran.message
    assert "--target onnxruntime runs this file" in ran.message


@pytest.mark.slow
def test_an_explanation_has_a_column_for_each_target(toy, run, tmp_path):
    lacks = Kernel(attributes={"hidden_size": [3]}, instead="train it with 3 units")
    toy(kernels={"LSTM": [lacks]}, lists_all=False)
    floats(kl.LSTM(3, return_sequences=True, name="small"), kl.LSTM(4, name="large")).save(
        tmp_path / "both.keras"
    )
    ran = run("both.keras", "--explain", "--target", "toy,onnxruntime,onnx-reference")
    assert ran.code == 3
    header = next(line for line in ran.out.splitlines() if line.split()[:1] == ["layer"])
    assert header.split() == ["layer", "class", "onnxruntime", "onnx-reference", "toy"]
    assert ran.table["large"][-1] == "refused"
    assert ran.table["small"][-1].startswith("LSTM, exact")
    assert "large in toy: refused; Toy 3.2 has no LSTM" in ran.out
    assert "(train it with 3 units)" in ran.out


@pytest.mark.slow
def test_activations_that_a_runtime_ignores_become_a_scan(run, tmp_path):
    cell = kl.LSTM(3, recurrent_activation="hard_sigmoid", name="cell")
    floats(cell, kl.Dense(2, name="label")).save(tmp_path / "hard.keras")
    ran = run("hard.keras", "--explain", "--target", "tract,openvino,onnxruntime")
    assert [form.split(",")[0] for form in ran.table["cell"][1:]] == ["LSTM", "Scan", "Scan"]
    assert "in tract: Scan; an LSTM with the activations HardSigmoid and Tanh" in ran.out


@pytest.mark.slow
def test_a_recipe_that_a_runtime_does_not_run(toy, tmp_path):
    toy(recipes=("float32", "float16"))
    model = MODELS["lstm"]()
    report = export(model, tmp_path / "bundle", target="toy", recipes="float32,int8")
    assert [artifact.recipe for artifact in report.artifacts] == ["float32"]
    assert report.left_out == {"model.int8.onnx": "Toy 3.2 does not run int8 in onnx"}
    with pytest.raises(OptionError, match="does not run int8 in onnx"):
        export(model, tmp_path / "other", target="toy", recipes="int8")


@pytest.mark.slow
def test_a_runtime_of_fixed_shapes_needs_a_length(toy, tmp_path):
    toy(fixed={"batch": 1, "time": None})
    with pytest.raises(OptionError, match="Toy needs fixed shapes, and time is free: add --time N"):
        export(MODELS["lstm"](), tmp_path / "bundle", target="toy")
    report = export(MODELS["lstm"](), tmp_path / "bundle", target="toy", time=6)
    assert [axis.size for axis in report.spec.inputs[0].axes[:2]] == [1, 6]


@pytest.mark.slow
def test_a_runtime_of_fixed_shapes_names_an_axis_that_no_option_fixes(toy, tmp_path):
    toy(fixed={"batch": 1, "time": None})
    characters = keras.Input((None, None), name="characters", dtype="int32")
    words = keras.ops.mean(kl.Embedding(9, 3)(characters), axis=2)
    model = keras.Model(characters, kl.LSTM(2)(words))
    found = "axis_2 is free: build the model with a size for axis 2 of the input 'characters'"
    with pytest.raises(OptionError, match=re.escape(found)):
        export(model, tmp_path / "bundle", target="toy", time=6)
    with pytest.raises(OptionError, match=r"are free: add --time N.*; build the model"):
        export(model, tmp_path / "bundle", target="toy")


@keras.saving.register_keras_serializable("tests")
class Determinant(keras.layers.Layer):
    """The determinant of all steps."""

    def call(self, x):
        return keras.ops.det(x)[:, None]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "label"), [("openvino", "OpenVINO"), ("tract", "tract")])
def test_a_refused_operator_is_named_with_its_layer(target, label, tmp_path):
    inputs = keras.Input((4, 3))
    x = keras.layers.Bidirectional(keras.layers.GRU(2, return_sequences=True))(inputs)
    outputs = keras.layers.Dense(2)(Determinant(name="volume")(x))
    with pytest.raises(TargetError) as failed:
        export(keras.Model(inputs, outputs), tmp_path / "bundle", target=target)
    assert f"{label} " in str(failed.value)
    assert "has no Det (float32) (in layer 'volume', Determinant)" in str(failed.value)
    assert list(failed.value.reasons) == ["volume"]
