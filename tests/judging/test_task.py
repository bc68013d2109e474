"""Which task an output is taken for, and with which metric."""

import numpy as np
import pytest

from bilstm_exporter.errors import DataError, OptionError
from bilstm_exporter.evaluation.data import read_data
from bilstm_exporter.evaluation.steps import find_steps, is_per_step
from bilstm_exporter.evaluation.task import choose_task, parse_metrics
from bilstm_runtime.spec import Axis

from .fakes import FEATURES, IDS, TIME, manifest, one_hot, output

COUNT, STEPS = 4, 3
IDS_OF_FOUR = np.ones((COUNT, STEPS), np.int32)
SOFTMAX = one_hot([0, 1, 2, 0], 3)
SIGMOIDS = np.array([[0.9, 0.8, 0.1], [0.2, 0.9, 0.1], [0.1, 0.1, 0.1], [0.9, 0.1, 0.6]])
LOGITS = np.array([[5.0, -2, 1], [0, 3, 1], [1, 2, 9], [4, 1, -1]])
NUMBERS = np.array([[0.5], [3.0], [-2.0], [7.0]])
STEPWISE = np.broadcast_to(SOFTMAX[:, np.newaxis], (COUNT, STEPS, 3))
YES_NO = np.array([0, 1, 1, 0])


def task(answers, labels=None, metric=None, spec=None, ids=IDS_OF_FOUR):
    answers = np.asarray(answers)
    if spec is None:
        axes = [TIME, *answers.shape[2:]] if answers.ndim == 3 else answers.shape[1:]
        spec = output(*axes)
    described = manifest(outputs=[spec])
    dataset = read_data((ids, labels) if labels is not None else ids, described)
    steps = find_steps(spec, described, dataset, answers)
    return choose_task(steps, steps.rows(answers), dataset.labels.get("out"), metric)


CASES = {
    "softmax": ((SOFTMAX,), "classification", "accuracy"),
    "softmax, classes": ((SOFTMAX, [0, 1, 2, 1]), "classification", "accuracy"),
    "softmax, classes in a column": ((SOFTMAX, [[0], [1], [2], [1]]), "classification", "accuracy"),
    "softmax, one-hot": ((SOFTMAX, np.eye(3)[[0, 1, 2, 1]]), "classification", "accuracy"),
    "softmax, soft labels": ((SOFTMAX, SOFTMAX), "classification", "accuracy"),
    "softmax, classes as floats": ((SOFTMAX, [0.0, 1, 2, 1]), "classification", "accuracy"),
    "logits, classes": ((LOGITS, [0, 1, 2, 1]), "classification", "accuracy"),
    "logits": ((LOGITS,), "regression", "mae"),
    "logits, wanted": ((LOGITS, np.eye(3)[[0, 1, 2, 1]], "f1"), "classification", "f1"),
    "sigmoids": ((SIGMOIDS,), "multilabel", "f1"),
    "sigmoids, several yes": ((SIGMOIDS, SIGMOIDS > 0.5), "multilabel", "f1"),
    "sigmoids, accuracy": ((SIGMOIDS, SIGMOIDS > 0.5, "accuracy"), "multilabel", "accuracy"),
    "one sigmoid": ((SIGMOIDS[:, :1],), "binary", "accuracy"),
    "one sigmoid, yes or no": ((SIGMOIDS[:, :1], YES_NO), "binary", "accuracy"),
    "one logit, yes or no": ((NUMBERS, YES_NO), "binary", "accuracy"),
    "one logit, hinge": ((NUMBERS, [-1, 1, 1, -1]), "binary", "accuracy"),
    "numbers": ((NUMBERS,), "regression", "mae"),
    "numbers, numbers": ((NUMBERS, [0.5, 1, 2, 3]), "regression", "mae"),
    "counts": ((NUMBERS, [5, 1, 2, 3]), "regression", "mae"),
    "one sigmoid, numbers": ((SIGMOIDS[:, :1], [0.5, 0.2, 0.2, 0.4]), "regression", "mae"),
    "several numbers": ((LOGITS, LOGITS + 0.5, "rmse"), "regression", "rmse"),
    "steps": ((STEPWISE,), "classification", "f1"),
    "steps, classes": ((STEPWISE, np.ones((COUNT, STEPS), int)), "classification", "f1"),
    "steps, classes, accuracy": (
        (STEPWISE, np.ones((COUNT, STEPS), int), "accuracy"),
        "classification",
        "accuracy",
    ),
    "steps, a sigmoid": ((STEPWISE[..., :1], np.ones((COUNT, STEPS), int)), "binary", "f1"),
    "steps, numbers": ((STEPWISE * 9, STEPWISE * 9 + 0.5), "regression", "mae"),
    "integers": ((np.array([[1], [2], [0], [1]]), [1, 2, 0, 0]), "decided", "accuracy"),
}


@pytest.mark.parametrize("case", CASES)
def test_kind_and_metric(case):
    arguments, kind, metric = CASES[case]
    found = task(*arguments)
    assert (found.kind, found.metric) == (kind, metric)


def test_names_for_people():
    assert task(STEPWISE).name == "tagging"
    assert task(SOFTMAX).name == "classification"
    assert task(np.array([[1], [2], [0], [1]])).name == "classification"


@pytest.mark.parametrize(("answers", "threshold"), [(SIGMOIDS[:, :1], 0.5), (NUMBERS, 0.0)])
def test_a_threshold_is_half_for_probabilities_and_zero_for_logits(answers, threshold):
    found = task(answers, YES_NO)
    assert found.threshold == threshold
    assert found.decisions(answers).tolist() == (answers[:, 0] > threshold).astype(int).tolist()


def test_what_is_not_a_number_decides_nothing():
    broken = SOFTMAX.copy()
    broken[0, 2] = np.nan
    assert task(SOFTMAX).decisions(broken).tolist() == [-2, 1, 2, 0]
    assert task(SIGMOIDS).decisions(np.full((1, 3), np.nan)).tolist() == [[-2, -2, -2]]


def test_keras_answering_nan_somewhere_changes_no_task():
    answers = SOFTMAX.copy()
    answers[1] = np.nan
    assert task(answers).kind == "classification"
    assert task(SIGMOIDS[:, :1] + [[0], [0], [np.nan], [0]], YES_NO).threshold == 0.5


def test_padding_labels_leave_steps_out_but_minus_one_is_a_number():
    labels = np.array([[0, 1, -1], [1, -1, -1], [2, 2, 2], [0, 0, 0]])
    found = task(STEPWISE, labels)
    assert found.labelled.tolist() == [True, True, False, True, False, False] + [True] * 6
    assert found.labels.tolist() == [0, 1, 1, 2, 2, 2, 0, 0, 0]
    numbers = task(STEPWISE[..., :1] * 9, np.array([[5, 1, -1]] * COUNT))
    assert numbers.kind == "regression"
    assert numbers.labelled.all()


def test_labels_padded_longer_than_the_sequence():
    answers = [STEPWISE[0], STEPWISE[1][:2]]
    labels = np.array([[0, 1, 2], [0, 1, -1]])
    spec = output(TIME, 3)
    described = manifest(outputs=[spec])
    dataset = read_data(([[1, 2, 3], [1, 2]], labels), described)
    steps = find_steps(spec, described, dataset, answers)
    found = choose_task(steps, steps.rows(answers), dataset.labels["out"], None)
    assert found.labels.tolist() == [0, 1, 2, 0, 1]


BAD = {
    "a class too many": ((SOFTMAX, [0, 1, 3, 0]), "hold 3; its classes are 0 to 2"),
    "a negative class": ((SOFTMAX, [0, 1, -1, 0]), "hold -1; its classes"),
    "another shape": ((SOFTMAX, np.ones((4, 2))), r"shape \[2\], where the answer suits \[\] or"),
    "too many steps": ((STEPWISE, np.ones((4, 5), int)), r"shape \[5\], where"),
    "no labels for a metric": ((SOFTMAX, None, "f1"), "f1 of 'out' needs labels"),
    "an error of classes": ((SOFTMAX, [0, 1, 2, 0], "mae"), "one number a row, its answers 3"),
    "f1 of numbers": ((NUMBERS, [0.5, 1, 2, 3], "f1"), "hold 0.5; it decides between 0 and 1"),
    "all padding": ((STEPWISE, -np.ones((4, 3), int)), "all -1, which marks padding"),
}


@pytest.mark.parametrize("case", BAD)
def test_labels_that_do_not_suit(case):
    arguments, words = BAD[case]
    with pytest.raises(DataError, match=words):
        task(*arguments)


def test_which_outputs_follow_time():
    described = manifest([FEATURES, IDS])
    assert is_per_step(output(TIME, 3), described)
    assert is_per_step(output(TIME), described)
    assert is_per_step(output(Axis(None, None)), described)
    assert is_per_step(output(50, 3), described)
    assert not is_per_step(output(3), described)
    assert not is_per_step(output(), described)


def test_metrics_wanted():
    outputs = ["tags", "score"]
    assert parse_metrics(None, outputs) == {}
    assert parse_metrics("f1", outputs) == {"tags": "f1", "score": "f1"}
    assert parse_metrics("tags=f1, score=mae", outputs) == {"tags": "f1", "score": "mae"}
    assert parse_metrics("accuracy,score=rmse", outputs) == {"tags": "accuracy", "score": "rmse"}


@pytest.mark.parametrize("text", ["precision", "f1,z=mae", "tags=", "=f1", "tags f1"])
def test_metrics_nobody_knows(text):
    with pytest.raises(OptionError, match="one of accuracy, f1, mae, rmse, or OUTPUT=METRIC"):
        parse_metrics(text, ["tags"])
