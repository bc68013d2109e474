"""Interleaved rounds: times several calls in turns.

A machine that becomes hot or busy slows all contenders of a round equally, so only times of the
same round are compared. Every second round runs in the reverse order of the previous one, so that
of any two contenders neither runs later more often.
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
        group: The group; its contenders run one after another and are compared.
        call: The call to time.
        bare: The same call without the overhead of `predict`; None if there is none.
        prepare: Called before each timed call, and not timed; or None.
    """

    key: str
    group: str
    call: Callable[[], object]
    bare: Callable[[], object] | None = None
    prepare: Callable[[], object] | None = None


@dataclass(frozen=True)
class Schedule:
    """The numbers and durations of rounds, turns and warm-up.

    Attributes:
        max_rounds: The maximum number of rounds.
        min_rounds: The minimum number of rounds.
        seconds: No round begins later than this, once there are `min_rounds`.
        warm_up_calls: The minimum number of calls before the first round.
        warm_up_ns: The minimum duration of those calls.
        turn_ns: A turn takes about this long, and has at least one call.
        max_calls: The maximum number of calls in a turn.
        has_switch_call: Whether a turn begins with an extra call that is recorded separately,
            because after another contender the caches hold other data.
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
    """The times of one contender.

    Attributes:
        calls: Nanoseconds of each call, by round.
        bare: Nanoseconds of each bare call, by round.
        first: Nanoseconds of the first call of each turn, by round. It follows another contender
            and is not in `calls`. Empty without `Schedule.has_switch_call`.
        error: The error because of which it was excluded; None if it was not.
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
    """The result of the rounds.

    Attributes:
        samples: The times by the contender's key.
        rounds: The number of rounds that were started.
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

    The order is random in every other round, and reversed in the next one. A contender that
    raises a `BilstmRuntimeError` is excluded.

    Args:
        contenders: The contenders.
        schedule: The numbers and durations of rounds and turns.
        seed: The random seed for the order.
        clock: Returns the time in nanoseconds.
        progress: Called with the number of each round when it starts.

    Returns:
        The times; partial results if the user interrupts.
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
    """Return the nanoseconds of each of `count` consecutive calls; see `Contender.prepare`."""
    elapsed = []
    for _ in range(count):
        if prepare is not None:
            prepare()
        begin = clock()
        call()
        elapsed.append(clock() - begin)
    return elapsed


def _warm_up(
    contender: Contender, samples: Samples, schedule: Schedule, clock: Callable[[], int]
) -> int:
    """Warm up one contender.

    Returns:
        The number of calls that fill a turn.
    """
    elapsed: list[int] = []
    begin = clock()
    try:
        while len(elapsed) < schedule.warm_up_calls or clock() - begin < schedule.warm_up_ns:
            elapsed += time_calls(contender.call, 1, clock=clock, prepare=contender.prepare)
            if contender.bare is not None:
                contender.bare()
    except BilstmRuntimeError as error:
        samples.error = error
        return 1
    usual = max(statistics.median(elapsed), 1)
    return int(min(max(schedule.turn_ns / usual, 1), schedule.max_calls))


def _order(contenders: Sequence[Contender], rng: np.random.Generator) -> list[Contender]:
    """Return all contenders group by group, in random order of groups and within a group."""
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
    """Run a turn without garbage collection: the switch call if any, then `plan[0]` calls."""
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
