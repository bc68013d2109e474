"""Measures the time of one example on this machine, for several artifacts in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bilstm_bench.timing import Contender, Schedule, run_rounds
from bilstm_exporter.evaluation.dataset import Column, Dataset

if TYPE_CHECKING:
    from bilstm_runtime.predictor import Predictor
    from bilstm_runtime.spec import ModelSpec

EXAMPLES = 5
WARM_UP_CALLS = 3
MAX_ROUNDS = 20
MIN_ROUNDS = 3
_SECONDS_PER_MODEL = 2.0
"""A slow model runs fewer rounds if this is not enough for all."""

STATED = (
    f"the median of {MAX_ROUNDS} rounds over {EXAMPLES} examples, with one example per call and "
    f"one thread, on this machine, the artifacts in turn, after {WARM_UP_CALLS} unmeasured calls "
    "per example"
)
"""The definition of a measured time, for the report."""


def latency_examples(dataset: Dataset, spec: ModelSpec) -> list[dict[str, Column]]:
    """Choose a few single examples of median length (or batches, if the batch is fixed).

    Args:
        dataset: All examples.
        spec: The model, with the size of its batch.

    Returns:
        The inputs of each call, by name.
    """
    rows = spec.batch.size or dataset.together or 1
    starts = range(0, dataset.count - rows + 1, rows)
    if not starts:
        return [dataset.part(slice(dataset.count))]
    column = next(iter(dataset.inputs.values()))
    sizes = [max(np.size(example) for example in column[start : start + rows]) for start in starts]
    middle = float(np.median(sizes))
    nearest = sorted(starts, key=lambda start: (abs(sizes[start // rows] - middle), start))
    found = []
    for start in nearest[:EXAMPLES]:
        part = dataset.part(slice(start, start + rows))
        found.append({name: _stacked(column) for name, column in part.items()})
    return found


def _stacked(column: Column) -> Column:
    """Stack examples to one array, if all have the same shape."""
    if isinstance(column, list) and len({example.shape for example in column}) == 1:
        return np.stack(column)
    return column


def latencies_ms(
    models: Sequence[Predictor],
    examples: Sequence[Mapping[str, Column]],
    *,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[float]:
    """Measure the median duration of one call, for each of several models.

    The models run in turns, so that other load on this machine affects all of them equally.

    Args:
        models: The models, loaded with one thread.
        examples: The inputs of each call, from `latency_examples`.
        clock: Returns the time in nanoseconds.

    Returns:
        Milliseconds, one value per model.

    Raises:
        BilstmRuntimeError: A model failed.
    """
    contenders = [
        Contender(
            key=f"{model_number} {example_number}",
            group=str(example_number),
            call=partial(model.predict, dict(inputs)),
            prepare=model.reset,
        )
        for example_number, inputs in enumerate(examples)
        for model_number, model in enumerate(models)
    ]
    schedule = Schedule(
        MAX_ROUNDS,
        MIN_ROUNDS,
        _SECONDS_PER_MODEL * len(models),
        warm_up_calls=WARM_UP_CALLS,
        warm_up_ns=0,
        turn_ns=0,  # one call
        has_switch_call=False,
    )
    measured = run_rounds(contenders, schedule, clock=clock)
    if measured.interrupted:
        raise KeyboardInterrupt
    for samples in measured.samples.values():
        if samples.error is not None:
            raise samples.error
    return [
        statistics.median(
            ns
            for example_number in range(len(examples))
            for calls in measured.samples[f"{model_number} {example_number}"].calls.values()
            for ns in calls
        )
        / 1e6
        for model_number in range(len(models))
    ]
