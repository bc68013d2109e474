"""The user's own examples, as the runtime read them, and their labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from bilstm_exporter.errors import DataError
from bilstm_exporter.evaluation.labels import read_labels
from bilstm_runtime.errors import BilstmRuntimeError
from bilstm_runtime.inputs import InputReader, Values
from bilstm_runtime.spec import ModelSpec
from bilstm_runtime.values import AnyArray

if TYPE_CHECKING:  # it loads TensorFlow
    from bilstm_exporter.inspection.probes import Probe

Column: TypeAlias = AnyArray | list[AnyArray]
"""An array with a batch axis or, where the examples differ in length, one array an example."""

LIMIT = 2_000
"""Examples judged on by default: Keras answers each once, eagerly."""

_SEED = 0
PROBES = "the probes"


@dataclass(frozen=True)
class RawData:
    """Data as somebody gave it.

    Attributes:
        values: The inputs, in any form that `bilstm_runtime.Model.predict` takes.
        labels: In any form that `read_labels` takes, or None.
        origin: What to call the data in messages.
        cut: Whether reading stopped before the end of the data.
    """

    values: Values
    labels: object
    origin: str
    cut: bool = False


@dataclass(frozen=True)
class Dataset:
    """Examples that the model takes, with their labels.

    Attributes:
        inputs: By the input's name, in its dtype; ids where the model was given text.
        labels: By the output's name, where there are any.
        count: How many examples.
        given: How many the data held, or None where nobody looked (it was read up to `count`).
        origin: What to call the data, such as the file.
        together: How many examples make one question to a model whose rows, or calls, depend on
            each other; None where every example is a question of its own.
    """

    inputs: Mapping[str, Column]
    labels: Mapping[str, Column]
    count: int
    given: int | None
    origin: str
    together: int | None = None

    def part(self, rows: slice) -> dict[str, Column]:
        """The inputs of some of the examples."""
        return {name: column[rows] for name, column in self.inputs.items()}

    @property
    def described(self) -> str:
        """Which examples these are, such as ``"2,000 of the 10,000 examples of val.npz"``."""
        if self.given == self.count:
            return f"the {self.count:,} examples of {self.origin}"
        if self.given is None:
            return f"the first {self.count:,} examples of {self.origin}"
        return f"{self.count:,} of the {self.given:,} examples of {self.origin}"


def make_dataset(raw: RawData, manifest: ModelSpec, limit: int = LIMIT) -> Dataset:
    """Check data as the runtime would, and choose the examples to judge on.

    Args:
        raw: The data.
        manifest: What the model takes and answers.
        limit: Examples at most; of more, that many are drawn, the same every time.

    Raises:
        DataError: The model does not take it, or there are too few examples.
    """
    try:
        request = InputReader(manifest).read(raw.values)
    except BilstmRuntimeError as error:
        message = f"{raw.origin}: {error}"
        raise DataError(message) from error
    labels = read_labels(raw.labels, manifest.outputs, request.count, raw.origin)
    rows = _chosen(request.count, limit)
    together = None
    if manifest.states or not manifest.rows_independent:
        together = manifest.batch.size or 1
        rows = rows[: len(rows) - len(rows) % together]
        if not len(rows):
            message = (
                f"{raw.origin}: it holds {request.count} examples; this model answers for "
                f"{together} at once. Give at least that many"
            )
            raise DataError(message)
    names = [spec.name for spec in manifest.inputs]
    return Dataset(
        inputs={n: _taken(column, rows) for n, column in zip(names, request.columns, strict=True)},
        labels={name: _taken(column, rows) for name, column in labels.items()},
        count=len(rows),
        given=None if raw.cut else request.count,
        origin=raw.origin,
        together=together,
    )


def dataset_of_probes(probes: Sequence[Probe], manifest: ModelSpec) -> Dataset:
    """The rows of the probes as examples, for judging where there is no data.

    Probes are random and adversarial: what they show is how well the answers agree, not how
    well the model does its work.

    Args:
        probes: With the model's own inputs, states left out or not.
        manifest: What the model takes.

    Raises:
        DataError: No probe can be read as examples.
    """
    names = [spec.name for spec in manifest.inputs]
    usable = [p for p in probes if all(np.isfinite(a).all() for a in p.outputs)]
    values = {
        name: [row for probe in usable for row in probe.inputs[number]]
        for number, name in enumerate(names)
    }
    return make_dataset(RawData(values, None, PROBES), manifest)


def _chosen(count: int, limit: int) -> AnyArray:
    """`[examples] int64`: which to use, in the order given."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(_SEED).permutation(count)[:limit])


def _taken(column: Column, rows: Iterable[int]) -> Column:
    if isinstance(column, list):
        return [column[row] for row in rows]
    taken: AnyArray = column[np.fromiter(rows, np.int64)]
    return taken
