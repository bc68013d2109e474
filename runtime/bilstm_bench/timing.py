"""Interleaved rounds: the one place that times several calls in turns.

A machine that grows hot, or that is busy for a while, slows every contender of a round alike, so
only times of the same round are compared. Every second round runs in the reverse order of the one
before it: of any two contenders, neither comes later more often.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bilstm_runtime.errors import BilstmRuntimeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Contender:
    """Something to be timed.

    Attributes:
        key: Its name, unique within a measurement.
        group: Contenders of one group run one after another, and are compared.
        call: What is timed.
        bare: The same without what `predict` adds; None if there is nothing to leave out.
        prepare: Runs before each timed call, and is not timed; None for nothing.
    """

    key: str
    group: str
    call: Callable[[], object]
    bare: Callable[[], object] | None = None
    prepare: Callable[[], object] | None = None


@dataclass(frozen=True)
class Schedule:
    """How often and how long everything runs.

    Attributes:
        max_rounds: The maximum number of rounds.
        min_rounds: The minimum number of rounds.
        seconds: No round begins later than this, once there are `min_rounds`.
        warm_up_calls: The minimum number of calls before the first round.
        warm_up_ns: The minimum duration of those calls.
        turn_ns: A turn takes about this long, and has at least one call.
        max_calls: The maximum number of calls in a turn.
        has_switch_call: Whether a turn begins with one more call that is recorded apart: after
            another contender, caches hold other data.
    """

    max_rounds: int
    min_rounds: int
    seconds: float = math.inf
    warm_up_calls: int = 3
    warm_up_ns: int = 20_000_000
    turn_ns: int = 10_000_000
    max_calls: int = 50
    has_switch_call: bool = True


@dataclass
class Samples:
    """What the turns of one contender took.

    Attributes:
        calls: Nanoseconds of each call, by round.
        bare: Nanoseconds of each bare call, by round.
        first: Nanoseconds of the first call of each turn, by round. It comes after another
            contender and is not among `calls`. Empty without `Schedule.has_switch_call`.
        error: Why it was taken out; None if it was not.
    """

    calls: dict[int, list[int]] = field(default_factory=dict)
    bare: dict[int, list[int]] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)
    error: BilstmRuntimeError | None = None

    @property
    def failure(self) -> str:
        """The message of `error`, or ""."""
        return "" if self.error is None else str(self.error)


@dataclass
class Measured:
    """What the rounds found.

    Attributes:
        samples: By the key of the contender.
        rounds: How many rounds began.
        interrupted: Whether the user ended them early.
    """

    samples: dict[str, Samples]
    rounds: int = 0
    interrupted: bool = False


def run_rounds(
    contenders: Sequence[Contender],
    schedule: Schedule,
    *,
    seed: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
    progress: Callable[[int], None] = lambda _: None,
) -> Measured:
    """Warm up, then run every contender in every round.

    The order is random in every other round, and reversed in the round after it. A contender
    that raises a `BilstmRuntimeError` is taken out.

    Args:
        contenders: What is timed.
        schedule: How often.
        seed: For the order.
        clock: Nanoseconds.
        progress: Called with the number of each round as it begins.

    Returns:
        What was measured, also if the user interrupts.
    """
    rng = np.random.default_rng(seed)
    measured = Measured({contender.key: Samples() for contender in contenders})
    try:
        counts = {
            contender.key: _warm_up(contender, measured.samples[contender.key], schedule, clock)
            for contender in contenders
        }
        begin = clock()
        order = list(contenders)
        for number in range(schedule.max_rounds):
            if number >= schedule.min_rounds and clock() - begin > schedule.seconds * 1e9:
                break
            progress(number)
            measured.rounds = number + 1
            order = _order(contenders, rng) if number % 2 == 0 else order[::-1]
            for contender in order:
                samples = measured.samples[contender.key]
                if samples.error is None:
                    count = counts[contender.key]
                    _turn(contender, samples, number, (count, schedule.has_switch_call), clock)
    except KeyboardInterrupt:
        measured.interrupted = True
    return measured


def time_calls(
    call: Callable[[], object],
    count: int,
    *,
    clock: Callable[[], int] = time.perf_counter_ns,
    prepare: Callable[[], object] | None = None,
) -> list[int]:
    """Nanoseconds of each of `count` calls in a row; see `Contender.prepare`."""
    taken = []
    for _ in range(count):
        if prepare is not None:
            prepare()
        begin = clock()
        call()
        taken.append(clock() - begin)
    return taken


def _warm_up(
    contender: Contender, samples: Samples, schedule: Schedule, clock: Callable[[], int]
) -> int:
    """Call until warm.

    Returns:
        How many calls fill a turn.
    """
    taken: list[int] = []
    begin = clock()
    try:
        while len(taken) < schedule.warm_up_calls or clock() - begin < schedule.warm_up_ns:
            taken += time_calls(contender.call, 1, clock=clock, prepare=contender.prepare)
            if contender.bare is not None:
                contender.bare()
    except BilstmRuntimeError as error:
        samples.error = error
        return 1
    usual = max(statistics.median(taken), 1)
    return int(min(max(schedule.turn_ns / usual, 1), schedule.max_calls))


def _order(contenders: Sequence[Contender], rng: np.random.Generator) -> list[Contender]:
    """All contenders, group by group; the order of groups and within a group is random."""
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
    contender: Contender,
    samples: Samples,
    number: int,
    plan: tuple[int, bool],
    clock: Callable[[], int],
) -> None:
    """One turn, without garbage collection: the switch call if planned, then `plan[0]` calls."""
    count, has_switch_call = plan
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        prepare = contender.prepare
        first = time_calls(contender.call, int(has_switch_call), clock=clock, prepare=prepare)
        calls = time_calls(contender.call, count, clock=clock, prepare=prepare)
        bare = [] if contender.bare is None else time_calls(contender.bare, count, clock=clock)
    except BilstmRuntimeError as error:
        samples.error = error
        return
    finally:
        if was_enabled:
            gc.enable()
    samples.calls[number] = calls
    if first:
        samples.first[number] = first[0]
    if bare:
        samples.bare[number] = bare
