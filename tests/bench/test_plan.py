"""The measurement plan: its cases, refusals and inputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bilstm_bench import plan as plan_module
from bilstm_bench.plan import Choice, Shape, make_inputs, make_plan, parse_counts
from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.bundle.folder import Bundle
from bilstm_runtime.errors import (
    BackendMissingError,
    NoArtifactError,
    OptionError,
    UnknownBackendError,
)
from bilstm_runtime.inputs import InputReader
from bilstm_runtime.spec import Axis, InputSpec


def int8_too(manifest):
    copy = {**manifest["artifacts"][0], "file": "model.int8.onnx", "recipe": "int8"}
    manifest["artifacts"].append(copy)


def no_backend(monkeypatch, *missing):
    absent = {
        name: dataclasses.replace(BACKENDS[name], package="no_such_package") for name in missing
    }
    for name, backend in absent.items():
        monkeypatch.setitem(BACKENDS, name, backend)


@pytest.fixture
def both(monkeypatch):
    """Both backends count as installed; nothing is run."""
    for name in BACKENDS:
        monkeypatch.setitem(BACKENDS, name, dataclasses.replace(BACKENDS[name], package="numpy"))


def test_the_default_is_every_file_on_every_backend(opened, both, monkeypatch):
    monkeypatch.setattr(plan_module, "usable_cores", lambda: 2)
    plan = make_plan(opened(), Choice())
    assert [variant.label for variant in plan.variants] == [
        "onnx float32, 1 thread",
        "litert float32, 1 thread",
        "onnx float32, 2 threads",
        "litert float32, 2 threads",
    ]
    assert [shape.label for shape in plan.shapes] == [
        "10 steps, batch 1",
        "50 steps, batch 1",
        "200 steps, batch 1",
    ]
    assert not plan.notes
    assert plan.middle == Shape(50, 1)
    assert plan.longest == Shape(200, 1)
    assert len(plan.unthreaded) == 2


def test_the_first_is_what_load_would_run(opened, both):
    def edit(manifest):
        int8_too(manifest)
        manifest["recommended"]["recipe"] = "int8"

    plan = make_plan(opened(edit=edit), Choice(threads=(1,)))
    assert [v.recipe for v in plan.variants] == ["int8", "float32", "float32"]


def test_choices_are_followed(opened, both):
    plan = make_plan(
        opened(edit=int8_too),
        Choice(lengths=(5, 7), batches=(1, 3), threads=(1,), backends=("onnx",), recipes=("int8",)),
    )
    assert [v.file for v in plan.variants] == ["model.int8.onnx"]
    assert [(s.length, s.batch) for s in plan.shapes] == [(5, 1), (7, 1), (5, 3), (7, 3)]


def test_fixed_axes_are_the_default(opened, both):
    plan = make_plan(opened("fixed"), Choice())
    assert plan.shapes == (Shape(6, 2),)


def test_the_least_length_bounds_the_default(opened, both):
    def edit(manifest):
        for spec in (*manifest["inputs"], *manifest["outputs"]):
            for axis in spec["axes"]:
                if axis["name"] == "time":
                    axis["min"] = 40

    plan = make_plan(opened(edit=edit), Choice())
    assert [shape.length for shape in plan.shapes] == [40, 50, 200]
    with pytest.raises(OptionError, match="40 or more steps"):
        make_plan(opened("pair", edit=edit), Choice(lengths=(39,)))


@pytest.mark.parametrize(
    ("name", "choice", "message"),
    [
        ("tagger", {"threads": (0,)}, "--threads 0: expected whole numbers from 1"),
        ("tagger", {"threads": (5000,)}, "--threads 5000"),
        ("tagger", {"lengths": (0,)}, "--lengths 0"),
        ("tagger", {"batches": (-1,)}, "--batches -1"),
        ("fixed", {"lengths": (7,)}, "exported for 6 steps and takes no more"),
        ("fixed", {"batches": (3,)}, "batches of 2 only"),
        ("tagger", {"padding": 1.0}, "--padding 1.0"),
        ("classifier", {"padding": 0.5}, "no input of this model marks steps"),
        ("tagger", {"lengths": (2**24,), "batches": (2**10,)}, "values; at most"),
    ],
)
def test_what_is_impossible_is_refused(opened, both, name, choice, message):
    with pytest.raises(OptionError, match=message):
        make_plan(opened(name), Choice(**choice))


def test_a_length_below_the_fixed_one_needs_padding_to_change_nothing(opened, both):
    assert make_plan(opened("fixed"), Choice(lengths=(3,))).shapes == (Shape(3, 2),)

    def edit(manifest):
        manifest["padding"]["neutral"] = False

    strict = opened("fixed", edit=edit, copy="strict")
    with pytest.raises(OptionError, match="takes exactly 6 steps, and padding changes"):
        make_plan(strict, Choice(lengths=(3,)))


def test_a_model_without_steps_takes_no_length(opened, both):
    bundle = opened("classifier")
    if bundle.manifest.spec.sequence_axes:
        spec = InputSpec("x", "float32", (Axis("batch", None), Axis(None, 4)))
        model = dataclasses.replace(bundle.manifest.spec, inputs=(spec,))
        manifest = dataclasses.replace(bundle.manifest, spec=model)
        bundle = Bundle(bundle.folder, manifest)
    assert make_plan(bundle, Choice()).shapes == (Shape(None, 1),)
    with pytest.raises(OptionError, match="no sequence axis"):
        make_plan(bundle, Choice(lengths=(3,)))


def test_unknown_names_are_refused_with_what_there_is(opened, both):
    with pytest.raises(NoArtifactError, match="has float32"):
        make_plan(opened(), Choice(recipes=("int4",)))
    with pytest.raises(UnknownBackendError, match="choose one of"):
        make_plan(opened("pair"), Choice(backends=("tensorrt",)))
    with pytest.raises(NoArtifactError, match="no model file for that choice"):
        make_plan(opened("leaky"), Choice(backends=("onnx",)))


def test_a_backend_that_is_missing_is_said_and_the_other_is_measured(opened, both, monkeypatch):
    no_backend(monkeypatch, "litert")
    plan = make_plan(opened(), Choice(threads=(1,)))
    assert [v.backend for v in plan.variants] == ["onnx"]
    assert "model.tflite is not measured" in plan.notes[0]
    assert 'pip install "bilstm-edge[litert]"' in plan.notes[0]


def test_no_backend_at_all_is_an_error_that_says_what_to_install(opened, monkeypatch):
    no_backend(monkeypatch, "onnx", "litert")
    with pytest.raises(BackendMissingError, match=r"bilstm-edge\[onnx\].*bilstm-edge\[litert\]"):
        make_plan(opened(), Choice())


def test_more_threads_than_cores_are_measured_and_said(opened, both, monkeypatch):
    monkeypatch.setattr(plan_module, "usable_cores", lambda: 2)
    assert (
        "8 threads are more than the 2 cores" in make_plan(opened(), Choice(threads=(8,))).notes[0]
    )


def test_counts_are_read():
    assert parse_counts("--lengths", "3,1,3") == (3, 1)
    for text in ("", "1,", "two", "1.5", "0", "-3"):
        with pytest.raises(OptionError, match="expected whole numbers from 1"):
            parse_counts("--lengths", text)


# inputs


def spec(dtype, **options):
    return InputSpec(
        "x", dtype, (Axis("batch", None), Axis("time", None), Axis(None, 3)), **options
    )


@pytest.mark.parametrize(
    "item",
    [
        spec("float32"),
        spec("float32", mask_value=0.0),
        spec("float32", range=(2.0, 3.0)),
        spec("float64", mask_value=float("nan")),
        spec("int32", range=(0, 9), mask_value=0),
        spec("int64", range=(-5, -5), mask_value=-5),
        spec("int8"),
        spec("uint64"),
        spec("uint8", range=(0, 255)),
        spec("bool"),
    ],
    ids=str,
)
def test_inputs_are_what_the_model_takes(make_spec, item):
    model = make_spec((item,))
    for padding in (0.0, 0.5):
        found = make_inputs(model, Shape(8, 2), padding=padding, seed=1)
        assert found["x"].shape == (2, 8, 3)
        assert InputReader(model).read(found).count == 2
        again = make_inputs(model, Shape(8, 2), padding=padding, seed=1)
        np.testing.assert_array_equal(found["x"], again["x"])


def test_only_the_requested_padding_is_padding(make_spec):
    model = make_spec((spec("int32", range=(0, 9), mask_value=0),))
    assert (make_inputs(model, Shape(50, 4))["x"] != 0).all()
    half = make_inputs(model, Shape(50, 4), padding=0.5)["x"]
    assert (half[:, :25] != 0).all()
    assert (half[:, 25:] == 0).all()
    assert (make_inputs(model, Shape(1, 1), padding=0.99)["x"] != 0).all()
