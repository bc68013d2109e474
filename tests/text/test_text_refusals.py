# ruff: noqa: E501 (tables of cases)
"""Text layers that the manifest cannot describe exactly, and positions where the model cannot be split."""

from __future__ import annotations

from typing import Any

import keras
import pytest
import tensorflow as tf
from keras import layers as kl

from bilstm_exporter import export
from bilstm_exporter.errors import UnsupportedModelError

WORDS = ["a", "good", "film"]


def own_function(x: Any) -> Any:
    return x


class OwnVectorization(kl.TextVectorization):
    """May do anything."""


class OwnModel(keras.Model):
    """A functional model whose output differs from its graph's."""

    def call(self, x: Any, training: Any = None, mask: Any = None) -> Any:
        return super().call(x) + 1


def text_input(shape: tuple[int | None, ...] = (1,)) -> Any:
    return keras.Input(shape, dtype="string", name="text")


def behind(layer: Any, shape: tuple[int | None, ...] = (1,)) -> keras.Model:
    return keras.Sequential([text_input(shape), layer, kl.Embedding(9, 2), kl.LSTM(2)])


def vectorization(**settings: Any) -> keras.Model:
    return behind(kl.TextVectorization(vocabulary=WORDS, name="layer", **settings))


def lookup(**settings: Any) -> keras.Model:
    return behind(kl.StringLookup(vocabulary=WORDS, name="layer", **settings), (4,))


def counts(layer: Any, shape: tuple[int | None, ...] = (1,)) -> keras.Model:
    return keras.Sequential([text_input(shape), layer, kl.Dense(2)])


def two_layers() -> keras.Model:
    x = text_input()
    ids = [kl.TextVectorization(vocabulary=WORDS, name=name)(x) for name in ("one", "two")]
    table = kl.Embedding(9, 2)
    return keras.Model(x, kl.Concatenate()([kl.LSTM(2)(table(i)) for i in ids]))


def nested() -> keras.Model:
    inner = keras.Sequential([text_input(), kl.TextVectorization(vocabulary=WORDS)], name="inner")
    return behind(inner)


def returned() -> keras.Model:
    x = text_input()
    ids = kl.TextVectorization(vocabulary=WORDS, name="layer")(x)
    return keras.Model(x, [ids, kl.LSTM(2)(kl.Embedding(9, 2)(ids))])


def text_returned() -> keras.Model:
    x = text_input()
    ids = kl.TextVectorization(vocabulary=WORDS, name="layer")(x)
    return keras.Model(x, [x, kl.LSTM(2)(kl.Embedding(9, 2)(ids))])


def own_model() -> keras.Model:
    x = text_input()
    ids = kl.TextVectorization(vocabulary=WORDS)(x)
    return OwnModel(x, kl.LSTM(2)(kl.Embedding(9, 2)(ids)), name="own")


def integers(**settings: Any) -> keras.Model:
    layer = kl.IntegerLookup(vocabulary=[10, 20], name="layer", **settings)
    x = keras.Input((4,), dtype="int64", name="x")
    return keras.Sequential([x, layer, kl.Embedding(9, 2), kl.LSTM(2)])


REFUSED = {
    "callable standardize": (lambda: vectorization(standardize=own_function), "standardize=<.*own_f"),
    "callable split": (lambda: vectorization(split=own_function), "split=<.*own_function"),
    "ragged": (lambda: vectorization(ragged=True), "ragged=True; supported is False"),
    "encoding": (lambda: vectorization(encoding="latin-1"), "encoding='latin-1'.*'utf-8'"),
    "no encoding": (lambda: vectorization(encoding="nothing"), "encoding='nothing'.*'utf-8'"),
    "length 0": (lambda: vectorization(output_sequence_length=0), "output_sequence_length=0"),
    "not adapted": (lambda: behind(kl.TextVectorization(name="layer")), "no words.*adapt"),
    "rank": (
        lambda: behind(kl.TextVectorization(vocabulary=WORDS, split=None, name="layer"), ()),
        r"input shape=\(None,\)",
    ),
    "hashed integers": (lambda: integers(num_oov_indices=2, oov_method="farmhash"), "farmhash"),
    "no unknown integers": (lambda: integers(num_oov_indices=0), "num_oov_indices=0"),
    "own layer": (
        lambda: behind(OwnVectorization(vocabulary=WORDS, name="layer")),
        "a OwnVectorization; supported are TextVectorization, StringLookup and"
    ),
}  # fmt: skip
PLACES = {
    "two layers": (two_layers, "'text' takes text and goes to '(one|two)', '(one|two)'"),
    "nested": (nested, "goes to 'inner', a Sequential.*not inside another model"),
    "returned": (returned, "'text' takes text, and .* returns the ids of its layer 'layer'"),
    "text returned": (text_returned, "'text' takes text, and .* returns the text itself"),
    "own call": (own_model, "'own' takes text and overrides call"),
}


@pytest.mark.parametrize("name", [*REFUSED, *PLACES])
def test_refused(name, tmp_path) -> None:
    build, words = {**REFUSED, **PLACES}[name]
    with pytest.raises(UnsupportedModelError, match=words) as raised:
        export(build(), tmp_path / "out")
    assert ("'layer'" in str(raised.value)) or name in PLACES
    assert not (tmp_path / "out").exists()


def test_text_that_goes_nowhere_known(tmp_path) -> None:
    x = text_input()
    lengths = kl.Lambda(tf.strings.length, output_shape=(1,), dtype="int32", name="length")(x)
    with pytest.raises(UnsupportedModelError, match="'text' takes text and goes to 'length', a La"):
        export(keras.Model(x, lengths), tmp_path / "out")
