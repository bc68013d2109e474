"""Which cells are exactly one of ONNX's LSTM, GRU and RNN, and with which weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bilstm_exporter.ir.recurrence import Cell, GRUCell, LSTMCell, SimpleRNNCell, StepCell
from bilstm_exporter.targets.onnx.activations import activation_attributes, onnx_activation


@dataclass(frozen=True)
class FusedOperator:
    """An ONNX recurrent operator with its weights.

    Attributes:
        op_type: ``"LSTM"``, ``"GRU"`` or ``"RNN"``.
        attributes: For one direction.
        weights: W, R and B, each with the leading axis of directions.
    """

    op_type: str
    attributes: dict[str, Any]
    weights: tuple[np.ndarray, np.ndarray, np.ndarray]


def fused_operator(cell: Cell) -> FusedOperator | None:
    """The ONNX operator that is exactly this cell, or None where there is none."""
    if isinstance(cell, StepCell):
        return None
    functions = [onnx_activation(cell.activation)]
    if not isinstance(cell, SimpleRNNCell):
        functions.insert(0, onnx_activation(cell.recurrent_activation))
    if isinstance(cell, LSTMCell):
        functions.append(functions[-1])
    known = [function for function in functions if function is not None]
    if len(known) < len(functions):
        return None
    attributes: dict[str, Any] = {
        "hidden_size": cell.units,
        **activation_attributes(known),
    }
    if isinstance(cell, GRUCell):
        attributes["linear_before_reset"] = int(cell.reset_after)
    # Keras orders an LSTM's gates i, f, c, o and ONNX i, o, f, c; both order a GRU's z, r, h.
    order = {LSTMCell: (0, 3, 1, 2), GRUCell: (0, 1, 2), SimpleRNNCell: (0,)}[type(cell)]
    gates = len(order)

    def reordered(weight: np.ndarray) -> np.ndarray:
        blocks = np.split(weight, gates, axis=-1)
        return np.concatenate([blocks[index] for index in order], axis=-1)

    width = gates * cell.units
    bias = np.zeros(width, np.float32) if cell.bias is None else cell.bias
    recurrent_bias = getattr(cell, "recurrent_bias", None)
    if recurrent_bias is None:
        recurrent_bias = np.zeros(width, np.float32)
    return FusedOperator(
        op_type={LSTMCell: "LSTM", GRUCell: "GRU", SimpleRNNCell: "RNN"}[type(cell)],
        attributes=attributes,
        weights=(
            reordered(cell.kernel).T[np.newaxis],
            reordered(cell.recurrent_kernel).T[np.newaxis],
            np.concatenate([reordered(bias), reordered(recurrent_bias)])[np.newaxis],
        ),
    )


def why_not_fused(cell: Cell) -> str:
    """The reason, for the report."""
    if isinstance(cell, StepCell):
        return "ONNX has no operator for this cell"
    functions = [cell.activation, getattr(cell, "recurrent_activation", cell.activation)]
    names = [f.name or "a function of the user's" for f in functions if not onnx_activation(f)]
    return f"ONNX's recurrent operators lack the activation {' and '.join(dict.fromkeys(names))}"
