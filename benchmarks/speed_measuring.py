"""What `speed.py` measures with: interleaved rounds, checked answers, figures with intervals.

A figure is the median, over the rounds, of what a round gives: the ratio of two latencies, or
their difference. In a round every contender has its turn, in an order drawn anew; what slows the
machine for a while slows all of them alike. The interval is a bootstrap of that median.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from bilstm_bench.contender import Contender
from bilstm_bench.statistics import round_medians
from bilstm_bench.timing import run_rounds
from bilstm_exporter.verification.tolerance import TOLERANCE, difference

Array: TypeAlias = np.ndarray

INT8_BOUND = 0.05
"""Of an int8 answer: root mean square of the error over that of Keras's answers."""

REOPENED = 5
"""Times that everything is opened anew, in rows that compare file with file."""

RESAMPLES = 2_000
CONFIDENCE = 0.95


class UnequalWorkError(ValueError):
    """A contender does not do the work that the others do; nothing is timed."""


class MissingPeerError(ImportError):
    """What a row compares with is not installed."""


@dataclass(frozen=True)
class Bar:
    """What a figure is held against.

    Attributes:
        value: The bar.
        at_most: Whether the figure must not exceed it; else it must reach it.
    """

    value: float
    at_most: bool = False

    def admits(self, figure: float) -> bool:
        """Whether a figure meets the bar."""
        return figure <= self.value if self.at_most else figure >= self.value

    def __str__(self) -> str:
        """In words."""
        return f"at {'most' if self.at_most else 'least'} {self.value:g}"


@dataclass(frozen=True)
class Figure:
    """A median with the bounds of its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """What measuring a case gave.

    Attributes:
        figure: Held against the bar.
        details: What it was made of, for the JSON.
        note: A few words for the table.
    """

    figure: Figure
    details: dict[str, Any]
    note: str = ""


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        name: What is measured.
        unit: Of the figure.
        bar: What it is held against; None where it is only told.
        measure: Measures it.
    """

    name: str
    unit: str
    bar: Bar | None
    measure: Callable[[], Measured]


@dataclass(frozen=True)
class Runner:
    """Something opened that answers inputs.

    Attributes:
        name: For the table.
        run: Answers one input.
        bound: The largest relative error (root mean square) that is admitted; None for the
            tolerance of an exact export.
        reset: Called before each answer that is checked, where a run leaves something behind;
            not timed.
    """

    name: str
    run: Callable[[Any], Array]
    bound: float | None = None
    reset: Callable[[], object] | None = None

    def on(self, work: Workload) -> Contestant:
        """Let it work."""
        return Contestant(self, work)


@dataclass(frozen=True)
class Workload:
    """Inputs, each run by itself, with Keras's answers.

    Attributes:
        inputs: In the order in which they are run.
        references: What the eager call of the Keras model gives.
        about: What they are, for the JSON.
    """

    inputs: Sequence[Any]
    references: Sequence[Array]
    about: str = ""


@dataclass(frozen=True)
class Contestant:
    """A runner on its work: what has a turn in every round."""

    runner: Runner
    work: Workload

    def check(self) -> float:
        """Compare every answer with Keras's.

        Returns:
            The largest error, as a multiple of what is admitted.

        Raises:
            UnequalWorkError: It is more than that.
        """
        worst = 0.0
        for inputs, reference in zip(self.work.inputs, self.work.references, strict=True):
            if self.runner.reset is not None:
                self.runner.reset()
            found, reason = _error(self.runner.run(inputs), reference, self.runner.bound)
            if not found <= 1:
                message = (
                    f"{self.runner.name} does not give Keras's answer: "
                    f"{reason or f'{found:.3g} times the admitted error'}"
                )
                raise UnequalWorkError(message)
            worst = max(worst, found)
        return worst

    def __call__(self) -> None:
        """Run all inputs."""
        run = self.runner.run
        for inputs in self.work.inputs:
            run(inputs)


def _error(answer: Array, reference: Array, bound: float | None) -> tuple[float, str]:
    if bound is None or answer.shape != reference.shape:
        found = difference(answer, reference)
        return found.ratio, found.reason
    error = np.sqrt(np.mean(np.square(answer.astype(np.float64) - reference)))
    scale = np.sqrt(np.mean(np.square(reference.astype(np.float64))))
    return float(error / scale / bound), ""


@dataclass(frozen=True)
class Timing:
    """What the rounds gave.

    Attributes:
        ms: The latency of one input in each round, by the contestant's name.
        errors: The largest error of each, as a multiple of what is admitted.
    """

    ms: dict[str, list[float]]
    errors: dict[str, float] = field(default_factory=dict)

    def ratio(self, slow: str, fast: str) -> Figure:
        """How many times longer one takes than the other."""
        return figure(a / b for a, b in zip(self.ms[slow], self.ms[fast], strict=True))

    def excess_us(self, more: str, less: str) -> Figure:
        """How many microseconds longer one takes than the other."""
        return figure((a - b) * 1e3 for a, b in zip(self.ms[more], self.ms[less], strict=True))

    def fastest(self, names: Iterable[str]) -> str:
        """Which of these takes least."""
        return min(names, key=lambda name: float(np.median(self.ms[name])))

    def details(self) -> dict[str, Any]:
        """For the JSON."""
        return {
            "latency_ms": {name: _rounded(np.median(ms)) for name, ms in self.ms.items()},
            "share_of_admitted_error": {n: _rounded(e) for n, e in self.errors.items()},
        }

    def note(self) -> str:
        """The latencies in words."""
        return ", ".join(f"{name} {np.median(ms):.3g} ms" for name, ms in self.ms.items())


def race(contestants: Sequence[Contestant], rounds: int) -> Timing:
    """Check every answer, then time all in turn.

    Raises:
        UnequalWorkError: An answer is wrong.
    """
    errors = {one.runner.name: one.check() for one in contestants}
    contenders = [Contender(one.runner.name, "", one) for one in contestants]
    measured = run_rounds(contenders, rounds=rounds, seconds=math.inf, least=rounds)
    if measured.interrupted:
        raise KeyboardInterrupt
    ms = {}
    for one in contestants:
        samples = measured.samples[one.runner.name]
        if samples.failure:
            message = f"{one.runner.name} failed: {samples.failure}"
            raise RuntimeError(message)
        medians = round_medians(samples.calls)
        ms[one.runner.name] = [medians[i] / len(one.work.inputs) for i in range(rounds)]
    return Timing(ms, errors)


def race_reopened(open_all: Callable[[], Sequence[Contestant]], rounds: int) -> Timing:
    """Race several times, each time with everything opened anew; the rounds are put together.

    Of two sessions of the same file one may lie better in memory, and be faster by some
    percent for as long as it lives: more than what the closest bars are about.

    Args:
        open_all: Opens the contestants, the same ones each time.
        rounds: Of all races together, rounded up.

    Raises:
        UnequalWorkError: An answer is wrong.
    """
    kept: list[Sequence[Contestant]] = []
    ms: dict[str, list[float]] = {}
    errors: dict[str, float] = {}
    for _ in range(REOPENED):
        contestants = open_all()
        kept.append(contestants)  # or the next would get the same memory
        timing = race(contestants, math.ceil(rounds / REOPENED))
        for name, latencies in timing.ms.items():
            ms.setdefault(name, []).extend(latencies)
            errors[name] = max(errors.get(name, 0.0), timing.errors[name])
    return Timing(ms, errors)


def figure(values: Iterable[float]) -> Figure:
    """The median of values, with its bootstrap interval."""
    array = np.array(list(values))
    rng = np.random.default_rng(0)
    resampled = np.median(rng.choice(array, (RESAMPLES, len(array))), axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Figure(float(np.median(array)), float(low), float(high))


def describe_method() -> dict[str, Any]:
    """How it was measured, for the JSON."""
    return {
        "figure": "median over rounds of the ratio (or difference) within the round",
        "interval": f"bootstrap of that median, {CONFIDENCE:.0%}, {RESAMPLES} resamples",
        "float_answers": f"{TOLERANCE.absolute} + {TOLERANCE.relative} * |keras|",
        "int8_answers": f"relative root mean square error at most {INT8_BOUND}",
    }


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
