"""Measuring in fresh processes: cold start, load, memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import bilstm_runtime
from bilstm_bench.child import COMMAND
from bilstm_bench.plan import artifact_of
from bilstm_runtime.errors import ChildProcessFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bilstm_bench.plan import Plan, Shape, Variant
    from bilstm_runtime.bundle.folder import Bundle

_TIMEOUT_S: Final = 900
_HOME: Final = Path(bilstm_runtime.__file__).resolve().parents[1]
"""Where this package lies. Processes start there: Python looks for modules first where it
starts, and a folder of the user's may hold a `json.py`."""


@dataclass(frozen=True)
class Range:
    """Some values of one thing: their median, and the smallest and largest."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Start:
    """What fresh processes found of one model file on one backend.

    Attributes:
        variant: Which.
        bytes: The size of the file.
        runs: How many processes.
        cold_ms: From asking the system for a process to the first answer, in milliseconds.
        start_ms: Of that, until Python itself runs.
        import_ms: Of that, importing `bilstm_runtime`, with numpy.
        load_ms: Of that, `bilstm_runtime.load`, which imports the backend.
        first_ms: Of that, the first answer.
        imported_bytes: Resident memory before loading; None where the system does not tell.
        loaded_bytes: After loading.
        steady_bytes: After the first answers.
        peak_bytes: The most there ever was.
        failure: Why it could not be measured; empty if it could.
    """

    variant: Variant
    bytes: int
    runs: int = 0
    cold_ms: Range | None = None
    start_ms: Range | None = None
    import_ms: Range | None = None
    load_ms: Range | None = None
    first_ms: Range | None = None
    imported_bytes: Range | None = None
    loaded_bytes: Range | None = None
    steady_bytes: Range | None = None
    peak_bytes: Range | None = None
    failure: str = ""


@dataclass
class _Collected:
    values: dict[str, list[float]] = field(default_factory=dict)
    runs: int = 0
    failure: str = ""


def measure_starts(
    bundle: Bundle,
    plan: Plan,
    *,
    runs: int,
    into: list[Start],
    progress: Callable[[str], None],
) -> None:
    """Start processes for every file and backend in turn, `runs` times each.

    Args:
        bundle: The bundle.
        plan: The plan, of which the middle input is run with the first number of threads.
        runs: Processes for each.
        into: Takes the results, also what there is when the user interrupts.
        progress: Told what runs.
    """
    variants = plan.unthreaded
    collected = {variant: _Collected() for variant in variants}
    try:
        for number in range(runs):
            for variant in variants:
                found = collected[variant]
                if found.failure:
                    continue
                progress(f"cold start {number + 1} of {runs}: {variant.label}")
                try:
                    _add(found, task_of(bundle, plan, variant, plan.middle))
                except ChildProcessFailedError as error:
                    found.failure = str(error)
    finally:
        into += [
            _start(bundle, variant, found)
            for variant, found in collected.items()
            if found.runs or found.failure
        ]


def task_of(bundle: Bundle, plan: Plan, variant: Variant, shape: Shape) -> dict[str, Any]:
    """What a child has to know."""
    return {
        "bundle": str(bundle.folder.resolve()),
        "file": variant.file,
        "backend": variant.backend,
        "recipe": variant.recipe,
        "threads": variant.threads,
        "length": shape.length,
        "batch": shape.batch,
        "padding": plan.padding,
        "seed": plan.seed,
    }


def run_child(task: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Run a task in a fresh process.

    Returns:
        What it printed, and the monotonic time in nanoseconds at which it was asked for.

    Raises:
        ChildProcessFailedError: It ended without an answer, or with an error.
    """
    command = [sys.executable, "-c", COMMAND, json.dumps(task)]
    begin = time.monotonic_ns()
    try:
        done = subprocess.run(  # noqa: S603 (this Python, this package)
            command, capture_output=True, check=False, cwd=_HOME, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"no fresh process could be run: {error}"
        raise ChildProcessFailedError(message) from error
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    if done.returncode or not lines:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
        message = f"the fresh process ended with {how}: {words[-1] if words else 'no message'}"
        raise ChildProcessFailedError(message)
    result: dict[str, Any] = json.loads(lines[-1])
    if "error" in result:
        raise ChildProcessFailedError(str(result["error"]))
    return result, begin


def _add(found: _Collected, task: dict[str, Any]) -> None:
    result, begin = run_child({"task": "cold", **task})
    # What is not the user's, the making of the input and the reading of memory, is left out.
    begun = result["imported_ns"] - begin
    values = {
        "cold_ms": (begun + result["load_ns"] + result["first_ns"]) / 1e6,
        "start_ms": (result["started_ns"] - begin) / 1e6,
        "import_ms": (result["imported_ns"] - result["started_ns"]) / 1e6,
        "load_ms": result["load_ns"] / 1e6,
        "first_ms": result["first_ns"] / 1e6,
        **{
            name: result[name]
            for name in ("imported_bytes", "loaded_bytes", "steady_bytes", "peak_bytes")
            if result[name] is not None
        },
    }
    for name, value in values.items():
        found.values.setdefault(name, []).append(value)
    found.runs += 1


def _start(bundle: Bundle, variant: Variant, found: _Collected) -> Start:
    size = artifact_of(bundle.manifest, variant).bytes
    ranges = {
        name: Range(statistics.median(values), min(values), max(values))
        for name, values in found.values.items()
    }
    return Start(variant, size, found.runs, failure=found.failure, **ranges)
