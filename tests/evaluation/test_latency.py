"""Timing, with a clock that the models themselves move."""

import numpy as np
import pytest

from bilstm_exporter.evaluation.data import read_data
from bilstm_exporter.evaluation.latency import EXAMPLES, ROUNDS, WARM_UPS, latencies_ms, questions
from bilstm_runtime.spec import Axis, InputSpec

from .fakes import TIME, model_spec, output, predictor

SUMS = model_spec(outputs=[output(name="sum")])


class Clock:
    """Stands still but for what models take."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def model(self, seconds, log=None, name=""):
        """A model that takes these seconds in turn, after its warm-up, which takes long."""
        calls = 0

        def answer(ids):
            nonlocal calls
            warm = calls >= WARM_UPS * EXAMPLES
            self.now += seconds[calls % len(seconds)] if warm else 1.0
            calls += 1
            if log is not None and warm:
                log.append(name)
            return [ids.sum(axis=1).astype(np.float32)]

        return predictor(answer, SUMS)


def asked():
    return questions(read_data(np.ones((9, 4), int), SUMS), SUMS)


def test_the_median_of_calls_in_turn_after_a_warm_up():
    clock, log = Clock(), []
    models = [clock.model([0.004, 0.002, 0.003], log, "a"), clock.model([0.001], log, "b")]
    found = latencies_ms(models, asked(), clock=clock)
    assert found == pytest.approx([3, 1])
    assert log == ["a", "b"] * (ROUNDS * EXAMPLES)


def test_a_slow_model_is_run_in_fewer_rounds():
    clock, log = Clock(), []
    found = latencies_ms([clock.model([0.5], log, "a")], asked(), clock=clock)
    assert found == pytest.approx([500])
    assert len(log) == 3 * EXAMPLES


def test_examples_of_ordinary_length_are_asked_one_by_one():
    examples = [[1] * n for n in (1, 9, 5, 5, 4, 6, 30)]
    found = questions(read_data(examples, SUMS), SUMS)
    assert [q["ids"].shape for q in found] == [(1, 5), (1, 5), (1, 4), (1, 6), (1, 1)]


def test_a_fixed_batch_is_asked_whole():
    ids = InputSpec("ids", "int32", (Axis("batch", 2), TIME), range=(0, 9))
    described = model_spec([ids], [output(name="sum")])
    found = questions(read_data(np.ones((5, 3), int), described), described)
    assert [q["ids"].shape for q in found] == [(2, 3), (2, 3)]
    few = questions(read_data(np.ones((1, 3), int), described), described)
    assert [q["ids"].shape for q in few] == [(1, 3)]
