"""Outputs whose first axis is not the batch, and outputs whose length follows the values."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.errors import DataError
from bilstm_exporter.evaluation.data import read_data
from bilstm_exporter.frontends.loading import read
from bilstm_exporter.inspection.interface import find_interface
from bilstm_exporter.inspection.properties import inspect_model
from bilstm_runtime.errors import InputError
from bilstm_runtime.spec import Axis

# tf_keras warns of every .h5 file that it writes.
pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")

GENERATIONS = {"keras3": keras, "keras2": tf_keras}
BATCH, TIME = Axis("batch", None), Axis("time", None)
BY_VALUES = Axis(None, None, from_values=True)


def steps_of(k, frames):
    return k.layers.LSTM(4, return_sequences=True)(frames)


def time_first(k):
    frames = k.Input((None, 3), name="x")
    steps = steps_of(k, frames)
    turned = k.layers.Lambda(lambda t: tf.transpose(t, [1, 0, 2]))(steps)
    return k.Model(frames, [turned, k.layers.Dense(2)(steps)])


def batch_mean(k):
    frames = k.Input((None, 3), name="x")
    mean = k.layers.Lambda(lambda t: tf.reduce_mean(t, axis=0))
    return k.Model(frames, mean(steps_of(k, frames)))


def scalar(k):
    frames = k.Input((None, 3), name="x")
    return k.Model(frames, k.layers.Lambda(tf.reduce_sum)(steps_of(k, frames)))


def cut_to_longest(k):
    ids = k.Input((None,), dtype="int32", name="x")
    lengths = tf.reduce_sum if k is tf_keras else keras.ops.sum

    def cut(t):
        return t[:, : tf.reduce_max(lengths(tf.cast(tf.not_equal(t, 0), "int32"), axis=1))]

    embedded = k.layers.Embedding(9, 4, mask_zero=True)(k.layers.Lambda(cut)(ids))
    return k.Model(ids, k.layers.Bidirectional(k.layers.GRU(3, return_sequences=True))(embedded))


def cut_and_pooled(k):
    """No mask: a row has as many steps of padding as the longest row of the batch is longer."""
    ids = k.Input((None,), dtype="int32", name="x")
    cut = k.layers.Lambda(
        lambda t: t[:, : tf.reduce_max(tf.reduce_sum(tf.cast(tf.not_equal(t, 0), "int32"), axis=1))]
    )(ids)
    return k.Model(ids, k.layers.GRU(3)(k.layers.Embedding(9, 4)(cut)))


def valid_steps(k):
    """The steps of all rows that are not padding, one after the other."""
    ids = k.Input((None,), dtype="int32", name="x")
    steps = steps_of(k, k.layers.Embedding(9, 4, mask_zero=True)(ids))
    kept = k.layers.Lambda(lambda a: tf.boolean_mask(a[0], tf.not_equal(a[1], 0)))
    return k.Model(ids, kept([steps, ids]))


AXES = {
    time_first: [(TIME, BATCH, Axis(None, 4)), (BATCH, TIME, Axis(None, 2))],
    batch_mean: [(TIME, Axis(None, 4))],
    scalar: [()],
    cut_to_longest: [(BATCH, BY_VALUES, Axis(None, 6))],
    valid_steps: [(BY_VALUES, Axis(None, 4))],
}


def padded(t, length):
    return tf.pad(t, [[0, 0], [0, tf.maximum(length - tf.shape(t)[1], 0)], [0, 0]])


def running_mean(t):
    by_step = tf.scan(lambda mean, step: (mean + step) / 2, tf.transpose(t, [1, 0, 2]))
    return tf.transpose(by_step, [1, 0, 2])


# Functions of the steps of a recurrence, and the axes of their results.
FREE, FEATURES = Axis(None, None), Axis(None, 4)
RELATIONS = {
    "at most 500 steps": (lambda t: t[:, : tf.minimum(tf.shape(t)[1], 500)], (BATCH, FREE)),
    "the last 200000 steps": (lambda t: t[:, -200_000:], (BATCH, FREE)),
    "at least 300 steps": (lambda t: padded(t, 300), (BATCH, FREE)),
    "500 steps": (lambda t: padded(t, 500)[:, :500], (BATCH, Axis(None, 500))),
    "a multiple of 128": (
        lambda t: tf.pad(t, [[0, 0], [0, -tf.shape(t)[1] % 128], [0, 0]]),
        (BATCH, FREE),
    ),
    "half, rounded up": (lambda t: t[:, ::2], (BATCH, FREE)),
    "all but three": (lambda t: t[:, 3:], (BATCH, FREE)),
    "as many": (lambda t: t * 2, (BATCH, TIME)),
    "as many as in a loop": (running_mean, (BATCH, TIME)),
    "a loop over 200 steps": (lambda t: running_mean(t[:, :200]), (BATCH, FREE)),
    "two of each row": (lambda t: tf.stack([t, -t]), (Axis(None, 2), BATCH, TIME)),
}


def related(k, function):
    frames = k.Input((None, 3), name="x")
    return k.Model(frames, k.layers.Lambda(function)(steps_of(k, frames)))


@pytest.mark.slow
@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("generation", GENERATIONS)
def test_lengths_are_claimed_for_every_size(generation, relation):
    function, axes = RELATIONS[relation]
    model, _ = read(related(GENERATIONS[generation], function))
    assert find_interface(model).outputs[0].axes == (*axes, FEATURES)


@pytest.mark.slow
@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_length_above_those_of_the_probes(generation, tmp_path):
    def both(t):
        return tf.stack([padded(t[:, :500], 300), padded(t[:, :500], 300) ** 2])

    library = GENERATIONS[generation]
    model = related(library, both)
    export(model, tmp_path / "bundle")
    for backend in ("onnx", "litert"):
        loaded = bilstm_runtime.load(tmp_path / "bundle", backend=backend)
        for batch, time, length in ((1, 2, 300), (3, 301, 301), (2, 501, 500)):
            x = examples(model, batch, time, 0)
            found = loaded.predict(x)
            assert found.shape == (2, batch, length, 4)
            np.testing.assert_allclose(found, model(x, training=False), rtol=1e-4, atol=1e-5)


def examples(model, batch, time, seed):
    rng = np.random.default_rng(seed)
    if model.inputs[0].dtype != "int32":
        return rng.standard_normal((batch, time, 3)).astype("float32")
    ids = rng.integers(1, 9, (batch, time)).astype("int32")
    for row in ids:
        row[rng.integers(1, time + 1) :] = 0
    return ids


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "generation"),
    [*((build, "keras3") for build in AXES), (time_first, "keras2"), (cut_to_longest, "keras2")],
)
def test_predict_returns_what_keras_returns(build, generation, tmp_path):
    library = GENERATIONS[generation]
    library.utils.set_random_seed(3)
    model = build(library)
    export(model, tmp_path / "bundle")
    assert bilstm_runtime.check(tmp_path / "bundle").passed
    for backend in ("onnx", "litert"):
        loaded = bilstm_runtime.load(tmp_path / "bundle", backend=backend)
        assert [spec.axes for spec in loaded.outputs] == AXES[build]
        assert not loaded.spec.rows_independent
        assert not loaded.spec.can_pad
        for seed, shape in enumerate([(1, 1), (2, 9), (7, 3), (3, 12), (7, 3), (1, 6)]):
            x = examples(model, *shape, seed)
            expected = tf.nest.flatten(model(x, training=False))
            found = loaded.predict(x)
            found = found if isinstance(found, list) else [found]
            for output, reference in zip(found, expected, strict=True):
                assert isinstance(output, np.ndarray)
                assert output.shape == reference.shape
                np.testing.assert_allclose(output, reference, rtol=1e-4, atol=1e-5)
        with pytest.raises(InputError, match="run together"):
            loaded.predict([examples(model, 1, n, 0)[0] for n in (3, 5)])


@pytest.mark.slow
def test_a_recurrence_over_the_first_axis(tmp_path):
    tf_keras.utils.set_random_seed(3)
    frames = tf_keras.Input(batch_shape=(None, 3, 5), name="frames")
    steps = tf_keras.layers.GRU(6, return_sequences=True, time_major=True)(frames)
    last = tf_keras.layers.LSTM(4, time_major=True)(steps)
    model = tf_keras.Model(frames, last)
    export(model, tmp_path / "bundle")
    for backend in ("onnx", "litert"):
        loaded = bilstm_runtime.load(tmp_path / "bundle", backend=backend)
        assert not loaded.spec.rows_independent
        for time in (7, 1, 12):
            x = np.random.default_rng(time).standard_normal((time, 3, 5)).astype("float32")
            expected = model(x, training=False)
            np.testing.assert_allclose(loaded.predict(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("generation", GENERATIONS)
def test_rows_that_depend_on_the_longest_row_are_not_divided(generation):
    model, origin = read(cut_and_pooled(GENERATIONS[generation]))
    loaded, _ = inspect_model(model, origin)
    assert [spec.axes for spec in loaded.spec.outputs] == [(BATCH, Axis(None, 3))]
    assert not loaded.spec.rows_independent


@pytest.mark.slow
def test_examples_cannot_be_compared_without_rows():
    model, origin = read(batch_mean(keras))
    loaded, _ = inspect_model(model, origin)
    data = np.zeros((4, 5, 3), "float32")
    with pytest.raises(DataError, match="does not begin with the batch"):
        read_data(data, loaded.spec)
