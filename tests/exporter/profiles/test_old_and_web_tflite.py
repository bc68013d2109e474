"""The targets tflite-2.14 and litert-js: versions of operators, dtypes and shapes."""

from __future__ import annotations

import numpy as np
import pytest

from bilstm_exporter import ExportOptions, export
from bilstm_exporter.errors import OptionError
from bilstm_exporter.pipeline import explain
from bilstm_exporter.profiles import PROFILES
from bilstm_exporter.targets.operators import OperatorUse
from bilstm_runtime.bundle.folder import open_bundle
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
    found = explain(MODELS["classifier"](), ExportOptions(target="litert-js", time=6))
    assert "tensors of float32 only, and 'ids' is int32" in found.failures["litert-js"]
    assert all(layer.formats["litert-js"].exact for layer in found.layers)
    export(MODELS["lstm"](), tmp_path / "c", target="litert-js", time=6)


@pytest.mark.slow
def test_what_is_written_for_a_browser_runs_in_a_compiled_model(tmp_path):
    """LiteRT.js is LiteRT's CompiledModel, which Python has too."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    model = MODELS["stacked"]()
    recipes = "float32,float16,int8,int4"
    export(model, tmp_path / "bundle", target="litert-js", time=6, recipes=recipes)
    x = np.random.default_rng(0).normal(size=(1, 6, model.inputs[0].shape[-1])).astype("float32")
    expected = np.asarray(model(x, training=False))
    for artifact in open_bundle(tmp_path / "bundle").manifest.artifacts:
        content = (tmp_path / "bundle" / artifact.file).read_bytes()
        compiled = CompiledModel.from_buffer(content, HardwareAccelerator.CPU)
        (signature,) = compiled.get_signature_list()
        (given,), (returned,) = artifact.inputs, artifact.outputs
        source = compiled.create_input_buffer_by_name(signature, given)
        result = compiled.create_output_buffer_by_name(signature, returned)
        for _ in range(2):
            source.write(x)
            compiled.run_by_name(signature, {given: source}, {returned: result})
            found = result.read(expected.size, np.float32).reshape(expected.shape)
            bound = {"float32": 1e-5, "float16": 2e-3}.get(artifact.recipe, 0.1)
            assert np.abs(found - expected).max() < bound, artifact.file
