"""Two directions in one loop: layers that Keras builds, and pairs made by hand.

What each cell computes in such a loop is tested in tests/targets/test_tflite_loops.py.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as kl

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.targets.tflite import flatbuffer
from bilstm_exporter.targets.tflite.graph_editor import operator_name
from bilstm_exporter.targets.tflite.tiling import MAX_UNROLLED_STEPS

pytestmark = pytest.mark.slow

UNITS = 6
FEATURES = 3
MASKED = 0.5


def both(layer=kl.LSTM, units=UNITS, **settings):
    settings = {"return_sequences": True, **settings}

    def of(x):
        return kl.Bidirectional(layer(units, **settings))(x)

    return of


def by_hand(x):
    """Without Bidirectional, the backward direction first, all that they give used."""
    backward = kl.LSTM(UNITS, return_sequences=True, return_state=True, go_backwards=True)
    forward = kl.LSTM(UNITS, return_sequences=True, return_state=True)
    second, *after = backward(x)
    first, *states = forward(x)
    return [
        kl.Concatenate()([first, keras.ops.flip(second, axis=1)]),
        kl.Concatenate()([*after, *states]),
    ]


def first_used_before(x):
    """The first direction has a reader before the second is there."""
    first = kl.Dense(2)(kl.GRU(UNITS)(x))
    return kl.Concatenate()([first, kl.GRU(UNITS, go_backwards=True)(x)])


def cast_mask(x):
    """Each direction casts the mask itself."""
    valid = keras.ops.cast(keras.ops.any(x != MASKED, axis=-1), "int32")
    return kl.Bidirectional(kl.LSTM(UNITS, return_sequences=True))(x, mask=valid)


def masked(x, layer=kl.LSTM, **settings):
    return both(layer, **settings)(kl.Masking(MASKED)(x))


PAIRED = {
    "LSTM of two layers": lambda x: both()(both()(x)),
    "LSTM without bias": both(use_bias=False),
    "LSTM that no input holds at zeros": both(activation="sigmoid"),
    "masked GRU": lambda x: masked(x, kl.GRU),
    "mask of numbers": cast_mask,
    "by hand": by_hand,
    "first used before": first_used_before,
}

MORE_LOOPS = {
    "LSTM of two layers": 2,
    "LSTM that no input holds at zeros": 2,  # steps that fill no iteration come one by one
}


def from_states(x):
    first, *states = kl.LSTM(UNITS, return_state=True)(x)
    last = kl.LSTM(UNITS, go_backwards=True)(x, initial_state=states)
    return kl.Concatenate()([first, last])


def other_mask(x):
    valid, positive = keras.ops.any(x != MASKED, axis=-1), x[:, :, 0] > -1
    first = kl.LSTM(UNITS)(x, mask=valid)
    return kl.Concatenate()([first, kl.LSTM(UNITS, go_backwards=True)(x, mask=positive)])


def one_mask(x):
    last = kl.LSTM(UNITS, go_backwards=True)(x, mask=keras.ops.any(x != MASKED, axis=-1))
    return kl.Concatenate()([kl.LSTM(UNITS)(x), last])


def cell_of_cells(x):
    cell = kl.StackedRNNCells([kl.LSTMCell(UNITS), kl.LSTMCell(UNITS)])
    return kl.Bidirectional(kl.RNN(cell))(x)


def two(first, second):
    return lambda x: kl.Concatenate()([first(x), second(x)])


ALONE = {
    "one starts where the other ends": from_states,
    "other activation": two(kl.LSTM(UNITS), kl.LSTM(UNITS, "relu", go_backwards=True)),
    "no bias in one": two(kl.LSTM(UNITS), kl.LSTM(UNITS, use_bias=False, go_backwards=True)),
    "other reset": two(kl.GRU(UNITS), kl.GRU(UNITS, reset_after=False, go_backwards=True)),
    "other sequence": lambda x: kl.Concatenate()([
        kl.LSTM(UNITS)(x), kl.LSTM(UNITS, go_backwards=True)(kl.Dense(FEATURES)(x))
    ]),
    "other mask": other_mask,
    "one mask": one_mask,
    "a cell of cells": cell_of_cells,
}  # fmt: skip


def build(of, time=None):
    x = keras.Input((time, FEATURES), name="x")
    model = keras.Model(x, of(x))
    rng = np.random.default_rng(3)
    model.set_weights(
        [
            rng.normal(0, min(0.6, 2 / len(w) ** 0.5), w.shape).astype(np.float32)
            for w in model.get_weights()
        ]
    )
    return model


def loops(folder):
    """The loops of the main graph: one for each recurrence, or for each pair."""
    model = flatbuffer.read((folder / "model.tflite").read_bytes())
    kinds = [operator_name(model, operator) for operator in model.subgraphs[0].operators]
    return kinds.count("WHILE")


def inputs(rng, batch, time):
    """Random steps, of which some rows have masked ones left, right, between or throughout."""
    x = rng.normal(0, 1, (batch, time, FEATURES)).astype(np.float32)
    x[0, time // 2 :] = MASKED
    if batch > 1:
        x[1, : time // 3] = MASKED
        x[1, time // 2 : time // 2 + 1] = MASKED
    if batch > 2:
        x[2] = MASKED
    return x


def check(model, exported, batches, times):
    rng = np.random.default_rng(4)
    for time in times:
        for batch in batches:
            x = inputs(rng, batch, time)
            wanted = keras.tree.flatten(model(x))
            for _ in range(2):
                found = keras.tree.flatten(exported.predict(x))
                for one, other in zip(found, wanted, strict=True):
                    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PAIRED)
def test_paired(name, tmp_path):
    model = build(PAIRED[name])
    export(model, tmp_path / "edge", formats="tflite")
    assert loops(tmp_path / "edge") == MORE_LOOPS.get(name, 1)
    check(model, bilstm_runtime.load(tmp_path / "edge"), (1, 3), (1, 2, 5, 9, 33))


@pytest.mark.parametrize("name", ["LSTM of two layers", "masked GRU", "by hand"])
@pytest.mark.parametrize("time", [4, 23])
def test_paired_in_one_sequence_of_fixed_time(name, time, tmp_path):
    """Unrolled, and with the steps of an iteration joined in one row."""
    model = build(PAIRED[name])
    export(model, tmp_path / "edge", formats="tflite", batch=1, time=time)
    expected = MORE_LOOPS.get(name, 1) if time > MAX_UNROLLED_STEPS else 0
    assert loops(tmp_path / "edge") == expected
    check(model, bilstm_runtime.load(tmp_path / "edge"), (1,), (time,))


@pytest.mark.parametrize("of", ALONE.values(), ids=ALONE)
def test_not_paired(of, tmp_path):
    model = build(of)
    export(model, tmp_path / "edge", formats="tflite")
    assert loops(tmp_path / "edge") >= 2
    check(model, bilstm_runtime.load(tmp_path / "edge"), (1, 3), (1, 5))
