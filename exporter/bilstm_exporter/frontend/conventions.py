"""What Keras 2 and Keras 3 do alike around a recurrence, and how both are replaced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from bilstm_exporter.recurrence import Lowering, Recurrence, StepCell


@contextlib.contextmanager
def replaced(replacements: dict[tuple[Any, str], Any]) -> Iterator[None]:
    """Set attributes ``{(owner, name): value}``; put the old ones back on exit."""
    saved = {key: vars(key[0]).get(key[1]) for key in replacements}
    try:
        for (owner, name), value in replacements.items():
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name), value in saved.items():
            if value is None:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


def lower_as_keras(  # noqa: PLR0913 - a layer's call and two settings
    lowering: Lowering,
    recurrence: Recurrence,
    sequences: Any,
    states: Sequence[Any],
    mask: Any,
    *,
    unroll: bool,
) -> tuple[Any, Any, list[Any]]:
    """Lower a recurrence, and give back what Keras's own loops give.

    Args:
        lowering: The target's.
        recurrence: As the layer is set.
        sequences: ``[batch, time, ...] float32``.
        states: The initial states, flat.
        mask: ``[batch, time] bool``, or None.
        unroll: Whether the layer writes its steps out.

    Returns:
        The last output, the outputs in the order they were processed (one step without
        ``return_sequences``), and the final states.
    """
    # Keras zeroes the masked outputs of an unrolled backward layer with the mask in
    # input order, not in the order it processed: the definition of right.
    crossed_zeros = (
        mask is not None and unroll and recurrence.go_backwards and recurrence.zero_output_for_mask
    )
    if crossed_zeros:
        recurrence = replace(recurrence, zero_output_for_mask=False)
    if not isinstance(recurrence.cell, StepCell):
        states = [None if _is_zeros(state) else state for state in states]
    result = lowering(recurrence, sequences, states, mask)
    last_output, outputs = result.last_output, result.outputs
    if outputs is None:
        outputs = tf.expand_dims(last_output, 1)
    elif recurrence.go_backwards:
        outputs = tf.reverse(outputs, [1])
    if crossed_zeros:
        zero = tf.zeros([], outputs.dtype)
        rank = len(outputs.shape)
        outputs = tf.where(_broadcast_to_rank(mask, rank), outputs, zero)
        last_output = tf.where(_broadcast_to_rank(mask[:, 0], rank - 1), last_output, zero)
    return last_output, outputs, list(result.states)


def before_flip(tensor: Any, axis: int) -> Any:
    """The tensor before a reversal of this very axis, or None if it comes from no such thing.

    Bidirectional flips what its backward layer has just flipped.
    """
    operation = getattr(tensor, "op", None)
    if operation is not None and operation.type == "ReverseV2":
        before, axes = operation.inputs
        if list(tf.get_static_value(axes)) == [axis % len(tensor.shape)]:
            return before
    return None


def _is_zeros(tensor: Any) -> bool:
    """Whether a tensor of the graph is all zeros, as Keras's default initial states are."""
    operation = tensor.op
    if operation.type == "Fill":
        tensor = operation.inputs[1]
    value = tf.get_static_value(tensor)
    return value is not None and not value.any()


def _broadcast_to_rank(mask: Any, rank: int) -> Any:
    while len(mask.shape) < rank:
        mask = tf.expand_dims(mask, -1)
    return mask
