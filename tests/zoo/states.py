"""States as inputs and outputs: return_state, initial_state, encoder-decoder, stateful, policies."""

from functools import partial

import keras
import numpy as np
from keras import layers as L

from .case import add_case, case, random_ids

TAGS = ("beyond-lstm", "states", "float-input")
KINDS = {"lstm": (L.LSTM, 2), "gru": (L.GRU, 1), "rnn": (L.SimpleRNN, 1)}


def _input(name: str = "x", features: int = 4) -> keras.KerasTensor:
    return keras.Input((None, features), name=name)


def _returned(layer, options: dict, wrap: bool) -> keras.Model:
    recurrent = layer(4, return_state=True, **options)
    recurrent = L.Bidirectional(recurrent) if wrap else recurrent
    return keras.Model(x := _input(), recurrent(x))


def _given(layer, count: int, options: dict) -> keras.Model:
    states = [keras.Input((4,), name=f"state_{i}") for i in range(count)]
    recurrent = layer(4, return_state=True, **options)
    return keras.Model([x := _input("a_x"), *states], recurrent(x, initial_state=states))


def _given_both_ways(layer, count: int, options: dict) -> keras.Model:
    states = [keras.Input((4,), name=f"state_{i}") for i in range(2 * count)]
    recurrent = L.Bidirectional(layer(4, **options))
    return keras.Model([x := _input("a_x"), *states], recurrent(x, initial_state=states))


def _handed_on(layer, wrap: bool) -> keras.Model:
    """The states of one layer start another: the shape of every encoder-decoder."""
    source, target = _input("a_source"), _input("b_target", 3)
    encoder, decoder = layer(4, return_state=True), layer(4, return_sequences=True)
    if wrap:
        encoder, decoder = L.Bidirectional(encoder), L.Bidirectional(decoder)
    _, *states = encoder(source)
    return keras.Model(
        [source, target], L.Dense(3, "softmax")(decoder(target, initial_state=states))
    )


SEQUENCES = {"return_sequences": True}
for _kind, (_layer, _count) in KINDS.items():
    _tags = (*TAGS, "simple-rnn" if _kind == "rnn" else _kind)
    for _name, _build in {
        "returned": partial(_returned, _layer, {}, False),
        "returned-with-sequences": partial(_returned, _layer, SEQUENCES, False),
        "returned-backwards": partial(_returned, _layer, {"go_backwards": True}, False),
        "returned-bidirectional": partial(_returned, _layer, SEQUENCES, True),
        "given": partial(_given, _layer, _count, {}),
        "given-backwards-sequences": partial(
            _given, _layer, _count, {"go_backwards": True, **SEQUENCES}
        ),
        "given-bidirectional": partial(_given_both_ways, _layer, _count, SEQUENCES),
        "handed-on": partial(_handed_on, _layer, False),
        "handed-on-bidirectional": partial(_handed_on, _layer, True),
    }.items():
        if _kind != "rnn" or _name in ("returned", "given", "given-bidirectional", "handed-on"):
            add_case(f"states-{_kind}-{_name}", _build, *_tags)


@case("states-bidirectional-returned-summed", "lstm", *TAGS)
def _summed() -> keras.Model:
    layer = L.Bidirectional(L.LSTM(4, return_state=True), merge_mode="sum")
    return keras.Model(x := _input(), layer(x))


@case("states-bidirectional-returned-separate", "lstm", *TAGS)
def _separate() -> keras.Model:
    layer = L.Bidirectional(L.LSTM(4, return_state=True, return_sequences=True), merge_mode=None)
    return keras.Model(x := _input(), layer(x))


@case("states-encoder-cell-state-alone", "lstm", *TAGS)
def _cell_state_alone() -> keras.Model:
    _, _, cell = L.LSTM(4, return_state=True)(x := _input())
    return keras.Model(x, L.Dense(3)(cell))


@case("states-bidirectional-encoder-concatenated", "lstm", *TAGS)
def _concatenated() -> keras.Model:
    source, target = _input("a_source"), _input("b_target", 3)
    encoder = L.Bidirectional(L.LSTM(3, return_state=True, return_sequences=True))
    steps, fh, fc, bh, bc = encoder(source)
    states = [L.Concatenate()([fh, bh]), L.Concatenate()([fc, bc])]
    y = L.LSTM(6, return_sequences=True)(target, initial_state=states)
    return keras.Model([source, target], L.Dense(3)(L.Attention()([y, steps])))


def _two_texts(rng: np.random.Generator, batch: int, time: int) -> list[np.ndarray]:
    kinds = ["left", "right", "none", "all", "mixed"]
    return [
        random_ids(rng, (batch, time), 20, kinds),
        random_ids(rng, (batch, time + 2), 15, kinds[::-1]),
    ]


@case(
    "states-masked-translation",
    "beyond-lstm",
    "lstm",
    "mask",
    "states",
    "id-input",
    make_inputs=_two_texts,
)
def _translation() -> keras.Model:
    """Keras 3 drops the decoder's implicit mask once initial_state is passed."""
    source = keras.Input((None,), dtype="int32", name="a_source")
    target = keras.Input((None,), dtype="int32", name="b_target")
    _, h, c = L.LSTM(4, return_state=True)(L.Embedding(20, 5, mask_zero=True)(source))
    y = L.Embedding(15, 5, mask_zero=True)(target)
    y = L.LSTM(4, return_sequences=True)(y, initial_state=[h, c])
    return keras.Model([source, target], L.Dense(6, "softmax")(y))


@case("states-initial-state-from-dense", "lstm", *TAGS)
def _from_dense() -> keras.Model:
    x, image = _input("a_x"), keras.Input((5,), name="b_image")
    states = [L.Dense(4, "tanh")(image), L.Dense(4)(image)]
    y = L.LSTM(4, return_sequences=True)(x, initial_state=states)
    return keras.Model([x, image], L.Dense(3)(y))


@case("states-masked-returned", "beyond-lstm", "lstm", "mask", "states", "id-input")
def _masked_returned() -> keras.Model:
    x = keras.Input((None,), dtype="int32", name="ids")
    layer = L.Bidirectional(L.LSTM(4, return_state=True, return_sequences=True))
    return keras.Model(x, layer(L.Embedding(20, 5, mask_zero=True)(x)))


@case("states-stacked-cells-returned", "cell", *TAGS)
def _stacked_cells() -> keras.Model:
    layer = L.RNN([L.LSTMCell(4), L.LSTMCell(3)], return_state=True)
    return keras.Model(x := _input(), layer(x))


@case("states-conv-lstm-returned", "conv-lstm", "fallback", *TAGS)
def _conv_lstm() -> keras.Model:
    x = keras.Input((None, 4, 4, 1), name="x")
    return keras.Model(x, L.ConvLSTM2D(2, 3, padding="same", return_state=True)(x))


# --- stateful: the second call goes on where the first stopped; batch size is fixed


def _stateful(layers) -> keras.Model:
    x = keras.Input(batch_shape=(2, None, 4), name="x")
    model = keras.Sequential([x, *layers()])
    return model


STATEFUL = {
    "lstm": lambda: [L.LSTM(4, stateful=True)],
    "lstm-sequences-stacked": lambda: [
        L.LSTM(4, stateful=True, return_sequences=True),
        L.LSTM(3, stateful=True),
    ],
    "lstm-masked": lambda: [L.Masking(), L.LSTM(4, stateful=True, return_sequences=True)],
    "bilstm": lambda: [L.Bidirectional(L.LSTM(4, stateful=True))],
    "gru": lambda: [L.GRU(4, stateful=True)],
    "rnn": lambda: [L.SimpleRNN(4, stateful=True, return_sequences=True)],
    "cell": lambda: [L.RNN(L.LSTMCell(4), stateful=True)],
}
for _name, _layers in STATEFUL.items():
    add_case(
        f"stateful-{_name}",
        partial(_stateful, _layers),
        "beyond-lstm",
        "stateful",
        "static-batch",
        "float-input",
        *(["mask"] if "masked" in _name else []),
        "gru" if _name == "gru" else "simple-rnn" if _name == "rnn" else "lstm",
    )

# --- policies: exported as float32 with the tolerance that follows


def _with_policy(policy: str) -> keras.Model:
    x = keras.Input((None, 4), name="x", dtype="float32")
    y = L.Bidirectional(L.LSTM(4, return_sequences=True, dtype=policy), dtype=policy)(x)
    return keras.Model(x, L.Dense(3, dtype="float32")(y))


for _policy in ("mixed_float16", "mixed_bfloat16", "float16", "float64"):
    add_case(
        f"policy-{_policy.replace('_', '-')}",
        partial(_with_policy, _policy),
        "beyond-lstm",
        "policy",
        "lstm",
        "float-input",
    )
