"""Summaries of all steps so far: sums, means, extremes, and means weighed by attention.

A summary is a state that each chunk continues. The weights of attention are a softmax over time,
whose sum is known at the end only. But a weighted sum is linear in it, so the weights stay
unnormalized until the sum over time, which divides by their sum so far. The largest score so far
keeps the exponentials finite; when it grows, the sums of earlier chunks are scaled
(online softmax, https://arxiv.org/abs/1805.02867).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from bilstm_exporter.streaming.values import Carried, Value, Weights, choose
from bilstm_exporter.streaming.windows import time_slice

Tensor = Any


@dataclass(frozen=True)
class _Reduction:
    """How parts are summarized, and how two summaries become one."""

    of_steps: Callable[..., Tensor]
    join: Callable[[Tensor, Tensor], Tensor]


_REDUCTIONS = {
    "Sum": _Reduction(tf.reduce_sum, tf.add),
    "Prod": _Reduction(tf.reduce_prod, tf.multiply),
    "Max": _Reduction(tf.reduce_max, tf.maximum),
    "Min": _Reduction(tf.reduce_min, tf.minimum),
    "Any": _Reduction(tf.reduce_any, tf.logical_or),
    "All": _Reduction(tf.reduce_all, tf.logical_and),
}
SUPPORTED = frozenset({*_REDUCTIONS, "Mean"})


def pieces(value: Value) -> list[Tensor]:
    """Split a chunk into the steps by which the stream advances, and the steps beyond.

    The next chunk has the steps beyond too, so they are left out of what it is given.
    """
    if value.over <= 0:
        return [value.chunk]
    axis = value.time_axis
    return [
        time_slice(value.chunk, axis, None, -value.over),
        time_slice(value.chunk, axis, -value.over, None),
    ]


def reduced(  # noqa: PLR0913 - what a reduction needs
    kind: str, value: Value, axes: Sequence[int], carried: Carried, label: str, *, keep: bool
) -> Tensor:
    """Summarize all steps so far.

    Args:
        kind: A TensorFlow operator in `SUPPORTED`.
        value: The steps.
        axes: The axes that are summarized, time among them.
        carried: The states.
        label: The layer, for the names of states.
        keep: Whether the axes stay, with size 1.
    """
    parts = pieces(value)
    if value.weights is not None and value.weights.divisor.shape.rank:
        # Each softmax has a divisor of its own, so what they weigh is added up after the division.
        time = [tf.reduce_sum(part, value.time_axis, keepdims=True) for part in parts]
        total = summed(time, carried, label, value.weights)
        if kind == "Mean":
            counts = [
                tf.reduce_sum(tf.ones_like(part[..., :1]), value.time_axis, keepdims=True)
                for part in parts
            ]
            total /= summed(counts, carried, label)
        return (tf.reduce_sum if kind == "Sum" else tf.reduce_mean)(total, axes, keepdims=keep)
    if kind == "Mean":
        sums = [tf.reduce_sum(part, axes, keepdims=keep) for part in parts]
        ones = [tf.reduce_sum(tf.ones_like(part), axes, keepdims=keep) for part in parts]
        return summed(sums, carried, label, value.weights) / summed(ones, carried, label)
    reduction = _REDUCTIONS[kind]
    found = [reduction.of_steps(part, axes, keepdims=keep) for part in parts]
    if kind == "Sum":
        return summed(found, carried, label, value.weights)
    first, *more = found
    state = carried.take(f"{label}_so_far", first.shape, first.dtype)
    result = choose(carried.started, reduction.join(state.before, first), first)
    carried.put(state, result)
    for part in more:
        result = reduction.join(result, part)
    return result


def summed(
    parts: Sequence[Tensor], carried: Carried, label: str, weights: Weights | None = None
) -> Tensor:
    """Add the sums of the `pieces` of a chunk to the sum so far.

    Args:
        parts: The sum of each piece.
        carried: The states.
        label: The layer, for the names of states.
        weights: What the steps were multiplied by.
    """
    first, *more = parts
    state = carried.take(f"{label}_so_far", first.shape, first.dtype)
    before = state.before
    if weights is not None and weights.rescale is not None:
        before *= weights.rescale
    result = before + first
    carried.put(state, result)
    for part in more:
        result += part
    return result if weights is None else result / weights.divisor


def variance(value: Value, carried: Carried, label: str, *, keep: bool) -> Tensor:
    """Return the variance over all steps so far.

    The mean and the sum of squared differences of the steps so far are joined with those of each
    chunk, which loses no digits (Chan, Golub and LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances", 1979).

    Args:
        value: The steps.
        carried: The states.
        label: The layer, for the names of states.
        keep: Whether the axis of time stays, with size 1.
    """
    axis = value.time_axis
    found: list[Tensor] = []
    for number, part in enumerate(pieces(value)):
        ones = tf.ones_like(time_slice(part, axis, None, 1))
        count = tf.cast(tf.shape(part)[axis], part.dtype) * ones
        mean = tf.reduce_mean(part, axis, keepdims=True)
        squares = tf.reduce_sum(tf.square(part - mean), axis, keepdims=True)
        names = ("count", "mean", "squares")
        states = [] if number else [
            carried.take(f"{label}_{name}", [int(size or 1) for size in count.shape], part.dtype)
            for name in names
        ]  # fmt: skip
        counted, before, summed_before = (state.before for state in states) if states else found
        total = counted + count
        difference = mean - before
        found = [
            total,
            before + difference * count / total,
            summed_before + squares + tf.square(difference) * counted * count / total,
        ]
        for state, after in zip(states, found, strict=False):
            carried.put(state, after)
    result = found[2] / found[0]
    return result if keep else tf.squeeze(result, [axis])


def softmax_over_time(value: Value, carried: Carried, label: str) -> Value:
    """Return softmaxes over time, the last axis, without their divisions; see `Weights`."""
    largest = tf.reduce_max(value.chunk, -1, keepdims=True)
    state = carried.take(f"{label}_largest", largest.shape, largest.dtype)
    largest = choose(carried.started, tf.maximum(state.before, largest), largest)
    carried.put(state, largest)
    rescale = choose(carried.started, tf.exp(state.before - largest), tf.ones_like(largest))
    scaled = replace(
        value,
        chunk=tf.exp(value.chunk - largest),
        ahead=None if value.ahead is None else tf.exp(value.ahead - largest),
    )
    sums = [tf.reduce_sum(part, -1, keepdims=True) for part in pieces(scaled)]
    divisor = summed(sums, carried, label, Weights(tf.ones_like(largest), rescale))
    if math.prod(divisor.shape) == 1:
        divisor, rescale = tf.reshape(divisor, []), tf.reshape(rescale, [])
    return replace(scaled, weights=Weights(divisor, rescale))
