"""The runtime on a file of integers: floats in, floats out, no state kept between runs."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from bilstm_runtime.backends.litert import open_litert
from bilstm_runtime.bundle.codec import manifest_from_json, manifest_to_json
from bilstm_runtime.bundle.manifest import Artifact, Golden, Manifest, Quantization, Source
from bilstm_runtime.comparison import Tolerance
from bilstm_runtime.errors import ArtifactError, ManifestError
from bilstm_runtime.spec import ModelSpec

from .test_tflite_full_integer import bi, build_full, examples, floats, prepared

pytestmark = pytest.mark.slow

SHA = "0" * 64


@pytest.fixture(scope="module")
def exported():
    loaded = prepared(lambda: floats(bi(), keras.layers.Dense(3)))
    data = examples(loaded)
    built = build_full(loaded, data)
    artifact = Artifact(
        file="model.int8-full.tflite",
        format="tflite",
        recipe="int8-full",
        bytes=len(built.content),
        sha256=SHA,
        inputs=loaded.input_names,
        outputs=loaded.output_names,
        quantized_inputs=built.quantized_inputs,
        quantized_outputs=built.quantized_outputs,
        reset_between_runs=built.reset_between_runs,
    )
    manifest = Manifest(
        spec=ModelSpec("model", loaded.spec.inputs, loaded.spec.outputs, rows_independent=True),
        source=Source("model.keras", SHA, "keras"),
        recommended_recipe="int8-full",
        artifacts=(artifact,),
        golden=Golden("golden.npz", 1, SHA, 1),
        tolerance=Tolerance(1e-5, 1e-4),
    )
    return loaded, built, artifact, manifest, data


def test_floats_in_and_out_and_no_run_leaves_anything_to_the_next(exported):
    loaded, built, artifact, manifest, data = exported
    session = open_litert(built.content, artifact, manifest.spec, 1)
    first = [session.run(arrays)[0] for arrays in data[:8]]
    again = [session.run(arrays)[0] for arrays in reversed(data[:8])][::-1]
    for one, other, arrays in zip(first, again, data, strict=False):
        np.testing.assert_array_equal(one, other)
        (reference,) = loaded.keras.reference(arrays)
        assert one.dtype == np.float32
        assert np.abs(one - reference).mean() < 0.02 * np.ptp(reference)


def test_without_a_reset_the_state_would_stay(exported):
    _, built, artifact, manifest, data = exported
    assert artifact.reset_between_runs
    kept = dataclasses.replace(artifact, reset_between_runs=False)
    session = open_litert(built.content, kept, manifest.spec, 1)
    first, second = session.run(data[0])[0], session.run(data[0])[0]
    assert np.abs(first - second).max() > 0


def test_values_beyond_the_range_are_clipped(exported):
    _, built, artifact, manifest, data = exported
    session = open_litert(built.content, artifact, manifest.spec, 1)
    (how,) = artifact.quantized_inputs.values()
    far = [np.full_like(data[0][0], 1e9)]
    edge = [np.full_like(data[0][0], (127 - how.zero_point) * how.scale)]
    np.testing.assert_array_equal(session.run(far)[0], session.run(edge)[0])


def test_the_manifest_contains_the_quantization(exported):
    *_, artifact, manifest, _ = exported
    text = manifest_to_json(manifest)
    assert manifest_from_json(text) == manifest
    member = json.loads(text)["artifacts"][0]
    assert member["reset_between_runs"] is True
    assert member["quantized_inputs"]["x"]["dtype"] == "int8"
    plain = dataclasses.replace(
        artifact, quantized_inputs={}, quantized_outputs={}, reset_between_runs=False
    )
    text = manifest_to_json(dataclasses.replace(manifest, artifacts=(plain,)))
    assert not {"quantized_inputs", "reset_between_runs"} & set(json.loads(text)["artifacts"][0])


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("scale",), 0),
        (("scale",), -1.0),
        (("scale",), 1e-40),
        (("scale",), "1"),
        (("zero_point",), 128),
        (("zero_point",), 0.5),
        (("dtype",), "float32"),
        ((), []),
    ],
)
def test_a_hostile_quantization_is_refused(exported, place, value):
    *_, manifest, _ = exported
    root = json.loads(manifest_to_json(manifest))
    quantized = root["artifacts"][0]["quantized_inputs"]
    if place:
        quantized["x"][place[0]] = value
    else:
        quantized["x"] = value
    with pytest.raises(ManifestError, match="quantized_inputs"):
        manifest_from_json(json.dumps(root))


def test_a_quantization_of_nothing_is_refused(exported):
    *_, artifact, manifest, _ = exported
    other = dataclasses.replace(artifact, quantized_outputs={"z": Quantization("int8", 1.0, 0)})
    with pytest.raises(ManifestError, match="'z'"):
        manifest_to_json(dataclasses.replace(manifest, artifacts=(other,)))


@pytest.mark.parametrize(
    "wrong", [{"scale": 0.5}, {"zero_point": 99}, {"dtype": "int16"}], ids=lambda w: next(iter(w))
)
def test_a_file_that_differs_from_the_manifest_is_refused(exported, wrong):
    _, built, artifact, manifest, _ = exported
    how = dataclasses.replace(artifact.quantized_inputs["x"], **wrong)
    other = dataclasses.replace(artifact, quantized_inputs={"x": how})
    with pytest.raises(ArtifactError, match="'x'"):
        open_litert(built.content, other, manifest.spec, 1)
    plain = dataclasses.replace(artifact, quantized_inputs={})
    with pytest.raises(ArtifactError, match="int8"):
        open_litert(built.content, plain, manifest.spec, 1)
