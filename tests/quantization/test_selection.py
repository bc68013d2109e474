"""Which artifacts end up in a bundle, and under which names."""

import keras
import numpy as np
import pytest

from bilstm_exporter import export, recipe_selection
from bilstm_exporter.errors import BudgetError, DataError, OptionError
from bilstm_runtime import load

from .conversions import bilstm_tagger

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    return bilstm_tagger(units=16)


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).normal(0, 1, (24, 6, 12)).astype(np.float32)


def test_a_recipe_that_no_chosen_format_has_says_so(model, tmp_path):
    with pytest.raises(OptionError, match="int8-full cannot be written as onnx; add tflite"):
        export(model, tmp_path / "out", formats="onnx", recipes="int8-full")
    assert not (tmp_path / "out").exists()


def test_all_skips_recipes_that_need_data(model, tmp_path):
    report = export(model, tmp_path / "out", formats="tflite", recipes="all")
    assert list(report.left_out) == ["int8-full"]
    assert "--data" in report.left_out["int8-full"]
    assert [a.recipe for a in report.artifacts] == ["float32", "float16", "int8", "int4"]


def test_int8_full_runs_through_the_runtime(model, data, tmp_path):
    options = {"formats": "tflite", "recipes": "float32,int8-full", "batch": 1, "time": 6}
    report = export(model, tmp_path / "out", data=data, **options)
    exact = load(tmp_path / "out", recipe="float32")
    integers = load(tmp_path / "out", recipe="int8-full")
    x = data[:1]
    wanted, first = exact.predict(x), integers.predict(x)
    assert 0 < np.abs(first - wanted).max() < 0.1 * np.ptp(wanted)
    integers.predict(data[1:2])
    np.testing.assert_array_equal(integers.predict(x), first)  # no state outlives a run
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" in report.artifacts[1].operators
    with pytest.raises(DataError, match="at least 16"):
        export(model, tmp_path / "few", data=data[:4], **options)


def test_a_search_recommends_what_it_found(model, data, tmp_path):
    report = export(model, tmp_path / "out", formats="onnx", data=data, max_drop=100)
    sizes = {c.recipe: c.bytes for c in report.searches["onnx"].candidates}
    assert "int8-full" not in {*sizes, *report.searches["onnx"].failed}  # ONNX does not support it
    assert sizes[report.recommended] * 0.98 <= min(sizes.values())
    assert report.recommended != "float32"
    assert load(tmp_path / "out").recipe == report.recommended


def test_nothing_fits_writes_nothing(model, data, tmp_path):
    with pytest.raises(BudgetError, match="No mix of recipes is within"):
        export(model, tmp_path / "out", formats="onnx", data=data, max_kb=1)
    assert list(tmp_path.iterdir()) == []


def test_formats_that_disagree_keep_what_was_found_in_each(model, data, tmp_path, monkeypatch):
    """Under one name; and an artifact of integers stays one."""
    chosen = {"onnx": "float16", "tflite": "int8-full"}
    search = recipe_selection.search

    def prefer(name, recipes, *args, **kwargs):
        only = [recipe for recipe in recipes if recipe.name == chosen[name]]
        return search(name, only, *args, **kwargs)

    monkeypatch.setattr(recipe_selection, "search", prefer)
    keras.utils.clear_session()
    report = export(model, tmp_path / "out", data=data, batch=1, time=6, max_drop=100)
    assert report.recommended == "mixed"
    files = {a.file: a for a in report.artifacts if a.recipe == "mixed"}
    assert set(files) == {"model.mixed.onnx", "model.mixed.tflite"}
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" in files["model.mixed.tflite"].operators
    assert load(tmp_path / "out", backend="litert").recipe == "mixed"
