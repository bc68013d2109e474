"""Soak: a long run on random sizes of input, to measure the growth of memory and latency."""

from __future__ import annotations

import errno
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import numpy as np

from bilstm_bench.plan import Shape, make_inputs
from bilstm_bench.processes import resident_bytes
from bilstm_bench.statistics import MIN_ROUNDS, Interval, slope
from bilstm_runtime.errors import BilstmRuntimeError, DataFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bilstm_bench.contenders import OpenedVariant
    from bilstm_bench.plan import Plan, Variant

_WINDOWS: Final = 600
_SHORTEST_WINDOW_S: Final = 0.05
_MAX_RECORDED: Final = 4096
"""The maximum number of predictions of one window whose latencies are recorded."""

_SHAPES: Final = 12
"""The number of input sizes."""


@dataclass(frozen=True)
class Sample:
    """One time window of a soak.

    Attributes:
        seconds: Its end, since the soak began.
        calls: The number of predictions.
        resident_bytes: Resident memory at its end; None without psutil.
        relative_latency: The latency relative to the median of the same size of input; the
            median over the sizes.
    """

    seconds: float
    calls: int
    resident_bytes: int | None
    relative_latency: float


@dataclass(frozen=True)
class Soak:
    """The soak of one variant.

    Attributes:
        variant: The variant.
        seconds: Its duration.
        calls: The number of predictions.
        samples: The time windows.
        memory_per_hour: Growth of resident memory in bytes per hour, with its interval.
        latency_per_hour: Growth of the latency per hour, as a share (0.01 is one percent).
        failure: The reason reason it ended early; empty if it did not.
    """

    variant: Variant
    seconds: float
    calls: int
    samples: tuple[Sample, ...]
    memory_per_hour: Interval | None
    latency_per_hour: Interval | None
    failure: str = ""


class _Log:
    """Records a soak. Its memory is allocated before the soak begins."""

    def __init__(self, shapes: int) -> None:
        self.count = 0
        self.seconds = np.full(_WINDOWS + 2, -1.0)
        self.calls = np.full(_WINDOWS + 2, -1)
        self.resident = np.full(_WINDOWS + 2, -1, dtype=np.int64)
        self.medians_ns = np.full((_WINDOWS + 2, shapes), np.nan)
        self._sizes = np.full(_MAX_RECORDED, -1)
        self._durations = np.full(_MAX_RECORDED, -1.0)
        self._recorded = 0
        self._calls = 0

    def record(self, size: int, ns: int) -> None:
        """Record one prediction; in one window at most `_MAX_RECORDED` latencies are kept."""
        self._calls += 1
        if self._recorded < _MAX_RECORDED:
            self._sizes[self._recorded] = size
            self._durations[self._recorded] = ns
            self._recorded += 1

    def end_window(self, seconds: float) -> None:
        """End a time window."""
        place = self.count
        sizes, durations = self._sizes[: self._recorded], self._durations[: self._recorded]
        for size in np.unique(sizes):
            self.medians_ns[place, size] = np.median(durations[sizes == size])
        resident = resident_bytes()
        self.resident[place] = -1 if resident is None else resident
        self.seconds[place] = seconds
        self.calls[place] = self._calls
        self._recorded = self._calls = 0
        self.count += 1

    def samples(self) -> tuple[Sample, ...]:
        """Return all time windows."""
        if not self.count:
            return ()
        medians = self.medians_ns[: self.count]
        seen = ~np.isnan(medians).all(axis=0)
        relative = np.nanmedian(medians[:, seen] / np.nanmedian(medians[:, seen], axis=0), axis=1)
        return tuple(
            Sample(
                float(self.seconds[i]),
                int(self.calls[i]),
                int(self.resident[i]) if self.resident[i] >= 0 else None,
                float(relative[i]),
            )
            for i in range(self.count)
        )


@dataclass
class SampleFile:
    """A file that receives samples while the soak runs, one JSON object per line.

    If it can no longer be written, for example because the disk is full, it is closed, and
    `failure` gives the reason. The soak continues.

    Attributes:
        path: The path; None for no file.
        failure: The reason reason the file ends early; empty if it does not.
    """

    path: Path | None
    failure: str = ""
    _file: TextIO | None = field(default=None, repr=False)

    def open(self) -> None:
        """Open the file; raises `DataFileError` if it cannot be written."""
        if self.path is None:
            return
        try:
            self._file = self.path.open("w", encoding="utf-8")
        except OSError as error:
            message = f"{self.path} cannot be written: {error.strerror or error}"
            raise DataFileError(message) from error

    def write(self, sample: dict[str, Any]) -> None:
        """Write one line and flush it."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(sample) + "\n")
            self._file.flush()
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = "the disk is full" if full else error.strerror or str(error)
            self.failure = (
                f"{self.path} ends early: {reason}. The soak went on; all its samples are in this "
                "result"
            )
            self._abandon()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                self._abandon()
        self._file = None

    def _abandon(self) -> None:
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close()
        except OSError:
            pass  # its buffer cannot be written either


def soak(  # noqa: PLR0913 (by name)
    opened: OpenedVariant,
    plan: Plan,
    *,
    seconds: float,
    file: SampleFile,
    into: list[Soak],
    progress: Callable[[str], None],
    clock: Callable[[], int] = time.perf_counter_ns,
) -> None:
    """Predict on random sizes of input for a while.

    Args:
        opened: The open model file.
        plan: The plan; lengths and batches are between the minimum and maximum of its shapes.
        seconds: The duration.
        file: Receives the samples while the soak runs.
        into: Receives the result, also if the user interrupts.
        progress: Called with a message with the elapsed time.
        clock: Returns the time in nanoseconds.
    """
    predictor, variant = opened.predictor, opened.variant
    rng = np.random.default_rng(plan.seed)
    shapes = _shapes(plan.shapes, rng)
    inputs = {
        shape: make_inputs(opened.spec, shape, padding=plan.padding, seed=plan.seed)
        for shape in shapes
    }
    log = _Log(len(shapes))
    failure = ""
    begin = clock()
    try:
        for shape in (
            *shapes,
            *shapes,
        ):  # before the clock starts, memory for every size is allocated
            predictor.predict(inputs[shape])
        begin = clock()
        window_ns = max(seconds / _WINDOWS, _SHORTEST_WINDOW_S) * 1e9
        while clock() - begin < seconds * 1e9:
            start = clock()
            while clock() - start < window_ns:
                size = int(rng.integers(len(shapes)))
                before = clock()
                predictor.predict(inputs[shapes[size]])
                log.record(size, clock() - before)
            log.end_window((clock() - begin) / 1e9)
            file.write(_line(variant, shapes, log))
            progress(f"soak of {variant.label}: {(clock() - begin) / 1e9:.0f} of {seconds:.0f} s")
    except BilstmRuntimeError as error:
        failure = str(error)
    finally:
        into.append(_result(variant, (clock() - begin) / 1e9, log.samples(), failure))


def _shapes(planned: Sequence[Shape], rng: np.random.Generator) -> list[Shape]:
    """Draw random sizes between the smallest and the largest, including both."""
    lengths = [shape.length for shape in planned if shape.length is not None]
    batches = [shape.batch for shape in planned]
    largest = Shape(max(lengths) if lengths else None, max(batches))
    found = {largest, Shape(min(lengths) if lengths else None, min(batches))}
    for _ in range(4 * _SHAPES):
        if len(found) >= _SHAPES:
            break
        length = None
        if lengths:
            ends = np.log([min(lengths), max(lengths) + 1])
            length = min(int(np.exp(rng.uniform(*ends))), max(lengths))
        found.add(Shape(length, int(rng.integers(min(batches), max(batches), endpoint=True))))
    return sorted(found, key=lambda shape: (-(shape.length or 0), -shape.batch))


def _line(variant: Variant, shapes: Sequence[Shape], log: _Log) -> dict[str, Any]:
    """Convert the last time window to JSON values, for the file."""
    place = log.count - 1
    return {
        "variant": variant.label,
        "seconds": float(log.seconds[place]),
        "calls": int(log.calls[place]),
        "resident_bytes": int(log.resident[place]) if log.resident[place] >= 0 else None,
        "median_ms": {
            shape.label: float(ns) / 1e6
            for shape, ns in zip(shapes, log.medians_ns[place], strict=True)
            if not np.isnan(ns)
        },
    }


def _result(variant: Variant, seconds: float, samples: tuple[Sample, ...], failure: str) -> Soak:
    known = [sample for sample in samples if sample.resident_bytes is not None]
    return Soak(
        variant=variant,
        seconds=seconds,
        calls=sum(sample.calls for sample in samples),
        samples=samples,
        memory_per_hour=_per_hour(known, [float(s.resident_bytes or 0) for s in known]),
        latency_per_hour=_per_hour(samples, [s.relative_latency for s in samples]),
        failure=failure,
    )


def _per_hour(samples: Sequence[Sample], values: Sequence[float]) -> Interval | None:
    if len(samples) < MIN_ROUNDS:
        return None
    return slope([sample.seconds / 3600 for sample in samples], values)
