"""Operators that change text before a text layer takes it."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.frontends.text_steps import changes_by
from bilstm_runtime.errors import InputError
from bilstm_runtime.preprocessing_spec import Characters, TextStep
from bilstm_runtime.text.steps import make_change

TEXTS = [
    "<br />So GOOD!<br />It's", "", "  a  b\t\n c\x0b\x0c\r ", "a1b22c333 4444",
    "\u00c9\u00e9 \u65e5\u672c!",
    "\U0001f600?\U0001f600", "aab aaab ab", "[x]\\y_z", "http://a.b/c d", "\x00 \x85\u00a0\u2003x",
]  # fmt: skip
PATTERNS = [
    "<br />", f"[{re.escape(string.punctuation)}]", "[^a-z.?!,\u00bf]", r"\s+", '([!"])',
    r"\d{2,3}",
    r"[^\w\s]", r"\W+", "\u00e9?s", "a*b", ".", "x|y", r"\S{2}", r"<[^>]+>", r"http\S+",
    "[A-Z]{2}[a-z]?", "\U0001f600", r"[\d\s]", r"\\",
]  # fmt: skip
REFUSED = ["^a", "a$", r"\ba", "a+?", "(ab)+", "ab|cd", "[[:punct:]]", r"\p{L}", "(?i)a", "a*",
           r"(a)\1", "a{2000}", "a*b+", "[a"]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("rewrite", ["", r" \0 ", "x"])
def test_replaced_characters(pattern: str, rewrite: str) -> None:
    def replace(text: Any) -> Any:
        return tf.strings.regex_replace(text, pattern, rewrite)

    found = changes_by(replace, [None])
    assert not isinstance(found, str)
    change = make_change([one.step for one in found])
    assert change is not None
    wanted = [one.decode() for one in replace(tf.constant(TEXTS)).numpy()]
    assert [change(text) for text in TEXTS] == wanted


@pytest.mark.parametrize("pattern", REFUSED)
def test_patterns_without_a_step(pattern: str) -> None:
    assert isinstance(changes_by(lambda x: tf.strings.regex_replace(x, pattern, ""), [None]), str)


@pytest.mark.parametrize(
    "function",
    [
        tf.strings.lower,
        tf.strings.upper,
        tf.strings.strip,
        lambda x: tf.strings.join(["[A]", tf.strings.upper(x), "[B]"], separator=" "),
        lambda x: tf.strings.regex_replace(x, tf.constant("a"), tf.constant("b")),
        lambda x: tf.strings.regex_replace(x, "([?!x])", r" \1 "),
    ],
)
def test_other_steps(function: Callable[[Any], Any]) -> None:
    found = changes_by(function, [None, 1])
    assert not isinstance(found, str)
    change = make_change([one.step for one in found])
    assert change is not None
    wanted = [one.decode() for one in function(tf.constant(TEXTS)).numpy()]
    assert [change(text) for text in TEXTS] == wanted


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda x: tf.strings.lower(x, encoding="utf-8"), "StringLower"),
        (lambda x: tf.strings.substr(x, 0, 3), "Substr"),
        (lambda x: tf.strings.join([x, x]), "StringJoin"),
        (lambda x: tf.strings.regex_replace(x, "a(b)", r"\1"), "StaticRegexReplace"),
        (lambda x: tf.strings.regex_replace(x, "a", "b", replace_global=False), "StaticRegex"),
        (tf.strings.length, "no tensor of strings"),
        (lambda x: x.numpy(), "AttributeError"),
    ],
)
def test_other_functions_have_no_steps(function: Callable[[Any], Any], found: str) -> None:
    assert str(changes_by(function, [None, 1])).startswith(found)


def clean(text: Any) -> Any:
    """As in a tutorial of TensorFlow on the classification of texts."""
    text = tf.strings.regex_replace(tf.strings.lower(text), "<br />", " ")
    return tf.strings.regex_replace(text, f"[{re.escape(string.punctuation)}]", "")


def framed(text: Any) -> Any:
    """As in a tutorial of TensorFlow on translation."""
    text = tf.strings.regex_replace(tf.strings.lower(text), "[^ a-z.?!,\u00bf]+", "")
    text = tf.strings.strip(tf.strings.regex_replace(text, "[.?!,\u00bf]", r" \0 "))
    return tf.strings.join(["[START]", text, "[END]"], separator=" ")


@pytest.mark.slow
@pytest.mark.parametrize("library", [keras, tf_keras], ids=lambda one: one.__name__)
@pytest.mark.parametrize("place", ["standardize", "layer"])
@pytest.mark.parametrize("function", [clean, framed], ids=lambda one: one.__name__)
def test_models(library: Any, place: str, function: Any, tmp_path) -> None:
    kl = library.layers
    x = library.Input((1,), dtype="string", name="text")
    y, standardize = x, function
    if place == "layer":
        options = {"output_shape": (1,), "dtype": "string"} if library is keras else {}
        y, standardize = kl.Lambda(function, name="clean", **options)(x), None
    ids = kl.TextVectorization(
        vocabulary=["so", "good", "its", "[START]", "[END]", "!"],
        standardize=standardize,
        output_sequence_length=6,
    )(y)
    outputs = kl.Bidirectional(kl.LSTM(2))(kl.Embedding(9, 3)(ids))
    model = library.Model(x, outputs)
    export(model, tmp_path / "edge")
    wanted = np.asarray(model(tf.constant([[text] for text in TEXTS]), training=False))
    for backend in ("onnx", "litert"):
        loaded = bilstm_runtime.load(tmp_path / "edge", backend=backend)
        np.testing.assert_allclose(loaded.predict(TEXTS), wanted, atol=1e-5)
    assert bilstm_runtime.check(tmp_path / "edge").passed


@pytest.mark.parametrize(
    ("parts", "longest"),
    [
        ([(1, 1), (1, None), (1, 1)], 14_000),  # as <[^>]+>
        ([(0, None), (1000, 1000)], 600),
        ([(250, 250)] * 250, 6_000),
    ],
)
def test_a_text_is_refused_that_a_pattern_would_take_long_for(
    parts: list[tuple[int, int | None]], longest: int
) -> None:
    pattern = tuple(Characters(ranges=(97, 97), least=low, most=high) for low, high in parts)
    change = make_change([TextStep(kind="replace", by=("",), pattern=pattern)])
    assert change is not None
    change("b" * longest)
    with pytest.raises(InputError, match="too many for the patterns"):
        change("b" * (2 * longest))
