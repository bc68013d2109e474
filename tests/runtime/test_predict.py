# ruff: noqa: E501 (tables of cases)
"""`Model.predict`: what it accepts, what it refuses, and that the outputs are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import bilstm_runtime
from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.bundle.golden import read_cases
from bilstm_runtime.bundle.manifest import Manifest
from bilstm_runtime.errors import BackendRunError, InputError, InputTypeError, OptionError
from bilstm_runtime.inputs import InputReader
from bilstm_runtime.spec import Axis, InputSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BundleMaker = Any
Loader = Any


def close(found: object, wanted: object) -> bool:
    """Whether two outputs agree in form, shape and value."""
    if isinstance(wanted, list):
        return (
            isinstance(found, list) and len(found) == len(wanted) and all(map(close, found, wanted))
        )
    if isinstance(wanted, dict):
        return (
            isinstance(found, dict)
            and list(found) == list(wanted)
            and all(close(found[key], wanted[key]) for key in wanted)
        )
    return (
        isinstance(found, np.ndarray)
        and isinstance(wanted, np.ndarray)
        and found.shape == wanted.shape
        and np.allclose(found, wanted, rtol=1e-4, atol=1e-5, equal_nan=False)
    )


def test_close_can_fail() -> None:
    a = np.ones((2, 3), np.float32)
    assert close(a, a.copy()) and close([a], [a]) and close({"a": a}, {"a": a})
    assert not close(a, a + 1e-3)
    assert not close(a, a[:1])
    assert not close(a, [a])
    assert not close([a], [a, a])
    assert not close({"a": a}, {"b": a})
    assert not close(np.full(2, np.nan), np.full(2, np.nan))


def sequences(rng: np.random.Generator, lengths: list[int]) -> list[np.ndarray]:
    return [rng.integers(1, 20, n).astype(np.int32) for n in lengths]


LENGTHS = [5, 1, 9, 30, 2, 9, 5, 31, 3]


# What is loaded.


def test_model_says_what_it_is(load_one: Loader, backend: str) -> None:
    model = load_one("pair", backend)
    assert (model.name, model.backend, model.recipe) == ("pair", backend, "float32")
    assert [spec.name for spec in model.inputs] == ["tokens", "extra"]
    assert [spec.name for spec in model.outputs] == ["tags", "scores"]
    assert "pair" in repr(model)


@pytest.mark.parametrize("name", ["tagger", "classifier", "pair", "pooled", "fixed"])
def test_golden_cases(fixtures: Path, load_one: Loader, backend: str, name: str) -> None:
    model = load_one(name, backend)
    for case in read_cases(open_bundle(fixtures / name)):
        outputs = model.predict([*case.inputs] if len(case.inputs) > 1 else case.inputs[0])
        wanted: Any = list(case.outputs)
        if model.output_structure == "single":
            wanted = wanted[0]
        elif model.output_structure == "dict":
            wanted = dict(zip(["tags", "scores"], wanted, strict=True))
        assert close(outputs, wanted)


@pytest.mark.parametrize("threads", [1, 2, None])
def test_threads(load_one: Loader, backend: str, threads: int | None) -> None:
    assert load_one("tagger", backend, threads=threads).predict([[1]]).shape == (1, 1, 3)


@pytest.mark.parametrize("threads", [0, -1, 1.0, True, "2"])
def test_impossible_threads(load_one: Loader, threads: Any) -> None:
    with pytest.raises(OptionError, match="threads is"):
        load_one("tagger", None, threads=threads)


# Forms of input.


def test_forms_of_one_input(load_one: Loader, backend: str) -> None:
    model = load_one("tagger", backend)
    array = np.array([[1, 2, 3], [4, 5, 6]], np.int32)
    wanted = model.predict(array)
    assert wanted.shape == (2, 3, 3)
    ragged_type = np.empty(2, object)
    ragged_type[:] = [array[0], array[1]]
    forms = [
        array.tolist(),
        tuple(map(tuple, array.tolist())),
        list(array),
        [array[0].tolist(), array[1]],
        {"tokens": array},
        {"tokens": array.tolist()},
        array.astype(np.int64),
        array.astype(np.float64),
        array.astype(">i8"),
        np.asfortranarray(array),
        np.repeat(array, 2, axis=1)[:, ::2],
        [array[0].astype(np.float64), array[1].astype(np.uint8)],
        ragged_type,
        array.view(np.matrix) if hasattr(np, "matrix") else array,
    ]
    for form in forms:
        assert close(model.predict(form), wanted), form


def test_forms_of_two_inputs(load_one: Loader, backend: str, rng: np.random.Generator) -> None:
    model = load_one("pair", backend)
    tokens = rng.integers(1, 20, (3, 4)).astype(np.int32)
    extra = rng.normal(size=(3, 5)).astype(np.float32)
    wanted = model.predict({"tokens": tokens, "extra": extra})
    assert list(wanted) == ["tags", "scores"]
    for form in (
        [tokens, extra],
        (tokens, extra),
        {"extra": extra, "tokens": tokens},
        {"tokens": tokens.tolist(), "extra": list(extra)},
        [list(tokens), extra.astype(np.float64)],
    ):
        assert close(model.predict(form), wanted)


def test_input_is_not_changed(load_one: Loader, backend: str) -> None:
    array = np.array([[1, 2, 0]], np.int64)
    load_one("tagger", backend).predict(array)
    assert array.tolist() == [[1, 2, 0]]
    assert array.dtype == np.int64


def test_read_only_input(load_one: Loader, backend: str) -> None:
    array = np.array([[1, 2, 3]], np.int32)
    array.setflags(write=False)
    assert load_one("tagger", backend).predict(array).shape == (1, 3, 3)


# Sequences of different lengths.


def test_ragged_tagger_is_a_list_of_each_own_length(
    load_one: Loader, backend: str, rng: np.random.Generator
) -> None:
    model = load_one("tagger", backend)
    examples = sequences(rng, LENGTHS)
    outputs = model.predict(examples)
    assert close(outputs, [model.predict(example[None])[0] for example in examples])
    assert close(model.predict([example.tolist() for example in examples]), outputs)
    assert close(model.predict({"tokens": examples}, batch_size=2), outputs)


def test_ragged_classifier_that_padding_would_change(
    load_one: Loader, backend: str, rng: np.random.Generator
) -> None:
    model = load_one("classifier", backend)
    examples = [rng.normal(size=(n, 4)).astype(np.float32) for n in LENGTHS]
    outputs = model.predict(examples)
    assert close(outputs, np.stack([model.predict(example[None])[0] for example in examples]))


def test_ragged_with_two_inputs(load_one: Loader, backend: str, rng: np.random.Generator) -> None:
    model = load_one("pair", backend)
    tokens = sequences(rng, LENGTHS)
    extra = rng.normal(size=(len(tokens), 5)).astype(np.float32)
    outputs = model.predict({"tokens": tokens, "extra": extra})
    single = [model.predict([t[None], e[None]]) for t, e in zip(tokens, extra, strict=True)]
    wanted = {
        "tags": [output["tags"][0] for output in single],
        "scores": np.stack([output["scores"][0] for output in single]),
    }
    assert close(outputs, wanted)


def test_derived_axis_is_run_without_padding(
    load_one: Loader, backend: str, rng: np.random.Generator
) -> None:
    model = load_one("pooled", backend)
    examples = [rng.normal(size=(n, 4)).astype(np.float32) for n in (5, 2, 5, 8)]
    outputs = model.predict(examples)
    assert close(outputs, [[model.predict(example[None])[0][0] for example in examples]])
    assert [output.shape[0] for output in outputs[0]] == [2, 1, 2, 4]
    with pytest.raises(InputError, match=r"size 1 along 'time', but the model takes at least 2"):
        model.predict(examples[0][None, :1])


def test_short_sequences_are_padded_to_the_least_size(bundle: BundleMaker, backend: str) -> None:
    def edit(root: dict[str, Any]) -> None:
        root["inputs"][0]["axes"][1]["min"] = 4

    plain = bilstm_runtime.load(bundle(), backend=backend).predict([[3, 4]])
    model = bilstm_runtime.load(bundle(edit=edit), backend=backend)
    assert close(model.predict([[3, 4]]), plain)
    assert close(model.predict([[3, 4], [1, 2, 3, 4, 5]])[0], plain[0])


@pytest.mark.parametrize("neutral", [True, False])
def test_neutral_or_not_gives_the_same_answers(
    bundle: BundleMaker, backend: str, rng: np.random.Generator, neutral: bool
) -> None:
    def edit(root: dict[str, Any]) -> None:
        root["padding"]["neutral"] = neutral

    examples = sequences(rng, LENGTHS)
    model = bilstm_runtime.load(bundle(edit=edit), backend=backend)
    assert close(model.predict(examples), [model.predict([e])[0] for e in examples])


def test_many_sequences_run_in_few_groups(
    load_one: Loader, backend: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_one("tagger", backend)
    runs: list[tuple[int, ...]] = []
    run = model._runner.run

    def spy(arrays: list[np.ndarray]) -> list[np.ndarray]:
        runs.append(arrays[0].shape)
        outputs: list[np.ndarray] = run(arrays)
        return outputs

    monkeypatch.setattr(model._runner, "run", spy)
    lengths = rng.integers(20, 60, 200).tolist()
    model.predict(sequences(rng, lengths))
    assert len(runs) < 25
    assert sum(rows * steps for rows, steps in runs) < 1.25 * sum(lengths)


# Fixed axes.


def test_fixed_batch_runs_in_chunks(
    load_one: Loader, backend: str, rng: np.random.Generator
) -> None:
    model, free = load_one("fixed", backend), load_one("tagger", backend)
    for count in (1, 2, 3, 5):
        tokens = rng.integers(1, 20, (count, 6)).astype(np.int32)
        assert close(model.predict(tokens), free.predict(tokens))
        assert close(model.predict(tokens, batch_size=2), free.predict(tokens))
    with pytest.raises(OptionError, match="exported for batches of 2"):
        model.predict(tokens, batch_size=3)


def test_fixed_time_is_padded_and_trimmed(
    load_one: Loader, backend: str, rng: np.random.Generator
) -> None:
    model, free = load_one("fixed", backend), load_one("tagger", backend)
    tokens = rng.integers(1, 20, (3, 4)).astype(np.int32)
    assert close(model.predict(tokens), free.predict(tokens))
    examples = sequences(rng, [2, 6, 1, 5, 5])
    assert close(model.predict(examples), free.predict(examples))
    for wrong in (np.ones((2, 7), np.int32), [[1] * 7, [1]]):
        with pytest.raises(InputError, match=r"size 7 along 'time', but the model takes 6"):
            model.predict(wrong)


def test_fixed_time_that_padding_would_change(bundle: BundleMaker, backend: str) -> None:
    def edit(root: dict[str, Any]) -> None:
        root["padding"]["neutral"] = False

    model = bilstm_runtime.load(bundle("fixed", edit=edit), backend=backend)
    assert model.predict(np.ones((3, 6), np.int32)).shape == (3, 6, 3)
    for short in (np.ones((2, 4), np.int32), [[1, 2], [1, 2, 3]]):
        with pytest.raises(InputError, match=r"takes exactly 6.*pad to 6 the way it was trained"):
            model.predict(short)


# Rows that are not independent.


def test_dependent_rows_are_never_divided(bundle: BundleMaker, backend: str) -> None:
    def edit(root: dict[str, Any]) -> None:
        root["rows_independent"] = False

    model = bilstm_runtime.load(bundle(edit=edit), backend=backend)
    assert model.predict([[1, 2], [3, 4], [5, 6]]).shape == (3, 2, 3)
    assert len(model.predict([[1] * 40, [3]])) == 2  # one run, padded
    with pytest.raises(InputError, match="batch_size=2 divides 3 examples"):
        model.predict([[1, 2], [3, 4], [5, 6]], batch_size=2)
    with pytest.raises(InputError, match="different lengths take several runs"):
        model.predict([[1] * 40, [3]], batch_size=1)
    fixed = bilstm_runtime.load(bundle("fixed", edit=edit), backend=backend)
    assert fixed.predict(np.ones((2, 6), np.int32)).shape == (2, 6, 3)
    assert [a.shape for a in fixed.predict([[1, 2], [3]])] == [(2, 3), (1, 3)]
    with pytest.raises(InputError, match="takes exactly 2 examples at once"):
        fixed.predict(np.ones((3, 6), np.int32))


def test_dependent_rows_that_cannot_be_padded(bundle: BundleMaker, backend: str) -> None:
    def edit(root: dict[str, Any]) -> None:
        root["rows_independent"] = False

    model = bilstm_runtime.load(bundle("classifier", edit=edit), backend=backend)
    with pytest.raises(InputError, match="different lengths take several runs"):
        model.predict([np.ones((2, 4)), np.ones((3, 4))])


# Batches.


def test_batch_size(load_one: Loader, backend: str, rng: np.random.Generator) -> None:
    model = load_one("pair", backend)
    values = {
        "tokens": rng.integers(1, 20, (7, 4)).astype(np.int32),
        "extra": rng.normal(size=(7, 5)).astype(np.float32),
    }
    wanted = model.predict(values)
    for size in (1, 3, 7, 100):
        assert close(model.predict(values, batch_size=size), wanted)
    for wrong in (0, -1, 2.0, True):
        with pytest.raises(OptionError, match="batch_size is"):
            model.predict(values, batch_size=wrong)


# Refused inputs. `...` is a placeholder for a valid array.

IDS = np.ones((2, 3), np.int32)
REFUSED = {
    "no batch axis": ("tagger", np.ones(3, np.int32), r"\[3\], expected \[batch, time\].*no batch axis"),
    "no batch axis in list": ("tagger", [1, 2, 3], "put a single example in a list"),
    "no batch axis, features": ("classifier", np.ones((3, 4)), "no batch axis"),
    "list with the array in it": ("tagger", [IDS], "give an array itself, not in a list"),
    "rank": ("tagger", np.ones((1, 2, 3, 4)), r"the shape \[1, 2, 3, 4\], expected"),
    "scalar": ("tagger", 3, r"the shape \[\], expected"),
    "empty batch": ("tagger", np.ones((0, 3), np.int32), "is empty"),
    "empty list": ("tagger", [], "holds no examples"),
    "no steps": ("tagger", np.ones((2, 0), np.int32), "is empty"),
    "an example of no steps": ("tagger", [[1, 2], []], "example 1 is empty"),
    "all of no steps": ("tagger", [[], []], "example 0 is empty"),
    "an example of no steps with features": ("classifier", [np.ones((1, 4)), []], "example 1 is empty"),
    "features": ("classifier", np.ones((1, 2, 5)), r"size 5 along axis 2, but the model takes 4"),
    "fewer features": ("classifier", np.ones((1, 2, 3)), "size 3 along axis 2"),
    "features in one example": ("classifier", [np.ones((1, 4)), np.ones((2, 5))], "example 1 .*size 5"),
    "ragged features": ("classifier", [[[1, 2, 3, 4], [1, 2]]], "row 0 has 4 values, and row 1 has 2 v"),
    "strings": ("tagger", [["a", "b"]], "holds <U1 values"),
    "numbers as strings": ("tagger", np.array([["1"]]), "holds <U1 values"),
    "none": ("tagger", None, "holds object values"),
    "none inside": ("tagger", [[1, None]], "example 0 holds object values"),
    "huge number": ("tagger", [[10**30]], "example 0 holds object values"),
    "booleans": ("tagger", [[True, False]], "has the dtype bool"),
    "complex": ("classifier", np.ones((1, 1, 4), complex), "complex128"),
    "masked array": ("tagger", np.ma.masked_array(IDS, IDS > 5), "masked array"),
    "masked example": ("tagger", [np.ma.masked_array([1], [True])], "example 0 is a masked array"),
    "negative id": ("tagger", [[1, -1]], r"-1 at \[0, 1\] is outside of the vocabulary 0 to 19"),
    "unknown id": ("tagger", IDS * 20, r"20 at \[0, 0\] is outside of the vocabulary"),
    "unknown id, ragged": ("tagger", [[1], [1, 99]], r"example 1: the value 99 at \[1\]"),
    "fraction": ("tagger", [[0.5]], "not a whole number"),
    "nan": ("classifier", np.full((1, 2, 4), np.nan, np.float32), r"nan at \[0, 0, 0\] is not finite"),
    "inf, ragged": ("classifier", [np.ones((1, 4)), np.full((2, 4), np.inf)], r"example 1: .*inf at \[0, 0\]"),
    "unknown name": ("tagger", {"words": IDS}, "inputs 'tokens'; the dict holds 'words'"),
    "extra name": ("tagger", {"tokens": IDS, "more": IDS}, "'tokens', 'more'"),
    "empty dict": ("tagger", {}, "the dict holds nothing"),
    "one array for two": ("pair", IDS, "give a dict by name or a list"),
    "one of two": ("pair", [IDS], "the list holds 1 items"),
    "missing name": ("pair", {"tokens": IDS}, "the dict holds 'tokens'"),
    "rows differ": ("pair", [IDS, np.ones((3, 5))], "'tokens' has 2, 'extra' has 3"),
    "rows differ, ready": ("pair", [IDS, np.ones((3, 5), np.float32)], "'tokens' has 2, 'extra' has 3"),
    "rows differ, ragged": ("pair", [[[1], [1, 2]], np.ones((3, 5))], "'tokens' has 2"),
    "second input": ("pair", [IDS, np.ones((2, 4))], "input 'extra'.*size 4 along axis 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(load_one: Loader, backend: str, case: str) -> None:
    name, values, message = REFUSED[case]
    model = load_one(name, backend)
    with pytest.raises(InputError, match=message):
        model.predict(values)
    if name == "tagger":
        assert model.predict(IDS).shape == (2, 3, 3), "it still works after a refusal"


def test_type_errors_are_type_errors(load_one: Loader, backend: str) -> None:
    for values in (None, [["a"]], [[True]]):
        with pytest.raises(InputTypeError):
            load_one("tagger", backend).predict(values)


def test_named_axes_must_agree(make_manifest: Callable[..., Manifest]) -> None:
    axes = (Axis("batch", None), Axis("time", None))
    manifest = make_manifest((InputSpec("a", "float32", axes), InputSpec("b", "float32", axes)))
    reader = InputReader(manifest.spec)
    ready = [np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)]
    assert reader.ready(ready) is not None
    assert reader.ready({"a": ready[0], "c": ready[1]}) is None
    uneven = [np.ones((2, 3), np.float32), np.ones((2, 4), np.float32)]
    assert reader.ready(uneven) is None
    with pytest.raises(InputError, match="differ in size along 'time': 'a' has 3, 'b' has 4"):
        reader.read(uneven)
    with pytest.raises(InputError, match="along 'time', example 1: 'a' has 2, 'b' has 1"):
        reader.read([[[1], [1, 2]], [[1], [1]]])


def test_one_number_an_example(make_manifest: Callable[..., Manifest]) -> None:
    manifest = make_manifest((InputSpec("a", "float32", (Axis("batch", None),)),))
    request = InputReader(manifest.spec).read([1, 2, 3])
    assert np.asarray(request.columns[0]).tolist() == [1, 2, 3]
    assert request.sizes.shape == (1, 0)


# What comes out.


@pytest.mark.parametrize("name", ["tagger", "classifier", "fixed"])
def test_outputs_survive_the_next_run(load_one: Loader, backend: str, name: str) -> None:
    model = load_one(name, backend)
    dtype, shape = (np.float32, (2, 6, 4)) if name == "classifier" else (np.int32, (2, 6))
    first_in, second_in = np.full(shape, 1, dtype), np.full(shape, 7, dtype)
    first = model.predict(first_in)
    kept = first.copy()
    first_in[:] = 3
    second = model.predict(second_in)
    assert (first == kept).all()
    assert not (second == kept).all()
    assert not np.shares_memory(first, second)
    first[:] = 0  # and belong to the caller
    assert close(model.predict(np.full(shape, 1, dtype)), kept)


def test_nothing_is_kept_between_runs(
    load_one: Loader, backend: str, rng: np.random.Generator
) -> None:
    model = load_one("tagger", backend)
    arrays = [rng.integers(1, 20, s).astype(np.int32) for s in ((1, 5), (4, 9), (1, 5), (2, 1))]
    wanted = [model.predict(array) for array in arrays]
    for i in (3, 0, 0, 2, 1, 3, 1, 1, 2, 0):
        assert (model.predict(arrays[i]) == wanted[i]).all()


def test_outputs_the_manifest_rules_out(bundle: BundleMaker, backend: str) -> None:
    def edit(root: dict[str, Any]) -> None:
        root["outputs"][0]["axes"][2]["size"] = 4

    model = bilstm_runtime.load(bundle(edit=edit), backend=backend)
    with pytest.raises(BackendRunError, match=r"returned 'tags' with the shape \[2, 3, 3\]"):
        model.predict(IDS)


def test_a_failing_backend_says_so_and_recovers(bundle: BundleMaker, backend: str) -> None:
    def edit(root: dict[str, Any]) -> None:
        root["inputs"][0]["range"] = [0, 2**31 - 1]

    model = bilstm_runtime.load(bundle(edit=edit), backend=backend)
    wanted = model.predict(IDS)
    for _ in range(3):
        with pytest.raises(BackendRunError, match=r"failed on model\..*inputs of shape \(2, 3\)"):
            model.predict(IDS * 10**6)
        assert close(model.predict(IDS), wanted)
        assert model.predict([[1, 2], [3]])[1].shape == (1, 3)
