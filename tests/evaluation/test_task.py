"""The task and metric chosen for an output, and the metrics themselves."""

import importlib.util

import numpy as np
import pytest

from bilstm_exporter.errors import DataError, OptionError
from bilstm_exporter.evaluation.data import read_data
from bilstm_exporter.evaluation.steps import find_steps, is_per_step
from bilstm_exporter.evaluation.task import (
    TaskKind,
    _f1,
    choose_task,
    measure,
    metric_loss,
    parse_metrics,
)
from bilstm_runtime.spec import Axis

from .fakes import FEATURES, IDS, TIME, model_spec, one_hot, output

COUNT, STEPS = 4, 3
IDS_OF_FOUR = np.ones((COUNT, STEPS), np.int32)
SOFTMAX = one_hot([0, 1, 2, 0], 3)
SIGMOIDS = np.array([[0.9, 0.8, 0.1], [0.2, 0.9, 0.1], [0.1, 0.1, 0.1], [0.9, 0.1, 0.6]])
LOGITS = np.array([[5.0, -2, 1], [0, 3, 1], [1, 2, 9], [4, 1, -1]])
NUMBERS = np.array([[0.5], [3.0], [-2.0], [7.0]])
STEPWISE = np.broadcast_to(SOFTMAX[:, np.newaxis], (COUNT, STEPS, 3))
YES_NO = np.array([0, 1, 1, 0])


def task(predictions, labels=None, metric=None, spec=None, ids=IDS_OF_FOUR):
    predictions = np.asarray(predictions)
    if spec is None:
        axes = [TIME, *predictions.shape[2:]] if predictions.ndim == 3 else predictions.shape[1:]
        spec = output(*axes)
    described = model_spec(outputs=[spec])
    dataset = read_data((ids, labels) if labels is not None else ids, described)
    steps = find_steps(spec, described, dataset, predictions)
    return choose_task(steps, steps.rows(predictions), dataset.labels.get("out"), metric)


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
    "integers": ((np.array([[1], [2], [0], [1]]), [1, 2, 0, 0]), "integer classes", "accuracy"),
}


@pytest.mark.parametrize("case", CASES)
def test_kind_and_metric(case):
    arguments, kind, metric = CASES[case]
    found = task(*arguments)
    assert (found.kind.value, found.metric) == (kind, metric)


def test_names_for_people():
    assert task(STEPWISE).name == "tagging"
    assert task(SOFTMAX).name == "classification"
    assert task(np.array([[1], [2], [0], [1]])).name == "classification"


@pytest.mark.parametrize(("predictions", "threshold"), [(SIGMOIDS[:, :1], 0.5), (NUMBERS, 0.0)])
def test_a_threshold_is_half_for_probabilities_and_zero_for_logits(predictions, threshold):
    found = task(predictions, YES_NO)
    assert found.threshold == threshold
    assert (
        found.decisions(predictions).tolist()
        == (predictions[:, 0] > threshold).astype(int).tolist()
    )


def test_what_is_not_a_number_is_no_decision():
    broken = SOFTMAX.copy()
    broken[0, 2] = np.nan
    assert task(SOFTMAX).decisions(broken).tolist() == [-2, 1, 2, 0]
    assert task(SIGMOIDS).decisions(np.full((1, 3), np.nan)).tolist() == [[-2, -2, -2]]


def test_nan_in_some_of_keras_predictions_changes_no_task():
    predictions = SOFTMAX.copy()
    predictions[1] = np.nan
    assert task(predictions).kind is TaskKind.CLASSIFICATION
    assert task(SIGMOIDS[:, :1] + [[0], [0], [np.nan], [0]], YES_NO).threshold == 0.5


def test_padding_labels_leave_steps_out_but_minus_one_is_a_number():
    labels = np.array([[0, 1, -1], [1, -1, -1], [2, 2, 2], [0, 0, 0]])
    found = task(STEPWISE, labels)
    assert found.labelled.tolist() == [True, True, False, True, False, False] + [True] * 6
    assert found.labels.tolist() == [0, 1, 1, 2, 2, 2, 0, 0, 0]
    numbers = task(STEPWISE[..., :1] * 9, np.array([[5, 1, -1]] * COUNT))
    assert numbers.kind is TaskKind.REGRESSION
    assert numbers.labelled.all()


def test_labels_padded_longer_than_the_sequence():
    predictions = [STEPWISE[0], STEPWISE[1][:2]]
    labels = np.array([[0, 1, 2], [0, 1, -1]])
    spec = output(TIME, 3)
    described = model_spec(outputs=[spec])
    dataset = read_data(([[1, 2, 3], [1, 2]], labels), described)
    steps = find_steps(spec, described, dataset, predictions)
    found = choose_task(steps, steps.rows(predictions), dataset.labels["out"], None)
    assert found.labels.tolist() == [0, 1, 2, 0, 1]


BAD = {
    "a class too many": ((SOFTMAX, [0, 1, 3, 0]), "hold 3; its classes are 0 to 2"),
    "a negative class": ((SOFTMAX, [0, 1, -1, 0]), "hold -1; its classes"),
    "another shape": ((SOFTMAX, np.ones((4, 2))), r"shape \[2\]; the output needs \[\] or"),
    "too many steps": ((STEPWISE, np.ones((4, 5), int)), r"shape \[5\]; the output"),
    "no labels for a metric": ((SOFTMAX, None, "f1"), "f1 of 'out' needs labels"),
    "an error of classes": ((SOFTMAX, [0, 1, 2, 0], "mae"), "one number per row, the output 3"),
    "f1 of numbers": ((NUMBERS, [0.5, 1, 2, 3], "f1"), "hold 0.5; its classes are 0 and 1"),
    "all padding": ((STEPWISE, -np.ones((4, 3), int)), "all -1, which marks padding"),
}


@pytest.mark.parametrize("case", BAD)
def test_labels_that_do_not_fit(case):
    arguments, words = BAD[case]
    with pytest.raises(DataError, match=words):
        task(*arguments)


def test_which_outputs_follow_time():
    described = model_spec([FEATURES, IDS])
    assert is_per_step(output(TIME, 3), described)
    assert is_per_step(output(TIME), described)
    assert is_per_step(output(Axis(None, None)), described)
    assert is_per_step(output(50, 3), described)
    assert not is_per_step(output(3), described)
    assert not is_per_step(output(), described)


def test_chosen_metrics():
    outputs = ["tags", "score"]
    assert parse_metrics(None, outputs) == {}
    assert parse_metrics("f1", outputs) == {"tags": "f1", "score": "f1"}
    assert parse_metrics("tags=f1, score=mae", outputs) == {"tags": "f1", "score": "mae"}
    assert parse_metrics("accuracy,score=rmse", outputs) == {"tags": "accuracy", "score": "rmse"}


@pytest.mark.parametrize("text", ["precision", "f1,z=mae", "tags=", "=f1", "tags f1"])
def test_unknown_metrics(text):
    with pytest.raises(OptionError, match="one of accuracy, f1, mae, rmse, or OUTPUT=METRIC"):
        parse_metrics(text, ["tags"])


METRIC_CASES = {
    "accuracy": ((SOFTMAX, [0, 1, 1, 2], "accuracy"), 50),
    "accuracy of two classes": ((SIGMOIDS[:, :1], [1, 1, 0, 1], "accuracy"), 75),
    "accuracy of each value": ((SIGMOIDS, SIGMOIDS > 0.7, "accuracy"), 100 * 11 / 12),
    # Predictions 0 1 2 0, labels 0 1 1 2: of class 0 2/3, of class 1 2/3, of class 2 0.
    "f1": ((SOFTMAX, [0, 1, 1, 2], "f1"), 100 * (2 / 3 + 2 / 3 + 0) / 3),
    # Class 2 is predicted but occurs in no label.
    "f1 of the classes that occur": ((SOFTMAX, [0, 1, 1, 0], "f1"), 100 * (1 + 2 / 3) / 2),
    # Predictions 1 0 0 1: one true and one false positive, one missed.
    "f1 of two classes": ((SIGMOIDS[:, :1], [1, 1, 0, 0], "f1"), 50),
    "f1 without a positive": ((SIGMOIDS[1:3, :1], [0, 0], "f1", None, IDS_OF_FOUR[:2]), 100),
    # Columns: 1 0 0 1 for 1 0 0 1, 1 1 0 0 for 1 1 0 0, 0 0 0 1 for 0 0 0 0, which never occurs.
    "f1 of the values that occur": ((SIGMOIDS, SIGMOIDS > 0.7, "f1"), 100),
    "mae": ((NUMBERS, [0.5, 1.5, -2, 8.5], "mae"), 0.75),
    "rmse": ((NUMBERS, [0.5, 1.5, -2, 8.5], "rmse"), np.sqrt(2 * 1.5**2 / 4)),
}


@pytest.mark.parametrize("case", METRIC_CASES)
def test_metrics_by_hand(case):
    (predictions, labels, metric, *others), wanted = METRIC_CASES[case]
    found = task(predictions, labels, metric, *others)
    assert measure(found, np.asarray(predictions)[found.labelled]) == pytest.approx(wanted)


def test_a_drop_is_in_points_or_in_percent_of_keras_error():
    shares = task(SOFTMAX, [0, 1, 2, 1])
    assert metric_loss(shares, 60, 80) == 20
    errors = task(NUMBERS, [0.5, 1.5, -2, 8.5])
    assert metric_loss(errors, 0.3, 0.2) == pytest.approx(50)


def random_decisions(kind):
    """Labels and decisions of one kind, with classes that do not occur, and without decisions."""
    rng = np.random.default_rng(0)
    for rows in (1, 2, 7, 40):
        for classes in (2, 3, 6):
            if kind is TaskKind.CLASSIFICATION:
                labels = rng.integers(0, classes, rows)
                decisions = np.where(rng.random(rows) < 0.1, -2, rng.integers(0, classes, rows))
            else:
                shape = rows if kind is TaskKind.BINARY else (rows, classes)
                labels = rng.random(shape) < 0.4
                decisions = np.where(rng.random(shape) < 0.1, -2, rng.integers(0, 2, shape))
            yield labels, decisions


def counted_f1(labels, decisions):
    """F1 of True, by counting."""
    pairs = list(zip(labels.tolist(), decisions.tolist(), strict=True))
    right, false, missed = (pairs.count(p) for p in ((True, True), (False, True), (True, False)))
    if not right + false + missed:
        return 1.0
    if not right:
        return 0.0
    precision, recall = right / (right + false), right / (right + missed)
    return 2 * precision * recall / (precision + recall)


KINDS = (TaskKind.BINARY, TaskKind.CLASSIFICATION, TaskKind.MULTILABEL)


@pytest.mark.parametrize("kind", KINDS)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(kind):
    for labels, decisions in random_decisions(kind):
        if kind is TaskKind.BINARY:
            wanted = counted_f1(labels, decisions == 1)
        elif kind is TaskKind.CLASSIFICATION:
            scores = [counted_f1(labels == one, decisions == one) for one in np.unique(labels)]
            wanted = np.mean(scores)
        else:
            columns = [i for i in range(labels.shape[1]) if labels[:, i].any()]
            columns = columns or range(labels.shape[1])
            scores = [counted_f1(labels[:, i], decisions[:, i] == 1) for i in columns]
            wanted = np.mean(scores)
        assert _f1(kind, labels, decisions) == pytest.approx(wanted)


@pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None,
    reason="scikit-learn is not installed; the test above compares the same cases by counting",
)
@pytest.mark.parametrize("kind", KINDS)
def test_f1_is_that_of_scikit_learn(kind):
    from sklearn.metrics import f1_score

    for labels, decisions in random_decisions(kind):
        if kind is TaskKind.BINARY:
            wanted = f1_score(labels, decisions == 1, zero_division=1.0)
        elif kind is TaskKind.CLASSIFICATION:
            classes = np.unique(labels)
            wanted = f1_score(labels, decisions, labels=classes, average="macro", zero_division=0.0)
        else:
            columns = [i for i in range(labels.shape[1]) if labels[:, i].any()]
            columns = columns or range(labels.shape[1])
            pairs = [(labels[:, i], decisions[:, i] == 1) for i in columns]
            wanted = np.mean([f1_score(a, b, zero_division=1.0) for a, b in pairs])
        assert _f1(kind, labels, decisions) == pytest.approx(float(wanted))
