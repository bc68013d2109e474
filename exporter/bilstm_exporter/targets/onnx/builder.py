"""Helpers for building ONNX nodes with onnx_ir."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir


class Builder:
    """Collects new nodes and constants, then adds them to a graph.

    Args:
        prefix: Prefix of the names of new nodes and constants.
        opset: The opset of the operators.
        layer: The layer the nodes come from; it becomes part of their final names.
    """

    def __init__(self, prefix: str, opset: int, layer: str = "") -> None:
        self._prefix = prefix
        self._opset = opset
        self._layer = layer
        self._nodes: list[ir.Node] = []
        self._constants: list[ir.Value] = []
        self._count = 0

    def constant(self, array: Any, dtype: Any = None) -> ir.Value:
        """Add an initializer."""
        name = self._name("const")
        # np.ascontiguousarray would make a scalar an array of one element.
        tensor = ir.tensor(np.asarray(array, dtype, order="C"), name=name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(list(tensor.shape.numpy())),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self._constants.append(value)
        return value

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add a node with one output."""
        return self.ops(op_type, 1, *inputs, **attributes)[0]

    def ops(
        self,
        op_type: str,
        outputs: int,
        *inputs: ir.Value | None,
        domain: str = "",
        **attributes: Any,
    ) -> list[ir.Value]:
        """Add a node with several outputs."""
        name = self._name(op_type)
        node = ir.Node(
            domain,
            op_type,
            inputs=list(inputs),
            attributes=ir.convenience.convert_attributes(attributes),
            outputs=[ir.Value(name=f"{name}:{index}") for index in range(outputs)],
            name=name,
        )
        if self._layer:
            node.metadata_props["layer"] = self._layer
        self._nodes.append(node)
        return list(node.outputs)

    def reduce_max(self, value: ir.Value, axis: int) -> ir.Value:
        """Add a ReduceMax with keepdims; before opset 18, ``axes`` is an attribute."""
        if self._opset < 18:
            return self.op("ReduceMax", value, axes=[axis], keepdims=1)
        return self.op("ReduceMax", value, self.constant([axis]), keepdims=1)

    def reverse(self, value: ir.Value) -> ir.Value:
        """Reverse the first axis."""
        first, last = self.constant([-1]), self.constant([np.iinfo(np.int64).min])
        return self.op("Slice", value, first, last, self.constant([0]), self.constant([-1]))

    def replace(self, node: ir.Node, values: Sequence[ir.Value]) -> None:
        """Replace ``node`` by the new nodes, and its outputs by ``values``.

        Raises:
            ValueError: The node is in no graph.
        """
        graph = node.graph
        if graph is None:
            message = f"{node.name} is in no graph"
            raise ValueError(message)
        for constant in self._constants:
            graph.register_initializer(constant)
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], self._nodes, node.outputs, values
        )

    def insert_first(self, graph: ir.Graph) -> None:
        """Insert the new nodes, which read only constants, at the start of a graph."""
        for constant in self._constants:
            graph.register_initializer(constant)
        graph.insert_before(graph[0], self._nodes)

    def append_to(self, graph: ir.Graph) -> None:
        """Append the new nodes to a graph."""
        for constant in self._constants:
            graph.register_initializer(constant)
        graph.extend(self._nodes)

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{self._prefix}/{kind}_{self._count}"
