"""ONNX recipes: the operators in the file, and outputs that match the stored weights."""

import keras
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bilstm_exporter.quantization.affine import quantize_multiplier
from bilstm_exporter.quantization.recipes import Precision
from bilstm_exporter.targets.onnx import weights

from .conversions import (
    bilstm_tagger,
    constants,
    converted,
    id_classifier,
    operators,
    run_onnx,
    worst,
)

pytestmark = pytest.mark.slow

STORED = (Precision.FLOAT16, Precision.INT8, Precision.INT4)


@pytest.fixture(scope="module")
def tagger():
    return converted(bilstm_tagger(), "onnx")


@pytest.fixture(scope="module")
def classifiers():
    cells = {"LSTM": keras.layers.LSTM, "GRU": keras.layers.GRU, "RNN": keras.layers.SimpleRNN}
    return {name: converted(id_classifier(cell), "onnx") for name, cell in cells.items()}


def signals():
    x = np.random.default_rng(1).normal(0, 1, (3, 9, 12)).astype(np.float32)
    x[0, 5:] = 0
    x[1, 2:4] = 0
    return x


def ids():
    return np.array([[5, 89, 0, 7, 1, 0], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 88]], np.int32)


def float_with_stored_weights(content: bytes, precision: Precision) -> bytes:
    """The float32 file with every weight rounded as the recipe stores it.

    Written on its own: it knows of rows, blocks and steps, and nothing of the operators.
    """
    model = onnx.load_model_from_string(content)
    axes, biases = {}, set()
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            channel = weights._CHANNELS.get((node.op_type, index))
            if channel is not None:
                axes[name] = channel
            if index == 3 and node.op_type in {"LSTM", "GRU", "RNN"}:
                biases.add(name)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.name in biases:
            rounded = array.astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
        if tensor.name not in axes or array.dtype != np.float32 or array.size < 256:
            continue
        first = np.moveaxis(array, axes[tensor.name], 0)
        rows = first.reshape(len(first), -1).astype(np.float64)
        if precision is Precision.FLOAT16:
            rows = rows.astype(np.float16)
        elif precision is Precision.INT8:
            step = np.abs(rows).max(axis=1, keepdims=True) / 127
            step = step.astype(np.float16).astype(np.float64)
            rows = np.clip(np.rint(rows / step), -127, 127) * step
        else:
            stored = weights.store_rows(rows.astype(np.float32), precision)
            packed, scale = stored.constants
            nibbles = np.concatenate([packed & 15, packed >> 4], axis=2).astype(np.float64) - 8
            rows = (nibbles * scale).reshape(len(rows), -1)[:, : stored.columns]
        rounded = np.moveaxis(rows.reshape(first.shape), 0, axes[tensor.name])
        tensor.CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(rounded, np.float32), tensor.name)
        )
    return model.SerializeToString()


@pytest.mark.parametrize("precision", STORED)
@pytest.mark.parametrize("cell", ["GRU", "RNN"])
def test_weights_only_stored_give_the_outputs_of_rounded_weights(classifiers, cell, precision):
    conversion = classifiers[cell]
    wanted = float_with_stored_weights(conversion.content, precision)
    content = conversion.write(precision).content
    for x in (ids(), ids()[:1], ids()[:, :1]):
        assert worst(run_onnx(content, x), run_onnx(wanted, x)) <= 1


@pytest.mark.parametrize("precision", [Precision.FLOAT16, Precision.INT4])
def test_stored_lstm_weights_give_the_outputs_of_rounded_weights(tagger, precision):
    wanted = float_with_stored_weights(tagger.content, precision)
    content = tagger.write(precision).content
    for x in (signals(), signals()[1:2], signals()[:, :1]):
        assert worst(run_onnx(content, x), run_onnx(wanted, x)) <= 1


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT4])
def test_a_scale_wrong_by_a_tenth_is_detected(classifiers, precision, monkeypatch):
    conversion = classifiers["GRU"]
    wanted = float_with_stored_weights(conversion.content, precision)
    store = weights.store_rows

    def wrong(weight, precision):
        stored = store(weight, precision)
        values, scale = stored.constants
        return weights.StoredWeight(
            precision, (values, (scale * 1.1).astype(scale.dtype)), stored.columns
        )

    monkeypatch.setattr(weights, "store_rows", wrong)
    content = conversion.write(precision).content
    assert worst(run_onnx(content, ids()), run_onnx(wanted, ids())) > 10


def test_an_int8_lstm_computes_in_integers(tagger):
    built = tagger.write(Precision.INT8)
    found = operators(built.content)
    assert found.count("DynamicQuantizeLSTM") == 2
    assert "LSTM" not in found
    dynamic = {form.operator: form.dynamic for form in built.weights}
    assert dynamic == {"LSTM": True, "MatMul": False}
    kernels = [a for a in constants(built.content).values() if a.dtype == np.int8 and a.ndim == 3]
    assert sorted(a.shape for a in kernels) == [(1, 12, 96), (1, 12, 96), (1, 24, 96), (1, 24, 96)]


def test_an_int8_lstm_stays_within_a_few_steps_of_its_activations(tagger):
    """A step of an activation is its range over 255; four of those are a bug, not rounding."""
    exact = run_onnx(tagger.content, signals())[0]
    found = run_onnx(tagger.write(Precision.INT8).content, signals())[0]
    spread = exact.max() - exact.min()
    assert 0 < np.abs(found - exact).max() <= 4 * spread / 255


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_an_int8_scale_wrong_by_a_tenth_is_beyond_that(tagger, factor, monkeypatch):
    exact = run_onnx(tagger.content, signals())[0]

    def wrong(weight, **how):
        right = quantize_multiplier(weight, **how)
        return type(right)(right.values, np.float32(factor) * right.scale, 8)

    monkeypatch.setattr(weights, "quantize_multiplier", wrong)
    found = run_onnx(tagger.write(Precision.INT8).content, signals())[0]
    spread = exact.max() - exact.min()
    assert np.abs(found - exact).max() > 4 * spread / 255


def test_a_large_product_computes_in_integers():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((None, 130)), keras.layers.LSTM(16), keras.layers.Dense(1100)]
    )
    conversion = converted(model, "onnx")
    built = conversion.write(Precision.INT8)
    assert "DynamicQuantizeMatMul" in operators(built.content)
    x = np.random.default_rng(0).normal(0, 1, (2, 5, 130)).astype(np.float32)
    exact = run_onnx(conversion.content, x)[0]
    assert np.abs(run_onnx(built.content, x)[0] - exact).max() <= 4 * np.ptp(exact) / 255


@pytest.mark.parametrize("precision", STORED)
def test_lookup_stays_a_lookup(classifiers, precision):
    """Nothing of the table's size is ever computed: rows are taken first, then restored."""
    model = onnx.load_model_from_string(classifiers["LSTM"].write(precision).content)
    tables = {t.name for t in model.graph.initializer if t.dims and t.dims[0] == 90}
    readers = {node.op_type for node in model.graph.node if tables & set(node.input)}
    assert tables
    assert readers == {"Gather"}
    assert not any(list(t.dims) == [90, 33] and t.data_type == 1 for t in model.graph.initializer)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT4])
def test_a_weight_that_integers_cannot_hold_is_stored_in_more_bits(precision):
    model = bilstm_tagger()
    kernel = model.get_layer("out").kernel
    values = np.asarray(kernel).copy()
    values[0] = 100.0  # of every channel: beside it, all others would be zeros
    kernel.assign(values)
    conversion = converted(model, "onnx")
    built = conversion.write(precision)
    form = next(form for form in built.weights if form.layer == "out")
    assert form.storage == "float16"
    assert "to zero" in form.reason
    others = {form.storage for form in built.weights if form.layer != "out"}
    assert others == {precision.label}


@pytest.mark.parametrize("precision", STORED)
def test_a_weight_of_zeros_and_an_outlier_give_numbers(precision):
    model = id_classifier()
    kernel = model.get_layer("recurrence").forward_layer.cell.kernel
    kernel.assign(np.zeros(kernel.shape))
    table = model.get_layer("table").embeddings
    values = np.asarray(table).copy()
    values[7, 3] = 1e4
    table.assign(values)
    conversion = converted(model, "onnx")
    exact = run_onnx(conversion.content, ids())[0]
    found = run_onnx(conversion.write(precision).content, ids())[0]
    assert np.isfinite(found).all()
    # The row with the outlier occurs in the first example only.
    np.testing.assert_allclose(found[1:], exact[1:], atol=0.15)


def test_weights_beyond_float16_stay_float32_with_a_reason():
    model = id_classifier()
    kernel = model.get_layer("out").kernel
    values = np.asarray(kernel).copy()
    values[0, 0] = 1e5
    kernel.assign(values)
    built = converted(model, "onnx").write(Precision.FLOAT16)
    left = [form for form in built.weights if form.storage == "float32"]
    assert [form.layer for form in left] == ["out"]
    assert "float16" in left[0].reason


def test_a_layer_keeps_its_own_precision(classifiers):
    built = classifiers["GRU"].write(Precision.INT4, table=Precision.INT8, out=Precision.FLOAT32)
    storage = {form.layer: form.storage for form in built.weights}
    assert storage == {
        "table": "int8",
        "forward_gru": "int4",
        "backward_gru": "int4",
        "out": "float32",
    }
    reasons = {form.layer: form.reason for form in classifiers["GRU"].write(Precision.INT8).weights}
    assert "no quantized GRU" in reasons["forward_gru"]


def test_float32_changes_nothing(tagger):
    assert tagger.write(Precision.FLOAT32).content == tagger.content


@pytest.mark.parametrize("precision", STORED)
def test_the_same_model_gives_the_same_bytes(precision):
    first, second = (converted(bilstm_tagger(), "onnx").write(precision) for _ in range(2))
    assert first.content == second.content


def test_sizes():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(4000, 64),
            keras.layers.Bidirectional(keras.layers.LSTM(128)),
            keras.layers.Dense(10),
        ]
    )
    conversion = converted(model, "onnx")
    size = {p: len(conversion.write(p).content) for p in (*STORED, Precision.FLOAT32)}
    assert size[Precision.FLOAT32] > 1 << 20
    assert size[Precision.FLOAT32] / size[Precision.INT8] >= 3.8
    assert size[Precision.FLOAT32] / size[Precision.INT4] >= 6.5
    assert size[Precision.FLOAT32] / size[Precision.FLOAT16] >= 1.95
