"""The TFLite loop at lengths around its chunks, against Keras's eager call."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.ir.cells import StepCell
from bilstm_exporter.targets.tflite import flatbuffer
from bilstm_exporter.targets.tflite.graph_editor import operator_name
from bilstm_exporter.targets.tflite.tiling import tile_time

pytestmark = pytest.mark.slow

UNITS = 16
FEATURES = 3


def chunk():
    """Steps a chunk; they depend on the outputs alone, whose kernel is small."""
    return tile_time(
        StepCell(lambda inputs, states: (inputs, states), 1),
        tf.constant(1),
        4,
        input_size=FEATURES,
        output_size=UNITS,
        masked=False,
        starts_at_zeros=True,
    ).chunk


def lstm(x):
    return kl.LSTM(UNITS, return_sequences=True)(x), []


def gru(x):
    return kl.GRU(UNITS, return_sequences=True)(x), []


def bidirectional(x):
    """The backward direction is filled in at the end of time."""
    return kl.Bidirectional(kl.LSTM(UNITS, return_sequences=True))(x), []


def from_states(x):
    """Nothing holds these states, so steps that fill no iteration come one by one."""
    start = keras.Input((2,), name="start")
    states = [kl.Dense(UNITS)(start), kl.Dense(UNITS, activation="tanh")(start)]
    return kl.LSTM(UNITS, return_sequences=True)(x, initial_state=states), [start]


def backward_from_states(x):
    start = keras.Input((2,), name="start")
    layer = kl.GRU(UNITS, return_sequences=True, go_backwards=True)
    return layer(x, initial_state=kl.Dense(UNITS)(start)), [start]


@pytest.mark.parametrize("build", [lstm, gru, bidirectional, from_states, backward_from_states])
def test_lengths_around_a_chunk(build, tmp_path):
    x = keras.Input((None, FEATURES), name="x")
    outputs, more = build(x)
    model = keras.Model([x, *more], outputs)
    rng = np.random.default_rng(5)
    model.set_weights([rng.normal(0, 0.4, w.shape).astype(np.float32) for w in model.get_weights()])
    export(model, tmp_path / "edge", formats="tflite")
    exported = bilstm_runtime.load(tmp_path / "edge")
    steps = chunk()
    for time in (1, 2, 3, steps - 1, steps, steps + 1, 2 * steps + 3):
        inputs = {"x": rng.normal(0, 1, (3, time, FEATURES)).astype(np.float32)}
        if more:
            inputs["start"] = rng.normal(0, 1, (3, 2)).astype(np.float32)
        wanted = model(inputs).numpy()  # computed once, because it is slow
        for batch in (1, 3):
            found = exported.predict({name: rows[:batch] for name, rows in inputs.items()})
            np.testing.assert_allclose(found, wanted[:batch], rtol=1e-4, atol=1e-5)


def masked(x):
    layer = kl.Bidirectional(kl.GRU(UNITS, return_sequences=True))
    return layer(kl.Masking(mask_value=0.5)(x)), []


def last_of_masked(x):
    return kl.Bidirectional(kl.LSTM(UNITS))(kl.Masking(mask_value=0.5)(x)), []


def wide(x):
    return kl.Bidirectional(kl.LSTM(96, return_sequences=True))(x), []


EVERY = (lstm, gru, bidirectional, from_states, backward_from_states, masked, last_of_masked)
FIXED = [
    *((build, time) for build in EVERY for time in (11, 23)),
    (wide, 140),  # in chunks, the first of which begins after a skipped iteration
]


@pytest.mark.parametrize(("build", "time"), FIXED)
def test_one_sequence_of_fixed_time(build, time, tmp_path):
    """The steps of an iteration are one row then."""
    x = keras.Input((None, FEATURES), name="x")
    outputs, more = build(x)
    model = keras.Model([x, *more], outputs)
    rng = np.random.default_rng(5)
    model.set_weights(
        [
            rng.normal(0, min(0.4, 1.6 / len(w) ** 0.5), w.shape).astype(np.float32)
            for w in model.get_weights()
        ]
    )
    export(model, tmp_path / "edge", formats="tflite", batch=1, time=time)
    exported = bilstm_runtime.load(tmp_path / "edge")
    for valid in (time, time // 2, 0):
        inputs = {"x": rng.normal(0, 1, (1, time, FEATURES)).astype(np.float32)}
        inputs["x"][:, valid:] = 0.5
        inputs["x"][:, valid // 3 : valid // 2] = 0.5
        if more:
            inputs["start"] = rng.normal(0, 1, (1, 2)).astype(np.float32)
        wanted = model(inputs).numpy()
        np.testing.assert_allclose(exported.predict(inputs), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("batch", "is_joined"), [(1, True), (2, False), (None, False)])
def test_steps_of_one_row_are_left_to_xnnpack(batch, is_joined, tmp_path):
    """LiteRT has to take them apart and put them together itself where there are several rows."""
    x = keras.Input((None, FEATURES), name="x")
    export(keras.Model(x, lstm(x)[0]), tmp_path / "edge", formats="tflite", batch=batch, time=47)
    model = flatbuffer.read((tmp_path / "edge" / "model.tflite").read_bytes())
    found = {
        operator_name(model, operator)
        for subgraph in model.subgraphs[1:]
        for operator in subgraph.operators
    }
    assert {"SPLIT", "FULLY_CONNECTED"} <= found
    assert ("UNPACK" not in found) is is_joined
    assert ("CONCATENATION" in found) is is_joined
