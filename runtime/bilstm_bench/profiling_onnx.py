"""onnxruntime's own profiler, run in a fresh process."""

from __future__ import annotations

import bisect
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bilstm_bench.profiling import RUNS, WARM_UP, Event, plain_run_us, summarize_events
from bilstm_bench.recording import record_runs
from bilstm_runtime.errors import BackendRunError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


_NOTE: Final = (
    "What onnxruntime's profiler notes is inside the operators; the rest of a run is its own work "
    "between them."
)


def profile_onnx(task: dict[str, Any]) -> dict[str, Any]:
    """Profile one file; see `bilstm_bench.profiling.profile_here`."""
    recorded = record_runs(task)  # opens it as users do, with every check, before the profiler
    import onnxruntime as ort  # noqa: PLC0415 (only where this backend is used)

    options = ort.SessionOptions()
    options.intra_op_num_threads = task["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_profiling = True
    artifact, arrays = recorded.artifact, recorded.runs[0]
    feed = dict(zip(artifact.inputs, arrays, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(
            recorded.content, sess_options=options, providers=["CPUExecutionProvider"]
        )
        for _ in range(WARM_UP + RUNS):
            session.run(list(artifact.outputs), feed)
        text = Path(session.end_profiling()).read_text(encoding="utf-8")
    run_us = plain_run_us(lambda: recorded.session.run(arrays))
    events = _read(json.loads(text))
    return {
        **summarize_events(events, RUNS, run_us),
        "delegated": [],
        "notes": [_NOTE],
        "failure": "",
    }


def _read(events: Sequence[dict[str, Any]]) -> list[Event]:
    """What the profiler wrote of the runs after the warm-up."""
    begins = sorted(int(e["ts"]) for e in events if e["name"] == "model_run")[WARM_UP:]
    if len(begins) != RUNS:
        msg = f"onnxruntime's profiler wrote of {len(begins)} runs, not {RUNS}"
        raise BackendRunError(msg)
    nodes = [
        e
        for e in events
        if e["cat"] == "Node" and e["name"].endswith("_kernel_time") and e["ts"] >= begins[0]
    ]
    return [
        Event(
            bisect.bisect_right(begins, event["ts"]) - 1,
            event["args"].get("op_name", "?"),
            event["name"].removesuffix("_kernel_time"),
            "onnxruntime",
            us,
        )
        for event, us in _without_inner(nodes)
    ]


def _without_inner(
    nodes: Sequence[dict[str, Any]],
) -> Iterator[tuple[dict[str, Any], float]]:
    """Each node with its time without that of the nodes inside of it, as in a Scan or a Loop."""
    ordered = sorted(nodes, key=lambda e: (e["ts"], -e["dur"]))
    own = [float(e["dur"]) for e in ordered]
    open_ones: list[int] = []
    for number, event in enumerate(ordered):
        while open_ones and event["ts"] >= _end(ordered[open_ones[-1]]):
            open_ones.pop()
        if open_ones:
            own[open_ones[-1]] -= event["dur"]
        open_ones.append(number)
    for event, us in zip(ordered, own, strict=True):
        yield event, max(us, 0.0)


def _end(event: dict[str, Any]) -> int:
    return int(event["ts"] + event["dur"])
