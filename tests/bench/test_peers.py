"""Comparing with Keras: through an entry point, and only if the outputs are the same."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import bilstm_runtime
from bilstm_bench import contenders
from bilstm_bench.contenders import Peer, compare_outputs, guarded
from bilstm_runtime.comparison import Tolerance
from bilstm_runtime.errors import PeerError

from .conftest import FIXTURES, QUICK

needs_keras = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None or importlib.util.find_spec("onnx") is None,
    reason="needs the exporter's libraries",
)
TOLERANCE = Tolerance(1e-5, 1e-4)


class Entry:
    name = "test"

    def __init__(self, peers, error=None):
        self._peers, self._error = peers, error

    def load(self):
        if self._error is not None:
            raise self._error

        @contextlib.contextmanager
        def provider(model, spec, *, threads, custom_objects):
            yield self._peers

        return provider


@pytest.fixture
def registered(monkeypatch):
    def register(*entries):
        monkeypatch.setattr(contenders.metadata, "entry_points", lambda **_: list(entries))

    return register


def against(run, *more):
    ran = run(
        FIXTURES / "tagger", *QUICK, "--lengths", "3,9", "--only", "latency",
        "--against", "model.keras", "--json", "--quiet", *more,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    cases = json.loads(ran.out)["cases"]
    return [case for case in cases if case["variant"] is None]


def right(inputs):
    return [bilstm_runtime.load(FIXTURES / "tagger", threads=1).predict(inputs)]


def test_a_peer_that_gives_the_bundles_answers_is_timed(run, registered):
    registered(Entry([Peer("right", right)]))
    found = against(run)
    assert [case["name"] for case in found] == ["right, 1 thread"] * 2
    assert all(case["latency"] and case["comparison"] for case in found)
    assert all(case["difference"] == 0 for case in found)


def test_a_peer_that_answers_wrongly_is_listed_and_not_timed(run, registered):
    registered(
        Entry(
            [
                Peer("off", lambda x: [output + 0.1 for output in right(x)]),
                Peer("cut", lambda x: [output[:, 1:] for output in right(x)]),
                Peer("two", lambda x: [*right(x), *right(x)]),
                Peer("nan", lambda x: [output * np.nan for output in right(x)]),
                Peer("broken", lambda x: 1 / 0),
                Peer("absent", None, "there is none for this model"),
            ]
        )
    )
    found = against(run)
    assert len(found) == 12
    assert not any(case["latency"] for case in found)
    why = {case["name"].partition(",")[0]: case["failure"] for case in found}
    assert "differ from the bundle's by up to 0.1" in why["off"]
    assert "shape" in why["cut"]
    assert "returns 2 outputs" in why["two"]
    assert "differ" in why["nan"]
    assert why["broken"] == "broken failed: division by zero"
    assert why["absent"] == "there is none for this model"


def test_a_peer_that_fails_later_is_taken_out(run, registered):
    calls = []

    def later(inputs):
        calls.append(None)
        if len(calls) > 8:
            message = "no more"
            raise ValueError(message)
        return right(inputs)

    registered(Entry([Peer("later", later)]))
    assert "no more" in " ".join(case["failure"] for case in against(run))


def test_an_exporter_that_cannot_be_imported_is_said(run, registered):
    registered(Entry([], ImportError("No module named 'tensorflow'")))
    ran = run(FIXTURES / "tagger", *QUICK, "--against", "model.keras", "--quiet")
    assert ran.code == 2
    assert "No module named 'tensorflow'" in ran.err
    assert "bilstm-edge[export]" in ran.err


def test_the_comparison_can_fail():
    one = [np.array([1.0, 2.0], np.float32)]
    assert compare_outputs(one, one, TOLERANCE) == (0.0, "")
    largest, why = compare_outputs([one[0] + np.float32(1e-3)], one, TOLERANCE)
    assert largest == pytest.approx(1e-3, rel=1e-3)
    assert "times the tolerance" in why
    with pytest.raises(PeerError, match="x failed: KeyError"):
        guarded(Peer("x", lambda _: (_ for _ in ()).throw(KeyError())))({})


def test_the_exporter_registers_its_peers():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    group = text.partition(f'[project.entry-points."{contenders.GROUP}"]\n')[2]
    assert group.startswith('keras = "bilstm_exporter.bench_peers:keras_peers"\n')


@pytest.mark.slow
@needs_keras
def test_keras_and_its_own_export_take_part(tmp_path, run, registered):
    import keras

    from bilstm_exporter import export
    from bilstm_exporter.bench_peers import keras_peers

    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="tokens"),
            layers.Embedding(9, 4, mask_zero=True),
            layers.Bidirectional(layers.LSTM(3)),
            layers.Dense(2, name="label"),
        ]
    )
    model.save(tmp_path / "model.keras")
    export(model, tmp_path / "model-edge")

    class Exporters(Entry):
        def load(self):
            return keras_peers

    registered(Exporters([]))
    arguments = ("--lengths", "4", "--only", "latency", "--json", "--quiet", "--against")
    ran = run(tmp_path / "model-edge", *QUICK, *arguments, tmp_path / "model.keras")
    assert ran.code == 0, ran.err
    found = {c["name"]: c for c in json.loads(ran.out)["cases"] if c["variant"] is None}
    assert {name.partition(",")[0] for name in found} == {
        "Keras predict",
        "Keras predict_on_batch",
        "tf.function",
        "stock ONNX export",
    }
    for case in found.values():
        assert case["latency"], case["failure"]
        assert case["difference"] < 1e-4

    other = run(FIXTURES / "pair", *QUICK, *arguments, tmp_path / "model.keras")
    assert other.code == 2
    assert "Give the model that the bundle was exported from" in other.err
    none = run(tmp_path / "model-edge", *QUICK, *arguments, tmp_path / "none.keras")
    assert none.code == 2
    assert "none.keras" in none.err
