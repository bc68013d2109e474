"""Recurrence markers become ONNX operators.

One LSTM, GRU or RNN node where ONNX has the cell and its activations; a Scan of
one step for every other cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from bilstm_exporter.ir.markers import Marker
from bilstm_exporter.targets.base import RecurrenceForm
from bilstm_exporter.targets.onnx import masking
from bilstm_exporter.targets.onnx.builder import Builder
from bilstm_exporter.targets.onnx.fused import FusedOperator, fused_operator, why_not_fused
from bilstm_exporter.targets.onnx.marker_nodes import DOMAIN, TOKEN_ATTRIBUTE
from bilstm_exporter.targets.onnx.scan import write_scan


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


def lower_markers(
    model: ir.Model, markers: Mapping[str, Marker], opset: int
) -> list[RecurrenceForm]:
    """Replace every marker of the model, in place, and tell what came in its place."""
    forms, places = [], masking.StepPlaces()
    for node in list(model.graph):
        if node.domain == DOMAIN:
            token = node.attributes[TOKEN_ATTRIBUTE].as_string()
            forms.append(_lower_marker(node, token, markers[token], places, opset))
    return forms


def _lower_marker(
    node: ir.Node, token: str, marker: Marker, places: masking.StepPlaces, opset: int
) -> RecurrenceForm:
    inputs = iter(node.inputs)
    sequences = next(inputs)
    mask = next(inputs) if marker.has_mask else None
    states = [next(inputs) if given else None for given in marker.has_state]
    if sequences is None:
        message = f"{token}: the marker lost its input"
        raise ValueError(message)
    used = [bool(value.uses()) or value.is_graph_output() for value in node.outputs]
    call = MarkerCall(marker, sequences, mask, states, used)
    build = Builder(token.replace(":", "_"), opset, marker.recurrence.layer)
    fused = fused_operator(marker.recurrence.cell)
    if fused is None:
        values = write_scan(build, call, token, opset)
    else:
        values = _write_fused(build, call, fused, places)
    build.replace(node, values)
    layer = marker.recurrence.layer
    if fused is not None:
        return RecurrenceForm(layer, fused.op_type)
    return RecurrenceForm(layer, "Scan", why_not_fused(marker.recurrence.cell))


def _write_fused(
    build: Builder, call: MarkerCall, fused: FusedOperator, places: masking.StepPlaces
) -> Sequence[ir.Value]:
    recurrence = call.marker.recurrence
    plan = None if call.mask is None else masking.compaction(build, call.mask)
    if plan is None:
        steps = build.op("Transpose", call.sequences, perm=[1, 0, 2])
    else:
        steps = places.valid_steps_first(build, plan, call.sequences)
    initial: list[ir.Value | None] = [None] * len(call.states)
    if any(state is not None for state in call.states):
        units = fused.attributes["hidden_size"]
        initial = [_one_direction(build, call, state, units) for state in call.states]
    sequence_output, *final = build.ops(
        fused.op_type,
        1 + len(call.states),
        steps,
        *(build.constant(weight, "float32") for weight in fused.weights),
        None if plan is None else plan.lengths,
        *initial,
        direction="reverse" if recurrence.go_backwards else "forward",
        **fused.attributes,
    )
    states = [build.op("Squeeze", state, build.constant([0])) for state in final]
    outputs = build.op("Squeeze", sequence_output, build.constant([1]))
    if plan is None:
        last_output = states[0]
        outputs = build.op("Transpose", outputs, perm=[1, 0, 2])
    else:
        last_output = masking.keep_where_empty(build, plan, states[0], None)
        states = [
            masking.keep_where_empty(build, plan, state, start)
            for state, start in zip(states, call.states, strict=True)
        ]
        if recurrence.zero_output_for_mask and not recurrence.return_sequences:
            last_output = _zero_if_last_masked(build, call, plan, last_output)
        if recurrence.return_sequences:
            outputs = places.back_in_place(
                build,
                plan,
                outputs,
                go_backwards=recurrence.go_backwards,
                zero_output_for_mask=recurrence.zero_output_for_mask,
            )
    return [last_output, *([outputs] if recurrence.return_sequences else []), *states]


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
