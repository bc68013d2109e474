"""Masks: layers that create, propagate and use them."""

from functools import partial

import keras
import numpy as np
from keras import layers as L
from keras import ops

from .case import add_case, add_family, case, floats, ids, keep_steps, random_ids

MASKED_IDS = ("lstm", "mask", "id-input")
MASKED_FLOATS = ("lstm", "mask", "float-input")


def _bilstm(units: int = 4, **options) -> L.Layer:
    return L.Bidirectional(L.LSTM(units, return_sequences=True), **options)


BY_EMBEDDING = {
    "masked-lstm-last": lambda: [L.LSTM(5)],
    "masked-lstm-sequences": lambda: [L.LSTM(5, return_sequences=True)],
    "masked-lstm-zero-output": lambda: [
        L.LSTM(5, return_sequences=True, zero_output_for_mask=True)
    ],
    "masked-lstm-backwards-last": lambda: [L.LSTM(5, go_backwards=True)],
    "masked-lstm-backwards-sequences": lambda: [
        L.LSTM(5, go_backwards=True, return_sequences=True)
    ],
    "masked-lstm-backwards-zero-output": lambda: [
        L.LSTM(5, go_backwards=True, return_sequences=True, zero_output_for_mask=True)
    ],
    "masked-lstm-stacked-3": lambda: [
        L.LSTM(4, return_sequences=True),
        L.LSTM(3, return_sequences=True),
        L.LSTM(5),
    ],
    "masked-lstm-implementation-1": lambda: [L.LSTM(5, implementation=1, dropout=0.2)],
    "masked-bilstm-classifier": lambda: [L.Bidirectional(L.LSTM(4)), L.Dense(3, "softmax")],
    "masked-bilstm-sum-last": lambda: [L.Bidirectional(L.LSTM(4), merge_mode="sum")],
    "masked-bilstm-separate-last": lambda: [L.Bidirectional(L.LSTM(4), merge_mode=None)],
    "masked-bilstm-sequences": lambda: [_bilstm()],
    "masked-bilstm-mul-sequences": lambda: [_bilstm(merge_mode="mul")],
    "masked-bilstm-ave-sequences": lambda: [_bilstm(merge_mode="ave")],
    "masked-bilstm-separate-sequences": lambda: [_bilstm(merge_mode=None)],
    "masked-bilstm-own-backward": lambda: [
        L.Bidirectional(
            L.LSTM(4, return_sequences=True),
            backward_layer=L.LSTM(
                3, return_sequences=True, go_backwards=True, activation="softsign"
            ),
        )
    ],
    "masked-bilstm-directions-swapped": lambda: [
        L.Bidirectional(
            L.LSTM(4, return_sequences=True, go_backwards=True),
            backward_layer=L.LSTM(4, return_sequences=True),
        )
    ],
    "masked-bilstm-stacked-classifier": lambda: [
        _bilstm(),
        L.Bidirectional(L.LSTM(3)),
        L.Dense(2, "softmax"),
    ],
    "masked-bilstm-stacked-3-tagger": lambda: [
        _bilstm(),
        _bilstm(3),
        _bilstm(4),
        L.Dense(5, "softmax"),
    ],
    "masked-tagger-time-distributed": lambda: [
        _bilstm(),
        L.TimeDistributed(L.Dense(4, activation="softmax")),
    ],
    "masked-tagger-time-distributed-twice": lambda: [
        _bilstm(),
        L.TimeDistributed(L.Dense(6, activation="relu")),
        L.Dropout(0.3),
        L.TimeDistributed(L.Dense(4)),
    ],
    # What carries the mask to the recurrent layer.
    "mask-through-dropout": lambda: [L.Dropout(0.3), _bilstm()],
    "mask-through-spatial-dropout": lambda: [L.SpatialDropout1D(0.3), L.LSTM(4)],
    "mask-through-gaussian-noise": lambda: [L.GaussianNoise(0.1), L.LSTM(4)],
    "mask-through-batch-normalization": lambda: [L.BatchNormalization(), _bilstm()],
    "mask-through-layer-normalization": lambda: [L.LayerNormalization(), _bilstm()],
    "mask-through-activation": lambda: [L.Activation("tanh"), _bilstm()],
    "mask-through-leaky-relu": lambda: [L.LeakyReLU(), L.LSTM(4)],
    "mask-through-dense": lambda: [L.Dense(6, activation="relu"), _bilstm()],
    "mask-through-time-distributed": lambda: [L.TimeDistributed(L.Dense(6)), _bilstm()],
    "mask-through-chain": lambda: [
        L.Dropout(0.1),
        L.Dense(6),
        L.LayerNormalization(),
        _bilstm(),
        L.BatchNormalization(),
        L.LSTM(3),
    ],
    "mask-lost-in-conv1d": lambda: [L.Conv1D(5, 3, padding="same"), _bilstm()],
    # What uses the mask behind it.
    "masked-global-max-pooling": lambda: [_bilstm(), L.GlobalMaxPooling1D(), L.Dense(3)],
    "mask-then-softmax-activation": lambda: [
        L.LSTM(4, return_sequences=True),
        L.Activation("softmax"),
    ],
    "mask-then-rescaling": lambda: [_bilstm(), L.Rescaling(0.5, offset=1.0), L.LSTM(3)],
}
add_family(BY_EMBEDDING, ids(), *MASKED_IDS)

FALLBACK = {
    "masked-lstm-fallback-activation": lambda: [L.LSTM(4, "gelu", return_sequences=True)],
    "masked-bilstm-fallback-gates": lambda: [
        L.Bidirectional(L.LSTM(4, recurrent_activation="softmax", return_sequences=True))
    ],
}
add_family(FALLBACK, ids(), "fallback", *MASKED_IDS)

# A row that is all padding divides 0 by 0 here: Keras returns NaN.
POOLED_AVERAGE = {
    "masked-global-average-pooling": lambda: [_bilstm(), L.GlobalAveragePooling1D(), L.Dense(3)],
    "masked-embedding-average-only": lambda: [
        L.LSTM(4, return_sequences=True),
        L.GlobalAveragePooling1D(),
    ],
}
add_family(POOLED_AVERAGE, ids(), "nan-when-all-padded", *MASKED_IDS)

STATIC = {
    "masked-lstm-unroll": lambda: [L.LSTM(4, unroll=True)],
    "masked-lstm-unroll-sequences": lambda: [L.LSTM(4, unroll=True, return_sequences=True)],
    "masked-lstm-unroll-backwards-sequences": lambda: [
        L.LSTM(4, unroll=True, go_backwards=True, return_sequences=True)
    ],
    "masked-lstm-unroll-zero-output": lambda: [
        L.LSTM(4, unroll=True, return_sequences=True, zero_output_for_mask=True)
    ],
    "masked-bilstm-unroll": lambda: [L.Bidirectional(L.LSTM(4, unroll=True))],
    "masked-bilstm-unroll-sequences": lambda: [
        L.Bidirectional(L.LSTM(4, unroll=True, return_sequences=True))
    ],
    "masked-bilstm-static-time": lambda: [_bilstm()],
    "masked-bilstm-static-permute-pool": lambda: [
        _bilstm(),
        L.Permute((2, 1)),
        L.GlobalMaxPooling1D(),
        L.Dense(3),
    ],
}
add_family(STATIC, ids(time=6), "static-time", *MASKED_IDS)

for _value in (0.0, -1.0, 9.5):
    _word = {0.0: "zero", -1.0: "minus-one", 9.5: "nine-and-a-half"}[_value]
    _layers = partial(lambda value: [L.Masking(value), _bilstm(), L.LSTM(3)], _value)
    add_case(f"masking-{_word}", floats(None, 4)(_layers), *MASKED_FLOATS)

BY_MASKING = {
    "masking-classifier": lambda: [L.Masking(), L.Bidirectional(L.LSTM(5)), L.Dense(3, "softmax")],
    "masking-tagger": lambda: [L.Masking(-1.0), _bilstm(), L.TimeDistributed(L.Dense(3))],
    "masking-lstm-zero-output": lambda: [
        L.Masking(),
        L.LSTM(4, return_sequences=True, zero_output_for_mask=True),
    ],
    "masking-backwards-sequences": lambda: [
        L.Masking(),
        L.LSTM(4, return_sequences=True, go_backwards=True),
    ],
    "masking-after-batch-normalization": lambda: [
        L.Masking(),
        L.BatchNormalization(),
        L.Bidirectional(L.LSTM(4)),
    ],
    "masking-twice": lambda: [
        L.Masking(9.5),
        L.LSTM(4, return_sequences=True),
        L.Masking(),
        L.LSTM(3),
    ],
}
add_family(BY_MASKING, floats(None, 4), *MASKED_FLOATS)


def _words(name: str = "ids", *, mask_zero: bool = True, size: int = 5):
    tokens = keras.Input((None,), dtype="int32", name=name)
    return tokens, L.Embedding(20, size, mask_zero=mask_zero)(tokens)


# How two branches that both carry the mask of one input meet.
MERGES = {
    "add": lambda a, b: L.Add()([a, b]),
    "multiply": lambda a, b: L.Multiply()([a, b]),
    "subtract": lambda a, b: L.Subtract()([a, b]),
    "average": lambda a, b: L.Average()([a, b]),
    "maximum": lambda a, b: L.Maximum()([a, b]),
    "concatenate": lambda a, b: L.Concatenate()([a, b]),
}


def _merged(merge) -> keras.Model:
    tokens, x = _words()
    y = merge(L.Dense(5)(x), L.Dropout(0.2)(x))
    return keras.Model(tokens, _bilstm()(y))


for _name, _merge in MERGES.items():
    add_case(f"mask-through-{_name}", partial(_merged, _merge), *MASKED_IDS)


@case("mask-residual", *MASKED_IDS)
def _residual() -> keras.Model:
    tokens, x = _words(size=4)
    y = L.LayerNormalization()(x + L.LSTM(4, return_sequences=True)(x))
    return keras.Model(tokens, L.Dense(2)(_bilstm(2)(y)))


@case("mask-concatenate-with-unmasked", "multi-input", *MASKED_IDS)
def _with_unmasked() -> keras.Model:
    tokens, x = _words()
    extra = keras.Input((None, 3), name="extra")
    return keras.Model([tokens, extra], _bilstm()(L.Concatenate()([x, extra])))


@case("mask-two-embeddings-concatenated", "multi-input", *MASKED_IDS)
def _two_embeddings() -> keras.Model:
    words, x = _words("words")
    tags, y = _words("tags", size=3)
    return keras.Model([words, tags], _bilstm()(L.Concatenate()([x, y])))


@case("mask-two-embeddings-one-masks", "multi-input", *MASKED_IDS)
def _one_masks() -> keras.Model:
    words, x = _words("words")
    shapes, y = _words("shapes", size=5, mask_zero=False)
    return keras.Model([words, shapes], _bilstm()(L.Add()([x, y])))


def _different_lengths(rng: np.random.Generator, batch: int, time: int) -> list[np.ndarray]:
    return [
        random_ids(rng, (batch, time), 20, ["left", "right", "mixed", "none", "all"]),
        random_ids(rng, (batch, time + 3), 20, ["right", "none", "all", "middle"]),
    ]


@case(
    "mask-two-inputs-of-different-length",
    "multi-input",
    *MASKED_IDS,
    make_inputs=_different_lengths,
)
def _two_lengths() -> keras.Model:
    question, x = _words("a_question")
    answer, y = _words("b_answer")
    both = L.Concatenate()([L.Bidirectional(L.LSTM(4))(x), L.LSTM(3)(y)])
    return keras.Model([question, answer], L.Dense(2, "softmax")(both))


@case("masking-two-inputs-two-values", "multi-input", *MASKED_FLOATS)
def _two_values() -> keras.Model:
    a = keras.Input((None, 3), name="a")
    b = keras.Input((None, 2), name="b")
    x = L.LSTM(4)(L.Masking(0.0)(a))
    y = L.Bidirectional(L.LSTM(3))(L.Masking(-1.0)(b))
    return keras.Model([a, b], L.Dense(3)(L.Concatenate()([x, y])))


def _explicit(layer) -> keras.Model:
    x = keras.Input((None, 4), name="x")
    mask = keras.Input((None,), dtype="bool", name="valid")
    return keras.Model([x, mask], layer(x, mask))


EXPLICIT = {
    "lstm": lambda x, m: L.LSTM(4)(x, mask=m),
    "lstm-zero-output": lambda x, m: L.LSTM(4, return_sequences=True, zero_output_for_mask=True)(
        x, mask=m
    ),
    "bilstm": lambda x, m: _bilstm()(x, mask=m),
    "stacked": lambda x, m: L.LSTM(3)(_bilstm()(x, mask=m), mask=m),
    "inverted": lambda x, m: _bilstm()(x, mask=ops.logical_not(m)),
    "computed": lambda x, m: _bilstm()(x, mask=ops.logical_and(m, ops.sum(x, axis=-1) > -1.0)),
}
for _name, _layer in EXPLICIT.items():
    add_case(f"explicit-mask-{_name}", partial(_explicit, _layer), "explicit-mask", *MASKED_FLOATS)


@case("explicit-mask-computed-from-ids", "explicit-mask", *MASKED_IDS)
def _mask_from_ids() -> keras.Model:
    tokens, x = _words(mask_zero=False)
    return keras.Model(tokens, _bilstm()(x, mask=ops.not_equal(tokens, 0)))


def _unpadded_start(rng: np.random.Generator, batch: int, time: int) -> list[np.ndarray]:
    lengths = keep_steps(rng, batch, time).sum(axis=1, keepdims=True).astype("int32")
    return [rng.normal(size=(batch, time, 4)).astype("float32"), lengths]


@case("explicit-mask-from-lengths", "explicit-mask", *MASKED_FLOATS, make_inputs=_unpadded_start)
def _mask_from_lengths() -> keras.Model:
    x = keras.Input((None, 4), name="a_features")
    lengths = keras.Input((1,), dtype="int32", name="b_lengths")
    steps = ops.cumsum(ops.ones_like(x[:, :, 0], dtype="int32"), axis=1)
    return keras.Model([x, lengths], _bilstm()(x, mask=steps <= lengths))


# Attention over a masked BiLSTM: Keras hands each layer the mask at call time.
ATTENTION = {
    "attention": lambda x: L.Attention()([x, x]),
    "attention-scaled": lambda x: L.Attention(use_scale=True)([x, x]),
    "attention-concat-score": lambda x: L.Attention(score_mode="concat")([x, x]),
    "attention-query-value-key": lambda x: L.Attention()([x, L.Dense(8)(x), L.Dense(8)(x)]),
    "attention-causal": lambda x: L.Attention()([x, x], use_causal_mask=True),
    "additive-attention": lambda x: L.AdditiveAttention()([x, x]),
    "multi-head-attention": lambda x: L.MultiHeadAttention(2, 3)(x, x),
    "multi-head-attention-causal": lambda x: L.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True),
    "group-query-attention": lambda x: L.GroupQueryAttention(3, 4, 2)(x, x),
}


def _attended(attention) -> keras.Model:
    tokens, x = _words()
    x = _bilstm()(x)
    return keras.Model(tokens, L.Dense(3)(L.Concatenate()([x, attention(x)])))


for _name, _attention in ATTENTION.items():
    add_case(f"masked-{_name}", partial(_attended, _attention), "attention", *MASKED_IDS)


@case("masked-attention-between-two-inputs", "attention", "multi-input", *MASKED_IDS)
def _cross_attention() -> keras.Model:
    question, x = _words("a_question")
    answer, y = _words("b_answer")
    x, y = _bilstm()(x), _bilstm()(y)
    z = L.GlobalMaxPooling1D()(L.Attention()([x, y]))
    return keras.Model([question, answer], L.Dense(2)(z))


@case("masked-nested-encoder", "nested", *MASKED_IDS)
def _nested_encoder() -> keras.Model:
    tokens, x = _words()
    encoder = keras.Model(tokens, _bilstm()(x), name="encoder")
    outer = keras.Input((None,), dtype="int32", name="text")
    return keras.Model(outer, L.Dense(3)(L.LSTM(4)(encoder(outer))))


@case("masked-nested-sequential", "nested", *MASKED_IDS)
def _nested_sequential() -> keras.Model:
    inner = keras.Sequential([L.Embedding(20, 5, mask_zero=True), L.Dropout(0.2)])
    return keras.Sequential(
        [keras.Input((None,), dtype="int32", name="ids"), inner, _bilstm(), L.Dense(2)]
    )


@case("mask-into-nested-head", "nested", *MASKED_IDS)
def _nested_head() -> keras.Model:
    tokens, x = _words()
    head = keras.Sequential([keras.Input((None, 5)), _bilstm(), L.LSTM(3)])
    return keras.Model(tokens, head(x))
