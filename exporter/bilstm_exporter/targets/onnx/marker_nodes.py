"""Recurrence markers on their way through tf2onnx.

tf2onnx converts everything around the markers, and leaves each of them as one node of a private
domain. It never sees a loop, so its own pattern matching of recurrences has nothing to match.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from bilstm_exporter.ir.markers import Marker

DOMAIN = "bilstm_edge.marker"
TOKEN_ATTRIBUTE = "marker"  # noqa: S105 - no password


def keep_marker(context: Any, node: Any, _name: str, _args: Any) -> None:
    """Keep a marker through tf2onnx (a ``custom_op_handler``)."""
    token = node.get_attr_value("token").decode()
    shapes, dtypes = node.output_shapes, node.output_dtypes
    inputs, outputs = list(node.input), list(node.output)
    context.remove_node(node.name)
    context.make_node(
        "Recurrence",
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
        marker: What it stands for.
        sequences: ``[batch, time, ...]``.
        mask: ``[batch, time] bool``, or None.
        states: One value per state; None where it starts at zeros.
    """

    marker: Marker
    sequences: ir.Value
    mask: ir.Value | None
    states: list[ir.Value | None]


def read_call(node: ir.Node, marker: Marker) -> MarkerCall:
    """The inputs of a marker's node, by role.

    Raises:
        ValueError: The node has no sequences.
    """
    inputs = iter(node.inputs)
    sequences = next(inputs)
    mask = next(inputs) if marker.has_mask else None
    states = [next(inputs) if given else None for given in marker.has_state]
    if sequences is None:
        message = f"{node.name}: the marker lost its input"
        raise ValueError(message)
    return MarkerCall(marker, sequences, mask, states)
