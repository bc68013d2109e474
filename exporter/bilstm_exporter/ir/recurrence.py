"""What a recurrence is, described alike by every front end for every target.

A front end (Keras 3, tf_keras) describes each recurrent layer it meets as a
:class:`Recurrence`. A target (ONNX, TFLite) turns that description, together
with the tensors of one call, into its own operators. Neither knows the other.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from bilstm_exporter.ir.cells import Cell

Tensor = Any


@dataclass(frozen=True)
class Recurrence:
    """One recurrent layer in one direction.

    Attributes:
        layer: The layer's name, for messages.
        cell: What happens in a step.
        go_backwards: Whether time runs from the last step to the first.
        return_sequences: Whether the output of every step is wanted.
        zero_output_for_mask: Whether a masked step gives zeros; otherwise it
            repeats the output of the step processed before it (zeros at first).
    """

    layer: str
    cell: Cell
    go_backwards: bool
    return_sequences: bool
    zero_output_for_mask: bool

    def output_is_state(self, *, masked: bool, starts_at_zeros: bool) -> bool:
        """Whether the output of a step always equals the first state after it.

        This holds for gated cells. Exceptions are masked steps that give zeros, and masked
        steps before the first valid one, whose output is zeros for any initial state.
        """
        if self.cell.units is None:
            return False
        return not masked or (starts_at_zeros and not self.zero_output_for_mask)


@dataclass(frozen=True)
class RecurrenceResult:
    """What a lowered recurrence gives back, as TensorFlow tensors.

    Attributes:
        last_output: ``[batch, ...]``, the output of the step processed last.
        outputs: ``[batch, time, ...]`` in the order of the *input's* time axis for
            both directions, or None unless ``return_sequences``.
        states: The final states, ``[batch, ...]`` each.
    """

    last_output: Tensor
    outputs: Tensor | None
    states: list[Tensor]


@dataclass(frozen=True)
class Bidirectional:
    """Two recurrences over one sequence from either end, in one layer.

    Attributes:
        layer: The layer's name.
        forward: The recurrence of the layer's forward part; it may itself go backwards.
        backward: That of its backward part.
    """

    layer: str
    forward: Recurrence
    backward: Recurrence


class Lowering(abc.ABC):
    """A target's way to write recurrences into the graph being traced."""

    @abc.abstractmethod
    def lower(
        self,
        recurrence: Recurrence,
        sequences: Tensor,
        initial_state: Sequence[Tensor | None],
        mask: Tensor | None,
    ) -> RecurrenceResult:
        """Write one recurrence.

        Args:
            recurrence: What to lower.
            sequences: ``[batch, time, ...] float32``.
            initial_state: One tensor ``[batch, ...]`` per state; None means zeros
                (only for cells whose weights give the shapes of the states).
            mask: ``[batch, time] bool``, True where a step is valid; or None.
        """

    def lower_bidirectional(
        self,
        pair: Bidirectional,
        sequences: Tensor,
        initial_states: tuple[Sequence[Tensor | None], Sequence[Tensor | None]],
        mask: Tensor | None,
    ) -> tuple[RecurrenceResult, RecurrenceResult]:
        """Write both recurrences of a pair: by default one after the other.

        This is called in the name scope of the forward layer. The backward layer has a scope
        beside it: a node of the graph tells by its scope which layer it belongs to.

        Args:
            pair: What to lower.
            sequences: As of `lower`, for both.
            initial_states: As of `lower`, of each.
            mask: As of `lower`, for both.

        Returns:
            The results of the forward and of the backward recurrence.
        """
        forward_state, backward_state = initial_states
        forward = self.lower(pair.forward, sequences, forward_state, mask)
        outer, _, own = tf.get_current_name_scope().rpartition("/")
        number = own.removeprefix(pair.forward.layer)
        # A scope with a slash at its end is entered as it is; any other would be numbered.
        with tf.name_scope(f"{outer}/{pair.backward.layer}{number}/".lstrip("/")):
            backward = self.lower(pair.backward, sequences, backward_state, mask)
        return forward, backward
