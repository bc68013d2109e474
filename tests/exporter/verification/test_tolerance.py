"""The tolerance: outputs within it pass; larger errors and mismatched kinds fail."""

from __future__ import annotations

import numpy as np
import pytest

from bilstm_exporter.keras_model import TOLERANCE
from bilstm_runtime.comparison import compare

INF, NAN = np.inf, np.nan


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_the_tolerance_is_the_promised_one():
    assert (TOLERANCE.absolute, TOLERANCE.relative) == (1e-5, 1e-4)


@pytest.mark.parametrize("reference", [0.0, 1.0, -3.0, 1e4, 1e-7, 1e30])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_ratio_is_one_at_the_tolerance(reference, sign):
    bound = 1e-5 + 1e-4 * abs(reference)
    wanted = np.array([1.0, reference, 2.0])
    close, far = wanted.copy(), wanted.copy()
    close[1] += sign * bound * 0.999
    far[1] += sign * bound * 1.001
    assert compare(wanted, wanted, TOLERANCE).max_error_ratio == 0
    assert compare(close, wanted, TOLERANCE).max_error_ratio == pytest.approx(0.999, rel=1e-6)
    assert compare(far, wanted, TOLERANCE).max_error_ratio == pytest.approx(1.001, rel=1e-6)
    assert compare(far, wanted, TOLERANCE).max_abs_error == pytest.approx(bound * 1.001, rel=1e-6)
    assert not compare(far, wanted, TOLERANCE).mismatch  # a matter of size


def test_the_relative_part_is_of_the_reference():
    """Relative to the output, a model whose outputs are too large would pass more easily."""
    assert compare(f32(0.0), f32(1.0), TOLERANCE).max_error_ratio == pytest.approx(
        1 / 1.1e-4, rel=1e-6
    )
    assert compare(f32(1.0), f32(0.0), TOLERANCE).max_error_ratio == pytest.approx(1e5, rel=1e-6)


@pytest.mark.parametrize(
    ("output", "reference", "words"),
    [
        (f32(1, 2), f32(1, 2, 3), "shape (2,), but the reference has (3,)"),
        (f32(1, 2).reshape(2, 1), f32(1, 2), "shape (2, 1), but the reference has (2,)"),
        (f32(1)[0], f32(1), "shape (), but the reference has (1,)"),
        (np.array([1.0]), f32(1), "dtype float64, but the reference has float32"),
        (np.array([1], np.int64), np.array([1], np.int32), "dtype int64"),
        (f32(1, 2), f32(1, NAN), "a number, but the reference has NaN or infinity"),
        (f32(1, NAN), f32(1, 2), "NaN or infinity, but the reference has a number"),
        (f32(1, INF), f32(1, 2), "NaN or infinity, but the reference has a number"),
        (f32(1, 3e38), f32(1, INF), "a number, but the reference has NaN or infinity"),
        (f32(-INF), f32(INF), "but the reference has NaN or infinity"),
        (f32(NAN), f32(INF), "but the reference has NaN or infinity"),
        (f32(INF), f32(NAN), "but the reference has NaN or infinity"),
        (f32(NAN, 1), f32(1, NAN), "but the reference has"),
    ],
)
def test_a_mismatch_never_passes(output, reference, words):
    found = compare(output, reference, TOLERANCE)
    assert found.max_error_ratio == INF
    assert found.max_abs_error == INF
    assert words in found.mismatch


@pytest.mark.parametrize(
    "values", [f32(), f32(1, NAN), f32(NAN, NAN), f32(INF, -INF, 0), np.array([True]), f32(1e-45)]
)
def test_equal_arrays_do_not_differ(values):
    found = compare(values.copy(), values, TOLERANCE)
    assert (found.max_abs_error, found.max_error_ratio, found.mismatch) == (0, 0, "")


def test_numbers_beside_nan_are_still_compared():
    assert compare(f32(NAN, 1.1), f32(NAN, 1.0), TOLERANCE).max_error_ratio > 1


@pytest.mark.parametrize(
    ("output", "reference"),
    [
        (np.array([3, 4], np.int32), np.array([3, 5], np.int32)),
        (np.array([10**9 + 1], np.int64), np.array([10**9], np.int64)),
        (np.array([0], np.uint8), np.array([255], np.uint8)),
        (np.array([True]), np.array([False])),
    ],
)
def test_integers_and_booleans_must_be_equal(output, reference):
    assert compare(output, reference, TOLERANCE).max_error_ratio > 1
    assert compare(reference, reference, TOLERANCE).max_error_ratio == 0
