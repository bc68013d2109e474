"""Unused variables of TFLite loops are removed, and all others stay."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from bilstm_exporter.targets.tflite import flatbuffer
from bilstm_exporter.targets.tflite.converter import convert_function
from bilstm_exporter.targets.tflite.flatbuffer import drop_unused_variables
from bilstm_exporter.targets.tflite.graph_editor import operator_name

COUNTS = {
    "in the condition": 3,
    "after the loop": 3,
    "by another variable": 3,
    "nowhere": 2,
}
"""Remaining variables: the total, the input, and the count if it is read."""


def loop(read):
    """A loop that counts, beside the counter that TensorFlow adds."""

    @tf.function(input_signature=[tf.TensorSpec([3], tf.float32, name="input_0")])
    def function(input_0):
        def goes_on(count, total):
            if read == "in the condition":
                return count < 5.0
            return tf.reduce_sum(total) < 1000.0

        def body(count, total):
            more = count if read == "by another variable" else 0.0
            return count + 1.0, total * 2.0 + input_0 + more

        count, total = tf.while_loop(goes_on, body, [tf.constant(0.0), input_0])
        outputs = {"output_0": total}
        if read == "after the loop":
            outputs["output_1"] = count
        return outputs

    return function


def converted(function):
    return flatbuffer.read(convert_function(function.get_concrete_function()))


def whiles(model):
    return [
        operator
        for subgraph in model.subgraphs
        for operator in subgraph.operators
        if operator_name(model, operator) == "WHILE"
    ]


def run(model, x):
    content = flatbuffer.finish(model, ["x"], ["total", "count"])
    return Interpreter(model_content=content).get_signature_runner()(x=x)


@pytest.mark.parametrize("read", COUNTS)
@pytest.mark.slow
def test_unused_variables_are_removed(read):
    function = loop(read)
    model = converted(function)
    (operator,) = whiles(model)
    before = len(operator.inputs)
    assert before > COUNTS[read]
    drop_unused_variables(model)
    assert len(operator.inputs) == len(operator.outputs) == COUNTS[read]
    options = operator.builtinOptions
    body, cond = (
        model.subgraphs[number] for number in (options.bodySubgraphIndex, options.condSubgraphIndex)
    )
    assert len(body.inputs) == len(body.outputs) == len(cond.inputs) == COUNTS[read]
    # No unused value is computed.
    used = {int(tensor) for one in body.operators for tensor in one.inputs} | set(body.outputs)
    assert all(used.intersection(one.outputs) for one in body.operators)

    drop_unused_variables(model)  # nothing is left to drop
    assert len(operator.inputs) == COUNTS[read]

    x = np.array([1.0, -0.5, 2.0], np.float32)
    found, wanted = run(model, x), function(x)
    np.testing.assert_array_equal(found["total"], wanted["output_0"])
    if read == "after the loop":
        np.testing.assert_array_equal(found["count"], wanted["output_1"])


def test_a_body_of_two_loops_stays_unchanged():
    """One of them may read what the other does not."""
    model = converted(loop("nowhere"))
    (operator,) = whiles(model)
    before = len(operator.inputs)
    (owner,) = (part for part in model.subgraphs if operator in part.operators)
    owner.operators.append(operator)
    drop_unused_variables(model)
    assert len(operator.inputs) == before
