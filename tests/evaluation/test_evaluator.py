"""Evaluating predictions: against hand-computed numbers, without padding, and able to fail."""

import json
import math

import numpy as np
import pytest

from bilstm_exporter.errors import DataError
from bilstm_exporter.evaluation.data import read_data
from bilstm_exporter.evaluation.evaluator import RELATIVE, UNCHANGED, Evaluator
from bilstm_runtime.spec import Axis, InputSpec

from .fakes import BATCH, FEATURES, TIME, model_spec, one_hot, output

TAGGER = model_spec(outputs=[output(TIME, 3)])
X = np.array([[1, 2, 3, 4], [1, 2, 0, 0], [0, 0, 0, 5]], np.int32)  # padded right, then left
PADDED = X == 0


def evaluated(described, data, keras, predictions, **metrics):
    dataset = read_data(data, described)
    keras, predictions = (a if isinstance(a, dict) else {"out": a} for a in (keras, predictions))
    return Evaluator(described, dataset, keras, metrics).evaluate(predictions)


def only(evaluation):
    (found,) = evaluation.outputs
    assert evaluation.drop == found.drop
    return found


def test_accuracy_against_labels_and_keras():
    keras = one_hot([0, 1, 2, 0, 1], 3)
    predictions = one_hot([0, 1, 2, 1, 0], 3)
    found = only(
        evaluated(model_spec(), (np.ones((5, 2), int), [0, 1, 2, 0, 0]), keras, predictions)
    )
    assert (found.kind, found.metric) == ("classification", "accuracy")
    assert found.keras == pytest.approx(80)
    assert found.value == pytest.approx(80)  # one lost, another gained
    assert found.change == pytest.approx(0)
    assert found.decisions == 5
    assert found.decisions_unchanged == pytest.approx(60)
    assert found.max_error == pytest.approx(0.85)
    assert found.mean_error == pytest.approx(0.85 * 2 / 3 * 2 / 5)
    assert found.error_by_position is None


def test_a_gain_is_no_drop_but_a_change():
    keras, predictions = one_hot([0, 1], 3), one_hot([0, 0], 3)
    found = only(evaluated(model_spec(), (np.ones((2, 2), int), [0, 0]), keras, predictions))
    assert found.change == pytest.approx(50)
    assert found.drop == 0


def test_without_labels_the_unchanged_decisions_stand_in():
    keras, predictions = one_hot([0, 1, 2, 0], 3), one_hot([0, 1, 2, 1], 3)
    found = only(evaluated(model_spec(), np.ones((4, 2), int), keras, predictions))
    assert (found.metric, found.value, found.keras, found.drop) == (UNCHANGED, 75, 100, 25)


def test_a_tagger_is_evaluated_by_f1_of_the_steps_that_count():
    classes = np.array([[0, 1, 2, 0], [1, 1, 0, 0], [0, 0, 0, 2]])
    labels = classes.copy()
    labels[0, 3] = 1  # Keras is wrong once
    changed = classes.copy()
    changed[0, 0] = 1
    changed[PADDED] = 2  # padding
    found = only(evaluated(TAGGER, (X, labels), one_hot(classes, 3), one_hot(changed, 3)))
    # Real steps: labels 0 1 2 1 | 1 1 | 2, predictions 1 1 2 0 | 1 1 | 2.
    # F1 of class 0: 0; of class 1: 2 * 3 / (4 + 4); of class 2: 1.
    wanted = (0 + 6 / 8 + 1) / 3
    assert (found.kind, found.metric, found.decisions) == ("tagging", "f1", 7)
    assert found.value == pytest.approx(100 * wanted)
    # Keras: 0 1 2 0 | 1 1 | 2. Class 0: 2 / 3; class 1: 6 / 7; class 2: 1.
    keras = (2 / 3 + 6 / 7 + 1) / 3
    assert found.keras == pytest.approx(100 * keras)
    assert found.drop == pytest.approx(100 * (keras - wanted))
    assert found.decisions_unchanged == pytest.approx(100 * 6 / 7)


def test_the_same_sequences_ragged_padded_or_with_padding_labels_are_evaluated_alike():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (3, 4))
    keras, predictions = one_hot(labels, 3, sure=0.8), one_hot(rng.integers(0, 3, (3, 4)), 3)
    padded = evaluated(TAGGER, (X, labels), keras, predictions)
    by_label = evaluated(
        model_spec([FEATURES], [output(TIME, 3)]),
        (np.ones((3, 4, 3)), np.where(PADDED, -1, labels)),
        keras,
        predictions,
    )
    real = [~row for row in PADDED]
    ragged = evaluated(
        TAGGER,
        (
            [x[r] for x, r in zip(X, real, strict=True)],
            [a[r] for a, r in zip(labels, real, strict=True)],
        ),
        [k[r] for k, r in zip(keras, real, strict=True)],
        [a[r] for a, r in zip(predictions, real, strict=True)],
    )
    assert padded.to_dict() == ragged.to_dict()
    assert by_label.outputs[0].value == padded.outputs[0].value


def test_a_class_that_never_occurs_does_not_count_in_f1():
    labels, predictions = np.array([[0, 1, 0, 1]]), np.array([[0, 1, 0, 2]])
    found = only(evaluated(TAGGER, (X[:1], labels), one_hot(labels, 3), one_hot(predictions, 3)))
    assert found.value == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_f1_of_two_classes_is_that_of_the_positive_one():
    described = model_spec(outputs=[output(TIME, 1)])
    labels = np.array([[1, 1, 0, 0]])
    predictions = np.array([0.9, 0.1, 0.9, 0.1]).reshape(1, 4, 1)
    found = only(evaluated(described, (X[:1], labels), labels[..., None] * 0.9, predictions))
    assert (found.kind, found.metric) == ("tagging", "f1")
    assert found.value == pytest.approx(50)


def test_multilabel():
    keras = np.array([[0.9, 0.9, 0.1], [0.1, 0.9, 0.1]])
    predictions = np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.9]])
    data = (np.ones((2, 2), int), keras > 0.5)
    found = only(evaluated(model_spec(), data, keras, predictions))
    assert (found.kind, found.metric, found.decisions) == ("multilabel", "f1", 6)
    assert found.keras == pytest.approx(100)
    assert found.value == pytest.approx(100 * (1 + 2 / 3) / 2)  # the third never occurs
    each = only(evaluated(model_spec(), data, keras, predictions, out="accuracy"))
    assert each.value == pytest.approx(100 * 4 / 6)


NUMBERS = model_spec(outputs=[output(2)])


@pytest.mark.parametrize(("metric", "worse"), [("mae", 100.0), ("rmse", 100.0)])
def test_errors_drop_in_percent_of_keras_own(metric, worse):
    labels = np.array([[1.5, 2.5], [3.5, 4.5], [5.5, 6.5]])
    data = (np.ones((3, 2), int), labels)
    found = only(evaluated(NUMBERS, data, labels + 0.1, labels - 0.2, out=metric))
    assert (found.kind, found.metric) == ("regression", metric)
    assert found.keras == pytest.approx(0.1)
    assert found.value == pytest.approx(0.2)
    assert found.drop == pytest.approx(worse)
    assert found.decisions_unchanged is None


def test_a_tiny_error_of_keras_does_not_inflate_a_drop():
    labels = np.array([[1.5, 2.5], [3.5, 4.5]])
    found = only(evaluated(NUMBERS, (np.ones((2, 2), int), labels), labels, labels + 1e-4))
    assert found.drop == pytest.approx(100 * 1e-4 / (1e-3 * labels.std()))


def test_numbers_without_labels_are_measured_by_their_spread():
    keras = np.array([[-1.0, 1.0], [3.0, -3.0]])
    found = only(evaluated(NUMBERS, np.ones((2, 2), int), keras, keras + 0.1))
    assert found.metric == RELATIVE
    assert found.drop == found.value == pytest.approx(10 / math.sqrt(5))
    assert found.relative_error == pytest.approx(0.1 / math.sqrt(5))  # a fraction, like parity's


def test_where_along_the_sequence_the_error_grows():
    described = model_spec([FEATURES], [output(TIME, 2)])
    keras = [np.zeros((40, 2)), np.zeros((5, 2))]
    predictions = [
        np.repeat(np.arange(10.0), 4)[:, None] * [[1, 1]],
        np.arange(5.0)[:, None] * [2, 2],
    ]
    data = [np.ones((40, 3)), np.ones((5, 3))]
    long = only(evaluated(described, data, keras, [predictions[0], keras[1]]))
    weights = [4 / 5 if part % 2 == 0 else 1 for part in range(10)]  # the short one has every other
    assert long.error_by_position == pytest.approx([n * w for n, w in enumerate(weights)])
    both = only(evaluated(described, data, keras, predictions))
    assert both.error_by_position == pytest.approx(list(range(10)))
    short = only(evaluated(described, data[1:], keras[1:], predictions[1:]))
    assert short.error_by_position == pytest.approx([0, 2, 4, 6, 8])


def test_positions_are_those_of_the_steps_that_count():
    described = model_spec(outputs=[output(TIME, 3)])
    x = np.array([[0, 0, 1, 2]], np.int32)
    keras = np.zeros((1, 4, 3))
    predictions = keras + np.array([9.0, 9, 1, 2]).reshape(1, 4, 1)
    assert only(evaluated(described, x, keras, predictions)).error_by_position == (1, 2)


def test_words_of_letters_count_where_either_holds_anything():
    letters = InputSpec(
        "x", "int32", (BATCH, TIME, Axis("letters", None)), range=(0, 9), mask_value=0
    )
    described = model_spec([letters], [output(TIME, Axis("letters", None), 2)])
    x = np.array([[[1, 2, 0], [3, 0, 0], [0, 0, 0]]])
    keras = one_hot(np.zeros((1, 3, 3), int), 2)
    predictions = one_hot((x == 0).astype(int), 2)
    assert only(evaluated(described, x, keras, predictions)).decisions_unchanged == 100
    per_word = model_spec([letters], [output(TIME, 2)])
    assert only(evaluated(per_word, x, keras[:, :, 0], predictions[:, :, 0])).decisions == 2


def test_what_is_not_a_number_is_an_infinite_error_and_still_json():
    keras, predictions = one_hot([0, 1, 2], 3), one_hot([0, 1, 2], 3)
    predictions[1] = np.nan
    found = evaluated(model_spec(), (np.ones((3, 2), int), [0, 1, 2]), keras, predictions)
    assert only(found).max_error == math.inf
    assert only(found).drop == pytest.approx(100 / 3)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text)["outputs"][0]["max_error"] is None
    numbers = np.array([[1.0, 2], [3, 4]])
    broken = evaluated(NUMBERS, (np.ones((2, 2), int), numbers + 0.1), numbers, numbers * np.inf)
    assert broken.drop == math.inf
    json.dumps(broken.to_dict(), allow_nan=False)


def test_rows_without_a_finite_reference_are_not_compared():
    keras, predictions = one_hot([0, 1, 2], 3), one_hot([1, 1, 2], 3)
    keras[0] = np.nan
    found = only(evaluated(model_spec(), (np.ones((3, 2), int), [0, 1, 2]), keras, predictions))
    assert (found.value, found.keras, found.decisions) == (100, 100, 2)
    with pytest.raises(DataError, match="no finite output 'out'"):
        evaluated(model_spec(), np.ones((3, 2), int), keras * np.nan, predictions)


def test_all_padding_is_nothing_to_compare():
    with pytest.raises(DataError, match="every step is padding"):
        evaluated(TAGGER, np.zeros((1, 2), int), np.ones((1, 2, 3)), np.ones((1, 2, 3)))


def test_the_drop_of_an_artifact_is_that_of_its_worst_output():
    described = model_spec(outputs=[output(3, name="a"), output(3, name="b")])
    data = {"ids": np.ones((2, 2), int), "y_a": np.array([0, 1])}
    keras = {name: one_hot([0, 1], 3) for name in "ab"}
    predictions = {"a": one_hot([0, 1], 3), "b": one_hot([0, 2], 3)}
    found = evaluated(described, data, keras, predictions)
    assert [item.metric for item in found.outputs] == ["accuracy", UNCHANGED]
    assert [item.drop for item in found.outputs] == [0, 50]
    assert found.drop == 50


def test_integer_outputs_are_decisions():
    described = model_spec(outputs=[output(TIME, dtype="int64")])
    classes = np.array([[0, 1, 2, 0], [1, 1, 0, 0], [0, 0, 0, 2]])
    changed = np.where(PADDED, 5, classes)
    changed[0, 0] = 2
    found = only(evaluated(described, (X, classes), classes, changed))
    assert (found.kind, found.metric, found.decisions) == ("tagging", "f1", 7)
    assert found.decisions_unchanged == pytest.approx(100 * 6 / 7)
    assert found.drop > 0


def test_one_decision_makes_a_drop_of_that_size():
    dataset = read_data(np.ones((4, 2), int), model_spec())
    evaluator = Evaluator(model_spec(), dataset, {"out": one_hot([0, 1, 2, 0], 3)})
    assert evaluator.resolution == 25
    numbers = Evaluator(NUMBERS, dataset, {"out": np.arange(8.0).reshape(4, 2)})
    assert numbers.resolution == 0


@pytest.mark.parametrize("scale", [0.5, 1e-3])
def test_every_measure_sees_a_change(scale):
    rng = np.random.default_rng(1)
    keras = rng.normal(size=(50, 2))
    found = only(evaluated(NUMBERS, np.ones((50, 2), int), keras, keras * (1 + scale)))
    same = only(evaluated(NUMBERS, np.ones((50, 2), int), keras, keras))
    assert same.drop == same.max_error == same.mean_error == same.relative_error == 0
    assert min(found.drop, found.max_error, found.mean_error, found.relative_error) > 0
