"""The form of every layer, shown with ``--explain`` and if an export fails."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest
from keras import layers as kl

from bilstm_exporter import ExportOptions, export
from bilstm_exporter.errors import (
    ExportError,
    ParityError,
    UnsupportedModelError,
    UnsupportedOperatorError,
)
from bilstm_exporter.keras_model import layer_of_node
from bilstm_exporter.pipeline import run_export
from bilstm_exporter.report import FailedExport
from exporter.models import floats

PARITY, OPTION, MODEL = 1, 2, 3


@pytest.fixture
def own(here, monkeypatch):
    """The module ``own_layers`` in the current folder."""
    with monkeypatch.context() as patch:
        patch.syspath_prepend(here)
        import own_layers
    del sys.modules["own_layers"]  # or Keras would find it again
    return own_layers


@pytest.mark.slow
def test_every_layer_of_a_model_that_is_exported(run, saved):
    ran = run(saved("gelu"), "--explain", "--quiet")
    assert ran.code == 0
    assert ran.err == ""
    (recurrence,) = [row for row in ran.table.values() if row[0] == "LSTM"]
    assert recurrence[1].startswith("Scan, exact, slower")
    assert recurrence[2].endswith("exact, fast")
    assert "in onnx: Scan; " in ran.out
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.slow
def test_text_layers_stand_in_the_manifest(run, tmp_path):
    x = keras.Input((1,), dtype="string", name="text")
    ids = kl.TextVectorization(vocabulary=["a", "b"], name="words")(x)
    y = kl.LSTM(2)(kl.Embedding(4, 3, mask_zero=True, name="table")(ids))
    keras.Model(x, y).save(tmp_path / "m.keras")
    table = run("m.keras", "--explain", "--quiet", "--formats", "onnx").table
    assert table["words"] == ["TextVectorization", "in the manifest, exact, fast"]
    assert table["table"] == ["Embedding", "operators, exact, fast"]
    assert [row[0] for row in table.values()].count("StringLookup") == 0  # inside the other


@pytest.mark.slow
def test_a_format_that_fails_leaves_the_other_explained(run, own, tmp_path):
    floats(own.Bits(name="bend"), kl.LSTM(2, name="memory")).save(tmp_path / "m.keras")
    for arguments in ((), ("--explain",)):
        ran = run("m.keras", "--custom-objects", "own_layers", "--quiet", *arguments)
        assert ran.code == MODEL
        assert ran.table == {
            "bend": ["Bits", "operators, exact, fast", "refused"],
            "memory": ["LSTM", "LSTM, exact, fast", "not written"],
        }
        stream = ran.out if arguments else ran.err
        assert "bend in tflite: refused; no operator for BitwiseOr; alternative: " in stream
        assert ran.err.count("tflite has no operator for: BitwiseOr") == (0 if arguments else 1)
        assert [path.name for path in tmp_path.glob("*-edge")] == []


@pytest.mark.slow
def test_the_explanation_as_json(run, own, tmp_path):
    floats(own.Bits(name="bend"), kl.LSTM(2, name="memory")).save(tmp_path / "m.keras")
    ran = run("m.keras", "--custom-objects", "own_layers", "--quiet", "--explain", "--json")
    explained = json.loads(ran.out)
    assert explained["layers"][0]["formats"]["tflite"]["form"] == "refused"
    assert set(explained["failures"]) == {"tflite"}


@pytest.mark.slow
def test_a_wrong_artifact_is_written_but_not_exact(run, saved, make_wrong):
    make_wrong("onnx")
    ran = run(saved("lstm"), "--quiet")
    assert ran.code == PARITY
    (recurrence,) = [row for row in ran.table.values() if row[0] == "LSTM"]
    assert recurrence[1] == "LSTM, not exact"
    assert recurrence[2].endswith(", exact, fast")


@pytest.mark.slow
def test_every_format_is_wrong(run, saved, make_wrong):
    for name in ("onnx", "tflite"):
        make_wrong(name)
    ran = run(saved("lstm"), "--quiet")
    assert ran.code == PARITY
    assert ran.message.startswith("model.onnx does not reproduce Keras's outputs")
    assert "tflite cannot be written: model.tflite does not reproduce Keras's outputs" in ran.err


@pytest.mark.slow
def test_an_artifact_that_does_not_run_is_refused(run, saved, monkeypatch):
    """LiteRT takes files whose operators it then cannot prepare."""
    from bilstm_runtime.backends import BACKENDS
    from bilstm_runtime.errors import BackendRunError

    litert = BACKENDS["litert"]

    def opened(*args, **kwargs):
        session = litert.open(*args, **kwargs)

        def run(arrays):
            raise BackendRunError("RESHAPE failed to prepare")

        return SimpleNamespace(run=run, session=session)

    monkeypatch.setitem(BACKENDS, "litert", replace(litert, open=opened))
    ran = run(saved("lstm"), "--quiet")
    assert ran.code == MODEL
    assert "tflite can store the model's operators, but not run them: RESHAPE" in ran.message
    assert all(row[1].endswith("exact, fast") for row in ran.table.values())


@pytest.mark.parametrize("name", ["Looks", "Python"])
def test_a_layer_that_no_graph_can_hold(run, own, tmp_path, name):
    model = floats(getattr(own, name)(name="odd"), kl.LSTM(2, name="memory"))
    model.save(tmp_path / "m.keras")
    ran = run("m.keras", "--custom-objects", "own_layers", "--quiet")
    assert ran.code == MODEL
    assert ran.table == {"odd": [name, "refused"], "memory": ["LSTM", "not written"]}
    assert "keras.ops" in ran.message


def test_a_refusal_before_the_model_can_be_called(run, tmp_path):
    x = keras.Input((None,), dtype="int32", name="ids")
    keys = kl.Hashing(4, name="look")(x + 1)
    keras.Model(x, kl.LSTM(2, name="memory")(kl.Embedding(4, 3, name="table")(keys))).save(
        tmp_path / "m.keras"
    )
    ran = run("m.keras", "--quiet")
    assert ran.code == MODEL
    assert ran.table["look"] == ["Hashing", "refused"]
    assert ran.table["memory"] == ["LSTM", "not written"]


def test_an_unknown_class(run, own, tmp_path):
    inner = floats(own.Doubler(name="inside"), kl.Dense(2, name="dense"))
    both = kl.Bidirectional(kl.LSTM(2, name="memory"), name="both")
    floats(kl.TimeDistributed(kl.Dense(3, name="each")), inner, both).save(tmp_path / "m.keras")
    ran = run("m.keras", "--quiet")
    assert ran.code == MODEL
    assert ran.table["inside"] == ["Doubler", "refused"]
    assert ran.table["each"] == ["Dense", "not written"]
    assert ran.table["dense"] == ["Dense", "not written"]
    assert "LSTM" in {row[0] for row in ran.table.values()}
    assert run("m.keras", "--quiet", "--explain").table == ran.table


def test_an_unknown_function(run, own, tmp_path):
    floats(kl.LSTM(2, activation=own.bent, name="memory"), kl.Dense(2, name="dense")).save(
        tmp_path / "m.keras"
    )
    ran = run("m.keras", "--quiet")
    assert ran.code == MODEL
    assert "'bent'" in ran.message
    assert ran.table == {"memory": ["LSTM", "refused"], "dense": ["Dense", "not written"]}


def test_code_in_a_file(run, tmp_path):
    floats(kl.Lambda(lambda x: x * 3, name="triple"), kl.LSTM(2, name="memory")).save(
        tmp_path / "m.keras"
    )
    ran = run("m.keras", "--quiet")
    assert ran.code == MODEL
    assert ran.table == {"triple": ["Lambda", "refused"], "memory": ["LSTM", "not written"]}


@pytest.mark.parametrize(
    ("arguments", "code"), [(("--time", "0"), OPTION), (("--builder", "nowhere:f"), OPTION)]
)
def test_an_error_of_no_layer_has_no_table(run, saved, arguments, code):
    ran = run(saved("lstm"), *arguments, "--quiet")
    assert ran.code == code
    assert ran.table == {}
    assert ran.err.count("\n") == 1


@pytest.mark.slow
def test_a_failed_export_from_python_explains_the_layers(own, tmp_path):
    model = floats(own.Bits(name="bend"), kl.LSTM(2, name="memory"))
    failed = run_export(model, tmp_path / "out", ExportOptions())
    assert isinstance(failed, FailedExport)
    assert isinstance(failed.error, UnsupportedOperatorError)
    forms = {item.layer: item.formats for item in failed.explanation.layers}
    assert forms["bend"]["tflite"].form == "refused"
    assert forms["memory"]["onnx"].form == "LSTM"
    assert forms["memory"]["onnx"].exact
    assert not (tmp_path / "out").exists()
    with pytest.raises(UnsupportedOperatorError) as raised:
        export(model, tmp_path / "out")
    assert list(raised.value.operators) == ["BitwiseOr"]


@pytest.mark.parametrize(
    ("node", "layer"),
    [
        ("m_1/lstm/add", "lstm"),
        ("m_1/lstm_1/add", "lstm_1"),
        ("m_1/lstm_1_1/add", "lstm_1"),
        ("m_1/lstm_7/add", "lstm"),
        ("m_1/outer/inner_2/Erf", "inner"),
        ("m_1/lstmish/add", None),
        ("", None),
    ],
)
def test_the_layer_of_a_node(node, layer):
    names = ("lstm", "lstm_1", "outer", "inner")
    assert layer_of_node(node, names) == layer


def test_errors_name_no_layers_by_default():
    for cls in (ExportError, ParityError, UnsupportedModelError):
        assert cls("words").layers == ()
