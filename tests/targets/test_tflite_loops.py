"""The loops of the TFLite target, run in TensorFlow and in LiteRT, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from bilstm_exporter.ir.cells import LSTMCell, StepCell
from bilstm_exporter.ir.recurrence import Bidirectional, Recurrence, RecurrenceResult
from bilstm_exporter.targets.tflite import bidirectional, flatbuffer
from bilstm_exporter.targets.tflite.bidirectional import LoopLowering
from bilstm_exporter.targets.tflite.converter import convert_function

from .numpy_cells import FEATURES, masks
from .recurrences import KINDS, LENGTHS, Layer, assert_close, layer, make_inputs, make_states

MASK_KINDS = tuple(masks(1, 1))


def flat(result: RecurrenceResult) -> list[Any]:
    outputs = [] if result.outputs is None else [result.outputs]
    return [result.last_output, *outputs, *result.states]


def traced(
    layers: list[Layer],
    shape: tuple[int | None, int | None] = (None, None),
    *,
    masked: bool = False,
    states: bool = False,
    lowering: LoopLowering | None = None,
) -> Any:
    """Trace one layer, or the pair of a bidirectional layer.

    The inputs are the sequences, the mask if there is one, then the initial states.
    """
    lowering = lowering or LoopLowering(4)
    batch, time = shape
    signature = [tf.TensorSpec([batch, time, FEATURES], tf.float32, name="input_0")]
    if masked:
        signature.append(tf.TensorSpec([batch, time], tf.bool, name="input_1"))
    counts = [one.weights.state_count for one in layers]
    units = layers[0].weights.units
    signature += [
        tf.TensorSpec([batch, units], tf.float32, name=f"input_{number}")
        for number in range(2, 2 + sum(counts) * states)
    ]

    def function(x: Any, *more: Any) -> dict[str, Any]:
        mask = more[0] if masked else None
        given = list(more[int(masked) :]) or [None] * sum(counts)
        if len(layers) == 1:
            results = [lowering.lower(layers[0].recurrence, x, given, mask)]
        else:
            pair = Bidirectional("pair", *(one.recurrence for one in layers))
            initial = given[: counts[0]], given[counts[0] :]
            results = list(lowering.lower_bidirectional(pair, x, initial, mask))
        tensors = [tf.identity(tensor) for result in results for tensor in flat(result)]
        return {f"output_{number:02}": tensor for number, tensor in enumerate(tensors)}

    return tf.function(function, autograph=False).get_concrete_function(*signature)


def run(function: Any, *inputs: Any) -> list[np.ndarray]:
    outputs = function(*map(tf.constant, inputs))
    return [outputs[name].numpy() for name in sorted(outputs)]


def loops(function: Any) -> int:
    """The loops of the main graph."""
    operations = function.graph.get_operations()
    return sum(operation.type in {"While", "StatelessWhile"} for operation in operations)


def check(function: Any, layers: list[Layer], x: Any, mask: Any = None, states: Any = None) -> None:
    given = [*([] if mask is None else [mask]), *(states or [])]
    expected = []
    rest = list(states or [None] * sum(one.weights.state_count for one in layers))
    for one in layers:
        own, rest = rest[: one.weights.state_count], rest[one.weights.state_count :]
        expected += one.reference(x, own, mask)
    assert_close(run(function, x, *given), expected)


def form(kind: str, name: str) -> list[Layer]:
    """One layer in either direction, or a pair in either order."""
    settings = {"go_backwards": name in {"backward", "pair, backward first"}}
    first = layer(kind, **settings)
    return [first, first.other_direction] if "pair" in name else [first]


FORMS = ("forward", "backward", "pair", "pair, backward first")
every_form = pytest.mark.parametrize("name", FORMS)
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_form
@every_kind
def test_free_time_at_every_length(kind, name):
    layers = form(kind, name)
    function = traced(layers)
    for time in LENGTHS:
        for batch in (1, 3):
            check(function, layers, make_inputs(batch, time))


@pytest.mark.parametrize("zero", [False, True])
@every_form
@every_kind
def test_every_mask(kind, name, zero):
    """Masks of every kind, in one batch each."""
    layers = [
        Layer(one.weights, one.go_backwards, zero_output_for_mask=zero) for one in form(kind, name)
    ]
    function = traced(layers, masked=True)
    for time in (1, 5, 11):
        for mask in masks(4, time).values():
            if mask is not None:
                check(function, layers, make_inputs(4, time), mask)


@pytest.mark.parametrize(("masked", "sequences"), [(False, True), (True, False), (True, True)])
@pytest.mark.parametrize(
    ("kind", "name"), [("LSTM", "forward"), ("LSTM", "pair"), ("GRU", "backward")]
)
def test_given_states(kind, name, masked, sequences):
    layers = [
        Layer(one.weights, one.go_backwards, return_sequences=sequences) for one in form(kind, name)
    ]
    function = traced(layers, masked=masked, states=True)
    for time in (1, 4, 5, 11, 41):
        states = [state for one in layers for state in make_states(one.weights, 3)]
        mask = masks(3, time)["mixed"] if masked else None
        check(function, layers, make_inputs(3, time), mask, states)


@pytest.mark.parametrize(("batch", "masked"), [(1, False), (1, True), (2, True)])
@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize(("kind", "name"), [("LSTM", "pair"), ("GRU", "backward")])
def test_fixed_shapes(kind, name, masked, time, batch):
    """Unrolled up to ten steps; for more, the steps of one sequence are joined in rows."""
    layers = form(kind, name)
    function = traced(layers, (batch, time), masked=masked)
    assert loops(function) == (time > 10)
    x = make_inputs(batch, time)
    check(function, layers, x, masks(batch, time)["holes"] if masked else None)


@pytest.mark.slow
def test_chunks_of_a_long_sequence():
    """Outputs that are expensive to copy are filled in chunks."""
    for layers in ([layer("LSTM", 96)], [layer("GRU", 96, go_backwards=True)]):
        for shape in ((None, None), (1, 140)):
            function = traced(layers, shape)
            nested = list(function.graph._functions.values())
            assert any("while" in str(g.name) for g in nested)
            check(function, layers, make_inputs(1, 140))


# --- pairs in one loop


def alone(first: Recurrence, second: Recurrence, states: Any = (None, None)) -> int:
    lowering = LoopLowering(4)

    @tf.function(autograph=False)
    def function(x: Any) -> Any:
        results = lowering.lower_bidirectional(
            Bidirectional("pair", first, second),
            x,
            tuple(
                [one and tf.zeros([tf.shape(x)[0], 4]) for _ in range(recurrence.cell.state_count)]
                if one
                else [None] * recurrence.cell.state_count
                for one, recurrence in zip(states, (first, second), strict=True)
            ),
            None,
        )
        return [tensor for result in results for tensor in flat(result)]

    spec = tf.TensorSpec([None, None, FEATURES], tf.float32)
    assert len(lowering.forms) == 0
    count = loops(function.get_concrete_function(spec))
    assert len(lowering.forms) == len(lowering.cells) == 2
    return count


@every_kind
def test_a_pair_is_one_loop(kind):
    first = layer(kind)
    assert alone(first.recurrence, first.other_direction.recurrence) == 1


def test_recurrences_that_are_not_a_pair():
    lstm, back = layer("LSTM"), layer("LSTM").other_direction
    gru = layer("GRU", go_backwards=True)
    wide = layer("LSTM", 5, go_backwards=True)
    last = Layer(back.weights, True, return_sequences=False)
    large = layer("LSTM", 200)
    for other in (gru, wide, last, Layer(back.weights)):
        assert alone(lstm.recurrence, other.recurrence) == 2
    assert alone(large.recurrence, large.other_direction.recurrence) == 2
    assert alone(lstm.recurrence, back.recurrence, (True, None)) >= 2
    assert alone(lstm.recurrence, back.recurrence, (None, True)) >= 2


def test_a_manual_pair_is_one_loop():
    """Two calls, the backward one first, with a consumer of the first result in between."""
    first = layer("GRU", go_backwards=True)
    second = first.other_direction
    lowering = LoopLowering(4)

    @tf.function(autograph=False)
    def function(x: Any) -> Any:
        one = lowering.lower(first.recurrence, x, [None], None)
        read = one.last_output * 1.0
        two = lowering.lower(second.recurrence, x, [None], None)
        return [read, *flat(one), *flat(two)]

    spec = tf.TensorSpec([None, None, FEATURES], tf.float32)
    x = make_inputs(2, 9)
    found = [tensor.numpy() for tensor in function.get_concrete_function(spec)(tf.constant(x))]
    expected = first.reference(x, [None], None)
    assert_close(found, [expected[0], *expected, *second.reference(x, [None], None)])


def test_any_other_cell_is_a_loop_of_its_step():
    """A cell that adds its inputs up, two states of different shapes."""

    def step(inputs: Any, states: Any) -> Any:
        total, count = states
        total = total + inputs
        return total * 2.0, [total, count + 1.0]

    recurrence = Recurrence("own", StepCell(step, 2), False, True, False)

    @tf.function(autograph=False)
    def function(x: Any) -> Any:
        batch = tf.shape(x)[0]
        states = [tf.zeros([batch, FEATURES]), tf.zeros([batch, 1])]
        return flat(LoopLowering(4).lower(recurrence, x, states, None))

    concrete = function.get_concrete_function(tf.TensorSpec([None, None, FEATURES], tf.float32))
    for time in LENGTHS:
        x = make_inputs(2, time)
        total = np.cumsum(x, axis=1)
        expected = [2 * total[:, -1], 2 * total, total[:, -1], np.full((2, 1), time)]
        assert_close([t.numpy() for t in concrete(tf.constant(x))], expected)


# --- in LiteRT


@pytest.mark.parametrize("name", ["backward", "pair"])
def test_the_same_in_litert(name):
    layers = form("LSTM", name)
    function = traced(layers, masked=True)
    model = flatbuffer.read(convert_function(function))
    count = len(function.structured_outputs)
    names = [f"output_{number:02}" for number in range(count)]
    content = flatbuffer.finish(model, ["x", "mask"], names)
    runner = Interpreter(model_content=content).get_signature_runner()
    for batch, time in ((1, 1), (3, 11), (2, 41), (1, 5)):
        x, mask = make_inputs(batch, time), masks(batch, time)["mixed"]
        found = runner(x=x, mask=mask)
        expected = [a for one in layers for a in one.reference(x, [None, None], mask)]
        assert_close([found[name] for name in names], expected)


# --- the comparison can fail


def gate_order(weights: Any) -> Any:
    i, f, c, o = np.split(weights, 4, axis=-1)
    return np.concatenate([f, i, c, o], axis=-1)


def mutants(monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    if which == "gates in another order":
        advance = LSTMCell.advance

        def wrong(self: Any, gates: Any, states: Any) -> Any:
            sums = gates.sums

            def swapped(hidden: Any) -> Any:
                i, f, c, o = sums(hidden)
                return [f, i, c, o]

            monkeypatch.setattr(gates, "sums", swapped, raising=False)
            return advance(self, gates, states)

        monkeypatch.setattr(LSTMCell, "advance", wrong)
    elif which == "directions exchanged":
        lower_both = bidirectional.loop.lower_both
        monkeypatch.setattr(
            bidirectional.loop,
            "lower_both",
            lambda a, b, *rest, **how: lower_both(b, a, *rest, **how),
        )
    else:
        select = bidirectional.loop.select
        monkeypatch.setattr(
            bidirectional.loop, "select", lambda mask, new, old: select(~mask, new, old)
        )


@pytest.mark.parametrize(
    "which", ["gates in another order", "directions exchanged", "mask turned around"]
)
def test_a_mutant_is_detected(which, monkeypatch):
    mutants(monkeypatch, which)
    layers = form("LSTM", "pair")
    function = traced(layers, masked=True)
    with pytest.raises(AssertionError):
        check(function, layers, make_inputs(3, 9), masks(3, 9)["right padding"])
