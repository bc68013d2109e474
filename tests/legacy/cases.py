"""Small models of Keras 2, by name; every kind of recurrence it has, in every setting."""

import zlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers as L

CASES: dict[str, Callable[[], tf_keras.Model]] = {}


def case(name):
    def register(build):
        assert name not in CASES, name

        def with_weights():
            model = build()
            randomize(model, zlib.crc32(name.encode()))
            return model

        CASES[name] = with_weights
        return build

    return register


def randomize(model, seed):
    """Set every weight to a value that no zero or one default can hide behind."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape = tuple(variable.shape)
        is_scale = "variance" in variable.name or "gamma" in variable.name
        value = rng.uniform(0.5, 1.5, shape) if is_scale else rng.normal(0, 0.4, shape)
        if variable.dtype.is_floating:
            variable.assign(value)


def sequential(*layers, features=4, time=None):
    return tf_keras.Sequential([L.Input((time, features), name="x"), *layers])


def masked(*layers, time=None):
    return tf_keras.Sequential(
        [L.Input((time,), dtype="int32", name="ids"), L.Embedding(12, 4, mask_zero=True), *layers]
    )


class OwnCell(L.Layer):
    """A cell of the user's: h' = tanh(x W + h * r)."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = units

    def build(self, shape):
        self.w = self.add_weight("w", (shape[-1], self.units))
        self.r = self.add_weight("r", (self.units,))

    def call(self, inputs, states):
        hidden = tf.tanh(tf.matmul(inputs, self.w) + states[0] * self.r)
        return hidden, [hidden]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class ConstantCell(OwnCell):
    """A cell that is given a constant."""

    def call(self, inputs, states, constants):
        hidden = tf.tanh(tf.matmul(inputs, self.w) + states[0] * self.r + constants[0])
        return hidden, [hidden]


class OwnAttention(L.Layer):
    """Additive attention as old code writes it, with the backend's functions."""

    def build(self, shape):
        self.w = self.add_weight("w", (shape[-1], 1))
        self.b = self.add_weight("b", (1,))

    def call(self, x, mask=None):
        backend = tf_keras.backend
        scores = backend.squeeze(backend.tanh(backend.dot(x, self.w) + self.b), -1)
        weights = backend.exp(scores)
        if mask is not None:
            weights *= backend.cast(mask, "float32")
        weights /= backend.sum(weights, axis=1, keepdims=True) + backend.epsilon()
        return backend.sum(x * backend.expand_dims(weights), axis=1)

    def compute_mask(self, inputs, mask=None):
        return None


OBJECTS = {"OwnCell": OwnCell, "ConstantCell": ConstantCell, "OwnAttention": OwnAttention}

KINDS = {
    "lstm": lambda **k: L.LSTM(3, **k),
    "lstm-hard": lambda **k: L.LSTM(3, recurrent_activation="hard_sigmoid", implementation=1, **k),
    "lstm-dropout": lambda **k: L.LSTM(3, dropout=0.3, recurrent_dropout=0.2, **k),
    "gru": lambda **k: L.GRU(3, **k),
    "gru-before": lambda **k: L.GRU(3, reset_after=False, recurrent_activation="hard_sigmoid", **k),
    "gru-no-bias": lambda **k: L.GRU(3, use_bias=False, dropout=0.1, **k),
    "simple": lambda **k: L.SimpleRNN(3, **k),
    "rnn-cell": lambda **k: L.RNN(L.LSTMCell(3), **k),
    "stacked": lambda **k: L.RNN([L.LSTMCell(3), L.GRUCell(2)], **k),
    "own-cell": lambda **k: L.RNN(OwnCell(3), **k),
}
SETTINGS = {
    "last": {},
    "sequences": {"return_sequences": True},
    "backwards": {"return_sequences": True, "go_backwards": True},
    "backwards-last": {"go_backwards": True},
    "zeros": {"return_sequences": True, "zero_output_for_mask": True},
    "unroll-backwards-zeros": {
        "return_sequences": True,
        "zero_output_for_mask": True,
        "go_backwards": True,
        "unroll": True,
    },
}
for _kind, _layer in KINDS.items():
    case(f"{_kind}")(lambda layer=_layer: sequential(layer(return_sequences=True), L.Dense(2)))
    case(f"{_kind}-bidirectional")(
        lambda layer=_layer: masked(L.Bidirectional(layer(return_sequences=True)), L.Dense(2))
    )
    for _name, _setting in SETTINGS.items():
        _time = 6 if "unroll" in _setting else None
        case(f"{_kind}-masked-{_name}")(
            lambda layer=_layer, setting=_setting, time=_time: masked(layer(**setting), time=time)
        )
for _merge in ("sum", "mul", "ave"):
    case(f"merge-{_merge}")(
        lambda merge=_merge: masked(L.Bidirectional(L.LSTM(3), merge_mode=merge), L.Dense(2))
    )
for _activation in ("relu", "elu", "softsign", "softplus", "linear", "selu", "swish"):
    case(f"activation-{_activation}")(
        lambda a=_activation: masked(L.GRU(3, activation=a), L.Dense(2, a))
    )


@case("states")
def _():
    x = L.Input((None, 4), name="x")
    y, h, c = L.LSTM(3, return_sequences=True, return_state=True)(L.Masking()(x))
    z, g = L.GRU(3, return_state=True)(y, initial_state=h)
    return tf_keras.Model(x, [z, g, c])


@case("states-from-inputs")
def _():
    x, h, c = L.Input((None, 4), name="x"), L.Input((3,), name="h"), L.Input((3,), name="c")
    y = L.LSTM(3, return_state=True)([x, h, c])
    return tf_keras.Model([x, h, c], y)


@case("states-bidirectional")
def _():
    ids = L.Input((None,), dtype="int32", name="ids")
    x = L.Embedding(12, 4, mask_zero=True)(ids)
    y, *states = L.Bidirectional(L.LSTM(3, return_state=True, return_sequences=True))(x)
    return tf_keras.Model(ids, L.Bidirectional(L.LSTM(3))(y, initial_state=states))


@case("encoder-decoder")
def _():
    source, target = (L.Input((None,), dtype="int32", name=n) for n in ("source", "target"))
    embedding = L.Embedding(12, 4, mask_zero=True)
    _, *states = L.LSTM(3, return_state=True)(embedding(source))
    y = L.LSTM(3, return_sequences=True)(embedding(target), initial_state=states)
    return tf_keras.Model({"source": source, "target": target}, L.Dense(5, "softmax")(y))


@case("constants")
def _():
    x, k = L.Input((None, 4), name="x"), L.Input((3,), name="k")
    return tf_keras.Model([x, k], L.RNN(ConstantCell(3), return_sequences=True)(x, constants=k))


@case("attention-own")
def _():
    return masked(L.Bidirectional(L.LSTM(3, return_sequences=True)), OwnAttention(), L.Dense(2))


@case("attention-keras")
def _():
    x = L.Input((None, 4), name="x")
    y = L.Bidirectional(L.LSTM(3, return_sequences=True))(L.Masking()(x))
    y = L.Attention()([y, y])
    return tf_keras.Model(x, L.GlobalAveragePooling1D()(y))


@case("attention-multi-head")
def _():
    x = L.Input((None, 4), name="x")
    y = L.LSTM(6, return_sequences=True)(x)
    return tf_keras.Model(x, L.MultiHeadAttention(2, 3)(y, y))


@case("conv-lstm")
def _():
    x = L.Input((None, 5, 4, 2), name="x")
    y = L.ConvLSTM2D(2, 3, padding="same", return_sequences=True)(x)
    return tf_keras.Model(x, L.ConvLSTM2D(2, (2, 2), recurrent_activation="sigmoid")(y))


@case("conv-lstm-1d")
def _():
    return tf_keras.Sequential(
        [L.Input((None, 5, 2), name="x"), L.Bidirectional(L.ConvLSTM1D(2, 3, padding="same"))]
    )


@case("convolutions")
def _():
    return masked_free(
        L.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="relu"),
        L.BatchNormalization(),
        L.MaxPooling1D(2),
        L.SpatialDropout1D(0.2),
        L.Bidirectional(L.GRU(3, return_sequences=True)),
        L.GlobalMaxPooling1D(),
    )


def masked_free(*layers):
    return tf_keras.Sequential([L.Input((None, 4), name="x"), *layers])


@case("conv-groups")
def _():
    return masked_free(L.Conv1D(6, 3, groups=2, padding="same"), L.LSTM(3), L.LayerNormalization())


@case("image-to-text")
def _():
    x = L.Input((8, 12, 1), name="image")
    y = L.BatchNormalization()(L.Conv2D(4, 3, padding="same", activation="relu")(x))
    y = L.MaxPooling2D((2, 2))(y)
    y = L.Reshape((6, 16))(L.Permute((2, 1, 3))(y))
    y = L.Bidirectional(L.LSTM(3, return_sequences=True))(y)
    return tf_keras.Model(x, L.Dense(5, activation="softmax")(y))


@case("characters-and-words")
def _():
    words = L.Input((None,), dtype="int32", name="words")
    chars = L.Input((None, 5), dtype="int32", name="chars")
    c = L.TimeDistributed(L.Embedding(9, 3, mask_zero=True))(chars)
    c = L.TimeDistributed(L.Bidirectional(L.LSTM(2)))(c)
    w = L.Embedding(12, 4, mask_zero=True)(words)
    y = L.Bidirectional(L.LSTM(3, return_sequences=True))(L.Concatenate()([w, c]))
    return tf_keras.Model([words, chars], L.TimeDistributed(L.Dense(4, activation="softmax"))(y))


@case("time-distributed-model")
def _():
    inner = tf_keras.Sequential([L.Input((3, 4)), L.LSTM(3), L.Dense(2)])
    x = L.Input((None, 3, 4), name="x")
    return tf_keras.Model(x, L.LSTM(3, return_sequences=True)(L.TimeDistributed(inner)(x)))


@case("time-distributed-model-masked")
def _():
    inner = tf_keras.Sequential([L.Input((4,)), L.Dense(2)])
    x = L.Input((None, 4), name="x")
    return tf_keras.Model(x, L.LSTM(3)(L.TimeDistributed(inner)(L.Masking()(x))))


@case("nested-and-shared")
def _():
    encoder = masked(L.Bidirectional(L.LSTM(3)))
    a, b = (L.Input((None,), dtype="int32", name=n) for n in "ab")
    cosine = L.Dot(1, normalize=True)([encoder(a), encoder(b)])
    merged = L.Concatenate()([encoder(a), encoder(b), cosine])
    return tf_keras.Model([a, b], {"score": L.Dense(1, "sigmoid")(merged), "left": encoder(a)})


@case("operators")
def _():
    x = L.Input((None, 4), name="x")
    y = L.LSTM(3, return_sequences=True)(x * 2.0 - 1.0)
    y = tf.reduce_sum(y[:, 1:], axis=1)[:, None] + tf.nn.relu(y[:, None, 0])
    return tf_keras.Model(x, y[..., None])


@case("slashes")
def _():
    x = L.Input((None, 4), name="a/x")
    return tf_keras.Model(x, L.LSTM(3, name="a/lstm")(x))


@case("float-ids")
def _():
    return tf_keras.Sequential([L.Embedding(12, 4, input_length=6), L.GRU(3)])


@case("time-major")
def _():
    x = L.Input((6, 4), batch_size=6, name="x")
    y = L.LSTM(3, time_major=True, return_sequences=True)(x)
    return tf_keras.Model(x, L.RNN(L.GRUCell(3), time_major=True, return_sequences=True)(y))


@case("mixed-precision")
def _():
    policy = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        return masked(L.Bidirectional(L.LSTM(3)), L.Dense(2, dtype="float32"))
    finally:
        tf_keras.mixed_precision.set_global_policy(policy)


@case("float64")
def _():
    double = {"dtype": "float64"}
    return tf_keras.Sequential(
        [L.Input((None, 4), dtype="float64"), L.GRU(3, **double), L.Dense(2, **double)]
    )


@case("inferred-shape")
def _():
    inner = tf_keras.Sequential([L.Dense(3), L.LSTM(3, return_sequences=True)])
    model = tf_keras.Sequential([inner, L.Bidirectional(L.GRU(3)), L.Dense(2)])
    model(np.zeros((2, 5, 4), np.float32))
    return model


@case("stateful")
def _():
    return tf_keras.Sequential(
        [
            L.Input((None, 4), batch_size=2, name="x"),
            L.LSTM(3, stateful=True, return_sequences=True),
            L.Bidirectional(L.GRU(3, stateful=True, recurrent_activation="hard_sigmoid")),
        ]
    )


@case("subclassed")
def _():
    model = Subclassed()
    model(np.zeros((2, 5), np.int32))
    return model


class Subclassed(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.embedding = L.Embedding(12, 4, mask_zero=True)
        self.lstm = L.Bidirectional(L.LSTM(3))
        self.head = L.Dense(2)

    def call(self, ids):
        return self.head(self.lstm(self.embedding(ids)))
