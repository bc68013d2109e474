"""Statistics of a few noisy measurements: quantiles, confidence intervals, slopes.

The methods do not assume a distribution. The interval of a median is that of the sign test: two of
the sorted values, chosen by the binomial distribution. The interval of a slope is that of the
Theil-Sen estimator, by Kendall's distribution. Neither resamples, so both are deterministic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONFIDENCE: Final = 0.95
_Z: Final = 1.959964
"""The normal quantile of `CONFIDENCE`, two-sided."""

MIN_ROUNDS: Final = 6
"""With fewer values, even the smallest and the largest do not enclose the median with 95 %
confidence: with 5, it is `1 - 2 ** (1 - 5)`, which is 94 %."""

MIN_CALLS_FOR_P99: Final = 100
_MAX_POINTS: Final = 400
"""The maximum number of points of a slope: all their pairs are computed."""

Verdict: TypeAlias = Literal["faster", "slower", "no difference", "too few rounds"]


@dataclass(frozen=True)
class Interval:
    """A value, and the bounds between which it lies with `CONFIDENCE`.

    Attributes:
        value: The estimate.
        low: The lower bound; None if there is too little data.
        high: The upper bound; None if there is too little data.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Latency:
    """The latencies of one case, in milliseconds.

    Attributes:
        count: The number of calls.
        median: The median of the medians of the rounds, with its interval.
        p50: The median of all calls.
        p90: The 90th percentile of all calls.
        p99: The 99th percentile; None with fewer than 100 calls.
        max: The maximum.
        mean: The mean, from which the throughput is computed.
    """

    count: int
    median: Interval
    p50: float
    p90: float
    p99: float | None
    max: float
    mean: float


@dataclass(frozen=True)
class Comparison:
    """How many times faster one case is than another, measured in the same rounds.

    Attributes:
        ratio: Times faster, the median over the rounds, with its interval; below 1 is slower.
        noise: How much two equal cases differed in these rounds, as a factor of at least 1.
        rounds: The number of rounds that have both cases.
        verdict: The conclusion.
    """

    ratio: Interval
    noise: float
    rounds: int
    verdict: Verdict


def median_interval(values: Sequence[float]) -> Interval:
    """Compute the median of values, with its interval.

    Args:
        values: Independent values, at least one, such as one for each round.

    >>> median_interval([3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 7.0])
    Interval(value=4.0, low=1.0, high=7.0)
    """
    ordered = sorted(values)
    count = len(ordered)
    # The maximum number of values to drop at each end: P(binomial(count, 1/2) <= dropped) <= 2.5 %.
    tail, dropped = 0.0, -1
    for k in range(count):
        tail += math.comb(count, k) / 2**count
        if tail > (1 - CONFIDENCE) / 2:
            break
        dropped = k
    value = float(np.median(ordered))
    if dropped < 0:
        return Interval(value, None, None)
    return Interval(value, ordered[dropped], ordered[count - 1 - dropped])


def summarize(rounds: Mapping[int, Sequence[int]]) -> Latency:
    """Summarize the calls of one case.

    Args:
        rounds: The nanoseconds of each call, by round; at least one call.
    """
    every = np.concatenate([np.asarray(runs, dtype=np.float64) for runs in rounds.values()]) / 1e6
    p50, p90, p99 = np.quantile(every, [0.5, 0.9, 0.99]).tolist()
    return Latency(
        count=len(every),
        median=median_interval(list(round_medians(rounds).values())),
        p50=p50,
        p90=p90,
        p99=p99 if len(every) >= MIN_CALLS_FOR_P99 else None,
        max=float(every.max()),
        mean=float(every.mean()),
    )


def round_medians(rounds: Mapping[int, Sequence[int]]) -> dict[int, float]:
    """Return the median of each round, in milliseconds."""
    return {number: float(np.median(runs)) / 1e6 for number, runs in rounds.items() if len(runs)}


def paired_ratio(
    base: Mapping[int, Sequence[int]], other: Mapping[int, Sequence[int]]
) -> tuple[Interval | None, int]:
    """Return how many times faster `other` is than `base`, and the number of common rounds.

    Each round gives one ratio, so that a slowdown of the machine for some rounds cancels.
    """
    first, second = round_medians(base), round_medians(other)
    shared = [number for number in first if number in second and second[number] > 0]
    if not shared:
        return None, 0
    return median_interval([first[n] / second[n] for n in shared]), len(shared)


def noise_factor(ratio: Interval | None) -> float:
    """Return the factor by which two equal cases differed: the farther bound of their ratio.

    >>> noise_factor(Interval(1.0, 0.8, 1.1))
    1.25
    """
    if ratio is None:
        return 1.0
    ends = [end for end in (ratio.low, ratio.high, ratio.value) if end is not None and end > 0]
    return max(max(end, 1 / end) for end in ends)


def compare_latencies(
    base: Mapping[int, Sequence[int]],
    other: Mapping[int, Sequence[int]],
    noise: float = 1.0,
) -> Comparison | None:
    """Compare two cases that ran in the same rounds.

    There is a difference only if the interval excludes 1, and the ratio exceeds the factor by
    which two equal cases differed.

    Args:
        base: Nanoseconds of each call of the first case, by round.
        other: The same for the second case.
        noise: See `noise_factor`.

    Returns:
        None if they share no round.
    """
    ratio, rounds = paired_ratio(base, other)
    if ratio is None:
        return None
    verdict: Verdict
    if ratio.low is None or ratio.high is None:
        verdict = "too few rounds"
    elif ratio.low > 1 and ratio.value > noise:
        verdict = "faster"
    elif ratio.high < 1 and ratio.value < 1 / noise:
        verdict = "slower"
    else:
        verdict = "no difference"
    return Comparison(ratio, noise, rounds, verdict)


def slope(x: Sequence[float], y: Sequence[float]) -> Interval | None:
    """Compute the slope of y over x, robust against outliers, with its interval.

    Args:
        x: The position of each value.
        y: The values. If there are more than `_MAX_POINTS`, medians of neighbours are used.

    Returns:
        None with fewer than two values of x.
    """
    xs, ys = _thinned(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    first, second = np.triu_indices(len(xs), 1)
    apart = xs[second] != xs[first]
    if not apart.any():
        return None
    first, second = first[apart], second[apart]
    slopes = np.sort((ys[second] - ys[first]) / (xs[second] - xs[first]))
    count, pairs = len(xs), len(slopes)
    spread = _Z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low, high = int((pairs - spread) // 2), math.ceil((pairs + spread) / 2)
    value = float(np.median(slopes))
    if low < 0 or high >= pairs:
        return Interval(value, None, None)
    return Interval(value, float(slopes[low]), float(slopes[high]))


def _thinned(
    x: np.ndarray[tuple[int], np.dtype[np.float64]],
    y: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], ...]:
    """Reduce points to at most `_MAX_POINTS` medians of neighbours."""
    if len(x) <= _MAX_POINTS:
        return x, y
    parts = zip(np.array_split(x, _MAX_POINTS), np.array_split(y, _MAX_POINTS), strict=True)
    medians = np.array([(np.median(a), np.median(b)) for a, b in parts])
    return medians[:, 0], medians[:, 1]
