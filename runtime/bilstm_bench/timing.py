"""Interleaved rounds: every contender has its turn in every round.

A machine that grows hot, or that has other work for a while, slows all contenders of a round
alike; what is compared is what stands in the same round. And every second round runs in the
opposite order of the one before, so that of any two neither comes later more often.
"""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from bilstm_runtime.errors import BilstmRuntimeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bilstm_bench.contender import Contender

WARM_UP_RUNS: Final = 3
WARM_UP_NS: Final = 20_000_000
"""A contender is warm after so many runs and so many nanoseconds, whichever is later."""

TURN_NS: Final = 10_000_000
"""A turn takes about so long, in which a contender runs once or more often."""

MOST_RUNS: Final = 50
"""Runs of a turn at most."""


@dataclass
class Samples:
    """What the turns of one contender took.

    Attributes:
        calls: Nanoseconds of each call, by round.
        bare: Nanoseconds of each run without what `predict` adds, by round.
        first: Nanoseconds of the first call of each turn, which comes after another contender
            and is not among `calls`, by round.
        failure: Why it was taken out; empty if it was not.
    """

    calls: dict[int, list[int]] = field(default_factory=dict)
    bare: dict[int, list[int]] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)
    failure: str = ""


@dataclass
class Measured:
    """What the rounds gave.

    Attributes:
        samples: By the key of the contender.
        rounds: How many rounds were begun.
        interrupted: Whether the user ended them early.
    """

    samples: dict[str, Samples]
    rounds: int = 0
    interrupted: bool = False


def run_rounds(  # noqa: PLR0913 (by name)
    contenders: Sequence[Contender],
    *,
    rounds: int,
    seconds: float,
    least: int,
    seed: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
    progress: Callable[[int], None] = lambda _: None,
) -> Measured:
    """Warm up, then let every contender run in every round.

    The order is drawn for every other round, and turned around for those between.

    Args:
        contenders: What is timed.
        rounds: How many rounds at most.
        seconds: No round is begun later than this, once `least` are done.
        least: How many rounds at least.
        seed: For the order.
        clock: Nanoseconds.
        progress: Called with the number of each round as it begins.

    Returns:
        What was measured, also where the user interrupts.
    """
    rng = np.random.default_rng(seed)
    measured = Measured({contender.key: Samples() for contender in contenders})
    try:
        runs = {c.key: _warm_up(c, measured.samples[c.key], clock) for c in contenders}
        begin = clock()
        order = list(contenders)
        for number in range(rounds):
            if number >= least and clock() - begin > seconds * 1e9:
                break
            progress(number)
            measured.rounds = number + 1
            order = _order(contenders, rng) if number % 2 == 0 else order[::-1]
            for contender in order:
                samples = measured.samples[contender.key]
                if not samples.failure:
                    _turn(contender, samples, number, runs[contender.key], clock)
    except KeyboardInterrupt:
        measured.interrupted = True
    return measured


def _warm_up(contender: Contender, samples: Samples, clock: Callable[[], int]) -> int:
    """Run until warm; returns how many runs fill a turn."""
    taken: list[int] = []
    begin = clock()
    try:
        while len(taken) < WARM_UP_RUNS or clock() - begin < WARM_UP_NS:
            taken += _timed(contender.call, 1, clock)
            if contender.bare is not None:
                contender.bare()
    except BilstmRuntimeError as error:
        samples.failure = str(error)
        return 1
    return int(min(max(TURN_NS / max(statistics.median(taken), 1), 1), MOST_RUNS))


def _order(contenders: Sequence[Contender], rng: np.random.Generator) -> list[Contender]:
    """All contenders, group by group, both in an order drawn anew."""
    groups: dict[str, list[Contender]] = {}
    for contender in contenders:
        groups.setdefault(contender.group, []).append(contender)
    names = list(groups)
    return [
        groups[names[i]][j]
        for i in rng.permutation(len(names)).tolist()
        for j in rng.permutation(len(groups[names[i]])).tolist()
    ]


def _turn(
    contender: Contender, samples: Samples, number: int, runs: int, clock: Callable[[], int]
) -> None:
    """One turn: a first call that is kept apart, then those that count."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        first = _timed(contender.call, 1, clock)[0]
        calls = _timed(contender.call, runs, clock)
        bare = [] if contender.bare is None else _timed(contender.bare, runs, clock)
    except BilstmRuntimeError as error:
        samples.failure = str(error)
        return
    finally:
        if was_enabled:
            gc.enable()
    samples.first[number] = first
    samples.calls[number] = calls
    if bare:
        samples.bare[number] = bare


def _timed(call: Callable[[], object], runs: int, clock: Callable[[], int]) -> list[int]:
    taken = []
    for _ in range(runs):
        begin = clock()
        call()
        taken.append(clock() - begin)
    return taken
