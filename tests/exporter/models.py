"""Small models whose weights depend only on their names."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import keras
from keras import layers as kl

from zoo import randomize

MODELS: dict[str, Callable[[], keras.Model]] = {}


def model(build: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
    """Register a builder under the name of its function."""

    def with_weights() -> keras.Model:
        built = build()
        randomize(built, zlib.crc32(build.__name__.encode()))
        return built

    if build.__name__ in MODELS:
        raise ValueError(build.__name__)
    MODELS[build.__name__] = with_weights
    return with_weights


def floats(*layers: kl.Layer, shape: tuple[int | None, ...] = (None, 3)) -> keras.Model:
    """Layers on a float32 input ``x``."""
    return keras.Sequential([keras.Input(shape, name="x"), *layers])


def tokens(*layers: kl.Layer, mask_zero: bool = True) -> keras.Model:
    """Layers on an Embedding of int32 ``ids`` from a vocabulary of nine."""
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="ids"),
            kl.Embedding(9, 4, mask_zero=mask_zero),
            *layers,
        ]
    )


def bilstm(units: int = 3, *, last: bool = False, **options) -> kl.Layer:
    """A Bidirectional LSTM, of sequences unless ``last``."""
    return kl.Bidirectional(kl.LSTM(units, return_sequences=not last, **options))


@model
def lstm() -> keras.Model:
    return floats(kl.LSTM(3), kl.Dense(2, name="label"))


@model
def stacked() -> keras.Model:
    """Two unmasked BiLSTMs of sequences."""
    return floats(bilstm(), bilstm(), kl.Dense(2, name="label"))


@model
def classifier() -> keras.Model:
    """Masked, two BiLSTMs, one output per row."""
    return tokens(bilstm(), bilstm(last=True), kl.Dense(2, name="label"))


@model
def pooled() -> keras.Model:
    """Masked, but its pooling takes padded steps for steps."""
    return tokens(bilstm(), kl.GlobalMaxPooling1D(), kl.Dense(2, name="label"))


@model
def gelu() -> keras.Model:
    """An activation that ONNX's LSTM lacks."""
    return floats(kl.LSTM(3, activation="gelu"), kl.Dense(2, name="label"))


@model
def unmasked_ids() -> keras.Model:
    return tokens(bilstm(last=True), kl.Dense(2, name="label"), mask_zero=False)
