"""Operators in the forms of the front ends and of TFLite: the values of the operators themselves.

Every form is traced on the edges of its arguments, run by TensorFlow, and compared with the
original operator. The formats' own converters get one function for each kind of form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import ops

from bilstm_exporter.errors import UnsupportedOperatorError
from bilstm_exporter.frontends.keras2 import operators as keras2
from bilstm_exporter.frontends.keras3 import operators as keras3
from bilstm_exporter.ir.operator_forms import operator_forms
from bilstm_exporter.targets.onnx.cleanup import clean
from bilstm_exporter.targets.onnx.tf_conversion import to_onnx
from bilstm_exporter.targets.tflite.converter import convert_function
from bilstm_exporter.targets.tflite.operator_forms import TFLITE_FORMS, trace_and_convert
from bilstm_exporter.targets.tflite.operators import list_operators

FREE = (None, None, 4)
SHAPES = ((2, 3), (1, 1), (3, 5))
GENERATIONS = {
    "keras3": keras3.convertible_operators,
    "keras2": lambda: keras2.convertible_operators(None),
}
Function = Callable[..., Any]


def values(shape, dtype):
    """Values of both signs, zeros, and halves."""
    numbers = np.random.default_rng(len(shape)).integers(-7, 8, shape)
    if dtype == "bool":
        return numbers > 0
    if dtype == "uint8":
        return np.abs(numbers).astype(dtype)
    return (numbers / 2 if np.dtype(dtype).kind == "f" else numbers).astype(dtype)


def traced(call, dtype, shape, *, forms, generation="keras3"):
    def flat(tensor):
        results = tf.nest.flatten(call(tensor))
        return {f"output_{i:02}": tf.identity(result) for i, result in enumerate(results)}

    with operator_forms(forms), GENERATIONS[generation]():
        signature = tf.TensorSpec(shape, dtype, name="x")
        return tf.function(flat, autograph=False).get_concrete_function(signature)


def types_in(function):
    """The types of every operator, also in loops and branches."""
    definition = function.graph.as_graph_def()
    inner = [node.op for body in definition.library.function for node in body.node_def]
    return {node.op for node in definition.node} | set(inner)


def assert_equal(found, wanted):
    found = [found[name] for name in sorted(found)]
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        one, other = np.asarray(one), np.asarray(other)  # noqa: PLW2901
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        if one.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=2e-6, atol=2e-6)
        else:
            np.testing.assert_array_equal(one, other)


def originals(call, array):
    return [tensor.numpy() for tensor in tf.nest.flatten(call(tf.constant(array)))]


# --- the indices of a slice

INDICES: dict[str, Any] = {
    "new": np.s_[None],
    "new twice": np.s_[None, None],
    "new last": np.s_[..., None],
    "only an ellipsis": np.s_[...],
    "whole": np.s_[:],
    "between": np.s_[:, None],
    "new and whole": np.s_[:, None, :, None],
    "everywhere": np.s_[None, :, None, :, None],
    "new after an ellipsis": np.s_[None, ..., None],
    "an ellipsis of no axis": np.s_[:, ..., :, None],
    "an integer": np.s_[0, None],
    "new before an integer": np.s_[None, 0],
    "integers": np.s_[0, -1, None],
    "the last": np.s_[..., -1, None],
    "a negative stride": np.s_[None, ::-1],
    "strides": np.s_[::2, None, 1::2],
    "bounds": np.s_[None, :1, None, -2:],
    "an empty range": np.s_[:0, None],
    "all at once": np.s_[:, None, ..., -1, None],
}


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (None, 3), (None, None, 4)])
@pytest.mark.slow
def test_a_new_axis(generation, shape):
    array = values([size or 3 for size in shape], "float32")
    tried = 0
    for name, index in INDICES.items():
        try:
            wanted = array[index]
        except IndexError:  # more indices than axes
            continue
        function = traced(
            lambda x, index=index: x[index], "float32", shape, forms={}, generation=generation
        )
        assert_equal(function(tf.constant(array)), [wanted])
        assert not [
            node
            for node in function.graph.get_operations()
            if node.type == "StridedSlice" and node.get_attr("new_axis_mask")
        ], name
        tried += 1
    assert tried >= 5


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("dtype", ["bool", "int32", "int64", "float16", "float64", "string"])
def test_a_new_axis_of_every_dtype(generation, dtype):
    def call(_):
        return weights[None, None], weights[..., tf.newaxis], weights[None, 1:]

    weights = tf.constant([["a"]] * 3) if dtype == "string" else tf.constant(values((3, 2), dtype))
    function = traced(call, "float32", (), forms={}, generation=generation)
    for found, wanted in zip(function(tf.constant(0.0)).values(), call(None), strict=True):
        np.testing.assert_array_equal(found.numpy(), wanted.numpy())


def test_a_new_axis_beside_bounds_that_are_computed():
    def call(x):
        count = tf.shape(x)[1]
        return x[:, None, : count - 1], x[None, :, count - 1, None], x[:, tf.newaxis, count // 2 :]

    function = traced(call, "float32", FREE, forms={})
    array = values((2, 5, 4), "float32")
    assert_equal(function(tf.constant(array)), originals(call, array))


def test_a_slice_by_the_operator_itself():
    def call(x):
        begin = [0, 0, 1]
        return tf.strided_slice(x, begin, [0, 0, 3], [1, 1, 1], new_axis_mask=1, end_mask=2), (
            tf.raw_ops.StridedSlice(
                input=x, begin=[0], end=[0], strides=[1], new_axis_mask=1, ellipsis_mask=0
            )
        )

    array = values((2, 3, 4), "float32")
    assert_equal(
        traced(call, "float32", FREE, forms={})(tf.constant(array)), originals(call, array)
    )


# --- every other form, by the operator it replaces

W = np.arange(12, dtype=np.float32).reshape(4, 3) / 4 - 1
SQUARE = np.arange(16, dtype=np.float32).reshape(4, 4) / 4 - 1


def _sorted_segments_of(name):
    function = getattr(tf.math, f"segment_{name}")
    return lambda x: function(x[0], 2 * (tf.range(tf.shape(x)[1]) // 2))


def stitched(x):
    """Some rows are doubled, as where experts share the rows."""
    rows = tf.reshape(x, [-1, 4])
    part = tf.cast(rows[:, 0] > 0, tf.int32)
    one, other = tf.dynamic_partition(rows, part, 2)
    places = tf.dynamic_partition(tf.range(tf.shape(rows)[0]), part, 2)
    return tf.dynamic_stitch(places, [one, other * 2])


def greedy_ctc(x):
    """Of rows of other lengths, with the first or the last class as blank."""
    x = tf.concat([x[:, :1] * 0 + [0.0, 9.0, 0.0, 0.0], x], 1)  # LiteRT returns nothing empty
    steps, lengths = tf.transpose(x, [1, 0, 2]), tf.range(tf.shape(x)[0]) % tf.shape(x)[1] + 1
    results = []
    for merge, blank in ((True, None), (False, 0)):
        (found,), scores = tf.nn.ctc_greedy_decoder(steps, lengths, merge, blank)
        results += [tf.sparse.to_dense(found, -1), found.dense_shape, scores]
    return results


def extremes(x):
    """Of updates that share a place, of slices and of infinities."""
    places = tf.stack([tf.range(tf.shape(x)[0]), tf.zeros([tf.shape(x)[0]], tf.int32)], 1)
    low = tf.math.log(tf.nn.relu(x))
    wide = tf.tensor_scatter_nd_max(low, [[0], [0]], tf.zeros([2, tf.shape(x)[1], 4]))
    return [
        scatter(x, places, tf.ones([tf.shape(x)[0], 4]))
        for scatter in (tf.tensor_scatter_nd_max, tf.tensor_scatter_nd_min)
    ] + [wide, tf.tensor_scatter_nd_min(x[0, 0], [[1], [1], [3]], [9.0, 0.0, -9.0])]


def ragged(x):
    """Rows of any length, also of none."""
    lengths = tf.reduce_sum(tf.cast(x[:, :, 0] > 0, tf.int32), 1)
    return tf.RaggedTensor.from_tensor(x, lengths=lengths)


def _segments_of(name):
    function = getattr(tf.math, f"unsorted_segment_{name}")
    return lambda x: (
        function(x, tf.cast(x[..., 0] > 0, tf.int32), 2),
        function(x, tf.cast(x[..., 0] > 0, tf.int32) - 1, tf.constant(3)),
        function(x, tf.cast(x > 0, tf.int64), 2),
        function(x[0, :, 0], tf.range(tf.shape(x)[1]) // 2, 4),
    )


CASES: dict[str, list[tuple[Function, str]]] = {
    "AddN": [(lambda x: tf.add_n([x, x, x]), "int32"), (lambda x: tf.add_n([x]), "int64")],
    "Einsum": [
        (lambda x: tf.einsum("...i,ij->...j", x, W), "float32"),
        (lambda x: tf.einsum("...i, ...i -> ...", x, x), "float32"),
        (lambda x: tf.einsum("bti,btj->btij", x, x), "float32"),
        (lambda x: tf.einsum("bti,bti->b", x, x), "float32"),
        (lambda x: tf.einsum("bti,bti->", x, x), "float32"),
        (lambda x: tf.einsum("bti,bti->bti", x, x), "float32"),
        (lambda x: tf.einsum("bti,bi->bt", x, x[:, 0]), "float32"),
        (lambda x: tf.einsum("bti,bi->tb", x, x[:, 0]), "float32"),
        (lambda x: tf.einsum("bi,bti->bt", x[:, 0], x), "float32"),
        (lambda x: tf.einsum("bti,t->ib", x, x[0, :, 0]), "float32"),
        (lambda x: tf.einsum("bti,ij,btj->bt", x, SQUARE, x), "float32"),
        (lambda x: tf.einsum("bti,ij,btj,btk->bk", x, SQUARE, x, x), "float32"),
        (lambda x: tf.einsum("bti,sj->bs", x, x[0]), "float32"),
        (lambda x: tf.einsum("bt,bti->bi", x[..., 0], x), "float32"),
        (lambda x: tf.einsum("i,bti->tb", x[0, 0], x), "float32"),
        (lambda x: tf.einsum("bti->ib", x), "float32"),
        (lambda x: tf.einsum("bti->", x), "float32"),
        (lambda x: tf.einsum("bti->itb", x), "float32"),
        (lambda x: tf.einsum("ii->i", SQUARE + x[0, 0]), "float32"),
        (lambda x: tf.einsum("bii->b", tf.matmul(x, x, transpose_a=True)), "float32"),
        (lambda x: tf.einsum("ibi,i->b", SQUARE[:, None] + x[0, 0], x[0, 0]), "float32"),
        (lambda x: tf.einsum("bti,btj->bij", x, x), "int32"),
        (lambda x: ops.einsum("bti,btj->btij", x, x), "float32"),
    ],
    "EuclideanNorm": [
        (lambda x: tf.math.reduce_euclidean_norm(x, 1), "float32"),
        (lambda x: tf.math.reduce_euclidean_norm(x, [-1, 0], keepdims=True), "float32"),
        (tf.math.reduce_euclidean_norm, "float32"),
    ],
    "L2Loss": [(tf.nn.l2_loss, "float32")],
    "Cross": [(lambda x: tf.linalg.cross(x[..., :3], x[..., 1:]), "float32")],
    "SegmentMean": [
        (lambda x: tf.math.segment_mean(x[0], tf.range(tf.shape(x)[1]) // 2), "float32"),
        (lambda x: tf.math.segment_mean(x[0, :, 0], tf.range(tf.shape(x)[1]) * 2), "float32"),
    ],
    **{
        f"Segment{name}": [(_sorted_segments_of(name.lower()), "float32")]
        for name in ("Max", "Min", "Sum")
    },
    "RaggedTensorToTensor": [
        (lambda x: ragged(x).to_tensor(), "float32"),
        (lambda x: ragged(x).to_tensor(-1), "int32"),
        (lambda x: ragged(x).to_tensor(2.0, shape=[None, 2, None]), "float32"),
        (lambda x: ragged(x).to_tensor(shape=[5, tf.shape(x)[1], 4]), "float32"),
        (lambda x: ragged(x)[..., 1].to_tensor(shape=[1, None]), "float32"),
    ],
    "BroadcastArgs": [
        (lambda x: tf.broadcast_dynamic_shape(tf.shape(x), [5, 1, 1, 4]), "float32"),
        (lambda x: tf.linspace(x[:, 0, 0], x[:, 0, 1], 4), "float32"),
    ],
    "MatrixDiagV3": [
        (tf.linalg.diag, "float32"),
        (lambda x: tf.linalg.diag(x, k=2), "float32"),
        (lambda x: tf.linalg.diag(x, k=-1, padding_value=2.0), "float32"),
        (lambda x: tf.linalg.diag(x[0, 0]), "int32"),
        (tf.linalg.diag, "bool"),
        (lambda x: tf.eye(3, batch_shape=[tf.shape(x)[0]]), "float32"),
    ],
    "MatrixDiagPartV3": [
        (tf.linalg.diag_part, "float32"),
        (lambda x: tf.linalg.diag_part(x, k=1), "float32"),
        (lambda x: tf.linalg.trace(tf.matmul(x, x, transpose_a=True)), "float32"),
        (lambda x: tf.linalg.diag_part(tf.matmul(x, x, transpose_a=True), k=-2), "int32"),
    ],
    "MatrixSetDiagV3": [
        (lambda x: tf.linalg.set_diag(tf.matmul(x, x, transpose_a=True), x[:, 0]), "float32"),
        (lambda x: tf.linalg.set_diag(tf.zeros([2, 4, 3]), tf.ones([2, 3])), "float32"),
        (lambda x: tf.linalg.set_diag(tf.zeros([3, 4]), tf.ones([3])), "float32"),
    ],
    "TruncateMod": [
        (lambda x: tf.truncatemod(x, 3), "int32"),
        (lambda x: tf.truncatemod(x, -3), "int64"),
        (lambda x: tf.raw_ops.TruncateMod(x=x, y=1.5), "float32"),
    ],
    "Mod": [(lambda x: tf.raw_ops.Mod(x=x, y=1.5), "float32")],
    "MulNoNan": [(lambda x: tf.math.multiply_no_nan(1 / x, tf.nn.relu(x)), "float32")],
    "Xdivy": [(lambda x: tf.math.xdivy(tf.nn.relu(x), tf.nn.relu(x)), "float32")],
    "Xlogy": [(lambda x: tf.math.xlogy(tf.nn.relu(x), tf.nn.relu(x)), "float32")],
    "Xlog1py": [(lambda x: tf.math.xlog1py(tf.nn.relu(x), tf.nn.relu(x) - 1), "float32")],
    "LowerBound": [
        (lambda x: tf.searchsorted(np.float32([-1, 0, 0, 1]), tf.reshape(x, [-1])), "float32"),
        (
            lambda x: tf.searchsorted(tf.sort(x, -1), x, out_type=tf.int64),
            "int32",
        ),
    ],
    "UpperBound": [
        (lambda x: tf.searchsorted(tf.sort(x, -1), x, side="right"), "float32"),
        (lambda x: tf.searchsorted([0, 1], x[0, 0], side="right"), "int32"),
    ],
    **{
        f"UnsortedSegment{name}": [(_segments_of(name.lower()), "float32")]
        for name in ("Max", "Min", "Prod", "Sum")
    },
    "ShapeN": [(lambda x: tf.shape_n([x, x[0]]), "float32")],
    "Roll": [
        (lambda x: tf.roll(x, 1, 1), "float32"),
        (lambda x: tf.roll(x, -7, -1), "int32"),
        (lambda x: tf.roll(x, [1, 2, 3], [1, 2, 1]), "bool"),
        (lambda x: tf.roll(x, tf.shape(x)[0], 1), "float32"),
        (lambda x: tf.roll(x[:, :0], 1, 1), "float32"),
        (lambda x: tf.roll(x, [], np.zeros([0], np.int32)), "float32"),
        (lambda x: ops.roll(x, 2), "float32"),
    ],
    "Cumprod": [
        (lambda x: tf.math.cumprod(x, 1), "float32"),
        (lambda x: tf.math.cumprod(x, -1, reverse=True), "int32"),
        (lambda x: tf.math.cumprod(x, 1, exclusive=True), "int64"),
        (lambda x: tf.math.cumprod(x, 1, exclusive=True, reverse=True), "float32"),
        (lambda x: tf.math.cumprod(x[:, :0], 1, exclusive=True), "float32"),
        (ops.cumprod, "float32"),
    ],
    "CumulativeLogsumexp": [
        (lambda x: tf.math.cumulative_logsumexp(x, 1), "float32"),
        (lambda x: tf.math.cumulative_logsumexp(x * 40, -1, reverse=True), "float32"),
        (lambda x: tf.math.cumulative_logsumexp(x, 1, exclusive=True)[:, 1:], "float32"),
    ],
    "CTCGreedyDecoder": [(greedy_ctc, "float32")],
    "DenseBincount": [
        (lambda x: tf.math.bincount(tf.abs(x[0, 0]), maxlength=5), "int32"),
        (lambda x: tf.math.bincount(tf.abs(x[0]), minlength=9, axis=-1), "int32"),
        (lambda x: tf.math.bincount(tf.abs(x[0]), x[0], dtype=tf.float32, axis=-1), "int32"),
        (lambda x: tf.math.bincount(tf.abs(x[0]), binary_output=True, axis=-1), "int64"),
    ],
    "InTopKV2": [
        (
            lambda x, k=k, shift=shift: tf.math.in_top_k(
                tf.range(tf.shape(x)[1]) - 1, x[0] / shift, k
            ),
            "float32",
        )
        for k, shift in ((1, 1.0), (3, 1.0), (4, 0.0))
    ],
    "TensorScatterMax": [(extremes, "float32")],
    "TensorScatterMin": [(extremes, "float32")],
    "Erf": [(tf.math.erf, "float32"), (lambda x: tf.math.erf(x / 8), "float32")],
    "Erfc": [(tf.math.erfc, "float32")],
    "Atan": [(tf.atan, "float32")],
    "Asin": [(lambda x: tf.asin(x / 2), "float32")],  # NaN outside [-1, 1]
    "Acos": [(lambda x: tf.acos(x / 2), "float32")],
    "Tan": [(tf.tan, "float32")],
    "Sinh": [(tf.sinh, "float32")],
    "Cosh": [(tf.cosh, "float32")],
    "Asinh": [(tf.asinh, "float32"), (lambda x: tf.asinh(x * 1e30), "float32")],
    "Acosh": [(tf.acosh, "float32"), (lambda x: tf.acosh(tf.abs(x) * 1e30 + 1), "float32")],
    "Atanh": [(lambda x: tf.atanh(x / 4), "float32")],
    "TensorScatterSub": [
        (lambda x: tf.tensor_scatter_nd_sub(x, [[0, 0], [0, 0]], tf.ones([2, 4])), "float32")
    ],
    "FloorDiv": [
        (lambda x: x // 3, "int64"),
        (lambda x: (x * 10**15 + 7) // -86_400_000, "int64"),
        (lambda x: 10**18 // (2 * tf.abs(x[:, :1]) + 1), "int64"),
    ],
    "TruncateDiv": [(lambda x: tf.truncatediv(x * 10**12, -7), "int64")],
    "Pow": [(lambda x: x**0, "int64"), (lambda x: x**3, "int64")],
    "Abs": [(tf.abs, "int64")],
    "Sign": [(tf.sign, "int64")],
    "Unpack": [(lambda x: tf.unstack(x, axis=-1), "int64")],
    "Split": [(lambda x: tf.split(x, 2, -1), "int64"), (lambda x: tf.split(x, 1, 1), "int64")],
    "SplitV": [(lambda x: tf.split(x, [1, 3], 2), "int64")],
    "MatMul": [(lambda x: tf.matmul(x[0], x[0], transpose_b=True), "int32")],
    "BatchMatMulV2": [
        (lambda x: tf.matmul(x, x, transpose_a=True), "int64"),
        (lambda x: tf.matmul(x[:, None], x[None], transpose_b=True), "int32"),
    ],
}


@pytest.mark.parametrize("operator", CASES)
@pytest.mark.slow
def test_a_form_has_the_values_of_the_operator(operator):
    for call, dtype in CASES[operator]:
        function = traced(call, dtype, FREE, forms=TFLITE_FORMS)
        # These stay in the cases that every converter takes.
        kept = operator == "Einsum" or operator.startswith("UnsortedSegment")
        assert kept or operator not in types_in(function)
        for batch, time in SHAPES:
            array = values((batch, time, 4), dtype)
            try:
                wanted = originals(call, array)
            except tf.errors.InvalidArgumentError:  # the original refuses this shape
                continue
            assert_equal(function(tf.constant(array)), wanted)


# Operators that run in another dtype, with casts around them.
OTHER_DTYPES: list[tuple[str, Function, str]] = [
    ("MirrorPad", lambda x: tf.pad(x, [[0, 0], [0, 0], [2, 1]], "REFLECT"), "bool"),
    ("MirrorPad", lambda x: tf.pad(x, [[0, 0], [0, 0], [0, 2]], "SYMMETRIC"), "uint8"),
    ("ReverseSequence", lambda x: tf.reverse_sequence(x, [1] * 2, 1, 0), "bool"),
    ("Split", lambda x: tf.split(x, 2, -1), "bool"),
    ("Split", lambda x: ops.split(x, 4, -1), "float16"),
    ("SplitV", lambda x: tf.split(x, [1, 3], -1), "bool"),
    ("ReverseV2", lambda x: tf.reverse(x, [0, -1]), "int8"),
    ("Tile", lambda x: tf.tile(x, [1, 2, 1]), "int8"),
    ("ConcatV2", lambda x: tf.concat([x, x], -1), "float64"),
    ("Pack", lambda x: tf.stack([x, x], -1), "float16"),
    ("Sum", lambda x: tf.reduce_sum(x, [1, -1], keepdims=True), "float64"),
    ("Mean", lambda x: tf.reduce_mean(x, []), "float64"),
    ("Exp", tf.exp, "float64"),
    ("Pow", lambda x: x**2, "float64"),
    ("RealDiv", lambda x: x / 3, "int32"),
    ("RealDiv", lambda x: x / 3, "float64"),
    ("MatMul", lambda x: tf.matmul(x[0], SQUARE.astype(np.float64)), "float64"),
    ("Greater", lambda x: x > 1, "float64"),
    ("TopKV2", lambda x: tf.math.top_k(x, 2), "float64"),
    ("OneHot", lambda x: tf.one_hot(tf.range(3), 4, dtype=x.dtype), "float64"),
    ("PadV2", lambda x: tf.pad(x, [[0, 0], [1, 0], [0, 0]], constant_values=True), "bool"),
    ("PadV2", lambda x: tf.pad(x, [[0, 0], [1, 0], [0, 0]], constant_values=2), "int8"),
    ("SelectV2", lambda x: tf.where(x > 0, x, x[:, :1]), "uint8"),
    ("ArgMax", lambda x: tf.argmax(x, 1), "bool"),
    ("ArgMin", lambda x: tf.argmin(x, -1, output_type=tf.int32), "bool"),
]


@pytest.mark.parametrize(("operator", "call", "dtype"), OTHER_DTYPES)
def test_an_operator_in_another_dtype(operator, call, dtype):
    function = traced(call, dtype, FREE, forms=TFLITE_FORMS)
    found = [node for node in function.graph.get_operations() if node.type == operator]
    assert len(found) == 1
    assert not {tensor.dtype for tensor in found[0].inputs} & {tf.as_dtype(dtype)}
    array = values((2, 3, 4), dtype)
    assert_equal(function(tf.constant(array)), originals(call, array))


SELECTED: list[tuple[Function, str]] = [
    (lambda x: tf.where(x, x, tf.reverse(x, [1])), "bool"),
    (lambda x: tf.where(x[:, :1], x, False), "bool"),
    (lambda x: tf.where(x[:, :1] > 0, x, 0.0), "float32"),
    (lambda x: tf.transpose(x, [-3, -1, -2]), "float32"),
    (lambda x: tf.transpose(x, [0, -1, 1]), "bool"),
    (tf.transpose, "float32"),
    (lambda x: tf.argmax(x, 1), "int64"),
    (lambda x: tf.argmin(x, -1, output_type=tf.int32), "int64"),
    (lambda x: tf.argmax(tf.zeros_like(x), 1), "int64"),
    (tf.nn.l2_normalize, "float32"),
    (lambda x: tf.nn.l2_normalize(x, [1, 2]), "float32"),
    (lambda x: tf.nn.l2_normalize(x * 0, [0, -1], epsilon=1e-3), "float32"),
    (lambda x: ops.isin(x, [1, 2, 2]), "int32"),
    (lambda x: ops.isin(x, np.zeros([0], np.int32), invert=True), "int32"),
    (lambda x: ops.isin(x, [0.5], assume_unique=True), "float32"),
]


@pytest.mark.parametrize("number", range(len(SELECTED)))
def test_forms_that_keep_the_operator_in_other_cases(number):
    call, dtype = SELECTED[number]
    function = traced(call, dtype, FREE, forms=TFLITE_FORMS)
    for batch, time in SHAPES:
        array = values((batch, time, 4), dtype)
        assert_equal(function(tf.constant(array)), originals(call, array))


def test_a_form_is_used_in_loops_and_branches():
    def call(x):
        def step(number, steps):
            return number + 1, tf.cond(number > 0, lambda: tf.roll(steps, 1, 1), lambda: -steps)

        return tf.while_loop(lambda number, _: number < 3, step, [0, x])[1]

    function = traced(call, "float32", FREE, forms=TFLITE_FORMS)
    assert "Roll" not in types_in(function)
    array = values((2, 3, 4), "float32")
    assert_equal(function(tf.constant(array)), originals(call, array))


def test_python_numbers_and_arrays_as_inputs():
    def call(_):
        return (
            tf.raw_ops.Roll(input=np.arange(4), shift=1, axis=0),
            tf.math.floordiv(np.int64(-7), 2),
            tf.raw_ops.TruncateMod(x=-7.5, y=2.0),
            tf.pad([True], [[1, 1]], constant_values=False),
        )

    function = traced(call, "float32", (), forms=TFLITE_FORMS)
    assert_equal(function(tf.constant(0.0)), originals(call, 0.0))


# --- the converters


def run_onnx(function, arrays):
    model = to_onnx(function, 18)
    clean(model)
    content = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [session.run(None, {name: array}) for array in arrays]


def run_tflite(function, arrays):
    interpreter = Interpreter(model_content=convert_function(function), num_threads=1)
    (signature,) = interpreter.get_signature_list()
    run = interpreter.get_signature_runner(signature)
    found = [run(x=array) for array in arrays]
    return [[outputs[name] for name in sorted(outputs)] for outputs in found]


CONVERTED: dict[str, tuple[Function, str]] = {
    "ragged": (
        lambda x: (
            ragged(x).to_tensor(),
            ragged(x).row_lengths(),
            tf.reduce_sum(ragged(x), 1),
            tf.reduce_max(ragged(x), 1),
            tf.boolean_mask(x, x[:, :, 0] > 0),
            stitched(x),
            tf.math.segment_sum(x[0], tf.range(tf.shape(x)[1]) * 2),
            tf.math.segment_max(x[0], tf.range(tf.shape(x)[1]) // 2),
        ),
        "float32",
    ),
    "masks": (
        lambda x: (
            tf.split(x, 2, -1),
            tf.pad(x, [[0, 0], [0, 0], [1, 1]], "REFLECT"),
            tf.pad(x, [[0, 0], [1, 0], [0, 0]], constant_values=True),
            tf.roll(x, 1, 1),
            tf.where(x, x, tf.reverse(x, [2])),
            tf.where(x[:, :1], x, False),
            tf.argmax(x, 1),
            tf.reverse_sequence(x, tf.ones([tf.shape(x)[0]], tf.int32), 1, 0),
            tf.stack(tf.unstack(x, axis=2), 1),
            tf.tile(x[:, :1], [1, tf.shape(x)[1], 1]),
            tf.gather(x, [3, 0], axis=-1),
            tf.slice(x, [0, 0, 1], [tf.shape(x)[0], 1, 2]),
        ),
        "bool",
    ),
    "integers": (
        lambda x: (
            x // 3,
            x % -3,
            tf.math.floordiv(x, -2),
            tf.truncatemod(x, 3),
            tf.one_hot(x, 4),
            tf.one_hot(x, 3, on_value=5, off_value=-1, axis=1),
            tf.one_hot(x, 3, on_value=True, off_value=False),
            tf.add_n([x, x]),
            tf.cast(x / 3, tf.float32),
            tf.matmul(x, x, transpose_b=True),
            tf.raw_ops.Bucketize(input=x, boundaries=[-1.0, 0.0, 2.0]),
            ops.isin(x, [1, 2]),
        ),
        "int32",
    ),
    "integers of 64 bits": (
        lambda x: (
            (x * 10**15 + 7) // 86_400_000,
            x % 5,
            tf.abs(x),
            tf.sign(x),
            x**2,
            tf.argmax(x, 1),
            tf.argmin(x, -1),
            tf.truncatediv(x, 3),
            tf.stack(tf.unstack(x, axis=2), 1),
            tf.split(x, [1, 3], -1),
        ),
        "int64",
    ),
    "functions": (
        lambda x: (
            tf.math.erf(x),
            tf.math.log1p(tf.abs(x)),
            tf.math.expm1(x),
            tf.math.xlogy(tf.nn.relu(x), tf.nn.relu(x)),
            tf.asinh(x),
            tf.sinh(x),
            tf.atan(x),
            tf.nn.l2_normalize(x, [1, 2]),
            tf.math.cumprod(x, 1),
            tf.math.cumprod(x, -1, exclusive=True, reverse=True),
            tf.searchsorted([-1.0, 0.0, 1.0], tf.reshape(x, [-1])),
            tf.raw_ops.Mod(x=x, y=1.5),
            tf.math.cumulative_logsumexp(x, 1),
            tf.math.in_top_k(tf.range(tf.shape(x)[1]) - 1, x[0], 2),
        ),
        "float32",
    ),
    "not finite": (
        lambda x: (
            tf.math.is_inf(1 / x),
            tf.math.is_nan(x / x),
            tf.math.is_finite(1 / x),
            ops.nan_to_num(x / tf.nn.relu(x)),
        ),
        "float32",
    ),
    "shapes": (
        lambda x: (
            x[None, :, None, ..., None],
            x[:, -1, None],
            tf.transpose(x, [-3, -1, -2]),
            tf.einsum("...i,ij->...j", x, W),
            tf.einsum("bti,btj->btij", x, x),
            tf.einsum("bti,bti->b", x, x),
            tf.einsum("bti,ij,btj->bt", x, SQUARE, x),
            tf.einsum("bt,bti->bi", x[..., 0], x),
            tf.einsum("i,bti->bt", W[:, 0], x),
            tf.einsum("bti->ib", x),
            tf.einsum("bti->", x),
            tf.einsum("bii->b", tf.matmul(x, x, transpose_a=True)),
            tf.math.unsorted_segment_sum(x, tf.cast(x[..., 0] > 0, tf.int32), 2),
            tf.linalg.diag(x),
            tf.linalg.diag_part(tf.matmul(x, x, transpose_a=True)),
            tf.eye(3, batch_shape=[tf.shape(x)[0]]),
            tf.linspace(x[:, 0, 0], x[:, 0, 1], 4),
            tf.scatter_nd([[0], [2], [0]], x[0, :1] + tf.zeros([3, 4]), [5, 4]),
            tf.nn.conv1d(x, np.ones([3, 4, 8], np.float32), 1, "SAME", dilations=2),
            tf.squeeze(tf.nn.softmax(x[..., :1], 1), -1),
            tf.gather(x, tf.range(tf.shape(x)[1] - 1, -1, -1), axis=1),
            tf.sort(x, 1)[:, tf.shape(x)[1] // 2],
            tf.image.extract_patches(x[..., None], [1, 2, 4, 1], [1] * 4, [1] * 4, "SAME"),
            tf.image.extract_patches(
                tf.cast(x, tf.int32)[:, :, None], [1, 1, 1, 1], [1, 1, 2, 1], [1] * 4, "VALID"
            ),
            *extremes(x),
            *greedy_ctc(x),
            tf.math.bincount(tf.cast(x > 0, tf.int32)[0], minlength=2, axis=-1),
            tf.squeeze(2.0 * tf.transpose(tf.nn.softmax(x[..., :1], 1), [2, 1, 0]), 0),
        ),
        "float32",
    ),
    "updates and constants": (
        lambda x: (
            ops.slice_update(x, (0, 0, 1), ops.zeros((1, 1, 2))),
            ops.slice_update(x, (0, tf.shape(x)[1] - 1, 9), ops.ones((1, 1, 4))),
            ops.slice_update(x > 0, (0, 0, 0), ops.ones((1, 1, 4), "bool")),
            ops.slice_update(ops.cast(x, "int32"), (5, 0, 0), ops.ones((1, 1, 4), "int32")),
            tf.linspace(0.0, 1.0, 5),
            tf.eye(3),
        ),
        "float32",
    ),
    "double precision": (
        lambda x: (
            tf.cast(tf.reduce_mean(tf.cast(x, tf.float64) ** 2, 1), tf.float32),
            tf.cast(tf.exp(tf.cast(x, tf.float64))[:, None], tf.float32),
            tf.cast(tf.cast(x, tf.float16) * tf.cast(x, tf.float16), tf.float32),
        ),
        "float32",
    ),
}


@pytest.mark.parametrize("name", CONVERTED)
@pytest.mark.parametrize(("run", "forms"), [(run_onnx, {}), (run_tflite, TFLITE_FORMS)])
@pytest.mark.slow
def test_a_format_has_the_values_of_the_operator(name, run, forms):
    call, dtype = CONVERTED[name]
    function = traced(call, dtype, FREE, forms=forms)
    arrays = [values((*shape, 4), dtype) for shape in SHAPES]
    for found, array in zip(run(function, arrays), arrays, strict=True):
        wanted = originals(call, array)
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


# --- rows of -inf


class PaddedScores(keras.layers.Layer):
    """Attention of a user's own: scores of padding are -inf, and a text may be all padding."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def call(self, x):
        mask, scores = x[..., 0] > 0, x[..., 1]
        if self.kind == "log of the mask":
            scores += tf.math.log(tf.cast(mask, tf.float32))
        else:
            scores = tf.where(mask, scores, tf.fill(tf.shape(scores), -np.inf))
        return tf.nn.softmax(scores)


@pytest.mark.parametrize("kind", ["constant", "log of the mask"])
def test_a_softmax_of_minus_infinity_is_not_a_number(kind):
    layer = PaddedScores(kind)
    x = np.random.default_rng(1).normal(size=(3, 5, 2)).astype(np.float32)
    x[0, :, 0] = -1  # a row of padding
    function = traced(layer.call, "float32", (None, None, 2), forms=TFLITE_FORMS)
    ((found,),) = run_tflite(function, [x])
    expected = layer.call(tf.constant(x)).numpy()
    assert np.isnan(expected[0]).all()
    np.testing.assert_allclose(found, expected, 1e-6, 1e-6)


def test_another_softmax_stays_one_operator():
    function = traced(lambda x: tf.nn.softmax(x * 2), "float32", (None, 3), forms=TFLITE_FORMS)
    assert "Softmax" in types_in(function)


def test_a_gelu_stays_one_operator_unless_something_else_reads_its_half():
    def types(call):
        signature = tf.TensorSpec((None, None, 4), "float32", name="x")

        def trace():
            return tf.function(call, autograph=False).get_concrete_function(signature), None

        _, _, content = trace_and_convert(trace, TFLITE_FORMS)
        return {use.operator for use in list_operators(content)}

    assert "GELU" in types(tf.nn.gelu)
    assert "GELU" not in types(lambda x: tf.nn.gelu(x) + 0.5 * x)


# --- refusals


def test_a_dtype_that_onnx_lacks_is_named_with_its_operator():
    float8 = tf.dtypes.experimental.float8_e4m3fn
    function = traced(lambda x: tf.cast(tf.cast(x, float8), tf.float32), "float32", FREE, forms={})
    with pytest.raises(UnsupportedOperatorError, match="Cast to float8_e4m3fn"):
        to_onnx(function, 18)
