"""Loops of layers' own code, in both formats, against Keras's eager call."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter

from bilstm_exporter.frontends.keras2.model import Keras2Model
from bilstm_exporter.frontends.keras3.model import Keras3Model
from bilstm_exporter.ir.markers import MARKER_TYPE, mark_recurrences
from bilstm_exporter.ir.operator_forms import operator_forms
from bilstm_exporter.targets.onnx.cleanup import clean
from bilstm_exporter.targets.onnx.lowering import lower_markers
from bilstm_exporter.targets.onnx.marker_nodes import DOMAIN, keep_marker
from bilstm_exporter.targets.onnx.tf_conversion import to_onnx
from bilstm_exporter.targets.tflite.bidirectional import LoopLowering
from bilstm_exporter.targets.tflite.converter import convert_function
from bilstm_exporter.targets.tflite.integer_lowering import IntegerLowering
from bilstm_exporter.targets.tflite.operator_forms import TFLITE_FLOAT_FORMS

from .own_loops import FEATURES, LOOPS, make_model

OPSET = 17
QUICK = {"scan", "array_backwards", "viterbi_one_hot", "ops_scan_reverse"}
KERAS2 = {
    "scan", "scan_of_pairs", "map_fn", "while_loop", "nested", "array_backwards",
    "array_that_grows", "autograph", "autograph_over_rows", "autograph_that_writes_some",
    "autograph_with_break", "viterbi_keras_contrib", "k_rnn_with_attention",
}  # fmt: skip
"""Loops that layers of Keras 2 run too: one of each API, and those that AutoGraph converts."""
CASES = [
    pytest.param(
        library,
        name,
        id=f"{library.__name__}-{name}",
        marks=() if name in QUICK and library is keras else pytest.mark.slow,
    )
    for library in (keras, tf_keras)
    for name in LOOPS
    if library is keras or name in KERAS2
]
SIZES = ((1, 3), (3, 7), (2, 2), (1, 45), (2, 1), (4, 7), (1, 3))

NO_SINGLE_STEP = {"viterbi_keras_contrib"}
"""Loops that Keras does not run over a single step."""


@cache
def loaded(library, name):
    """The model, and its outputs for inputs of several sizes, some of them twice."""
    model = make_model(library, name)
    rng = np.random.default_rng(11)
    sizes = [size for size in SIZES if name not in NO_SINGLE_STEP or size[1] > 1]
    examples = [rng.normal(size=(*size, FEATURES)).astype(np.float32) for size in sizes]
    outputs = [np.asarray(model(tf.constant(x), training=False)) for x in examples]
    front = Keras3Model if library is keras else Keras2Model
    return front(model), examples, outputs


def agree(found, expected):
    for got, want in zip(found, expected, strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("library", "name"), CASES)
@pytest.mark.slow
def test_onnx(library, name):
    model, examples, expected = loaded(library, name)
    graph = mark_recurrences(lambda lowering: model.trace(lowering, model.flat_inputs))
    converted = to_onnx(graph.function, OPSET, {MARKER_TYPE: keep_marker}, DOMAIN)
    lower_markers(converted, graph.markers, OPSET)
    clean(converted)
    session = onnxruntime.InferenceSession(serialized(converted))
    (entry,) = session.get_inputs()
    agree([session.run(None, {entry.name: x})[0] for x in examples], expected)


@pytest.mark.parametrize(("library", "name"), CASES)
@pytest.mark.slow
def test_tflite(library, name):
    model, examples, expected = loaded(library, name)
    with operator_forms(TFLITE_FLOAT_FORMS):
        function = model.trace(LoopLowering(4), model.flat_inputs)
    content = convert_function(function)
    interpreter = Interpreter(model_content=content)
    found = []
    for x in examples:
        (entry,) = interpreter.get_input_details()
        interpreter.resize_tensor_input(entry["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry["index"], x)
        interpreter.invoke()
        (output,) = interpreter.get_output_details()
        found.append(interpreter.get_tensor(output["index"]).copy())
    agree(found, expected)


@pytest.mark.parametrize(
    "name", ["array_backwards", "array_that_grows", "array_that_grows_by_its_size"]
)
def test_elements_are_collected(name):
    """A list that is a carried tensor would be copied in every iteration."""
    model = Keras3Model(make_model(keras, name))
    graph = mark_recurrences(lambda lowering: model.trace(lowering, model.flat_inputs))
    assert [marker.collected for marker in graph.markers.values()] == [1]


@pytest.mark.parametrize("name", ["scan", "array_backwards", "array_that_grows_by_its_size"])
def test_a_fixed_number_of_iterations_is_unrolled(name):
    """In int8-full, whose files have no loops."""
    keras_model = make_model(keras, name, (5, FEATURES))
    model, lowering = Keras3Model(keras_model), IntegerLowering(frozenset())
    inputs = [replace(one, shape=(1, *one.shape[1:])) for one in model.flat_inputs]
    function = model.trace(lowering, inputs)
    assert [form.form for form in lowering.forms] == ["unrolled"]
    x = np.random.default_rng(3).normal(size=(1, 5, FEATURES)).astype(np.float32)
    agree(tf.nest.flatten(function(tf.constant(x))), [np.asarray(keras_model(x))])


def serialized(model):
    import onnx_ir as ir

    return ir.to_proto(model).SerializeToString()
