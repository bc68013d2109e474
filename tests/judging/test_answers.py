"""Everybody is asked the same questions; and what calibration is given."""

import numpy as np
import pytest

from bilstm_exporter.errors import DataError
from bilstm_exporter.evaluation import predictions as answers_module
from bilstm_exporter.evaluation.calibration import FEWEST, calibration_runs
from bilstm_exporter.evaluation.data import read_data
from bilstm_exporter.evaluation.dataset import PROBES, dataset_of_probes
from bilstm_exporter.evaluation.predictions import ask, keras_answers, session_model
from bilstm_runtime.errors import BackendRunError
from bilstm_runtime.spec import Axis, InputSpec, StateSpec

from .fakes import TIME, FakeSession, FakeSource, manifest, model, output

TAGGER = manifest(outputs=[output(TIME, 1), output(name="sum")])
RAGGED = [[1, 2, 3], [4, 5], [6], [7, 8, 9, 1, 2, 3]]


def doubled(ids):
    return [2.0 * ids[..., None].astype(np.float32), ids.sum(axis=1).astype(np.float32)]


def test_ragged_answers_lose_their_padding_and_keep_their_order():
    dataset = read_data(RAGGED, TAGGER)
    found = ask(model(doubled, TAGGER), dataset)
    assert [a[:, 0].tolist() for a in found["out"]] == [[2 * i for i in row] for row in RAGGED]
    assert found["sum"].tolist() == [6, 9, 6, 30]


def test_an_artifact_is_asked_one_by_one_and_keras_for_many():
    source, session = FakeSource(doubled), FakeSession(doubled)
    dataset = read_data(RAGGED, TAGGER)
    keras = keras_answers(source, TAGGER, dataset)
    found = ask(session_model(session, TAGGER, "fake"), dataset)
    assert sorted(run[0].shape for run in session.asked) == [(1, 1), (1, 2), (1, 3), (1, 6)]
    assert len(source.session.asked) < 4
    assert (found["sum"] == keras["sum"]).all()
    assert all((a == b).all() for a, b in zip(found["out"], keras["out"], strict=True))


def test_where_padding_matters_only_equal_lengths_run_together():
    source = FakeSource(doubled)
    described = manifest(outputs=TAGGER.outputs, padding_neutral=False)
    keras_answers(source, described, read_data(RAGGED, described))
    assert sorted(run[0].shape for run in source.session.asked) == [(1, 1), (1, 2), (1, 3), (1, 6)]


@pytest.mark.parametrize(("steps", "rows"), [(2**14, 5), (12, 3), (4, 1), (1, 1)])
def test_long_sequences_go_to_keras_in_small_batches(monkeypatch, steps, rows):
    monkeypatch.setattr(answers_module, "_MOST_STEPS", steps)
    source = FakeSource(doubled)
    keras_answers(source, TAGGER, read_data(np.ones((5, 4), int), TAGGER))
    assert source.session.asked[0][0].shape == (rows, 4)


def test_rows_that_depend_on_each_other_are_asked_apart():
    source = FakeSource(doubled)
    described = manifest(outputs=TAGGER.outputs, rows_independent=False)
    found = keras_answers(source, described, read_data(RAGGED, described))
    assert [run[0].shape for run in source.session.asked] == [(1, 3), (1, 2), (1, 1), (1, 6)]
    assert [len(a) for a in found["out"]] == [3, 2, 1, 6]


def test_a_stateful_model_starts_every_question_afresh():
    ids = InputSpec("ids", "int32", (Axis("batch", 2), TIME), range=(0, 9), mask_value=0)
    state = StateSpec("state", "float32", (Axis("batch", 2), Axis(None, 1)))
    described = manifest([ids], [output(name="sum")], rows_independent=False, states=[state])
    source = FakeSource(
        lambda x, s: [(x.sum(axis=1) + s[:, 0]).astype(np.float32), (s + 100).astype(np.float32)]
    )
    dataset = read_data(np.arange(1, 9).reshape(4, 2), described)
    found = keras_answers(source, described, dataset)
    assert found["sum"].tolist() == [3, 7, 11, 15]
    assert all((run[1] == 0).all() for run in source.session.asked)


def test_what_keras_refuses_is_told():
    def refuses(ids):
        message = "too short\nand more"
        raise ValueError(message)

    with pytest.raises(BackendRunError, match=r"refuses inputs of shape \[1, 2\]: too short$"):
        keras_answers(FakeSource(refuses), TAGGER, read_data([[1, 2]], TAGGER))


def test_a_batch_that_cannot_be_made_is_told():
    ids = InputSpec("ids", "int32", (Axis("batch", 2), TIME), range=(0, 9))
    described = manifest([ids], [output(name="sum")], padding_neutral=False, rows_independent=False)
    with pytest.raises(DataError, match="the data: the answers of this model depend on which"):
        ask(model(doubled, described), read_data([[1, 2], [3]], described))


def fixed(batch=1, time=4):
    axes = (Axis("batch", batch), Axis("time", time))
    return manifest(
        [InputSpec("ids", "int32", axes, range=(0, 9), mask_value=0)], [output(name="sum")]
    )


def test_calibration_gets_what_the_runtime_would_run():
    described = fixed()
    examples = [[1 + n % 9] * (1 + n % 4) for n in range(FEWEST + 4)]
    source = FakeSource(lambda ids: [ids.sum(axis=1).astype(np.float32)])
    runs = calibration_runs(source, described, read_data(examples, described), most=FEWEST)
    assert [len(run) for run in runs] == [1] * FEWEST
    assert {run[0].shape for run in runs} == {(1, 4)}
    shown = sorted(row for run in runs for row in run[0].tolist())
    assert shown == sorted(e + [0] * (4 - len(e)) for e in examples[:FEWEST])


def test_calibration_of_a_stateful_model_meets_its_states():
    ids = InputSpec("ids", "int32", (Axis("batch", 1), TIME), range=(0, 9))
    state = StateSpec("state", "float32", (Axis("batch", 1), Axis(None, 1)))
    described = manifest([ids], [output(name="sum")], rows_independent=False, states=[state])
    source = FakeSource(lambda x, s: [x.sum(axis=1).astype(np.float32), s + 1])
    dataset = read_data(np.ones((FEWEST, 2), int), described)
    runs = calibration_runs(source, described, dataset)
    assert [len(run) for run in runs] == [2] * FEWEST


def test_too_few_examples_to_calibrate():
    described = fixed()
    dataset = read_data([[1, 2]] * (FEWEST - 1), described)
    with pytest.raises(DataError, match=f"{FEWEST - 1} examples are too few .* least {FEWEST}"):
        calibration_runs(FakeSource(doubled), described, dataset)


class FakeProbe:
    def __init__(self, array):
        self.inputs, self.outputs = [array], [np.zeros(1)]


def test_probes_can_stand_in_for_data_but_not_calibrate():
    described = fixed()
    probes = [FakeProbe(np.ones((7, 4), np.int32)), FakeProbe(np.ones((20, 2), np.int32))]
    dataset = dataset_of_probes(probes, described)
    assert dataset.count == 27
    assert dataset.origin == PROBES
    with pytest.raises(DataError, match="give it with --data"):
        calibration_runs(FakeSource(doubled), described, dataset)
