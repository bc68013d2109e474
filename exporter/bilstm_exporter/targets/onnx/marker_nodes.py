"""Recurrence markers in the tf2onnx conversion.

tf2onnx converts everything around the markers and keeps each marker as one node of a private
domain. Because the graph has no loop, its own pattern matching of recurrences does not apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from bilstm_exporter.ir.markers import Marker

DOMAIN = "bilstm_edge.marker"
MARKER_OPERATOR = "Recurrence"
TOKEN_ATTRIBUTE = "marker"  # noqa: S105 - not a password


def keep_marker(context: Any, node: Any, _name: str, _args: Any) -> None:
    """Convert a marker to a node of the private domain (a tf2onnx ``custom_op_handler``)."""
    token = node.get_attr_value("token").decode()
    shapes, dtypes = node.output_shapes, node.output_dtypes
    inputs, outputs = list(node.input), list(node.output)
    context.remove_node(node.name)
    context.make_node(
        MARKER_OPERATOR,
        inputs=inputs,
        outputs=outputs,
        attr={TOKEN_ATTRIBUTE: token},
        shapes=shapes,
        dtypes=dtypes,
        domain=DOMAIN,
        name=node.name,
    )


@dataclass(frozen=True)
class MarkerCall:
    """The inputs of one marker, by role.

    Attributes:
        marker: The marker.
        sequences: ``[batch, time, ...]``.
        mask: ``[batch, time] bool``, or None.
        states: One value per state; None for a state that starts at zeros.
        reads_cell_state: Whether anything reads a final state other than the first, which is the
            last output.
    """

    marker: Marker
    sequences: ir.Value
    mask: ir.Value | None
    states: list[ir.Value | None]
    reads_cell_state: bool = False


def read_call(node: ir.Node, marker: Marker) -> MarkerCall:
    """The inputs of a marker's node, by role.

    Raises:
        ValueError: The node has no sequences.
    """
    inputs = iter(node.inputs)
    sequences = next(inputs)
    mask = next(inputs) if marker.has_mask else None
    states = [next(inputs) if has_state else None for has_state in marker.has_state]
    if sequences is None:
        message = f"{node.name}: the marker lost its input"
        raise ValueError(message)
    others = node.outputs[len(node.outputs) - len(states) + 1 :]
    read = any(bool(value.uses()) or value.is_graph_output() for value in others)
    return MarkerCall(marker, sequences, mask, states, read)
