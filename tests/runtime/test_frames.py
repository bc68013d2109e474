"""Frames of pandas and polars, and values whose own code fails."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bilstm_runtime.errors import InputError, InputTypeError
from bilstm_runtime.predictor import Predictor
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

B, T = Axis("batch", None), Axis("time", None)


class Echo:
    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [array.copy() for array in arrays]


@pytest.fixture(params=["pandas", "polars"])
def frame(request: pytest.FixtureRequest) -> Any:
    return pytest.importorskip(request.param).DataFrame


@pytest.fixture
def pair() -> Predictor:
    """Takes ids of any length and one number, and returns both."""
    ids, age = (B, T), (B,)
    return Predictor(
        ModelSpec(
            "pair",
            (InputSpec("ids", "int32", ids, (0, 9), 0), InputSpec("age", "float32", age)),
            (OutputSpec("a", "int32", ids), OutputSpec("b", "float32", age)),
            output_structure="list",
            padding_neutral=True,
            rows_independent=True,
        ),
        Echo(),
        label="echo",
    )


def test_columns_are_read_by_name(frame: Any, pair: Predictor) -> None:
    rows = {"label": ["x", "y"], "age": [1.5, 2.5], "ids": [[1, 2, 3], [4]]}
    ids, age = pair.predict(frame(rows))
    assert [row.tolist() for row in ids] == [[1, 2, 3], [4]]
    assert age.tolist() == [1.5, 2.5]
    ids, _ = pair.predict(frame({**rows, "ids": [np.array([1, 2]), np.array([3, 4])]}))
    assert ids.tolist() == [[1, 2], [3, 4]]
    found = frame(rows)
    ids, age = pair.predict({"ids": found["ids"], "age": found["age"]})
    assert [row.tolist() for row in ids] == [[1, 2, 3], [4]]


def test_what_a_frame_lacks(frame: Any, pair: Predictor) -> None:
    with pytest.raises(InputError, match=r"no column 'age'.*the columns are 'ids', 'Age'"):
        pair.predict(frame({"ids": [[1]], "Age": [1.0]}))
    with pytest.raises(InputError, match=r"input 'age'"):
        pair.predict(frame({"ids": [[1], [2]], "age": [1.0, None]}))
    with pytest.raises(InputError, match=r"input 'ids'"):
        pair.predict(frame({"ids": [[1], None], "age": [1.0, 2.0]}))
    with pytest.raises(InputError, match=r"input 'ids'"):
        pair.predict(frame({"ids": [["a"], ["b"]], "age": [1.0, 2.0]}))
    with pytest.raises(InputError, match=r"'ids' is empty"):
        pair.predict(frame({"ids": [], "age": []}))


def test_two_columns_of_one_name(pair: Predictor) -> None:
    pandas = pytest.importorskip("pandas")
    twice = pandas.DataFrame([[1, 2, 3.0]], columns=["ids", "ids", "age"])
    with pytest.raises(InputError, match="several columns 'ids'"):
        pair.predict(twice)


def test_a_lazy_frame_is_collected_by_the_caller(pair: Predictor) -> None:
    polars = pytest.importorskip("polars")
    with pytest.raises(InputError, match="collect"):
        pair.predict(polars.DataFrame({"ids": [[1]], "age": [1.0]}).lazy())


def test_neither_library_is_imported(fixtures: Path) -> None:
    code = (
        "import sys, bilstm_runtime; m = bilstm_runtime.load(sys.argv[1])\n"
        "try: m.predict([['a']])\nexcept ValueError: pass\n"
        "assert not {'pandas', 'polars'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(fixtures / "tagger")], check=True)


class Bad:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise self._error

    def __len__(self) -> int:
        raise self._error


class BadList(list[Any]):
    def __iter__(self) -> Any:
        raise KeyError("iteration")


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    return value


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "ids",
    [
        Bad(ZeroDivisionError("no")),
        Bad(OverflowError("no")),
        [Bad(RuntimeError("no"))],
        BadList([[1]]),
        deep(),
        [deep()],
        endless(),
        np.zeros(2, dtype=[("a", "i4")]),
        np.array([["a"]]),
        np.array([[1j]]),
        np.array([["2020-01-01"]], dtype="datetime64[D]"),
        [[10**400]],
        [[1], object()],
        {"a": 1},
        iter([1]),
        memoryview(b"ab"),
        np.ma.array([[1]], mask=[[True]]),
    ],
)
def test_values_that_no_array_can_be_made_of(pair: Predictor, ids: Any) -> None:
    for values in ({"ids": ids, "age": [1.0]}, [ids, [1.0]]):
        with pytest.raises(InputError):
            pair.predict(values)


def test_the_reason_is_told(pair: Predictor) -> None:
    with pytest.raises(InputTypeError, match=r"'ids' cannot be read as an array \(no\)"):
        pair.predict([Bad(ZeroDivisionError("no")), [1.0]])
