"""Converting dtypes and checking values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm_runtime.errors import InputError, InputTypeError
from bilstm_runtime.spec import Axis, InputSpec
from bilstm_runtime.values import ValueRule

AXES = (Axis("batch", None), Axis("time", None))
IDS = InputSpec("x", "int32", AXES, (0, 4999), 0)


def convert(values: Any, spec: InputSpec, dtype: Any = None) -> np.ndarray:
    converted = ValueRule(spec).convert(np.array(values, dtype=dtype), "input 'x'")
    assert converted.dtype == spec.dtype
    return converted


@pytest.mark.parametrize(
    ("dtype", "values", "wanted"),
    [
        ("int64", [[0, 4999]], "int32"),
        ("uint8", [[0, 200]], "int32"),
        (">i4", [[1, 2]], "int32"),
        ("float64", [[1.0, 4999.0]], "int32"),
        ("float64", [[0.1, -3e38]], "float32"),
        ("float32", [[0.1, 3e38]], "float64"),
        (">f4", [[0.5, 2]], "float32"),
        ("int64", [[2**24, -(2**24), 2**30]], "float32"),
        ("uint64", [[2**63]], "float32"),
        ("int64", [[2**53]], "float64"),
        ("float16", [[0.5]], "float32"),
        ("int64", [[2**62, -(2**63)]], "int64"),
        ("bool", [[True]], "bool"),
    ],
)
def test_lossless_conversions(dtype: str, values: list[list[float]], wanted: str) -> None:
    found = convert(values, InputSpec("x", wanted, AXES), dtype)
    assert found.tolist() == np.array(values, dtype=dtype).astype(wanted).tolist()


def test_an_array_of_the_right_dtype_is_not_copied() -> None:
    array = np.ones((2, 3), np.float32)
    assert ValueRule(InputSpec("x", "float32", AXES)).convert(array, "x") is array


@pytest.mark.parametrize(
    ("dtype", "values", "wanted", "message"),
    [
        ("float64", [[1, 1.5]], "int32", r"1\.5 at \[0, 1\] is not a whole number"),
        ("float64", [[1, np.nan]], "int32", r"nan at \[0, 1\] is not a whole number"),
        ("float64", [[np.inf]], "int64", r"inf at \[0, 0\] is not a whole number"),
        ("int64", [[1], [2**31]], "int32", r"2147483648 at \[1, 0\] does not fit int32"),
        ("uint64", [[2**63]], "int64", "does not fit int64"),
        ("float64", [[2.0**63]], "int64", "does not fit int64"),
        ("int64", [[-1]], "uint8", "does not fit uint8"),
        ("float64", [[1e39, 1]], "float32", r"1e\+39 at \[0, 0\] is too large for float32"),
        ("int64", [[2**24 + 1]], "float32", "16777217.*has no exact float32"),
        ("int64", [[2**53 + 1]], "float64", "has no exact float64"),
        ("uint64", [[2**64 - 1]], "float64", "has no exact float64"),
        ("int64", [[70000]], "float16", "has no exact float16"),
        ("float32", [[0, np.nan]], "float32", r"nan at \[0, 1\] is not finite"),
        ("float64", [[0, -np.inf]], "float32", r"-inf at \[0, 1\] is not finite"),
    ],
)
def test_refused_values(dtype: str, values: list[list[float]], wanted: str, message: str) -> None:
    with pytest.raises(InputError, match=f"input 'x': the value {message}|{message}"):
        convert(values, InputSpec("x", wanted, AXES), dtype)


@pytest.mark.parametrize("wanted", ["int32", "float32", "bool"])
@pytest.mark.parametrize("dtype", ["U3", "complex64", "M8[s]", "bool", "int32"])
def test_refused_kinds(dtype: str, wanted: str) -> None:
    if (dtype, wanted) in [("bool", "bool"), ("int32", "int32"), ("int32", "float32")]:
        pytest.skip("accepted")
    with pytest.raises(InputTypeError, match=r"has the dtype .*; the model takes"):
        convert(np.zeros((1, 1), dtype), InputSpec("x", wanted, AXES))


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32"])
@pytest.mark.parametrize("value", [-1, 5000])
def test_ids_outside_of_the_vocabulary(dtype: str, value: int) -> None:
    with pytest.raises(
        InputError, match=rf"{value}.* at \[1, 1\] is outside of the vocabulary 0 to 4999"
    ):
        convert([[0, 1], [2, value]], IDS, dtype)


def test_several_wrong_values_are_counted() -> None:
    with pytest.raises(InputError, match="3 such values in all"):
        convert([[-1, 1], [-1, -1]], IDS)


@pytest.mark.parametrize("bounds", [(0, 9), (-3, 9), (2, 9)])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "float32"])
def test_the_quick_check_agrees_with_the_bounds(dtype: str, bounds: tuple[int, int]) -> None:
    if dtype == "uint8" and bounds[0] < 0:
        pytest.skip("no such bound")
    rule = ValueRule(InputSpec("x", dtype, AXES, bounds))
    for value in range(-5 if dtype != "uint8" else 0, 15):
        accepts = rule.accepts(np.array([[value]], dtype))
        assert accepts == (bounds[0] <= value <= bounds[1])


@pytest.mark.parametrize("mask_value", [np.nan, np.inf, -np.inf])
def test_values_that_are_the_mask_value_need_not_be_finite(mask_value: float) -> None:
    spec = InputSpec("x", "float32", AXES, None, mask_value)
    assert convert([[1, mask_value]], spec, "float32").shape == (1, 2)
    with pytest.raises(InputError, match="is not finite"):
        convert([[1, mask_value, -np.inf if mask_value > 0 else np.inf]], spec, "float32")


@given(st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1, max_size=5))
def test_whole_numbers_arrive_unchanged_or_are_refused(values: list[int]) -> None:
    dtype = np.uint64 if max(values) >= 2**63 else np.int64
    if min(values) < 0 and dtype == np.uint64:
        return
    for wanted in ("int8", "int32", "int64", "uint64", "float32", "float64"):
        try:
            found = convert(values, InputSpec("x", wanted, AXES), dtype)
        except InputError:
            continue
        assert [int(value) for value in found.tolist()] == values


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bad", [None, np.nan, np.inf, -np.inf])
def test_only_what_is_not_finite_is_seen_beside_the_largest_numbers(dtype, bad):
    """Their squares are infinite too, which is no reason to refuse them, nor to look away."""
    array = np.full((2, 9), np.finfo(dtype).max, dtype)
    array[0, ::2] *= -1
    if bad is not None:
        array[1, 4] = bad
    rule = ValueRule(InputSpec("x", dtype, AXES))
    assert rule.accepts(array) is (bad is None)
