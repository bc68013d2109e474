"""The two layers of a `Bidirectional` reach a target in one call, for Keras 2 and 3."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from bilstm_exporter.frontends.loading import read
from bilstm_exporter.ir.cells import GRUCell, LSTMCell, SimpleRNNCell
from bilstm_exporter.ir.recurrence import Bidirectional, Lowering, Recurrence, RecurrenceResult
from bilstm_exporter.targets.tflite import loop

FEATURES, UNITS = 3, 2
MASKED = -1.0
# Keras 2 takes seconds to import: the quick level does without it here.
LIBRARIES = [keras, pytest.param(tf_keras, marks=pytest.mark.slow)]
CELLS = {"LSTM": LSTMCell, "GRU": GRUCell, "SimpleRNN": SimpleRNNCell}


class Recording(Lowering):
    """Lowers to loops of TensorFlow, and keeps what it was called with."""

    def __init__(self) -> None:
        self.alone: list[Recurrence] = []
        self.pairs: list[Bidirectional] = []
        self.states: list[tuple[Sequence[Any], Sequence[Any]]] = []

    def lower(self, recurrence, sequences, initial_state, mask) -> RecurrenceResult:
        self.alone.append(recurrence)
        return loop.lower(recurrence, sequences, initial_state, mask)

    def lower_bidirectional(self, pair, sequences, initial_states, mask):
        self.pairs.append(pair)
        self.states.append(initial_states)
        first, second = (
            loop.lower(recurrence, sequences, states, mask)
            for recurrence, states in zip(
                (pair.forward, pair.backward), initial_states, strict=True
            )
        )
        return first, second

    @property
    def names(self) -> list[tuple[str, ...]]:
        """The layers of each pair, then of each single call, without the numbers of the names."""
        pairs = [(p.layer, p.forward.layer, p.backward.layer) for p in self.pairs]
        return [*pairs, *((one.layer,) for one in self.alone)]


def recorded(model: Any) -> Recording:
    """Trace a model, and compare what the traced function returns with Keras's outputs."""
    source, _ = read(model)
    lowering = Recording()
    declared = list(source.flat_inputs)
    function = source.trace(lowering, declared)
    rng = np.random.default_rng(3)
    arrays = []
    for spec in declared:
        array = rng.normal(size=[size or 4 for size in spec.shape]).astype(spec.dtype)
        if array.ndim == 3:
            array[0, 3:] = array[-1, :1] = MASKED
        arrays.append(array)
    inputs = {f"input_{i}": tf.constant(array) for i, array in enumerate(arrays)}
    outputs = function(**inputs)
    for wanted, (_, found) in zip(source.reference(arrays), sorted(outputs.items()), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    return lowering


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.__name__)
def library(request: pytest.FixtureRequest) -> Any:
    request.param.utils.set_random_seed(1)
    return request.param


def sequential(library: Any, *layers: Any, shape: Any = (6, FEATURES), batch: Any = None) -> Any:
    return library.Sequential([library.Input(shape, batch_size=batch), *layers])


BOTH = ("both", "forward_one", "backward_one")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.slow
def test_a_pair(library, kind, sequences, masked):
    kl = library.layers
    layer = getattr(kl, kind)(UNITS, return_sequences=sequences, name="one")
    before = [kl.Masking(MASKED)] if masked else []
    lowering = recorded(sequential(library, *before, kl.Bidirectional(layer, name="both")))
    assert lowering.names == [BOTH]
    (pair,), (states,) = lowering.pairs, lowering.states
    for recurrence in (pair.forward, pair.backward):
        assert type(recurrence.cell) is CELLS[kind]
        assert recurrence.return_sequences is sequences
        assert recurrence.zero_output_for_mask is sequences
    assert (pair.forward.go_backwards, pair.backward.go_backwards) == (False, True)
    assert not np.array_equal(pair.forward.cell.kernel, pair.backward.cell.kernel)
    assert states == ([None] * len(states[0]), [None] * len(states[1]))


@pytest.mark.parametrize("merge_mode", ["sum", "mul", "ave", None])
@pytest.mark.slow
def test_merge_modes(library, merge_mode):
    x = library.Input((None, FEATURES))
    layer = library.layers.LSTM(UNITS, return_sequences=True, name="one")
    both = library.layers.Bidirectional(layer, merge_mode=merge_mode, name="both")
    assert recorded(library.Model(x, both(x))).names == [BOTH]


@pytest.mark.parametrize("masked", [False, True])
def test_unrolled(library, masked):
    kl = library.layers
    layer = kl.LSTM(UNITS, return_sequences=True, unroll=True, name="one")
    before = [kl.Masking(MASKED)] if masked else []
    lowering = recorded(sequential(library, *before, kl.Bidirectional(layer, name="both")))
    assert lowering.names == [BOTH]
    # Keras zeroes the backward outputs in the order of the input; the front end does that.
    assert lowering.pairs[0].forward.zero_output_for_mask
    assert lowering.pairs[0].backward.zero_output_for_mask is not masked


def test_a_backward_layer_of_another_kind(library):
    kl = library.layers
    forward = kl.LSTM(UNITS, return_sequences=True, name="one")
    backward = kl.GRU(5, activation="relu", go_backwards=True, return_sequences=True, name="two")
    both = kl.Bidirectional(forward, backward_layer=backward, name="both")
    lowering = recorded(sequential(library, both))
    forward_name = "forward_one" if library is keras else lowering.pairs[0].forward.layer
    assert lowering.names == [("both", forward_name, lowering.pairs[0].backward.layer)]
    assert lowering.pairs[0].backward.cell.units == 5
    assert lowering.pairs[0].backward.cell.activation.name == "relu"


def test_directions_the_other_way_around(library):
    kl = library.layers
    forward = kl.LSTM(UNITS, go_backwards=True, return_sequences=True)
    backward = kl.LSTM(UNITS, return_sequences=True)
    lowering = recorded(sequential(library, kl.Bidirectional(forward, backward_layer=backward)))
    assert [len(lowering.pairs), len(lowering.alone)] == [1, 0]
    pair = lowering.pairs[0]
    assert (pair.forward.go_backwards, pair.backward.go_backwards) == (True, False)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_given_states(library, kind):
    count = {"LSTM": 4, "GRU": 2}[kind]
    x = library.Input((None, FEATURES))
    given = [library.Input((UNITS,)) for _ in range(count)]
    layer = getattr(library.layers, kind)(UNITS, return_state=True, name="one")
    both = library.layers.Bidirectional(layer, name="both")
    lowering = recorded(library.Model([x, *given], both(x, initial_state=given)))
    assert lowering.names == [BOTH]
    forward, backward = lowering.states[0]
    assert len(forward) == len(backward) == count // 2
    assert all(state is not None for state in (*forward, *backward))


@pytest.mark.slow
def test_handed_on_states(library):
    x = library.Input((None, FEATURES))
    kl = library.layers
    first = kl.Bidirectional(kl.LSTM(UNITS, return_sequences=True, return_state=True))
    sequences, *states = first(x)
    both = kl.Bidirectional(kl.LSTM(UNITS))(sequences, initial_state=states)
    lowering = recorded(library.Model(x, both))
    assert [len(lowering.pairs), len(lowering.alone)] == [2, 0]


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_stateful(library, kind):
    kl = library.layers
    layer = getattr(kl, kind)(UNITS, stateful=True, return_sequences=True, name="one")
    lowering = recorded(sequential(library, kl.Bidirectional(layer, name="both"), batch=2))
    assert lowering.names == [BOTH]
    assert all(state is not None for states in lowering.states[0] for state in states)


@pytest.mark.slow
def test_a_shared_layer(library):
    kl = library.layers
    one, two = library.Input((None, FEATURES)), library.Input((None, FEATURES))
    both = kl.Bidirectional(kl.GRU(UNITS, name="one"), name="both")
    lowering = recorded(library.Model([one, two], [both(one), both(two)]))
    assert lowering.names == [BOTH, BOTH]


@pytest.mark.slow
def test_a_shared_stateful_layer():
    kl = keras.layers
    x = keras.Input(batch_shape=(2, None, FEATURES))
    both = kl.Bidirectional(kl.LSTM(UNITS, stateful=True), name="both")
    lowering = recorded(keras.Model(x, [both(x), both(x)]))
    assert [len(lowering.pairs), len(lowering.alone)] == [2, 0]


def test_a_nested_model(library):
    kl = library.layers
    both = kl.Bidirectional(kl.LSTM(UNITS, name="one"), name="both")
    inner = sequential(library, kl.Masking(MASKED), both)
    assert recorded(sequential(library, inner, kl.Dense(2))).names == [BOTH]


def test_in_time_distributed(library):
    kl = library.layers
    both = kl.Bidirectional(kl.LSTM(UNITS, name="one"), name="both")
    model = sequential(library, kl.TimeDistributed(both), shape=(None, 5, FEATURES))
    assert recorded(model).names == [BOTH]


def test_layers_of_cells_of_keras(library):
    kl = library.layers
    both = kl.Bidirectional(kl.RNN(kl.LSTMCell(UNITS), name="one"), name="both")
    assert recorded(sequential(library, both)).names == [BOTH]


def test_own_cells_come_alone(library):
    class Cell(library.layers.Layer):
        state_size = output_size = UNITS

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.dense = library.layers.Dense(UNITS)

        def build(self, shape: Any) -> None:
            self.dense.build((None, shape[-1]))
            self.built = True

        def call(self, x: Any, states: Any) -> Any:
            output = self.dense(x) + states[0]
            return output, [output]

    kl = library.layers
    with library.utils.custom_object_scope({"Cell": Cell}):
        both = kl.Bidirectional(kl.RNN(Cell(), name="one"))
    assert recorded(sequential(library, both)).names == [("forward_one",), ("backward_one",)]


def test_own_layers_come_alone(library):
    class Own(library.layers.LSTM):
        """May give its loop other sequences than it was given."""

    with library.utils.custom_object_scope({"Own": Own}):
        both = library.layers.Bidirectional(Own(UNITS, name="one"))
    assert recorded(sequential(library, both)).names == [("forward_one",), ("backward_one",)]


def test_two_layers_that_are_no_bidirectional_come_alone(library):
    kl = library.layers
    x = library.Input((None, FEATURES))
    forward = kl.LSTM(UNITS, return_sequences=True, name="forward_one")(x)
    backward = kl.LSTM(UNITS, return_sequences=True, go_backwards=True, name="backward_one")(x)
    lowering = recorded(library.Model(x, [forward, backward]))
    assert sorted(lowering.names) == [("backward_one",), ("forward_one",)]


def test_a_backward_layer_that_gets_another_sequence_comes_alone():
    """A subclass may call the two layers differently; the prepared result is not used then."""

    class Own(keras.layers.Bidirectional):
        def call(self, sequences, initial_state=None, mask=None, training=None):
            layer = self.backward_layer
            call = layer.call
            layer.call = lambda sequences, **rest: call(2 * sequences, **rest)
            try:
                return super().call(sequences, initial_state, mask, training)
            finally:
                del layer.call

    both = Own(keras.layers.LSTM(UNITS, name="one"), name="both")
    lowering = recorded(sequential(keras, both))
    assert [one.layer for one in lowering.alone] == ["backward_one"]


def test_nothing_is_kept_after_an_error():
    """An error between the two calls leaves nothing that a later trace could take."""

    class Failing(Recording):
        def lower_bidirectional(self, pair, sequences, initial_states, mask):
            raise RuntimeError(pair.layer)

    kl = keras.layers
    model = sequential(keras, kl.Bidirectional(kl.LSTM(UNITS, name="one"), name="both"))
    source, _ = read(model)
    with pytest.raises(Exception, match="both"):
        source.trace(Failing(), source.flat_inputs)
    assert recorded(model).names == [BOTH]


def test_the_default_lowers_forward_then_backward(library):
    class Single(Lowering):
        def __init__(self) -> None:
            self.nodes: list[str] = []

        def lower(self, recurrence, sequences, initial_state, mask):
            result = loop.lower(recurrence, sequences, initial_state, mask)
            self.nodes.append(result.last_output.op.name)
            return result

    kl = library.layers
    model = sequential(library, kl.Bidirectional(kl.LSTM(UNITS, name="one"), name="both"))
    lowering = Single()
    source, _ = read(model)
    source.trace(lowering, source.flat_inputs)
    first, second = lowering.nodes
    assert re.search(r"/both(_\d+)?/forward_one(_\d+)?/", first)
    assert re.search(r"/both(_\d+)?/backward_one(_\d+)?/", second)
