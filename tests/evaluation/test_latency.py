"""Timing, with a fake clock that the models advance."""

import numpy as np
import pytest

from bilstm_exporter.evaluation.dataset import Dataset
from bilstm_exporter.evaluation.latency import (
    EXAMPLES,
    MAX_ROUNDS,
    MIN_ROUNDS,
    STATED,
    WARM_UP_CALLS,
    latencies_ms,
    latency_examples,
)
from bilstm_runtime.errors import BackendRunError
from bilstm_runtime.predictor import Predictor
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec, StateSpec

BATCH, TIME = Axis("batch", None), Axis("time", None)
IDS = InputSpec("ids", "int32", (BATCH, TIME), range=(0, 9), mask_value=0)
SUM = OutputSpec("sum", "float32", (BATCH,))
SUMS = ModelSpec("sums", (IDS,), (SUM,), padding_neutral=True, rows_independent=True)


class Session:
    """Runs a function."""

    def __init__(self, function):
        self._function = function

    def run(self, arrays):
        return self._function(*arrays)


def predictor(function, spec=SUMS):
    return Predictor(spec, Session(function), label="test")


class Clock:
    """Moves only while models run."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return round(self.now * 1e9)

    def model(self, seconds, log=None, name=""):
        """A model that takes these seconds in turn, after its warm-up, which takes long."""
        calls = 0

        def run(ids):
            nonlocal calls
            warm = calls >= WARM_UP_CALLS * EXAMPLES
            self.now += seconds[calls % len(seconds)] if warm else 1.0
            calls += 1
            if log is not None and warm:
                log.append(name)
            return [ids.sum(axis=1).astype(np.float32)]

        return predictor(run)


def dataset(column):
    return Dataset({"ids": column}, {}, len(column), len(column), "test")


def examples():
    return latency_examples(dataset(np.ones((9, 4), np.int32)), SUMS)


def test_the_median_of_calls_in_turn_after_a_warm_up():
    clock, log = Clock(), []
    models = [clock.model([0.004, 0.002, 0.003], log, "a"), clock.model([0.001], log, "b")]
    assert latencies_ms(models, examples(), clock=clock) == pytest.approx([3, 1])
    turns = [log[i : i + 2] for i in range(0, len(log), 2)]
    assert [sorted(turn) for turn in turns] == [["a", "b"]] * (MAX_ROUNDS * EXAMPLES)
    assert turns.count(["a", "b"]) == turns.count(["b", "a"])


def test_what_the_report_says_of_it():
    assert STATED.startswith(f"the median of {MAX_ROUNDS} rounds over {EXAMPLES} examples")
    assert f"after {WARM_UP_CALLS} unmeasured calls per example" in STATED


def test_a_slow_model_runs_in_fewer_rounds():
    clock, log = Clock(), []
    found = latencies_ms([clock.model([0.5], log, "a")], examples(), clock=clock)
    assert found == pytest.approx([500])
    assert len(log) == MIN_ROUNDS * EXAMPLES


def test_a_stateful_model_is_reset_before_every_call():
    state = StateSpec("state", "float32", (Axis("batch", 1), Axis(None, 1)))
    spec = ModelSpec(
        "stateful",
        (InputSpec("ids", "int32", (Axis("batch", 1), TIME), range=(0, 9)),),
        (OutputSpec("sum", "float32", (Axis("batch", 1),)),),
        states=(state,),
    )
    seen = set()

    def run(ids, state):
        seen.add(float(state[0, 0]))
        return [ids.sum(axis=1).astype(np.float32), state + 1]

    inputs = [{"ids": np.ones((1, 4), np.int32)}] * 2
    latencies_ms([predictor(run, spec)], inputs)
    assert seen == {0.0}


def test_a_model_that_fails_raises():
    def run(ids):
        message = "no luck"
        raise BackendRunError(message)

    with pytest.raises(BackendRunError, match="no luck"):
        latencies_ms([predictor(run)], examples())


def test_examples_of_ordinary_length_run_one_by_one():
    data = [np.ones(n, np.int32) for n in (1, 9, 5, 5, 4, 6, 30)]
    found = latency_examples(dataset(data), SUMS)
    assert [q["ids"].shape for q in found] == [(1, 5), (1, 5), (1, 4), (1, 6), (1, 1)]


def test_a_fixed_batch_runs_whole():
    ids = InputSpec("ids", "int32", (Axis("batch", 2), TIME), range=(0, 9))
    spec = ModelSpec("sums", (ids,), (SUM,))
    found = latency_examples(dataset(np.ones((5, 3), np.int32)), spec)
    assert [q["ids"].shape for q in found] == [(2, 3), (2, 3)]
    few = latency_examples(dataset(np.ones((1, 3), np.int32)), spec)
    assert [q["ids"].shape for q in few] == [(1, 3)]
