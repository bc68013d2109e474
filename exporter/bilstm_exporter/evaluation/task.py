"""Determines the task of an output, such as classification, and computes its metric."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bilstm_exporter.errors import DataError, OptionError
from bilstm_exporter.evaluation.dataset import Column
from bilstm_exporter.evaluation.steps import Steps
from bilstm_runtime.values import AnyArray

SHARES = ("accuracy", "f1")
"""Metrics in percent; they change by percentage points."""

ERRORS = ("mae", "rmse")
"""Metrics in the unit of the labels; they change by percent of Keras's error."""

METRICS = (*SHARES, *ERRORS)

PADDING_LABEL = -1

# A float32 softmax sums to one within a few roundings; with a larger difference it is not one.
_SUM_TOLERANCE = 1e-3
# The decision for a row with a value that is not finite; it equals no class, label or decision.
_NO_DECISION = -2
# As a fraction of the spread of the labels: a percentage of a smaller error is not meaningful.
_MIN_KERAS_ERROR = 1e-3


class TaskKind(enum.Enum):
    """The meaning of the values of a row."""

    CLASSIFICATION = "classification"
    """Scores of several classes; the decision is the class with the highest score."""
    BINARY = "binary"
    """One score, compared with a threshold."""
    MULTILABEL = "multilabel"
    """Several scores, each compared with a threshold."""
    INTEGER_CLASSES = "integer classes"
    """The decisions themselves, as integers."""
    REGRESSION = "regression"
    """Numbers."""


@dataclass(frozen=True)
class Task:
    """The task of one output.

    Attributes:
        kind: The meaning of the values of a row.
        metric: One of `METRICS`.
        per_step: Whether a row is a step of a sequence.
        threshold: The score above which a binary decision is positive.
        labels: For the labelled rows: classes ``[rows] int64``, binary labels ``[rows] bool`` or
            ``[rows, values] bool``, or numbers ``[rows, values] float64``; None without labels.
        labelled: Which rows have a label, ``[rows] bool``.
    """

    kind: TaskKind
    metric: str
    per_step: bool
    threshold: float
    labels: AnyArray | None
    labelled: AnyArray

    @property
    def name(self) -> str:
        """The usual name of the task; a single decision per step is tagging."""
        if self.per_step and self.kind not in {TaskKind.REGRESSION, TaskKind.MULTILABEL}:
            return "tagging"
        shown = TaskKind.CLASSIFICATION if self.kind is TaskKind.INTEGER_CLASSES else self.kind
        return str(shown.value)

    def decisions(self, rows: AnyArray) -> AnyArray:
        """Return the decisions of predictions.

        Args:
            rows: ``[rows, values]``.

        Returns:
            ``[rows] int64``, or ``[rows, values] int64`` for a multilabel task; -2, which equals
            no decision, for a row or value that is not finite.
        """
        if self.kind is TaskKind.INTEGER_CLASSES:
            return rows[:, 0].astype(np.int64) if rows.shape[1] == 1 else rows.astype(np.int64)
        if self.kind is TaskKind.CLASSIFICATION:
            finite = np.isfinite(rows)
            classes = np.where(finite, rows, -np.inf).argmax(axis=1)
            return np.where(finite.all(axis=1), classes, _NO_DECISION)
        found = np.where(np.isfinite(rows), rows > self.threshold, _NO_DECISION).astype(np.int64)
        return found[:, 0] if self.kind is TaskKind.BINARY else found


def check_metrics(text: str | None) -> None:
    """Check the names of metrics, without knowing the outputs.

    Args:
        text: See `parse_metrics`.

    Raises:
        OptionError: A metric is unknown.
    """
    for part in (text or "").split(","):
        metric = part.rpartition("=")[2].strip()
        if part.strip() and metric not in METRICS:
            message = (
                f"metric: {part.strip()!r}; give one of {', '.join(METRICS)}, or OUTPUT=METRIC "
                f"with commas between"
            )
            raise OptionError(message)


def parse_metrics(text: str | None, outputs: Sequence[str]) -> dict[str, str]:
    """Read the metrics that the user chose.

    Args:
        text: One metric for all outputs (``"f1"``), metrics by output
            (``"tags=f1,score=mae"``), or None.
        outputs: The names of the outputs.

    Returns:
        The metric by the name of the output; only outputs with a choice.

    Raises:
        OptionError: A metric or an output is unknown.
    """
    chosen: dict[str, str] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, equals, metric = part.rpartition("=")
        name, metric = name.strip(), metric.strip()
        if metric not in METRICS or (equals and name not in outputs):
            message = (
                f"metric: {part.strip()!r}; give one of {', '.join(METRICS)}, or OUTPUT=METRIC "
                f"with commas between, where the outputs are {', '.join(outputs)}"
            )
            raise OptionError(message)
        chosen.update({name: metric} if equals else dict.fromkeys(outputs, metric))
    return chosen


def require_labels(name: str, metric: str | None, labels: Column | None) -> None:
    """Check that the output of a metric has labels.

    Raises:
        DataError: It has none.
    """
    if metric is not None and labels is None:
        message = f"metric: {metric} of {name!r} needs labels; the data has none (y)"
        raise DataError(message)


def choose_task(steps: Steps, keras: AnyArray, labels: Column | None, metric: str | None) -> Task:
    """Choose the task of an output from Keras's predictions, the labels and the user's metric.

    Args:
        steps: The valid rows.
        keras: Keras's predictions, ``[rows, values]``.
        labels: One label per example, or None.
        metric: The metric that the user chose, or None.

    Raises:
        DataError: The labels do not fit the output, or are missing for the metric.
    """
    name = steps.output.name
    require_labels(name, metric, labels)
    classes = keras.shape[1]
    rows = None if labels is None else _label_rows(steps, labels, classes)
    kept = np.ones(len(keras), bool)
    if rows is not None and steps.per_step and _is_whole(rows):
        kept = ~(rows == PADDING_LABEL).all(axis=1)
        if _is_plus_minus_one(rows) and (classes == 1):
            kept[:] = True
    counted = None if rows is None else rows[kept]
    # Keras can return NaN for an example that is all padding.
    finite = keras[np.isfinite(keras).all(axis=1)]
    kind = _choose_kind(finite, counted, metric)
    if kind is TaskKind.REGRESSION:
        kept[:] = True
        counted = rows
    if counted is not None and not len(counted):
        message = f"the labels of {name!r} are all {PADDING_LABEL}, which marks padding"
        raise DataError(message)
    chosen = metric or _default_metric(kind, per_step=steps.per_step)
    return Task(
        kind=kind,
        metric=chosen,
        per_step=steps.per_step,
        threshold=_threshold(finite),
        labels=None if counted is None else _converted_labels(kind, counted, classes, name),
        labelled=kept if rows is not None else np.zeros(len(keras), bool),
    )


def measure(task: Task, rows: AnyArray) -> float:
    """Compute the metric of predictions from the labels.

    - ``accuracy``: the share of correct decisions, in percent; each value of a multilabel task is
      one decision.
    - ``f1``: in percent. For a binary task, the F1 of the positive class; for other tasks, the
      mean over the classes (or the values of a multilabel task) that occur in the labels.
    - ``mae``, ``rmse``: over all values, in the unit of the labels; infinite if a value is NaN.

    Args:
        task: The task, with labels.
        rows: The predictions for the labelled rows, ``[rows, values]``.

    Raises:
        ValueError: The task has no labels.
    """
    labels = task.labels
    if labels is None:
        message = "the task has no labels"
        raise ValueError(message)
    if task.metric in ERRORS:
        error = np.abs(rows.astype(np.float64) - labels)
        error = np.where(np.isnan(error), np.inf, error)
        with np.errstate(over="ignore"):
            return float(error.mean() if task.metric == "mae" else np.sqrt(np.square(error).mean()))
    decisions = task.decisions(rows)
    if task.metric == "accuracy":
        return 100 * float((labels.reshape(-1) == decisions.reshape(-1)).mean())
    return 100 * _f1(task.kind, labels, decisions)


def metric_loss(task: Task, value: float, keras: float) -> float:
    """Return the loss of a metric against Keras; negative if it improved.

    Returns:
        Percentage points for a share; percent of Keras's error for an error.
    """
    if task.metric not in ERRORS or task.labels is None:
        return keras - value
    spread = float(np.std(task.labels)) or float(np.abs(task.labels).max(initial=0)) or 1.0
    return 100 * (value - keras) / max(keras, _MIN_KERAS_ERROR * spread)


def _f1(kind: TaskKind, labels: AnyArray, decisions: AnyArray) -> float:
    if kind is TaskKind.BINARY:
        return _f1_of_class(labels == 1, decisions == 1)
    if kind is TaskKind.MULTILABEL:
        occurring = np.flatnonzero(labels.any(axis=0)).tolist()
        values = occurring or range(labels.shape[1])
        scores = [_f1_of_class(labels[:, i], decisions[:, i] == 1) for i in values]
    else:
        scores = [_f1_of_class(labels == one, decisions == one) for one in np.unique(labels)]
    return float(np.mean(scores))


def _f1_of_class(labels: AnyArray, decisions: AnyArray) -> float:
    """Compute the F1 of one class; 1 if it neither occurs nor is predicted.

    2 TP / (2 TP + FP + FN), from van Rijsbergen, Information Retrieval (1979), chapter 7.

    Args:
        labels: Where the class occurs, bool.
        decisions: Where it is predicted, bool of the same shape.
    """
    either = int(labels.sum()) + int(decisions.sum())  # 2 TP + FP + FN
    return 2 * int((labels & decisions).sum()) / either if either else 1.0


def _label_rows(steps: Steps, labels: Column, classes: int) -> AnyArray:
    """Return the labels of the valid rows: ``[rows, 1]``, or ``[rows, values]`` if dense."""
    columns = []
    for label, mask in zip(labels, steps.masks, strict=True):
        array, shape = np.asarray(label), mask.shape
        if array.ndim and shape and array.shape[0] > shape[0]:
            rest = array[shape[0] :]
            array = array[: shape[0]] if (rest == PADDING_LABEL).all() else array
        if array.shape == (*shape, classes):
            columns.append(array)
        elif array.shape in {shape, (*shape, 1)}:
            columns.append(array.reshape(*shape, 1))
        else:
            expected = " or ".join(str(list(s)) for s in {shape: 0, (*shape, classes): 0})
            message = (
                f"a label of {steps.output.name!r} has the shape {list(array.shape)}; the "
                f"output needs {expected}"
            )
            raise DataError(message)
    if len({column.shape[-1] for column in columns}) > 1:
        message = (
            f"some labels of {steps.output.name!r} are classes, others have one value per score"
        )
        raise DataError(message)
    return np.concatenate([c[mask] for c, mask in zip(columns, steps.masks, strict=True)])


def _choose_kind(keras: AnyArray, labels: AnyArray | None, metric: str | None) -> TaskKind:
    if metric in ERRORS:
        return TaskKind.REGRESSION
    if keras.dtype.kind in "biu":
        return TaskKind.INTEGER_CLASSES
    classes = keras.shape[1]
    between = bool(((keras >= 0) & (keras <= 1)).all())
    sums = between and bool(np.abs(keras.sum(axis=1, dtype=np.float64) - 1).max() < _SUM_TOLERANCE)
    if labels is None:
        found = TaskKind.REGRESSION
        if between:
            found = TaskKind.CLASSIFICATION if sums else TaskKind.MULTILABEL
    elif labels.shape[1] < classes:
        found = TaskKind.CLASSIFICATION if _is_whole(labels) else TaskKind.REGRESSION
    elif _is_among(labels, (0, 1)) or (classes == 1 and _is_plus_minus_one(labels)):
        one_hot = classes > 1 and bool((labels.sum(axis=1) == 1).all())
        found = TaskKind.CLASSIFICATION if one_hot else TaskKind.MULTILABEL
    else:
        is_soft = (
            sums and classes > 1 and bool(np.abs(labels.sum(axis=1) - 1).max() < _SUM_TOLERANCE)
        )
        found = TaskKind.CLASSIFICATION if is_soft else TaskKind.REGRESSION
    if metric is not None and found is TaskKind.REGRESSION:
        found = TaskKind.CLASSIFICATION
    if classes == 1 and found is not TaskKind.REGRESSION:
        return TaskKind.BINARY
    return found


def _converted_labels(kind: TaskKind, labels: AnyArray, classes: int, name: str) -> AnyArray:
    if kind is TaskKind.REGRESSION:
        if labels.shape[1] != classes:
            message = (
                f"the labels of {name!r} have one number per row, the output {classes}; an error "
                f"(mae, rmse) needs as many"
            )
            raise DataError(message)
        return labels.astype(np.float64)
    if kind is TaskKind.CLASSIFICATION and labels.shape[1] == classes > 1:
        return np.asarray(labels.argmax(axis=1))
    if kind in {TaskKind.CLASSIFICATION, TaskKind.INTEGER_CLASSES}:
        return _class_labels(labels, classes, kind, name)
    if not (_is_among(labels, (0, 1)) or _is_plus_minus_one(labels)):
        message = (
            f"the labels of {name!r} hold {labels[~np.isin(labels, (0, 1))][0]:g}; its classes are "
            f"0 and 1"
        )
        raise DataError(message)
    return (labels > 0)[:, 0] if kind is TaskKind.BINARY else labels > 0


def _class_labels(labels: AnyArray, classes: int, kind: TaskKind, name: str) -> AnyArray:
    wrong = ~np.isfinite(labels) | (labels != np.floor(labels))
    if kind is TaskKind.CLASSIFICATION:
        wrong |= (labels < 0) | (labels >= classes)
    if wrong.any():
        message = (
            f"the labels of {name!r} hold {labels[wrong][0]:g}; its classes are 0 to {classes - 1}"
            f", and -1 marks padding in a sequence"
        )
        raise DataError(message)
    if kind is TaskKind.INTEGER_CLASSES and labels.shape[1] != classes:
        message = f"the labels of {name!r} have one class per row, the output {classes}"
        raise DataError(message)
    whole = labels.astype(np.int64)
    return whole[:, 0] if whole.shape[1] == 1 else whole


def _default_metric(kind: TaskKind, *, per_step: bool) -> str:
    if kind is TaskKind.REGRESSION:
        return "mae"
    return "f1" if per_step or kind is TaskKind.MULTILABEL else "accuracy"


def _threshold(keras: AnyArray) -> float:
    """Return 0.5 for probabilities, 0 for scores that can be negative."""
    return 0.5 if keras.min(initial=0) >= 0 and keras.max(initial=1) <= 1 else 0.0


def _is_whole(values: AnyArray) -> bool:
    return values.dtype.kind in "biu" or bool((values == np.floor(values)).all())


def _is_among(values: AnyArray, allowed: tuple[int, ...]) -> bool:
    return bool(np.isin(values, allowed).all())


def _is_plus_minus_one(values: AnyArray) -> bool:
    """Whether these are the labels of a hinge loss."""
    return set(np.unique(values).tolist()) == {-1, 1}
