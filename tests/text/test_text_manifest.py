# ruff: noqa: E501 (tables of cases)
"""Text inputs in manifests: accepted and refused descriptions."""

from __future__ import annotations

import copy
import json
import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm_runtime.bundle.codec import manifest_from_json, manifest_to_json
from bilstm_runtime.errors import BundleError, ManifestError

ROOT = Path(__file__).parents[2]
PAIR = json.loads((ROOT / "tests/runtime/fixtures/pair/manifest.json").read_text())
ENTRY = {
    "input": "tokens", "kind": "text_vectorization", "standardize": "lower", "split": "whitespace",
    "output_sequence_length": 4, "vocabulary": ["a", "", "é", "日本"], "first_id": 2,
    "mask_token": "", "padding_id": 0, "unknown_id": 1,
}  # fmt: skip


def manifest(*entries: Any) -> dict[str, Any]:
    return {**copy.deepcopy(PAIR), "preprocessing": list(entries)}


@pytest.mark.parametrize(
    "change",
    [{}, {"standardize": None, "split": None}, {"kind": "string_lookup", "unknown_id": None},
     {"output_sequence_length": None, "mask_token": None, "padding_id": None}, {"mask_token": "-"}],
    ids=str,
)  # fmt: skip
def test_round_trip(change) -> None:
    root = manifest({**ENTRY, **change})
    found = manifest_from_json(json.dumps(root))
    assert manifest_from_json(manifest_to_json(found)) == found
    assert json.loads(manifest_to_json(found))["preprocessing"] == root["preprocessing"]
    assert found.spec.preprocessing[0].vocabulary == ("a", "", "é", "日本")


def test_what_may_be_null_may_be_missing() -> None:
    nulls = (
        "standardize",
        "split",
        "output_sequence_length",
        "mask_token",
        "padding_id",
        "unknown_id",
    )
    root = manifest({key: value for key, value in ENTRY.items() if key not in nulls})
    found = manifest_from_json(json.dumps(root)).spec.preprocessing[0]
    assert [getattr(found, key) for key in nulls] == [None] * len(nulls)


A = {"ranges": [97, 97], "most": 1}
WRONG = [
    ("input", ...), ("input", "text"), ("input", 3), ("kind", ...), ("kind", "text"),
    ("kind", ["string_lookup"]), ("standardize", "upper"), ("standardize", ""), ("standardize", {}),
    ("split", "words"), ("split", True), ("output_sequence_length", 0),
    ("output_sequence_length", -1), ("output_sequence_length", 2.0), ("output_sequence_length", 2**40),
    ("output_sequence_length", True), ("vocabulary", ...), ("vocabulary", []), ("vocabulary", "abc"),
    ("vocabulary", {"a": 1}), ("vocabulary", ["a", 1]), ("vocabulary", ["a", None]),
    ("vocabulary", ["a", "a"]), ("vocabulary", ["\ud800"]), ("vocabulary", [["a"]]),
    ("first_id", ...), ("first_id", -1), ("first_id", 2**40), ("first_id", "2"),
    ("mask_token", 0), ("mask_token", "\udfff"), ("padding_id", None), ("padding_id", -1),
    ("padding_id", False), ("unknown_id", -1), ("unknown_id", 1.5), ("unknown_id", "1"),
    ("source", ""), ("source", 3), ("integers", "int64"), ("steps", {}), ("steps", [{}]),
    *(
        ("steps", [step])
        for step in (
            {"kind": "title"}, {"kind": "lower", "by": ["a"]}, {"kind": "join", "by": ["a"]},
            {"kind": "join", "by": ["a" * 70_000, ""]}, {"kind": "replace", "by": ["a"]},
            {"kind": "strip", "pattern": [A]}, {"kind": "replace", "by": [], "pattern": [A]},
            {"kind": "replace", "by": ["a" * 1025], "pattern": [A]},
            {"kind": "replace", "by": [""], "pattern": [{**A, "most": None}] * 5},
            {"kind": "replace", "by": [""], "pattern": [{**A, "least": 0, "most": None}]},
            {"kind": "replace", "by": [""], "pattern": [{**A, "least": 3, "most": 2}]},
            *(
                {"kind": "replace", "by": [""], "pattern": [{"ranges": ranges, "most": 1}]}
                for ranges in ([], [97], [98, 97], [97, 2**21], [-1, 5])
            ),
        )
    ),
    ("steps", [{"kind": "replace", "by": ["aa"], "pattern": [A]}] * 11),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG, ids=[f"{k}={str(v)[:20]!a}" for k, v in WRONG])
def test_wrong_fields_are_refused(key, value) -> None:
    entry = {**ENTRY, key: value}
    if value is ...:
        del entry[key]
    with pytest.raises(ManifestError, match=r"manifest\.json.*export the model again"):
        manifest_from_json(json.dumps(manifest(entry)))


def test_steps_are_read_as_they_are_written() -> None:
    many = {"ranges": [98, 99], "least": 2, "most": None}
    step = {"kind": "replace", "by": ["", " "], "pattern": [A, many]}
    found = manifest_from_json(json.dumps(manifest({**ENTRY, "steps": [step]})))
    one, other = found.spec.texts[0].steps[0].pattern
    assert (one.least, one.most, other.least, other.most) == (1, 1, 2, None)
    assert manifest_from_json(manifest_to_json(found)) == found


@pytest.mark.parametrize("value", [{}, "text", [None], [[]], [ENTRY, ENTRY], 1], ids=str)
def test_wrong_lists_are_refused(value) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        manifest_from_json(json.dumps({**PAIR, "preprocessing": value}))


def test_an_input_that_takes_no_ids() -> None:
    root = manifest(ENTRY)
    root["inputs"][0].update(dtype="bool", range=None, mask_value=None)
    with pytest.raises(ManifestError, match="'tokens', which takes bool"):
        manifest_from_json(json.dumps(root))


def test_an_input_without_a_time_axis() -> None:
    root = manifest(ENTRY)
    root["inputs"][0]["axes"].append({"name": None, "size": 3})
    with pytest.raises(ManifestError, match="splits texts for 'tokens'"):
        manifest_from_json(json.dumps(root))


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 5)
    | st.text(max_size=3)
    | st.lists(st.text(max_size=2))
)


@settings(deadline=None)
@given(
    entry=st.fixed_dictionaries({}, optional={key: VALUES | st.just(ENTRY[key]) for key in ENTRY})
)
def test_any_entry_is_read_or_refused(entry) -> None:
    try:
        found = manifest_from_json(json.dumps(manifest(entry)))
    except BundleError:
        return
    assert manifest_from_json(manifest_to_json(found)) == found


def test_the_page_names_every_field_and_every_stripped_character() -> None:
    page = (ROOT / "docs" / "manifest.md").read_text(encoding="utf-8").split("## Text inputs")[1]
    for key in ENTRY:
        assert f"| `{key}` |" in page
    stripped = re.search(r"``(\S+)``", page)
    assert stripped
    assert sorted(stripped[1]) == sorted(string.punctuation)
