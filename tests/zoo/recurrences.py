"""Recurrences beyond LSTM: GRU, SimpleRNN, cells and stacks of cells, ConvLSTM, users' cells."""

from functools import partial

import keras
from keras import layers as L
from keras import ops

from .case import add_case, add_family, case, floats, ids

registered = keras.saving.register_keras_serializable("bilstm_zoo")

BEYOND_LSTM = "beyond-lstm"  # the tag of every other recurrence

# --- GRU and SimpleRNN

KINDS = {"gru": L.GRU, "gru-reset-before": partial(L.GRU, reset_after=False), "rnn": L.SimpleRNN}
PLAIN = {
    "last": lambda R: [R(5)],
    "sequences": lambda R: [R(5, return_sequences=True)],
    "no-bias": lambda R: [R(5, use_bias=False, return_sequences=True)],
    "backwards": lambda R: [R(5, go_backwards=True)],
    "backwards-sequences": lambda R: [R(5, go_backwards=True, return_sequences=True)],
    "dropouts": lambda R: [R(5, dropout=0.2, recurrent_dropout=0.2)],
    "stacked-3": lambda R: [R(5, return_sequences=True), R(3, return_sequences=True), R(4)],
    "relu": lambda R: [R(5, activation="relu", return_sequences=True)],
    "softsign": lambda R: [R(4, activation="softsign", return_sequences=True)],
    "bidirectional-last": lambda R: [L.Bidirectional(R(4))],
    "bidirectional-sequences": lambda R: [L.Bidirectional(R(4, return_sequences=True))],
    "bidirectional-mul": lambda R: [L.Bidirectional(R(4, return_sequences=True), merge_mode="mul")],
    "bidirectional-separate": lambda R: [L.Bidirectional(R(4), merge_mode=None)],
    "bidirectional-own-backward": lambda R: [
        L.Bidirectional(R(3), backward_layer=R(5, activation="relu", go_backwards=True))
    ],
}
FALLBACK = {
    "gelu": lambda R: [R(4, activation="gelu", return_sequences=True)],
    "softmax": lambda R: [R(4, activation="softmax", return_sequences=True)],
}
MASKED = {
    "masked-last": lambda R: [R(5)],
    "masked-sequences": lambda R: [R(5, return_sequences=True)],
    "masked-zero-output": lambda R: [R(5, return_sequences=True, zero_output_for_mask=True)],
    "masked-backwards-sequences": lambda R: [R(5, go_backwards=True, return_sequences=True)],
    "masked-bidirectional": lambda R: [L.Bidirectional(R(4)), L.Dense(2)],
    "masked-bidirectional-tagger": lambda R: [
        L.Bidirectional(R(4, return_sequences=True)),
        L.Bidirectional(R(3, return_sequences=True)),
        L.TimeDistributed(L.Dense(2)),
    ],
}
STATIC = {
    "unroll": lambda R: [R(4, unroll=True)],
    "unroll-backwards-sequences": lambda R: [
        R(4, unroll=True, go_backwards=True, return_sequences=True)
    ],
    "unroll-bidirectional": lambda R: [L.Bidirectional(R(4, unroll=True, return_sequences=True))],
}
# GRU goes through all of the tables, the other two through what could differ for them.
CHOSEN = {
    "gru-reset-before": {
        "last",
        "no-bias",
        "backwards-sequences",
        "relu",
        "gelu",
        "bidirectional-sequences",
        "masked-sequences",
        "masked-bidirectional",
    },
    "rnn": {
        "last",
        "no-bias",
        "stacked-3",
        "backwards-sequences",
        "softsign",
        "gelu",
        "bidirectional-own-backward",
        "masked-zero-output",
        "masked-bidirectional-tagger",
        "unroll",
    },
}
for _kind, _layer in KINDS.items():
    _tag = "gru" if "gru" in _kind else "simple-rnn"
    for _table, _head, _tags in (
        (PLAIN, floats(None, 4), ("float-input",)),
        (FALLBACK, floats(None, 4), ("float-input", "fallback")),
        (MASKED, ids(), ("id-input", "mask")),
        (STATIC, floats(6, 4), ("float-input", "static-time")),
    ):
        _bound = {
            name: partial(layers, _layer)
            for name, layers in _table.items()
            if name in CHOSEN.get(_kind, _table)
        }
        add_family(_bound, _head, BEYOND_LSTM, _tag, *_tags, prefix=f"{_kind}-")

GRU_GATES = {
    "gru-hard-sigmoid": lambda: [L.GRU(5, recurrent_activation="hard_sigmoid")],
    "gru-linear-relu": lambda: [
        L.GRU(4, activation="linear", recurrent_activation="relu", return_sequences=True)
    ],
    "gru-implementation-1": lambda: [L.GRU(5, implementation=1, return_sequences=True)],
    "gru-static-one-step": lambda: [L.GRU(5), L.Dense(4, "sigmoid")],
}
add_family(GRU_GATES, floats(None, 4), BEYOND_LSTM, "gru", "float-input", scale=0.6)


@case("gru-reset-mix-in-bidirectional", BEYOND_LSTM, "gru", "float-input")
def _mixed_resets() -> keras.Model:
    layer = L.Bidirectional(
        L.GRU(4, return_sequences=True),
        backward_layer=L.GRU(4, reset_after=False, go_backwards=True, return_sequences=True),
    )
    return keras.Sequential([keras.Input((None, 4), name="x"), layer])


@case("gru-and-lstm-in-one-model", BEYOND_LSTM, "gru", "lstm", "mask", "id-input")
def _mixed_kinds() -> keras.Model:
    tokens = keras.Input((None,), dtype="int32", name="ids")
    x = L.Embedding(20, 5, mask_zero=True)(tokens)
    x = L.Bidirectional(L.GRU(4, return_sequences=True))(x)
    x = L.SimpleRNN(5, return_sequences=True)(L.LSTM(4, return_sequences=True)(x))
    return keras.Model(tokens, x)


@case("bidirectional-lstm-forwards-gru-backwards", BEYOND_LSTM, "gru", "lstm", "float-input")
def _mixed_directions() -> keras.Model:
    layer = L.Bidirectional(L.LSTM(4), backward_layer=L.GRU(3, go_backwards=True))
    return keras.Sequential([keras.Input((None, 4), name="x"), layer])


# --- cells


CELLS = {
    "lstm-cell": lambda: L.LSTMCell(4),
    "gru-cell": lambda: L.GRUCell(4),
    "gru-cell-reset-before": lambda: L.GRUCell(4, reset_after=False),
    "simple-cell": lambda: L.SimpleRNNCell(4),
    "stacked-lstm-cells": lambda: [L.LSTMCell(4), L.LSTMCell(3)],
    "stacked-mixed-cells": lambda: [L.GRUCell(4), L.LSTMCell(5), L.SimpleRNNCell(3)],
    "stacked-cells-layer": lambda: L.StackedRNNCells([L.LSTMCell(3), L.LSTMCell(3)]),
}


@registered
class MinimalGatedCell(L.Layer):
    """A user's cell with one state and one gate."""

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = units

    def build(self, input_shape):
        shape = (input_shape[-1] + self.units, self.units)
        self.gate_kernel = self.add_weight(shape=shape, name="gate_kernel")
        self.kernel = self.add_weight(shape=shape, name="kernel")
        self.bias = self.add_weight(shape=(self.units,), name="bias")

    def call(self, inputs, states):
        (h,) = states
        gate = ops.sigmoid(ops.matmul(ops.concatenate([inputs, h], -1), self.gate_kernel))
        new = ops.tanh(ops.matmul(ops.concatenate([inputs, gate * h], -1), self.kernel) + self.bias)
        h = (1 - gate) * h + gate * new
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@registered
class TwoStateCell(L.Layer):
    """A user's cell with states of two sizes and an output that is neither."""

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = [units, units + 1]
        self.output_size = units

    def build(self, input_shape):
        width = input_shape[-1] + 2 * self.units + 1
        self.fast = self.add_weight(shape=(width, self.units), name="fast")
        self.slow = self.add_weight(shape=(width, self.units + 1), name="slow")

    def call(self, inputs, states, training=False):
        fast, slow = states
        x = ops.concatenate([inputs, fast, slow], -1)
        slow = 0.9 * slow + 0.1 * ops.tanh(ops.matmul(x, self.slow))
        fast = ops.tanh(ops.matmul(x, self.fast))
        return fast * slow[:, :1] + slow[:, 1:], [fast, slow]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@registered
class NestedCell(L.Layer):
    """A user's cell around a Keras cell: what comes out of an LSTM cell is normalised."""

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.cell = L.LSTMCell(units)
        self.norm = L.LayerNormalization()
        self.state_size = self.cell.state_size
        self.output_size = units

    def build(self, input_shape):
        self.cell.build(input_shape)
        self.norm.build((input_shape[0], self.units))

    def call(self, inputs, states, training=False):
        output, states = self.cell(inputs, states, training=training)
        return self.norm(output), states

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@registered
class DelayLineCell(L.Layer):
    """A user's cell whose states are the outputs of the last three steps."""

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = [units, units, units]
        self.output_size = units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")

    def call(self, inputs, states, training=False):
        first, second, third = states
        h = ops.tanh(ops.matmul(inputs, self.kernel) + 0.5 * second - third)
        return h + first, [h, first, second]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


OWN_CELLS = {
    "own-delay-line-cell": lambda: DelayLineCell(3),
    "own-cell": lambda: MinimalGatedCell(4),
    "own-two-state-cell": lambda: TwoStateCell(3),
    "own-nested-cell": lambda: NestedCell(4),
    "own-cells-stacked": lambda: [MinimalGatedCell(4), L.LSTMCell(3), TwoStateCell(2)],
}


def _rnn(cell, **options) -> list[L.Layer]:
    return [L.RNN(cell(), **options)]


def _in_bidirectional(cell) -> list[L.Layer]:
    return [L.Bidirectional(L.RNN(cell(), return_sequences=True))]


for _cells, _tags in ((CELLS, ("cell",)), (OWN_CELLS, ("cell", "own-cell", "fallback"))):
    for _name, _cell in _cells.items():
        _table = {f"{_name}-last": partial(_rnn, _cell)}
        if "stacked" not in _name:
            _table[f"{_name}-bidirectional"] = partial(_in_bidirectional, _cell)
        else:
            _backwards = partial(_rnn, _cell, go_backwards=True, return_sequences=True)
            _table[f"{_name}-backwards-sequences"] = _backwards
        add_family(_table, floats(None, 4), BEYOND_LSTM, "float-input", *_tags)
        _masked = {f"{_name}-masked-sequences": partial(_rnn, _cell, return_sequences=True)}
        add_family(_masked, ids(), BEYOND_LSTM, "id-input", "mask", *_tags)
UNROLLED = {"own-cell-unroll": partial(_rnn, OWN_CELLS["own-cell"], unroll=True)}
add_family(
    UNROLLED, floats(6, 4), BEYOND_LSTM, "float-input", "static-time", "own-cell", "fallback"
)

# --- ConvLSTM

CONV = {
    "conv-lstm1d-same": ((None, 6, 2), lambda: [L.ConvLSTM1D(3, 3, padding="same")]),
    "conv-lstm1d-valid-sequences": (
        (None, 6, 2),
        lambda: [L.ConvLSTM1D(3, 3, return_sequences=True, go_backwards=True)],
    ),
    "conv-lstm2d-same": ((None, 5, 4, 2), lambda: [L.ConvLSTM2D(3, 3, padding="same")]),
    "conv-lstm2d-valid-sequences": (
        (None, 5, 4, 2),
        lambda: [L.ConvLSTM2D(3, (2, 3), return_sequences=True, activation="relu")],
    ),
    "conv-lstm2d-strides": ((None, 5, 5, 1), lambda: [L.ConvLSTM2D(2, 3, strides=2)]),
    "conv-lstm2d-dilation": ((None, 7, 7, 1), lambda: [L.ConvLSTM2D(2, 2, dilation_rate=2)]),
    "conv-lstm2d-stacked": (
        (None, 4, 4, 1),
        lambda: [
            L.ConvLSTM2D(2, 3, padding="same", return_sequences=True, use_bias=False),
            L.BatchNormalization(),
            L.ConvLSTM2D(3, 3, padding="same", return_sequences=True, dropout=0.2),
            L.Conv3D(1, 3, padding="same", activation="sigmoid"),
        ],
    ),
    "conv-lstm2d-bidirectional": (
        (None, 4, 4, 1),
        lambda: [
            L.Bidirectional(L.ConvLSTM2D(2, 3, padding="same", return_sequences=True)),
            L.TimeDistributed(L.Flatten()),
        ],
    ),
    "conv-lstm3d-same": ((None, 3, 3, 3, 1), lambda: [L.ConvLSTM3D(2, 2, padding="same")]),
}
for _name, (_shape, _layers) in CONV.items():
    add_case(_name, floats(*_shape)(_layers), BEYOND_LSTM, "conv-lstm", "fallback", "float-input")
