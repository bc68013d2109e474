"""Scores from the values of an output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bilstm_runtime.spec import AnyArray


def scores_of(values: AnyArray, activation: str | None, labels: int) -> AnyArray:
    """Compute the score of each class.

    Args:
        values: `[..., classes]` of floats.
        activation: "softmax" or "sigmoid", or None if the values are the scores.
        labels: The number of labels; 2 for values `[..., 1]` makes two scores of each value.

    Returns:
        `[..., classes] float64`.
    """
    scores = values.astype(np.float64)
    if activation == "softmax":
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
        scores /= scores.sum(axis=-1, keepdims=True)
    elif activation == "sigmoid":
        # Without an overflow for large negative values.
        small = np.exp(-np.abs(scores))
        scores = np.where(scores >= 0, 1.0, small) / (1.0 + small)
    if labels == 2 and scores.shape[-1] == 1:
        scores = np.concatenate([1.0 - scores, scores], axis=-1)
    return scores


def best_of(scores: AnyArray, threshold: float | None) -> AnyArray:
    """Return the best class of each row.

    Args:
        scores: `[rows, classes]`.
        threshold: With two classes, the lowest score of the second; None for the largest score.
            The first of equal scores wins.

    Returns:
        `[rows] int64`.
    """
    if threshold is not None and scores.shape[-1] == 2:
        return (scores[:, 1] >= threshold).astype(np.int64)
    found: AnyArray = scores.argmax(axis=-1)
    return found
