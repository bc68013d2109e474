"""How `speed.py` measures and reports: checked outputs, interleaved rounds, figures with intervals.

A figure is the median over the rounds of a value of each round: the ratio of two latencies, or
their difference. `bilstm_bench.timing` runs the rounds: every contestant has a turn in each of
them, so other load on the machine slows all of them equally. The interval is a bootstrap of that
median.
"""

from __future__ import annotations

import dataclasses
import math
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, TypeAlias

import numpy as np

from bilstm_bench.statistics import round_medians
from bilstm_bench.timing import Contender, Schedule, run_rounds
from bilstm_exporter.keras_model import TOLERANCE
from bilstm_runtime.comparison import compare
from bilstm_runtime.device import this_device

Array: TypeAlias = np.ndarray

INT8_BOUND = 0.05
"""For int8 outputs: the root mean square of the error relative to that of Keras's outputs."""

REOPENED = 5
"""The number of times that everything is reopened, in rows that compare files."""

RESAMPLES = 2_000
CONFIDENCE = 0.95


class UnequalWorkError(ValueError):
    """The outputs of a contestant differ from the others; nothing is timed."""


class MissingPeerError(ImportError):
    """A package that a row needs is not installed."""


@dataclass(frozen=True)
class Bar:
    """The target of a figure.

    Attributes:
        value: The value to reach.
        at_most: Whether the figure must not exceed it; else it must be at least that.
    """

    value: float
    at_most: bool = False

    def admits(self, figure: float) -> bool:
        """Whether a figure meets the target."""
        return figure <= self.value if self.at_most else figure >= self.value

    def __str__(self) -> str:
        """The target in words."""
        return f"at {'most' if self.at_most else 'least'} {self.value:g}"


@dataclass(frozen=True)
class Figure:
    """A median with the bounds of its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """The measurement of a case.

    Attributes:
        figure: The figure that has a target.
        details: Its parts, for the JSON.
        note: A remark for the table.
    """

    figure: Figure
    details: dict[str, Any]
    note: str = ""


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        name: The name of the case.
        unit: The unit of the figure.
        bar: Its target; None if it has none.
        measure: Measures it.
    """

    name: str
    unit: str
    bar: Bar | None
    measure: Callable[[], Measured]


@dataclass(frozen=True)
class Runner:
    """An open model that can be called.

    Attributes:
        name: For the table.
        run: Computes the output for one input.
        bound: The maximum relative error (root mean square); None for the tolerance of an exact
            export.
        reset: Called before each output that is checked, if a run keeps a state; not timed.
    """

    name: str
    run: Callable[[Any], Array]
    bound: float | None = None
    reset: Callable[[], object] | None = None

    def on(self, work: Workload) -> Contestant:
        """Return a contestant: this runner on a workload."""
        return Contestant(self, work)


@dataclass(frozen=True)
class Workload:
    """Inputs, each for one call, with Keras's outputs.

    Attributes:
        inputs: In the order of the calls.
        references: The outputs of an eager call of the Keras model.
        about: A description of the inputs, for the JSON.
    """

    inputs: Sequence[Any]
    references: Sequence[Array]
    about: str = ""


@dataclass(frozen=True)
class Contestant:
    """A runner on its workload, which has a turn in every round."""

    runner: Runner
    work: Workload

    def check(self) -> float:
        """Compare every output with Keras's.

        Returns:
            The largest error, as a multiple of the allowed error.

        Raises:
            UnequalWorkError: The result exceeds 1.
        """
        worst = 0.0
        for inputs, reference in zip(self.work.inputs, self.work.references, strict=True):
            if self.runner.reset is not None:
                self.runner.reset()
            found, reason = _error(self.runner.run(inputs), reference, self.runner.bound)
            if not found <= 1:
                message = (
                    f"{self.runner.name} differs from Keras: "
                    f"{reason or f'{found:.3g} times the allowed error'}"
                )
                raise UnequalWorkError(message)
            worst = max(worst, found)
        return worst

    def __call__(self) -> None:
        """Run all inputs."""
        run = self.runner.run
        for inputs in self.work.inputs:
            run(inputs)


def _error(output: Array, reference: Array, bound: float | None) -> tuple[float, str]:
    """Return the error as a multiple of the allowed error, and any other problem."""
    found = compare(output, reference, TOLERANCE)
    if bound is None or found.mismatch:
        return found.max_error_ratio, found.mismatch
    return found.relative_rms_error / bound, ""


@dataclass(frozen=True)
class Timing:
    """The latencies of a race.

    Attributes:
        ms: The latency of one input in each round, by name of the contestant.
        errors: The largest error of each, as a multiple of the allowed error.
    """

    ms: dict[str, list[float]]
    errors: dict[str, float] = field(default_factory=dict)

    def ratio(self, slow: str, fast: str) -> Figure:
        """Return how many times longer one takes than the other."""
        return figure(a / b for a, b in zip(self.ms[slow], self.ms[fast], strict=True))

    def excess_us(self, more: str, less: str) -> Figure:
        """Return how many microseconds longer one takes than the other."""
        return figure((a - b) * 1e3 for a, b in zip(self.ms[more], self.ms[less], strict=True))

    def fastest(self, names: Iterable[str]) -> str:
        """Return the fastest of these."""
        return min(names, key=lambda name: float(np.median(self.ms[name])))

    def details(self) -> dict[str, Any]:
        """For the JSON."""
        return {
            "latency_ms": {name: _rounded(np.median(ms)) for name, ms in self.ms.items()},
            "share_of_admitted_error": {n: _rounded(e) for n, e in self.errors.items()},
        }

    def note(self) -> str:
        """Format the latencies for the table."""
        return ", ".join(f"{name} {np.median(ms):.3g} ms" for name, ms in self.ms.items())


def race(contestants: Sequence[Contestant], rounds: int) -> Timing:
    """Check every output, then time all contestants in turns.

    Raises:
        UnequalWorkError: An output is wrong.
    """
    errors = {one.runner.name: one.check() for one in contestants}
    contenders = [Contender(one.runner.name, "", one) for one in contestants]
    measured = run_rounds(contenders, Schedule(rounds, min_rounds=rounds))
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
    """Race several times, and reopen everything each time; the result has all rounds.

    Of two sessions of the same file, one may have a better memory layout and be faster by some
    percent, which is more than the closest targets allow.

    Args:
        open_all: Opens the contestants, the same ones each time.
        rounds: The number of rounds of all races together, rounded up.

    Raises:
        UnequalWorkError: An output is wrong.
    """
    kept: list[Sequence[Contestant]] = []
    ms: dict[str, list[float]] = {}
    errors: dict[str, float] = {}
    for _ in range(REOPENED):
        contestants = open_all()
        kept.append(contestants)  # or the next ones would get the same memory
        timing = race(contestants, math.ceil(rounds / REOPENED))
        for name, latencies in timing.ms.items():
            ms.setdefault(name, []).extend(latencies)
            errors[name] = max(errors.get(name, 0.0), timing.errors[name])
    return Timing(ms, errors)


def figure(values: Iterable[float]) -> Figure:
    """Compute the median of values, with its bootstrap interval."""
    array = np.array(list(values))
    rng = np.random.default_rng(0)
    resampled = np.median(rng.choice(array, (RESAMPLES, len(array))), axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Figure(float(np.median(array)), float(low), float(high))


def describe_method() -> dict[str, Any]:
    """Describe the method of measurement, for the JSON."""
    return {
        "figure": "median over rounds of the ratio (or difference) within the round",
        "interval": f"bootstrap of that median, {CONFIDENCE:.0%}, {RESAMPLES} resamples",
        "float_answers": f"{TOLERANCE.absolute} + {TOLERANCE.relative} * |keras|",
        "int8_answers": f"relative root mean square error at most {INT8_BOUND}",
    }


PACKAGES = (
    "numpy", "keras", "tensorflow", "tf_keras", "tf2onnx", "onnx", "onnxruntime",
    "ai-edge-litert", "torch", "openvino",
)  # fmt: skip
HEADINGS = ("row", "case", "figure", "95 % interval", "target", "verdict", "notes")


@dataclass(frozen=True)
class Finding:
    """The result of a case.

    Attributes:
        row: The name of its row.
        case: The case.
        measured: Its measurement; None if that failed.
        failure: ``"refused"``, ``"not measured"`` or ``"failed"``, if there is no figure.
        reason: The reason.
    """

    row: str
    case: Case
    measured: Measured | None
    failure: str = ""
    reason: str = ""

    @property
    def verdict(self) -> str:
        """Met, missed or no target, with a question mark if the interval contains the target."""
        if self.measured is None:
            return self.failure
        bar, figure = self.case.bar, self.measured.figure
        if bar is None:
            return "no target"
        met = bar.admits(figure.value)
        sure = bar.admits(figure.low) == bar.admits(figure.high) == met
        return ("met" if met else "missed") + ("" if sure else "?")

    def line(self) -> str:
        """Format a line of the Markdown table."""
        bar = "" if self.case.bar is None else str(self.case.bar)
        if self.measured is None:
            cells = [self.row, self.case.name, "", "", bar, self.verdict, self.reason]
        else:
            figure = self.measured.figure
            value = f"{figure.value:.3g} {self.case.unit}"
            interval = f"{figure.low:.3g} to {figure.high:.3g}"
            note = self.measured.note
            cells = [self.row, self.case.name, value, interval, bar, self.verdict, note]
        return _cells(cells)

    def to_dict(self) -> dict[str, Any]:
        """For the JSON."""
        bar = self.case.bar
        found: dict[str, Any] = {
            "row": self.row,
            "case": self.case.name,
            "unit": self.case.unit,
            "bar": None if bar is None else {"value": bar.value, "at_most": bar.at_most},
            "verdict": self.verdict,
        }
        if self.measured is None:
            return found | {"reason": self.reason}
        return found | {
            "figure": dataclasses.asdict(self.measured.figure),
            "details": self.measured.details,
        }


def describe_machine() -> dict[str, Any]:
    """Describe the machine, for the header and the JSON."""
    device = this_device()
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "processor": device.processor,
        "architecture": device.machine,
        "cores": device.cores,
        "system": platform.platform(),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": versions,
    }


def header(machine: dict[str, Any], rounds: int, processes: int) -> str:
    """Format the text above the table, and its headings."""
    found = [f"{n} {v or 'missing'}" for n, v in machine["versions"].items()]
    versions = ", ".join([f"Python {machine['python']}", *found])
    load = "unknown" if machine["load"] is None else machine["load"][0]
    rule = _cells(["---"] * len(HEADINGS))
    return (
        f"{machine['processor']} ({machine['architecture']}), {machine['cores']} cores, load "
        f"before the run {load}; {versions}. One thread unless stated; {rounds} interleaved "
        f"rounds, {processes} fresh processes; medians of the ratios within rounds.\n\n"
        f"{_cells(HEADINGS)}\n{rule}"
    )


def document(
    machine: dict[str, Any], rounds: int, processes: int, findings: list[Finding]
) -> dict[str, Any]:
    """Convert all results to JSON values."""
    return {
        "machine": machine,
        "threads": 1,
        "rounds": rounds,
        "processes": processes,
        "method": describe_method(),
        "findings": [finding.to_dict() for finding in findings],
    }


def _cells(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
