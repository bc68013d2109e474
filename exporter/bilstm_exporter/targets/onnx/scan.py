"""Any cell as an ONNX Scan: standard operators, exact, and linear in time.

The body is one step of the cell, converted separately. This form is for cells and activations that
ONNX's LSTM, GRU and RNN operators lack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from bilstm_exporter.ir.markers import MARKER_TYPE
from bilstm_exporter.targets.onnx.builder import Builder
from bilstm_exporter.targets.onnx.marker_nodes import DOMAIN, MarkerCall, keep_marker
from bilstm_exporter.targets.onnx.tf_conversion import to_onnx


def write_scan(
    build: Builder, call: MarkerCall, prefix: str, opset: int, *, forward_only: bool = False
) -> tuple[Sequence[ir.Value], ir.Graph]:
    """Write a recurrence as a Scan.

    Args:
        build: The builder for the nodes around the body.
        call: The marker's inputs.
        prefix: Prefix of the names in the body, unique in the model.
        opset: The opset of the body's operators.
        forward_only: Whether the operator must run forward; the steps are then reversed around it.

    Returns:
        The marker's outputs (last_output, outputs with return_sequences, states), and the body,
        which may have markers.

    Raises:
        ValueError: The shape of one step's output is not fixed.
    """
    recurrence = call.marker.recurrence
    cell = recurrence.cell
    sequences = _projected(build, call)
    body = step_graph(call.marker.step, prefix, opset)
    step_output = body.outputs[0]
    output_shape = _trailing_shape(step_output, recurrence.layer)

    states = [
        _zeros(build, call.sequences, [cell.zeros_width]) if state is None else state
        for state in call.states
    ]
    masked = call.mask is not None
    output_is_state = recurrence.output_is_state(
        masked=masked, starts_at_zeros=call.states[0] is None
    )
    # A masked step without an output of its own repeats that of the step before it.
    repeats = masked and not output_is_state and not recurrence.zero_output_for_mask
    carry = states
    if repeats:
        carry = [*states, _zeros(build, call.sequences, output_shape, _dtype(step_output))]
    scanned = [sequences] if call.mask is None else [sequences, call.mask]
    backwards = recurrence.go_backwards
    if forward_only:  # its runtimes also scan the first axis only
        ranks = [_rank(body.inputs[0], recurrence.layer) + 1, 2]
        scanned = [_time_first(build, v, rank) for v, rank in zip(scanned, ranks, strict=False)]
        scanned = [build.reverse(value) for value in scanned] if backwards else scanned
        options: dict[str, Any] = {}
    else:  # in onnxruntime a third faster with 16 rows than Transpose and Scan
        options = {
            "scan_input_axes": [1] * len(scanned),
            "scan_input_directions": [int(backwards)] * len(scanned),
            "scan_output_axes": [1],
            "scan_output_directions": [int(backwards)],
        }
    body = _scan_body(
        body,
        Builder(f"{prefix}/body", opset),
        f"{prefix}/step",
        masked=masked,
        zero=recurrence.zero_output_for_mask,
        output_is_state=output_is_state,
    )
    *final, outputs = build.ops(
        "Scan",
        len(carry) + 1,
        *carry,
        *scanned,
        body=body,
        num_scan_inputs=len(scanned),
        **options,
    )
    if forward_only:
        outputs = build.reverse(outputs) if backwards else outputs
        outputs = _time_first(build, outputs, len(output_shape) + 2)
    if output_is_state:
        last_output = final[0]
    elif repeats:
        last_output = final[-1]
    else:
        last_output = build.op("Gather", outputs, build.constant(0 if backwards else -1), axis=1)
    sequence = [outputs] if recurrence.return_sequences else []
    return [last_output, *sequence, *final[: len(states)]], body


def _projected(build: Builder, call: MarkerCall) -> ir.Value:
    """Project the inputs of all steps together, if the cell has an input projection."""
    projection = call.marker.recurrence.cell.input_projection()
    if projection is None:
        return call.sequences
    kernel, bias = projection
    projected = build.op("MatMul", call.sequences, build.constant(kernel, "float32"))
    return (
        projected if bias is None else build.op("Add", projected, build.constant(bias, "float32"))
    )


def step_graph(step: Any, prefix: str, opset: int) -> ir.Graph:
    """One step as an ONNX graph, such as ``(inputs, *states) -> (output, *states)``.

    Args:
        step: A ``tf.ConcreteFunction`` without captured inputs.
        prefix: Prefix of the names, unique in the model.
        opset: The opset of the operators.
    """
    graph = to_onnx(step, opset, {MARKER_TYPE: keep_marker}, DOMAIN).graph
    for value in graph.inputs:
        value.name = f"{prefix}/step/{value.name}"
    for name in list(graph.initializers):
        graph.initializers[name].name = f"{prefix}/step/{name}"
    for node in graph:
        node.name = f"{prefix}/step/{node.name}"
        for value in node.outputs:
            if value.name:
                value.name = f"{prefix}/step/{value.name}"
    return graph


def _scan_body(  # noqa: PLR0913 - the body depends on all of these
    graph: ir.Graph, build: Builder, prefix: str, *, masked: bool, zero: bool, output_is_state: bool
) -> ir.Graph:
    """Convert a step to the body of a Scan.

    Its inputs become: states, previous output (if a masked step repeats it), step inputs, mask.
    Its outputs become: states, output (in the same case), output to collect.
    """
    inputs, *states = list(graph.inputs)
    output, *new_states = list(graph.outputs)
    previous = ir.Value(name=f"{prefix}/output_before", type=output.type, shape=output.shape)
    repeats = masked and not output_is_state and not zero
    carried = [previous] if repeats else []
    graph.inputs.clear()
    graph.inputs.extend([*states, *carried, inputs])
    if masked:
        mask = ir.Value(
            name=f"{prefix}/mask", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([None])
        )
        graph.inputs.append(mask)
        new_states = [
            build.op("Where", _as_column(build, mask, new), new, old)
            for new, old in zip(new_states, states, strict=True)
        ]
        if output_is_state:
            output = new_states[0]
        else:
            masked_output = build.constant(0, _dtype(output)) if zero else previous
            output = build.op("Where", _as_column(build, mask, output), output, masked_output)
    build.append_to(graph)
    graph.outputs.clear()
    # cleanup's OutputFixPass adds an Identity for a value that is listed twice.
    graph.outputs.extend([*new_states, *([output] if repeats else []), output])
    return graph


def _time_first(build: Builder, value: ir.Value, rank: int) -> ir.Value:
    """Exchange the first two axes, batch and time."""
    return build.op("Transpose", value, perm=[1, 0, *range(2, rank)])


def _rank(value: ir.Value, layer: str) -> int:
    if value.shape is None:
        message = f"layer {layer}: the rank of one step's input is unknown"
        raise ValueError(message)
    return len(value.shape)


def _as_column(build: Builder, mask: ir.Value, like: ir.Value) -> ir.Value:
    """Expand a mask ``[batch]`` to the rank of ``like``."""
    if like.shape is None:
        message = f"the rank of {like.name} is unknown"
        raise ValueError(message)
    return build.op("Unsqueeze", mask, build.constant(list(range(1, len(like.shape)))))


def _zeros(
    build: Builder, like: ir.Value, shape: Sequence[int], dtype: str = "float32"
) -> ir.Value:
    """Zeros ``[batch, *shape]`` with the batch size of ``like``."""
    batch = build.op("Slice", build.op("Shape", like), build.constant([0]), build.constant([1]))
    target = build.op("Concat", batch, build.constant(list(shape), "int64"), axis=0)
    return build.op("Expand", build.constant(0, dtype), target)


def _dtype(value: ir.Value) -> str:
    return "float32" if value.dtype is None else value.dtype.numpy().name


def _trailing_shape(value: ir.Value, layer: str) -> list[int]:
    shape = [] if value.shape is None else list(value.shape)[1:]
    if value.shape is None or not all(isinstance(size, int) for size in shape):
        message = f"layer {layer}: the shape of one step's output is not fixed: {value.shape}"
        raise ValueError(message)
    return [size for size in shape if isinstance(size, int)]
