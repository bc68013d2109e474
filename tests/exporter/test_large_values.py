"""Float inputs up to the ends of float32, in both formats."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.keras_model import TOLERANCE
from bilstm_exporter.verification.parity import largest_input
from bilstm_runtime.comparison import compare

MODELS = {
    "tagger": lambda: [L.Bidirectional(L.LSTM(3, return_sequences=True)), L.Dense(2, "softmax")],
    "masked": lambda: [L.Masking(), L.Bidirectional(L.GRU(3)), L.Dense(1, "sigmoid")],
    "gates": lambda: [L.Dense(3, "sigmoid"), L.LSTM(3, activation="sigmoid"), L.Dense(2, "silu")],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_keras_outputs(name, tmp_path):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((None, 4)), *MODELS[name]()])
    export(model, tmp_path / "bundle")
    rng = np.random.default_rng(0)
    for backend in ("onnx", "litert"):
        loaded = bilstm_runtime.load(tmp_path / "bundle", backend=backend)
        for size in (1e27, 1e30, 3e38, 1e-40):
            x = (rng.choice([-1, 1], (2, 5, 4)) * np.float32(size)).astype(np.float32)
            x[0, :2] = 0
            expected = np.asarray(model(x, training=False))
            assert np.isfinite(expected).all()
            found = compare(loaded.predict(x), expected, TOLERANCE)
            assert found.passed, (backend, size, found)


class Probe:
    def __init__(self, value):
        self.inputs, self.outputs = [np.float32(value)], [np.float32(1)]


def test_the_range_ends_before_the_first_output_that_is_no_number():
    large = {value: Probe(value) for value in (1e10, 1e20, 1e30)}
    with np.errstate(over="ignore"):
        assert largest_input(lambda arrays: [arrays[0] * np.float32(1e10)], large) == 1e20
    assert largest_input(lambda arrays: arrays, large) is None
    assert largest_input(lambda arrays: [np.float32("nan")], large) == 10
