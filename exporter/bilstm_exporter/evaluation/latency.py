"""How long one example takes on this machine, one artifact in turn with the others."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bilstm_exporter.evaluation.dataset import Column, Dataset

if TYPE_CHECKING:
    from bilstm_runtime.predictor import Predictor
    from bilstm_runtime.spec import ModelSpec

EXAMPLES = 5
WARM_UPS = 3
ROUNDS = 20
FEWEST_ROUNDS = 3
_SECONDS_EACH = 2.0
"""A model that is slower than this allows is run in fewer rounds."""

STATED = (
    f"the median of {ROUNDS} rounds over {EXAMPLES} examples, one example a call and one thread, "
    f"on this machine, the artifacts in turn, after {WARM_UPS} unmeasured calls an example"
)
"""What a measured time is, in words for the report."""


def questions(dataset: Dataset, manifest: ModelSpec) -> list[dict[str, Column]]:
    """A few single examples of ordinary length (batches, where the batch is fixed).

    Args:
        dataset: Where they come from.
        manifest: How many make a batch.
    """
    rows = manifest.batch.size or dataset.together or 1
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
        found.append({name: _together(c) for name, c in part.items()})
    return found


def _together(column: Column) -> Column:
    if isinstance(column, list) and len({example.shape for example in column}) == 1:
        return np.stack(column)
    return column


def latencies_ms(
    models: Sequence[Predictor],
    asked: Sequence[Mapping[str, Column]],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """The median time of one call, for each of some models.

    Measured in turn, so that what else this machine does slows all of them alike.

    Args:
        models: Loaded with one thread.
        asked: What to ask, from `questions`.
        clock: Tells the time in seconds.

    Returns:
        Milliseconds, one a model.
    """
    for model in models:
        for inputs in asked:
            for _ in range(WARM_UPS):
                _timed(model, inputs, clock)
    taken: list[list[float]] = [[] for _ in models]
    begin = clock()
    for number in range(ROUNDS):
        if number >= FEWEST_ROUNDS and clock() - begin > _SECONDS_EACH * len(models):
            break
        for inputs in asked:
            for times, model in zip(taken, models, strict=True):
                times.append(_timed(model, inputs, clock))
    return [1000 * statistics.median(times) for times in taken]


def _timed(model: Predictor, inputs: Mapping[str, Column], clock: Callable[[], float]) -> float:
    model.reset()
    begin = clock()
    model.predict(dict(inputs))
    return clock() - begin
