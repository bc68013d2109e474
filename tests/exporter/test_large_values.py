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


@pytest.mark.slow
@pytest.mark.parametrize("layer", [L.LSTM, L.GRU, L.SimpleRNN])
def test_states_that_the_caller_gives(layer, tmp_path):
    """As states of a stateful model, and as inputs."""
    keras.utils.set_random_seed(3)
    x = keras.Input((5, 4), batch_size=2)
    stateful = keras.Model(x, L.Dense(2)(layer(3, stateful=True)(x)))
    given = [keras.Input((3,)) for _ in range(2 if layer is L.LSTM else 1)]
    inputs = [keras.Input((5, 4)), *given]
    with_inputs = keras.Model(inputs, L.Dense(2)(layer(3)(inputs[0], initial_state=given)))
    for model, folder in ((stateful, tmp_path / "stateful"), (with_inputs, tmp_path / "inputs")):
        export(model, folder)
    values = np.ones((2, 5, 4), np.float32)
    for backend in ("onnx", "litert"):
        kept = bilstm_runtime.load(tmp_path / "stateful", backend=backend)
        taken = bilstm_runtime.load(tmp_path / "inputs", backend=backend)
        for size in (1e10, 1e27, -1e30):
            states = [np.full((2, 3), size, np.float32) for _ in given]
            expected = np.asarray(with_inputs([values, *states]))
            assert np.isfinite(expected).all()
            kept.states = states
            arrays = dict(zip([item.name for item in taken.inputs], [values, *states], strict=True))
            for found in (kept.predict(values), taken.predict(arrays)):
                assert np.isfinite(found).all(), (backend, size)
            # The layers have weights of their own; only these are compared as numbers.
            if abs(size) < 1e11:
                assert compare(taken.predict(arrays), expected, TOLERANCE).passed, (backend, size)


class Probe:
    def __init__(self, value):
        self.inputs, self.outputs = [np.float32(value)], [np.float32(1)]


def test_the_range_ends_before_the_first_output_that_is_no_number():
    large = {value: Probe(value) for value in (1e10, 1e20, 1e30)}
    with np.errstate(over="ignore"):
        assert largest_input(lambda arrays: [arrays[0] * np.float32(1e10)], large) == 1e20
    assert largest_input(lambda arrays: arrays, large) is None
    assert largest_input(lambda arrays: [np.float32("nan")], large) == 10
