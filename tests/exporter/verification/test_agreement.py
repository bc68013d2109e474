"""Agreement of quantized artifacts: errors are measured, mismatches and kept state refused."""

from __future__ import annotations

import numpy as np
import pytest

from bilstm_exporter.errors import ParityError
from bilstm_exporter.inspection.candidates import ProbeKind
from bilstm_exporter.inspection.probes import Probe
from bilstm_exporter.verification.agreement import measure_agreement


def probe(name: str, *outputs: np.ndarray) -> Probe:
    return Probe(ProbeKind.ORDINARY, name, [np.arange(2, dtype=np.float32)], list(outputs))


@pytest.fixture
def probes() -> list[Probe]:
    return [
        probe("small", np.full((2, 2), 3, np.float32)),
        probe("large", np.full((2, 2), 4, np.float32)),
    ]


def answering(probes, *errors):
    """A run of the probes in their order, then in reverse, each output off by its error."""
    order = iter([*range(len(probes)), *reversed(range(len(probes)))])

    def run(_inputs):
        index = next(order)
        return [output + np.float32(errors[index]) for output in probes[index].outputs]

    return run


def test_errors_are_measured_over_all_probes(probes):
    found = measure_agreement("f", answering(probes, 0.5, -1.0), probes, ["y"])
    assert found.probes == 2
    assert (found.max_abs_error, found.worst_probe, found.worst_output) == (1.0, "large", "y")
    assert found.mean_abs_error == pytest.approx(0.75)
    assert found.relative_error == pytest.approx(np.sqrt((0.25 + 1) / (9 + 16)))
    assert found.closeness == "22.36% of outputs"
    assert found.to_dict()["mean_abs_error"] == found.mean_abs_error


def test_another_device_is_allowed_twice_the_error(probes):
    found = measure_agreement("f", answering(probes, 0.5, -1.0), probes, ["y"])
    assert found.tolerance.absolute == pytest.approx(2.0 + 1e-5)
    assert found.tolerance.relative == 1e-4


def test_integers_count_for_nothing_but_must_agree_between_runs():
    labels = [probe("ids", np.array([1, 2], np.int32))]
    found = measure_agreement("f", lambda _: [np.array([1, 3], np.int32)], labels, ["y"])
    assert (found.max_abs_error, found.mean_abs_error) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (np.array([1.0, np.nan], np.float32), "NaN or infinity, but the reference has a number"),
        (np.array([1.0], np.float32), r"shape \(1,\)"),
        (np.array([1.0, 2.0]), "dtype float64"),
    ],
)
def test_what_is_no_number_where_keras_has_one_is_refused(output, words):
    one = [probe("p", np.array([1.0, 2.0], np.float32))]
    with pytest.raises(ParityError, match=words) as raised:
        measure_agreement("model.int8.onnx", lambda _: [output], one, ["label"])
    for part in ("model.int8.onnx", "'label'", "'p'", "--recipes"):
        assert part in str(raised.value)


def test_what_is_kept_between_runs_is_refused(probes):
    kept = [0.0]

    def run(_inputs):
        kept[0] += 1e-6
        return [np.full((2, 2), 3 + kept[0], np.float32)]

    with pytest.raises(ParityError, match="in the second run"):
        measure_agreement("f", run, probes, ["y"])
