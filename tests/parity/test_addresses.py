"""The tagger of addresses, from texts to tags, in both formats, on all test addresses."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from addresses import TAGS, Address, read_jsonl
from crf import CRF
from train_addresses import arrays

import bilstm_runtime
from bilstm_exporter import export

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
TABLES = {name: EXAMPLES / f"addresses_{name}.json" for name in ("words", "characters")}


@pytest.fixture(scope="module")
def addresses() -> list[Address]:
    return read_jsonl(EXAMPLES / "addresses_test.jsonl")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return keras.models.load_model(EXAMPLES / "addresses.keras", custom_objects={"CRF": CRF})


@pytest.fixture(scope="module")
def expected(model: keras.Model, addresses: list[Address]) -> list[list[str]]:
    """The tags of Keras's scores, by the path that the layer itself finds."""
    tables = (json.loads(path.read_text(encoding="utf-8")) for path in TABLES.values())
    inputs, _ = arrays(addresses, *tables)
    scores = np.asarray(model(inputs, training=False))
    crf = model.get_layer("crf")
    paths = (
        crf.best_path(one[: len(address.words)])
        for one, address in zip(scores, addresses, strict=True)
    )
    return [[TAGS[number] for number in path] for path in paths]


@pytest.fixture(scope="module")
def bundle(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(
        model,
        tmp_path_factory.mktemp("export") / "edge",
        labels=EXAMPLES / "addresses_tags.txt",
        crf="transitions=crf",
        tokenizer=[f"{name}={path}" for name, path in TABLES.items()],
    ).bundle


@pytest.mark.parametrize("backend", ["onnx", "litert"])
def test_every_tag_is_keras_s(bundle, addresses, expected, backend) -> None:
    loaded = bilstm_runtime.load(bundle, backend=backend)
    found = loaded.tag([address.text for address in addresses])
    assert [[item.tag for item in row] for row in found] == expected
    assert [[item.token for item in row] for row in found] == [
        list(address.words) for address in addresses
    ]


def test_the_tagger_is_good(addresses, expected) -> None:
    rows = [
        np.array(found) == np.array(address.tags)
        for found, address in zip(expected, addresses, strict=True)
    ]
    assert len(rows) == 299
    assert np.concatenate(rows).mean() > 0.935
    assert np.mean([row.all() for row in rows]) > 0.8


@pytest.mark.parametrize("backend", ["onnx", "litert"])
def test_the_parts_of_an_address(bundle, backend) -> None:
    loaded = bilstm_runtime.load(bundle, backend=backend)
    (spans,) = loaded.spans(["1600 Pennsylvania Ave NW, Washington, DC 20500"])
    assert [(span.label, span.text) for span in spans] == [
        ("number", "1600"),
        ("street", "Pennsylvania Ave NW,"),
        ("city", "Washington,"),
        ("state", "DC"),
        ("zip", "20500"),
    ]


def test_golden_cases_pass_on_this_machine(bundle) -> None:
    assert bilstm_runtime.check(bundle).passed
