# ruff: noqa: E501 (tables of cases)
"""Strings through the runtime alone: a committed bundle, no TensorFlow, no Keras."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bilstm_runtime
from bilstm_runtime.inputs import InputReader
from bilstm_runtime.preprocessing_spec import TextPreprocessing
from bilstm_runtime.text import TextEncoder

FIXTURES = Path(__file__).parents[1] / "runtime" / "fixtures"
WORDS = ("a", "good", "film", "naïve", "日本", "İ")


def encoder(**changes: object) -> TextEncoder:
    settings = {
        "input": "tokens", "kind": "text_vectorization", "standardize": "lower_and_strip_punctuation",
        "split": "whitespace", "output_sequence_length": None, "vocabulary": WORDS, "first_id": 2,
        "mask_token": "", "padding_id": 0, "unknown_id": 1,
    }  # fmt: skip
    return TextEncoder(TextPreprocessing(**{**settings, **changes}))


@pytest.fixture
def bundle(tmp_path) -> Path:
    folder = tmp_path / "tagger-edge"
    shutil.copytree(FIXTURES / "tagger", folder)
    root = json.loads((folder / "manifest.json").read_text())
    root["preprocessing"] = [
        {"input": "tokens", "kind": "text_vectorization", "standardize": "lower", "split": "whitespace",
         "vocabulary": list(WORDS), "first_id": 2, "mask_token": "", "padding_id": 0, "unknown_id": 1}
    ]  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(root))
    return folder


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("A good, good film!", [2, 3, 3, 4]),
        ("  a\t\n\v\f\r good ", [2, 3]),
        ("a\u00a0good a\u3000", [1, 1]),
        ("NAÏVE naïve Naïve 日本。 日本", [1, 5, 5, 1, 6]),
        ("İ i i̇", [7, 1, 1]),
        ("a-b f-i-l-m ''' [UNK]", [1, 4, 1]),
        ("", []),
        ("!?", []),
    ],
)
def test_words(text, ids) -> None:
    assert encoder().encode(text, "text").tolist() == ids


def test_characters_lengths_and_whole_strings() -> None:
    letters = encoder(split="character", vocabulary=("a", " ", "é", "👩"), standardize=None)
    assert letters.encode("a é\u00c9👩\u200d👧", "text").tolist() == [2, 3, 4, 1, 5, 1, 1]
    fixed = encoder(output_sequence_length=3)
    assert fixed.encode("a a a a", "text").tolist() == [2, 2, 2]
    assert fixed.encode("good", "text").tolist() == [3, 0, 0]
    lookup = encoder(kind="string_lookup", standardize=None, split=None, mask_token="good")
    assert lookup.encode([["a", "good"], ["", "A"]], "text").tolist() == [[2, 0], [1, 1]]
    assert lookup.encode("film", "text").shape == ()
    with pytest.raises(bilstm_runtime.InputError, match="different lengths"):
        lookup.encode([["a"], ["a", "a"]], "text")


@pytest.mark.parametrize("backend", ["onnx", "litert"])
def test_predict(bundle, backend) -> None:
    model = bilstm_runtime.load(bundle, backend=backend)
    outputs = model.predict(["A good film", "film", "", "zzz a"])
    wanted = model.predict([[2, 3, 4], [4], [0], [1, 2]])
    for output, expected in zip(outputs, wanted, strict=True):
        np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (5, r"shape \[\].* Give one text \(a str\)"),
        (None, "the model takes texts, their ids as int"),
    ],
)
def test_what_is_no_text_and_no_ids(bundle, example, message) -> None:
    with pytest.raises(bilstm_runtime.InputError, match=message):
        bilstm_runtime.load(bundle).predict([example])


def test_a_model_that_takes_no_text_says_so() -> None:
    model = bilstm_runtime.load(FIXTURES / "tagger")
    with pytest.raises(bilstm_runtime.InputError, match="model takes int32 arrays"):
        model.predict(["a good film"])


def test_nothing_of_the_exporter_is_imported(bundle) -> None:
    script = f"""
import sys
import bilstm_runtime
bilstm_runtime.load({str(bundle)!r}, backend="onnx").predict(["a good film", "film"])
print(sorted({{m.split(".")[0] for m in sys.modules}} & {{"tensorflow", "keras", "bilstm_exporter"}}))
"""
    path = str(Path(bilstm_runtime.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("backend", ["onnx", "litert"])
def test_a_single_text_takes_the_short_way_to_the_same_outputs(bundle, backend) -> None:
    model = bilstm_runtime.load(bundle, backend=backend)
    reader = InputReader(model.spec)
    for text in ("A good film", "film", "", "zzz a"):
        (ready,), read = reader.ready([text]) or [None], reader.read([text])
        np.testing.assert_array_equal(ready, read.columns[0])
        assert ready.dtype == read.columns[0].dtype == model.inputs[0].dtype
    for value in ("a", ["a", "b"], [["a"]], [1], [], [b"a"], (), [None]):
        assert reader.ready(value) is None
    with pytest.raises(bilstm_runtime.InputError, match=r"example 0: .* lone surrogate"):
        reader.ready(["a \ud800"])


def test_the_places_of_tokens() -> None:
    words = encoder().tokens('"Good", ... a-b\tİ!', "text")
    found = [(token.text, token.start, token.end, token.step) for token in words.tokens]
    assert found == [("Good", 1, 5, 0), ("a-b", 12, 15, 1), ("İ", 16, 17, 2)]
    letters = encoder(split="character").tokens("a-É", "text")
    assert [(token.text, token.start) for token in letters.tokens] == [("a", 0), ("É", 2)]
