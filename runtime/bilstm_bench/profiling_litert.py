"""What LiteRT's own profiler says, and which nodes XNNPACK took; run in a fresh process."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bilstm_bench.litert_profiler import ProfiledModel, RawEvent
from bilstm_bench.profiling import RUNS, WARM_UP, Event, plain_run_us, summarize_events
from bilstm_bench.recording import Recorded, record_runs
from bilstm_runtime.errors import BackendRunError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bilstm_runtime.values import AnyArray

_NOTE: Final = (
    "XNNPACK tells the time of each operator in whole microseconds, rounded down. What is lost by "
    "that, loops handing on their values, and LiteRT's other work between the operators are the "
    "rest."
)
_DIFFERS: Final = (
    "The times are of LiteRT's CompiledModel, which has the profiler, and which gives XNNPACK "
    "other nodes of this main graph than the Interpreter that predictions use."
)
_RUN: Final = "LiteRT::Run[buffer registration]"
_CONTROL: Final = ("WHILE", "IF", "CALL_ONCE")
"""Operators that run other graphs, whose operators are noted themselves."""

_INTERPRETER, _OPERATOR, _DELEGATED = 1, 2, (4, 8)


def profile_litert(task: dict[str, Any]) -> dict[str, Any]:
    """Profile one file; see `bilstm_bench.profiling.profile_here`.

    The main graph's nodes are asked of the interpreter, which is what users run; times, and the
    nodes of loops, of LiteRT's profiler, which has another interface to the same kernels.
    """
    recorded = record_runs(task)
    kinds = _node_kinds(recorded.content)
    interpreted = _delegated_by_interpreter(recorded, task["threads"])
    run_us = plain_run_us(lambda: recorded.session.run(recorded.runs[0]))
    try:
        events = _events(recorded, task["threads"])
        times = summarize_events(_times(events), RUNS, run_us)
        delegated = _delegations(kinds, events) if kinds else []
        failure = ""
    except BackendRunError as error:
        times = {"runs": 0, "run_us": run_us, "operators": [], "nodes": []}
        delegated, failure = [], f"LiteRT's profiler cannot be used here: {error}"
    by_graph = {item["graph"]: item for item in delegated}
    differs = by_graph.get(0, interpreted) != interpreted
    by_graph[0] = interpreted
    notes = [_NOTE]
    if differs:
        notes.append(_DIFFERS)
    if failure or not kinds:
        notes = ["Only the main graph's nodes are listed, not those of loops."]
    return {
        **times,
        "delegated": [by_graph[graph] for graph in sorted(by_graph)],
        "notes": notes,
        "failure": failure,
    }


def _events(recorded: Recorded, threads: int) -> list[RawEvent]:
    """Profile the first run that the session was given."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 (only where it is used)

    interpreter = Interpreter(model_content=recorded.content)
    given = dict(zip(recorded.artifact.inputs, recorded.runs[0], strict=True))
    # What the profiled model will answer is not asked of it: where the size of an answer follows
    # from the input, it would tell a size that is too small.
    answers = recorded.session.run(recorded.runs[0])
    known = dict(zip(recorded.artifact.outputs, answers, strict=True))
    inputs = _as_stored(given, _details(interpreter, "input"))
    outputs = _as_stored(known, _details(interpreter, "output"))
    model = ProfiledModel(recorded.content, inputs, outputs, threads)
    for _ in range(WARM_UP):
        model.run()
    if not model.gives_the_answers():
        msg = "the profiled model answers something else than the interpreter"
        raise BackendRunError(msg)
    return model.profile(RUNS)


def _as_stored(arrays: Mapping[str, AnyArray], details: Mapping[str, Any]) -> dict[str, AnyArray]:
    """Floats as the integers that a file of full integers takes and gives in their place."""
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
    """The inputs or outputs of the file's only signature, by name.

    The runner that tells them is let go of: while it is there, no memory can be planned.
    """
    runner = interpreter.get_signature_runner(next(iter(interpreter.get_signature_list())))
    found: dict[str, Any] = getattr(runner, f"get_{side}_details")()
    return found


def _times(events: Sequence[RawEvent]) -> list[Event]:
    """The operators of all runs; of those that run other graphs nothing but those graphs."""
    run, found = -1, []
    for event in events:
        if event.tag == _RUN and event.type == _INTERPRETER:
            run += 1
        elif event.type in _DELEGATED:
            found.append(Event(run, event.tag, _where(event), "XNNPACK", float(event.elapsed_us)))
        elif event.type == _OPERATOR and event.tag not in _CONTROL:
            found.append(Event(run, event.tag, _where(event), "LiteRT", float(event.elapsed_us)))
    if run + 1 != RUNS or any(event.run < 0 for event in found):
        msg = f"it noted {run + 1} runs, not {RUNS}"
        raise BackendRunError(msg)
    return found


def _where(event: RawEvent) -> str:
    return f"#{event.node}" if event.graph == 0 else f"#{event.node} of graph {event.graph}"


def _node_kinds(content: bytes) -> list[list[str]]:
    """The kind of every node by graph; empty where the package has no reader for the format."""
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
    """For each graph that ran: nodes that LiteRT's own kernels never ran were taken."""
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


def _delegated_by_interpreter(recorded: Recorded, threads: int) -> dict[str, Any]:
    """The main graph as the interpreter runs it: what its delegates stand for."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    interpreter = Interpreter(model_content=recorded.content, num_threads=threads)
    places = {name: int(item["index"]) for name, item in _details(interpreter, "input").items()}
    for name, array in zip(recorded.artifact.inputs, recorded.runs[0], strict=True):
        interpreter.resize_tensor_input(places[name], array.shape)
    interpreter.allocate_tensors()
    nodes = interpreter._get_ops_details()  # noqa: SLF001 (the only way to the nodes)
    plain = [node for node in nodes if node["op_name"] != "DELEGATE"]
    # -1 stands for an input or output that is not there.
    maker = {int(t): node for node in plain for t in node["outputs"] if int(t) >= 0}
    taken: set[int] = set()
    for delegate in (node for node in nodes if node["op_name"] == "DELEGATE"):
        taken |= set(_behind(delegate, maker))
    return _delegation(0, [str(node["op_name"]) for node in plain], taken)


def _behind(delegate: Any, maker: dict[int, Any]) -> Iterator[int]:
    """The nodes between what a delegate takes and what it gives."""
    given = {int(tensor) for tensor in delegate["inputs"]}
    waiting = [int(tensor) for tensor in delegate["outputs"]]
    seen: set[int] = set()
    while waiting:
        tensor = waiting.pop()
        if tensor in given or tensor not in maker:
            continue
        node = maker[tensor]
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
