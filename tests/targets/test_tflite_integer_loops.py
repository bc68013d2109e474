"""The loops of int8-full files in their float32 form, run in LiteRT, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from bilstm_exporter.ir.cells import StepCell
from bilstm_exporter.ir.recurrence import Recurrence
from bilstm_exporter.targets.tflite import flatbuffer, loop_splicing
from bilstm_exporter.targets.tflite.converter import convert_function
from bilstm_exporter.targets.tflite.integer_lowering import LOOP, IntegerLowering
from bilstm_exporter.targets.tflite.loop_splicing import splice_loops

from .numpy_cells import FEATURES, masks
from .recurrences import KINDS, Layer, assert_close, layer, make_inputs, make_states

pytestmark = pytest.mark.slow


def converted(function: Any, arrays: list[np.ndarray]) -> Any:
    """A function of a lowering and of tensors, as a file with its loops in object form."""
    # The final cell state of an LSTM is read, so that it is a loop too.
    lowering = IntegerLowering(frozenset(range(9)))
    specs = [tf.TensorSpec(array.shape, array.dtype) for array in arrays]
    concrete = tf.function(
        lambda *tensors: function(lowering, *tensors), autograph=False
    ).get_concrete_function(*specs)
    assert {form.form for form in lowering.forms} == {LOOP}
    whole, sites = lowering.markers.cut(concrete, lowering)
    own = len(arrays), len(concrete.outputs)
    model = flatbuffer.read_converted(convert_function(whole), own)
    steps = [flatbuffer.read_converted(convert_function(site.loop.step)) for site in sites]
    splice_loops(model, sites, steps, own)
    return model


def run_function(function: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Convert a function of a lowering and of tensors, and run the file twice."""
    model = converted(function, arrays)
    counts = (len(model.subgraphs[0].inputs), len(model.subgraphs[0].outputs))
    names = ([f"{kind}{i}" for i in range(count)] for kind, count in zip("xy", counts, strict=True))
    interpreter = Interpreter(model_content=flatbuffer.finish(model, *names), num_threads=1)
    interpreter.allocate_tensors()
    for _ in range(2):
        for detail, array in zip(interpreter.get_input_details(), arrays, strict=True):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
    return [interpreter.get_tensor(one["index"]) for one in interpreter.get_output_details()]


def run(one: Layer, x: np.ndarray, mask: Any = None, states: Any = None) -> list[np.ndarray]:
    """Run one layer at the shapes of its inputs."""
    count = one.weights.state_count

    def function(lowering: Any, x: Any, *more: Any) -> list[Any]:
        given_mask = more[0] if mask is not None else None
        given = list(more[int(mask is not None) :]) or [None] * count
        result = lowering.lower(one.recurrence, x, given, given_mask)
        outputs = [] if result.outputs is None else [result.outputs]
        return [result.last_output, *outputs, *result.states]

    return run_function(function, [x, *([] if mask is None else [mask]), *(states or [])])


every_direction = pytest.mark.parametrize("backwards", [False, True])


@every_direction
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_cell(kind, sequences, backwards):
    one = layer(kind, go_backwards=backwards, return_sequences=sequences)
    for batch, time in ((1, 3), (2, 7)):
        x = make_inputs(batch, time)
        assert_close(run(one, x), one.reference(x, [None] * one.weights.state_count, None))
        states = make_states(one.weights, batch)
        assert_close(run(one, x, None, states), one.reference(x, states, None))


@pytest.mark.parametrize("zero", [False, True])
@every_direction
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_every_mask(kind, backwards, zero):
    one = layer(kind, go_backwards=backwards, zero_output_for_mask=zero)
    none = [None] * one.weights.state_count
    for name, mask in masks(4, 7).items():
        if name in {"none valid", "holes", "mixed"}:
            x = make_inputs(4, 7)
            assert_close(run(one, x, mask), one.reference(x, none, mask))


def step_recurrence(function: Any, states: int) -> Recurrence:
    cell = StepCell(function, states)
    return Recurrence(
        "layer", cell, go_backwards=False, return_sequences=True, zero_output_for_mask=False
    )


def test_a_state_that_moves_to_another_place():
    """Each state has the value of the other one in the step before."""

    def function(lowering, x, a, b):
        swap = step_recurrence(lambda x, states: (x + states[0], [states[1], states[0]]), 2)
        result = lowering.lower(swap, x, [a, b], None)
        return [result.outputs, *result.states]

    x, a, b = make_inputs(1, 5), np.full((1, FEATURES), 2, "f4"), np.full((1, FEATURES), 3, "f4")
    outputs, first, second = run_function(function, [x, a, b])
    np.testing.assert_allclose(outputs, x + np.array([2, 3, 2, 3, 2], "f4")[:, None], rtol=1e-6)
    assert first[0, 0] == 3
    assert second[0, 0] == 2


def test_what_every_step_reads():
    """Tensors that the model computes outside of the loop, and constants."""

    def function(lowering, x, factor):
        outside, constant = tf.exp(factor), tf.constant(np.full(FEATURES, 0.5, np.float32))

        def step(x, states):
            new = states[0] * constant + x * outside
            return new, [new]

        result = lowering.lower(step_recurrence(step, 1), x, [tf.zeros_like(factor)], None)
        return [result.outputs, result.last_output]

    x, factor = make_inputs(1, 6), np.linspace(-1, 1, FEATURES, dtype=np.float32)[None]
    outputs, last = run_function(function, [x, factor])
    state, expected = np.zeros_like(factor), []
    for position in range(6):
        state = state * 0.5 + x[:, position] * np.exp(factor)
        expected.append(state)
    np.testing.assert_allclose(outputs, np.stack(expected, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last, state, rtol=1e-5, atol=1e-6)


def test_results_are_outputs_and_inputs_of_other_loops():
    one, two = layer("GRU"), layer("SimpleRNN", go_backwards=True)

    def function(lowering, x):
        first = lowering.lower(one.recurrence, x, [None], None)
        again = lowering.lower(one.recurrence, first.outputs[:, :, :FEATURES], [None], None)
        return [first.outputs, lowering.lower(two.recurrence, x, [None], None).outputs,
                again.last_output, first.outputs, x]  # fmt: skip

    x = make_inputs(1, 6)
    found = run_function(function, [x])
    _, sequence, _ = one.reference(x, [None], None)
    assert_close(found[:2], [sequence, two.reference(x, [None], None)[1]])
    last, _, _ = one.reference(sequence[:, :, :FEATURES], [None], None)
    assert_close(found[2:], [last, sequence, x])


@pytest.mark.parametrize("which", ["position", "state", "order"])
def test_a_mutant_is_detected(which, monkeypatch):
    splice = loop_splicing._Splice
    if which == "position":  # every step is written to the first place
        places = splice._places
        monkeypatch.setattr(splice, "_places", lambda self, _: places(self, self._zero()))
        monkeypatch.setattr(
            splice, "_zero", lambda self: self.body.add_constant(np.array(0, np.int32), []),
            raising=False,
        )  # fmt: skip
    elif which == "state":  # the state stays as it was
        add = splice._add

        def keep(self, before, inner, after, number=None):
            add(self, before, inner, inner if number == 1 else after, number)

        monkeypatch.setattr(splice, "_add", keep)
    else:  # the steps in reverse
        monkeypatch.setattr(tf, "reverse", lambda tensor, axis: tf.identity(tensor))
    one = layer("GRU", go_backwards=which == "order")
    x = make_inputs(1, 6)
    with pytest.raises(AssertionError):
        assert_close(run(one, x), one.reference(x, [None], None))
