"""Storing the fastest variant; load() uses it only if it is valid."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path

import pytest

import bilstm_runtime
from bilstm_bench.plan import Choice, Shape, Variant, make_plan
from bilstm_bench.results import Case
from bilstm_bench.statistics import Comparison, Interval, Latency
from bilstm_bench.tuning import check_storable, choose_fastest, store_tuning, tune
from bilstm_runtime import device as device_module
from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.bundle.tuning import Tuning, find_tuning, tuning_file
from bilstm_runtime.errors import TuningFileError, TuningWarning

both = pytest.mark.skipif(
    not all(backend.is_installed for backend in BACKENDS.values()), reason="needs both backends"
)
MEASURED = {"why": "a test"}


def stored(folder, tuning):
    return store_tuning(open_bundle(folder), tuning, MEASURED)


@pytest.fixture
def litert2(bundle):
    """A bundle tuned to what is not the default."""
    folder = bundle()
    stored(folder, Tuning("litert", "float32", 2))
    return folder


@both
def test_load_uses_what_was_stored(litert2):
    model = bilstm_runtime.load(litert2)
    assert (model.backend, model.recipe, model.threads) == ("litert", "float32", 2)
    assert model.tuned
    assert len(model.predict([[1, 2, 3]])) == 1


@both
def test_without_tuning_nothing_changes(bundle):
    model = bilstm_runtime.load(bundle())
    assert (model.backend, model.threads, model.tuned) == ("onnx", 1, False)


@both
@pytest.mark.parametrize(
    ("arguments", "tuned"),
    [
        ({"backend": "onnx"}, False),
        ({"threads": 1}, False),
        ({"backend": "litert"}, True),
        ({"recipe": "float32"}, True),
        ({"backend": "litert", "threads": 1}, False),
        ({"threads": 2}, True),
    ],
    ids=str,
)
def test_arguments_always_win(litert2, arguments, tuned):
    model = bilstm_runtime.load(litert2, **arguments)
    assert model.tuned is tuned
    for name, value in arguments.items():
        assert getattr(model, name) == value
    if not tuned and "threads" not in arguments:
        assert model.threads == 1


def test_the_folder_and_the_checksummed_files_stay_as_they_were(bundle):
    folder = bundle()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    path = stored(folder, Tuning("onnx", "float32", 1))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert path == folder.resolve().with_name("tagger-edge.tuning.json")
    assert not [p for p in folder.parent.iterdir() if p.name.startswith(".")]


def test_another_device_does_not_use_it(litert2, monkeypatch):
    here = device_module.this_device()
    for change in (
        {"processor": "another"},
        {"cores": here.cores + 1},
        {"machine": "riscv64"},
        {"backends": {**here.backends, "litert": "0.0"}},
    ):
        other = dataclasses.replace(here, **change)
        monkeypatch.setattr(device_module, "this_device", lambda other=other: other)
        assert find_tuning(open_bundle(litert2)) is None


def test_several_devices_share_the_file(litert2, monkeypatch):
    here = device_module.this_device()
    other = dataclasses.replace(here, processor="another")
    monkeypatch.setattr("bilstm_bench.tuning.this_device", lambda: other)
    stored(litert2, Tuning("onnx", "float32", 1))
    assert find_tuning(open_bundle(litert2)) == Tuning("litert", "float32", 2)
    monkeypatch.setattr(device_module, "this_device", lambda: other)
    assert find_tuning(open_bundle(litert2)) == Tuning("onnx", "float32", 1)


def test_another_export_does_not_use_it(litert2):
    path = litert2 / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["artifacts"][0]["sha256"] = "1" * 64
    path.write_text(json.dumps(manifest))
    assert find_tuning(open_bundle(litert2)) is None


def edited(folder, edit):
    path = tuning_file(open_bundle(folder))
    content = json.loads(path.read_text())
    entry = next(iter(content["devices"].values()))
    edit(content, entry["choice"])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "edit",
    [
        lambda root, choice: choice.update(threads=0),
        lambda root, choice: choice.update(threads=10**6),
        lambda root, choice: choice.update(threads="2"),
        lambda root, choice: choice.update(backend="nothing"),
        lambda root, choice: choice.update(recipe="int4"),
        lambda root, choice: choice.pop("recipe"),
        lambda root, choice: choice.update(recipes_named=None),
        lambda root, choice: root.update(format_version=2),
        lambda root, choice: root.update(devices=[]),
        lambda root, choice: root.pop("devices"),
    ],
)
def test_a_damaged_entry_is_ignored_with_a_warning(litert2, edit):
    edited(litert2, edit)
    with pytest.warns(TuningWarning, match=r"is ignored: .*bench-bilstm .* --tune"):
        model = bilstm_runtime.load(litert2)
    assert not model.tuned


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b" " * 2**21])
def test_a_damaged_file_is_ignored_with_a_warning(litert2, content):
    tuning_file(open_bundle(litert2)).write_bytes(content)
    with pytest.warns(TuningWarning, match="is ignored"):
        assert not bilstm_runtime.load(litert2).tuned


def test_something_else_of_that_name_is_ignored_with_a_warning(litert2):
    path = tuning_file(open_bundle(litert2))
    path.unlink()
    path.mkdir()
    with pytest.warns(TuningWarning, match="is ignored"):
        assert not bilstm_runtime.load(litert2).tuned
    with pytest.raises(TuningFileError, match="cannot be written"):
        stored(litert2, Tuning("onnx", "float32", 1))


def test_a_damaged_file_is_replaced(litert2):
    tuning_file(open_bundle(litert2)).write_text("{")
    stored(litert2, Tuning("onnx", "float32", 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_tuning(open_bundle(litert2)) == Tuning("onnx", "float32", 1)


def test_a_recipe_that_nobody_named_is_not_taken_from_the_file(bundle):
    def edit(manifest):
        copy = {**manifest["artifacts"][0], "file": "model.int8.onnx", "recipe": "int8"}
        manifest["artifacts"].append(copy)

    folder = bundle(edit=edit)
    stored(folder, Tuning("onnx", "int8", 1, recipes_named=True))
    assert find_tuning(open_bundle(folder)).recipe == "int8"
    stored(folder, Tuning("onnx", "int8", 1, recipes_named=False))
    with pytest.warns(TuningWarning, match="is ignored"):
        assert find_tuning(open_bundle(folder)) is None


def test_what_a_bundle_brings_along_decides_nothing(litert2):
    path = tuning_file(open_bundle(litert2))
    path.rename(litert2 / path.name)
    assert find_tuning(open_bundle(litert2)) is None


def test_a_folder_that_cannot_be_written_is_said_before_and_after(bundle, monkeypatch):
    folder = bundle()

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("bilstm_bench.tuning.tempfile.mkstemp", refuse)
    with pytest.raises(TuningFileError, match=r"make .* writable, or load with backend='onnx'"):
        stored(folder, Tuning("onnx", "float32", 1))
    monkeypatch.setattr("bilstm_bench.tuning.os.access", lambda *_: False)
    with pytest.raises(TuningFileError, match=r"make .* writable"):
        check_storable(open_bundle(folder))


# choosing


def latency():
    return Latency(10, Interval(1.0, 0.9, 1.1), 1.0, 1.0, None, 1.0, 1.0)


def case(variant, length, ratio=None, verdict="faster", noise=1.01, failure=""):
    comparison = None
    if ratio is not None:
        comparison = Comparison(Interval(ratio, ratio * 0.99, ratio * 1.01), noise, 10, verdict)
    found = None if failure else latency()
    shape = Shape(length, 1)
    return Case(
        variant.label, variant, shape, latency=found, comparison=comparison, failure=failure
    )


ONE, TWO, FOUR = (Variant("model.onnx", "float32", "onnx", n) for n in (1, 2, 4))
LITE = Variant("model.tflite", "float32", "litert", 1)


def chosen(*cases, variants=(ONE, LITE, TWO, FOUR)):
    return choose_fastest(variants, ONE, [case(ONE, 10), case(ONE, 50), *cases]).variant


def test_the_fastest_over_all_inputs_wins():
    assert chosen(case(TWO, 10, 0.9, "slower"), case(TWO, 50, 2.0)) == TWO
    assert chosen(case(TWO, 10, 0.4, "slower"), case(TWO, 50, 2.0)) == ONE


def test_nothing_surely_faster_keeps_the_default():
    found = choose_fastest([ONE, TWO], ONE, [case(ONE, 10), case(TWO, 10, 1.02, "no difference")])
    assert found.variant == ONE
    assert "nothing is clearly faster" in found.why


def test_among_equals_fewer_threads_win():
    assert chosen(case(TWO, 10, 2.0), case(FOUR, 10, 2.01)) == TWO
    assert chosen(case(TWO, 10, 2.0), case(FOUR, 10, 2.5)) == FOUR
    assert chosen(case(LITE, 10, 1.5), case(TWO, 10, 1.5)) == LITE


def test_what_fails_or_was_not_measured_enough_is_not_chosen():
    assert chosen(case(TWO, 10, failure="it broke"), case(TWO, 50, 9.0)) == ONE
    found = choose_fastest([ONE, TWO], ONE, [case(ONE, 10), case(TWO, 10, 9.0, "too few rounds")])
    assert found.variant is None
    assert "--rounds" in found.why
    assert choose_fastest([], ONE, []).variant is None


def test_wrong_answers_and_unnamed_recipes_are_left_out(bundle, backend):
    def edit(manifest):
        # One file that is not what golden.npz holds, and one recipe that nobody recommends.
        for artifact in list(manifest["artifacts"]):
            copy = {**artifact, "file": f"copy.{artifact['file']}", "recipe": "int8"}
            manifest["artifacts"].append(copy)
        manifest["tolerance"] = {"absolute": 0.0, "relative": 0.0}

    folder = bundle(edit=edit)
    for name in ("model.onnx", "model.tflite"):
        (folder / f"copy.{name}").write_bytes((folder / name).read_bytes())
    opened = open_bundle(folder)
    plan = make_plan(opened, Choice(threads=(1,), backends=(backend,)))
    cases = [case(v, 10) if v == plan.variants[0] else case(v, 10, 9.0) for v in plan.variants]
    found = tune(opened, plan, plan.variants[0], cases, recipes_named=False)
    assert any("int8 is not chosen unless" in reason for reason in found.left_out)
    if found.variant is None:  # if this backend's outputs are not bit-identical to Keras's
        assert any("does not pass check-bilstm" in reason for reason in found.left_out)
        assert not Path(tuning_file(opened)).exists()
    else:
        assert found.variant.recipe == "float32"

    edit_back = json.loads((folder / "manifest.json").read_text())
    edit_back["tolerance"] = {"absolute": 1e-5, "relative": 1e-4}
    (folder / "manifest.json").write_text(json.dumps(edit_back))
    opened = open_bundle(folder)
    assert tune(opened, plan, plan.variants[0], cases, recipes_named=False).variant.recipe == (
        "float32"
    )
    named = tune(opened, plan, plan.variants[0], cases, recipes_named=True)
    assert (named.variant.recipe, named.times_faster) == ("int8", pytest.approx(9.0))
    assert bilstm_runtime.load(folder, backend=backend).recipe == "int8"
