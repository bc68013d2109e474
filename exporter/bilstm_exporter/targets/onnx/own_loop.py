"""A loop of a layer's own code as an ONNX Loop.

The elements that iterations write to a list are outputs that the operator collects, in linear
time. What an iteration reads from outside of the loop is read from the outer graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from bilstm_exporter.ir.markers import LoopMarker
from bilstm_exporter.targets.onnx.builder import Builder
from bilstm_exporter.targets.onnx.scan import step_graph


def write_loop(
    build: Builder, node: ir.Node, marker: LoopMarker, prefix: str, opset: int
) -> tuple[Sequence[ir.Value], ir.Graph]:
    """Write a loop.

    Args:
        build: The builder for the nodes around the body.
        node: The marker's node.
        marker: The marker.
        prefix: Prefix of the names in the body, unique in the model.
        opset: The opset of the body's operators.

    Returns:
        The marker's outputs, and the body, which may have markers.
    """
    condition, *inputs = node.inputs
    carried, outside = inputs[: marker.carried], inputs[marker.carried :]
    body = step_graph(marker.step, prefix, opset)
    own = list(body.inputs)
    for value, outer in zip(own[marker.carried :], outside, strict=True):
        if outer is None:
            message = f"{node.name}: the marker lost an input"
            raise ValueError(message)
        value.replace_all_uses_with(outer, replace_graph_outputs=True)
    number = ir.Value(
        name=f"{prefix}/iteration", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([])
    )
    goes_on = ir.Value(
        name=f"{prefix}/goes_on", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([])
    )
    body.inputs.clear()
    body.inputs.extend([number, goes_on, *own[: marker.carried]])
    values = build.ops(
        "Loop", marker.carried + marker.collected, None, condition, *carried, body=body
    )
    return values, body
