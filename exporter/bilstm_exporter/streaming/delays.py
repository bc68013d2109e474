"""Measures what each delay of a stream costs: agreement with the whole sequence, and time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bilstm_exporter.evaluation.evaluator import Evaluation, EvaluationSet
from bilstm_exporter.streaming.files import StreamFile
from bilstm_runtime.errors import BilstmRuntimeError
from bilstm_runtime.stream_spec import StreamSpec
from bilstm_runtime.streams import run_stream

_LOOKAHEADS = (0, 1, 2, 3, 4, 5, 10, 20, 40, 80, 160, 320)


@dataclass(frozen=True)
class Delay:
    """A stream with one look-ahead, compared with Keras's answers for whole sequences.

    Attributes:
        lookahead: The look-ahead in steps.
        delay: The longest time in steps from a step to its output: the look-ahead and the rest of
            the chunk.
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
        chunk: Steps at once.
        examples: The examples in words.
        own_data: Whether they are the user's data; if not, they are the probes.
        longest: The length of the longest example in steps.
        delays: The streams, by look-ahead.
    """

    file: str
    chunk: int
    examples: str
    own_data: bool
    longest: int
    delays: tuple[Delay, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON and the manifest; None for infinite numbers."""
        plain = asdict(self)
        plain["delays"] = [
            {
                k: None if isinstance(v, float) and not math.isfinite(v) else v
                for k, v in one.items()
            }
            for one in plain["delays"]
        ]
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
    return DelayReport(
        file.artifact.file, spec.chunk, dataset.described, evaluation.user_data, longest,
        tuple(delays),
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


def _delay(spec: StreamSpec, lookahead: int, found: Evaluation, ms_per_step: float) -> Delay:
    worst = max(found.outputs, key=lambda item: item.drop)
    shares = [
        item.decisions_unchanged for item in found.outputs if item.decisions_unchanged is not None
    ]
    return Delay(
        lookahead=lookahead,
        delay=lookahead + spec.chunk - 1,
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
