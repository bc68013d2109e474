"""The shipped model on all 370 test utterances."""

from pathlib import Path

import keras
import numpy as np
import pytest
from japanese_vowels import load_japanese_vowels, pad

import bilstm_runtime
from bilstm_exporter import export

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = EXAMPLES / "japanese_vowels.keras"
LABELS = EXAMPLES / "japanese_vowels_labels.txt"


@pytest.fixture(scope="module")
def utterances():
    _, _, test, labels = load_japanese_vowels()
    return test, np.asarray(labels)


@pytest.fixture(scope="module")
def expected(utterances):
    model = keras.models.load_model(MODEL)
    return np.asarray(model(pad(utterances[0]), training=False))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return export(MODEL, tmp_path_factory.mktemp("export") / "bundle", labels=LABELS).bundle


@pytest.mark.parametrize("backend", ["onnx", "litert"])
def test_the_class_of_every_utterance_is_keras_s(bundle, utterances, expected, backend):
    outputs = bilstm_runtime.load(bundle, backend=backend).predict(list(utterances[0]))
    assert len(outputs) == 370
    assert np.array_equal(outputs.argmax(axis=1), expected.argmax(axis=1))
    np.testing.assert_allclose(outputs, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", ["onnx", "litert"])
def test_every_recording_has_the_label_of_keras(bundle, utterances, expected, backend):
    model = bilstm_runtime.load(bundle, backend=backend)
    found = [answer[0].label for answer in model.classify(list(utterances[0]))]
    assert found == [f"speaker {number}" for number in expected.argmax(axis=1)]
    accuracy = np.mean(np.array(found) == [f"speaker {number}" for number in utterances[1]])
    assert accuracy == (expected.argmax(axis=1) == utterances[1]).mean() > 0.98


def test_the_model_is_good(utterances, expected):
    accuracy = float((expected.argmax(axis=1) == utterances[1]).mean())
    assert accuracy >= 0.95


def test_golden_cases_pass_on_this_machine(bundle):
    report = bilstm_runtime.check(bundle)
    assert report.passed
    assert {check.backend for check in report.checks} == {"onnx", "litert"}
