"""Recurrent cells: their weights and the computation of one step.

Each cell's gate equations are written once, in its ``advance``. A strategy computes the matrix
products: one product for all gates (`JoinedGates`), or one per gate (`SeparateGates`). The formulas
are those of https://keras.io/api/layers/recurrent_layers/.

To add a cell, add one class here; every target can then export it. If a format has an operator for
the cell, also add an entry to that format's table.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

import numpy as np
import tensorflow as tf

# A float32 sigmoid is exactly 1 above 17. 1e4 does not overflow in any other gate.
_SATURATED = 1e4

# Activations that are constant, to float32, beyond 1e8 at both ends, with values from -1 to 1.
_SATURATING = frozenset({"tanh", "sigmoid", "hard_sigmoid", "hard_sigmoid_keras2", "hard_tanh"})

Tensor = Any


@dataclass(frozen=True)
class Activation:
    """An elementwise function of a gate.

    Attributes:
        name: Its Keras name (``"tanh"``), or None if it has none.
        function: The function on TensorFlow tensors.
    """

    name: str | None
    function: Callable[[Tensor], Tensor]

    def equals(self, other: Activation) -> bool:
        """Whether both have the same name or, without a name, are the same function."""
        return self.function is other.function if self.name is None else self.name == other.name


class Gates(abc.ABC):
    """The pre-activations of the gates in one step."""

    @abc.abstractmethod
    def inputs(self) -> Sequence[Tensor]:
        """The input projection of each gate, ``[batch, units]``."""

    @abc.abstractmethod
    def products(self, hidden: Tensor, first: int, end: int) -> Iterator[Tensor]:
        """The hidden projection of the gates ``first`` to ``end - 1``, ``[batch, units]`` each."""

    @abc.abstractmethod
    def sums(self, hidden: Tensor) -> Sequence[Tensor]:
        """Input projection plus hidden projection of each gate, ``[batch, units]``."""


class Cell(abc.ABC):
    """The computation of one step of a recurrence."""

    kind: ClassVar[str]
    """The cell's name in messages."""
    state_count: int
    """Number of states."""
    neutral_inputs: ClassVar[tuple[float, ...]] = ()
    """Candidate projected inputs, equal for all gates, that may leave the states unchanged."""

    @property
    def units(self) -> int | None:
        """Size of the output and of every state; None if only the initial states define shapes."""
        return None

    @property
    def kernel_size(self) -> int:
        """Number of elements of the recurrent kernel; 0 if unknown."""
        return 0

    @property
    def zeros_width(self) -> int:
        """Size of a state that starts at zeros.

        Raises:
            ValueError: Only the initial states define the shapes of the states.
        """
        if self.units is None:
            message = "the initial states of this cell must be given"
            raise ValueError(message)
        return self.units

    def input_projection(self) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Kernel ``[features, gates * units]`` and bias, applied to all steps together.

        None if the cell takes the inputs without a projection.
        """
        return None

    def project(self, inputs: Tensor) -> Tensor:
        """Project the inputs ``[..., features]`` of all steps to ``[..., gates * units]``."""
        projection = self.input_projection()
        if projection is None:
            return inputs
        kernel, bias = projection
        projected = tf.matmul(inputs, kernel)
        return projected if bias is None else projected + bias

    def project_gates(self, inputs: Tensor) -> list[Tensor]:
        """Project the inputs of all steps with one product per gate: ``[..., units]`` each."""
        return [inputs]

    @abc.abstractmethod
    def step(self, inputs: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Advance one step.

        Args:
            inputs: ``[batch, gates * units]`` projected, or ``[batch, ...]`` without a projection.
            states: One tensor ``[batch, ...]`` per state.

        Returns:
            The step's output and the new states.
        """

    def step_gates(
        self, inputs: Sequence[Tensor], states: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Advance one step with one hidden product per gate; for inputs see `project_gates`."""
        return self.step(inputs[0], states)

    def step_shapes(
        self, sequences: Sequence[int | None], states: Sequence[Sequence[int | None]]
    ) -> list[list[int | None]]:
        """Shapes ``[batch, ...]`` of a step's inputs and states; the batch size is None.

        Args:
            sequences: Shape ``[batch, time, ...]`` of the sequences.
            states: Shapes ``[batch, ...]`` of the initial states.
        """
        return [[None, *sequences[2:]], *([None, *shape[1:]] for shape in states)]

    def output_spec(self, steps: Tensor, states: Sequence[Tensor]) -> tf.TensorSpec:
        """Shape, without the batch, and dtype of a step's output.

        Args:
            steps: ``[time, batch, ...]``, the inputs of all steps.
            states: One tensor ``[batch, ...]`` per state.
        """
        output, _ = self.step(steps[0], states)
        return tf.TensorSpec(output.shape[1:], output.dtype)

    def differs_in_weights_only(self, other: Cell) -> bool:
        """Whether the cells are the same except for the values of their weights."""
        del other
        return False

    @property
    def largest_product(self) -> float | None:
        """The largest hidden projection, if all gates saturate at both ends; None otherwise.

        It holds for initial states from -1 to 1.
        """
        return None


class GatedCell(Cell):
    """A cell of gates, each with an input projection and a hidden projection.

    Attributes:
        kernel: ``[features, gates * units] float32``.
        recurrent_kernel: ``[units, gates * units] float32``.
        bias: ``[gates * units] float32``, or None.
        activation: Activation of the new values.
    """

    gate_count: ClassVar[int]
    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None
    activation: Activation

    @property
    def units(self) -> int:
        """Size of the output and of every state."""
        return int(self.recurrent_kernel.shape[0])

    @property
    def kernel_size(self) -> int:
        """Number of elements of the recurrent kernel."""
        return int(self.recurrent_kernel.size)

    @property
    def hidden_biases(self) -> list[np.ndarray | None]:
        """The bias ``[units]`` of each gate's hidden projection, or None."""
        return [None] * self.gate_count

    def split_gates(self, weight: np.ndarray) -> list[np.ndarray]:
        """Split a weight ``[..., gates * units]`` into ``[..., units]`` per gate."""
        return [np.ascontiguousarray(part) for part in np.split(weight, self.gate_count, axis=-1)]

    def input_projection(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Kernel ``[features, gates * units]`` and bias, applied to all steps together."""
        return self.kernel, self.bias

    def project_gates(self, inputs: Tensor) -> list[Tensor]:
        """Project the inputs of all steps with one product per gate: ``[..., units]`` each."""
        kernel, bias = self.input_projection()
        biases = [None] * self.gate_count if bias is None else self.split_gates(bias)
        products = [tf.matmul(inputs, part) for part in self.split_gates(kernel)]
        return [
            product if part is None else product + part
            for product, part in zip(products, biases, strict=True)
        ]

    @abc.abstractmethod
    def advance(self, gates: Gates, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The gate equations: the output and the new states, ``[batch, units]`` each."""

    @property
    def largest_product(self) -> float | None:
        """See `Cell.largest_product`."""
        found = [getattr(self, field.name) for field in fields(self)]  # type: ignore[arg-type]
        activations = [value for value in found if isinstance(value, Activation)]
        if not all(activation.name in _SATURATING for activation in activations):
            return None
        biases = [np.abs(bias).max() for bias in self.hidden_biases if bias is not None]
        sums = np.abs(self.recurrent_kernel.astype(np.float64)).sum(axis=0)
        return float(sums.max() + max(biases, default=0.0))

    def step(self, inputs: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Advance one step; see `Cell.step`."""
        return self.advance(JoinedGates([self], inputs), states)

    def step_gates(
        self, inputs: Sequence[Tensor], states: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Advance one step with one hidden product per gate; for inputs see `project_gates`."""
        return self.advance(SeparateGates(self, inputs), states)

    def step_shapes(
        self, sequences: Sequence[int | None], states: Sequence[Sequence[int | None]]
    ) -> list[list[int | None]]:
        """Shapes of a step's inputs and states, read from the weights."""
        del sequences, states
        return [[None, self.gate_count * self.units], *[[None, self.units]] * self.state_count]

    def output_spec(self, steps: Tensor, states: Sequence[Tensor]) -> tf.TensorSpec:
        """Shape, without the batch, and dtype of a step's output; see `Cell.output_spec`."""
        del steps, states
        return tf.TensorSpec([self.units], tf.float32)

    def differs_in_weights_only(self, other: Cell) -> bool:
        """Whether the cells are the same except for the values of their weights."""
        return type(self) is type(other) and all(
            _are_alike(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)  # type: ignore[arg-type] # every concrete cell is a dataclass
        )


@dataclass(frozen=True)
class LSTMCell(GatedCell):
    """LSTM weights in Keras's gate order i, f, c, o.

    Attributes:
        kernel: ``[features, 4 * units] float32``.
        recurrent_kernel: ``[units, 4 * units] float32``.
        bias: ``[4 * units] float32``, or None.
        activation: Activation of the candidate and the cell state.
        recurrent_activation: Activation of the three gates.
    """

    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None
    activation: Activation
    recurrent_activation: Activation

    kind = "LSTM"
    gate_count = 4
    state_count = 2
    # States of zeros stay zeros if activation(0) is 0.
    neutral_inputs = (0.0,)

    def advance(self, gates: Gates, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Advance the hidden state and the cell state."""
        hidden, carry = states
        activation, gate = self.activation.function, self.recurrent_activation.function
        i, f, candidate, o = gates.sums(hidden)
        carry = gate(f) * carry + gate(i) * activation(candidate)
        hidden = gate(o) * activation(carry)
        return hidden, [hidden, carry]


@dataclass(frozen=True)
class GRUCell(GatedCell):
    """GRU weights in Keras's gate order z, r, h.

    Attributes:
        kernel: ``[features, 3 * units] float32``.
        recurrent_kernel: ``[units, 3 * units] float32``.
        bias: Input bias ``[3 * units] float32``, or None.
        recurrent_bias: ``[3 * units] float32``, only with ``reset_after``; or None.
        activation: Activation of the candidate.
        recurrent_activation: Activation of the two gates.
        reset_after: Whether the reset gate is applied after the hidden projection.
    """

    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None
    recurrent_bias: np.ndarray | None
    activation: Activation
    recurrent_activation: Activation
    reset_after: bool

    kind = "GRU"
    gate_count = 3
    state_count = 1
    # Any state stays unchanged if the update gate is exactly 1.
    neutral_inputs = (0.0, _SATURATED)

    @property
    def hidden_biases(self) -> list[np.ndarray | None]:
        """The candidate's bias; the biases of z and r are added to the input bias."""
        if self.recurrent_bias is None or not self.reset_after:
            return [None, None, None]
        return [None, None, self.recurrent_bias[2 * self.units :]]

    def input_projection(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Kernel and bias of all steps; the bias includes the recurrent bias of z and r."""
        bias = self.bias
        if self.recurrent_bias is not None and bias is not None:
            end = 2 * self.units
            bias = np.concatenate([bias[:end] + self.recurrent_bias[:end], bias[end:]])
        return self.kernel, bias

    def advance(self, gates: Gates, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Advance the hidden state."""
        (hidden,) = states
        activation, gate = self.activation.function, self.recurrent_activation.function
        x_z, x_r, x_h = gates.inputs()
        products = gates.products(hidden, 0, 3 if self.reset_after else 2)
        z = gate(x_z + next(products))
        r = gate(x_r + next(products))
        if self.reset_after:
            candidate = activation(x_h + r * next(products))
        else:
            candidate = activation(x_h + next(gates.products(r * hidden, 2, 3)))
        hidden = z * hidden + (1.0 - z) * candidate
        return hidden, [hidden]


@dataclass(frozen=True)
class SimpleRNNCell(GatedCell):
    """Weights of a fully connected recurrence.

    Attributes:
        kernel: ``[features, units] float32``.
        recurrent_kernel: ``[units, units] float32``.
        bias: ``[units] float32``, or None.
        activation: Activation of the new state.
    """

    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None
    activation: Activation

    kind = "SimpleRNN"
    gate_count = 1
    state_count = 1
    # States of zeros stay zeros if activation(0) is 0.
    neutral_inputs = (0.0,)

    def advance(self, gates: Gates, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Advance the hidden state."""
        (total,) = gates.sums(states[0])
        hidden = self.activation.function(total)
        return hidden, [hidden]


@dataclass(frozen=True)
class StepCell(Cell):
    """Any other cell, defined only by its step function.

    Attributes:
        function: ``function(inputs, states) -> (output, new_states)`` on TensorFlow
            tensors without a time axis; states are flat lists.
        state_count: Number of states.
    """

    function: Callable[[Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]]
    state_count: int

    kind = "custom cell"

    def step(self, inputs: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Advance one step; see `Cell.step`."""
        return self.function(inputs, list(states))


def step_together(
    cells: Sequence[Cell], inputs: Tensor, states: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Advance one step of cells that differ in weights only.

    Args:
        cells: One cell, or one gated cell for each equal part of the batch.
        inputs: ``[cells * batch, ...]``; see `Cell.step`.
        states: One tensor ``[cells * batch, ...]`` per state.

    Returns:
        The step's output and the new states.
    """
    if len(cells) == 1:
        return cells[0].step(inputs, states)
    gated = cast("Sequence[GatedCell]", cells)
    return gated[0].advance(JoinedGates(gated, inputs), states)


class JoinedGates(Gates):
    """One hidden product for all gates.

    Args:
        cells: One cell for each equal part of the batch.
        inputs: ``[cells * batch, gates * units]``.
    """

    def __init__(self, cells: Sequence[GatedCell], inputs: Tensor) -> None:
        self._cells, self._inputs = cells, inputs
        self._count, self._units = cells[0].gate_count, cells[0].units

    def inputs(self) -> Sequence[Tensor]:
        """See `Gates.inputs`."""
        return list(tf.split(self._inputs, self._count, axis=1))

    def products(self, hidden: Tensor, first: int, end: int) -> Iterator[Tensor]:
        """See `Gates.products`."""
        product = self._product(hidden, first, end)
        return iter(tf.split(product, end - first, axis=1) if end - first > 1 else [product])

    def sums(self, hidden: Tensor) -> Sequence[Tensor]:
        """See `Gates.sums`."""
        total = self._inputs + self._product(hidden, 0, self._count)
        return list(tf.split(total, self._count, axis=1)) if self._count > 1 else [total]

    def _product(self, hidden: Tensor, first: int, end: int) -> Tensor:
        """``[cells * batch, (end - first) * units]``."""
        parts = tf.split(hidden, len(self._cells), axis=0) if len(self._cells) > 1 else [hidden]
        projected = []
        for part, cell in zip(parts, self._cells, strict=True):
            columns = slice(first * self._units, end * self._units)
            product = tf.matmul(part, cell.recurrent_kernel[:, columns])
            bias = self._bias(cell, first, end)
            projected.append(product if bias is None else product + bias)
        return tf.concat(projected, axis=0) if len(projected) > 1 else projected[0]

    def _bias(self, cell: GatedCell, first: int, end: int) -> np.ndarray | None:
        biases = cell.hidden_biases[first:end]
        if all(bias is None for bias in biases):
            return None
        zeros = np.zeros(self._units, np.float32)
        return np.concatenate([zeros if bias is None else bias for bias in biases])


class SeparateGates(Gates):
    """One hidden product per gate.

    In integer arithmetic each gate then has its own range; the parts of one product share a range.

    Args:
        cell: The cell.
        inputs: ``[batch, units]`` per gate.
    """

    def __init__(self, cell: GatedCell, inputs: Sequence[Tensor]) -> None:
        self._cell, self._inputs = cell, inputs

    def inputs(self) -> Sequence[Tensor]:
        """See `Gates.inputs`."""
        return self._inputs

    def products(self, hidden: Tensor, first: int, end: int) -> Iterator[Tensor]:
        """See `Gates.products`."""
        kernels = self._cell.split_gates(self._cell.recurrent_kernel)[first:end]
        for kernel, bias in zip(kernels, self._cell.hidden_biases[first:end], strict=True):
            product = tf.matmul(hidden, kernel)
            yield product if bias is None else product + bias

    def sums(self, hidden: Tensor) -> Sequence[Tensor]:
        """See `Gates.sums`."""
        products = self.products(hidden, 0, self._cell.gate_count)
        return [part + product for part, product in zip(self._inputs, products, strict=True)]


def _are_alike(one: Any, other: Any) -> bool:
    """Whether two cell attributes are weights of the same shape, or equal otherwise."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return bool(one.shape == other.shape)
    if isinstance(one, Activation) and isinstance(other, Activation):
        return one.equals(other)
    return type(one) is type(other) and bool(one == other)
