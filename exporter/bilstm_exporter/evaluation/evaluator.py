"""Evaluates the predictions of artifacts against Keras's predictions and the labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm_exporter.errors import DataError
from bilstm_exporter.evaluation.data import read_data
from bilstm_exporter.evaluation.dataset import Column, Dataset, dataset_of_probes
from bilstm_exporter.evaluation.predictions import keras_predictions, predict_dataset
from bilstm_exporter.evaluation.steps import MAX_PARTS, Steps, find_steps
from bilstm_exporter.evaluation.task import (
    SHARES,
    Task,
    TaskKind,
    choose_task,
    measure,
    metric_loss,
    parse_metrics,
)
from bilstm_exporter.progress import Stages
from bilstm_runtime.predictor import Predictor
from bilstm_runtime.spec import Axis, ModelSpec
from bilstm_runtime.values import AnyArray

if TYPE_CHECKING:  # they load TensorFlow
    from bilstm_exporter.inspection.probes import ProbeSet
    from bilstm_exporter.loaded import LoadedModel

UNCHANGED = "unchanged decisions"
RELATIVE = "relative rmse"


@dataclass(frozen=True)
class OutputEvaluation:
    """The evaluation of one output of one artifact.

    Attributes:
        output: The name of the output.
        kind: ``"classification"``, ``"binary"``, ``"tagging"``, ``"multilabel"`` or
            ``"regression"``.
        metric: ``"accuracy"`` or ``"f1"``, in percent; ``"mae"`` or ``"rmse"``, in the unit of the
            labels. Without labels ``"unchanged decisions"``, in percent or, for numbers,
            ``"relative rmse"``, in percent of the spread of Keras's predictions.
        value: The metric of the artifact.
        keras: The metric of the Keras model.
        drop: The loss of the metric against Keras, at least 0: in percentage points for a share,
            in percent of Keras's error for an error.
        decisions: The number of decisions that were compared; 0 for numbers.
        decisions_unchanged: The share of decisions that equal Keras's, in percent; None for
            numbers.
        max_error: The largest ``|prediction - keras|``; infinite if a value is not a number.
        mean_error: The mean of ``|prediction - keras|``.
        relative_error: The root mean square of ``prediction - keras``, as a fraction of the
            spread of Keras's predictions.
        error_by_position: The mean error along the sequence, in up to ten equal parts of each
            sequence; None if the output does not follow time.
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
        """The metric minus Keras's, in its own unit: percentage points for a share."""
        return self.value - self.keras

    @property
    def has_labels(self) -> bool:
        """Whether the metric is computed from labels."""
        return self.metric not in {UNCHANGED, RELATIVE}

    @property
    def is_share(self) -> bool:
        """Whether the metric is a share of decisions, which changes by percentage points."""
        return self.metric in {*SHARES, UNCHANGED}

    @property
    def is_percent(self) -> bool:
        """Whether the metric is in percent."""
        return self.is_share or self.metric == RELATIVE

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; None for infinite numbers."""
        return {**{k: _finite(v) for k, v in asdict(self).items()}, "change": _finite(self.change)}


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of all outputs of one artifact.

    Attributes:
        outputs: The outputs in the order of the model.
        examples: The number of examples.
    """

    outputs: tuple[OutputEvaluation, ...]
    examples: int

    @property
    def drop(self) -> float:
        """The largest drop of an output."""
        return max(item.drop for item in self.outputs)

    @property
    def relative_error(self) -> float:
        """The largest relative error of an output, as a fraction."""
        return max(item.relative_error for item in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "examples": self.examples,
            "drop": _finite(self.drop),
            "outputs": [item.to_dict() for item in self.outputs],
        }


class Evaluator:
    """Evaluates predictions against Keras's predictions and the labels.

    Args:
        spec: The inputs and outputs of the model.
        dataset: The examples.
        keras: Keras's predictions for the examples, by the output's name.
        metrics: The metric that the user chose, by the output's name; see `parse_metrics`.

    Raises:
        DataError: Labels do not fit an output or are missing for a metric, or there is nothing to
            compare.
    """

    def __init__(
        self,
        spec: ModelSpec,
        dataset: Dataset,
        keras: Mapping[str, Column],
        metrics: Mapping[str, str] | None = None,
    ) -> None:
        self._examples = dataset.count
        self._outputs = [
            _OutputEvaluator(
                find_steps(output, spec, dataset, keras[output.name]),
                keras[output.name],
                dataset.labels.get(output.name),
                (metrics or {}).get(output.name),
            )
            for output in spec.outputs
        ]

    @property
    def resolution(self) -> float:
        """The drop that one changed decision causes, in percentage points; 0 for regression."""
        counts = [output.decisions for output in self._outputs if output.decisions]
        return max((100 / count for count in counts), default=0.0)

    def evaluate(self, predictions: Mapping[str, Column]) -> Evaluation:
        """Evaluate the predictions of one artifact for the same examples."""
        found = [output.evaluate(predictions[output.name]) for output in self._outputs]
        return Evaluation(tuple(found), self._examples)


@dataclass(frozen=True)
class EvaluationSet:
    """The examples that artifacts are evaluated on.

    Attributes:
        dataset: The examples.
        evaluator: The evaluator, with Keras's predictions for the examples.
    """

    dataset: Dataset
    evaluator: Evaluator

    @property
    def user_data(self) -> bool:
        """Whether the examples are the user's data, not the probes."""
        return not self.dataset.from_probes

    @property
    def drop_unit(self) -> str:
        """The unit of a drop."""
        return "points" if self.evaluator.resolution else "%"

    def evaluate(self, predictor: Predictor) -> Evaluation:
        """Run an artifact on the examples, one example per call, and evaluate its predictions."""
        return self.evaluator.evaluate(predict_dataset(predictor, self.dataset))


def make_evaluation_set(
    loaded: LoadedModel, probes: ProbeSet, data: Any, metric: str | None, stages: Stages
) -> EvaluationSet:
    """Read the data, and run Keras on it.

    Args:
        loaded: The model.
        probes: The examples to use without data.
        data: The data, see `read_data`; or None.
        metric: The metric, see `parse_metrics`.
        stages: Receives the name of each stage.

    Raises:
        DataError: The data cannot be used.
        OptionError: A metric is unknown.
    """
    spec = loaded.spec
    metrics = parse_metrics(metric, [output.name for output in spec.outputs])
    with stages.stage("reading the data"):
        dataset = (
            dataset_of_probes(probes.probes, spec)
            if data is None
            else read_data(data, spec, read_tokenizer=loaded.read_file)
        )
    with stages.stage("calling Keras on the data"):
        keras = keras_predictions(loaded.keras, _with_free_batch(loaded), dataset)
    return EvaluationSet(dataset, Evaluator(spec, dataset, keras, metrics))


def _with_free_batch(loaded: LoadedModel) -> ModelSpec:
    """Return a spec with a free batch axis, if only the artifacts fix it and not the model."""
    spec = loaded.spec
    if spec.states or any(declared.shape[0] for declared in loaded.keras.inputs):
        return spec

    def freed(axis: Axis) -> Axis:
        return Axis(axis.name, None) if axis.name == spec.batch.name else axis

    return replace(
        spec,
        inputs=tuple(replace(one, axes=tuple(map(freed, one.axes))) for one in spec.inputs),
        outputs=tuple(replace(one, axes=tuple(map(freed, one.axes))) for one in spec.outputs),
    )


class _OutputEvaluator:
    """Evaluates one output."""

    def __init__(
        self, steps: Steps, keras: Column, labels: Column | None, metric: str | None
    ) -> None:
        self.name = steps.output.name
        self._steps = steps
        rows = steps.rows(keras)
        # Keras divides by the number of valid steps, and can return NaN if there is none.
        self._kept = np.asarray(np.isfinite(rows).all(axis=1))
        if not self._kept.any():
            message = (
                f"Keras returns no finite output {self.name!r} for this data, or every step is "
                f"padding; there is nothing to compare"
            )
            raise DataError(message)
        self._rows = rows
        self._task: Task = choose_task(steps, rows, labels, metric)
        self._labelled = self._task.labelled & self._kept
        if self._task.labels is not None:
            kept = self._task.labels[self._kept[self._task.labelled]]
            self._task = replace(self._task, labels=kept)
        self.decisions = 0
        self._keras_decisions: AnyArray | None = None
        if self._task.kind is not TaskKind.REGRESSION:
            self._keras_decisions = self._task.decisions(rows[self._kept])
            self.decisions = self._keras_decisions.size
        self._keras_value: float | None = None
        if self._task.labels is not None:
            self._keras_value = measure(self._task, rows[self._labelled])
        self._spread = _spread(rows[self._kept])
        self._positions = steps.positions[self._kept] if steps.per_step else None

    def evaluate(self, predictions: Column) -> OutputEvaluation:
        rows = self._steps.rows(predictions)
        found, reference = (a[self._kept].astype(np.float64) for a in (rows, self._rows))
        with np.errstate(over="ignore", invalid="ignore"):
            error = np.abs(found - reference)
            error = np.where(np.isnan(error), np.inf, error)
            relative = math.sqrt(np.square(error).mean()) / self._spread
        unchanged = None
        if self._keras_decisions is not None:
            same = self._task.decisions(rows[self._kept]) == self._keras_decisions
            unchanged = 100 * float(same.mean())
        metric, value, keras, drop = self._metric(rows, unchanged, 100 * relative)
        return OutputEvaluation(
            output=self.name,
            kind=self._task.name,
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
        """Return the name of the metric, its value, Keras's value, and the drop."""
        if self._keras_value is not None:
            value = measure(self._task, rows[self._labelled])
            drop = metric_loss(self._task, value, self._keras_value)
            return self._task.metric, value, self._keras_value, drop
        if unchanged is not None:
            return UNCHANGED, unchanged, 100.0, 100 - unchanged
        return RELATIVE, relative, 0.0, relative

    def _by_position(self, error: AnyArray) -> tuple[float, ...] | None:
        if self._positions is None:
            return None
        parts = min(MAX_PARTS, self._steps.longest)
        part = np.minimum((self._positions * parts + 1e-9).astype(np.int64), parts - 1)
        counts = np.bincount(part, minlength=parts)
        sums = np.bincount(part, weights=error, minlength=parts)
        return tuple((sums / np.maximum(counts, 1)).tolist())


def _spread(rows: AnyArray) -> float:
    """Return the scale of errors: the predictions' standard deviation or, if 0, their maximum."""
    values = rows.astype(np.float64)
    return float(values.std()) or float(np.abs(values).max(initial=0)) or 1.0


def _finite(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
