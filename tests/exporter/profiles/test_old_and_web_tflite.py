"""The targets tflite-2.14 and litert-js: versions of operators, dtypes and shapes."""

from __future__ import annotations

import pytest

from bilstm_exporter import export
from bilstm_exporter.errors import OptionError, TargetError
from bilstm_exporter.profiles import PROFILES
from bilstm_exporter.targets.operators import OperatorUse
from exporter.models import MODELS


def test_newer_versions_of_operators_are_refused():
    profile = PROFILES["tflite-2.14"]
    assert not profile.refusals([OperatorUse("PAD", ("float32", "int32"), ("float32",), 4)])
    (refusal,) = profile.refusals([OperatorUse("PAD", ("bool", "int32"), ("bool",), 5)])
    assert refusal.problem == "version 5"
    assert profile.refusals([OperatorUse("STABLEHLO_ADD", ())])


@pytest.mark.slow
def test_a_masked_model_has_old_versions_only(tmp_path):
    report = export(MODELS["classifier"](), tmp_path / "bundle", target="tflite-2.14")
    (artifact,) = report.artifacts
    assert "PAD" in artifact.operators
    assert [one.name for one in artifact.runtimes] == ["tflite-2.14"]


@pytest.mark.slow
def test_a_browser_takes_floats_of_fixed_shapes(tmp_path):
    with pytest.raises(OptionError, match=r"LiteRT.js needs fixed shapes, and time is free"):
        export(MODELS["lstm"](), tmp_path / "a", target="litert-js")
    with pytest.raises(TargetError, match=r"tensors of float32 only, and 'ids' is int32"):
        export(MODELS["classifier"](), tmp_path / "b", target="litert-js", time=6)
    export(MODELS["lstm"](), tmp_path / "c", target="litert-js", time=6)
