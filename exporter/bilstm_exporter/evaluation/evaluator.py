"""What the answers of an artifact are worth, next to Keras's and to the labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from bilstm_exporter.errors import DataError
from bilstm_exporter.evaluation.dataset import Column, Dataset
from bilstm_exporter.evaluation.metrics import loss, measure
from bilstm_exporter.evaluation.steps import TENTHS, Steps, find_steps
from bilstm_exporter.evaluation.task import Task, choose_task
from bilstm_runtime.spec import ModelSpec
from bilstm_runtime.values import AnyArray

UNCHANGED = "unchanged decisions"
RELATIVE = "relative rmse"


@dataclass(frozen=True)
class Judgement:
    """One output of one artifact.

    Attributes:
        output: Its name.
        kind: ``"classification"``, ``"binary"``, ``"tagging"``, ``"multilabel"`` or
            ``"regression"``.
        metric: ``"accuracy"``, ``"f1"`` (both in percent), ``"mae"`` or ``"rmse"`` (in the labels'
            unit); without labels ``"unchanged decisions"`` (percent of them) or, for numbers,
            ``"relative rmse"`` (percent of the spread of Keras's answers).
        value: Of the artifact.
        keras: Of the Keras model.
        drop: What the artifact loses by that metric: percentage points of a share, percent of
            Keras's error, and never below 0.
        decisions: How many were compared; 0 for numbers.
        decisions_unchanged: The share of them that Keras makes too, in percent; None for numbers.
        max_error: The largest ``|answer - keras|``; infinite where an answer is not a number.
        mean_error: The mean of those.
        relative_error: The root mean square of those, in percent of the spread of Keras's answers.
        error_by_position: The mean error along the sequence, in up to ten equal parts of each
            sequence's own length; None where the output does not follow time.
    """

    output: str
    kind: str
    metric: str
    value: float
    keras: float
    drop: float
    decisions: int
    decisions_unchanged: float | None
    max_error: float
    mean_error: float
    relative_error: float
    error_by_position: tuple[float, ...] | None

    @property
    def change(self) -> float:
        """The value less Keras's, in its own unit: percentage points of a share."""
        return self.value - self.keras

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values for JSON, None for what is infinite."""
        return {**{k: _finite(v) for k, v in asdict(self).items()}, "change": _finite(self.change)}


@dataclass(frozen=True)
class Verdict:
    """All outputs of one artifact.

    Attributes:
        outputs: One each.
        examples: How many were answered.
    """

    outputs: tuple[Judgement, ...]
    examples: int

    @property
    def drop(self) -> float:
        """The largest drop of an output."""
        return max(item.drop for item in self.outputs)

    @property
    def relative_error(self) -> float:
        """The largest relative error of an output, in percent."""
        return max(item.relative_error for item in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {
            "examples": self.examples,
            "drop": _finite(self.drop),
            "outputs": [item.to_dict() for item in self.outputs],
        }


class Judge:
    """Compares the answers of artifacts with Keras's and with the labels.

    Args:
        manifest: The outputs, their axes and the mask values.
        dataset: What was asked.
        keras: Keras's answers, from `bilstm_exporter.evaluation.predictions.keras_answers`.
        metrics: The metric wanted for an output, by its name; see `parse_metrics`.

    Raises:
        DataError: Labels do not suit an output or are missing for a metric, or nothing is left
            to compare.
    """

    def __init__(
        self,
        manifest: ModelSpec,
        dataset: Dataset,
        keras: Mapping[str, Column],
        metrics: Mapping[str, str] | None = None,
    ) -> None:
        self.examples = dataset.count
        self._outputs = [
            _OutputJudge(
                find_steps(spec, manifest, dataset, keras[spec.name]),
                keras[spec.name],
                dataset.labels.get(spec.name),
                (metrics or {}).get(spec.name),
            )
            for spec in manifest.outputs
        ]

    @property
    def has_labels(self) -> bool:
        """Whether any output is judged by labels."""
        return any(output.task.labels is not None for output in self._outputs)

    @property
    def resolution(self) -> float:
        """The drop that one changed decision makes, in percentage points; 0 with numbers alone."""
        counts = [output.decisions for output in self._outputs if output.decisions]
        return max((100 / count for count in counts), default=0.0)

    def compare(self, answers: Mapping[str, Column]) -> Verdict:
        """Judge the answers of one artifact to the same questions."""
        judged = [output.compare(answers[output.name]) for output in self._outputs]
        return Verdict(tuple(judged), self.examples)


class _OutputJudge:
    """Judges one output."""

    def __init__(
        self, steps: Steps, keras: Column, labels: Column | None, metric: str | None
    ) -> None:
        self.name = steps.output.name
        self._steps = steps
        rows = steps.rows(keras)
        # Keras divides by the steps that count, and may answer NaN where none does.
        self._kept = np.asarray(np.isfinite(rows).all(axis=1))
        if not self._kept.any():
            message = (
                f"Keras gives no finite answer for {self.name!r} on this data, or every step of it "
                f"is padding; there is nothing to compare"
            )
            raise DataError(message)
        self._rows = rows
        self.task: Task = choose_task(steps, rows, labels, metric)
        self._labelled = self.task.labelled & self._kept
        if self.task.labels is not None:
            taken = self.task.labels[self._kept[self.task.labelled]]
            self.task = replace(self.task, labels=taken)
        self.decisions = 0
        self._decided: AnyArray | None = None
        if self.task.kind != "regression":
            self._decided = self.task.decisions(rows[self._kept])
            self.decisions = self._decided.size
        self._value = None if self.task.labels is None else measure(self.task, self._of(rows))
        self._spread = _spread(rows[self._kept])
        self._places = steps.places[self._kept] if steps.per_step else None

    def compare(self, answers: Column) -> Judgement:
        rows = self._steps.rows(answers)
        found, wanted = (a[self._kept].astype(np.float64) for a in (rows, self._rows))
        with np.errstate(over="ignore", invalid="ignore"):
            error = np.abs(found - wanted)
            error = np.where(np.isnan(error), np.inf, error)
            relative = 100 * math.sqrt(np.square(error).mean()) / self._spread
        unchanged = None
        if self._decided is not None:
            same = self.task.decisions(rows[self._kept]) == self._decided
            unchanged = 100 * float(same.mean())
        metric, value, keras, drop = self._metric(rows, unchanged, relative)
        return Judgement(
            output=self.name,
            kind=self.task.name,
            metric=metric,
            value=value,
            keras=keras,
            drop=max(0.0, drop),
            decisions=self.decisions,
            decisions_unchanged=unchanged,
            max_error=float(error.max()),
            mean_error=float(error.mean()),
            relative_error=relative,
            error_by_position=self._by_position(error.mean(axis=1)),
        )

    def _metric(
        self, rows: AnyArray, unchanged: float | None, relative: float
    ) -> tuple[str, float, float, float]:
        """Name, value, Keras's value, and drop."""
        if self._value is not None:
            value = measure(self.task, self._of(rows))
            return self.task.metric, value, self._value, loss(self.task, value, self._value)
        if unchanged is not None:
            return UNCHANGED, unchanged, 100.0, 100 - unchanged
        return RELATIVE, relative, 0.0, relative

    def _of(self, rows: AnyArray) -> AnyArray:
        """The rows that have labels."""
        taken: AnyArray = rows[self._labelled]
        return taken

    def _by_position(self, error: AnyArray) -> tuple[float, ...] | None:
        if self._places is None:
            return None
        parts = min(TENTHS, self._steps.longest)
        part = np.minimum((self._places * parts + 1e-9).astype(np.int64), parts - 1)
        counts = np.bincount(part, minlength=parts)
        sums = np.bincount(part, weights=error, minlength=parts)
        return tuple((sums / np.maximum(counts, 1)).tolist())


def _spread(rows: AnyArray) -> float:
    """What an error is measured against: the standard deviation, or else the size, of answers."""
    values = rows.astype(np.float64)
    return float(values.std()) or float(np.abs(values).max(initial=0)) or 1.0


def _finite(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
