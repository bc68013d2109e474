"""One step of Keras's own cells, in TensorFlow operators.

The input projection of all steps is one matrix product outside the loop; what
is left for each step is the hidden projection and the gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.recurrence import Cell, GRUCell, LSTMCell, SimpleRNNCell, StepCell


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
    if isinstance(cell, LSTMCell):
        return _lstm_step(cell, inputs, states)
    if isinstance(cell, GRUCell):
        return _gru_step(cell, inputs, states)
    if isinstance(cell, SimpleRNNCell):
        hidden = cell.activation.function(inputs + tf.matmul(states[0], cell.recurrent_kernel))
        return hidden, [hidden]
    return cell.step(inputs, list(states))


def _lstm_step(cell: LSTMCell, inputs: Any, states: Sequence[Any]) -> tuple[Any, list[Any]]:
    hidden, carry = states
    gates = inputs + tf.matmul(hidden, cell.recurrent_kernel)
    i, f, candidate, o = tf.split(gates, 4, axis=1)
    activation, gate = cell.activation.function, cell.recurrent_activation.function
    carry = gate(f) * carry + gate(i) * activation(candidate)
    hidden = gate(o) * activation(carry)
    return hidden, [hidden, carry]


def _gru_step(cell: GRUCell, inputs: Any, states: Sequence[Any]) -> tuple[Any, list[Any]]:
    hidden = states[0]
    units = cell.units
    activation, gate = cell.activation.function, cell.recurrent_activation.function
    x_z, x_r, x_h = tf.split(inputs, 3, axis=1)
    if cell.reset_after:
        r_z, r_r, r_h = tf.split(tf.matmul(hidden, cell.recurrent_kernel), 3, axis=1)
        if cell.recurrent_bias is not None:
            r_h += cell.recurrent_bias[2 * units :]
        z, r = gate(x_z + r_z), gate(x_r + r_r)
        candidate = activation(x_h + r * r_h)
    else:
        kernel = cell.recurrent_kernel
        r_z, r_r = tf.split(tf.matmul(hidden, kernel[:, : 2 * units]), 2, axis=1)
        z, r = gate(x_z + r_z), gate(x_r + r_r)
        candidate = activation(x_h + tf.matmul(r * hidden, kernel[:, 2 * units :]))
    hidden = z * hidden + (1.0 - z) * candidate
    return hidden, [hidden]
