"""Finds the two directions of a bidirectional layer, however it was built, for one loop.

Keras runs one direction after the other. The first is lowered by itself; if the second turns out
to walk over the same sequence from the other end, both are lowered again as one loop, and whatever
reads the first result reads that of the pair instead. The first loop is left with no reader, and
the converter drops it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.ir.recurrence import (
    Activation,
    Cell,
    Lowering,
    Recurrence,
    RecurrenceResult,
    StepCell,
)
from bilstm_exporter.targets.base import RecurrenceForm
from bilstm_exporter.targets.tflite import loop
from bilstm_exporter.targets.tflite.tiling import is_walked_both_ways


@dataclass(frozen=True)
class _Single:
    """A recurrence lowered by itself, whose result of Identities waits for its other direction."""

    recurrence: Recurrence
    sequences: Any
    mask: Any
    result: RecurrenceResult


class LoopLowering(Lowering):
    """Writes recurrences as loops, the two directions of a layer as one where the caches hold it.

    Args:
        weight_bytes: Of one number of a kernel, as it is computed with.

    Attributes:
        cells: That of every recurrence, in the order of the calls.
        forms: How each was written.
    """

    def __init__(self, weight_bytes: int) -> None:
        self.cells: list[Cell] = []
        self.forms: list[RecurrenceForm] = []
        self._weight_bytes = weight_bytes
        self._waiting: list[_Single] = []

    def lower(
        self, recurrence: Recurrence, sequences: Any, initial_state: Sequence[Any], mask: Any
    ) -> RecurrenceResult:
        """Write one recurrence, and perhaps the one before it anew; see `Lowering.lower`."""
        self.cells.append(recurrence.cell)
        self.forms.append(RecurrenceForm(recurrence.layer, "loop"))
        if any(state is not None for state in initial_state) or not is_walked_both_ways(
            recurrence.cell,
            sequences.shape[1],
            self._weight_bytes,
            return_sequences=recurrence.return_sequences,
        ):
            return loop.lower(recurrence, sequences, initial_state, mask, self._weight_bytes)
        for other in self._waiting:
            if (
                other.sequences is sequences
                and _is_same_mask(other.mask, mask)
                and _differ_in_weights_and_direction_only(other.recurrence, recurrence)
            ):
                self._waiting.remove(other)
                return self._lower_both(other, recurrence, sequences, mask)
        result = loop.lower(recurrence, sequences, initial_state, mask, self._weight_bytes)
        replaceable = RecurrenceResult(
            tf.identity(result.last_output),
            None if result.outputs is None else tf.identity(result.outputs),
            [tf.identity(state) for state in result.states],
        )
        self._waiting.append(_Single(recurrence, sequences, mask, replaceable))
        return replaceable

    def _lower_both(
        self, other: _Single, recurrence: Recurrence, sequences: Any, mask: Any
    ) -> RecurrenceResult:
        pair = (other.recurrence, recurrence)
        forward, backward = sorted(pair, key=lambda one: one.go_backwards)
        results = loop.lower_both(forward, backward, sequences, mask, self._weight_bytes)
        first, second = results if forward is other.recurrence else results[::-1]
        for identity, tensor in zip(_tensors(other.result), _tensors(first), strict=True):
            _hand_over(identity, tensor)
        return second


def _tensors(result: RecurrenceResult) -> list[Any]:
    outputs = [] if result.outputs is None else [result.outputs]
    return [result.last_output, *outputs, *result.states]


def _hand_over(identity: Any, tensor: Any) -> None:
    """Let an Identity give on another tensor than it was made for.

    No cycle comes of it: both recurrences depend on their weights and on the same sequence and
    mask, which were there before either.
    """
    tensor.set_shape(identity.shape)
    identity.op._update_input(0, tensor)  # noqa: SLF001 - as TensorFlow's own while_v2 does


def _is_same_mask(one: Any, other: Any) -> bool:
    """Whether two masks are the same tensor, or casts of it to the same type."""
    if one is None or other is None or one is other:
        return one is other
    casts = all(mask.op.type == "Cast" for mask in (one, other))
    return casts and one.dtype == other.dtype and one.op.inputs[0] is other.op.inputs[0]


def _differ_in_weights_and_direction_only(one: Recurrence, other: Recurrence) -> bool:
    return (
        one.go_backwards != other.go_backwards
        and one.return_sequences == other.return_sequences
        and one.zero_output_for_mask == other.zero_output_for_mask
        and type(one.cell) is type(other.cell)
        and not isinstance(one.cell, StepCell)
        and all(
            _are_alike(getattr(one.cell, field.name), getattr(other.cell, field.name))
            for field in fields(one.cell)
        )
    )


def _are_alike(one: Any, other: Any) -> bool:
    """Whether two parts of a cell are weights of the same shape, or else equal.

    An activation that has no name is the same only as the same function.
    """
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return bool(one.shape == other.shape)
    if isinstance(one, Activation) and isinstance(other, Activation):
        same = one.function is other.function if one.name is None else one.name == other.name
        return bool(same)
    return type(one) is type(other) and bool(one == other)
