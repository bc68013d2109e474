"""Traced functions that are written into other graphs."""

from __future__ import annotations

import tensorflow as tf

from bilstm_exporter.ir.graphs import inlined


def test_no_gradient_comes_with_an_inlined_function():
    """TensorFlow cannot save it, and the TFLite converter then loses the signature."""
    signature = tf.TensorSpec([2, 3], tf.float32)
    inner = tf.function(tf.nn.silu).get_concrete_function(signature)
    outer = tf.function(lambda x: inlined(inner, [x])).get_concrete_function(signature)
    nodes = {node.op: node for node in outer.graph.as_graph_def().node}
    assert "IdentityN" in nodes
    assert not any("_gradient_op_type" in node.attr for node in nodes.values())
