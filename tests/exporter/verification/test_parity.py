"""Parity with Keras: the comparison fails on any wrong artifact."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from bilstm_exporter.errors import ParityError
from bilstm_exporter.frontends.loading import read
from bilstm_exporter.inspection.candidates import ProbeKind
from bilstm_exporter.inspection.probes import Probe
from bilstm_exporter.verification.parity import Parity, measure_parity, require_parity

INF, NAN = np.inf, np.nan


def _double(inputs):
    return [inputs[0] * 2]


@pytest.fixture
def probes(rng) -> list[Probe]:
    arrays = [rng.standard_normal((batch, 4)).astype(np.float32) for batch in (1, 2, 3)]
    return [Probe(ProbeKind.ORDINARY, f"batch {len(a)}", [a], _double([a])) for a in arrays]


def test_parity_of_the_right_outputs(probes):
    parity = measure_parity(_double, probes, ["y"])
    assert parity.passed
    assert (parity.probes, parity.max_abs_error, parity.max_error_ratio) == (3, 0, 0)
    require_parity("model.onnx", parity)


def test_parity_sees_what_a_session_keeps_between_runs(probes):
    state = np.zeros(4, np.float32)

    def leaking(inputs):
        outputs = [inputs[0] * 2 + state]
        state[:] = inputs[0][-1]
        return outputs

    parity = measure_parity(leaking, probes, ["y"])
    assert not parity.passed


def test_parity_runs_twice_even_a_single_probe(probes):
    runs = []

    def wrong_the_second_time(inputs):
        runs.append(inputs)
        return [inputs[0] * 2 + 0.01 * (len(runs) - 1)]

    parity = measure_parity(wrong_the_second_time, probes[:1], ["y"])
    assert len(runs) == 2
    assert not parity.passed


def test_parity_sees_other_rows_than_the_first(probes):
    def right_for_row_0(inputs):
        outputs = inputs[0] * 2
        outputs[1:] = outputs[:1]
        return [outputs]

    parity = measure_parity(right_for_row_0, probes, ["y"])
    assert not parity.passed
    assert parity.worst_probe in ("batch 2", "batch 3")


def test_parity_sees_nan(probes):
    def nan(inputs):
        outputs = inputs[0] * 2
        outputs[-1, -1] = NAN
        return [outputs]

    parity = measure_parity(nan, probes, ["y"])
    assert not parity.passed
    assert parity.max_error_ratio == INF
    with pytest.raises(ParityError, match="NaN or infinity, but the reference has a number"):
        require_parity("model.onnx", parity)


def test_parity_sees_outputs_in_another_order(rng):
    a, b = (rng.standard_normal((2, 3)).astype(np.float32) for _ in range(2))
    probes = [Probe(ProbeKind.ORDINARY, "one", [a], [a, b])]
    assert measure_parity(lambda _: [a, b], probes, ["p", "q"]).passed
    assert not measure_parity(lambda _: [b, a], probes, ["p", "q"]).passed


@pytest.mark.parametrize("count", [0, 2])
def test_parity_refuses_another_number_of_outputs(probes, count):
    with pytest.raises(ValueError, match="zip"):
        measure_parity(lambda inputs: [inputs[0] * 2] * count, probes, ["y"])


def test_parity_names_the_worst_of_all(rng):
    """The largest error as a multiple of its tolerance, and the largest error, may be two."""
    small, large = np.zeros((2, 3), np.float32), np.full((2, 3), 1e6, np.float32)
    probes = [
        Probe(ProbeKind.ORDINARY, "small", [small], [small, small]),
        Probe(ProbeKind.ORDINARY, "large", [large], [small, large]),
    ]

    def run(inputs):
        if inputs[0] is large:
            return [small, large + 50]
        return [small + np.float32(2e-5), small]

    parity = measure_parity(run, probes, ["p", "q"])
    assert (parity.worst_probe, parity.worst_output) == ("small", "p")
    assert parity.max_error_ratio == pytest.approx(2, rel=1e-5)
    assert parity.max_abs_error == 50
    assert parity.to_dict()["max_abs_error"] == 50


@pytest.mark.parametrize("ratio", [1.0000001, 2.0, INF])
def test_require_parity_raises_and_names_output_probe_and_error(ratio):
    parity = Parity(9, 0.25, ratio, "left padding", "label")
    assert not parity.passed
    with pytest.raises(ParityError) as raised:
        require_parity("model.tflite", parity)
    words = str(raised.value)
    for part in ("model.tflite", "'label'", "'left padding'", f"{ratio:.3g} times", "0.25"):
        assert part in words
    assert isinstance(raised.value, ArithmeticError)


def test_require_parity_lets_the_tolerance_itself_pass():
    require_parity("model.onnx", Parity(9, 1e-5, 1.0, "p", "y"))


def test_nothing_compared_is_no_pass():
    with pytest.raises(ParityError, match="could not be compared"):
        require_parity("model.onnx", measure_parity(_double, [], ["y"]))


@pytest.mark.parametrize("name", ["lstm", pytest.param("classifier", marks=pytest.mark.slow)])
def test_a_slightly_wrong_model_does_not_pass(inspected, name):
    """Probes of one model, run on the same model with one weight off by a thousandth."""
    found = inspected(name)
    other = keras.models.clone_model(found.model)
    weights = found.model.get_weights()
    weights[-1] = weights[-1] + np.float32(1e-3)
    other.set_weights(weights)
    run = read(other)[0].reference
    parity = measure_parity(run, found.probes.probes[::5], found.loaded.output_names)
    assert not parity.passed
    assert parity.max_abs_error == pytest.approx(1e-3, rel=1e-2)
