"""`compare` and `replay`, which all checks use, and that each of them can fail."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bilstm_runtime.comparison import EXACT, Difference, Tolerance, compare, replay

if TYPE_CHECKING:
    from collections.abc import Sequence

TOLERANCE = Tolerance(1e-5, 1e-4)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_the_ratio_is_the_error_over_what_is_allowed() -> None:
    reference = floats(1.0, -10.0, 0.0)
    assert compare(reference, reference, TOLERANCE) == Difference(
        count=3, sum_squared_reference=101.0
    )
    close = compare(reference + floats(5e-5, 0, 0), reference, TOLERANCE)
    assert close.passed and 0.4 < close.max_error_ratio < 0.5
    assert close.max_abs_error == pytest.approx(5e-5, rel=1e-2)
    for error in (floats(0, 0, 2e-5), floats(0, 2e-3, 0)):
        wrong = compare(reference + error, reference, TOLERANCE)
        assert not wrong.passed and wrong.max_error_ratio > 1.9 and not wrong.mismatch


@pytest.mark.parametrize("output", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("reference", [0.0, 1.0])
def test_no_number_where_the_reference_is_one_fails(output: float, reference: float) -> None:
    found = compare(floats(1, output), floats(1, reference), TOLERANCE)
    assert not found.passed
    assert found.max_abs_error == found.max_error_ratio == np.inf
    assert found.mismatch == "NaN or infinity, but the reference has a number"


@pytest.mark.parametrize(("output", "reference"), [(0, np.nan), (1, np.inf), (np.inf, -np.inf),
                                                   (np.nan, np.inf), (np.inf, np.nan)])  # fmt: skip
def test_another_value_where_the_reference_is_no_number_fails(
    output: float, reference: float
) -> None:
    assert not compare(floats(1, output), floats(1, reference), TOLERANCE).passed


def test_the_same_nan_and_infinity_pass() -> None:
    values = floats(np.nan, np.inf, -np.inf, 1)
    found = compare(values, values, EXACT)
    assert found.passed and found.count == 1


def test_other_shapes_and_dtypes_fail() -> None:
    shape = compare(np.zeros((2, 3)), np.zeros((3, 2)), TOLERANCE)
    assert not shape.passed and shape.mismatch == "shape (2, 3), but the reference has (3, 2)"
    dtype = compare(np.zeros(2, np.float64), np.zeros(2, np.float32), TOLERANCE)
    assert not dtype.passed and "dtype float64" in dtype.mismatch


def test_integers_and_booleans_must_be_equal() -> None:
    wide = Tolerance(10, 10)
    assert compare(np.array([True]), np.array([True]), wide).passed
    assert not compare(np.array([True]), np.array([False]), wide).passed
    assert compare(np.array([3]), np.array([3]), wide).passed
    assert not compare(np.array([3]), np.array([4]), wide).passed


def test_nothing_to_compare_passes() -> None:
    found = compare(np.zeros((0, 3)), np.zeros((0, 3)), EXACT)
    assert found.passed
    assert found.rms_error == found.mean_abs_error == found.rms_reference == 0


def test_statistics_and_sums() -> None:
    one = compare(floats(1, 1), floats(0, 0), Tolerance(1, 0))
    two = compare(floats(3), floats(4), Tolerance(0.5, 0))
    total = one + two
    assert (total.max_abs_error, total.max_error_ratio, total.count) == (1, 2, 3)
    assert total.mean_abs_error == 1 and total.rms_error == 1
    assert total.rms_reference == pytest.approx(np.sqrt(16 / 3))
    assert total.relative_rms_error == pytest.approx(1 / np.sqrt(16 / 3))
    assert one.relative_rms_error == 1  # of references that are all 0
    assert not total.passed and (one + Difference(mismatch="m")).mismatch == "m"


CASES = [SimpleNamespace(inputs=[floats(n)]) for n in range(3)]


def test_replay_runs_twice_and_the_second_time_in_reverse() -> None:
    order: list[float] = []

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        order.append(float(inputs[0][0]))
        return [2 * inputs[0]]

    first, second = replay(run, CASES)
    assert order == [0, 1, 2, 2, 1, 0]
    assert first == second == [[floats(0)], [floats(2)], [floats(4)]]


def test_replay_shows_what_is_kept_between_runs() -> None:
    kept = [floats(0)]

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        kept.append(inputs[0])
        return [inputs[0] + kept[-2]]

    first, second = replay(run, CASES)
    differences = [
        compare(one[0], other[0], EXACT) for one, other in zip(first, second, strict=True)
    ]
    assert [difference.passed for difference in differences] == [False, False, False]
