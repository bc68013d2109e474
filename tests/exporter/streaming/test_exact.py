"""Several softmaxes over time, positions, cumulative sums and slices are exact at any chunk."""

from __future__ import annotations

import pytest
from keras import layers as kl
from keras import ops

from bilstm_exporter.streaming.files import StreamFileBuilder
from exporter.models import bilstm, floats
from zoo import randomize

HEADS, UNITS = 2, 6


def einsum(scores, steps):
    return ops.einsum("bth,btf->bhf", ops.softmax(scores, axis=1), steps)


def einsum_of_heads(scores, steps):
    heads = ops.reshape(steps, (-1, ops.shape(steps)[1], HEADS, UNITS // HEADS))
    return ops.einsum("bth,bthf->bhf", ops.softmax(scores, axis=1), heads)


def matmul(scores, steps):
    return ops.matmul(ops.transpose(ops.softmax(scores, axis=1), (0, 2, 1)), steps)


def products(scores, steps):
    return ops.sum(ops.softmax(scores, axis=1)[:, :, :, None] * steps[:, :, None, :], axis=1)


def merged_heads(scores, steps):
    """The heads are merged before the sum over time, which is a mean here."""
    weights = ops.softmax(scores, axis=1)[..., None]
    heads = ops.reshape(steps, (-1, ops.shape(steps)[1], HEADS, UNITS // HEADS))
    weighed = ops.reshape(weights * heads, (-1, ops.shape(steps)[1], UNITS))
    return ops.mean(weighed, axis=1)


def sum_of_all(scores, steps):
    return ops.sum(ops.softmax(steps, axis=1) * steps, axis=(1, 2), keepdims=True)[:, 0] + 0 * (
        ops.max(scores, axis=1)
    )


def own_softmax(scores, steps):
    exponentials = ops.exp(scores)
    weights = exponentials / (ops.sum(exponentials, axis=1, keepdims=True) + 1e-6)
    return ops.matmul(ops.transpose(steps, (0, 2, 1)), weights)


class Pooling(kl.Layer):
    """Pools steps by the softmaxes of two scores."""

    def __init__(self, pool, **options):
        super().__init__(**options)
        self.pool, self.scores = pool, kl.Dense(HEADS)

    def build(self, shape):
        self.scores.build(shape)

    def call(self, x):
        return self.pool(self.scores(x), x)


class Positions(kl.Layer):
    """Adds a row of a table to each step, in three ways."""

    def build(self, shape):
        self.table = self.add_weight(shape=(99, shape[-1]), name="table")

    def call(self, x):
        count = ops.shape(x)[1]
        rows = ops.take(self.table, ops.arange(count), axis=0)
        first = ops.slice(self.table, (0, 0), (count, x.shape[-1]))
        return x + rows + ops.broadcast_to(first, ops.shape(x)) + self.table[None, :count]


class Differences(kl.Layer):
    """The sums so far, and the differences of neighbouring steps."""

    def call(self, x):
        differences = ops.pad(x[:, 1:] - x[:, :-1], ((0, 0), (1, 0), (0, 0)))
        return ops.concatenate([ops.cumsum(x, axis=1), differences], -1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "pool",
    [einsum, einsum_of_heads, matmul, products, merged_heads, sum_of_all, own_softmax],
)
def test_several_softmaxes_are_exact(pool, analysed):
    model = floats(bilstm(UNITS // 2), Pooling(pool), kl.Dense(2))
    check(model, analysed)


class Statistics(kl.Layer):
    """The mean and the standard deviation of all steps, far from 0."""

    def call(self, x):
        return ops.concatenate([ops.mean(x, axis=1), ops.std(x + 9.0, axis=1)], -1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "layers",
    [
        lambda: [Positions(), kl.LSTM(3, return_sequences=True)],
        lambda: [Differences(), bilstm(2)],
        lambda: [Differences()],
        lambda: [kl.Cropping1D((2, 1)), bilstm(2)],
        lambda: [kl.ZeroPadding1D(2), kl.Conv1D(3, 3), kl.Cropping1D((0, 2))],
        lambda: [kl.Conv1D(3, 4, 2, padding="same"), kl.AveragePooling1D(3, 1, padding="same")],
        lambda: [kl.Conv1D(3, 3), Statistics()],
    ],
    ids=[
        "positions",
        "differences",
        "a tail",
        "cropping",
        "cropped padding",
        "windows",
        "statistics",
    ],
)
def test_steps_by_their_position_are_exact(layers, analysed):
    check(floats(*layers(), kl.Dense(2)), analysed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "layers",
    [
        lambda: [kl.MaxPooling1D(2), bilstm(2), kl.UpSampling1D(2)],
        lambda: [kl.Conv1D(3, 2, strides=2), bilstm(2), kl.Dense(6), kl.Reshape((-1, 3))],
    ],
    ids=["upsampling", "reshape"],
)
def test_steps_made_of_steps_are_exact(layers, analysed):
    check(floats(*layers(), kl.Conv1D(2, 3, padding="same")), analysed)


def check(model, analysed):
    randomize(model, 5)
    loaded, probes, stream = analysed(model)
    assert not stream.layout.attending
    builder = StreamFileBuilder(loaded, stream, probes, opset=18)
    for name in ("onnx", "tflite"):
        builder.build(name, "float32")  # raises if a stream of random chunks is not exact
