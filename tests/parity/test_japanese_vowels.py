"""The shipped model on all 370 test utterances."""

from pathlib import Path

import keras
import numpy as np
import pytest
from japanese_vowels import load_japanese_vowels, pad

import bilstm_runtime
from bilstm_exporter import export

pytestmark = pytest.mark.slow

MODEL = Path(__file__).parents[2] / "examples" / "japanese_vowels.keras"


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
    return export(MODEL, tmp_path_factory.mktemp("export") / "bundle").bundle


@pytest.mark.parametrize("backend", ["onnx", "litert"])
def test_the_class_of_every_utterance_is_keras_s(bundle, utterances, expected, backend):
    outputs = bilstm_runtime.load(bundle, backend=backend).predict(list(utterances[0]))
    assert len(outputs) == 370
    assert np.array_equal(outputs.argmax(axis=1), expected.argmax(axis=1))
    np.testing.assert_allclose(outputs, expected, atol=1e-5, rtol=1e-4)


def test_the_model_is_good(utterances, expected):
    accuracy = float((expected.argmax(axis=1) == utterances[1]).mean())
    assert accuracy >= 0.95


def test_golden_cases_pass_on_this_machine(bundle):
    report = bilstm_runtime.check(bundle)
    assert report.passed
    assert {check.backend for check in report.checks} == {"onnx", "litert"}
