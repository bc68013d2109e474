"""The models of portability.py: one of each kind of recurrent model that devices run."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers as kl


@dataclass(frozen=True)
class PortableModel:
    """A model, and the length to fix its time axes at for runtimes of fixed shapes.

    Attributes:
        build: Builds the model; its weights depend on its name only.
        time: The length.
    """

    build: Callable[[], keras.Model]
    time: int = 12


MODELS: dict[str, PortableModel] = {}


def _model(build: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
    name = build.__name__

    def with_weights() -> keras.Model:
        keras.utils.set_random_seed(zlib.crc32(name.encode()))
        model = build()
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        # New biases are zeros, which would hide an error in them.
        for weight in model.weights:
            if len(weight.shape) == 1:
                weight.assign(weight + rng.normal(0, 0.1, weight.shape).astype("float32"))
        model.name = name
        return model

    MODELS[name] = PortableModel(with_weights)
    return with_weights


def _bilstm(units: int, *, last: bool = False, **options: object) -> kl.Layer:
    return kl.Bidirectional(kl.LSTM(units, return_sequences=not last, **options))


def _words(size: int = 16) -> list[kl.Layer]:
    return [keras.Input((None,), dtype="int32", name="ids"), kl.Embedding(40, size, mask_zero=True)]


@_model
def classifier() -> keras.Model:
    """Two unmasked BiLSTMs over frames of features."""
    frames = keras.Input((None, 12), name="frames")
    return keras.Sequential(
        [frames, _bilstm(24), _bilstm(24, last=True), kl.Dense(9, activation="softmax")]
    )


@_model
def masked_classifier() -> keras.Model:
    """Two BiLSTMs over words, padding masked."""
    return keras.Sequential(
        [*_words(), _bilstm(20), _bilstm(20, last=True), kl.Dense(4, activation="softmax")]
    )


@_model
def tagger() -> keras.Model:
    """One label per word, padding masked."""
    head = kl.TimeDistributed(kl.Dense(7, activation="softmax"))
    return keras.Sequential([*_words(), _bilstm(24), head])


@_model
def masked_frames() -> keras.Model:
    """Frames of features, padded with -1."""
    layers = [
        kl.Masking(-1.0),
        _bilstm(16),
        kl.Bidirectional(kl.LSTM(16, return_sequences=True), merge_mode="sum"),
        kl.Dense(3),
    ]
    return keras.Sequential([keras.Input((None, 8), name="frames"), *layers])


@_model
def gru() -> keras.Model:
    """BiGRUs of both kinds, padding masked."""
    first = kl.Bidirectional(kl.GRU(16, return_sequences=True))
    second = kl.Bidirectional(kl.GRU(12, reset_after=False), merge_mode="ave")
    return keras.Sequential([*_words(), first, second, kl.Dense(5)])


@_model
def other_cell() -> keras.Model:
    """A cell that no format has as one operator, padding masked."""
    return keras.Sequential([*_words(), _bilstm(12, activation="gelu"), kl.Dense(5)])


@_model
def attention() -> keras.Model:
    """Self-attention over a BiLSTM, padding masked."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = _bilstm(16)(kl.Embedding(40, 16, mask_zero=True)(ids))
    x = kl.LayerNormalization()(x + kl.MultiHeadAttention(2, 16)(x, x))
    return keras.Model(ids, kl.Dense(4, activation="softmax")(kl.GlobalAveragePooling1D()(x)))


@_model
def characters_and_words() -> keras.Model:
    """A BiLSTM over the characters of each word, then one over the words."""
    words = keras.Input((None,), dtype="int32", name="words")
    characters = keras.Input((None, None), dtype="int32", name="characters")
    spelled = kl.TimeDistributed(kl.Embedding(30, 8, mask_zero=True))(characters)
    spelled = kl.TimeDistributed(_bilstm(8, last=True))(spelled)
    x = kl.Concatenate()([kl.Embedding(40, 16, mask_zero=True)(words), spelled])
    return keras.Model([words, characters], kl.Dense(5)(_bilstm(16)(x)))


@_model
def crnn() -> keras.Model:
    """Convolutions over an image of fixed height, then BiLSTMs over its columns."""
    image = keras.Input((None, 16, 1), name="image")
    x = kl.MaxPooling2D((2, 2))(kl.Conv2D(8, 3, padding="same", activation="relu")(image))
    x = kl.MaxPooling2D((1, 2))(kl.Conv2D(16, 3, padding="same", activation="relu")(x))
    x = kl.Reshape((-1, 4 * 16))(x)
    return keras.Model(image, kl.Dense(11, activation="softmax")(_bilstm(24)(_bilstm(24)(x))))


@_model
def encoder_decoder() -> keras.Model:
    """Two inputs; the states of the first sequence start the second; three outputs."""
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None, 6), name="target")
    embedded = kl.Embedding(30, 10, mask_zero=True)(source)
    _, hidden, cell = kl.LSTM(16, return_state=True)(embedded)
    x, hidden, cell = kl.LSTM(16, return_sequences=True, return_state=True)(
        target, initial_state=[hidden, cell]
    )
    x = kl.SimpleRNN(12, return_sequences=True, go_backwards=True)(x)
    return keras.Model([source, target], [kl.Dense(6)(x), hidden, cell])
