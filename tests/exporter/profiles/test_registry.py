"""Targets by name, and what they do to the other options."""

from __future__ import annotations

import pytest

from bilstm_exporter import ExportOptions
from bilstm_exporter.errors import OptionError, TargetError
from bilstm_exporter.profiles import PROFILES, Kernel, Profile, parse_targets, register
from bilstm_exporter.quantization.recipes import RECIPES
from bilstm_exporter.targets.operators import OperatorUse
from bilstm_exporter.targets.registry import TARGETS
from bilstm_exporter.verification.runtimes import check_operators
from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.spec import Artifact

LSTM = OperatorUse("LSTM", ("float32", "float32", "float32", "", "int32"), ("float32",), 14)


def test_the_backends_are_the_default_targets():
    assert list(PROFILES)[:2] == ["onnxruntime", "litert"]
    assert [profile.name for profile in ExportOptions().profiles] == ["onnxruntime", "litert"]
    assert ExportOptions(formats="tflite").profiles == (PROFILES["litert"],)
    assert {profile.backend for profile in PROFILES.values()} - {""} == set(BACKENDS)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_names_a_format_and_recipes(name):
    profile = PROFILES[name]
    assert profile.format in TARGETS
    assert set(profile.recipes) <= set(RECIPES)
    assert set(profile.fixed) <= {"batch", "time"}
    assert ExportOptions(target=name).formats == (profile.format,)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'litert' is registered already"):
        register(Profile("litert", "anything", "tflite", "1"))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("tensorrt", "tensorrt; choose from onnxruntime, "),
        ("", "none given; choose from "),
        ("openvino,tract, openvino", "openvino is given more than once"),
    ],
)
def test_names_that_cannot_be_used(given, problem):
    with pytest.raises(OptionError, match=rf"^target: {problem}"):
        parse_targets(given)


def test_a_target_chooses_the_format():
    options = ExportOptions(target="openvino")
    assert options.formats == ("onnx",)
    assert ExportOptions(target=["litert", "openvino"]).formats == ("onnx", "tflite")
    with pytest.raises(OptionError, match="openvino runs onnx files, and formats is tflite"):
        ExportOptions(target="openvino", formats="tflite")


def test_a_target_fixes_axes(monkeypatch):
    fixed = Profile("small", "Small", "tflite", "1", fixed={"batch": 1, "time": None})
    monkeypatch.setitem(PROFILES, "small", fixed)
    assert ExportOptions(target="small").batch == 1
    assert ExportOptions(target="small", batch=4).batch == 4
    assert ExportOptions(target="small").time is None


FLOAT = frozenset({"float32"})


@pytest.mark.parametrize(
    ("kernel", "problem"),
    [
        (Kernel(), ""),
        (Kernel(inputs=[FLOAT, FLOAT, FLOAT, None, None]), ""),
        (Kernel(inputs=[FLOAT, FLOAT, FLOAT, FLOAT | {""}]), "input 4 is int32"),
        (Kernel(inputs=[FLOAT, FLOAT, FLOAT, FLOAT]), "input 3 is absent"),
        (Kernel(outputs=[frozenset({"float16"})]), "output 0 is float32"),
        (Kernel(max_version=7), "version 14"),
        (Kernel(attributes={"direction": ["forward"]}), ""),
        (Kernel(constants=frozenset({4})), "input 4 is not a constant"),
        (Kernel(constants=frozenset({3, 7})), ""),
    ],
)
def test_what_a_kernel_does_not_take(kernel, problem):
    refusals = Profile("x", "X", "onnx", "1", kernels={"LSTM": [kernel]}).refusals([LSTM])
    assert [refusal.problem for refusal in refusals] == ([problem] if problem else [])


def test_an_attribute_of_a_kernel():
    kernel = Kernel(attributes={"direction": ["forward"]}, why="runs it forward")
    use = OperatorUse("LSTM", ("float32",), attributes={"direction": "reverse"})
    (refusal,) = Profile("x", "X", "onnx", "1", kernels={"LSTM": [kernel]}).refusals([use])
    assert refusal.text == "LSTM (float32): direction is reverse; runs it forward"


def test_an_operator_without_kernels_is_refused():
    (refusal,) = Profile("x", "X", "onnx", "1", kernels={}).refusals([LSTM])
    assert (refusal.use, refusal.problem) == (LSTM, "")
    assert not Profile("x", "X", "onnx", "1", kernels={}, lists_all=False).refusals([LSTM])
    assert not Profile("x", "X", "onnx", "1").refusals([LSTM])


def test_what_to_change_follows_from_the_operator_or_the_dtype():
    advice = {"GELU": "use relu", "int64": "use int32"}
    profile = Profile(
        "x", "X", "tflite", "1", instead=advice, kernels={"ADD": [Kernel([frozenset({"int32"})])]}
    )
    uses = [OperatorUse("GELU", ("float32",)), OperatorUse("ADD", ("int64",))]
    assert [one.instead for one in profile.refusals(uses)] == ["use relu", "use int32"]


def test_a_refusal_names_targets_that_run_the_file_alone():
    artifact = Artifact("model.tflite", "tflite", "float32", 1, "", ("x",), ("y",))
    use = OperatorUse("GELU", ("float32",), node="dense/Gelu")
    with pytest.raises(TargetError, match=r"\(in layer 'dense', Dense\)") as failed:
        check_operators(PROFILES["tflite-micro"], artifact, [use], {"dense": "Dense"})
    assert str(failed.value).endswith("--target litert runs this file; so does tflite-2.14")
