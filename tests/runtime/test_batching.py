"""Grouping, padding, splitting and joining of batches, as the session sees them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm_runtime.batching import (
    CHUNK_BYTES,
    CHUNK_STEPS,
    MAX_GROUP,
    MAX_PADDING,
    BatchRunner,
    plan_groups,
)
from bilstm_runtime.bundle.manifest import Manifest
from bilstm_runtime.errors import BackendRunError, InputError
from bilstm_runtime.inputs import InputReader
from bilstm_runtime.predictor import Predictor
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

B, T = Axis("batch", None), Axis("time", None)
FREE = Axis(None, None)


class Recorder:
    """A session that keeps what it was given, and outputs with its first input."""

    def __init__(self) -> None:
        self.runs: list[list[np.ndarray]] = []

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.runs.append([array.copy() for array in arrays])
        return [arrays[0].copy()]


def run(manifest: Manifest, values: Any, batch_size: int | None = None) -> Any:
    session = Recorder()
    reader = InputReader(manifest.spec)
    found = BatchRunner(manifest.spec, session.run, "file").run_request(
        reader.read(values), batch_size
    )
    return found[0], session.runs


@pytest.mark.parametrize(
    ("bounds", "mask_value", "padding"),
    [(None, None, 0), ((0, 9), None, 0), ((3, 9), None, 3), ((0, 9), 7, 7), (None, -1, -1)],
)
def test_padding_is_on_the_right_with_the_mask_value(
    make_manifest: Callable[..., Manifest],
    bounds: tuple[int, int] | None,
    mask_value: int | None,
    padding: int,
) -> None:
    spec = InputSpec("x", "int32", (B, T), bounds, mask_value)
    manifest = make_manifest((spec,), (OutputSpec("y", "int32", (B, T)),))
    outputs, runs = run(manifest, [[4, 5, 6, 4, 5], [7, 8, 9, 7]])
    assert runs[0][0].tolist() == [[7, 8, 9, 7, padding], [4, 5, 6, 4, 5]]
    assert [a.tolist() for a in outputs] == [[4, 5, 6, 4, 5], [7, 8, 9, 7]]


def test_the_last_chunk_repeats_its_last_row(make_manifest: Callable[..., Manifest]) -> None:
    axes = (Axis("batch", 2), T)
    manifest = make_manifest((InputSpec("x", "int32", axes),), (OutputSpec("y", "int32", axes),))
    outputs, runs = run(manifest, [[1, 2], [3, 4], [5, 6]])
    assert [run[0].tolist() for run in runs] == [[[1, 2], [3, 4]], [[5, 6], [5, 6]]]
    assert outputs.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_two_sequence_axes_are_padded_and_cut_alike(
    make_manifest: Callable[..., Manifest], rng: np.random.Generator
) -> None:
    axes = (B, T, Axis("time_2", None))
    manifest = make_manifest(
        (InputSpec("x", "int32", axes, None, 0), InputSpec("w", "int32", (B, T), None, -1)),
        (OutputSpec("y", "int32", axes),),
    )
    shapes = [(3, 4), (3, 5), (4, 4), (1, 9), (3, 4)]
    examples = [rng.integers(1, 9, shape) for shape in shapes]
    words = [np.arange(shape[0]) for shape in shapes]
    outputs, runs = run(manifest, [examples, words])
    assert len(runs) < len(examples)
    for found, wanted in zip(outputs, examples, strict=True):
        assert (found == wanted).all()


def test_derived_axes_rule_padding_out(make_manifest: Callable[..., Manifest]) -> None:
    spec = InputSpec("x", "int32", (B, T))
    assert make_manifest((spec,), (OutputSpec("y", "int32", (B, T)),)).spec.can_pad
    assert not make_manifest((spec,), (OutputSpec("y", "int32", (B, FREE)),)).spec.can_pad
    assert not make_manifest((spec,), padding_neutral=False).spec.can_pad


def test_runs_whose_outputs_do_not_fit_together(make_manifest: Callable[..., Manifest]) -> None:
    manifest = make_manifest(
        (InputSpec("x", "int32", (B, T)),), (OutputSpec("y", "int32", (B, FREE)),)
    )

    class Growing(Recorder):
        def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            super().run(arrays)
            return [np.ones((len(arrays[0]), len(self.runs)), np.int32)]

    request = InputReader(manifest.spec).read([[1, 2], [3, 4]])
    with pytest.raises(BackendRunError, match="different shapes in different runs"):
        BatchRunner(manifest.spec, Growing().run, "file").run_request(request, 1)


def test_nothing_is_copied_without_need(make_manifest: Callable[..., Manifest]) -> None:
    manifest = make_manifest(
        (InputSpec("x", "int32", (B, T)),), (OutputSpec("y", "int32", (B, T)),)
    )
    received: list[np.ndarray] = []

    class Echo:
        def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            received.extend(arrays)
            return [arrays[0].copy()]

    array = np.ones((2, 3), np.int32)
    reader = InputReader(manifest.spec)
    BatchRunner(manifest.spec, Echo().run, "file").run_request(reader.read(array), None)
    assert received[0] is array
    ready = reader.ready(array)
    assert ready is not None
    assert ready[0] is array
    assert reader.ready(np.asfortranarray(array)) is None  # backends get C order only


# Which sequences share a run.

SIZES = st.integers(1, 2).flatmap(
    lambda axes: st.lists(st.tuples(*[st.integers(1, 60)] * axes), min_size=1, max_size=60)
)


@given(SIZES, st.booleans(), st.none() | st.integers(1, 20))
def test_groups_are_a_partition_within_the_limits(
    sizes: list[tuple[int, ...]], pad: bool, limit: int | None
) -> None:
    array = np.array(sizes, dtype=np.int64)
    groups = plan_groups(array, pad=pad, limit=limit, together=False)
    assert sorted(i for group in groups for i in group.tolist()) == list(range(len(sizes)))
    for group in groups:
        assert len(group) <= (limit or MAX_GROUP)
        members = array[group]
        run = np.prod(members.max(axis=0)) * len(group)
        assert run <= (1 + MAX_PADDING) * np.prod(members, axis=1).sum()
        if not pad:
            assert (members == members[0]).all()


@given(SIZES)
def test_together_is_one_group(sizes: list[tuple[int, ...]]) -> None:
    array = np.array(sizes, dtype=np.int64)
    assert len(plan_groups(array, pad=True, limit=None, together=True)) == 1


def test_cost_follows_the_lengths() -> None:
    sizes = np.array([[5], [500], [5], [6]])
    groups = plan_groups(sizes, pad=True, limit=None, together=False)
    assert [group.tolist() for group in groups] == [[0, 2, 3], [1]]


@pytest.mark.parametrize("pad", [True, False])
def test_order_is_kept_among_equals(pad: bool) -> None:
    groups = plan_groups(np.full((20, 1), 7), pad=pad, limit=None, together=False)
    assert [group.tolist() for group in groups] == [list(range(16)), list(range(16, 20))]


def test_outputs_without_rows_are_one_run_in_the_given_order(
    make_manifest: Callable[..., Manifest],
) -> None:
    inputs = (InputSpec("x", "int32", (B, T), None, 0),)
    manifest = make_manifest(inputs, (OutputSpec("y", "int32", (T, B)),), rows_independent=False)

    class Turning(Recorder):
        def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            super().run(arrays)
            return [arrays[0].T.copy()]

    session = Turning()
    runner = BatchRunner(manifest.spec, session.run, "file")
    request = InputReader(manifest.spec).read([[1, 2, 3], [4], [5, 6]])
    (output,) = runner.run_request(request, None)
    assert [run[0].tolist() for run in session.runs] == [[[1, 2, 3], [4, 0, 0], [5, 6, 0]]]
    assert np.asarray(output).tolist() == [[1, 4, 5], [2, 0, 6], [3, 0, 0]]
    with pytest.raises(InputError, match="batch_size=1 divides 2 examples"):
        runner.run_request(InputReader(manifest.spec).read([[1, 2], [3, 4]]), 1)


def test_a_scalar_stays_an_array(make_manifest: Callable[..., Manifest]) -> None:
    inputs = (InputSpec("x", "int32", (B, T), None, 0),)
    manifest = make_manifest(inputs, (OutputSpec("y", "int32", ()),), rows_independent=False)
    runner = BatchRunner(manifest.spec, lambda arrays: [np.asarray(arrays[0].sum())], "file")
    (output,) = runner.run_request(InputReader(manifest.spec).read([[1, 2], [3, 4]]), None)
    assert isinstance(output, np.ndarray)
    assert output == 10


def test_sizes_by_value_are_never_padded_or_split() -> None:
    by_values = OutputSpec("y", "int32", (B, Axis(None, None, from_values=True)))
    inputs = (InputSpec("x", "int32", (B, T), None, 0),)
    spec = ModelSpec("m", inputs, (by_values,), padding_neutral=True)
    assert spec.has_value_sizes
    assert not spec.can_pad
    assert spec.violation() is None
    assert ModelSpec("m", inputs, (by_values,), rows_independent=True).violation() is not None
    assert Axis("time", None, from_values=True).violation() is not None


def wide(make_manifest: Callable[..., Manifest], free: bool = False) -> Manifest:
    output = (B, FREE) if free else (B, T)
    spec = InputSpec("x", "int32", (B, T), (0, 9))
    return make_manifest((spec,), (OutputSpec("y", "int32", output),))


@pytest.mark.parametrize("dtype", ["int32", "int64", "float64", "uint8", ">i4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_array_runs_in_parts(
    make_manifest: Callable[..., Manifest], rng: np.random.Generator, dtype: str, order: str
) -> None:
    x = np.asarray(rng.integers(0, 10, (3000, 30)).astype(dtype), order=order)
    session, seen = Recorder(), []
    predictor = Predictor(wide(make_manifest).spec, session, label="file")
    y = predictor.predict(x, progress=lambda done, count: seen.append((done, count)))
    assert (y == x).all()
    assert y.dtype == np.int32
    assert max(len(run[0]) for run in session.runs) * 30 <= CHUNK_STEPS
    assert all(run[0].dtype == np.int32 and run[0].flags.c_contiguous for run in session.runs)
    assert seen[-1] == (3000, 3000)
    assert seen == sorted(seen)
    assert (predictor.predict(x[:200]) == x[:200]).all()
    assert len(session.runs[-1][0]) == 200


@pytest.mark.parametrize(
    ("row", "rows"),
    [(0, CHUNK_STEPS // 30), (CHUNK_BYTES // 40, 40), (CHUNK_BYTES, MAX_GROUP)],
    ids=["unknown", "few rows fit", "no row fits"],
)
def test_parts_of_a_large_array_are_as_large_as_memory_allows(
    make_manifest: Callable[..., Manifest], row: int, rows: int
) -> None:
    class Sized(Recorder):
        def row_bytes(self, shapes: Sequence[tuple[int, ...]]) -> int:
            assert shapes == [(MAX_GROUP, 30)]
            return row

    session = Sized()
    x = np.zeros((3000, 30), np.int32)
    Predictor(wide(make_manifest).spec, session, label="file").predict(x)
    assert max(len(run[0]) for run in session.runs) == rows


def test_a_large_array_is_one_run_where_rows_depend_on_each_other(
    make_manifest: Callable[..., Manifest],
) -> None:
    session = Recorder()
    spec = dataclasses.replace(wide(make_manifest).spec, rows_independent=False)
    Predictor(spec, session, label="file").predict(np.zeros((3000, 30), np.int32))
    assert [len(run[0]) for run in session.runs] == [3000]


def test_a_large_array_is_one_run_where_parts_do_not_fit_together(
    make_manifest: Callable[..., Manifest],
) -> None:
    """The size of this output depends on the values, not on the sizes of the input."""

    class Nonzero(Recorder):
        def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            super().run(arrays)
            return [np.ones((len(arrays[0]), 1 + int(arrays[0].max())), np.int32)]

    x = np.zeros((3000, 30), np.int32)
    x[-1] = 9
    y = Predictor(wide(make_manifest, free=True).spec, Nonzero(), label="file").predict(x)
    assert y.shape == (3000, 10)


@pytest.mark.parametrize("dtype", ["int32", "int64", "float64"])
def test_a_wrong_value_in_a_large_array_is_named_before_anything_runs(
    make_manifest: Callable[..., Manifest], dtype: str
) -> None:
    x = np.zeros((9000, 30), dtype)
    x[8000, 7] = x[8001, 0] = 10
    session = Recorder()
    with pytest.raises(InputError, match=r"at \[8000, 7\] is outside .*\(2 such values in all\)"):
        Predictor(wide(make_manifest).spec, session, label="file").predict(x)
    assert not session.runs
