"""The description of a recurrence, independent of front end and target.

A front end (Keras 3, tf_keras) describes each recurrent layer as a `Recurrence`. A target (ONNX,
TFLite) converts that description and the tensors of one call to its own operators. Front ends and
targets do not depend on each other.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from bilstm_exporter.ir.cells import Cell
from bilstm_exporter.ir.loops import Loop, LoopResult, UnsupportedLoopError

Tensor = Any


@dataclass(frozen=True)
class Recurrence:
    """One recurrent layer in one direction.

    Attributes:
        layer: The layer's name, for messages.
        cell: The computation of one step.
        go_backwards: Whether steps are processed from the last to the first.
        return_sequences: Whether the outputs of all steps are returned.
        zero_output_for_mask: Whether a masked step outputs zeros. If False, it repeats the output
            of the previously processed step (initially zeros).
    """

    layer: str
    cell: Cell
    go_backwards: bool
    return_sequences: bool
    zero_output_for_mask: bool

    def output_is_state(self, *, masked: bool, starts_at_zeros: bool) -> bool:
        """Whether the output of a step always equals the first state after it.

        This holds for gated cells, with two exceptions: masked steps that output zeros, and masked
        steps before the first valid step, which output zeros for any initial state.
        """
        if self.cell.units is None:
            return False
        return not masked or (starts_at_zeros and not self.zero_output_for_mask)


@dataclass(frozen=True)
class RecurrenceResult:
    """The outputs of a lowered recurrence, as TensorFlow tensors.

    Attributes:
        last_output: ``[batch, ...]``, the output of the last processed step.
        outputs: ``[batch, time, ...]`` in the order of the *input's* time axis for
            both directions; None without ``return_sequences``.
        states: The final states, ``[batch, ...]`` each.
    """

    last_output: Tensor
    outputs: Tensor | None
    states: list[Tensor]


@dataclass(frozen=True)
class Bidirectional:
    """The two recurrences of one bidirectional layer over one sequence.

    Attributes:
        layer: The layer's name.
        forward: The recurrence of the forward layer; its ``go_backwards`` may be True.
        backward: The recurrence of the backward layer.
    """

    layer: str
    forward: Recurrence
    backward: Recurrence


class Lowering(abc.ABC):
    """Writes recurrences into the graph being traced; each target has its own.

    Attributes:
        own_functions: The functions in the graph that the lowering wrote, such as bodies of loops.
    """

    own_functions: frozenset[str] = frozenset()

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
            recurrence: The recurrence to lower.
            sequences: ``[batch, time, ...] float32``.
            initial_state: One tensor ``[batch, ...]`` per state; None means zeros
                (only for cells whose weights define the shapes of the states).
            mask: ``[batch, time] bool``, True where a step is valid; or None.
        """

    def lower_bidirectional(
        self,
        pair: Bidirectional,
        sequences: Tensor,
        initial_states: tuple[Sequence[Tensor | None], Sequence[Tensor | None]],
        mask: Tensor | None,
    ) -> tuple[RecurrenceResult, RecurrenceResult]:
        """Write both recurrences of a pair, by default one after the other.

        This is called in the name scope of the forward layer. The backward layer gets a sibling
        scope, because the scope of a node identifies its layer.

        Args:
            pair: The recurrences to lower.
            sequences: Sequences of both; see `lower`.
            initial_states: Initial states of each; see `lower`.
            mask: Mask of both; see `lower`.

        Returns:
            The results of the forward and the backward recurrence.
        """
        forward_state, backward_state = initial_states
        forward = self.lower(pair.forward, sequences, forward_state, mask)
        outer, _, own = tf.get_current_name_scope().rpartition("/")
        number = own.removeprefix(pair.forward.layer)
        # TensorFlow appends a number to a scope name without a trailing slash.
        with tf.name_scope(f"{outer}/{pair.backward.layer}{number}/".lstrip("/")):
            backward = self.lower(pair.backward, sequences, backward_state, mask)
        return forward, backward

    def lower_loop(self, loop: Loop) -> LoopResult:
        """Write a loop of a layer's own code, by default as a loop of TensorFlow.

        Args:
            loop: The loop to lower.

        Raises:
            UnsupportedLoopError: There is no exact form for it.
        """
        if loop.lists:
            reason = "collects tensors in a loop of its own, which this format does not support"
            raise UnsupportedLoopError(loop.layer, reason)
        return loop.as_while()
