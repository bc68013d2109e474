"""Layers that need the whole sequence are refused by name, with what to do."""

from __future__ import annotations

import keras
import pytest
from keras import layers as kl
from keras import ops

from bilstm_exporter.errors import StreamingError
from exporter.models import bilstm, floats

LAYERS = {
    "flatten": (
        lambda: floats(bilstm(), kl.Permute((2, 1)), kl.Dense(2, name="d"), shape=(6, 3)),
        "layer 'd' .* sums products over all steps",
    ),
    "softmaxes over time": (
        lambda: floats(bilstm(), kl.Softmax(axis=1, name="weights")),
        "output 0 holds weights that are normalized over all steps",
    ),
    "weights of attention as an output": (
        lambda: floats(bilstm(), kl.Dense(1), kl.Softmax(axis=1)),
        "output 0 holds weights that are normalized over all steps",
    ),
    "strides that depend on the length": (
        lambda: floats(kl.Conv1D(2, 3, 2, padding="same", name="conv"), bilstm()),
        "layer 'conv' .* length of the sequence; .* 'causal', or a window of even length",
    ),
    "reversed": (
        lambda: floats(kl.LSTM(2, go_backwards=True, return_sequences=True, name="back")),
        "layer 'back' .* reverses the steps",
    ),
    "repeated": (
        lambda: floats(kl.UpSampling1D(2, name="up"), bilstm()),
        "layer 'up' .* makes 2 steps of each step .*, more than the input has",
    ),
}


def gated() -> keras.Model:
    """The mean over all steps weighs each step."""
    x = keras.Input((None, 3), name="x")
    steps = bilstm()(x)
    mean = kl.GlobalAveragePooling1D(keepdims=True)(steps)
    return keras.Model(x, kl.Multiply(name="gate")([steps, mean]))


class SumOfSoftmaxes(kl.Layer):
    """Adds up what several softmaxes weigh before the sum over time."""

    def call(self, x):
        return ops.sum(ops.sum(ops.softmax(x, axis=1) * x, axis=2, keepdims=True) * x, axis=1)


class RelativePositions(kl.Layer):
    """Divides the position of each step by the length."""

    def call(self, x):
        length = ops.shape(x)[1]
        return x * (ops.cast(ops.arange(length), "float32") / ops.cast(length, "float32"))[:, None]


class Normalized(kl.Layer):
    """Normalizes each step by the mean and the variance of all steps."""

    def call(self, x):
        mean, variance = ops.moments(x, axes=[1], keepdims=True)
        return (x - mean) / ops.sqrt(variance + 1e-3)


def weighted_steps() -> keras.Model:
    """A recurrence reads weighted steps that are not summed up."""
    x = keras.Input((None, 3), name="x")
    steps = bilstm()(x)
    weights = kl.Softmax(axis=1)(kl.Dense(1)(steps))
    return keras.Model(x, kl.LSTM(2, name="after")(kl.Multiply()([steps, weights])))


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_layers_that_need_the_whole_sequence(name, analysed):
    build, message = LAYERS[name]
    with pytest.raises(StreamingError, match=message):
        analysed(build())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (gated, "layer 'gate' .* combines each step with a summary of the whole sequence"),
        (
            lambda: floats(RelativePositions(name="place"), bilstm()),
            "layer 'place' .* computes with the length of the sequence",
        ),
        (
            lambda: floats(bilstm(), SumOfSoftmaxes(name="own")),
            "layer 'own' .* adds up steps that are weighed by several softmaxes",
        ),
        (
            lambda: floats(Normalized(name="norm"), bilstm()),
            "layer 'norm' .* combines each step with a summary of the whole sequence",
        ),
        (weighted_steps, "layer 'after' .* reads weights that are normalized over all steps"),
    ],
)
def test_statistics_of_the_whole_sequence(build, message, analysed):
    with pytest.raises(StreamingError, match=message):
        analysed(build())


@pytest.mark.slow
def test_different_time_axes(analysed):
    first, second = keras.Input((None, 3), name="a"), keras.Input((None, 2), name="b")
    last = [bilstm(last=True)(one) for one in (first, second)]
    with pytest.raises(StreamingError, match="different time axes"):
        analysed(keras.Model([first, second], kl.Concatenate()(last)))


@pytest.mark.slow
def test_a_fixed_batch(analysed):
    model = keras.Sequential([keras.Input((None, 3), batch_size=2, name="x"), bilstm()])
    with pytest.raises(StreamingError, match="the batch of input 'x' is fixed at 2"):
        analysed(model)
