"""Statistics of noisy measurements, on samples whose statistics are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm_bench.statistics import (
    MIN_ROUNDS,
    Interval,
    compare_latencies,
    median_interval,
    noise_factor,
    slope,
    summarize,
)


def rounds(values: list[float]) -> dict[int, list[int]]:
    return {number: [round(value * 1e6)] for number, value in enumerate(values)}


def test_the_interval_of_a_median_is_that_of_the_sign_test():
    # The table of the binomial distribution: with 10 values the 2nd and the 9th, with 20 the
    # 6th and the 15th.
    assert median_interval(list(range(1, 11))) == Interval(5.5, 2, 9)
    assert median_interval(list(range(1, 21))) == Interval(10.5, 6, 15)


@pytest.mark.parametrize("count", [1, 2, MIN_ROUNDS - 1])
def test_too_few_values_have_no_interval(count):
    found = median_interval([1.0] * count)
    assert (found.low, found.high) == (None, None)


def test_six_values_are_the_least():
    assert median_interval([3, 1, 2, 6, 5, 4]) == Interval(3.5, 1, 6)


def test_the_interval_holds_the_median_as_often_as_it_says():
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(400):
        found = median_interval(rng.exponential(size=25).tolist())
        held += found.low <= math.log(2) <= found.high
    assert 0.93 <= held / 400 <= 0.99


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=40))
def test_an_interval_holds_its_value(values):
    found = median_interval(values)
    assert found.low is None or found.low <= found.value <= found.high


def test_quantiles_of_known_samples():
    found = summarize({0: [1_000_000] * 50, 1: [3_000_000] * 40, 2: [100_000_000] * 10})
    assert (found.count, found.p50, found.max) == (100, 2.0, 100.0)
    assert found.p90 == pytest.approx(12.7)
    assert found.p99 == 100.0
    assert found.median.value == 3.0  # of the rounds
    assert found.mean == pytest.approx(11.7)


def test_p99_needs_a_hundred_runs():
    assert summarize({0: [1_000_000] * 99}).p99 is None


def test_a_real_difference_is_found():
    base, other = [2.0] * 10, [1.0] * 10
    found = compare_latencies(rounds(base), rounds(other))
    assert (found.verdict, found.ratio.value) == ("faster", 2.0)
    assert compare_latencies(rounds(other), rounds(base)).verdict == "slower"


def test_equal_work_is_no_difference_and_one_round_decides_nothing():
    rng = np.random.default_rng(1)
    noisy = [rng.normal(1, 0.2, 12).tolist() for _ in range(2)]
    assert compare_latencies(rounds(noisy[0]), rounds(noisy[1])).verdict == "no difference"
    assert compare_latencies(rounds([2.0]), rounds([1.0])).verdict == "too few rounds"
    assert compare_latencies(rounds([]), rounds([1.0])) is None


def test_a_difference_within_what_equal_cases_differ_by_is_none():
    base, other = rounds([1.03] * 10), rounds([1.0] * 10)
    assert compare_latencies(base, other, noise=1.0).verdict == "faster"
    assert compare_latencies(base, other, noise=1.05).verdict == "no difference"
    assert compare_latencies(other, base, noise=1.05).verdict == "no difference"


def test_only_rounds_that_both_were_in_count():
    base, other = {0: [1], 1: [2_000_000], 2: [4_000_000]}, {1: [1_000_000], 2: [2_000_000]}
    found = compare_latencies(base, other)
    assert (found.ratio.value, found.rounds) == (2.0, 2)


def test_noise_is_the_farther_end():
    assert noise_factor(Interval(1.0, 0.9, 1.25)) == 1.25
    assert noise_factor(None) == 1.0


def test_a_slope_is_found_through_outliers_and_no_slope_is_none():
    rng = np.random.default_rng(2)
    x = np.arange(60.0)
    y = 3 * x + rng.normal(0, 1, 60)
    y[::10] += 1000
    found = slope(x, y)
    assert found.low < 3 < found.high
    assert found.high - found.low < 0.3
    flat = slope(x, rng.normal(0, 1, 60))
    assert flat.low < 0 < flat.high
    assert slope([1.0], [2.0]) is None
    assert slope([1.0, 1.0], [2.0, 3.0]) is None


def test_very_many_points_are_put_together():
    x = np.arange(50_000.0)
    assert slope(x, 2 * x).value == pytest.approx(2)
