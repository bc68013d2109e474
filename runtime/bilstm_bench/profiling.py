"""Where the time goes: what the backends' own profilers say of each operator."""

from __future__ import annotations

import dataclasses
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bilstm_bench.cold_start import run_child, task_of
from bilstm_runtime.errors import ChildProcessFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bilstm_bench.plan import Plan, Shape, Variant
    from bilstm_runtime.bundle.folder import Bundle

RUNS: Final = 20
WARM_UP: Final = 3
MOST_NODES: Final = 12
"""Nodes that are listed, those that take longest."""

REST: Final = "(the rest)"
"""What lies between the operators."""


@dataclass(frozen=True)
class OperatorTime:
    """The time that one operator, or all operators of one kind, took.

    Attributes:
        name: The kind of operator, or the name of the node.
        kernel: What ran it: "onnxruntime", "LiteRT" or "XNNPACK"; empty for `REST`.
        calls: How often in one run of the model.
        us: Microseconds in one run of the model, without what runs inside of it; the median of
            the runs.
        share: Of a run, from 0 to 1.
    """

    name: str
    kernel: str
    calls: float
    us: float
    share: float


@dataclass(frozen=True)
class Delegation:
    """Which nodes of one graph of a TFLite file XNNPACK took.

    Attributes:
        graph: The graph; 0 is the main one, others are bodies of loops.
        taken: How many nodes of each kind it took.
        left: How many LiteRT's own kernels run.
        nodes: The numbers of those taken.
    """

    graph: int
    taken: dict[str, int]
    left: dict[str, int]
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """Where one model file spends its time.

    Attributes:
        variant: Which file, where.
        shape: On what input.
        runs: Runs that were profiled.
        run_us: Microseconds of one run without the profiler.
        operators: By kind of operator, the longest first.
        nodes: The nodes that take longest.
        delegated: Which nodes XNNPACK took, for TFLite.
        notes: How to read it, and what could not be had.
        failure: Why there is no time by operator; empty where there is.
    """

    variant: Variant
    shape: Shape
    runs: int = 0
    run_us: float = 0.0
    operators: tuple[OperatorTime, ...] = ()
    nodes: tuple[OperatorTime, ...] = ()
    delegated: tuple[Delegation, ...] = ()
    notes: tuple[str, ...] = ()
    failure: str = ""


@dataclass(frozen=True)
class Event:
    """What a profiler noted of one call.

    Attributes:
        run: The number of the run it belongs to.
        kind: The kind of operator.
        node: Which one.
        kernel: What ran it.
        us: Microseconds without what ran inside of it.
    """

    run: int
    kind: str
    node: str
    kernel: str
    us: float


def take_profile(bundle: Bundle, plan: Plan, variant: Variant, shape: Shape) -> Profile:
    """Profile a model file in a fresh process; a failure is part of the result."""
    task = {"task": "profile", **task_of(bundle, plan, variant, shape)}
    try:
        found, _ = run_child(task)
    except ChildProcessFailedError as error:
        return Profile(variant, shape, failure=str(error))
    operators = tuple(OperatorTime(**item) for item in found["operators"])
    inside = sum(item.us for item in operators)
    notes = list(found["notes"])
    if operators and inside > 1.05 * found["run_us"] > 0:
        notes.append(
            f"With the profiler's own cost the operators add up to {inside / found['run_us']:.1f} "
            "times a run without it: many of them are too short for it to time well."
        )
    return Profile(
        variant,
        shape,
        runs=found["runs"],
        run_us=found["run_us"],
        operators=operators,
        nodes=tuple(OperatorTime(**item) for item in found["nodes"]),
        delegated=tuple(
            Delegation(**{**item, "nodes": tuple(item["nodes"])}) for item in found["delegated"]
        ),
        notes=tuple(notes),
        failure=found["failure"],
    )


def profile_here(task: dict[str, Any]) -> dict[str, Any]:
    """Profile in this process, which is a fresh one; the members of `Profile` as JSON values.

    Raises:
        BilstmRuntimeError: The file cannot be opened or run.
    """
    if task["backend"] == "onnx":
        from bilstm_bench.profiling_onnx import profile_onnx as take  # noqa: PLC0415
    else:
        from bilstm_bench.profiling_litert import (  # noqa: PLC0415
            profile_litert as take,
        )
    return take(task)


def summarize_events(events: Sequence[Event], runs: int, run_us: float) -> dict[str, Any]:
    """Add events up by operator and by node.

    Args:
        events: Of all profiled runs.
        runs: How many those were.
        run_us: How long a run takes without the profiler. What the events leave of it is listed
            as `REST`: profilers cost time, but hardly any within the operators.

    Returns:
        The members `runs`, `run_us`, `operators` and `nodes` of a `Profile`, as JSON values.
    """
    by_kind = [((event.kind, event.kernel), event) for event in events]
    by_node = [((f"{event.kind} {event.node}".strip(), event.kernel), event) for event in events]
    return {
        "runs": runs,
        "run_us": run_us,
        "operators": _rows(by_kind, runs, run_us),
        "nodes": _rows(by_node, runs, run_us)[:MOST_NODES],
    }


def plain_run_us(run: Callable[[], object]) -> float:
    """How long a run takes without the profiler, the median of some."""
    taken = []
    for _ in range(WARM_UP + RUNS):
        begin = time.perf_counter_ns()
        run()
        taken.append((time.perf_counter_ns() - begin) / 1e3)
    return statistics.median(taken[WARM_UP:])


def _rows(
    pairs: Sequence[tuple[tuple[str, str], Event]], runs: int, run_us: float
) -> list[dict[str, Any]]:
    """One row a key: the median over the runs, so that a run that was held up counts once."""
    totals: dict[tuple[str, str], list[float]] = {}
    calls: dict[tuple[str, str], int] = {}
    for key, event in pairs:
        totals.setdefault(key, [0.0] * runs)[event.run] += event.us
        calls[key] = calls.get(key, 0) + 1
    medians = {key: statistics.median(each) for key, each in totals.items()}
    inside = sum(medians.values())
    whole = max(run_us, inside, 1e-9)
    rows = [
        OperatorTime(name, kernel, calls[name, kernel] / runs, us, us / whole)
        for (name, kernel), us in medians.items()
    ]
    rest = max(run_us - inside, 0.0)
    rows.append(OperatorTime(REST, "", 1.0, rest, rest / whole))
    rows.sort(key=lambda row: -row.us)
    return [dataclasses.asdict(row) for row in rows]
