"""Interleaved rounds on a simulated machine: drift must not change the result."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from bilstm_bench.statistics import compare_latencies, paired_ratio
from bilstm_bench.timing import Contender, Schedule, run_rounds
from bilstm_runtime.errors import BackendRunError


class Machine:
    """A machine whose clock runs only while it works, at a speed that changes."""

    def __init__(self, slowness, jitter=0.0):
        self.now = 0
        self._slowness = slowness
        self._jitter = jitter
        self._rng = np.random.default_rng(3)
        self.order = []

    def clock(self):
        return self.now

    def work(self, key, ms):
        def call():
            self.order.append(key)
            noise = 1 + self._jitter * self._rng.exponential()
            self.now += round(ms * 1e6 * self._slowness(self.now / 1e9) * noise)

        return call

    def contender(self, key, ms, group="g", bare=False):
        return Contender(key, group, self.work(key, ms), self.work(key, ms) if bare else None)


def measure(machine, contenders, rounds=30, seconds=1e9, **options):
    schedule = Schedule(rounds, min_rounds=6, seconds=seconds)
    return run_rounds(contenders, schedule, clock=machine.clock, **options)


@pytest.mark.parametrize("seed", range(8))
def test_equal_work_on_a_machine_that_grows_hot_is_no_difference(seed):
    """One after the other, the same machine would call the first one the winner by far."""

    def hotter(seconds):
        return 1 + seconds

    machine = Machine(hotter, jitter=0.05)
    contenders = [machine.contender("a", 1), machine.contender("b", 1)]
    found = measure(machine, contenders, rounds=40, seed=seed)
    a, b = found.samples["a"].calls, found.samples["b"].calls
    assert np.median(a[39]) > 1.3 * np.median(a[0])  # it did grow hot
    assert compare_latencies(a, b).verdict == "no difference"

    in_turn = [measure(machine, [machine.contender(k, 1)]).samples[k].calls for k in "ab"]
    assert compare_latencies(*in_turn).verdict == "slower"


def test_of_any_two_neither_comes_later_more_often():
    machine = Machine(lambda _: 1)
    measure(machine, [machine.contender(key, 20) for key in "abcd"], rounds=10)
    turns = machine.order[-10 * 4 * 2 :: 2]
    rounds = [turns[i : i + 4] for i in range(0, 40, 4)]
    for one, other in ("ab", "ac", "ad", "bc", "bd", "cd"):
        assert sum(order.index(one) < order.index(other) for order in rounds) == 5


def test_a_real_difference_shows_on_a_machine_that_jumps():
    machine = Machine(lambda seconds: 3 if int(seconds * 7) % 2 else 1, jitter=0.05)
    found = measure(machine, [machine.contender("a", 1.2), machine.contender("b", 1)])
    comparison = compare_latencies(found.samples["a"].calls, found.samples["b"].calls)
    assert comparison.verdict == "faster"
    assert comparison.ratio.low < 1.2 < comparison.ratio.high * 1.02


def test_every_contender_has_its_turn_in_every_round_in_changing_order():
    machine = Machine(lambda _: 1)
    keys = ["a", "b", "c"]
    found = measure(machine, [machine.contender(key, 20, bare=True) for key in keys], rounds=8)
    assert found.rounds == 8
    for key in keys:
        samples = found.samples[key]
        assert list(samples.calls) == list(samples.bare) == list(samples.first) == list(range(8))
    turns = machine.order[-8 * 3 * 3 :]  # a first call, one that counts, and one bare
    orders = {tuple(dict.fromkeys(turns[i : i + 9])) for i in range(0, len(turns), 9)}
    assert all(sorted(order) == keys for order in orders)
    assert len(orders) > 1


def test_one_group_runs_together():
    machine = Machine(lambda _: 1)
    contenders = [machine.contender(f"{g}{n}", 20, group=g) for n in range(3) for g in "xy"]
    measure(machine, contenders, rounds=6)
    turns = [key[0] for key in machine.order[-6 * 6 * 2 :]]
    for start in range(0, len(turns), 12):
        assert len(set(turns[start : start + 6])) == 1


def test_time_ends_the_rounds_but_not_before_there_are_enough():
    machine = Machine(lambda _: 1)
    assert measure(machine, [machine.contender("a", 1)], seconds=0, rounds=50).rounds == 6
    assert measure(machine, [machine.contender("a", 1)], seconds=0.2, rounds=500).rounds < 50


def test_an_interruption_keeps_what_there_is():
    machine = Machine(lambda _: 1)
    contender = machine.contender("a", 20)

    def stop(number):
        if number == 7:
            raise KeyboardInterrupt

    found = measure(machine, [contender], progress=stop)
    assert found.interrupted
    assert list(found.samples["a"].calls) == list(range(7))


def test_an_interruption_in_the_warm_up_keeps_nothing_but_raises_nothing():
    def call():
        raise KeyboardInterrupt

    found = run_rounds([Contender("a", "g", call)], Schedule(3, min_rounds=1, seconds=1))
    assert found.interrupted
    assert found.rounds == 0


def test_a_contender_that_fails_is_taken_out():
    machine = Machine(lambda _: 1)
    calls = []

    def failing():
        calls.append(None)
        machine.now += 30_000_000
        if len(calls) > 6:
            message = "it broke"
            raise BackendRunError(message)

    found = measure(machine, [Contender("bad", "g", failing), machine.contender("a", 20)])
    assert found.samples["bad"].failure == "it broke"
    assert len(found.samples["a"].calls) == 30
    assert paired_ratio(found.samples["bad"].calls, found.samples["a"].calls)[1] < 5


def test_nothing_is_collected_while_the_clock_runs():
    seen = []
    contender = Contender("a", "g", lambda: seen.append(gc.isenabled()))
    run_rounds([contender], Schedule(2, min_rounds=2, seconds=0))
    assert not any(seen[-4:])
    assert gc.isenabled()


@pytest.mark.parametrize("seed", range(3))
def test_the_order_is_that_of_the_seed(seed):
    orders = []
    for _ in range(2):
        machine = Machine(lambda _: 1)
        measure(machine, [machine.contender(key, 20) for key in "abcd"], rounds=6, seed=seed)
        orders.append(machine.order)
    assert orders[0] == orders[1]
