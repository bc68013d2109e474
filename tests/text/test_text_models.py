"""Models that begin with text: exported, run on strings and on ids, equal to Keras."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.errors import ParityError
from bilstm_exporter.keras_model import TOLERANCE
from bilstm_runtime import InputError
from bilstm_runtime.cli import run
from bilstm_runtime.text import TextEncoder

pytestmark = pytest.mark.slow

WORDS = ["a", "good", "film", "bad", "its", "naïve", "日", "本"]
SIZE = len(WORDS) + 2
TEXTS = ["A good film!", "bad\tbad\n\n  it's", "zzz naïve 日 本 日本 film, film. good", " a " * 9]
EMPTY = ["", "...", " \n"]


def vectorization(**settings: Any) -> keras.layers.Layer:
    return kl.TextVectorization(vocabulary=WORDS, name="vectorize", **settings)


def sequential(*layers: Any, shape: tuple[int | None, ...] = (1,)) -> keras.Model:
    return keras.Sequential([keras.Input(shape, dtype="string", name="text"), *layers])


def masked() -> keras.Model:
    lstm = kl.Bidirectional(kl.LSTM(3))
    return sequential(vectorization(), kl.Embedding(SIZE, 4, mask_zero=True), lstm, kl.Dense(2))


def fixed() -> keras.Model:
    layers = kl.Embedding(SIZE, 4), kl.Bidirectional(kl.LSTM(3)), kl.Dense(2)
    return sequential(vectorization(output_sequence_length=6), *layers, shape=())


def characters() -> keras.Model:
    layer = kl.TextVectorization(
        vocabulary=list("agodfilm é日"), split="character", standardize=None
    )
    lstm = kl.Bidirectional(kl.LSTM(3, return_sequences=True))
    return sequential(layer, kl.Embedding(13, 4, mask_zero=True), lstm)


def unmasked() -> keras.Model:
    return sequential(vectorization(), kl.Embedding(SIZE, 4), kl.GRU(3))


def whole() -> keras.Model:
    layers = kl.Embedding(SIZE, 4), kl.LSTM(3)
    return sequential(vectorization(split=None, output_sequence_length=3), *layers)


def called() -> keras.Model:
    model = keras.Sequential([vectorization(), kl.Embedding(SIZE, 4, mask_zero=True), kl.LSTM(3)])
    model(tf.constant(TEXTS))
    return model


def words() -> keras.Model:
    lookup = kl.StringLookup(vocabulary=WORDS, mask_token="-")
    layers = kl.Embedding(SIZE, 4, mask_zero=True), kl.LSTM(3, return_sequences=True)
    return sequential(lookup, *layers, shape=(None,))


def one_word() -> keras.Model:
    layers = kl.Embedding(SIZE, 4), kl.Reshape((1, 4)), kl.LSTM(3)
    return sequential(kl.StringLookup(vocabulary=WORDS), *layers, shape=())


def several() -> keras.Model:
    text = keras.Input((1,), dtype="string", name="text")
    tags = keras.Input((4,), dtype="string", name="tags")
    numbers = keras.Input((3,), name="numbers")
    ids = vectorization(output_sequence_length=5)(text)
    state = kl.LSTM(3)(kl.Embedding(SIZE, 4, mask_zero=True, name="e")(ids))
    other = kl.GRU(3)(kl.Embedding(SIZE, 4)(kl.StringLookup(vocabulary=WORDS)(tags)))
    joined = kl.Concatenate()([state, kl.Dense(2)(numbers), other])
    inputs = {"text": text, "numbers": numbers, "tags": tags}
    return keras.Model(inputs, {"score": kl.Dense(1)(joined), "state": state}, name="several")


def shared() -> keras.Model:
    """One text layer for two inputs, whose ids go to two layers each."""
    layer, embedding, lstm = vectorization(), kl.Embedding(SIZE, 4, mask_zero=True), kl.LSTM(3)
    inputs = [keras.Input((), dtype="string", name=name) for name in ("question", "answer")]
    ids = [layer(x) for x in inputs]
    states = [lstm(embedding(x)) for x in ids]
    return keras.Model(inputs, kl.Concatenate()([*states, kl.GRU(2)(embedding(ids[0]))]))


@dataclass(frozen=True)
class Case:
    """A model, and strings for it."""

    build: Callable[[], keras.Model]
    given: Any


SEVERAL = {
    "text": TEXTS,
    "numbers": np.arange(12, dtype="float32").reshape(4, 3) / 9,
    "tags": [["a", "x", "", "日"], ["good"] * 4, ["A", "a", "A", "a"], ["bad", "film", "?", "a"]],
}
CASES = {
    "masked": Case(masked, TEXTS + EMPTY),
    "fixed": Case(fixed, TEXTS + EMPTY),
    "characters": Case(characters, ["a good film", "É日", "👩\u200d👧", "", "aaa\n"]),
    "unmasked": Case(unmasked, ["A good film!", "a   BAD film", "its 日 x"]),
    "whole": Case(whole, ["a", "Film!", "a film", ""]),
    "called": Case(called, TEXTS),
    "words": Case(words, [["a", "-", "x"], ["日", "本", "good"]]),
    "one_word": Case(one_word, ["a", "x", "film", ""]),
    "several": Case(several, SEVERAL),
    "shared": Case(shared, [TEXTS[:3], ["", "a", "good good"]]),
}


@dataclass(frozen=True)
class Bundle:
    """A case, exported."""

    model: keras.Model
    folder: Path
    given: Any

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.folder / "manifest.json").read_text())


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Callable[[str], Bundle]:
    @cache
    def make(name: str) -> Bundle:
        model, folder = CASES[name].build(), tmp_path_factory.mktemp("text") / f"{name}-edge"
        export(model, folder)
        return Bundle(model, folder, CASES[name].given)

    return make


def keras_outputs(model: keras.Model, given: Any) -> list[np.ndarray]:
    if isinstance(given, dict):
        output = model({name: tf.constant(value) for name, value in given.items()})
    elif len(model.inputs) > 1:
        output = model([tf.constant(value) for value in given])
    else:
        output = model(tf.constant(given))
    return [np.asarray(array) for array in keras.tree.flatten(output)]


def assert_equal_outputs(found: Any, wanted: list[np.ndarray]) -> None:
    """Compare; an output that is a list has one array per example, without Keras's padding."""
    flat = [found[name] for name in sorted(found)] if isinstance(found, dict) else [found]
    for output, reference in zip(flat, wanted, strict=True):
        assert len(output) == len(reference)
        for row, whole_row in zip(output, reference, strict=True):
            own = whole_row[: len(row)] if isinstance(output, list) else whole_row
            np.testing.assert_allclose(row, own, TOLERANCE.relative, TOLERANCE.absolute)


@pytest.mark.parametrize("backend", ["onnx", "litert"])
@pytest.mark.parametrize("name", CASES)
def test_strings_give_keras_outputs(exported, name, backend) -> None:
    bundle = exported(name)
    model = bilstm_runtime.load(bundle.folder, backend=backend)
    wanted = keras_outputs(bundle.model, bundle.given)
    assert_equal_outputs(model.predict(bundle.given), wanted)
    with pytest.raises(AssertionError):
        assert_equal_outputs(model.predict(bundle.given), [array + 1e-3 for array in wanted])


@pytest.mark.parametrize("name", ["masked", "fixed"])
def test_ids_and_every_form_of_strings(exported, name) -> None:
    bundle = exported(name)
    model = bilstm_runtime.load(bundle.folder)
    wanted = model.predict(TEXTS)
    ids = bundle.model.get_layer("vectorize")(tf.constant(TEXTS)).numpy()
    np.testing.assert_allclose(model.predict(ids), wanted, atol=1e-6)
    forms = [np.array(TEXTS), np.array(TEXTS, object), np.array(TEXTS)[:, None], tuple(TEXTS),
             [[text] for text in TEXTS], [np.array([text]) for text in TEXTS],
             [np.str_(text) for text in TEXTS], {"text": TEXTS}]  # fmt: skip
    for form in forms:
        np.testing.assert_array_equal(model.predict(form), wanted)
    np.testing.assert_allclose(model.predict(TEXTS, batch_size=1), wanted, atol=1e-6)


def test_without_neutral_padding_a_text_is_answered_as_alone(exported) -> None:
    bundle = exported("unmasked")
    model = bilstm_runtime.load(bundle.folder)
    for text, output in zip(TEXTS, model.predict(TEXTS), strict=True):
        assert_equal_outputs(output[None], keras_outputs(bundle.model, [text]))
    with pytest.raises(InputError, match=r"'text', example 1: '\.\.\.' has no tokens"):
        model.predict(["a", "..."])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("a good film", "single text"),
        (b"a good film", "single text"),
        ([b"a"], "example 0 holds bytes"),
        (["a", None], "example 1 holds None"),
        (["a", 3.5], r"example 1 holds 3\.5"),
        ([["a", "b"]], "example 0 is a list of 2"),
        (["ok", "\ud83d"], "example 1: .*lone surrogate"),
        ([], "no examples"),
        ([3, "a"], "example 1 holds <U1"),
        (np.ma.masked_array(["a"], mask=[True]), "masked"),
    ],
    ids=["str", "bytes", "list of bytes", "None", "number", "two", "surrogate", "empty", "mixed",
         "masked"],
)  # fmt: skip
def test_what_is_no_text_is_refused(exported, given, words) -> None:
    model = bilstm_runtime.load(exported("masked").folder)
    with pytest.raises(InputError, match=words):
        model.predict(given)


def test_words_of_different_counts(exported) -> None:
    bundle = exported("words")
    model = bilstm_runtime.load(bundle.folder)
    given = [["a", "-", "x"], ["日"], [], ["good", "film"]]
    padded = [row + ["-"] * (3 - len(row)) for row in given]
    assert_equal_outputs(model.predict(given), keras_outputs(bundle.model, padded))
    with pytest.raises(InputError, match="put a single example in a list"):
        model.predict(["a", "film"])


def test_an_unknown_word_without_an_id(tmp_path) -> None:
    lookup = kl.StringLookup(vocabulary=WORDS, num_oov_indices=0)
    model = sequential(lookup, kl.Embedding(SIZE, 4), kl.LSTM(3), shape=(2,))
    export(model, tmp_path / "out", formats=["onnx"])
    loaded = bilstm_runtime.load(tmp_path / "out")
    given = [["a", "本"], ["good", "bad"]]
    assert_equal_outputs(loaded.predict(given), keras_outputs(model, given))
    with pytest.raises(InputError, match="example 1: 'x' is not in the vocabulary"):
        loaded.predict([["a", "a"], ["a", "x"]])


def test_the_manifest_says_it_all(exported) -> None:
    manifest = exported("fixed").manifest
    assert manifest["preprocessing"] == [
        {
            "input": "text",
            "kind": "text_vectorization",
            "standardize": "lower_and_strip_punctuation",
            "split": "whitespace",
            "output_sequence_length": 6,
            "vocabulary": WORDS,
            "first_id": 2,
            "mask_token": "",
            "padding_id": 0,
            "unknown_id": 1,
        }
    ]
    assert [(spec["name"], spec["dtype"]) for spec in manifest["inputs"]] == [("text", "int32")]
    several = exported("several").manifest
    assert [item["input"] for item in several["preprocessing"]] == ["tags", "text"]
    assert {spec["name"] for spec in several["inputs"]} == {"text", "tags", "numbers"}
    assert [spec["name"] for spec in several["outputs"]] == ["score", "state"]


def test_a_model_without_text_says_nothing(tmp_path) -> None:
    export(keras.Sequential([keras.Input((4, 2)), kl.LSTM(2)]), tmp_path / "out", formats=["onnx"])
    assert "preprocessing" not in json.loads((tmp_path / "out" / "manifest.json").read_text())


@pytest.mark.parametrize("name", ["masked", "several", "shared"])
def test_the_model_stays_as_it_was(exported, tmp_path, name) -> None:
    """It can be saved, and its copy exported, after its export."""
    bundle = exported(name)
    wanted = keras_outputs(bundle.model, bundle.given)
    bundle.model.save(tmp_path / "m.keras")
    for array, reference in zip(
        keras_outputs(keras.saving.load_model(tmp_path / "m.keras"), bundle.given),
        wanted,
        strict=True,
    ):
        np.testing.assert_array_equal(array, reference)
    export(tmp_path / "m.keras", tmp_path / "out", formats=["onnx"])
    assert_equal_outputs(bilstm_runtime.load(tmp_path / "out").predict(bundle.given), wanted)


def test_the_commands(exported, tmp_path) -> None:
    """From a model file to outputs for lines of text; only progress on stderr."""
    bundle = exported("masked")
    bundle.model.save(tmp_path / "m.keras")
    done = subprocess.run(
        [sys.executable, "-m", "bilstm_exporter.cli", "m.keras", "--out", "out", "--quiet"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    texts = [*TEXTS, "a\u2028good\x85film"]
    lines = [json.dumps(text, ensure_ascii=False) for text in texts]
    lines[1] = json.dumps({"text": texts[1]})
    (tmp_path / "in.jsonl").write_text("\r\n".join(lines), encoding="utf-8")
    arguments = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.npy")]
    assert run.main([str(tmp_path / "out"), *arguments]) == 0
    assert_equal_outputs(np.load(tmp_path / "out.npy"), keras_outputs(bundle.model, texts))


def test_export_compares_the_ids(monkeypatch, tmp_path) -> None:
    encode = TextEncoder.encode
    model = sequential(vectorization(), kl.Embedding(SIZE, 4), kl.LSTM(3))
    monkeypatch.setattr(
        TextEncoder, "encode", lambda self, text, label: encode(self, text, label) // 2
    )
    with pytest.raises(ParityError, match="'vectorize' does not return the ids"):
        export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
