"""What a recurrence is, told the same way by every front end and to every target.

A front end (Keras 3, tf_keras) describes each recurrent layer it meets as a
:class:`Recurrence`. A target (ONNX, TFLite) turns that description, together
with the tensors of one call, into its own operators. Neither knows the other.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Tensor = Any


@dataclass(frozen=True)
class Activation:
    """An elementwise function of a gate.

    Attributes:
        name: Keras's name for it (``"tanh"``), or None for one Keras does not name.
        function: The function itself, on TensorFlow tensors.
    """

    name: str | None
    function: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LSTMCell:
    """LSTM weights in Keras's gate order i, f, c, o.

    Attributes:
        kernel: ``[features, 4 * units] float32``.
        recurrent_kernel: ``[units, 4 * units] float32``.
        bias: ``[4 * units] float32``, or None.
        activation: Of the candidate and of the cell state.
        recurrent_activation: Of the three gates.
    """

    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None
    activation: Activation
    recurrent_activation: Activation

    @property
    def units(self) -> int:
        """Width of the hidden state."""
        return int(self.recurrent_kernel.shape[0])

    @property
    def state_count(self) -> int:
        """Two states: hidden and cell."""
        return 2


@dataclass(frozen=True)
class GRUCell:
    """GRU weights in Keras's gate order z, r, h.

    Attributes:
        kernel: ``[features, 3 * units] float32``.
        recurrent_kernel: ``[units, 3 * units] float32``.
        bias: Input bias ``[3 * units] float32``, or None.
        recurrent_bias: ``[3 * units] float32``, only with ``reset_after``; or None.
        activation: Of the candidate.
        recurrent_activation: Of the two gates.
        reset_after: Whether the reset gate is applied after the hidden projection.
    """

    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None
    recurrent_bias: np.ndarray | None
    activation: Activation
    recurrent_activation: Activation
    reset_after: bool

    @property
    def units(self) -> int:
        """Width of the hidden state."""
        return int(self.recurrent_kernel.shape[0])

    @property
    def state_count(self) -> int:
        """One state: hidden."""
        return 1


@dataclass(frozen=True)
class SimpleRNNCell:
    """Weights of a fully connected recurrence.

    Attributes:
        kernel: ``[features, units] float32``.
        recurrent_kernel: ``[units, units] float32``.
        bias: ``[units] float32``, or None.
        activation: Of the new state.
    """

    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None
    activation: Activation

    @property
    def units(self) -> int:
        """Width of the hidden state."""
        return int(self.recurrent_kernel.shape[0])

    @property
    def state_count(self) -> int:
        """One state: hidden."""
        return 1


@dataclass(frozen=True)
class StepCell:
    """Any other cell, known only by what it does in one step.

    Attributes:
        step: ``step(inputs, states) -> (output, new_states)`` on TensorFlow
            tensors without a time axis; states are flat lists.
        state_count: How many states it carries.
    """

    step: Callable[[Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]]
    state_count: int


Cell = LSTMCell | GRUCell | SimpleRNNCell | StepCell


def zeros_width(cell: Cell) -> int:
    """Width of a state that starts at zeros.

    Raises:
        ValueError: Nothing but its initial states tells the shapes of a StepCell.
    """
    if isinstance(cell, StepCell):
        message = "the initial states of this cell must be given"
        raise ValueError(message)  # noqa: TRY004 - not the type is wrong, but the call
    return cell.units


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

        So it is in Keras's own cells, but not at masked steps that give zeros, nor at
        masked steps before the first valid one, where the output counts as zeros
        whatever the initial state.
        """
        if isinstance(self.cell, StepCell):
            return False
        return not masked or (starts_at_zeros and not self.zero_output_for_mask)


@dataclass(frozen=True)
class RecurrenceResult:
    """What a lowered recurrence gives back, as TensorFlow tensors.

    Attributes:
        last_output: ``[batch, ...]``, the output of the step processed last.
        outputs: ``[batch, time, ...]`` in the order of the *input's* time axis
            whatever the direction, or None unless ``return_sequences``.
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
        import tensorflow as tf  # noqa: PLC0415 - the descriptions above do not need it

        forward_state, backward_state = initial_states
        forward = self.lower(pair.forward, sequences, forward_state, mask)
        outer, _, own = tf.get_current_name_scope().rpartition("/")
        number = own.removeprefix(pair.forward.layer)
        # A scope with a slash at its end is entered as it is; any other would be numbered.
        with tf.name_scope(f"{outer}/{pair.backward.layer}{number}/".lstrip("/")):
            backward = self.lower(pair.backward, sequences, backward_state, mask)
        return forward, backward


LoweringFunction = Callable[
    [Recurrence, Any, "Sequence[Any]", Any],
    RecurrenceResult,
]
"""A function with the arguments of `Lowering.lower`."""


class _FunctionLowering(Lowering):
    """Lowers each recurrence by itself, with a function."""

    def __init__(self, function: LoweringFunction) -> None:
        self._function = function

    def lower(
        self,
        recurrence: Recurrence,
        sequences: Tensor,
        initial_state: Sequence[Tensor | None],
        mask: Tensor | None,
    ) -> RecurrenceResult:
        return self._function(recurrence, sequences, initial_state, mask)


def as_lowering(lowering: Lowering | LoweringFunction) -> Lowering:
    """The lowering itself, or one that calls a function."""
    return lowering if isinstance(lowering, Lowering) else _FunctionLowering(lowering)
