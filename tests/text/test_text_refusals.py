# ruff: noqa: E501 (tables of cases)
"""Text layers that the manifest cannot describe exactly, and positions where the model cannot be split."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import keras
import pytest
import tensorflow as tf
from keras import layers as kl

from bilstm_exporter import export
from bilstm_exporter.errors import UnsupportedModelError
from bilstm_exporter.frontends.text_calls import Library, answered

WORDS = ["a", "good", "film"]


def own_function(x: Any) -> Any:
    return tf.strings.substr(x, 0, 3)


def own_words(x: Any) -> Any:
    return tf.strings.regex_replace(x, "ab|cde", "")


class OwnVectorization(kl.TextVectorization):
    """May do anything."""


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


def text_returned() -> keras.Model:
    x = text_input()
    ids = kl.TextVectorization(vocabulary=WORDS, name="layer")(x)
    return keras.Model(x, [x, kl.LSTM(2)(kl.Embedding(9, 2)(ids))])


def computed() -> keras.Model:
    x = text_input()
    cut = kl.Lambda(own_function, output_shape=(1,), dtype="string", name="cut")(x)
    ids = kl.TextVectorization(vocabulary=WORDS, name="layer")(cut)
    return keras.Model(x, kl.LSTM(2)(kl.Embedding(9, 2)(ids)))


def crossed() -> keras.Model:
    x, y = text_input(), keras.Input((1,), dtype="string", name="other")
    return keras.Model([x, y], kl.HashedCrossing(9, output_mode="one_hot", name="cross")((x, y)))


def hashed_inside() -> keras.Model:
    x = keras.Input((4,), dtype="int64", name="x")
    return keras.Model(x, kl.Embedding(9, 2)(kl.Hashing(9, name="layer")(x + 1)))


REFUSED = {
    "callable standardize": (lambda: vectorization(standardize=own_function), "standardize=<.*own_f"),
    "callable with words": (lambda: vectorization(standardize=own_words), "StaticRegexReplace"),
    "callable split": (lambda: vectorization(split=own_function), "split=<.*own_function"),
    "ragged": (lambda: vectorization(ragged=True), "ragged=True; supported is False"),
    "length 0": (lambda: vectorization(output_sequence_length=0), "output_sequence_length=0"),
    "not adapted": (lambda: behind(kl.TextVectorization(name="layer")), "no words.*adapt"),
    "rank": (
        lambda: counts(kl.TextVectorization(vocabulary=WORDS, split=None, output_mode="count", name="layer"), ()),
        r"input shape=\(None,\)",
    ),
    "rank that Keras declares otherwise": (
        lambda: behind(kl.TextVectorization(vocabulary=WORDS, split=None, name="layer"), (2, 3)),
        r"input shape=\(None, 2, 3\)",
    ),
    "counts of lists": (
        lambda: counts(kl.StringLookup(vocabulary=WORDS, output_mode="count", name="layer"), (2, 3)),
        r"input shape=\(None, 2, 3\)",
    ),
    "own layer": (
        lambda: behind(OwnVectorization(vocabulary=WORDS, name="layer")),
        "a OwnVectorization .*; supported are TextVectorization, StringLookup and"
    ),
}  # fmt: skip
PLACES = {
    "computed": (computed, "'layer' takes what the model computes .by the operator Substr"),
    "crossed": (crossed, "goes to 'cross', a HashedCrossing .SparseCross"),
    "integers computed": (hashed_inside, "'layer' takes what the model computes"),
    "text returned": (text_returned, "'text' takes text, and .* returns the text itself"),
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


def test_a_call_that_the_trace_did_not_make_is_refused() -> None:
    layer = keras.layers.Hashing(5, name="tokens")
    library = cast("Library", SimpleNamespace(keras=keras))
    with answered([(layer, 1)], library):
        assert layer("so") == 1
        with pytest.raises(UnsupportedModelError, match="'tokens', one call more"):
            layer("so")
