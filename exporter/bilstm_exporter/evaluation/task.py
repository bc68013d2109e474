"""What an output is for: which decisions its numbers stand for, and which metric suits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bilstm_exporter.errors import DataError, OptionError
from bilstm_exporter.evaluation.dataset import Column
from bilstm_exporter.evaluation.steps import Steps
from bilstm_runtime.values import AnyArray

METRICS = ("accuracy", "f1", "mae", "rmse")
_ERRORS = ("mae", "rmse")
PADDING_LABEL = -1
# Keras's softmax in float32 adds up to one within some roundings; half a percent is another thing.
_SUM_TO_ONE = 1e-3


@dataclass(frozen=True)
class Task:
    """What one output is for.

    Attributes:
        kind: ``"classification"`` (the greatest of several values decides), ``"binary"`` (one
            value, against a threshold), ``"multilabel"`` (several of those), ``"decided"`` (the
            model answers its decisions itself, as integers) or ``"regression"``.
        metric: One of `METRICS`.
        per_step: Whether it decides at every step.
        threshold: What a value must exceed to be a yes.
        labels: For the rows that have any: classes ``[rows] int64``, yes or no ``[rows]`` or
            ``[rows, values] bool``, or numbers ``[rows, values] float64``; or None.
        labelled: Which rows have a label, ``[rows] bool``.
    """

    kind: str
    metric: str
    per_step: bool
    threshold: float
    labels: AnyArray | None
    labelled: AnyArray

    @property
    def name(self) -> str:
        """For people: a decision at every step is tagging."""
        is_tagging = self.per_step and self.kind in {"classification", "binary", "decided"}
        return "tagging" if is_tagging else self.kind.replace("decided", "classification")

    def decisions(self, rows: AnyArray) -> AnyArray:
        """What answers decide.

        Args:
            rows: ``[rows, values]``.

        Returns:
            ``[rows] int64``, or ``[rows, values] bool`` for several yes or no at once; where an
            answer is not a number, no decision that anybody else makes (-2).
        """
        if self.kind == "decided":
            return rows[:, 0].astype(np.int64) if rows.shape[1] == 1 else rows.astype(np.int64)
        if self.kind == "classification":
            broken = ~np.isfinite(rows).all(axis=1)
            return np.where(broken, -2, np.where(np.isfinite(rows), rows, -np.inf).argmax(axis=1))
        found = np.where(np.isfinite(rows), rows > self.threshold, -2).astype(np.int64)
        return found[:, 0] if self.kind == "binary" else found


def parse_metrics(text: str | None, outputs: Sequence[str]) -> dict[str, str]:
    """Which metric is wanted for which output.

    Args:
        text: One for all (``"f1"``), or several by output (``"tags=f1,score=mae"``); or None.
        outputs: The names of the outputs.

    Raises:
        OptionError: A metric or an output is unknown.
    """
    wanted: dict[str, str] = {}
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
        wanted.update({name: metric} if equals else dict.fromkeys(outputs, metric))
    return wanted


def choose_task(steps: Steps, keras: AnyArray, labels: Column | None, metric: str | None) -> Task:
    """Find out what an output is for.

    Args:
        steps: Which rows count.
        keras: Keras's answers, ``[rows, values]``.
        labels: One an example, or None.
        metric: What the user wants, or None.

    Raises:
        DataError: The labels do not suit the output, or the metric has none.
    """
    name = steps.output.name
    if metric is not None and labels is None:
        message = f"metric: {metric} of {name!r} needs labels; the data holds none (y)"
        raise DataError(message)
    classes = keras.shape[1]
    rows = None if labels is None else _label_rows(steps, labels, classes)
    kept = np.ones(len(keras), bool)
    if rows is not None and steps.per_step and _is_whole(rows):
        kept = ~(rows == PADDING_LABEL).all(axis=1)
        if _is_plus_minus_one(rows) and (classes == 1):
            kept[:] = True
    counted = None if rows is None else rows[kept]
    # Keras may answer NaN where all of an example is padding.
    finite = keras[np.isfinite(keras).all(axis=1)]
    kind = _kind(finite, counted, metric)
    if kind == "regression":
        kept[:] = True
        counted = rows
    if counted is not None and not len(counted):
        message = f"the labels of {name!r} are all {PADDING_LABEL}, which marks padding"
        raise DataError(message)
    chosen = metric or _usual_metric(kind, per_step=steps.per_step)
    return Task(
        kind=kind,
        metric=chosen,
        per_step=steps.per_step,
        threshold=_threshold(finite),
        labels=None if counted is None else _as_kind(kind, counted, classes, name),
        labelled=kept if rows is not None else np.zeros(len(keras), bool),
    )


def _label_rows(steps: Steps, labels: Column, classes: int) -> AnyArray:
    """Labels of the rows that count: ``[rows, 1]``, or ``[rows, values]`` if dense."""
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
                f"a label of {steps.output.name!r} has the shape {list(array.shape)}, where the "
                f"answer suits {expected}"
            )
            raise DataError(message)
    if len({column.shape[-1] for column in columns}) > 1:
        message = f"the labels of {steps.output.name!r} are classes in part, and values in part"
        raise DataError(message)
    return np.concatenate([c[mask] for c, mask in zip(columns, steps.masks, strict=True)])


def _kind(keras: AnyArray, labels: AnyArray | None, metric: str | None) -> str:
    if metric in _ERRORS:
        return "regression"
    if keras.dtype.kind in "biu":
        return "decided"
    classes = keras.shape[1]
    between = bool(((keras >= 0) & (keras <= 1)).all())
    sums = between and bool(np.abs(keras.sum(axis=1, dtype=np.float64) - 1).max() < _SUM_TO_ONE)
    if labels is None:
        found = "regression"
        if between:
            found = "classification" if sums else "multilabel"
    elif labels.shape[1] < classes:
        found = "classification" if _is_whole(labels) else "regression"
    elif _is_among(labels, (0, 1)) or (classes == 1 and _is_plus_minus_one(labels)):
        one_hot = classes > 1 and bool((labels.sum(axis=1) == 1).all())
        found = "classification" if one_hot else "multilabel"
    else:
        is_soft = sums and classes > 1 and bool(np.abs(labels.sum(axis=1) - 1).max() < _SUM_TO_ONE)
        found = "classification" if is_soft else "regression"
    if metric is not None and found == "regression":
        found = "classification"
    if classes == 1 and found != "regression":
        return "binary"
    return found


def _as_kind(kind: str, labels: AnyArray, classes: int, name: str) -> AnyArray:
    if kind == "regression":
        if labels.shape[1] != classes:
            message = (
                f"the labels of {name!r} are one number a row, its answers {classes}; an error "
                f"(mae, rmse) cannot be taken of that"
            )
            raise DataError(message)
        return labels.astype(np.float64)
    if kind == "classification" and labels.shape[1] == classes > 1:
        return np.asarray(labels.argmax(axis=1))
    if kind in {"classification", "decided"}:
        return _classes(labels, classes, kind, name)
    if not (_is_among(labels, (0, 1)) or _is_plus_minus_one(labels)):
        message = (
            f"the labels of {name!r} hold {labels[~np.isin(labels, (0, 1))][0]:g}; it decides "
            f"between 0 and 1"
        )
        raise DataError(message)
    return (labels > 0)[:, 0] if kind == "binary" else labels > 0


def _classes(labels: AnyArray, classes: int, kind: str, name: str) -> AnyArray:
    wrong = ~np.isfinite(labels) | (labels != np.floor(labels))
    if kind == "classification":
        wrong |= (labels < 0) | (labels >= classes)
    if wrong.any():
        message = (
            f"the labels of {name!r} hold {labels[wrong][0]:g}; its classes are 0 to {classes - 1}"
            f", and -1 is padding where it decides at every step"
        )
        raise DataError(message)
    whole = labels.astype(np.int64)
    return whole[:, 0] if whole.shape[1] == 1 else whole


def _usual_metric(kind: str, *, per_step: bool) -> str:
    if kind == "regression":
        return "mae"
    return "f1" if per_step or kind == "multilabel" else "accuracy"


def _threshold(keras: AnyArray) -> float:
    """Half for probabilities, zero for what may be negative."""
    return 0.5 if keras.min(initial=0) >= 0 and keras.max(initial=1) <= 1 else 0.0


def _is_whole(values: AnyArray) -> bool:
    return values.dtype.kind in "biu" or bool((values == np.floor(values)).all())


def _is_among(values: AnyArray, allowed: tuple[int, ...]) -> bool:
    return bool(np.isin(values, allowed).all())


def _is_plus_minus_one(values: AnyArray) -> bool:
    """Whether these are the labels of a hinge loss."""
    return set(np.unique(values).tolist()) == {-1, 1}
