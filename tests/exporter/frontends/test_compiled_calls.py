"""Compiled calls give the bits of the eager call, or are not used."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers as kl

from bilstm_exporter.frontends.loading import read
from bilstm_exporter.frontends.reference import compiled_calls
from exporter.models import floats


class Traced(kl.Layer):
    """Computes something else where it is traced."""

    def call(self, x):
        return x if tf.executing_eagerly() else x * 1.0000001


class Untraceable(kl.Layer):
    """Reads values in Python."""

    def call(self, x):
        return x * float(tf.reduce_max(x).numpy() > 0)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def counted(monkeypatch):
    """Compile every call that may be; note each that was."""
    calls = []
    monkeypatch.setattr(compiled_calls, "_MIN_SECONDS", 1e-9)
    original = compiled_calls.CompiledCalls._compiled

    def compiled(self, *args):
        found = original(self, *args)
        calls.append(args[0])
        return found

    monkeypatch.setattr(compiled_calls.CompiledCalls, "_compiled", compiled)
    return calls


def long(rng, batch: int = 2, steps: int = 40) -> np.ndarray:
    return rng.normal(size=(batch, steps, 3)).astype(np.float32)


def keras2(*layers):
    return tf_keras.Sequential([tf_keras.layers.InputLayer((None, 3)), *layers])


MODELS = {
    "bilstm": lambda: floats(kl.Masking(), kl.Bidirectional(kl.LSTM(4, return_sequences=True))),
    "time distributed": lambda: floats(
        kl.GRU(4, return_sequences=True), kl.TimeDistributed(kl.Dense(2, activation="gelu"))
    ),
    "convolution": lambda: floats(kl.Conv1D(4, 3, activation="relu"), kl.SimpleRNN(3)),
    "keras 2": lambda: keras2(
        tf_keras.layers.Masking(),
        tf_keras.layers.Bidirectional(tf_keras.layers.LSTM(4, return_sequences=True)),
        tf_keras.layers.TimeDistributed(tf_keras.layers.Dense(2, activation="softmax")),
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_long_calls_are_compiled_and_have_the_bits_of_the_eager_call(name, rng, monkeypatch):
    calls = counted(monkeypatch)
    model = read(MODELS[name]())[0]
    model.reference([long(rng, steps=5)])
    assert not calls
    for batch, steps in ((2, 40), (3, 40), (2, 40), (1, 36)):
        x = long(rng, batch, steps)
        x[0, 5:9] = 0
        for found, wanted in zip(model.reference([x]), model.eager_reference([x]), strict=True):
            np.testing.assert_array_equal(found, wanted)
    # The second and third call of 40 steps, and before them the proof of two calls.
    assert len(calls) == 2 + 2


@pytest.mark.parametrize("layer", [Traced, Untraceable])
def test_a_layer_that_is_traced_differently_is_always_called_eagerly(layer, rng, monkeypatch):
    calls = counted(monkeypatch)
    model = read(floats(layer(), kl.LSTM(4)))[0]
    model.reference([long(rng, steps=5)])
    x = long(rng)
    for _ in range(3):
        np.testing.assert_array_equal(model.reference([x])[0], model.eager_reference([x])[0])
    calls.clear()  # those of the proof
    model.reference([x])
    assert not calls


def test_an_input_that_keras_refuses_raises_its_error_and_disproves_nothing(rng, monkeypatch):
    calls = counted(monkeypatch)
    model = read(floats(kl.Dense(3), kl.LSTM(4)))[0]
    model.reference([long(rng, steps=5)])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"[Ss]hape|axis"):
            model.reference([np.zeros((2, 40, 9), np.float32)])
        model.reference([long(rng)])
    assert calls


def test_changed_weights_reach_the_compiled_function(rng):
    model = read(floats(kl.LSTM(4)))[0]
    x = [long(rng)]
    first = model.reference(x)[0]
    found = model.perturbed_reference(x, seed=0)[0]
    assert 0 < np.abs(found - first).max() < 1e-5
    np.testing.assert_array_equal(model.reference(x)[0], first)


def test_states_are_set_and_returned(rng):
    inputs = keras.Input(batch_shape=(2, None, 3))
    model = read(keras.Model(inputs, kl.LSTM(4, stateful=True)(inputs)))[0]
    arrays = [long(rng), *(rng.normal(size=(2, 4)).astype(np.float32) for _ in range(2))]
    model.reference([long(rng, steps=3), *arrays[1:]])
    for found, wanted in zip(model.reference(arrays), model.eager_reference(arrays), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_final_states_are_those_of_the_eager_call(rng):
    model = read(floats(kl.Bidirectional(kl.LSTM(4))))[0]
    short, x = [long(rng, steps=5)], [long(rng)]
    model.reference(short)
    states = model.final_states(x)
    assert {state.shape for state in states} == {(2, 4)}
    again = read(model.keras_model)[0].final_states(x)  # eager: nothing is proven yet
    for found, wanted in zip(states, again, strict=True):
        np.testing.assert_array_equal(found, wanted)
