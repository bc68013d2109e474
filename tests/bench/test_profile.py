"""Time per operator from the backends' profilers, and the nodes that XNNPACK runs."""

from __future__ import annotations

import json
import sys

import pytest

from bilstm_bench import litert_profiler, processes, profiling
from bilstm_bench.contenders import OpenedVariant
from bilstm_bench.plan import Choice, Shape, make_inputs, make_plan
from bilstm_bench.profiling import REST, Event, summarize_events, take_profile
from bilstm_bench.tables import ranges
from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.errors import BackendRunError

from .conftest import FIXTURES

needs_onnx = pytest.mark.skipif(not BACKENDS["onnx"].is_installed, reason="needs onnx")
needs_litert = pytest.mark.skipif(not BACKENDS["litert"].is_installed, reason="needs litert")


def profiled(bundle, backend):
    plan = make_plan(bundle, Choice(threads=(1,), lengths=None, backends=(backend,)))
    return take_profile(bundle, plan, plan.variants[0], plan.middle)


def test_shares_are_of_the_whole_run(opened, backend):
    found = profiled(opened("pair"), backend)
    assert not found.failure, found.failure
    assert found.runs == 20
    assert found.run_us > 0
    assert sum(item.share for item in found.operators) == pytest.approx(1)
    assert all(item.us >= 0 for item in found.operators)
    assert [item.us for item in found.operators] == sorted(
        (item.us for item in found.operators), reverse=True
    )


@needs_onnx
def test_onnxruntime_names_the_operators_and_nodes(opened):
    found = profiled(opened("tagger"), "onnx")
    kinds = {item.name for item in found.operators if item.kernel == "onnxruntime"}
    assert kinds & {"Gather", "MatMul", "Softmax"}
    assert found.delegated == ()
    assert REST in {item.name for item in found.operators}


@needs_litert
def test_litert_says_which_nodes_xnnpack_took(opened):
    found = profiled(opened("tagger"), "litert")
    main = found.delegated[0]
    assert main.graph == 0
    assert main.taken["FULLY_CONNECTED"] == 1
    assert main.left["GATHER"] == 1
    assert len(main.nodes) == sum(main.taken.values())
    assert any(item.kernel == "XNNPACK" for item in found.operators)
    assert any(item.kernel == "LiteRT" for item in found.operators)


@needs_litert
@pytest.mark.parametrize("name", ["classifier", "fixed", "pair", "pooled", "tagger"])
def test_both_ways_to_ask_litert_agree_on_the_main_graph(opened, name, monkeypatch):
    """What the interpreter delegated, and what its profiler never saw LiteRT's kernels run."""

    bundle = opened(name)
    plan = make_plan(bundle, Choice(threads=(1,), backends=("litert",)))
    file = OpenedVariant(bundle, plan.variants[0])
    arrays = file.record(make_inputs(file.spec, plan.middle))[0]
    interpreted = profiling._delegated_by_interpreter(file, arrays)
    kinds = profiling._node_kinds(file.content)
    events = profiling._litert_events(file, arrays)
    seen = {item["graph"]: item for item in profiling._delegations(kinds, events)}
    assert seen[0] == interpreted


def test_tensors_that_are_not_there_lead_to_no_node():
    """LiteRT writes -1 for a bias that is missing, and for an output that nobody reads."""
    places = {"inputs": [-1, 5], "outputs": [-1, 9]}
    nodes = {"index": 0, **places}, {"index": 1, "inputs": [4, -1], "outputs": [5]}
    maker = {int(t): node for node in nodes for t in node["outputs"] if int(t) >= 0}
    delegate = {"inputs": [4], "outputs": [5]}
    assert list(profiling._replaced_nodes(delegate, maker)) == [1]


@needs_litert
def test_where_they_disagree_that_is_said(opened, monkeypatch):
    bundle = opened()
    plan = make_plan(bundle, Choice(threads=(1,), backends=("litert",)))
    task = processes.task_of(bundle, plan, plan.variants[0], plan.middle)
    assert "other nodes" not in " ".join(profiling.profile_file(task)["notes"])
    interpreted = {"graph": 0, "taken": {}, "left": {"ADD": 1}, "nodes": []}
    monkeypatch.setattr(profiling, "_delegated_by_interpreter", lambda *_: interpreted)
    found = profiling.profile_file(task)
    assert "other nodes of this main graph" in " ".join(found["notes"])
    assert found["delegated"][0] == interpreted


@needs_litert
def test_times_of_other_answers_are_not_shown(opened):
    """This file counts its runs, so that what the profiler runs is not what users run."""
    found = profiled(opened("leaky"), "litert")
    assert "has other outputs" in found.failure
    assert found.operators == ()
    assert found.delegated


@needs_litert
def test_a_litert_without_a_profiler_is_said_and_the_nodes_are_given(opened, monkeypatch):
    def refuse(*_):
        message = "this LiteRT has no LiteRtCompiledModelGetProfiler"
        raise BackendRunError(message)

    monkeypatch.setattr(profiling, "ProfiledModel", refuse)
    bundle = opened()
    plan = make_plan(bundle, Choice(threads=(1,), backends=("litert",)))
    found = profiling.profile_file(processes.task_of(bundle, plan, plan.variants[0], plan.middle))
    assert "cannot be used here: this LiteRT has no" in found["failure"]
    assert found["operators"] == []
    assert found["delegated"][0]["taken"]


def test_a_profiler_that_crashes_is_reported(opened, backend, monkeypatch):
    monkeypatch.setattr(processes, "COMMAND", "import os; os.abort()")
    found = profiled(opened(), backend)
    assert "crashed with signal 6 (SIGABRT)" in found.failure or "ended with" in found.failure
    assert found.operators == ()


def test_a_profiler_that_hangs_is_stopped_and_reported(opened, backend, monkeypatch):
    monkeypatch.setattr(processes, "COMMAND", "import time; time.sleep(60)")
    bundle = opened()
    plan = make_plan(bundle, Choice(threads=(1,), backends=(backend,)))
    found = take_profile(bundle, plan, plan.variants[0], plan.middle, time_limit_s=0.5)
    assert found.failure == "the fresh process did not finish within 0.5 s and was stopped"


@needs_litert
def test_a_missing_library_of_litert_is_reported(opened, monkeypatch):
    monkeypatch.setattr(litert_profiler, "_LIBRARIES", {sys.platform: "libNone.so"})
    bundle = opened()
    plan = make_plan(bundle, Choice(threads=(1,), backends=("litert",)))
    found = profiling.profile_file(processes.task_of(bundle, plan, plan.variants[0], plan.middle))
    assert "cannot be used here: libNone.so cannot be opened" in found["failure"]
    assert found["operators"] == []
    assert found["delegated"][0]["taken"]


def test_what_the_operators_leave_of_a_run_is_the_rest():
    events = [Event(run, "LSTM", "a", "k", 30.0 + run) for run in range(3)]
    events += [Event(run, "Add", node, "k", 5.0) for run in range(3) for node in "bc"]
    events[0] = Event(0, "LSTM", "a", "k", 900.0)  # a run that was held up
    found = summarize_events(events, 3, 50.0)
    rows = {item["name"]: item for item in found["operators"]}
    assert (rows["LSTM"]["us"], rows["LSTM"]["calls"]) == (32.0, 1.0)
    assert (rows["Add"]["us"], rows["Add"]["calls"]) == (10.0, 2.0)
    assert rows[REST]["us"] == 8.0
    assert rows["LSTM"]["share"] == pytest.approx(0.64)
    assert {item["name"] for item in found["nodes"]} == {"LSTM a", "Add b", "Add c", REST}


def test_nodes_inside_of_nodes_are_not_counted_twice():
    def node(name, ts, dur):
        return {"name": name, "ts": ts, "dur": dur}

    nodes = [node("scan", 0, 100), node("add", 10, 20), node("mul", 40, 30), node("out", 100, 5)]
    own = {event["name"]: us for event, us in profiling._without_inner(nodes)}
    assert own == {"scan": 50, "add": 20, "mul": 30, "out": 5}


def test_the_tables_show_it(run, backend):
    ran = run(
        FIXTURES / "tagger", "--threads", "1", "--lengths", "5", "--only", "profile",
        "--backend", backend, "--quiet",
    )  # fmt: skip
    assert ran.code == 0
    assert f"Time by operator: {backend} float32, 1 thread; 5 steps, batch 1" in ran.out
    assert ("Nodes run by XNNPACK" in ran.out) is (backend == "litert")


def test_it_is_in_the_json(run, backend):
    ran = run(
        FIXTURES / "tagger", "--threads", "1", "--lengths", "5", "--only", "profile",
        "--backend", backend, "--quiet", "--json",
    )  # fmt: skip
    (found,) = json.loads(ran.out)["profiles"]
    assert found["shape"] == {"length": 5, "batch": 1}
    assert set(found["operators"][0]) == {"name", "kernel", "calls", "us", "share"}


def test_numbers_are_shown_in_few_words():
    assert ranges([]) == "-"
    assert ranges([4]) == "4"
    assert ranges([0, 1, 5, 7, 8, 9]) == "0-1, 5, 7-9"


def test_a_shape_knows_its_steps():
    assert Shape(5, 3).steps == 15
    assert Shape(None, 3).steps == 3
