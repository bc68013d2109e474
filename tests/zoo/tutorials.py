"""The shapes of Keras's own examples, guides and popular tutorials, scaled down.

Modelled on keras.io's examples (text classification with BiLSTM, addition RNN, seq2seq, NER with
char features, video classification, OCR for CTC, timeseries weather forecasting, anomaly
detection), its guides (working with RNNs, masking and padding) and TensorFlow's text tutorials.
"""

import keras
from keras import layers as L

from .case import add_case, add_family, case, floats, ids

FLOAT = ("lstm", "float-input")


def _bilstm(units: int = 4, *, last: bool = False, **options) -> L.Layer:
    return L.Bidirectional(L.LSTM(units, return_sequences=not last), **options)


TEXT = {
    "imdb-two-bilstms": lambda: [_bilstm(), _bilstm(last=True), L.Dense(1, "sigmoid")],
    "imdb-one-bilstm-dropout": lambda: [_bilstm(last=True), L.Dropout(0.5), L.Dense(1, "sigmoid")],
    "imdb-bilstm-pooled": lambda: [
        _bilstm(),
        L.GlobalMaxPooling1D(),
        L.Dense(6, "relu"),
        L.Dropout(0.2),
        L.Dense(1, "sigmoid"),
    ],
    "imdb-lstm-dropouts": lambda: [
        L.LSTM(6, dropout=0.2, recurrent_dropout=0.2),
        L.Dense(1, "sigmoid"),
    ],
    "toxic-comments-bilstm-pools": lambda: [
        L.SpatialDropout1D(0.2),
        L.Bidirectional(L.LSTM(4, return_sequences=True, dropout=0.2)),
        L.Conv1D(5, 2, padding="same"),
        L.GlobalMaxPooling1D(),
        L.Dense(3, "sigmoid"),
    ],
    "text-generation-lstm": lambda: [L.LSTM(6, return_sequences=True), L.Dense(20)],
    "working-with-rnns-first-model": lambda: [L.LSTM(8), L.Dense(10)],
}
add_family(TEXT, ids(mask_zero=False), "lstm", "id-input", prefix="tutorial-")
MASKED_TEXT = {
    "tf-text-classification-rnn": lambda: [
        L.Bidirectional(L.LSTM(4)),
        L.Dense(4, "relu"),
        L.Dense(1),
    ],
    "tf-text-classification-stacked": lambda: [
        _bilstm(),
        _bilstm(3, last=True),
        L.Dense(4, "relu"),
        L.Dropout(0.5),
        L.Dense(1),
    ],
    "bilstm-dropout-classifier": lambda: [
        L.Bidirectional(L.LSTM(8, dropout=0.2)),
        L.Dense(3, "softmax"),
    ],
    "masking-guide-lstm": lambda: [L.LSTM(6)],
    "pos-tagger": lambda: [
        L.Bidirectional(L.LSTM(4, return_sequences=True, recurrent_dropout=0.1)),
        L.TimeDistributed(L.Dense(6)),
        L.Activation("softmax"),
    ],
    "ner-bilstm": lambda: [
        L.SpatialDropout1D(0.1),
        L.Bidirectional(L.LSTM(5, return_sequences=True, recurrent_dropout=0.1)),
        L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode="sum"),
        L.TimeDistributed(L.Dense(7, activation="softmax")),
    ],
}
add_family(MASKED_TEXT, ids(), "lstm", "mask", "id-input", prefix="tutorial-")

# Shapes the docstrings and guides use.
SHAPED = {
    "docs-bidirectional-stack-5-8": ((5, 8), lambda: [_bilstm(), _bilstm(last=True)]),
    "docs-bidirectional-5-10": (
        (5, 10),
        lambda: [_bilstm(), _bilstm(last=True), L.Dense(5), L.Activation("softmax")],
    ),
    "docs-own-backward-5-10": (
        (5, 10),
        lambda: [
            L.Bidirectional(
                L.LSTM(5, return_sequences=True),
                backward_layer=L.LSTM(
                    5, activation="relu", return_sequences=True, go_backwards=True
                ),
            ),
            L.Dense(5, "softmax"),
        ],
    ),
    "docs-lstm-10-8": ((10, 8), lambda: [L.LSTM(4)]),
    "docs-bilstm-10-16": ((10, 16), lambda: [L.Bidirectional(L.LSTM(6)), L.Dense(4)]),
    "addition-rnn": (
        (7, 12),
        lambda: [
            L.LSTM(8),
            L.RepeatVector(4),
            L.LSTM(8, return_sequences=True),
            L.Dense(12, "softmax"),
        ],
    ),
    "weather-forecast": ((12, 7), lambda: [L.LSTM(8), L.Dense(1)]),
    "sunspots-conv-lstm": (
        (None, 1),
        lambda: [
            L.Conv1D(6, 5, strides=1, padding="causal", activation="relu"),
            L.LSTM(6, return_sequences=True),
            L.LSTM(6),
            L.Dense(8, "relu"),
            L.Dense(1),
            L.Rescaling(40.0),
        ],
    ),
    "windowed-bilstm-forecast": (
        (None, 1),
        lambda: [_bilstm(), _bilstm(last=True), L.Dense(1), L.Rescaling(10.0)],
    ),
    "lstm-autoencoder-anomaly": (
        (9, 2),
        lambda: [
            L.LSTM(6, activation="relu", return_sequences=True),
            L.LSTM(3, activation="relu"),
            L.RepeatVector(9),
            L.LSTM(3, activation="relu", return_sequences=True),
            L.LSTM(6, activation="relu", return_sequences=True),
            L.TimeDistributed(L.Dense(2)),
        ],
    ),
    "human-activity-cnn-lstm": (
        (None, 8, 3),
        lambda: [
            L.TimeDistributed(L.Conv1D(4, 3, activation="relu")),
            L.TimeDistributed(L.Dropout(0.5)),
            L.TimeDistributed(L.MaxPooling1D(2)),
            L.TimeDistributed(L.Flatten()),
            L.LSTM(6),
            L.Dense(4, "softmax"),
        ],
    ),
    "ecg-conv-bilstm": (
        (None, 2),
        lambda: [
            L.Conv1D(4, 5, padding="same", activation="relu"),
            L.BatchNormalization(),
            L.MaxPooling1D(2, padding="same"),
            _bilstm(),
            L.GlobalAveragePooling1D(),
            L.Dense(4, "softmax"),
        ],
    ),
    "mnist-rows": ((14, 6), lambda: [L.LSTM(8), L.BatchNormalization(), L.Dense(10)]),
    "stock-price-four-lstms": (
        (None, 1),
        lambda: [
            L.LSTM(5, return_sequences=True),
            L.Dropout(0.2),
            L.LSTM(5, return_sequences=True),
            L.Dropout(0.2),
            L.LSTM(5),
            L.Dense(1),
        ],
    ),
}
for _name, (_shape, _layers) in SHAPED.items():
    _tags = FLOAT if _shape[0] is None else ("static-time", *FLOAT)
    add_case(f"tutorial-{_name}", floats(*_shape)(_layers), *_tags)


@case("tutorial-masking-guide-float", "mask", *FLOAT)
def _masking_guide() -> keras.Model:
    return keras.Sequential(
        [keras.Input((None, 6), name="x"), L.Masking(mask_value=0.0), L.LSTM(8), L.Dense(3)]
    )


@case("tutorial-speech-bilstm-over-spectrogram", "image", *FLOAT)
def _deep_speech() -> keras.Model:
    spectrogram = keras.Input((None, 12), name="spectrogram")
    x = L.Reshape((-1, 12, 1))(spectrogram)
    x = L.Conv2D(3, (5, 3), strides=(2, 2), padding="same", use_bias=False)(x)
    x = L.ReLU()(L.BatchNormalization()(x))
    x = L.Reshape((-1, 18))(x)
    for _ in range(2):
        x = L.Dropout(0.5)(_bilstm()(x))
    return keras.Model(spectrogram, L.Dense(9, "softmax")(L.Dense(8, "relu")(x)))


@case("tutorial-captcha-ocr", "image", "static-time", *FLOAT)
def _captcha() -> keras.Model:
    image = keras.Input((16, 8, 1), name="image")
    x = L.Conv2D(3, 3, activation="relu", padding="same")(image)
    x = L.MaxPooling2D((2, 2))(x)
    x = L.MaxPooling2D((2, 2))(L.Conv2D(4, 3, activation="relu", padding="same")(x))
    x = L.Dropout(0.2)(L.Dense(6, "relu")(L.Reshape((4, 8))(x)))
    x = L.Bidirectional(L.LSTM(5, return_sequences=True, dropout=0.25))(x)
    x = L.Bidirectional(L.LSTM(4, return_sequences=True, dropout=0.25))(x)
    return keras.Model(image, L.Dense(8, "softmax", name="dense2")(x))


@case("tutorial-word-char-casing-ner", "char", "multi-input", "lstm", "id-input")
def _ner() -> keras.Model:
    words = keras.Input((None,), dtype="int32", name="words")
    casing = keras.Input((None,), dtype="int32", name="casing")
    chars = keras.Input((None, 5), dtype="int32", name="chars")
    x = L.TimeDistributed(L.Embedding(12, 4))(chars)
    x = L.TimeDistributed(L.Conv1D(3, 3, padding="same", activation="tanh"))(L.Dropout(0.5)(x))
    x = L.TimeDistributed(L.Flatten())(L.TimeDistributed(L.MaxPooling1D(5))(x))
    x = L.Concatenate()([L.Embedding(20, 4)(words), L.Embedding(12, 2)(casing), x])
    x = L.Bidirectional(L.LSTM(5, return_sequences=True, dropout=0.5, recurrent_dropout=0.25))(x)
    return keras.Model([words, casing, chars], L.TimeDistributed(L.Dense(6, "softmax"))(x))


@case("tutorial-functional-guide-tickets", "multi-input", "multi-output", "lstm", "id-input")
def _tickets() -> keras.Model:
    title = keras.Input((None,), dtype="int32", name="title")
    body = keras.Input((None,), dtype="int32", name="body")
    tags = keras.Input((4,), name="tags")
    x = L.concatenate(
        [L.LSTM(5)(L.Embedding(20, 4)(title)), L.LSTM(3)(L.Embedding(20, 4)(body)), tags]
    )
    return keras.Model(
        {"title": title, "body": body, "tags": tags},
        {
            "priority": L.Dense(1, name="priority")(x),
            "department": L.Dense(3, name="department")(x),
        },
    )


@case("tutorial-question-answer", "multi-input", "lstm", "id-input")
def _babi() -> keras.Model:
    story = keras.Input((None,), dtype="int32", name="story")
    question = keras.Input((None,), dtype="int32", name="question")
    x = L.Concatenate()(
        [L.LSTM(5)(L.Embedding(20, 4)(story)), L.LSTM(4)(L.Embedding(20, 4)(question))]
    )
    return keras.Model([story, question], L.Dense(20, "softmax")(x))


@case("tutorial-lstm-fcn", "static-time", "mask", *FLOAT)
def _lstm_fcn() -> keras.Model:
    """The two-branch time-series classifier: masked LSTM over variables, convolutions over time."""
    series = keras.Input((3, 12), name="series")
    x = L.Dropout(0.8)(L.LSTM(4)(L.Masking()(series)))
    y = L.Permute((2, 1))(series)
    for filters, kernel in ((4, 5), (6, 3)):
        y = L.Conv1D(filters, kernel, padding="same")(y)
        y = L.Activation("relu")(L.BatchNormalization()(y))
        weights = L.Reshape((1, filters))(L.GlobalAveragePooling1D()(y))
        y = L.multiply([y, L.Dense(filters, "sigmoid", use_bias=False)(weights)])
    return keras.Model(
        series, L.Dense(3, "softmax")(L.concatenate([x, L.GlobalAveragePooling1D()(y)]))
    )


@case("tutorial-keras-export-test", "static-time", *FLOAT)
def _keras_export() -> keras.Model:
    """The recurrent model that Keras's own ONNX, OpenVINO and LiteRT export tests build."""
    x = keras.Input((4, 6), name="x")
    y = L.Bidirectional(
        L.LSTM(4, return_sequences=True, kernel_initializer="he_normal"), merge_mode="sum"
    )(x)
    y = L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode="concat")(y)
    return keras.Model(x, y)
