"""Recurrence markers on their way through tf2onnx.

tf2onnx converts everything around the markers, and leaves each of them as one node of a private
domain. It never sees a loop, so its own pattern matching of recurrences has nothing to match.
"""

from __future__ import annotations

from typing import Any

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
