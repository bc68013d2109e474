"""The tiling of time: every step is processed exactly once and in order.

Padding steps that change no state may be processed too. `processed` iterates over a tiling as
`tflite/loop.py` does.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bilstm_exporter.ir.cells import Activation, GRUCell, LSTMCell, SimpleRNNCell, StepCell
from bilstm_exporter.targets.tflite import tiling
from bilstm_exporter.targets.tflite.tiling import (
    MAX_UNROLLED_STEPS,
    fits_one_loop,
    neutral_input,
    steps_per_iteration,
    tile_time,
)

TANH = Activation("tanh", tf.tanh)
SIGMOID = Activation("sigmoid", tf.sigmoid)
RNG = np.random.default_rng(11)


def numbers(*shape):
    return RNG.normal(0, 0.4, shape).astype(np.float32)


def lstm(units=4, activation=TANH):
    width = 4 * units
    return LSTMCell(numbers(3, width), numbers(units, width), numbers(width), activation, SIGMOID)


def gru(*, units=4, recurrent_bias=True, activation=TANH, reset_after=True):
    width = 3 * units
    return GRUCell(
        numbers(3, width),
        numbers(units, width),
        numbers(width),
        numbers(width) if recurrent_bias else None,
        activation,
        SIGMOID,
        reset_after=reset_after,
    )


def simple_rnn(units=4, activation=TANH):
    return SimpleRNNCell(numbers(3, units), numbers(units, units), numbers(units), activation)


CELLS = {
    "LSTM": lstm(),
    "LSTM of three steps per iteration": lstm(104),
    "LSTM of two steps per iteration": lstm(128),
    "LSTM of one step per iteration": lstm(256),
    "LSTM with sigmoid": lstm(activation=SIGMOID),
    "GRU": gru(recurrent_bias=False),
    "GRU with a recurrent bias": gru(),
    "GRU with sigmoid": gru(activation=SIGMOID),
    "GRU that resets before": gru(recurrent_bias=False, reset_after=False),
    "SimpleRNN": simple_rnn(),
    "SimpleRNN with sigmoid": simple_rnn(activation=SIGMOID),
    "StepCell": StepCell(lambda inputs, states: (inputs, states), 1),
}
ANY_STATE = {name for name in CELLS if name.startswith("GRU")}
NEVER = {"LSTM with sigmoid", "SimpleRNN with sigmoid", "StepCell"}
OUTPUTS = st.sampled_from([0, 4, 256, 60_000])

every_cell = pytest.mark.parametrize("name", CELLS)


def holds(name, *, starts_at_zeros):
    return name in ANY_STATE or (starts_at_zeros and name not in NEVER)


def processed(tiled, time):
    """Positions in processing order, and the number of chunks."""
    padding, start, skipped, rest = (
        int(value) for value in (tiled.padding, tiled.start, tiled.skipped, tiled.rest)
    )
    end = padding + time

    def iterations(begin, end, offset=0):
        starts = range(begin, end - tiled.block + 1, tiled.block)
        return [offset + first + step for first in starts for step in range(tiled.block)]

    positions = list(range(padding, padding + rest))
    if tiled.chunk is None:
        return positions + iterations(skipped, end), 1
    chunks = range(start, end - tiled.chunk + 1, tiled.chunk)
    for chunk in chunks:
        positions += iterations(skipped, tiled.chunk, chunk)
        skipped = 0
    return positions, len(chunks)


def check(tiled, name, time, *, masked, starts_at_zeros):
    """Assert the properties of every tiling."""
    positions, _ = processed(tiled, time)
    end = tiled.padding + time
    # Every real step once and in order, and only the last few padding steps.
    assert positions == list(range(end - len(positions), end))
    padded = len(positions) - time
    assert 0 <= padded < tiled.block
    if not masked and not holds(name, starts_at_zeros=starts_at_zeros):
        assert padded == 0
    unrolled = tiled.block == time <= MAX_UNROLLED_STEPS
    assert unrolled or 1 <= tiled.block <= steps_per_iteration(CELLS[name], 4)
    assert tiled.chunk is None or tiled.chunk % tiled.block == 0
    if padded and not masked:
        value = neutral_input(CELLS[name], starts_at_zeros=starts_at_zeros)
        assert tiled.fill == value


def tiling_of(
    name,
    time,
    output_size,
    *,
    masked=False,
    starts_at_zeros=True,
    input_size=16,
    one_sequence=False,
    usual_steps=None,
):
    return tile_time(
        CELLS[name],
        time,
        4,
        input_size=input_size,
        output_size=output_size,
        masked=masked,
        starts_at_zeros=starts_at_zeros,
        one_sequence=one_sequence,
        usual_steps=usual_steps,
    )


options = {
    "time": st.integers(1, 300),
    "output_size": OUTPUTS,
    "masked": st.booleans(),
    "starts_at_zeros": st.booleans(),
}


@every_cell
@given(**options, input_size=st.sampled_from([1, 16, 60_000]))
@example(time=97, output_size=60_000, masked=False, starts_at_zeros=False, input_size=16)
@example(time=97, output_size=60_000, masked=True, starts_at_zeros=True, input_size=1)
@settings(max_examples=40, deadline=None)
def test_a_fixed_time_is_processed_once(
    name, time, output_size, masked, starts_at_zeros, input_size
):
    given_ = {"masked": masked, "starts_at_zeros": starts_at_zeros}
    tiled = tiling_of(name, time, output_size, input_size=input_size, **given_)
    check(tiled, name, time, **given_)
    assert (tiled.start, tiled.rest) == (0, 0)
    assert 0 <= tiled.skipped <= tiled.padding
    assert tiled.skipped % tiled.block == 0  # so that blocks can be rows
    assert (time + tiled.padding) % tiled.block == 0
    if tiled.chunk is None:
        assert (time + tiled.padding - tiled.skipped) % tiled.block == 0
    else:
        assert tiled.chunk < time
        assert (time + tiled.padding) % tiled.chunk == 0
        assert tiled.padding < tiled.chunk  # else a whole chunk would be padding


@every_cell
@given(**options, usual_steps=st.sampled_from([None, 1, 10_000]))
@settings(max_examples=40, deadline=None)
def test_a_free_time_is_processed_once(
    name, time, output_size, masked, starts_at_zeros, usual_steps
):
    given_ = {"masked": masked, "starts_at_zeros": starts_at_zeros}
    tiled = tiling_of(name, tf.constant(time), output_size, usual_steps=usual_steps, **given_)
    check(tiled, name, time, **given_)
    assert isinstance(tiled.padding, int)  # else a shape would follow from a value
    assert 0 <= int(tiled.start) <= tiled.padding
    max_skipped = tiled.chunk or tiled.padding + int(tiled.rest)
    assert 0 <= int(tiled.skipped) <= max_skipped
    assert tiled.padding in {0, tiled.block, tiled.chunk}
    assert (tiled.chunk is None) == (output_size == 0 or usual_steps == 1)
    # The buffer of the outputs holds an iteration, also without any loop around it.
    assert not output_size or time + tiled.padding >= tiled.block


@pytest.mark.parametrize("starts_at_zeros", [True, False])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "StepCell"])
def test_a_free_time_around_whole_chunks(name, starts_at_zeros):
    chunk = tiling_of(name, tf.constant(1), 512, starts_at_zeros=starts_at_zeros).chunk
    for time in (1, chunk - 1, chunk, chunk + 1, 2 * chunk + 3):
        tiled = tiling_of(name, tf.constant(time), 512, starts_at_zeros=starts_at_zeros)
        check(tiled, name, time, masked=False, starts_at_zeros=starts_at_zeros)
        assert tiled.chunk == chunk
        assert processed(tiled, time)[1] == -(-time // chunk)


@pytest.mark.parametrize("part", ["start", "skipped", "rest", "padding"])
@pytest.mark.parametrize("fixed", [True, False])
def test_a_tiling_that_is_off_by_one_is_detected(part, fixed):
    """The checks above can fail."""
    time = 50
    tiled = tiling_of("StepCell", time if fixed else tf.constant(time), 60_000)
    assert tiled.chunk is not None
    check(tiled, "StepCell", time, masked=False, starts_at_zeros=True)
    for off in (-1, 1):
        wrong = replace(tiled, **{part: int(getattr(tiled, part)) + off})
        if fixed and part == "rest" and off < 0:
            continue  # a negative count is like 0
        with pytest.raises(AssertionError):
            check(wrong, "StepCell", time, masked=False, starts_at_zeros=True)


def test_a_sequence_no_longer_than_an_iteration_is_unrolled():
    for time in range(1, tiling.STEPS_PER_ITERATION + 1):
        tiled = tiling_of("StepCell", time, 4)
        assert (tiled.block, tiled.chunk, tiled.padding) == (time, None, 0)


@pytest.mark.parametrize(
    ("name", "time", "one_sequence", "is_joined"),
    [
        ("LSTM", 50, True, True),
        ("GRU", 50, True, True),
        ("LSTM", 50, False, False),
        ("LSTM", tf.constant(50), True, False),
        ("LSTM", 4, True, False),  # unrolled
        ("StepCell", 50, True, False),
    ],
)
def test_steps_are_joined_where_all_rows_are_known(name, time, one_sequence, is_joined):
    assert tiling_of(name, time, 16, one_sequence=one_sequence).joined is is_joined


def test_there_is_no_padding_without_a_neutral_input():
    assert tiling_of("StepCell", 97, 4).block == 1  # a prime
    assert tiling_of("StepCell", 99, 4).block == 3
    assert tiling_of("StepCell", 97, 4, masked=True).block == 4
    assert tiling_of("LSTM", 97, 4).block == 4
    assert tiling_of("LSTM", 97, 4, starts_at_zeros=False).block == 1


def test_only_outputs_that_are_expensive_to_copy_are_split_into_chunks():
    assert tiling_of("LSTM", 300, 0).chunk is None
    assert tiling_of("LSTM", 300, 1).chunk is None
    assert tiling_of("LSTM", 300, 4096).chunk is not None
    few, many = (tiling_of("LSTM", tf.constant(1), size).chunk for size in (60_000, 4))
    assert few < many


def test_steps_per_iteration_are_as_many_as_kernels_fit_the_cache():
    steps = [steps_per_iteration(lstm(units), 4) for units in (4, 104, 128, 256, 512)]
    assert steps == [4, 3, 2, 1, 1]
    assert steps_per_iteration(lstm(256), 1) == 2
    assert steps_per_iteration(CELLS["StepCell"], 4) == 4


@pytest.mark.parametrize("starts_at_zeros", [True, False])
@every_cell
def test_padding_leaves_the_states_exactly_as_they_are(name, starts_at_zeros):
    cell = CELLS[name]
    value = neutral_input(cell, starts_at_zeros=starts_at_zeros)
    assert (value is not None) == holds(name, starts_at_zeros=starts_at_zeros)
    if value is None:
        return
    shape = (5, cell.units)
    states = [np.zeros(shape, np.float32)] * cell.state_count
    if not starts_at_zeros:
        states = [3 * np.random.default_rng(7).standard_normal(shape, np.float32)]
    inputs = tf.fill([5, cell.recurrent_kernel.shape[1]], value)
    after = states
    for _ in range(3):
        _, after = cell.step(inputs, [tf.constant(state) for state in after])
    for new, old in zip(after, states, strict=True):
        np.testing.assert_array_equal(new, old)


def test_neutral_inputs():
    assert neutral_input(lstm(), starts_at_zeros=True) == 0.0
    assert neutral_input(lstm(), starts_at_zeros=False) is None
    assert neutral_input(lstm(activation=SIGMOID), starts_at_zeros=True) is None
    # With zeros the recurrent bias alone would move the state.
    assert neutral_input(gru(), starts_at_zeros=True) > 100
    assert neutral_input(gru(recurrent_bias=False), starts_at_zeros=True) == 0.0
    assert neutral_input(gru(), starts_at_zeros=False) > 100
    not_a_number = Activation(None, lambda x: x / (x - x))
    assert neutral_input(gru(activation=not_a_number), starts_at_zeros=False) is None


@pytest.mark.parametrize(
    ("cell", "time", "weight_bytes", "expected"),
    [
        (lstm(16), None, 4, True),
        (lstm(64), None, 4, False),  # may be long
        (lstm(64), 400, 4, True),
        (lstm(64), 1_600, 4, False),
        (lstm(160), 100, 4, False),  # the kernels of both take too much of the cache
        (lstm(160), 100, 1, True),
        (lstm(208), 10, 1, False),  # many outputs to copy
        (gru(units=64), 400, 4, True),
        (StepCell(lambda inputs, states: (inputs, states), 1), 10, 4, False),
    ],
)
def test_when_two_directions_share_a_loop(cell, time, weight_bytes, expected):
    assert fits_one_loop(cell, time, weight_bytes, return_sequences=True) is expected
