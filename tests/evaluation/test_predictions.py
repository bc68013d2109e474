"""Predictions of Keras and of artifacts for the same examples, and inputs to calibrate with."""

import numpy as np
import pytest

from bilstm_exporter.errors import DataError
from bilstm_exporter.evaluation import predictions
from bilstm_exporter.evaluation.data import read_data
from bilstm_exporter.evaluation.dataset import dataset_of_probes
from bilstm_exporter.evaluation.predictions import (
    MIN_CALIBRATION,
    calibration_runs,
    keras_predictions,
    predict_dataset,
)
from bilstm_runtime.errors import BackendRunError
from bilstm_runtime.predictor import Predictor
from bilstm_runtime.spec import Axis, InputSpec, StateSpec

from .fakes import TIME, FakeKeras, model_spec, output, predictor, recording

TAGGER = model_spec(outputs=[output(TIME, 1), output(name="sum")])
RAGGED = [[1, 2, 3], [4, 5], [6], [7, 8, 9, 1, 2, 3]]


def doubled(ids):
    return [2.0 * ids[..., None].astype(np.float32), ids.sum(axis=1).astype(np.float32)]


def test_ragged_predictions_lose_their_padding_and_keep_their_order():
    dataset = read_data(RAGGED, TAGGER)
    found = predict_dataset(predictor(doubled, TAGGER), dataset)
    assert [a[:, 0].tolist() for a in found["out"]] == [[2 * i for i in row] for row in RAGGED]
    assert found["sum"].tolist() == [6, 9, 6, 30]


def test_an_artifact_runs_one_example_per_call_and_keras_many():
    source, session = FakeKeras(doubled), recording(doubled)
    dataset = read_data(RAGGED, TAGGER)
    keras = keras_predictions(source, TAGGER, dataset)
    found = predict_dataset(Predictor(TAGGER, session, label="fake"), dataset)
    assert sorted(run[0].shape for run in session.runs) == [(1, 1), (1, 2), (1, 3), (1, 6)]
    assert len(source.calls) < 4
    assert (found["sum"] == keras["sum"]).all()
    assert all((a == b).all() for a, b in zip(found["out"], keras["out"], strict=True))


def test_where_padding_matters_only_equal_lengths_run_together():
    source = FakeKeras(doubled)
    described = model_spec(outputs=TAGGER.outputs, padding_neutral=False)
    keras_predictions(source, described, read_data(RAGGED, described))
    assert sorted(run[0].shape for run in source.calls) == [(1, 1), (1, 2), (1, 3), (1, 6)]


@pytest.mark.parametrize(("steps", "rows"), [(2**14, 5), (12, 3), (4, 1), (1, 1)])
def test_long_sequences_go_to_keras_in_small_batches(monkeypatch, steps, rows):
    monkeypatch.setattr(predictions, "_MAX_KERAS_STEPS", steps)
    source = FakeKeras(doubled)
    keras_predictions(source, TAGGER, read_data(np.ones((5, 4), int), TAGGER))
    assert source.calls[0][0].shape == (rows, 4)


def test_rows_that_depend_on_each_other_run_apart():
    source = FakeKeras(doubled)
    described = model_spec(outputs=TAGGER.outputs, rows_independent=False)
    found = keras_predictions(source, described, read_data(RAGGED, described))
    assert [run[0].shape for run in source.calls] == [(1, 3), (1, 2), (1, 1), (1, 6)]
    assert [len(a) for a in found["out"]] == [3, 2, 1, 6]


def test_a_stateful_model_starts_every_call_from_zero_states():
    ids = InputSpec("ids", "int32", (Axis("batch", 2), TIME), range=(0, 9), mask_value=0)
    state = StateSpec("state", "float32", (Axis("batch", 2), Axis(None, 1)))
    described = model_spec([ids], [output(name="sum")], rows_independent=False, states=[state])
    source = FakeKeras(
        lambda x, s: [(x.sum(axis=1) + s[:, 0]).astype(np.float32), (s + 100).astype(np.float32)]
    )
    dataset = read_data(np.arange(1, 9).reshape(4, 2), described)
    found = keras_predictions(source, described, dataset)
    assert found["sum"].tolist() == [3, 7, 11, 15]
    assert all((run[1] == 0).all() for run in source.calls)


def test_an_error_of_keras_is_reported():
    def refuses(ids):
        message = "too short\nand more"
        raise ValueError(message)

    with pytest.raises(BackendRunError, match=r"refuses inputs of shape \[1, 2\]: too short$"):
        keras_predictions(FakeKeras(refuses), TAGGER, read_data([[1, 2]], TAGGER))


def test_a_batch_that_cannot_be_made_is_reported():
    ids = InputSpec("ids", "int32", (Axis("batch", 2), TIME), range=(0, 9))
    described = model_spec(
        [ids], [output(name="sum")], padding_neutral=False, rows_independent=False
    )
    with pytest.raises(DataError, match="the data: the outputs of this model depend on which"):
        predict_dataset(predictor(doubled, described), read_data([[1, 2], [3]], described))


def fixed(batch=1, time=4):
    axes = (Axis("batch", batch), Axis("time", time))
    return model_spec(
        [InputSpec("ids", "int32", axes, range=(0, 9), mask_value=0)], [output(name="sum")]
    )


def test_calibration_gets_what_the_runtime_would_run():
    described = fixed()
    examples = [[1 + n % 9] * (1 + n % 4) for n in range(MIN_CALIBRATION + 4)]
    source = FakeKeras(lambda ids: [ids.sum(axis=1).astype(np.float32)])
    runs = calibration_runs(
        source, described, read_data(examples, described), max_examples=MIN_CALIBRATION
    )
    assert [len(run) for run in runs] == [1] * MIN_CALIBRATION
    assert {run[0].shape for run in runs} == {(1, 4)}
    shown = sorted(row for run in runs for row in run[0].tolist())
    assert shown == sorted(e + [0] * (4 - len(e)) for e in examples[:MIN_CALIBRATION])


def test_calibration_of_a_stateful_model_gets_its_states():
    ids = InputSpec("ids", "int32", (Axis("batch", 1), TIME), range=(0, 9))
    state = StateSpec("state", "float32", (Axis("batch", 1), Axis(None, 1)))
    described = model_spec([ids], [output(name="sum")], rows_independent=False, states=[state])
    source = FakeKeras(lambda x, s: [x.sum(axis=1).astype(np.float32), s + 1])
    dataset = read_data(np.ones((MIN_CALIBRATION, 2), int), described)
    runs = calibration_runs(source, described, dataset)
    assert [len(run) for run in runs] == [2] * MIN_CALIBRATION


def test_too_few_examples_to_calibrate():
    described = fixed()
    dataset = read_data([[1, 2]] * (MIN_CALIBRATION - 1), described)
    with pytest.raises(
        DataError, match=f"{MIN_CALIBRATION - 1} examples are too few .* least {MIN_CALIBRATION}"
    ):
        calibration_runs(FakeKeras(doubled), described, dataset)


class FakeProbe:
    def __init__(self, array):
        self.inputs, self.outputs = [array], [np.zeros(1)]


def test_probes_can_stand_in_for_data_but_not_calibrate():
    described = fixed()
    probes = [FakeProbe(np.ones((7, 4), np.int32)), FakeProbe(np.ones((20, 2), np.int32))]
    dataset = dataset_of_probes(probes, described)
    assert dataset.count == 27
    assert dataset.from_probes
    assert not read_data([[1, 2]], described).from_probes
    with pytest.raises(DataError, match="give it with --data"):
        calibration_runs(FakeKeras(doubled), described, dataset)
