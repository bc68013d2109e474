"""Golden texts: from raw text to ids, outputs and answers, in the bundle and in check-bilstm."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl

import bilstm_runtime
from bilstm_exporter import export
from bilstm_runtime.bundle.golden_texts import equals


def test_values_are_equal_up_to_the_rounding_of_scores() -> None:
    recorded = {"label": "a", "score": 0.5, "start": None}
    assert equals({**recorded, "score": 0.500001}, recorded)
    assert not equals({**recorded, "score": 0.51}, recorded)
    assert not equals({**recorded, "label": "b"}, recorded)
    assert not equals({"label": "a"}, recorded)
    assert equals([1, [2]], [1, [2]])
    assert not equals([1, [3]], [1, [2]])
    assert not equals([1], [1, 2])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x = keras.Input((None,), dtype="int32", name="ids")
    y = kl.Embedding(20, 4, mask_zero=True)(x)
    y = kl.Bidirectional(kl.LSTM(3, return_sequences=True))(y)
    model = keras.Model(x, kl.Dense(3, activation="softmax", name="tags")(y))
    folder = tmp_path_factory.mktemp("golden") / "edge"
    words = ["so", "good", "bad", "not", "film"]
    tokenizer = {"<unk>": 1, **{word: n for n, word in enumerate(words, 2)}}
    export(model, folder, formats="onnx", tokenizer=tokenizer, labels=["O", "B-X", "I-X"])
    return folder


@pytest.mark.slow
def test_the_file_holds_the_whole_chain(bundle: Path) -> None:
    cases = json.loads((bundle / "golden_texts.json").read_text())
    model = bilstm_runtime.load(bundle)
    assert len(cases) == 4
    for case in cases:
        (tags,) = model.tag(case["texts"])
        assert [tag.token for tag in tags] == [tag["token"] for tag in case["answers"]["tags"]]
        np.testing.assert_allclose(model.predict(case["texts"]), case["outputs"][0], atol=1e-5)
        np.testing.assert_allclose(
            model.predict([case["ids"]["ids"]]), case["outputs"][0], atol=1e-5
        )
    assert bilstm_runtime.check(bundle).passed


def tampered(bundle: Path, folder: Path, change: Any) -> Path:
    folder.mkdir()
    for file in bundle.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    cases = json.loads((folder / "golden_texts.json").read_text())
    change(cases[1])
    content = json.dumps(cases).encode()
    (folder / "golden_texts.json").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256(content).hexdigest()
    manifest["golden_texts"].update(bytes=len(content), sha256=digest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


CHANGES: dict[str, tuple[Any, str]] = {
    "ids": (lambda case: case["ids"].update(ids=[7]), "the ids of text 1 for 'ids' are wrong"),
    "outputs": (lambda case: case["outputs"][0][0].reverse(), "text 1"),
    "answers": (
        lambda case: case["answers"]["tags"][0].update(token="x"),
        "the answer to text 1 for 'tags' is wrong",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.slow
def test_a_wrong_link_of_the_chain_fails_the_check(bundle: Path, tmp_path: Path, name) -> None:
    change, message = CHANGES[name]
    report = bilstm_runtime.check(tampered(bundle, tmp_path / "edge", change))
    assert not report.passed
    assert message in report.checks[0].reason


@pytest.mark.slow
def test_texts_beside_numbers_and_two_texts_have_cases(tmp_path: Path) -> None:
    texts, found = [], []
    for name, words in (("title", ["so", "good"]), ("body", ["bad", "film", "not"])):
        text = keras.Input((1,), dtype="string", name=name)
        ids = kl.TextVectorization(vocabulary=words)(text)
        texts.append(text)
        found.append(kl.LSTM(3)(kl.Embedding(8, 4, mask_zero=True)(ids)))
    numbers = keras.Input((2,), name="numbers")
    joined = kl.Concatenate()([*found, numbers])
    model = keras.Model([*texts, numbers], kl.Dense(2, activation="softmax", name="mood")(joined))
    export(model, tmp_path / "edge", labels=["sad", "glad"])
    cases = json.loads((tmp_path / "edge" / "golden_texts.json").read_text())
    assert len(cases) >= 2
    assert all(set(case["texts"]) == {"title", "body", "numbers"} for case in cases)
    assert all(case["answers"]["mood"][0]["label"] in {"sad", "glad"} for case in cases)
    report = bilstm_runtime.check(tmp_path / "edge")
    assert report.passed
