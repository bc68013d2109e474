"""Recurrence markers become ONNX operators.

One LSTM, GRU or RNN node where ONNX has the cell and its activations; a Scan of
one step for every other cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from bilstm_exporter.onnx import masking
from bilstm_exporter.onnx.activations import activation_attributes, onnx_activation
from bilstm_exporter.onnx.builder import Builder
from bilstm_exporter.onnx.marker import DOMAIN, TOKEN_ATTRIBUTE, Marker
from bilstm_exporter.onnx.scan import write_scan
from bilstm_exporter.recurrence import GRUCell, LSTMCell, SimpleRNNCell, StepCell
from bilstm_exporter.targets import RecurrenceForm


@dataclass(frozen=True)
class MarkerCall:
    """The inputs of one marker, by role.

    Attributes:
        marker: What it stands for.
        sequences: ``[batch, time, ...]``.
        mask: ``[batch, time] bool``, or None.
        states: One value a state; None where it starts at zeros.
        used: For each output of the marker, whether anything reads it.
    """

    marker: Marker
    sequences: ir.Value
    mask: ir.Value | None
    states: list[ir.Value | None]
    used: list[bool]


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


def lower_markers(model: ir.Model, markers: dict[str, Marker], opset: int) -> list[RecurrenceForm]:
    """Replace every marker of the model, in place, and tell what came in its place."""
    forms = []
    for node in list(model.graph):
        if node.domain == DOMAIN:
            token = node.attributes[TOKEN_ATTRIBUTE].as_string()
            forms.append(_lower_marker(node, token, markers[token], opset))
    return forms


def _lower_marker(node: ir.Node, token: str, marker: Marker, opset: int) -> RecurrenceForm:
    inputs = iter(node.inputs)
    sequences = next(inputs)
    mask = next(inputs) if marker.has_mask else None
    states = [next(inputs) if given else None for given in marker.has_state]
    if sequences is None:
        message = f"{token}: the marker lost its input"
        raise ValueError(message)
    used = [bool(value.uses()) or value.is_graph_output() for value in node.outputs]
    call = MarkerCall(marker, sequences, mask, states, used)
    build = Builder(token.replace(":", "_"))
    fused = fused_operator(marker.recurrence.cell)
    if fused is None:
        values = write_scan(build, call, token, opset)
    else:
        values = _write_fused(build, call, fused)
    build.replace(node, values)
    layer = marker.recurrence.layer
    if fused is not None:
        return RecurrenceForm(layer, fused.op_type)
    return RecurrenceForm(layer, "Scan", _why_not_fused(marker.recurrence.cell))


def _why_not_fused(cell: Any) -> str:
    if isinstance(cell, StepCell):
        return "ONNX has no operator for this cell"
    functions = [cell.activation, getattr(cell, "recurrent_activation", cell.activation)]
    names = [f.name or "a function of the user's" for f in functions if not onnx_activation(f)]
    return f"ONNX's recurrent operators lack the activation {' and '.join(dict.fromkeys(names))}"


def fused_operator(cell: Any) -> FusedOperator | None:
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


def _write_fused(build: Builder, call: MarkerCall, fused: FusedOperator) -> Sequence[ir.Value]:
    recurrence = call.marker.recurrence
    units = fused.attributes["hidden_size"]
    features = fused.weights[0].shape[2]
    plan = None if call.mask is None else masking.compaction(build, call.mask)
    if plan is None:
        steps = build.op("Transpose", call.sequences, perm=[1, 0, 2])
    else:
        steps = masking.valid_steps_first(build, plan, call.sequences, features)

    axis = build.constant([0])
    initial: list[ir.Value | None] = [None] * len(call.states)
    if any(state is not None for state in call.states):
        initial = [_one_direction(build, call, state, units) for state in call.states]
    results = build.ops(
        fused.op_type,
        1 + len(call.states),
        steps,
        *(build.constant(weight, "float32") for weight in fused.weights),
        None if plan is None else plan.lengths,
        *initial,
        direction="reverse" if recurrence.go_backwards else "forward",
        **fused.attributes,
    )
    sequence_output = results[0]
    states = [build.op("Squeeze", state, axis) for state in results[1:]]
    last_output = states[0]
    if plan is not None:
        last_output = masking.keep_where_empty(build, plan, states[0], None)
        states = [
            masking.keep_where_empty(build, plan, state, start)
            for state, start in zip(states, call.states, strict=True)
        ]
    outputs = []
    if recurrence.return_sequences:
        if plan is None:
            squeezed = build.op("Squeeze", sequence_output, build.constant([1]))
            outputs = [build.op("Transpose", squeezed, perm=[1, 0, 2])]
        else:
            outputs = [
                masking.steps_back_in_place(
                    build,
                    plan,
                    sequence_output,
                    units,
                    go_backwards=recurrence.go_backwards,
                    zero_output_for_mask=recurrence.zero_output_for_mask,
                )
            ]
    elif recurrence.zero_output_for_mask and plan is not None:
        last_output = _zero_if_last_masked(build, call, plan, last_output)
    return [last_output, *outputs, *states]


def _zero_if_last_masked(
    build: Builder, call: MarkerCall, plan: masking.Compaction, last_output: ir.Value
) -> ir.Value:
    """Keras's last output is that of the last step processed, even if it was masked."""
    step = 0 if call.marker.recurrence.go_backwards else -1
    valid = build.op("Gather", plan.mask, build.constant([step]), axis=1)
    return build.op("Where", valid, last_output, build.constant(0.0, "float32"))


def _one_direction(
    build: Builder, call: MarkerCall, state: ir.Value | None, units: int
) -> ir.Value:
    """An initial state ``[1, batch, units]``; zeros where only another state is given."""
    if state is None:
        batch = build.op(
            "Slice", build.op("Shape", call.sequences), build.constant([0]), build.constant([1])
        )
        shape = build.op("Concat", batch, build.constant([units]), axis=0)
        state = build.op("Expand", build.constant(0.0, "float32"), shape)
    return build.op("Unsqueeze", state, build.constant([0]))
