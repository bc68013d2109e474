"""Measures the time by operator with the backends' profilers, and finds the nodes XNNPACK runs.

Profilers run in a fresh process: if one crashes or hangs, the result reports it.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
import statistics
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bilstm_bench.contenders import OpenedVariant
from bilstm_bench.litert_profiler import ProfiledModel, RawEvent
from bilstm_bench.plan import Shape, Variant, make_inputs
from bilstm_bench.processes import run_in_fresh_process, task_of
from bilstm_bench.timing import time_calls
from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.errors import BackendRunError, BilstmRuntimeError, ChildProcessFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bilstm_bench.plan import Plan
    from bilstm_runtime.bundle.folder import Bundle
    from bilstm_runtime.spec import AnyArray

TIME_LIMIT_S: Final = 300
"""The time limit for one file. A profile takes seconds; a profiler that hangs is stopped."""

RUNS: Final = 20
WARM_UP: Final = 3
MAX_NODES: Final = 12
"""The maximum number of nodes that are listed."""

REST: Final = "(the rest)"
"""The time between the operators."""

_ONNX_NOTE: Final = (
    "onnxruntime's profiler reports the time inside the operators; the rest of a run is its own "
    "work between them."
)
_LITERT_NOTE: Final = (
    "XNNPACK reports the time of each operator in whole microseconds, rounded down. The rest is "
    "what this rounding loses, the passing of values from step to step in loops, and LiteRT's "
    "other work between the operators."
)
_DIFFERS: Final = (
    "The times are of LiteRT's CompiledModel, which has the profiler, and which gives XNNPACK "
    "other nodes of this main graph than the Interpreter that predictions use."
)
_RUN: Final = "LiteRT::Run[buffer registration]"
_CONTROL: Final = ("WHILE", "IF", "CALL_ONCE")
"""Operators that run other graphs, whose operators have events of their own."""

_INTERPRETER, _OPERATOR, _DELEGATED = 1, 2, (4, 8)
_NO_TENSOR: Final = -1
"""LiteRT's index for an omitted input or output."""


@dataclass(frozen=True)
class OperatorTime:
    """The time of one operator, or of all operators of one kind.

    Attributes:
        name: The kind of operator, or the name of the node.
        kernel: The library that ran it: "onnxruntime", "LiteRT" or "XNNPACK"; empty for `REST`.
        calls: Calls in one run of the model.
        us: Microseconds in one run of the model, without operators inside it; the median over
            the runs.
        share: The fraction of a run, from 0 to 1.
    """

    name: str
    kernel: str
    calls: float
    us: float
    share: float


@dataclass(frozen=True)
class Delegation:
    """The nodes of one graph of a TFLite file that XNNPACK runs.

    Attributes:
        graph: The graph; 0 is the main one, others are bodies of loops.
        taken: The number of nodes of each kind that XNNPACK runs.
        left: The number of nodes of each kind that LiteRT's own kernels run.
        nodes: The numbers of the nodes that XNNPACK runs.
    """

    graph: int
    taken: dict[str, int]
    left: dict[str, int]
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """The time of one model file by operator.

    Attributes:
        variant: The file and backend.
        shape: The size of the input.
        runs: The number of profiled runs.
        run_us: The duration of a run without the profiler, in microseconds.
        operators: By kind of operator, the longest first.
        nodes: The nodes that take longest.
        delegated: The nodes that XNNPACK runs, for TFLite.
        notes: Explanations, and what could not be measured.
        failure: The reason why there are no times by operator; empty if there are.
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
    """One call as a profiler reported it.

    Attributes:
        run: The number of the run it belongs to.
        kind: The kind of operator.
        node: The name of the node.
        kernel: The library that ran it.
        us: Microseconds, without operators inside it.
    """

    run: int
    kind: str
    node: str
    kernel: str
    us: float


def take_profile(
    bundle: Bundle,
    plan: Plan,
    variant: Variant,
    shape: Shape,
    *,
    time_limit_s: float = TIME_LIMIT_S,
) -> Profile:
    """Profile a model file in a fresh process; failures are reported in the result."""
    task = task_of(bundle, plan, variant, shape)
    try:
        found = run_in_fresh_process(profile_file, task, time_limit_s=time_limit_s).result
    except ChildProcessFailedError as error:
        return Profile(variant, shape, failure=str(error))
    operators = tuple(OperatorTime(**item) for item in found["operators"])
    inside = sum(item.us for item in operators)
    notes = list(found["notes"])
    if operators and inside > 1.05 * found["run_us"] > 0:
        notes.append(
            f"With the cost of the profiler the operators add up to {inside / found['run_us']:.1f} "
            "times a run without it: many of them are too short to be timed well."
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


def profile_file(task: dict[str, Any]) -> dict[str, Any]:
    """Profile one file in this process, which is a fresh one.

    Args:
        task: See `bilstm_bench.processes.task_of`.

    Returns:
        The members of `Profile` from `runs` on, as JSON values.

    Raises:
        BilstmRuntimeError: The file cannot be opened, run or profiled.
    """
    opened = OpenedVariant(
        open_bundle(task["bundle"], sha256=task["sha256"]), Variant(**task["variant"])
    )
    shape = Shape(**task["shape"])
    inputs = make_inputs(opened.spec, shape, padding=task["padding"], seed=task["seed"])
    arrays = opened.record(inputs)[0]
    profile = {"onnx": profile_onnx, "litert": profile_litert}.get(opened.variant.backend)
    if profile is None:
        message = f"there is no profiler for the backend {opened.variant.backend}"
        raise BilstmRuntimeError(message)
    return profile(opened, arrays)


def summarize_events(events: Sequence[Event], runs: int, run_us: float) -> dict[str, Any]:
    """Add up events by operator and by node.

    Args:
        events: The events of all profiled runs.
        runs: The number of profiled runs.
        run_us: The duration of a run without the profiler. The difference to the events is
            `REST`: profilers take time, but hardly any within the operators.

    Returns:
        The members `runs`, `run_us`, `operators` and `nodes` of a `Profile`, as JSON values.
    """
    by_kind = [((event.kind, event.kernel), event) for event in events]
    by_node = [((f"{event.kind} {event.node}".strip(), event.kernel), event) for event in events]
    return {
        "runs": runs,
        "run_us": run_us,
        "operators": _rows(by_kind, runs, run_us),
        "nodes": _rows(by_node, runs, run_us)[:MAX_NODES],
    }


def plain_run_us(run: Callable[[], object]) -> float:
    """Measure the median duration of a run without the profiler, in microseconds."""
    return statistics.median(time_calls(run, WARM_UP + RUNS)[WARM_UP:]) / 1e3


def _rows(
    pairs: Sequence[tuple[tuple[str, str], Event]], runs: int, run_us: float
) -> list[dict[str, Any]]:
    """Make one row per key: the median over the runs, so that one slow run has little effect."""
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


def profile_onnx(opened: OpenedVariant, arrays: Sequence[AnyArray]) -> dict[str, Any]:
    """Profile with onnxruntime's profiler; see `profile_file`.

    Args:
        opened: The file.
        arrays: One array per input of the file.
    """
    import onnxruntime as ort  # noqa: PLC0415 (one of the backends)

    options = ort.SessionOptions()
    options.intra_op_num_threads = opened.variant.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_profiling = True
    artifact = opened.artifact
    feed = dict(zip(artifact.inputs, arrays, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(
            opened.content, sess_options=options, providers=["CPUExecutionProvider"]
        )
        for _ in range(WARM_UP + RUNS):
            session.run(list(artifact.outputs), feed)
        text = Path(session.end_profiling()).read_text(encoding="utf-8")
    run_us = plain_run_us(lambda: opened.session.run(arrays))
    events = _onnx_events(json.loads(text))
    return {
        **summarize_events(events, RUNS, run_us),
        "delegated": [],
        "notes": [_ONNX_NOTE],
        "failure": "",
    }


def _onnx_events(events: Sequence[dict[str, Any]]) -> list[Event]:
    """Return the events of the runs after the warm-up."""
    begins = sorted(int(e["ts"]) for e in events if e["name"] == "model_run")[WARM_UP:]
    if len(begins) != RUNS:
        message = f"onnxruntime's profiler reported {len(begins)} runs, not {RUNS}"
        raise BackendRunError(message)
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
    """Return the time of each node without the nodes inside it, such as in a Scan or a Loop."""
    ordered = sorted(nodes, key=lambda e: (e["ts"], -e["dur"]))
    own_us = [float(e["dur"]) for e in ordered]
    enclosing: list[int] = []
    for number, event in enumerate(ordered):
        while enclosing and event["ts"] >= _end(ordered[enclosing[-1]]):
            enclosing.pop()
        if enclosing:
            own_us[enclosing[-1]] -= event["dur"]
        enclosing.append(number)
    for event, us in zip(ordered, own_us, strict=True):
        yield event, max(us, 0.0)


def _end(event: dict[str, Any]) -> int:
    return int(event["ts"] + event["dur"])


def profile_litert(opened: OpenedVariant, arrays: Sequence[AnyArray]) -> dict[str, Any]:
    """Profile with LiteRT's profiler; see `profile_file`.

    The nodes of the main graph come from the interpreter, which users run. Times, and the nodes
    of loops, come from LiteRT's profiler, which uses another interface to the same kernels.

    Args:
        opened: The file.
        arrays: One array per input of the file.
    """
    kinds = _node_kinds(opened.content)
    interpreted = _delegated_by_interpreter(opened, arrays)
    run_us = plain_run_us(lambda: opened.session.run(arrays))
    try:
        events = _litert_events(opened, arrays)
        times = summarize_events(_times(events), RUNS, run_us)
        delegated = _delegations(kinds, events) if kinds else []
        failure = ""
    except BackendRunError as error:
        times = {"runs": 0, "run_us": run_us, "operators": [], "nodes": []}
        delegated, failure = [], f"LiteRT's profiler cannot be used here: {error}"
    by_graph = {item["graph"]: item for item in delegated}
    differs = by_graph.get(0, interpreted) != interpreted
    by_graph[0] = interpreted
    notes = [_LITERT_NOTE]
    if differs:
        notes.append(_DIFFERS)
    if failure or not kinds:
        notes = ["Only the nodes of the main graph are listed, not those of loops."]
    return {
        **times,
        "delegated": [by_graph[graph] for graph in sorted(by_graph)],
        "notes": notes,
        "failure": failure,
    }


def _litert_events(opened: OpenedVariant, arrays: Sequence[AnyArray]) -> list[RawEvent]:
    """Profile some runs on these arrays."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 (one of the backends)

    interpreter = Interpreter(model_content=opened.content)
    inputs = dict(zip(opened.artifact.inputs, arrays, strict=True))
    # The sizes of the outputs come from a run: if they depend on the input, those that the
    # profiled model reports are too small.
    outputs = dict(zip(opened.artifact.outputs, opened.session.run(arrays), strict=True))
    model = ProfiledModel(
        opened.content,
        _as_stored(inputs, _details(interpreter, "input")),
        _as_stored(outputs, _details(interpreter, "output")),
        opened.variant.threads,
    )
    for _ in range(WARM_UP):
        model.run()
    if not model.has_expected_outputs():
        message = "the profiled model has other outputs than the interpreter"
        raise BackendRunError(message)
    return model.profile(RUNS)


def _as_stored(arrays: Mapping[str, AnyArray], details: Mapping[str, Any]) -> dict[str, AnyArray]:
    """Convert floats to the integers that an int8-full file takes and returns."""
    found = {}
    for name, array in arrays.items():
        dtype = np.dtype(details[name]["dtype"])
        scale, zero_point = details[name]["quantization"]
        if dtype != array.dtype and scale:
            limits = np.iinfo(dtype)
            steps = np.rint(array / np.float32(scale)) + zero_point
            found[name] = np.clip(steps, limits.min, limits.max).astype(dtype)
        else:
            found[name] = array
    return found


def _details(interpreter: Any, side: str) -> dict[str, Any]:
    """Return the inputs or outputs of the file's only signature, by name.

    The signature runner is not kept: while it exists, memory cannot be planned.
    """
    runner = interpreter.get_signature_runner(next(iter(interpreter.get_signature_list())))
    found: dict[str, Any] = getattr(runner, f"get_{side}_details")()
    return found


def _times(events: Sequence[RawEvent]) -> list[Event]:
    """Return the operators of all runs, without those that only run other graphs."""
    run, found = -1, []
    for event in events:
        if event.tag == _RUN and event.type == _INTERPRETER:
            run += 1
        elif event.type in _DELEGATED:
            found.append(Event(run, event.tag, _where(event), "XNNPACK", float(event.elapsed_us)))
        elif event.type == _OPERATOR and event.tag not in _CONTROL:
            found.append(Event(run, event.tag, _where(event), "LiteRT", float(event.elapsed_us)))
    if run + 1 != RUNS or any(event.run < 0 for event in found):
        message = f"it reported {run + 1} runs, not {RUNS}"
        raise BackendRunError(message)
    return found


def _where(event: RawEvent) -> str:
    return f"#{event.node}" if event.graph == 0 else f"#{event.node} of graph {event.graph}"


def _node_kinds(content: bytes) -> list[list[str]]:
    """Return the kind of every node by graph; empty if the package cannot read the format."""
    try:
        from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415
    except ImportError:
        return []
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    codes = [
        names.get(max(code.builtinCode, code.deprecatedBuiltinCode), "?")
        for code in model.operatorCodes
    ]
    return [[codes[op.opcodeIndex] for op in graph.operators or []] for graph in model.subgraphs]


def _delegations(kinds: list[list[str]], events: Sequence[RawEvent]) -> list[dict[str, Any]]:
    """Infer XNNPACK's nodes of a graph: those that LiteRT's own kernels did not run."""
    ran: dict[int, set[int]] = {}
    for event in events:
        if event.type == _OPERATOR:
            ran.setdefault(event.graph, set()).add(event.node)
        elif event.type in _DELEGATED:
            ran.setdefault(event.graph, set())
    return [
        _delegation(graph, kinds[graph], set(range(len(kinds[graph]))) - nodes)
        for graph, nodes in ran.items()
        if graph < len(kinds)
    ]


def _delegated_by_interpreter(opened: OpenedVariant, arrays: Sequence[AnyArray]) -> dict[str, Any]:
    """Return the nodes of the main graph that the interpreter's delegates replace."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    interpreter = Interpreter(model_content=opened.content, num_threads=opened.variant.threads)
    places = {name: int(item["index"]) for name, item in _details(interpreter, "input").items()}
    for name, array in zip(opened.artifact.inputs, arrays, strict=True):
        interpreter.resize_tensor_input(places[name], array.shape)
    interpreter.allocate_tensors()
    nodes = interpreter._get_ops_details()  # noqa: SLF001 (the only way to the nodes)
    plain = [node for node in nodes if node["op_name"] != "DELEGATE"]
    makers = {
        int(tensor): node
        for node in plain
        for tensor in node["outputs"]
        if int(tensor) != _NO_TENSOR
    }
    taken: set[int] = set()
    for delegate in (node for node in nodes if node["op_name"] == "DELEGATE"):
        taken |= set(_replaced_nodes(delegate, makers))
    return _delegation(0, [str(node["op_name"]) for node in plain], taken)


def _replaced_nodes(delegate: Any, makers: dict[int, Any]) -> Iterator[int]:
    """Return the nodes between the inputs and the outputs of a delegate."""
    borders = {int(tensor) for tensor in delegate["inputs"]}
    waiting = [int(tensor) for tensor in delegate["outputs"]]
    seen: set[int] = set()
    while waiting:
        tensor = waiting.pop()
        if tensor in borders or tensor not in makers:
            continue
        node = makers[tensor]
        if int(node["index"]) in seen:
            continue
        seen.add(int(node["index"]))
        yield int(node["index"])
        waiting += [int(tensor) for tensor in node["inputs"]]


def _delegation(graph: int, kinds: Sequence[str], taken: set[int]) -> dict[str, Any]:
    return {
        "graph": graph,
        "taken": dict(Counter(kinds[node] for node in sorted(taken))),
        "left": dict(Counter(kind for node, kind in enumerate(kinds) if node not in taken)),
        "nodes": sorted(taken),
    }
