"""Files of tokenizers that would take a process with them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bilstm_runtime.errors import BundleError, InputError
from bilstm_runtime.preprocessing_spec import Fit, TokenizerFilePreprocessing
from bilstm_runtime.text.tokenizer_file import FileTokenizer

pytest.importorskip("tokenizers")


def tokenizer(**parts: Any) -> FileTokenizer:
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "b": 2}, "unk_token": "[UNK]"}
    root = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None,
        "decoder": None, "model": model, **parts,
    }  # fmt: skip
    item = TokenizerFilePreprocessing(
        input="x", file="tokenizer.json", bytes=1, sha256="0" * 64, fit=Fit()
    )
    return FileTokenizer(item, lambda _: json.dumps(root).encode())


def padding(**strategy: Any) -> dict[str, Any]:
    names = {"direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    return {"strategy": "BatchLongest", "pad_to_multiple_of": None, **names, **strategy}


def replacing(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$"])
def test_an_expression_that_never_ends(pattern: str) -> None:
    """The library counts the steps, and panics."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": False}
    found = tokenizer(pre_tokenizer=split)
    with pytest.raises(InputError, match=r"cannot be tokenized by tokenizer\.json"):
        found.encode("a" * 40 + "b", "text")
    assert found.encode("b", "text").tolist() == [2]


@pytest.mark.parametrize("parts", [
    {"padding": padding(strategy={"Fixed": 2**40})},
    {"padding": padding(pad_to_multiple_of=2**62)},
    {"normalizer": {"type": "Sequence", "normalizers": [replacing("a", "a" * 10)] * 12}},
    {"normalizer": replacing("", "a" * 1000, "Regex")},
])  # fmt: skip
def test_texts_that_no_memory_holds(parts: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json .* are allowed"):
        tokenizer(**parts).encode("a", "text")


@pytest.mark.parametrize("root", [None, [], 7, "x"])
def test_parts_of_other_types(root: Any) -> None:
    with pytest.raises(BundleError):
        tokenizer(padding=root or [1], normalizer=root or 7).encode("a", "text")


def test_what_tokenizers_usually_do() -> None:
    normalizers = [
        {"type": "Lowercase"},
        replacing(" ", "\u2581"),
        replacing(" {2,}", " ", "Regex"),
    ]
    found = tokenizer(
        normalizer={"type": "Sequence", "normalizers": normalizers},
        padding=padding(strategy={"Fixed": 4}),
    )
    assert found.encode("A", "text").tolist() == [1, 0, 0, 0]
