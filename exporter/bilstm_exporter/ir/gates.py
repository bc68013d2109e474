"""One step of Keras's own cells, in TensorFlow operators.

The input projection of all steps is one matrix product outside the loop; what
is left for each step is the hidden projection and the gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import tensorflow as tf

from bilstm_exporter.ir.recurrence import Cell, GRUCell, LSTMCell, SimpleRNNCell, StepCell


def input_projection(cell: Cell) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Kernel ``[features, gates * units]`` and bias applied to all steps at once.

    None for a StepCell, whose steps take their inputs as they are.
    """
    if isinstance(cell, StepCell):
        return None
    bias = cell.bias
    if isinstance(cell, GRUCell) and cell.recurrent_bias is not None and bias is not None:
        # The recurrent bias of z and r is only ever added to the input's.
        gates = 2 * cell.units
        bias = np.concatenate([bias[:gates] + cell.recurrent_bias[:gates], bias[gates:]])
    return cell.kernel, bias


def step(cell: Cell, inputs: Any, states: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Advance one step.

    Args:
        cell: The cell.
        inputs: ``[batch, gates * units]`` projected inputs, or ``[batch, ...]``
            raw inputs for a StepCell.
        states: One tensor a state.

    Returns:
        The step's output and the new states.
    """
    return step_together([cell], inputs, states)


def step_together(
    cells: Sequence[Cell], inputs: Any, states: Sequence[Any]
) -> tuple[Any, list[Any]]:
    """Advance one step of cells that differ in their weights only.

    Args:
        cells: As many as the batch is divided into equal parts, one for each; a StepCell comes
            alone.
        inputs: As of `step`.
        states: The same.

    Returns:
        The step's output and the new states.
    """
    cell = cells[0]
    if isinstance(cell, LSTMCell):
        return _lstm_step(cast("Sequence[LSTMCell]", cells), inputs, states)
    if isinstance(cell, GRUCell):
        return _gru_step(cast("Sequence[GRUCell]", cells), inputs, states)
    if isinstance(cell, SimpleRNNCell):
        kernels = [one.recurrent_kernel for one in cast("Sequence[SimpleRNNCell]", cells)]
        projected = hidden_projection(states[0], [(kernel, None) for kernel in kernels])
        hidden = cell.activation.function(inputs + projected)
        return hidden, [hidden]
    return cell.step(inputs, list(states))


def _lstm_step(
    cells: Sequence[LSTMCell], inputs: Any, states: Sequence[Any]
) -> tuple[Any, list[Any]]:
    hidden, carry = states
    gates = inputs + hidden_projection(hidden, [(cell.recurrent_kernel, None) for cell in cells])
    i, f, candidate, o = tf.split(gates, 4, axis=1)
    activation, gate = cells[0].activation.function, cells[0].recurrent_activation.function
    carry = gate(f) * carry + gate(i) * activation(candidate)
    hidden = gate(o) * activation(carry)
    return hidden, [hidden, carry]


def _gru_step(
    cells: Sequence[GRUCell], inputs: Any, states: Sequence[Any]
) -> tuple[Any, list[Any]]:
    hidden = states[0]
    gates = 2 * cells[0].units
    activation, gate = cells[0].activation.function, cells[0].recurrent_activation.function
    x_z, x_r, x_h = tf.split(inputs, 3, axis=1)
    if cells[0].reset_after:
        projected = hidden_projection(
            hidden, [(cell.recurrent_kernel, _candidate_bias(cell)) for cell in cells]
        )
        r_z, r_r, r_h = tf.split(projected, 3, axis=1)
        z, r = gate(x_z + r_z), gate(x_r + r_r)
        candidate = activation(x_h + r * r_h)
    else:
        projected = hidden_projection(
            hidden, [(cell.recurrent_kernel[:, :gates], None) for cell in cells]
        )
        r_z, r_r = tf.split(projected, 2, axis=1)
        z, r = gate(x_z + r_z), gate(x_r + r_r)
        projected = hidden_projection(
            r * hidden, [(cell.recurrent_kernel[:, gates:], None) for cell in cells]
        )
        candidate = activation(x_h + projected)
    hidden = z * hidden + (1.0 - z) * candidate
    return hidden, [hidden]


def _candidate_bias(cell: GRUCell) -> np.ndarray | None:
    """What is added to the hidden projection; that of the gates is added to the input's."""
    if cell.recurrent_bias is None:
        return None
    bias: np.ndarray = cell.recurrent_bias.copy()
    bias[: 2 * cell.units] = 0
    return bias


def hidden_projection(hidden: Any, weights: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> Any:
    """The hidden projection of a step.

    Args:
        hidden: ``[batch, units]``.
        weights: A kernel ``[units, width]`` and a bias ``[width]`` or None, for each of as many
            equal parts of the batch.

    Returns:
        ``[batch, width]``.
    """
    parts = tf.split(hidden, len(weights), axis=0) if len(weights) > 1 else [hidden]
    projected = []
    for part, (kernel, bias) in zip(parts, weights, strict=True):
        product = tf.matmul(part, kernel)
        projected.append(product if bias is None else product + bias)
    return tf.concat(projected, axis=0) if len(projected) > 1 else projected[0]
