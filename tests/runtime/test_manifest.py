# ruff: noqa: E501 (tables of cases)
"""Reading arbitrary manifests, and writing them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm_runtime.bundle.codec import manifest_from_json, manifest_to_json
from bilstm_runtime.bundle.manifest import Artifact, Golden, Manifest, Source
from bilstm_runtime.comparison import Tolerance
from bilstm_runtime.errors import BundleError, BundleVersionError, ManifestError
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec

if TYPE_CHECKING:
    from collections.abc import Callable

WORDS = st.text(min_size=1, max_size=12)
TOKENS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,12}", fullmatch=True)
SHA = st.text("0123456789abcdef", min_size=64, max_size=64)
SIZES = st.integers(1, 500)
FINITE = st.floats(-100, 100)
TOLERANCES = st.builds(Tolerance, st.floats(0, 1), st.floats(0, 1))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def inputs(draw: st.DrawFn, name: str, batch: Axis, time: Axis) -> InputSpec:
    axes = (batch, time, *draw(st.lists(st.builds(Axis, st.none(), SIZES), max_size=1)))
    if draw(st.booleans()):
        low = draw(st.integers(-5, 5))
        high = low + draw(st.integers(0, 5000))
        mask = draw(st.none() | st.integers(low, high))
        return InputSpec(name, draw(st.sampled_from(["int32", "int64"])), axes, (low, high), mask)
    mask_value = draw(st.none() | FINITE | st.just(float("inf")))
    return InputSpec(name, "float32", axes, None, mask_value)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    batch = Axis("batch", draw(st.none() | SIZES))
    time = draw(
        st.builds(Axis, st.just("time"), SIZES) | st.builds(Axis, st.just("time"), st.none(), SIZES)
    )
    names = draw(st.lists(WORDS, min_size=1, max_size=3, unique=True))
    outputs = draw(st.lists(WORDS, min_size=1, max_size=3, unique=True))
    recipes = draw(st.lists(TOKENS, min_size=1, max_size=3, unique=True))
    return Manifest(
        spec=ModelSpec(
            name=draw(WORDS),
            inputs=tuple(draw(inputs(name, batch, time)) for name in names),
            outputs=tuple(
                OutputSpec(
                    name,
                    "float32",
                    (batch, draw(st.sampled_from([time, Axis(None, None), Axis(None, 3)]))),
                )
                for name in outputs
            ),
            output_structure=draw(
                st.sampled_from(["list", "dict"] + ["single"] * (len(outputs) == 1))
            ),
            padding_neutral=draw(st.booleans()),
            rows_independent=draw(st.booleans()),
        ),
        source=draw(st.builds(Source, WORDS, SHA, WORDS)),
        recommended_recipe=draw(TOKENS),
        artifacts=tuple(
            Artifact(
                f"{number}.onnx",
                "onnx",
                recipe,
                draw(SIZES),
                draw(SHA),
                tuple(names),
                tuple(outputs),
                draw(st.dictionaries(WORDS, FINITE, max_size=2)),
                tolerance=draw(st.none() | TOLERANCES),
                recorded_at_export=draw(st.booleans()),
            )
            for number, recipe in enumerate(recipes)
        ),
        golden=Golden("golden.npz", draw(SIZES), draw(SHA), draw(SIZES)),
        tolerance=draw(TOLERANCES),
        versions=draw(st.dictionaries(WORDS, WORDS, max_size=3)),
    )


@given(manifests())
@pytest.mark.slow
def test_round_trip(manifest: Manifest) -> None:
    text = manifest_to_json(manifest)
    assert manifest_from_json(text) == manifest
    assert manifest_to_json(manifest_from_json(text)) == text


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_mask_values_that_are_not_finite(fixtures: Path, value: str) -> None:
    root = json.loads((fixtures / "classifier" / "manifest.json").read_text())
    root["inputs"][0]["mask_value"] = value
    manifest = manifest_from_json(json.dumps(root))
    assert repr(manifest.spec.inputs[0].mask_value) == {"NaN": "nan", "Infinity": "inf"}.get(
        value, "-inf"
    )
    assert json.loads(manifest_to_json(manifest))["inputs"][0]["mask_value"] == value


def test_unknown_keys_are_allowed(fixtures: Path) -> None:
    root = json.loads((fixtures / "pair" / "manifest.json").read_text())
    plain = manifest_from_json(json.dumps(root))
    for part in (root, root["inputs"][0], root["artifacts"][0], root["padding"], root["golden"]):
        part["invented later"] = {"a": [1]}
    assert manifest_from_json(json.dumps(root)) == plain


def test_newer_format_is_refused_in_plain_words(fixtures: Path) -> None:
    root = json.loads((fixtures / "pair" / "manifest.json").read_text())
    with pytest.raises(
        BundleVersionError, match=r"version 2.*reads version 1.*pip install --upgrade"
    ):
        manifest_from_json(json.dumps({**root, "format_version": 2}))


def put(root: dict[str, Any], path: str, value: object) -> None:
    """Set `inputs.0.name` and the like; `...` removes."""
    *parents, last = path.split(".")
    for key in parents:
        root = root[int(key)] if isinstance(root, list) else root[key]
    key = int(last) if isinstance(root, list) else last
    if value is ...:
        del root[key]
    else:
        root[key] = value


WRONG = [
    ("format_version", ...), ("format_version", "1"), ("format_version", 0),
    ("format_version", True), ("name", 3), ("name", ""), ("source", None), ("source.sha256", "x"),
    ("inputs", {}), ("inputs", []), ("inputs.0", "tokens"), ("inputs.0.dtype", "float128"),
    ("inputs.0.dtype", ["int32"]), ("inputs.0.axes", []), ("inputs.0.axes.0.name", "rows"),
    ("inputs.0.axes.1.name", "batch"), ("inputs.0.axes.1.name", None),
    ("inputs.0.axes.1.size", -1), ("inputs.0.axes.1.size", 0), ("inputs.0.axes.1.size", 2**40),
    ("inputs.0.axes.1.size", 1.5), ("inputs.0.axes.1.size", True), ("inputs.0.axes.1.size", 10**400),
    ("inputs.0.axes.1.min", 0), ("inputs.0.range", [0]), ("inputs.0.range", [5, 0]),
    ("inputs.0.range", [0, 1e9]), ("inputs.0.range", "all"), ("inputs.0.mask_value", "0"),
    ("inputs.0.mask_value", 20), ("inputs.0.mask_value", 0.5), ("inputs.1.name", "tokens"),
    ("inputs.1.mask_value", "null"), ("outputs", []), ("outputs.1.name", "tags"),
    ("outputs.0.axes.1.name", "time_9"), ("outputs.0.axes.1.size", 4),
    ("output_structure", "tuple"), ("output_structure", "single"), ("output_structure", 1),
    ("padding", {}), ("padding.neutral", 1), ("padding", True), ("rows_independent", "yes"),
    ("recommended", {}), ("recommended.recipe", 8), ("artifacts", []), ("artifacts", {}),
    ("artifacts.0.file", "../model.onnx"), ("artifacts.0.file", "/etc/passwd"),
    ("artifacts.0.file", "a/b.onnx"), ("artifacts.0.file", "a\\b.onnx"), ("artifacts.0.file", ".."),
    ("artifacts.0.file", "."), ("artifacts.0.file", "C:model.onnx"), ("artifacts.0.file", ""),
    ("artifacts.0.file", "a\0b"), ("artifacts.0.file", "model.onnx\n"),
    ("artifacts.0.file", "\x1b[31m"), ("artifacts.0.file", "golden.npz"),
    ("artifacts.0.bytes", -1), ("artifacts.0.bytes", 2**70), ("artifacts.0.bytes", "12"),
    ("artifacts.0.sha256", "A" * 64), ("artifacts.0.sha256", "0" * 63),
    ("artifacts.0.inputs", ["tokens"]), ("artifacts.0.inputs", ["x", "x"]),
    ("artifacts.0.outputs", [1, 2]), ("artifacts.0.parity", []), ("artifacts.0.tolerance", 1),
    ("artifacts.0.own_answers", "yes"),
    ("artifacts.1.format", "onnx"), ("golden", ...), ("golden.file", "../golden.npz"),
    ("golden.cases", 0), ("golden.cases", 2**60), ("tolerance.absolute", -1),
    ("tolerance.absolute", "1e-5"), ("tolerance.relative", 10**400), ("versions", []),
    ("versions", {"numpy": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), WRONG, ids=[f"{p}={str(v)[:20]!r}" for p, v in WRONG])
def test_wrong_fields_are_refused(fixtures: Path, path: str, value: object) -> None:
    root = json.loads((fixtures / "pair" / "manifest.json").read_text())
    put(root, path, value)
    with pytest.raises(ManifestError, match=r"manifest\.json.*export the model again"):
        manifest_from_json(json.dumps(root))


def test_message_names_the_field(fixtures: Path) -> None:
    root = json.loads((fixtures / "pair" / "manifest.json").read_text())
    put(root, "inputs.1.axes.1.size", "five")
    with pytest.raises(
        ManifestError, match=r"manifest\.json: inputs\[1\]\.axes\[1\]\.size is 'five'"
    ):
        manifest_from_json(json.dumps(root))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"x"', "[" * 100_000, '{"a": NaN}', '{"a": 1, "a": 2}', "1" * 10_000],
    ids=["empty", "cut", "list", "null", "string", "deep", "nan", "twice", "long number"],
)
def test_broken_json_is_refused(text: str) -> None:
    with pytest.raises(ManifestError):
        manifest_from_json(text)


def places(value: object, path: str = "") -> list[str]:
    """All paths into a JSON document."""
    pairs = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    found = []
    for key, item in pairs:
        inner = f"{path}.{key}" if path else str(key)
        found += [inner, *places(item, inner)]
    return found


@given(data=st.data())
def test_any_change_is_read_or_refused(data: st.DataObject, pair_manifest: dict[str, Any]) -> None:
    root = copy.deepcopy(pair_manifest)
    put(root, data.draw(st.sampled_from(places(root))), data.draw(JSON | st.just(...)))
    try:
        manifest = manifest_from_json(json.dumps(root))
    except BundleError:
        return
    assert manifest_from_json(manifest_to_json(manifest)) == manifest


@pytest.fixture(scope="module")
def pair_manifest() -> dict[str, Any]:
    file = Path(__file__).parent / "fixtures" / "pair" / "manifest.json"
    root: dict[str, Any] = json.loads(file.read_text())
    return root


def test_a_wrong_manifest_is_not_written(make_manifest: Callable[..., Manifest]) -> None:
    spec = InputSpec("x", "int32", (Axis("batch", None), Axis("time", None)))
    assert manifest_to_json(make_manifest((spec,)))
    with pytest.raises(ManifestError, match="plain file name"):
        manifest_to_json(make_manifest((spec,), golden=Golden("../x", 1, "0" * 64, 1)))
    with pytest.raises(ManifestError, match="cannot be written"):
        manifest_to_json(make_manifest((spec,), tolerance=Tolerance(float("nan"), 0)))
