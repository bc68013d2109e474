"""The target mediapipe: which models MediaPipe's TextClassifier answers, and that it does."""

from __future__ import annotations

import importlib.util
import json
import random
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.errors import TargetError, UnsupportedModelError
from bilstm_exporter.profiles import PROFILES
from bilstm_exporter.targets.tflite.text_classifier import misfit, regex_tokenizer
from bilstm_runtime.decoding_spec import LabelDecoding, TagDecoding
from bilstm_runtime.preprocessing_spec import (
    Fit,
    TextPreprocessing,
    TokenizerFilePreprocessing,
    TokenizerPreprocessing,
)
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec

LABELS = ("bad", "good", "so so")
WORDS = ("so", "good", "Ärger", "not-bad", "<PAD>")
LAYER = TextPreprocessing("ids", "text_vectorization", None, "whitespace", 7, WORDS, 2, "", 0, 1)
POST = Fit(length=7, padding="post", truncating="post", padding_id=0)
TABLE = TokenizerPreprocessing(
    input="ids", level="word", lower=False, filters=",.\t\n", separator=" ",
    vocabulary=("so", "good"), first_id=2, unknown_id=1, fit=POST,
)  # fmt: skip
LABEL = LabelDecoding(output="label", labels=LABELS)
SCORES = OutputSpec("label", "float32", (Axis("batch", None), Axis(None, 3)))
IDS = InputSpec("ids", "int32", (Axis("batch", None), Axis("time", 7)))
SPEC = ModelSpec("m", (IDS,), (SCORES,), preprocessing=(TABLE,), decoding=(LABEL,))


def test_a_model_with_the_same_rules_has_a_pattern_and_a_vocabulary() -> None:
    assert misfit(SPEC) == ""
    found = regex_tokenizer(SPEC)
    assert found is not None
    assert found.pattern == r"[\x{9}\x{a}\x{20}\x{2c}\x{2e}]+"
    assert found.vocabulary == ("<PAD> 0", "<UNKNOWN> 1", "so 2", "good 3")
    found = regex_tokenizer(replace(SPEC, preprocessing=(replace(LAYER, vocabulary=WORDS[:4]),)))
    assert found is not None
    assert found.pattern == r"[\x{9}\x{a}\x{b}\x{c}\x{d}\x{20}]+"
    assert found.vocabulary[2:] == ("so 2", "good 3", "Ärger 4", "not-bad 5")


def test_a_token_that_no_text_gives_is_left_out() -> None:
    item = replace(TABLE, vocabulary=("so", "a b", "", "c.d"))
    found = regex_tokenizer(replace(SPEC, preprocessing=(item,)))
    assert found is not None
    assert found.vocabulary == ("<PAD> 0", "<UNKNOWN> 1", "so 2")


FILE = TokenizerFilePreprocessing(input="ids", file="tokenizer.json", bytes=1, sha256="0" * 64)
TEXTS = {
    "standardize='lower'": replace(LAYER, standardize="lower"),
    "split='character'": replace(LAYER, split="character"),
    "split=None": replace(LAYER, kind="string_lookup", split=None),
    "id of each token": replace(LAYER, ngrams=(1, 2)),
    "one id for all unknown": replace(LAYER, buckets=3),
    "output_sequence_length": replace(LAYER, output_sequence_length=None),
    "the token '<PAD>'": LAYER,
    "lower=True": replace(TABLE, lower=True),
    "level character": replace(TABLE, level="character"),
    "separators of one character": replace(TABLE, separator=", "),
    "--padding post --truncating post": replace(TABLE, fit=replace(POST, padding="pre")),
    "leave out unknown": replace(TABLE, unknown_id=None),
    "the token '<START>'": replace(TABLE, vocabulary=("<START>", "so")),
    "the token 'a\\\\rb'": replace(TABLE, vocabulary=("a\rb", "so")),
    "no tokenizer.json": FILE,
}


@pytest.mark.parametrize("problem", TEXTS)
def test_another_rule_for_texts_is_named(problem) -> None:
    spec = replace(SPEC, preprocessing=(TEXTS[problem],))
    assert problem.replace("\\\\", "\\") in misfit(spec)
    assert regex_tokenizer(spec) is None


MODELS = {
    "the ids of one text": {"preprocessing": ()},
    "one text at a time": {"inputs": (replace(IDS, axes=(Axis("batch", 2), Axis("time", 7))),)},
    "--time N": {"inputs": (replace(IDS, axes=(Axis("batch", None), Axis("time", None))),)},
    "ids is float32": {"inputs": (replace(IDS, dtype="float32"),)},
    "--labels FILE": {"decoding": ()},
    "no tags": {"decoding": (TagDecoding(output="label", labels=LABELS),)},
    "one score for each label": {
        "outputs": (replace(SCORES, axes=(Axis("batch", None), Axis(None, 1))),),
        "decoding": (replace(LABEL, labels=LABELS[:2]),),
    },
    "as scores": {"decoding": (replace(LABEL, activation="softmax"),)},
    "one line": {"decoding": (replace(LABEL, labels=("a", "", "b")),)},
}


@pytest.mark.parametrize("problem", MODELS)
def test_another_rule_of_the_model_is_named(problem) -> None:
    assert problem in misfit(replace(SPEC, **MODELS[problem]))


def classifier(**options) -> keras.Model:
    keras.utils.set_random_seed(3)
    settings = {"standardize": None, "output_sequence_length": 12, **options}
    words = [f"w{n}" for n in range(40)] + list("abcdefgh") + ["Ärger", "film,", "日本語", "it's"]
    text = keras.layers.TextVectorization(vocabulary=words, **settings)
    layers = [
        keras.Input((), dtype="string", name="text"),
        text,
        keras.layers.Embedding(text.vocabulary_size(), 8, "uniform", mask_zero=True),
        keras.layers.Bidirectional(keras.layers.LSTM(8, return_sequences=True)),
        keras.layers.Bidirectional(keras.layers.GRU(8)),
        keras.layers.Dense(3, activation="softmax", name="mood"),
    ]
    model = keras.Sequential(layers)
    model.set_weights([3 * weight for weight in model.get_weights()])
    return model


def texts() -> list[str]:
    rng = random.Random(0)
    tokens = [f"w{n}" for n in range(45)] + [
        "a",
        "A",
        "Ärger",
        "film,",
        "film",
        "日本語",
        "it's",
        "\xa0",
    ]
    spaces = [" ", "  ", "\t", "\n", " \r\n", "\v", "\f"]
    found = ["", " ", "a", " a ", "a\u2003b"]
    for _ in range(200):
        parts = rng.choices(tokens, k=rng.randrange(1, 16))
        found.append("".join(part + rng.choice(spaces) for part in parts))
    return found


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason="needs mediapipe")
@pytest.mark.parametrize("recipe", ["float32", "int8"])
def test_it_answers_as_keras(tmp_path: Path, recipe: str) -> None:
    from mediapipe.tasks.python import BaseOptions, text

    model, bundle = classifier(), tmp_path / "edge"
    report = export(model, bundle, target="mediapipe", labels=LABELS, recipes=["float32", "int8"])
    assert {proof.name for one in report.artifacts for proof in one.runtimes} == {"mediapipe"}
    file = {one.recipe: one.file for one in report.artifacts}[recipe]
    options = text.TextClassifierOptions(BaseOptions(model_asset_path=str(bundle / file)))
    given = texts()
    loaded = bilstm_runtime.load(bundle, backend="litert", recipe=recipe)
    wanted = loaded.classify(given, top_k=3)
    with text.TextClassifier.create_from_options(options) as task:
        for one, ours in zip(given, wanted, strict=True):
            (found,) = task.classify(one).classifications
            assert found.head_name == "mood"
            assert [item.category_name for item in found.categories] == [
                item.label for item in ours
            ]
            scores = [item.score for item in found.categories]
            np.testing.assert_array_equal(scores, np.float32([item.score for item in ours]))
    if recipe == "float32":
        import tensorflow as tf

        labels = model.predict(tf.constant(given), verbose=0).argmax(-1)
        assert [LABELS[number] for number in labels] == [ours[0].label for ours in wanted]
        assert len(set(labels)) > 1


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason="needs mediapipe")
def test_it_splits_as_the_tokenizer_of_keras(tmp_path: Path) -> None:
    from mediapipe.tasks.python import BaseOptions, text

    vectorized = classifier()
    x = keras.Input((None,), dtype="int32", name="ids")
    y = x
    for layer in vectorized.layers[1:]:
        y = layer(y)
    words = ["<OOV>", *vectorized.layers[0].get_vocabulary()[2:]]
    tokenizer = {
        "class_name": "Tokenizer",
        "config": {
            "word_index": json.dumps({word: number for number, word in enumerate(words, 1)}),
            "lower": False, "oov_token": "<OOV>", "filters": ".!-]\\^[\t\n", "split": " ",
        },
    }  # fmt: skip
    settings = {"tokenizer": tokenizer, "padding": "post", "truncating": "post", "time": 12}
    export(keras.Model(x, y), tmp_path / "e", target="mediapipe", labels=LABELS, **settings)
    given = [*texts(), "a.b!c-d", "[a]^b\\c", "<OOV> a", "...", "a|b a$b"]
    wanted = bilstm_runtime.load(tmp_path / "e", backend="litert").classify(given, top_k=3)
    options = text.TextClassifierOptions(BaseOptions(str(tmp_path / "e" / "model.tflite")))
    with text.TextClassifier.create_from_options(options) as task:
        for one, ours in zip(given, wanted, strict=True):
            found = task.classify(one).classifications[0].categories
            assert [item.category_name for item in found] == [item.label for item in ours]


@pytest.mark.slow
def test_another_rule_ends_the_export(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"TextClassifier .* not standardize texts \(standard"):
        export(classifier(standardize="lower"), tmp_path, target="mediapipe", labels=LABELS)


@pytest.mark.slow
def test_a_long_text_is_refused(tmp_path: Path) -> None:
    model = classifier(output_sequence_length=201)
    with pytest.raises(UnsupportedModelError, match="for at most 200 steps, and it has 201"):
        export(model, tmp_path, target="mediapipe", labels=LABELS)


def test_a_loop_is_no_operator_of_it() -> None:
    from bilstm_exporter.targets.operators import OperatorUse

    uses = [OperatorUse("ADD", ("float32",)), OperatorUse("WHILE", ("float32",))]
    assert [one.use.operator for one in PROFILES["mediapipe"].refusals(uses)] == ["WHILE"]
