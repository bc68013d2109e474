"""How models are put together: shared layers, nested models, attention, skips, characters."""

from functools import partial

import keras
from keras import layers as L
from keras import ops

from .case import add_case, case

FLOAT = ("lstm", "bidirectional", "float-input")
IDS = ("lstm", "bidirectional", "id-input", "mask")
CHARS = ("lstm", "bidirectional", "id-input")


def _bilstm(units: int = 4, *, last: bool = False, **options) -> L.Layer:
    return L.Bidirectional(L.LSTM(units, return_sequences=not last), **options)


def _input(name: str = "x", features: int = 4) -> keras.KerasTensor:
    return keras.Input((None, features), name=name)


def _tokens(name: str = "ids") -> keras.KerasTensor:
    return keras.Input((None,), dtype="int32", name=name)


# --- layers used more than once


@case("same-input-twice", *FLOAT)
def _same_input() -> keras.Model:
    x = _input()
    return keras.Model(x, L.Concatenate()([_bilstm(3)(x), _bilstm(2)(x)]))


@case("shared-bilstm-siamese", "shared", "multi-input", *FLOAT)
def _siamese() -> keras.Model:
    shared, a, b = _bilstm(last=True), _input("a"), _input("b")
    difference = ops.abs(shared(a) - shared(b))
    return keras.Model([a, b], L.Dense(1, "sigmoid")(difference))


@case("shared-embedding-and-bilstm-siamese", "shared", "multi-input", *IDS)
def _siamese_text() -> keras.Model:
    a, b = _tokens("a"), _tokens("b")
    encoder = keras.Sequential([L.Embedding(20, 5, mask_zero=True), _bilstm(last=True)])
    return keras.Model([a, b], L.Dot(axes=1, normalize=True)([encoder(a), encoder(b)]))


@case("shared-bilstm-forwards-and-reversed", "shared", *FLOAT)
def _shared_reversed() -> keras.Model:
    shared, x = _bilstm(), _input()
    return keras.Model(x, shared(x) + ops.flip(shared(ops.flip(x, axis=1)), axis=1))


@case("shared-lstm-applied-to-itself", "shared", *FLOAT)
def _twice_in_a_row() -> keras.Model:
    shared, x = L.LSTM(4, return_sequences=True), _input()
    return keras.Model(x, shared(shared(x)))


@case("shared-bilstm-masked-and-not", "shared", *FLOAT)
def _masked_and_not() -> keras.Model:
    shared, x = _bilstm(), _input()
    return keras.Model(x, L.Concatenate()([shared(x), shared(L.Masking()(x))]))


@case("shared-embedding-two-towers", "shared", "multi-input", *IDS)
def _two_towers() -> keras.Model:
    embedding, a, b = L.Embedding(20, 5, mask_zero=True), _tokens("question"), _tokens("answer")
    x = L.Concatenate()([_bilstm(last=True)(embedding(a)), L.LSTM(3)(embedding(b))])
    return keras.Model([a, b], L.Dense(2)(x))


# --- models in models


@case("nested-sequential-in-functional", "nested", *FLOAT)
def _nested_sequential() -> keras.Model:
    inner = keras.Sequential([_bilstm(), L.Dropout(0.2), L.Dense(3, "relu")], name="inner")
    x = _input()
    return keras.Model(x, L.Dense(2)(inner(x)))


@case("nested-functional-in-sequential", "nested", *FLOAT)
def _nested_functional() -> keras.Model:
    inner_x = _input("inner_x")
    inner = keras.Model(inner_x, L.Add()([L.Dense(8)(inner_x), _bilstm()(inner_x)]))
    return keras.Sequential([_input(), inner, _bilstm(last=True)])


@case("nested-three-deep", "nested", *FLOAT)
def _three_deep() -> keras.Model:
    model = keras.Sequential([_input("a"), _bilstm(2)])
    for _ in range(2):
        model = keras.Sequential([_input("b"), model, L.Dense(4)])
    return model


@case("nested-called-twice", "nested", "shared", "multi-input", *FLOAT)
def _nested_twice() -> keras.Model:
    encoder = keras.Sequential([_input("e"), _bilstm(last=True), L.Dense(3)], name="encoder")
    a, b = _input("a"), _input("b")
    return keras.Model([a, b], L.Concatenate()([encoder(a), encoder(b), encoder(a + b)]))


@case("nested-two-outputs", "nested", "multi-output", *FLOAT)
def _nested_outputs() -> keras.Model:
    inner_x = _input("inner_x")
    y = _bilstm()(inner_x)
    inner = keras.Model(inner_x, {"steps": y, "pooled": L.GlobalMaxPooling1D()(y)})
    outputs = inner(x := _input())
    return keras.Model(x, [outputs["pooled"], L.Dense(2)(outputs["steps"])])


@case("submodel-of-a-bigger-model", "nested", *FLOAT)
def _submodel() -> keras.Model:
    y = _bilstm(name="encoder")(x := _input())
    big = keras.Model(x, L.Dense(5)(L.LSTM(3)(y)))
    return keras.Model(big.input, big.get_layer("encoder").output)


# --- characters, then words


@case("char-cnn-time-distributed", "char", *CHARS)
def _char_cnn() -> keras.Model:
    chars = keras.Input((None, 6), dtype="int32", name="chars")
    x = L.TimeDistributed(L.Embedding(15, 3))(chars)
    x = L.TimeDistributed(L.Conv1D(4, 3, padding="same"))(x)
    x = L.TimeDistributed(L.GlobalMaxPooling1D())(x)
    return keras.Model(chars, L.Dense(3)(_bilstm()(x)))


@case("char-bilstm-in-time-distributed", "char", "lstm-in-time-distributed", *CHARS)
def _char_bilstm() -> keras.Model:
    chars = keras.Input((None, 6), dtype="int32", name="chars")
    x = L.TimeDistributed(L.Embedding(15, 3))(chars)
    x = L.TimeDistributed(_bilstm(3, last=True))(x)
    return keras.Model(chars, L.Dense(3)(_bilstm()(x)))


@case("char-bilstm-masked-inside", "char", "lstm-in-time-distributed", *IDS)
def _char_masked() -> keras.Model:
    chars = keras.Input((None, 6), dtype="int32", name="chars")
    inner = keras.Sequential([L.Embedding(15, 3, mask_zero=True), _bilstm(3, last=True)])
    return keras.Model(chars, _bilstm()(L.TimeDistributed(inner)(chars)))


@case("word-and-char-tagger", "char", "multi-input", "lstm-in-time-distributed", *IDS)
def _word_and_char() -> keras.Model:
    words, chars = _tokens("words"), keras.Input((None, 6), dtype="int32", name="chars")
    x = L.TimeDistributed(L.Embedding(15, 3, mask_zero=True))(chars)
    x = L.TimeDistributed(L.LSTM(3))(x)
    x = L.Concatenate()([L.Embedding(20, 4, mask_zero=True)(words), x])
    return keras.Model([words, chars], L.TimeDistributed(L.Dense(4))(_bilstm()(x)))


@case("hierarchical-attention-documents", "lstm-in-time-distributed", *FLOAT)
def _hierarchical() -> keras.Model:
    sentence = keras.Sequential([_input("sentence", 3), _bilstm(2), L.GlobalMaxPooling1D()])
    document = keras.Input((None, 5, 3), name="document")
    return keras.Model(document, _bilstm(last=True)(L.TimeDistributed(sentence)(document)))


@case("time-distributed-bilstm-sequences", "lstm-in-time-distributed", *FLOAT)
def _distributed_sequences() -> keras.Model:
    return keras.Sequential(
        [keras.Input((None, 5, 3), name="x"), L.TimeDistributed(_bilstm(2)), L.Dense(2)]
    )


# --- attention and deeper shapes


ATTENTION = {
    "self-attention": lambda y: L.Attention()([y, y]),
    "self-additive-attention": lambda y: L.AdditiveAttention()([y, y]),
    "self-multi-head": lambda y: L.MultiHeadAttention(2, 3, value_dim=2)(y, y),
    "self-multi-head-causal": lambda y: L.MultiHeadAttention(2, 3)(y, y, use_causal_mask=True),
    "self-group-query": lambda y: L.GroupQueryAttention(3, 4, 2)(y, y),
    "last-step-queries": lambda y: L.Attention()([y[:, -1:], y]),
}
for _name, _attention in ATTENTION.items():
    add_case(
        f"attention-{_name}",
        partial(lambda f: keras.Model(x := _input(), L.Dense(2)(f(_bilstm()(x)))), _attention),
        "attention",
        *FLOAT,
    )


@case("attention-scores-as-output", "attention", "multi-output", *FLOAT)
def _scores() -> keras.Model:
    y = _bilstm()(x := _input())
    attended, scores = L.MultiHeadAttention(2, 3)(y, y, return_attention_scores=True)
    return keras.Model(x, [attended, scores])


@case("transformer-block-over-bilstm", "attention", *IDS)
def _transformer_block() -> keras.Model:
    y = _bilstm()(L.Embedding(20, 5, mask_zero=True)(x := _tokens()))
    y = L.LayerNormalization()(y + L.MultiHeadAttention(2, 4)(y, y))
    y = L.LayerNormalization()(y + L.Dense(8)(L.Dense(12, "gelu")(y)))
    return keras.Model(x, L.Dense(3)(y))


@case("skip-connections-three-deep", *FLOAT)
def _skips() -> keras.Model:
    y = L.Dense(6)(x := _input())
    for _ in range(3):
        y = L.LayerNormalization()(L.Add()([y, L.Dropout(0.1)(_bilstm(3)(y))]))
    return keras.Model(x, L.Dense(2)(y))


@case("dense-connections", *FLOAT)
def _dense_connections() -> keras.Model:
    x = _input()
    seen = [x]
    for units in (2, 3, 2):
        seen.append(_bilstm(units)(L.Concatenate()(seen) if len(seen) > 1 else x))
    return keras.Model(x, L.Concatenate()(seen))


@case("crnn-bilstm-stack", "image", *FLOAT)
def _crnn() -> keras.Model:
    image = keras.Input((None, 8, 1), name="image")  # [width, height, channels]
    y = L.MaxPooling2D((1, 2))(L.Conv2D(3, 3, padding="same", activation="relu")(image))
    y = L.MaxPooling2D((1, 2))(L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(y)))
    y = _bilstm(3)(_bilstm()(L.Dense(6, "relu")(L.Reshape((-1, 8))(y))))
    return keras.Model(image, L.Dense(7, "softmax", name="ctc")(y))


@case("gated-by-the-mean", *FLOAT)
def _gated() -> keras.Model:
    y = _bilstm()(x := _input())
    gate = L.Dense(8, "sigmoid")(ops.mean(y, axis=1, keepdims=True))
    return keras.Model(x, L.Dense(2)(y * gate))
