"""One step of a cell, each gate for itself.

In integers a gate that is computed for itself has a range of its own, where the parts of
one product have to share theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.ir import gates
from bilstm_exporter.ir.recurrence import Cell, GRUCell, LSTMCell, StepCell

Step = Callable[[list[Any], Sequence[Any]], tuple[Any, list[Any]]]


def projected(cell: Cell, sequences: Any) -> list[Any]:
    """What every step reads, ``[batch, time, ...]``: the input projection of each gate."""
    projection = gates.input_projection(cell)
    if projection is None:
        return [sequences]
    kernel, bias = projection
    biases = [None] * len(_gates(cell, kernel)) if bias is None else _gates(cell, bias)
    products = [tf.matmul(sequences, part) for part in _gates(cell, kernel)]
    return [
        product if part is None else product + part
        for product, part in zip(products, biases, strict=True)
    ]


def stepper(cell: Cell) -> Step:
    """A function of the parts of one step and the states, as ``steps.step`` is of both whole."""
    if isinstance(cell, LSTMCell):
        return _lstm(cell)
    if isinstance(cell, GRUCell):
        return _gru(cell)
    return lambda parts, states: gates.step(cell, parts[0], states)


def _lstm(cell: LSTMCell) -> Step:
    activation, gate = cell.activation.function, cell.recurrent_activation.function
    kernels = _gates(cell, cell.recurrent_kernel)

    def step(parts: list[Any], states: Sequence[Any]) -> tuple[Any, list[Any]]:
        hidden, carry = states
        i, f, candidate, o = (
            part + tf.matmul(hidden, kernel) for part, kernel in zip(parts, kernels, strict=True)
        )
        carry = gate(f) * carry + gate(i) * activation(candidate)
        hidden = gate(o) * activation(carry)
        return hidden, [hidden, carry]

    return step


def _gru(cell: GRUCell) -> Step:
    activation, gate = cell.activation.function, cell.recurrent_activation.function
    kernel_z, kernel_r, kernel_h = _gates(cell, cell.recurrent_kernel)
    bias = None if cell.recurrent_bias is None else cell.recurrent_bias[2 * cell.units :]

    def step(parts: list[Any], states: Sequence[Any]) -> tuple[Any, list[Any]]:
        hidden = states[0]
        x_z, x_r, x_h = parts
        z = gate(x_z + tf.matmul(hidden, kernel_z))
        r = gate(x_r + tf.matmul(hidden, kernel_r))
        if cell.reset_after:
            product = tf.matmul(hidden, kernel_h)
            candidate = activation(x_h + r * (product if bias is None else product + bias))
        else:
            candidate = activation(x_h + tf.matmul(r * hidden, kernel_h))
        hidden = z * hidden + (1.0 - z) * candidate
        return hidden, [hidden]

    return step


def _gates(cell: Cell, weight: np.ndarray) -> list[np.ndarray]:
    """A weight's gates, which stand one after the other on its last axis."""
    if isinstance(cell, StepCell):
        return [weight]
    return [
        np.ascontiguousarray(part)
        for part in np.split(weight, weight.shape[-1] // cell.units, axis=-1)
    ]
