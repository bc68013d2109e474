"""Integers and bools into recurrent layers, masks that a layer of the user's own takes apart."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers as kl
from keras import ops

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.errors import UnsupportedModelError
from bilstm_exporter.frontends.loading import read
from bilstm_exporter.targets.tflite.bidirectional import LoopLowering

SHAPES = ((1, 1), (2, 5), (3, 4))


def arrays_of(source, batch, time):
    """Values of every input; ids and truth values up to 6."""
    rng = np.random.default_rng(batch)
    shapes = [
        [size or (batch, time)[axis] for axis, size in enumerate(spec.shape)]
        for spec in source.flat_inputs
    ]
    return [
        (rng.integers(0, 7, shape) % (2 if spec.dtype == "bool" else 7)).astype(spec.dtype)
        for spec, shape in zip(source.flat_inputs, shapes, strict=True)
    ]


def assert_traced(model):
    """The traced function returns Keras's outputs."""
    source, _ = read(model)
    function = source.trace(LoopLowering(weight_bytes=4), source.flat_inputs)
    for batch, time in SHAPES:
        arrays = arrays_of(source, batch, time)
        outputs = function(**{f"input_{i}": tf.constant(array) for i, array in enumerate(arrays)})
        found = [outputs[name] for name in sorted(outputs)]
        for one, other in zip(found, source.reference(arrays), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def assert_exported(model, folder):
    """The files of both formats return Keras's outputs."""
    export(model, folder)
    source, _ = read(model)
    for backend in ("onnx", "litert"):
        exported = bilstm_runtime.load(folder, backend=backend)
        for batch, time in SHAPES:
            arrays = arrays_of(source, batch, time)
            found = exported.predict(arrays[0] if len(arrays) == 1 else arrays)
            found = exported.spec.flatten_outputs(found)
            for one, other in zip(found, source.reference(arrays), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


class Table(keras.layers.Layer):
    """A cell that looks up rows by its input, as integers."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, shape):
        self.table = self.add_weight(shape=(7, self.units))
        self.kernel = self.add_weight(shape=(self.units, self.units))
        super().build(shape)

    def call(self, inputs, states):
        assert inputs.dtype == "int32"
        row = ops.take(self.table, inputs[:, 0] % 7, axis=0) + ops.cast(
            inputs[:, :1] // 2, "float32"
        )
        output = ops.tanh(row + ops.matmul(states[0], self.kernel))
        return output, [output]


LAYERS = {
    "LSTM": lambda: kl.LSTM(2),
    "GRU": lambda: kl.GRU(2, return_sequences=True),
    "SimpleRNN": lambda: kl.SimpleRNN(2, go_backwards=True),
    "cell": lambda: kl.RNN(kl.LSTMCell(2)),
    "cells": lambda: kl.RNN([kl.GRUCell(3), kl.LSTMCell(2)]),
    "Bidirectional": lambda: kl.Bidirectional(kl.LSTM(2, return_sequences=True)),
    "Bidirectional cell": lambda: kl.Bidirectional(kl.RNN(kl.GRUCell(2))),
}


@pytest.mark.parametrize(
    ("layer", "dtype"),
    [
        *((layer, dtype) for layer in LAYERS for dtype in ("bool", "int64")),
        *(("LSTM", dtype) for dtype in ("int32", "int8", "uint8")),
    ],
)
@pytest.mark.slow
def test_sequences(layer, dtype):
    x = keras.Input((None, 3), dtype=dtype)
    assert_traced(keras.Model(x, LAYERS[layer]()(x)))


def test_sequences_with_a_mask():
    x = keras.Input((None, 3), dtype="int32")
    mask = ops.any(ops.not_equal(x, 0), axis=-1)
    assert_traced(keras.Model(x, kl.Bidirectional(kl.GRU(2))(x, mask=mask)))


@pytest.mark.parametrize("dtype", ["bool", "int32"])
def test_initial_states(dtype):
    x, state = keras.Input((None, 3), dtype=dtype), keras.Input((2,), dtype=dtype)
    alone = kl.GRU(2)(x, initial_state=state)
    both = kl.Bidirectional(kl.SimpleRNN(2))(x, initial_state=[state, state])
    assert_traced(keras.Model([x, state], [alone, both]))


@pytest.mark.slow
def test_a_cell_that_needs_integers():
    x = keras.Input((None, 1), dtype="int32")
    assert_traced(keras.Model(x, kl.RNN(Table(2), return_sequences=True)(x)))


def test_another_policy_computes_in_float32():
    x = keras.Input((None, 3), dtype="int32")
    assert_traced(keras.Model(x, kl.LSTM(2, dtype="mixed_float16")(x)))


class Table2(tf_keras.layers.Layer):
    """The same cell for Keras 2."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, shape):
        self.table = self.add_weight("table", (7, self.units))
        self.kernel = self.add_weight("kernel", (self.units, self.units))
        super().build(shape)

    def get_initial_state(self, inputs=None, batch_size=None, dtype=None):
        del dtype
        return tf.zeros([tf.shape(inputs)[0] if batch_size is None else batch_size, self.units])

    def call(self, inputs, states):
        assert inputs.dtype == tf.int32
        row = tf.gather(self.table, inputs[:, 0] % 7) + tf.cast(inputs[:, :1] // 2, tf.float32)
        output = tf.tanh(row + tf.matmul(states[0], self.kernel))
        return output, [output]


def keras2_table():
    x = tf_keras.Input((None, 1), dtype="int32")
    state = tf_keras.Input((2,))
    y = tf_keras.layers.RNN(Table2(2), return_sequences=True)(x, initial_state=[state])
    return tf_keras.Model([x, state], y)


@pytest.mark.slow
def test_a_cell_of_keras_2_that_needs_integers():
    assert_traced(keras2_table())


class BackPointers(tf_keras.layers.Layer):
    """The forward pass of a Viterbi decoder: the outputs are integers, the state is not."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, shape):
        self.transitions = self.add_weight("transitions", (self.units, self.units))
        super().build(shape)

    def call(self, inputs, states):
        scores = states[0][:, :, None] + self.transitions
        return tf.argmax(scores, 1, output_type=tf.int32), [inputs + tf.reduce_max(scores, 1)]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def back_pointers(*, zeros):
    ids = tf_keras.Input((None,), dtype="int32")
    x = tf_keras.layers.Embedding(7, 4, mask_zero=True)(ids)
    x = tf_keras.layers.Bidirectional(tf_keras.layers.LSTM(2, return_sequences=True))(x)
    rnn = tf_keras.layers.RNN(
        BackPointers(4), return_sequences=True, return_state=True, zero_output_for_mask=zeros
    )
    y, state = rnn(x, initial_state=[tf.zeros_like(x[:, 0])])
    return tf_keras.Model(ids, [tf.cast(y, tf.float32), state])


@pytest.mark.slow
@pytest.mark.parametrize("zeros", [False, True])
def test_outputs_that_are_integers_under_a_mask(zeros):
    assert_traced(back_pointers(zeros=zeros))


class Masks(keras.layers.Layer):
    """Takes a mask apart, and puts it together again."""

    def call(self, x):
        mask = x > -5  # a sign near 0 would be decided by rounding
        first, second = tf.split(mask, 2, axis=-1)
        turned = tf.roll(tf.pad(first, [[0, 0], [0, 0], [1, 1]], "SYMMETRIC"), 1, 1)
        valid = tf.reduce_any(tf.stack(tf.unstack(turned, axis=-1), -1), -1, keepdims=True)
        chosen = tf.where(valid, tf.reverse(second, [-1]), second)
        kept = tf.sequence_mask(tf.reduce_sum(tf.cast(chosen[..., 0], tf.int32), 1), tf.shape(x)[1])
        return x * tf.cast(kept[..., None], x.dtype) + tf.cast(chosen, x.dtype)[:, :, :1]


class Indices(tf_keras.layers.Layer):
    """New axes on inputs and weights, and other operators that need a form."""

    def build(self, shape):
        self.scale = self.add_weight("scale", (shape[-1],))
        self.kernel = self.add_weight("kernel", (shape[-1], shape[-1]))
        super().build(shape)

    def call(self, x):
        scaled = x * self.scale[None, None] + x[None][0]
        finite = tf.math.is_finite(scaled)  # a sign near 0 would be decided by rounding
        mask = tf.concat(tf.split(finite, 2, axis=-1), -1)
        weights = tf.einsum("...i,ij->...j", scaled, self.kernel)
        back = tf.roll(tf.math.erf(weights), 1, 1) + tf.cast(mask, x.dtype)
        return back + tf.linalg.trace(tf.linalg.diag(x))[..., tf.newaxis]


@pytest.mark.slow
def test_exports_of_keras_3(tmp_path):
    flags, ids = keras.Input((None, 3), dtype="bool"), keras.Input((None, 1), dtype="int32")
    steps = kl.Bidirectional(kl.LSTM(2, return_sequences=True))(flags)
    looked_up = kl.RNN(Table(2), return_sequences=True)(ids)
    model = keras.Model([flags, ids], kl.GRU(2)(Masks()(kl.Add()([steps[..., :2], looked_up]))))
    assert_exported(model, tmp_path / "edge")


@pytest.mark.slow
def test_exports_of_keras_2(tmp_path):
    x = tf_keras.Input((None, 4))
    y = tf_keras.layers.Bidirectional(tf_keras.layers.LSTM(2, return_sequences=True))(x)
    assert_exported(tf_keras.Model(x, tf_keras.layers.GRU(2)(Indices()(y))), tmp_path / "edge")


@pytest.mark.slow
@pytest.mark.parametrize("zeros", [False, True])
def test_exports_of_outputs_that_are_integers(tmp_path, zeros):
    assert_exported(back_pointers(zeros=zeros), tmp_path / "edge")


class Random(keras.layers.Layer):
    """An operator that neither format has."""

    def call(self, x):
        return tf.math.digamma(x * x + 1)


@pytest.mark.slow
def test_a_refusal_names_layer_operator_and_flag(tmp_path):
    x = keras.Input((None, 3))
    model = keras.Model(x, kl.LSTM(2)(Random(name="odd")(x)))
    with pytest.raises(UnsupportedModelError) as raised:
        export(model, tmp_path / "edge", formats="tflite")
    message = str(raised.value)
    assert "tflite has no operator for: Digamma (in layer 'odd', Random)" in message
    assert "leave this format out with --formats onnx" in message
    assert raised.value.layers == ("odd",)
