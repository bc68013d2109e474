"""The runtime's ids of texts against those of the Keras layers, over all of Unicode."""

from __future__ import annotations

from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keras import layers as kl

from bilstm_exporter.frontends.keras3.text import split_off_text
from bilstm_runtime.text import TextEncoder

WORDS = [
    "a",
    "good",
    "film",
    "its",
    "it's",
    "naïve",
    "Straße",
    "日",
    "本",
    "!",
    "A",
    " ",
    "é",
    "[UNK]",
]
SPACES = ["\t", "\n", "\v", "\f", "\r", " ", "  ", "\u00a0", "\u2003", "\u3000", "\x1c", "\x85"]
ODD = ["", "É", "İ", "ẞ", "Σ", "e\u0301", "👩\u200d👧", "🙂", "\ufeff", "\x00", "…", "¿", "'s", "-"]
PARTS = st.one_of(st.sampled_from(WORDS), st.sampled_from(SPACES), st.sampled_from(ODD),
                  st.text(max_size=5))  # fmt: skip
TEXTS = st.lists(PARTS, max_size=12).map("".join)
STANDARDIZATIONS = (None, "lower", "strip_punctuation", "lower_and_strip_punctuation")
SPLITS = (None, "whitespace", "character")


@cache
def vectorization(standardize: str | None, split: str | None, length: int | None):
    layer = kl.TextVectorization(
        vocabulary=WORDS, standardize=standardize, split=split, output_sequence_length=length
    )
    return layer, encoder_of(layer, (1,))


@cache
def lookup(**options: object):
    layer = kl.StringLookup(vocabulary=WORDS, **options)
    return layer, encoder_of(layer, (None,))


def encoder_of(layer: keras.layers.Layer, shape: tuple[int | None, ...]) -> TextEncoder:
    x = keras.Input(shape, dtype="string", name="text")
    ids = layer(x)
    model = keras.Model(x, keras.ops.cast(ids, "float32"))
    (preprocessing,) = split_off_text(model).preprocessing
    return TextEncoder(preprocessing)


def assert_equal_ids(layer, encoder: TextEncoder, texts: list[str]) -> None:
    wanted = layer(tf.constant([[text] for text in texts])).numpy()
    for text, row in zip(texts, wanted, strict=True):
        found = encoder.encode([text], "text").tolist()
        assert found + [0] * (len(row) - len(found)) == row.tolist(), text


@pytest.mark.parametrize(
    "length",
    [None, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4))],
    ids=lambda n: f"length={n}",
)
@pytest.mark.parametrize("split", SPLITS, ids=lambda s: f"split={s}")
@pytest.mark.parametrize("standardize", STANDARDIZATIONS, ids=str)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
@example(texts=["", " \t\n ", "A GOOD  film!", "  It's naïve, NAÏVE.\n", "日本 日"])
@example(texts=["a" * 3000, "good film " * 3000, "a\x00 b\x00"])
@pytest.mark.slow
def test_text_vectorization(standardize, split, length, texts) -> None:
    assert_equal_ids(*vectorization(standardize, split, length), texts)


@pytest.mark.parametrize("options", [{}, {"mask_token": ""}, {"mask_token": "-"}], ids=str)
@settings(deadline=None)
@given(words=st.lists(PARTS, min_size=1, max_size=8))
def test_string_lookup(options, words) -> None:
    assert_equal_ids(*lookup(**options), words)


def test_string_lookup_that_knows_every_word() -> None:
    layer, encoder = lookup(num_oov_indices=0)
    assert_equal_ids(layer, encoder, WORDS)
    assert encoder.encode([WORDS[0]], "text").tolist() == [0]
    layer, encoder = lookup(num_oov_indices=0, mask_token="-")
    assert_equal_ids(layer, encoder, [*WORDS, "-"])


@pytest.mark.slow
def test_every_character_alone_and_between_letters() -> None:
    """Those of the first planes that any script uses, with what Keras strips, lowers or splits."""
    layer, encoder = vectorization("lower_and_strip_punctuation", "whitespace", None)
    codes = [*range(0xD800), *range(0xE000, 0x10000), *range(0x1F000, 0x1FB00)]
    standardized = tf.strings.regex_replace(
        tf.strings.lower([f"A{chr(c)}B" for c in codes]), r"[!-/:-@\[-`{-~]", ""
    )
    assert standardized[ord("!")].numpy() == b"ab"
    assert_equal_ids(layer, encoder, [f"A{chr(c)}good" for c in codes])
    assert_equal_ids(layer, encoder, [f"good{chr(c)}" for c in codes])


def test_the_comparison_can_fail() -> None:
    layer, _ = vectorization(None, "whitespace", None)
    _, other = vectorization("lower", "whitespace", None)
    with pytest.raises(AssertionError, match="GOOD"):
        assert_equal_ids(layer, other, ["GOOD"])


def test_an_adapted_vocabulary() -> None:
    layer = kl.TextVectorization(max_tokens=6)
    layer.adapt(["the film", "the naïve film's film", "the 日本", "! ?"])
    assert_equal_ids(layer, encoder_of(layer, ()), ["The FILM films 日本 zzz", ""])


def test_a_vocabulary_from_a_file(tmp_path) -> None:
    (tmp_path / "words.txt").write_text("good\nfilm\nnaïve\n", encoding="utf-8")
    layer = kl.TextVectorization(vocabulary=str(tmp_path / "words.txt"))
    assert_equal_ids(layer, encoder_of(layer, ()), ["a good NAÏVE naïve film"])


def test_ids_are_int64() -> None:
    _, encoder = vectorization(None, "whitespace", None)
    assert encoder.encode("", "text").dtype == np.int64
