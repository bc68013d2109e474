"""How good decisions and numbers are, by the labels.

Shares are in percent and their change in percentage points; errors are in the unit of the labels
and their change in percent of the float model's error.
"""

from __future__ import annotations

import numpy as np

from bilstm_exporter.evaluation.task import Task
from bilstm_runtime.values import AnyArray

ERRORS = ("mae", "rmse")
# Of the spread of the labels: where the float model errs less than this, its error is next to
# nothing, and a percentage of it would say nothing.
_LEAST_ERROR = 1e-3


def measure(task: Task, rows: AnyArray) -> float:
    """The metric of answers on the rows that have labels.

    - ``accuracy``: the share of right decisions in percent; of several yes or no a row, each
      counts by itself.
    - ``f1``: in percent. Between two, of the yes; between several, the mean over the classes (or
      over the yes of each value) that occur in the labels.
    - ``mae``, ``rmse``: over all values; infinite where an answer is not a number.

    Args:
        task: With the labels.
        rows: ``[rows, values]``, the rows that have labels.
    """
    labels = task.labels
    if labels is None:
        message = "there are no labels to measure by"
        raise ValueError(message)
    if task.metric in ERRORS:
        error = np.abs(rows.astype(np.float64) - labels)
        error = np.where(np.isnan(error), np.inf, error)
        with np.errstate(over="ignore"):
            return float(error.mean() if task.metric == "mae" else np.sqrt(np.square(error).mean()))
    found = task.decisions(rows)
    if task.metric == "accuracy":
        return _accuracy(labels, found)
    return _f1(task.kind, labels, found)


def loss(task: Task, value: float, keras: float) -> float:
    """What a metric lost against the float model; negative where it gained.

    Returns:
        Percentage points of a share; percent of the float model's error.
    """
    if task.metric not in ERRORS or task.labels is None:
        return keras - value
    spread = float(np.std(task.labels)) or float(np.abs(task.labels).max(initial=0)) or 1.0
    return 100 * (value - keras) / max(keras, _LEAST_ERROR * spread)


def _accuracy(labels: AnyArray, found: AnyArray) -> float:
    from sklearn.metrics import accuracy_score  # noqa: PLC0415 - takes a second to load

    return 100 * float(accuracy_score(labels.reshape(-1), found.reshape(-1)))


def _f1(kind: str, labels: AnyArray, found: AnyArray) -> float:
    from sklearn.metrics import f1_score  # noqa: PLC0415 - takes a second to load

    if kind == "multilabel":
        occurring = np.flatnonzero(labels.any(axis=0)).tolist()
        pairs = [(labels[:, i], found[:, i] == 1) for i in occurring or range(labels.shape[1])]
        scores = [f1_score(a, b, zero_division=1.0) for a, b in pairs]
        return 100 * float(np.mean(scores))
    if kind == "binary":
        return 100 * float(f1_score(labels, found == 1, zero_division=1.0))
    classes = np.unique(labels)
    labels, found = labels.reshape(-1), found.reshape(-1)
    score = f1_score(labels, found, labels=classes, average="macro", zero_division=0.0)
    return 100 * float(score)
