"""Lowers recurrence markers to ONNX operators.

A marker becomes one LSTM, GRU or RNN node if ONNX has the cell and its activations. Any other cell
becomes a Scan over its step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from bilstm_exporter.ir.cells import Activation, Cell, GatedCell, GRUCell, LSTMCell, SimpleRNNCell
from bilstm_exporter.ir.markers import LoopMarker, Marker
from bilstm_exporter.targets.base import RecurrenceForm
from bilstm_exporter.targets.onnx import masking
from bilstm_exporter.targets.onnx.builder import Builder
from bilstm_exporter.targets.onnx.marker_nodes import DOMAIN, TOKEN_ATTRIBUTE, MarkerCall, read_call
from bilstm_exporter.targets.onnx.own_loop import write_loop
from bilstm_exporter.targets.onnx.scan import write_scan
from bilstm_exporter.targets.operators import Form

LOOP_REASON = "a loop in the layer's own code"
ACTIVATIONS_REASON = "an {} with the activations {}, for runtimes that lack or ignore them"
CELL_STATE_REASON = "a cell state after masked steps, for runtimes that ignore sequence_lens"

# Gates of these activations are exactly 0 or 1 for an input of -1e9 or 1e9, whatever a step adds
# to it. An LSTM whose forget gate is 1 and whose input gate is 0 keeps its cell state.
_SATURATING = frozenset({"sigmoid", "hard_sigmoid", "hard_sigmoid_keras2"})
_SATURATED = 1e9

# Keras's activations in ONNX's LSTM, GRU and RNN operators.
# Functions, alpha and beta: https://onnx.ai/onnx/operators/onnx__LSTM.html
# The table contains the functions that onnxruntime implements, except Softplus, which is infinite
# there for values above 88: a recurrence with it becomes a Scan.


@dataclass(frozen=True)
class OnnxActivation:
    """An activation of ONNX's recurrent operators; alpha and beta are None if it has none."""

    name: str
    alpha: float | None = None
    beta: float | None = None


_BY_KERAS_NAME = {
    "tanh": OnnxActivation("Tanh"),
    "sigmoid": OnnxActivation("Sigmoid"),
    "relu": OnnxActivation("Relu"),
    "linear": OnnxActivation("Affine", alpha=1.0, beta=0.0),
    # Keras 3: relu6(x + 3) / 6.
    "hard_sigmoid": OnnxActivation("HardSigmoid", alpha=1.0 / 6.0, beta=0.5),
    # Keras 1 and 2: clip(0.2 x + 0.5, 0, 1).
    "hard_sigmoid_keras2": OnnxActivation("HardSigmoid", alpha=0.2, beta=0.5),
    "elu": OnnxActivation("Elu", alpha=1.0),
    "leaky_relu": OnnxActivation("LeakyRelu", alpha=0.2),
    "softsign": OnnxActivation("Softsign"),
}


def onnx_activation(activation: Activation) -> OnnxActivation | None:
    """The ONNX function for an activation, or None if ONNX has none."""
    return None if activation.name is None else _BY_KERAS_NAME.get(activation.name)


def activation_attributes(activations: list[OnnxActivation]) -> dict[str, list[str] | list[float]]:
    """Attributes for one direction; alphas and betas are in the order of the functions."""
    attributes: dict[str, list[str] | list[float]] = {
        "activations": [activation.name for activation in activations]
    }
    alphas = [a.alpha for a in activations if a.alpha is not None]
    betas = [a.beta for a in activations if a.beta is not None]
    if alphas:
        attributes["activation_alpha"] = alphas
    if betas:
        attributes["activation_beta"] = betas
    return attributes


@dataclass(frozen=True)
class FusedOperator:
    """An ONNX recurrent operator with its weights.

    Attributes:
        op_type: ``"LSTM"``, ``"GRU"`` or ``"RNN"``.
        attributes: The attributes for one direction.
        weights: W, R and B, each with a leading axis of directions.
    """

    op_type: str
    attributes: dict[str, Any]
    weights: tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class _OperatorForm:
    """How one of ONNX's recurrent operators expresses a cell.

    Attributes:
        op_type: The operator.
        gate_order: For each ONNX gate, its position in the cell's weights.
        functions: Returns the cell's activations in the order of ONNX's ``activations``.
        attributes: Returns further attributes.
    """

    op_type: str
    gate_order: tuple[int, ...]
    functions: Callable[[Any], list[Activation]]
    attributes: Callable[[Any], dict[str, Any]] = lambda _cell: {}


# Keras orders an LSTM's gates i, f, c, o and ONNX i, o, f, c; both order a GRU's z, r, h.
_OPERATORS: dict[type[Cell], _OperatorForm] = {
    LSTMCell: _OperatorForm(
        "LSTM",
        (0, 3, 1, 2),
        lambda cell: [cell.recurrent_activation, cell.activation, cell.activation],
    ),
    GRUCell: _OperatorForm(
        "GRU",
        (0, 1, 2),
        lambda cell: [cell.recurrent_activation, cell.activation],
        lambda cell: {"linear_before_reset": int(cell.reset_after)},
    ),
    SimpleRNNCell: _OperatorForm("RNN", (0,), lambda cell: [cell.activation]),
}


# https://onnx.ai/onnx/operators/onnx__LSTM.html and those of GRU and RNN
_DEFAULT_ACTIVATIONS = {
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
    "RNN": ["Tanh"],
}
_COMMON_ACTIVATIONS = frozenset({"Sigmoid", "Tanh", "Relu"})


def fused_operator(cell: Cell) -> FusedOperator | None:
    """The ONNX operator equivalent to a cell, or None if there is none."""
    form = _OPERATORS.get(type(cell))
    if form is None or not isinstance(cell, GatedCell):
        return None
    functions = [onnx_activation(function) for function in form.functions(cell)]
    known = [function for function in functions if function is not None]
    if len(known) < len(functions):
        return None

    def reordered(weight: np.ndarray) -> np.ndarray:
        blocks = np.split(weight, cell.gate_count, axis=-1)
        return np.concatenate([blocks[index] for index in form.gate_order], axis=-1)

    width = cell.gate_count * cell.units
    bias = np.zeros(width, np.float32) if cell.bias is None else cell.bias
    recurrent_bias = getattr(cell, "recurrent_bias", None)
    if recurrent_bias is None:
        recurrent_bias = np.zeros(width, np.float32)
    return FusedOperator(
        op_type=form.op_type,
        attributes={
            "hidden_size": cell.units,
            **activation_attributes(known),
            **form.attributes(cell),
        },
        weights=(
            reordered(cell.kernel).T[np.newaxis],
            reordered(cell.recurrent_kernel).T[np.newaxis],
            np.concatenate([reordered(bias), reordered(recurrent_bias)])[np.newaxis],
        ),
    )


def why_not_fused(cell: Cell) -> str:
    """The reason, for the report, why a cell has no ONNX operator."""
    form = _OPERATORS.get(type(cell))
    if form is None:
        return "ONNX has no operator for this cell"
    # In the order of Keras's arguments: activation, recurrent_activation.
    functions = [f for f in reversed(form.functions(cell)) if not onnx_activation(f)]
    names = [f.name or "a custom function" for f in functions]
    return f"ONNX's recurrent operators lack the activation {' and '.join(dict.fromkeys(names))}"


def lower_markers(
    model: ir.Model,
    markers: Mapping[str, Marker | LoopMarker],
    opset: int,
    forms: frozenset[Form] = frozenset(),
) -> list[RecurrenceForm]:
    """Replace every marker of the model in place, and report the form of each recurrence."""
    return _MarkerWriter(markers, opset, forms).lower(model.graph, "")


class _MarkerWriter:
    """Replaces the markers of a graph, and of the loop bodies that this creates.

    Args:
        markers: The markers by token.
        opset: The opset of the operators.
        forms: The forms that the runtimes need.
    """

    def __init__(
        self, markers: Mapping[str, Marker | LoopMarker], opset: int, forms: frozenset[Form]
    ) -> None:
        self._markers, self._opset = markers, opset
        self._forms = forms
        self._forward_only = Form.FORWARD_ONLY in forms
        self._ignores_lengths = self._forward_only or Form.NO_LENGTHS in forms

    def lower(self, graph: ir.Graph, prefix: str) -> list[RecurrenceForm]:
        """Replace the markers of a graph in place.

        Args:
            graph: The model's graph, the body of a loop, or a branch of a condition.
            prefix: Prefix of new names in this graph.
        """
        forms, step_order = [], masking.StepOrder()
        for node in list(graph):
            if node.domain == DOMAIN:
                token = node.attributes[TOKEN_ATTRIBUTE].as_string()
                forms += self._lower_marker(node, token, step_order, prefix)
                continue
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    forms += self.lower(
                        attribute.as_graph(), f"{prefix}{node.name}/{attribute.name}/"
                    )
        return forms

    def _lower_marker(
        self, node: ir.Node, token: str, step_order: masking.StepOrder, prefix: str
    ) -> list[RecurrenceForm]:
        marker, name = self._markers[token], f"{prefix}{token}"
        if isinstance(marker, LoopMarker):
            build = Builder(name.replace(":", "_"), self._opset, marker.layer)
            values, body = write_loop(build, node, marker, name, self._opset)
            build.replace(node, values)
            inner = self.lower(body, f"{name}/body/")
            return [RecurrenceForm(marker.layer, "Loop", LOOP_REASON), *inner]
        layer = marker.recurrence.layer
        call = read_call(node, marker)
        build = Builder(name.replace(":", "_"), self._opset, layer)
        fused = fused_operator(marker.recurrence.cell)
        reason = why_not_fused(marker.recurrence.cell) if fused is None else ""
        if fused is not None and not _has_activations(fused, self._forms):
            names = " and ".join(dict.fromkeys(fused.attributes["activations"]))
            reason = ACTIVATIONS_REASON.format(fused.op_type, names)
            fused = None
        # tract 0.23 fails on an LSTM that starts at the kept cell state of another.
        if (self._ignores_lengths and _needs_lengths(call)) or (
            self._forward_only and _reads_masked_cell_state(call)
        ):
            fused, reason = None, CELL_STATE_REASON
        if fused is not None:
            values = _write_fused(build, call, fused, step_order, self._forms)
            _set_shapes(values, marker)
            build.replace(node, values)
            return [RecurrenceForm(layer, fused.op_type)]
        values, body = write_scan(build, call, name, self._opset, forward_only=self._forward_only)
        _set_shapes(values, marker)
        build.replace(node, values)
        inner = self.lower(body, f"{name}/body/")
        return [RecurrenceForm(layer, "Scan", reason), *inner]


def _set_shapes(values: Sequence[ir.Value], marker: Marker) -> None:
    """Set the shapes of a marker's outputs, which tf2onnx does not keep."""
    for value, shape in zip(values, marker.shapes, strict=True):
        if value.shape is None:
            value.shape = ir.Shape(shape)


def _needs_lengths(call: MarkerCall) -> bool:
    """Whether the operator for a cell computes other values in a runtime that ignores its lengths.

    Only its final cell states may: what else is read are outputs of valid steps.
    """
    return _reads_masked_cell_state(call) and not _keeps_cell_state(call)


def _reads_masked_cell_state(call: MarkerCall) -> bool:
    """Whether something reads a cell state after several steps, of which some may be masked."""
    return call.mask is not None and call.marker.steps != 1 and call.reads_cell_state


def _keeps_cell_state(call: MarkerCall) -> bool:
    """Whether the cell can be told to keep its cell state in a step."""
    cell = call.marker.recurrence.cell
    return isinstance(cell, LSTMCell) and cell.recurrent_activation.name in _SATURATING


def _has_activations(fused: FusedOperator, forms: frozenset[Form]) -> bool:
    """Whether runtimes of these forms have the activations of an operator."""
    found = fused.attributes["activations"]
    if Form.DEFAULT_ACTIVATIONS in forms:
        return bool(found == _DEFAULT_ACTIVATIONS[fused.op_type])
    return Form.COMMON_ACTIVATIONS not in forms or set(found) <= _COMMON_ACTIVATIONS


def _write_fused(
    build: Builder,
    call: MarkerCall,
    fused: FusedOperator,
    step_order: masking.StepOrder,
    forms: frozenset[Form],
) -> Sequence[ir.Value]:
    if call.mask is None:
        last_output, outputs, states = _write_unmasked(build, call, fused)
    elif call.marker.steps == 1:
        last_output, outputs, states = _write_masked_step(build, call, fused)
    else:
        forward_only = Form.FORWARD_ONLY in forms
        plan = masking.compaction(build, call.mask, keep_time=forward_only)
        last_output, outputs, states = _write_masked(
            build, call, fused, step_order, plan, forward_only=forward_only
        )
    return [last_output, *([outputs] if call.marker.recurrence.return_sequences else []), *states]


def _write_operator(  # noqa: PLR0913 - the inputs of the operator
    build: Builder,
    call: MarkerCall,
    fused: FusedOperator,
    steps: ir.Value,
    *,
    lengths: ir.Value | None = None,
    keeps_cell_state: bool = False,
) -> tuple[ir.Value, list[ir.Value]]:
    """Write the operator.

    Args:
        build: The builder.
        call: The marker's inputs.
        fused: The operator.
        steps: ``[time, batch, features]``.
        lengths: The number of steps to run in each row, or None for all.
        keeps_cell_state: Whether an LSTM keeps its cell state where the last feature is 1.

    Returns:
        The outputs, ``[time, batch, units]``, and the final states, ``[batch, units]``.
    """
    initial: list[ir.Value | None] = [None] * len(call.states)
    units = fused.attributes["hidden_size"]
    if any(state is not None for state in call.states):
        initial = [_one_direction(build, call, state, units) for state in call.states]
    kernel, *others = (build.constant(weight, "float32") for weight in fused.weights)
    if keeps_cell_state:
        # Of the gates i, o, f and c. Joined here, so that the kernel can be stored in fewer bits.
        column = np.repeat([-_SATURATED, 0, _SATURATED, 0], units).reshape(1, -1, 1)
        kernel = build.op("Concat", kernel, build.constant(column, "float32"), axis=2)
    sequence_output, *final = build.ops(
        fused.op_type,
        1 + len(call.states),
        steps,
        kernel,
        *others,
        lengths,
        *initial,
        direction="forward",
        **fused.attributes,
    )
    states = [build.op("Squeeze", state, build.constant([0])) for state in final]
    return build.op("Squeeze", sequence_output, build.constant([1])), states


def _write_unmasked(
    build: Builder, call: MarkerCall, fused: FusedOperator
) -> tuple[ir.Value, ir.Value, list[ir.Value]]:
    """Write an operator over all steps; a backward one runs forward over reversed steps.

    In onnxruntime this takes as long as the direction ``reverse``, which tract computes wrongly.
    """
    steps = build.op("Transpose", call.sequences, perm=[1, 0, 2])
    backwards = call.marker.recurrence.go_backwards
    if backwards:
        steps = build.reverse(steps)
    outputs, states = _write_operator(build, call, fused, steps)
    if backwards:
        outputs = build.reverse(outputs)
    return states[0], build.op("Transpose", outputs, perm=[1, 0, 2]), states


def _write_masked_step(
    build: Builder, call: MarkerCall, fused: FusedOperator
) -> tuple[ir.Value, ir.Value, list[ir.Value]]:
    """Write an operator over one step, and undo it in rows in which the step is masked."""
    steps = build.op("Transpose", call.sequences, perm=[1, 0, 2])
    _, states = _write_operator(build, call, fused, steps)
    zeros = build.constant(0.0, "float32")
    last_output = build.op("Where", call.mask, states[0], zeros)
    outputs = build.op("Unsqueeze", last_output, build.constant([1]))
    states = [
        build.op("Where", call.mask, state, zeros if start is None else start)
        for state, start in zip(states, call.states, strict=True)
    ]
    return last_output, outputs, states


def _write_masked(  # noqa: PLR0913 - the mask's plan and the form are independent
    build: Builder,
    call: MarkerCall,
    fused: FusedOperator,
    step_order: masking.StepOrder,
    plan: masking.Compaction,
    *,
    forward_only: bool,
) -> tuple[ir.Value, ir.Value, list[ir.Value]]:
    recurrence = call.marker.recurrence
    steps = step_order.move_valid_first(build, plan, call.sequences)
    if recurrence.go_backwards:
        steps = masking.reverse_valid(build, plan, steps, forward_only=forward_only)
    # A runtime may ignore the lengths, with which onnxruntime takes less time: what follows reads
    # the outputs of valid steps only, and a cell state, which the LSTM keeps after them.
    lengths = None if forward_only else plan.lengths
    keeps = call.reads_cell_state and _keeps_cell_state(call)
    if keeps:
        steps = masking.mark_ended(build, plan, steps)
    outputs, states = _write_operator(
        build, call, fused, steps, lengths=lengths, keeps_cell_state=keeps
    )
    if recurrence.go_backwards and recurrence.return_sequences:
        outputs = masking.reverse_valid(build, plan, outputs, forward_only=forward_only)
    if not _needs_lengths(call):
        states[0] = (
            build.op("Gather", outputs, build.constant(0), axis=0)
            if recurrence.go_backwards and recurrence.return_sequences
            else masking.last_valid(build, plan, outputs)
        )
    last_output = masking.replace_empty_rows(build, plan, states[0], None)
    states = [
        masking.replace_empty_rows(build, plan, state, start)
        for state, start in zip(states, call.states, strict=True)
    ]
    if recurrence.zero_output_for_mask and not recurrence.return_sequences:
        last_output = _zero_if_last_masked(build, call, plan, last_output)
    if recurrence.return_sequences:
        outputs = step_order.restore_order(
            build,
            plan,
            outputs,
            go_backwards=recurrence.go_backwards,
            zero_output_for_mask=recurrence.zero_output_for_mask,
        )
    return last_output, outputs, states


def _zero_if_last_masked(
    build: Builder, call: MarkerCall, plan: masking.Compaction, last_output: ir.Value
) -> ir.Value:
    """Zero the last output if the last processed step is masked, as Keras does."""
    step = 0 if call.marker.recurrence.go_backwards else -1
    valid = build.op("Gather", plan.mask, build.constant([step]), axis=1)
    return build.op("Where", valid, last_output, build.constant(0.0, "float32"))


def _one_direction(
    build: Builder, call: MarkerCall, state: ir.Value | None, units: int
) -> ir.Value:
    """An initial state ``[1, batch, units]``; zeros for a state of None."""
    if state is None:
        batch = build.op(
            "Slice", build.op("Shape", call.sequences), build.constant([0]), build.constant([1])
        )
        shape = build.op("Concat", batch, build.constant([units]), axis=0)
        state = build.op("Expand", build.constant(0.0, "float32"), shape)
    return build.op("Unsqueeze", state, build.constant([0]))
