"""The codec: round trips of every manifest dataclass, derived from its fields."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm_runtime.bundle.codec import (
    Field,
    decode,
    encode,
    manifest_from_json,
    parse_document,
)
from bilstm_runtime.bundle.manifest import Golden, Source, check_manifest
from bilstm_runtime.bundle.tuning import MAX_THREADS, Tuning
from bilstm_runtime.comparison import Tolerance
from bilstm_runtime.constraints import Choices, Flag, Key, Pattern, Range
from bilstm_runtime.errors import ManifestError
from bilstm_runtime.preprocessing_spec import (
    KINDS,
    MAX_TEXT,
    SPLITS,
    STANDARDIZATIONS,
    TextPreprocessing,
)
from bilstm_runtime.spec import (
    DTYPES,
    MAX_AXIS,
    MAX_MIN,
    MIN_SCALE,
    QUANTIZED_DTYPES,
    Artifact,
    Axis,
    InputSpec,
    ModelSpec,
    OutputSpec,
    Quantization,
    StateSpec,
    integer_limits,
)

TEXT = st.text(min_size=1, max_size=8)
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
WORDS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,12}", fullmatch=True)
SHA = st.text("0123456789abcdef", min_size=64, max_size=64)
NAMES = st.lists(TEXT, min_size=1, max_size=3).map(tuple)
SIZES = st.integers(1, 600)  # three of them stay below MAX_VALUES
FREE_OR_FIXED = st.builds(Axis, TEXT, st.none(), SIZES) | st.builds(Axis, st.none(), SIZES)
ANY_AXIS = st.builds(Axis, TEXT, st.none(), st.integers(1, MAX_MIN)) | st.builds(
    Axis, TEXT, st.integers(1, MAX_AXIS)
)
REST = st.lists(FREE_OR_FIXED.filter(lambda axis: axis.name != "batch"), max_size=2)
AXES = st.builds(lambda size, rest: (Axis("batch", size), *rest), st.none() | SIZES, REST)
FIXED = st.builds(
    lambda size, rest: (Axis("batch", size), *(Axis(None, n) for n in rest)),
    SIZES, st.lists(SIZES, max_size=2),
)  # fmt: skip


@st.composite
def input_specs(draw: st.DrawFn) -> InputSpec:
    dtype = draw(st.sampled_from(DTYPES))
    if dtype in ("float16", "float32", "float64"):
        width = np.dtype(dtype).itemsize * 8
        numbers = st.floats(allow_nan=False, width=width) | st.integers(-9, 9)
        ends = st.floats(-9, 9) | st.integers(-9, 9)
    else:
        numbers = ends = st.integers(*integer_limits(dtype))
    bounds = draw(st.none() | st.tuples(ends, ends).map(lambda pair: tuple(sorted(pair))))
    mask = draw(st.none() | (numbers if bounds is None else st.sampled_from(bounds)))
    return InputSpec(draw(TEXT), dtype, draw(AXES), bounds, mask)


@st.composite
def quantizations(draw: st.DrawFn) -> Quantization:
    dtype = draw(st.sampled_from(QUANTIZED_DTYPES))
    zero_point = st.integers(*integer_limits(dtype))
    return Quantization(dtype, draw(st.floats(MIN_SCALE, 1 / MIN_SCALE)), draw(zero_point))


@st.composite
def texts(draw: st.DrawFn) -> TextPreprocessing:
    ids = st.integers(0, MAX_AXIS)
    padding = draw(st.none() | ids)
    pads = padding is not None
    return TextPreprocessing(
        input=draw(TEXT),
        kind=draw(st.sampled_from(KINDS)),
        standardize=draw(st.none() | st.sampled_from(STANDARDIZATIONS)),
        split=draw(st.none() | st.sampled_from(SPLITS)),
        output_sequence_length=draw(st.none() | st.integers(1, MAX_TEXT)) if pads else None,
        vocabulary=tuple(draw(st.lists(UNICODE, min_size=1, max_size=5, unique=True))),
        first_id=draw(ids),
        mask_token=draw(st.none() | UNICODE) if pads else None,
        padding_id=padding,
        unknown_id=draw(st.none() | ids),
    )


OUTPUTS = st.builds(OutputSpec, TEXT, st.sampled_from(DTYPES), AXES)
STATES = st.builds(StateSpec, TEXT, st.sampled_from(DTYPES), FIXED)
TOLERANCES = st.builds(Tolerance, st.floats(0, 1), st.floats(0, 1))
QUANTIZED = st.dictionaries(TEXT, quantizations(), max_size=2)
STRATEGIES = {
    Axis: ANY_AXIS,
    InputSpec: input_specs(),
    OutputSpec: OUTPUTS,
    StateSpec: STATES,
    TextPreprocessing: texts(),
    ModelSpec: st.builds(
        ModelSpec,
        TEXT,
        st.lists(input_specs(), min_size=1, max_size=2).map(tuple),
        st.lists(OUTPUTS, min_size=1, max_size=2).map(tuple),
        st.lists(STATES, max_size=2).map(tuple),
        st.sampled_from(["single", "list", "dict"]),
        st.booleans(),
        st.booleans(),
        st.lists(texts(), max_size=2).map(tuple),
    ),
    Tolerance: TOLERANCES,
    Quantization: quantizations(),
    Artifact: st.builds(
        Artifact,
        file=WORDS, format=WORDS, recipe=WORDS, bytes=st.integers(0, 2**31), sha256=SHA,
        inputs=NAMES, outputs=NAMES, parity=st.dictionaries(TEXT, st.floats(0, 1), max_size=2),
        tolerance=st.none() | TOLERANCES, recorded_at_export=st.booleans(),
        quantized_inputs=QUANTIZED, quantized_outputs=QUANTIZED, reset_between_runs=st.booleans(),
    ),
    Source: st.builds(Source, TEXT, SHA, TEXT),
    Golden: st.builds(Golden, WORDS, st.integers(0, 2**31), SHA, st.integers(1, 2**20)),
    Tuning: st.builds(Tuning, TEXT, TEXT, st.integers(1, MAX_THREADS), st.booleans()),
}  # fmt: skip


def through_json(value: Any) -> Field:
    return parse_document(json.dumps(encode(value), allow_nan=False), "made")


@pytest.mark.parametrize("kind", STRATEGIES, ids=lambda kind: kind.__name__)
@given(data=st.data())
@pytest.mark.slow
def test_round_trip(kind: type, data: st.DataObject) -> None:
    value = data.draw(STRATEGIES[kind])
    root = through_json(value)
    assert decode(kind, root) == value
    assert isinstance(root.value, dict)
    unknown = Field({**root.value, "invented later": {"a": [1]}}, root.document)
    assert decode(kind, unknown) == value


@dataclass(frozen=True)
class Inner:
    x: int


@dataclass(frozen=True)
class Made:
    """Every form of a field."""

    name: str
    word: Annotated[str, Choices(("a", "b"))]
    code: Annotated[str, Pattern(re.compile("[0-9]+"), "digits")]
    count: Annotated[int, Range(1, 5)]
    share: Annotated[float, Range(0)]
    inner: Inner
    placed: Annotated[bool, Key(("outside", "inside"))]
    items: Annotated[tuple[Inner, ...], Flag.AT_LEAST_ONE]
    by_name: Mapping[str, Inner]
    maybe: Annotated[int, Range(0, 9)] | None
    flattened: Annotated[Tolerance, Key(())]
    extra: Annotated[Mapping[str, object], Flag.OPTIONAL] = field(default_factory=dict)
    seldom: Annotated[int, Range(0, 9), Flag.OMIT_DEFAULT] = 7


MADE = Made("n", "a", "12", 3, 0.5, Inner(1), True, (Inner(2),), {"k": Inner(3)}, None,
            Tolerance(0.1, 0.2))  # fmt: skip


def test_a_new_dataclass_needs_no_code() -> None:
    assert encode(MADE) == {
        "name": "n", "word": "a", "code": "12", "count": 3, "share": 0.5, "inner": {"x": 1},
        "outside": {"inside": True}, "items": [{"x": 2}], "by_name": {"k": {"x": 3}},
        "maybe": None, "absolute": 0.1, "relative": 0.2, "extra": {},
    }  # fmt: skip
    other = dataclasses.replace(MADE, maybe=4, seldom=8, extra={"a": [1]})
    for value in (MADE, other):
        assert decode(Made, through_json(value)) == value
    root = through_json(MADE).value
    assert isinstance(root, dict)
    del root["maybe"], root["extra"]
    assert decode(Made, Field(root, "made")) == MADE


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("name", "", "made: name is ''; expected a string that is not empty."),
        ("word", "c", "made: word is 'c'; expected one of a, b."),
        ("code", "x", "made: code is 'x'; expected digits."),
        ("count", 6, "made: count is 6; expected a whole number from 1 to 5."),
        ("count", True, "made: count is True; expected a whole number from 1 to 5."),
        ("share", -1, "made: share is -1; expected a number that is not negative."),
        ("share", 10**400, "expected a number that fits 64 bits."),
        ("inner.x", "1", "made: inner.x is '1'; expected a whole number from"),
        ("inner", 3, "made: inner is 3; expected an object."),
        ("outside.inside", 1, "made: outside.inside is 1; expected true or false."),
        ("outside", [], "made: outside is []; expected an object."),
        ("items", [], "made: items is []; expected a list of 1 or more items."),
        ("items.0", {}, "made: items[0] has no 'x'."),
        ("by_name.k", None, "made: by_name.k is None; expected an object."),
        ("extra", [], "made: extra is []; expected an object."),
        ("seldom", 10, "made: seldom is 10; expected a whole number from 0 to 9."),
        ("absolute", ..., "made: has no 'absolute'."),
    ],
)
def test_messages_name_the_place(path: str, value: object, message: str) -> None:
    root: Any = through_json(MADE).value
    *parents, last = path.split(".")
    root["seldom"] = 7
    target = root
    for key in parents:
        target = target[key]
    key = int(last) if isinstance(target, list) else last
    if value is ...:
        del target[key]
    else:
        target[key] = value
    with pytest.raises(ManifestError) as caught:
        decode(Made, Field(root, "made"))
    assert message in str(caught.value)
    assert str(caught.value).endswith(caught.value.remedy) and caught.value.remedy
    assert caught.value.remedy not in caught.value.problem


def test_a_field_that_has_no_form_is_an_error_of_the_program() -> None:
    @dataclass(frozen=True)
    class Odd:
        x: Annotated[set, "nothing that JSON has"]  # type: ignore[type-arg]

    with pytest.raises((KeyError, NameError)):
        decode(Odd, Field({"x": []}, "odd"))


class Counted(str):
    """A name that counts how often it is compared."""

    __slots__ = ()
    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)


def test_checks_are_linear_in_the_size_of_a_manifest(fixtures: Path) -> None:
    manifest = manifest_from_json((fixtures / "pair" / "manifest.json").read_text())
    names = [Counted(f"o{n}") for n in range(2000)]
    axes = manifest.spec.outputs[0].axes
    spec = dataclasses.replace(
        manifest.spec, outputs=tuple(OutputSpec(name, "float32", axes) for name in names)
    )
    artifacts = tuple(
        dataclasses.replace(artifact, outputs=tuple(names)) for artifact in manifest.artifacts
    )
    large = dataclasses.replace(manifest, spec=spec, artifacts=artifacts)
    check_manifest(large)
    assert Counted.compared < 100 * len(names)
    outputs = (*spec.outputs[:-1], OutputSpec("o7", "float32", axes))
    wrong = dataclasses.replace(large, spec=dataclasses.replace(spec, outputs=outputs))
    with pytest.raises(ManifestError, match="outputs: 'o7' appears twice"):
        check_manifest(wrong)


def test_a_key_that_stands_twice_is_named() -> None:
    with pytest.raises(ManifestError, match="the key 'b' appears twice"):
        parse_document('{"a": 1, "b": 2, "c": 3, "b": 4}', "made")
