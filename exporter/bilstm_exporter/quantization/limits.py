"""Which precision can hold a weight at all, whatever the plan says."""

from __future__ import annotations

import numpy as np

from bilstm_exporter.quantization.affine import Quantized, quantize, squared_error
from bilstm_exporter.quantization.recipes import Precision

# Part of a channel's weights that may vanish beside its largest one, and of how many at least.
_LOST_PART, _LOST_OF = 0.75, 8
# Root mean square of the error that one scale may leave in a matrix, as a part of the weights' own.
# Scales of channels leave 0.006 in trained LSTMs, one scale 0.006 to 0.022, int4 some 0.1.
ONE_SCALE_ERROR = 0.025
# A float16 is good to 2**-11 of its value; to twice that of the largest weight if it is normal.
_HALF_ERROR = 2.0**-10


def lowest_that_holds(groups: np.ndarray, precision: Precision) -> tuple[Precision, str]:
    """The precision to store a weight in: the one wanted, or the next that can hold it.

    Args:
        groups: ``[groups, numbers]``; the numbers of a group share a scale in integers.
        precision: Which is wanted.

    Returns:
        The precision, and why it is not the one wanted, or "".
    """
    reason = ""
    for step in sorted(step for step in Precision if step >= precision):
        why_not = "" if step is Precision.FLOAT32 else _why_not(groups, step)
        if not why_not:
            return step, reason
        reason = why_not
    return Precision.FLOAT32, reason


def lost(weight: np.ndarray, found: Quantized) -> bool:
    """Whether one large number makes most of those that share its scale zeros."""
    shared = tuple(axis for axis, size in enumerate(found.scale.shape) if size == 1)
    there = weight != 0
    count = there.sum(axis=shared)
    gone = (there & (found.values == 0)).sum(axis=shared)
    return bool(((count >= _LOST_OF) & (gone > _LOST_PART * count)).any())


def serves_all(weight: np.ndarray, found: Quantized) -> bool:
    """Whether one scale serves a matrix ``[channels, inputs]``, or scales of channels are worth it.

    Args:
        weight: The matrix.
        found: It under one scale.
    """
    each = np.broadcast_to(found.scale, (len(weight), 1))
    if lost(weight, Quantized(found.values, each, found.bits)):
        return False
    size = float(np.square(weight, dtype=np.float64).sum())
    return squared_error(weight, found) <= ONE_SCALE_ERROR**2 * size


def why_not_float16(weight: np.ndarray) -> str:
    """Why float16 cannot hold a weight; "" if it can."""
    largest = float(np.abs(weight).max(initial=0))
    if largest > float(np.finfo(np.float16).max):
        return "a number is beyond float16's range"
    if float(np.abs(weight.astype(np.float16) - weight).max(initial=0)) > _HALF_ERROR * largest:
        return "its numbers are too small for float16"
    return ""


def _why_not(groups: np.ndarray, precision: Precision) -> str:
    if not np.isfinite(groups).all():
        return "it has NaN or infinity"
    if precision is Precision.FLOAT16:
        return why_not_float16(groups)
    if lost(groups, quantize(groups, (1,), int(precision))):
        return f"beside its largest numbers, {precision.label} would lose the others"
    return ""
