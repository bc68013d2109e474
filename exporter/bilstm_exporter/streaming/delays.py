"""Measures what each delay of a stream costs: agreement with the whole sequence, and time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from bilstm_exporter.evaluation.evaluator import Evaluation, EvaluationSet
from bilstm_exporter.streaming.files import StreamFile
from bilstm_runtime.errors import BilstmRuntimeError
from bilstm_runtime.stream_spec import StreamSpec
from bilstm_runtime.streams import run_stream

_KEPT = 99
_LOOKAHEADS = (0, 1, 2, 3, 4, 5, 10, 20, 40, 80, 160, 320)


@dataclass(frozen=True)
class Delay:
    """A stream with one look-ahead, compared with Keras's answers for whole sequences.

    Attributes:
        lookahead: The look-ahead in steps.
        delay: The longest time in steps from a step to its output: the look-ahead, the rest of the
            chunk, and one step more if backward layers start at states of data.
        agreement: The share of decisions that equal those for the whole sequence, in percent; None
            for numbers.
        metric: The metric.
        value: The metric of the stream.
        whole: The metric of Keras on whole sequences.
        drop: The loss of the metric, as everywhere: in points for a share, in percent for an error.
        max_error: The largest error.
        mean_error: The mean error.
        ms_per_step: The mean time per step on this machine, in milliseconds.
    """

    lookahead: int
    delay: int
    agreement: float | None
    metric: str
    value: float
    whole: float
    drop: float
    max_error: float
    mean_error: float
    ms_per_step: float


@dataclass(frozen=True)
class DelayReport:
    """The streams of one model by their delay.

    Attributes:
        file: The stream file.
        recipe: Its recipe.
        bytes: Its size.
        chunk: Steps at once.
        examples: The examples in words.
        own_data: Whether they are the user's data; if not, they are the probes.
        longest: The length of the longest example in steps.
        delays: The streams, by look-ahead.
        starts_from_data: Whether backward layers start at the mean states of the data where the
            sequence goes on after the look-ahead; if not, they start as at its end.
        other: What the other start gives at the chosen look-ahead; None if it was not measured.
    """

    file: str
    recipe: str
    bytes: int
    chunk: int
    examples: str
    own_data: bool
    longest: int
    delays: tuple[Delay, ...]
    starts_from_data: bool = False
    other: Delay | None = None

    def at(self, lookahead: int) -> Delay:
        """The stream with a look-ahead, or else the next longer one."""
        return next((one for one in self.delays if one.lookahead >= lookahead), self.delays[-1])

    @property
    def kept(self) -> str | None:
        """Say from which look-ahead on nearly all decisions are unchanged; None if there is none.

        No longer look-ahead changes more of them.
        """
        found = None
        for one in reversed(self.delays):
            if one.agreement is None or one.agreement < _KEPT:
                break
            found = one
        if found is None:
            return None
        return (
            f"At least {_KEPT} % of decisions are unchanged from a look-ahead of "
            f"{found.lookahead} on, with a delay of up to {found.delay} steps."
        )

    def starts(self, lookahead: int) -> str | None:
        """Say where backward layers start and why; None if only one start was measured."""
        if self.other is None:
            return None
        ways = ("at the mean states of your data", "as at the end of a sequence")
        used, left = ways if self.starts_from_data else ways[::-1]
        own, other = self.at(lookahead), self.other
        if own.agreement is None or own.agreement == other.agreement or other.agreement is None:
            compared = f"mean error {own.mean_error:.1e}; {left}: {other.mean_error:.1e}"
        else:
            compared = (
                f"{own.agreement:.2f} % of decisions unchanged; {left}: {other.agreement:.2f} %"
            )
        return (
            f"Where the sequence goes on after the look-ahead, backward layers start {used} "
            f"({compared}, at a look-ahead of {other.lookahead})."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON and the manifest; None for infinite numbers."""
        plain = asdict(self)
        plain["delays"] = [_finite(one) for one in plain["delays"]]
        plain["other"] = None if self.other is None else _finite(plain["other"])
        return plain


def measure_delays(
    spec: StreamSpec, file: StreamFile, evaluation: EvaluationSet
) -> DelayReport | None:
    """Stream all examples with several look-aheads.

    Args:
        spec: The stream files.
        file: One of them.
        evaluation: The examples, with Keras's predictions.

    Returns:
        The report; None if no example can be streamed, for example because the model's calls
        depend on each other.
    """
    dataset = evaluation.dataset
    if dataset.together not in (None, 1):
        return None
    examples = [
        [column[number][None] for column in dataset.inputs.values()]
        for number in range(dataset.count)
    ]
    lengths = [max(a.shape[1] for a in one if a.ndim > 1) for one in examples]
    total, longest = sum(lengths), max(lengths)
    delays = []
    for lookahead in lookaheads(spec, longest):
        seconds, parts = 0.0, []
        for inputs in examples:
            start = time.perf_counter()
            try:
                parts.append(run_stream(spec, file.session, inputs, spec.chunk, lookahead))
            except BilstmRuntimeError:
                return None
            seconds += time.perf_counter() - start
        columns = {
            item.name: _column([outputs[position][0] for outputs in parts])
            for position, item in enumerate(spec.files.outputs)
        }
        found = evaluation.evaluator.evaluate(columns)
        delays.append(_delay(spec, lookahead, found, 1000 * seconds / total))
    artifact = file.artifact
    return DelayReport(
        artifact.file, artifact.recipe, artifact.bytes, spec.chunk, dataset.described,
        evaluation.user_data, longest, tuple(delays), spec.starts_from_data,
    )  # fmt: skip


def lookaheads(spec: StreamSpec, longest: int) -> list[int]:
    """Return the look-aheads to measure, for examples of at most this many steps."""
    if not spec.has_ahead:
        return [0]
    wanted = {*_LOOKAHEADS, spec.lookahead, spec.right_context, longest}
    unit = spec.unit
    rounded = {
        -(-steps // unit) * unit for steps in wanted if steps <= max(longest, spec.lookahead)
    }
    return sorted(rounded)


def choose_delay(report: DelayReport, max_drop: float | None) -> int | None:
    """Return the smallest look-ahead from which no larger one loses more than `max_drop`."""
    if max_drop is None:
        return None
    chosen = None
    for one in reversed(report.delays):
        if not one.drop <= max_drop:
            break
        chosen = one.lookahead
    return chosen


def choose_recipe(
    reports: Sequence[DelayReport], max_drop: float | None
) -> tuple[DelayReport, int] | None:
    """Return the recipe that keeps the metric at the smallest delay, and its look-ahead.

    Of recipes with the same delay, the one with the smallest file is taken. None if no recipe keeps
    the metric, or without a limit.
    """
    by_recipe: dict[str, list[tuple[DelayReport, int | None]]] = {}
    for report in reports:
        by_recipe.setdefault(report.recipe, []).append((report, choose_delay(report, max_drop)))
    kept = []
    for found in by_recipe.values():  # mixes of precisions differ between formats
        steps = [(report, delay) for report, delay in found if delay is not None]
        if len(steps) == len(found):
            kept.append(max(steps, key=lambda one: one[1]))
    return min(kept, key=lambda one: (one[1], one[0].bytes), default=None)


def better_start(
    at_zeros: DelayReport, from_data: DelayReport, lookahead: int, max_drop: float | None
) -> DelayReport:
    """Choose where backward layers start: where the delay is smaller, else the agreement better.

    Args:
        at_zeros: The streams that start as at the end of a sequence, which are chosen in a tie.
        from_data: Those that start at states of data.
        lookahead: The look-ahead by default.
        max_drop: The largest drop of the metric that is allowed, or None.

    Returns:
        The better report, with what the other one found.
    """
    chosen = [
        (report, report.at(lookahead if found is None else found), found is not None)
        for report in (at_zeros, from_data)
        for found in [choose_delay(report, max_drop)]
    ]
    (_, zeros, zeros_keep), (_, data, data_keep) = chosen
    if data_keep != zeros_keep:
        is_data = data_keep
    elif data_keep and data.delay != zeros.delay:
        is_data = data.delay < zeros.delay
    elif data.agreement is not None and data.agreement != zeros.agreement:
        is_data = zeros.agreement is None or data.agreement > zeros.agreement
    else:
        is_data = data.mean_error < zeros.mean_error
    if is_data:
        return replace(from_data, other=at_zeros.at(data.lookahead))
    return replace(at_zeros, other=from_data.at(zeros.lookahead))


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


def _delay(spec: StreamSpec, lookahead: int, found: Evaluation, ms_per_step: float) -> Delay:
    worst = max(found.outputs, key=lambda item: item.drop)
    shares = [
        item.decisions_unchanged for item in found.outputs if item.decisions_unchanged is not None
    ]
    return Delay(
        lookahead=lookahead,
        delay=lookahead + spec.chunk - 1 + spec.starts_from_data,
        agreement=min(shares) if shares else None,
        metric=worst.metric,
        value=worst.value,
        whole=worst.keras,
        drop=worst.drop,
        max_error=max(item.max_error for item in found.outputs),
        mean_error=max(item.mean_error for item in found.outputs),
        ms_per_step=round(ms_per_step, 6),
    )


def _column(arrays: Sequence[np.ndarray]) -> Any:
    """Join the outputs of all examples: one array if their shapes are equal."""
    if len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    return list(arrays)
