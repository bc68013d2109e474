"""Shapes of a model's outputs for given shapes of its inputs, without running it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from bilstm_exporter.ir.markers import MARKER_TYPE, MarkedGraph, Marker

Shape = tuple[int | None, ...]


def output_shapes(graph: MarkedGraph, shapes: Sequence[Sequence[int]]) -> list[Shape | None] | None:
    """Infer the shapes of the outputs of a traced model.

    TensorFlow infers them when it imports a graph; the time does not depend on the sizes.

    Args:
        graph: The model, traced for inputs whose sizes may be free.
        shapes: The shape of each input.

    Returns:
        A shape for each output, with None for a size that depends on values or on a loop; None for
        an output of unknown rank. None if the model takes no inputs of these shapes.
    """
    function = graph.function
    graph_def = function.graph.as_graph_def()
    nodes = {node.name: node for node in graph_def.node}
    inferable = [part for node in graph_def.node for part in _inferable(node, nodes, graph)]
    del graph_def.node[:]
    graph_def.node.extend(inferable)
    with tf.Graph().as_default():
        inputs = {
            tensor.name: tf.compat.v1.placeholder(tensor.dtype, shape)
            for tensor, shape in zip(function.inputs, shapes, strict=True)
        }
        names = [tensor.name for tensor in function.outputs]
        try:
            outputs = tf.graph_util.import_graph_def(graph_def, inputs, names, name="")
        except (ValueError, tf.errors.OpError):
            return None
    known = [output.shape for output in outputs]
    return [None if one.rank is None else tuple(one.as_list()) for one in known]


def _inferable(node: Any, nodes: Mapping[str, Any], graph: MarkedGraph) -> Iterator[Any]:
    """Yield a node or, for an output of a recurrence, nodes whose shape TensorFlow infers."""
    name, _, place = node.input[0].partition(":") if node.op == "EnsureShape" else ("", "", "")
    source, number = nodes.get(name), int(place or 0)
    if source is None or source.op != MARKER_TYPE:
        yield node
        return
    marker = graph.markers.get(source.attr["token"].s.decode())
    if not isinstance(marker, Marker):
        yield node
        return
    # [batch, ...] or, for the outputs of all steps, [batch, time, ...].
    count = 2 if number == 1 and marker.recurrence.return_sequences else 1
    rest = marker.shapes[number][count:]
    if None in rest:
        yield node
        return
    dtype = source.attr["Tin"].list.type[0]
    with tf.Graph().as_default() as made:
        sequences = tf.compat.v1.placeholder(dtype, name=f"{node.name}/sequences")
        with tf.name_scope(f"{node.name}/"):
            sizes = tf.concat([tf.shape(sequences)[:count], tf.constant(rest, tf.int32)], 0)
            filled = tf.fill(sizes, tf.zeros([], node.attr["T"].type))
        tf.identity(filled, name=node.name)
    for part in made.as_graph_def().node:
        if part.name == sequences.op.name:
            part.op = "Identity"
            part.input.append(source.input[0])
            part.attr.clear()
            part.attr["T"].type = dtype
        yield part
