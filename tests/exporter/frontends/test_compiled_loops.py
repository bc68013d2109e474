"""The compiled loop of a recurrent layer gives the bits of the eager loop, or is not used."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers as kl

from bilstm_exporter.frontends.loading import read
from bilstm_exporter.frontends.reference import compiled_loops
from exporter.models import floats


def counted(monkeypatch):
    """Note the shape of the sequences of every compiled run."""
    shapes = []
    original = compiled_loops._called

    def called(compiled, loop, arguments):
        found = original(compiled, loop, arguments)
        shapes.append(tuple(arguments.sequences.shape))
        return found

    monkeypatch.setattr(compiled_loops, "_called", called)
    return shapes


class OwnCell(kl.Layer):
    state_size = output_size = 4

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 4))

    def call(self, x, states):
        h = keras.ops.tanh(x @ self.w + states[0])
        return h, [h]


class TracedCell(OwnCell):
    """Computes something else where it is traced."""

    def call(self, x, states):
        h, _ = super().call(x, states)
        h = h if tf.executing_eagerly() else h * 1.0000001
        return h, [h]


class CountingCell(OwnCell):
    """Counts its steps in Python."""

    steps = 0

    def call(self, x, states):
        self.steps += 1
        h = super().call(x, states)[0] * float(self.steps % 3)
        return h, [h]


def keras2(*layers):
    return tf_keras.Sequential([tf_keras.layers.InputLayer((None, 3)), *layers])


two = tf_keras.layers
MODELS = {
    "masked bilstm": lambda: floats(
        kl.Masking(), kl.Bidirectional(kl.LSTM(4, return_sequences=True)), kl.GRU(3)
    ),
    "states and cells": lambda: floats(
        kl.RNN([kl.LSTMCell(4), OwnCell()], return_sequences=True), kl.SimpleRNN(3)
    ),
    "time distributed": lambda: floats(
        kl.Lambda(lambda x: x[:, :, None] * 2.0), kl.TimeDistributed(kl.LSTM(4)), kl.GRU(2)
    ),
    "keras 2": lambda: keras2(
        two.Masking(), two.Bidirectional(two.LSTM(4, return_sequences=True)), two.GRU(3)
    ),
    "keras 2, gates of no fused kernel": lambda: keras2(
        two.Masking(),
        two.Bidirectional(two.LSTM(4, recurrent_activation="hard_sigmoid", return_sequences=True)),
        two.SimpleRNN(3, go_backwards=True),
    ),
}


SLOW = {"keras 2", "keras 2, gates of no fused kernel", "time distributed"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MODELS],
)
def test_loops_have_the_bits_of_the_eager_loop(name, rng, monkeypatch):
    shapes = counted(monkeypatch)
    model = read(MODELS[name]())[0]
    for batch, steps in ((2, 1), (2, 5), (4, 5), (1, 40), (7, 3)):
        x = rng.normal(size=(batch, steps, 3)).astype(np.float32)
        x[0, 2:4] = 0
        for found, wanted in zip(model.reference([x]), model.eager_reference([x]), strict=True):
            np.testing.assert_array_equal(found, wanted)
    assert (1, 40) in {shape[:2] for shape in shapes}


@pytest.mark.parametrize("cell", [TracedCell, CountingCell])
def test_a_cell_that_computes_something_else_while_traced_stays_eager(cell, rng, monkeypatch):
    model = read(floats(kl.RNN(cell())))[0]
    x = rng.normal(size=(2, 6, 3)).astype(np.float32)
    model.reference([x])
    shapes = counted(monkeypatch)
    model.reference([x])
    assert not shapes


@pytest.mark.slow
def test_a_long_loop_is_proven_by_its_first_steps(rng, monkeypatch):
    shapes = counted(monkeypatch)
    model = read(floats(kl.LSTM(4)))[0]
    x = rng.normal(size=(2, 500, 3)).astype(np.float32)
    found = model.reference([x])[0]
    assert [shape[1] for shape in shapes] == [32, 500]
    np.testing.assert_array_equal(found, model.eager_reference([x])[0])


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_changed_weights_reach_the_compiled_loop(library, rng):
    layers = library.layers
    inputs = library.Input((None, 3))
    model = read(library.Model(inputs, layers.LSTM(4)(inputs)))[0]
    x = [rng.normal(size=(2, 6, 3)).astype(np.float32)]
    first = model.reference(x)[0]
    found = model.perturbed_reference(x, seed=0)[0]
    assert 0 < np.abs(found - first).max() < 1e-5
    np.testing.assert_array_equal(model.reference(x)[0], first)


def test_two_layers_of_one_shape_keep_their_weights(rng):
    model = read(keras2(two.LSTM(3, return_sequences=True), two.LSTM(3)))[0]
    x = rng.normal(size=(2, 6, 3)).astype(np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(model.reference([x])[0], model.eager_reference([x])[0])


def test_a_mask_of_another_length_is_refused_as_by_keras(rng):
    x, mask = keras.Input((None, 3)), keras.Input((None,), dtype="bool")
    model = read(keras.Model([x, mask], kl.LSTM(4)(x, mask=mask)))[0]
    values = rng.normal(size=(2, 6, 3)).astype(np.float32)
    for _ in range(2):
        model.reference([values, np.ones((2, 6), bool)])
    with pytest.raises((ValueError, tf.errors.OpError)):
        model.reference([values, np.ones((2, 4), bool)])
