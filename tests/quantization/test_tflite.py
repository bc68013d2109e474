"""TFLite recipes: the operators in the file, and outputs that match the stored weights."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils

from bilstm_exporter.quantization.recipes import Precision
from bilstm_exporter.targets.tflite import weight_storage, weights
from bilstm_exporter.targets.tflite.tiling import STEPS_PER_ITERATION

from .conversions import bilstm_tagger, converted, id_classifier, worst
from .tflite_files import integers, readers, run_tflite, with_rounded_weights

pytestmark = pytest.mark.slow

STORED = (Precision.FLOAT16, Precision.INT8, Precision.INT4)
INTEGERS = (Precision.INT8, Precision.INT4)
CELLS = ("LSTM", "GRU", "SimpleRNN")
UNITS = 26  # more than 24, so that recurrent kernels too are worth int4


@pytest.fixture(scope="module")
def tagger():
    return converted(bilstm_tagger(), "tflite")


@pytest.fixture(scope="module")
def classifiers():
    return {
        name: converted(id_classifier(getattr(keras.layers, name), 34, UNITS), "tflite")
        for name in CELLS
    }


def signals(batch=3, time=9):
    x = np.random.default_rng(1).normal(0, 1, (batch, time, 12)).astype(np.float32)
    x[0, time // 2 :] = 0
    return x


def ids():
    return np.array([[5, 89, 0, 7, 1, 0], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 88]], np.int32)


def spread_error(found, wanted):
    """The largest error relative to the range of the outputs."""
    return max(float(np.abs(a - b).max() / np.ptp(b)) for a, b in zip(found, wanted, strict=True))


def test_float16_gives_the_outputs_of_rounded_weights(tagger, classifiers):
    for model, inputs in (
        (tagger, (signals(), signals(1, 1), signals(2, 23))),
        *((item, (ids(), ids()[:1])) for item in classifiers.values()),
    ):
        rounded = with_rounded_weights(model.converter_output, Precision.FLOAT16, model.loaded)
        content = model.write(Precision.FLOAT16).content
        for x in inputs:
            assert worst(run_tflite(content, x), run_tflite(rounded, x)) <= 1


@pytest.mark.parametrize("precision", INTEGERS)
@pytest.mark.parametrize("cell", CELLS)
def test_integers_stay_within_a_few_steps_of_rounded_weights(classifiers, cell, precision):
    """A step of an activation is its range over 255; some of those add up, no more."""
    model = classifiers[cell]
    rounded = with_rounded_weights(model.converter_output, precision, model.loaded)
    content = model.write(precision).content
    for x in (ids(), ids()[:1], ids()[:, :1]):
        assert spread_error(run_tflite(content, x), run_tflite(rounded, x)) <= 6 / 255


@pytest.mark.parametrize("precision", INTEGERS)
@pytest.mark.parametrize("delegate", [True, False])
@pytest.mark.parametrize("inputs", [64, 34, 12])
def test_a_product_of_exact_activations_is_exact(inputs, precision, delegate):
    """Inputs from -128 to 127 are their own integers, so that only the weights are rounded."""
    keras.utils.set_random_seed(0)
    model = converted(
        keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(48, name="d")]), "tflite"
    )
    x = np.random.default_rng(0).integers(-128, 128, (4, inputs)).astype(np.float32)
    x[:, 0], x[:, 1] = -128, 127
    rounded = with_rounded_weights(model.converter_output, precision, model.loaded)
    found = run_tflite(model.write(precision).content, x, delegate=delegate)[0]
    # LiteRT's own int4 kernel rounds its inputs symmetrically: to 127 steps, not 128.
    symmetric = precision is Precision.INT4 and inputs % 32 and not delegate
    wanted = run_tflite(rounded, x)[0]
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2 if symmetric else 2e-3)


@pytest.mark.parametrize("precision", INTEGERS)
def test_a_scale_wrong_by_a_tenth_is_detected(classifiers, precision, monkeypatch):
    way, model = "store_matrix", classifiers["GRU"]
    rounded = with_rounded_weights(model.converter_output, precision, model.loaded)
    store = getattr(weight_storage, way)

    def wrong(*args, **kwargs):
        right = store(*args, **kwargs)
        return replace(right, scales=(right.scales * 1.1).astype(right.scales.dtype))

    monkeypatch.setattr(weights, way, wrong)
    content = model.write(precision).content
    assert spread_error(run_tflite(content, ids()), run_tflite(rounded, ids())) > 6 / 255


@pytest.mark.parametrize("shape", [(96, 64), (96, 34), (10, 33)])
@pytest.mark.parametrize("precision", INTEGERS)
def test_no_weight_is_off_by_more_than_half_a_step(shape, precision):
    weight = np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)
    stored = weight_storage.store_matrix(weight, precision)
    whole = integers(stored, shape)
    scales = stored.scales.astype(np.float64)
    scales = np.resize(scales, (shape[0], max(1, scales.size // shape[0])))
    steps = np.repeat(scales, shape[1] // scales.shape[1], axis=1)
    held = np.abs(whole) < 2 ** (int(stored.precision) - 1) - 1
    assert held.mean() > 0.8
    assert (np.abs(whole * steps - weight)[held] <= 0.501 * steps[held]).all()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("precision", INTEGERS)
def test_every_product_computes_in_integers_in_the_loop_too(classifiers, cell, precision):
    built = classifiers[cell].write(precision)
    kinds = {"INT8", "INT4"} if precision is Precision.INT4 else {"INT8"}
    found = [
        kind
        for name, index, kind, shape in readers(built.content)
        if name == "FULLY_CONNECTED" and index == 1 and np.prod(shape) >= 256
    ]
    # Per direction the projection and the steps of one iteration, then the Dense.
    assert len(found) == 2 * (1 + STEPS_PER_ITERATION) + 1
    assert set(found) <= kinds
    assert found.count(precision.label.upper()) > len(found) / 2
    forms = {form.operator: form for form in built.weights}
    assert forms["FULLY_CONNECTED"].dynamic
    assert not forms["GATHER"].dynamic


@pytest.mark.parametrize("precision", STORED)
def test_lookup_stays_a_lookup(classifiers, precision):
    """Nothing of the table's size is ever computed: rows are taken first, then restored."""
    content = classifiers["LSTM"].write(precision).content
    tables = {(name, kind) for name, _, kind, shape in readers(content) if shape == (90, 34)}
    assert tables == {("GATHER", precision.label.upper())}


@pytest.mark.parametrize("precision", STORED)
@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("width", [6, 16, 33, 64, 80])
def test_lookups_of_any_width_and_rank(width, dtype, precision):
    keras.utils.set_random_seed(1)
    ids_in = keras.Input((None, 3), dtype=dtype, name="ids")
    rows = keras.layers.Embedding(101, width, name="table")(ids_in)
    model = converted(keras.Model(ids_in, rows), "tflite")
    x = np.random.default_rng(0).integers(0, 101, (2, 5, 3)).astype(dtype)
    content = model.write(precision).content
    exact = run_tflite(model.content, x)[0]
    found = run_tflite(content, x)[0]
    stored = weight_storage.store_table(
        np.asarray(model.model.get_layer("table").embeddings), precision
    )
    # A row shares its scale with a few others; in int4 large elements are clipped.
    step = 2**-11 * np.abs(exact) if stored.scales is None else np.float32(stored.scales.max())
    assert (np.abs(found - exact) <= step * (0.51 if precision is Precision.INT8 else 3)).all()
    assert np.abs(found - exact).max() > 0


def test_a_tied_table_is_stored_once():
    class Tied(keras.layers.Layer):
        def __init__(self, table):
            super().__init__()
            self.table = table

        def call(self, x):
            return keras.ops.matmul(x, keras.ops.transpose(self.table.embeddings))

    keras.utils.set_random_seed(0)
    table = keras.layers.Embedding(500, 64)
    ids_in = keras.Input((None,), dtype="int32")
    model = keras.Model(ids_in, Tied(table)(table(ids_in)))
    conversion = converted(model, "tflite")
    x = np.arange(12, dtype=np.int32).reshape(2, 6)
    exact = run_tflite(conversion.content, x)
    for precision, size in ((Precision.INT8, 32_000), (Precision.INT4, 16_000)):
        content = conversion.write(precision).content
        assert len(content) < 1.6 * size
        assert spread_error(run_tflite(content, x), exact) < (0.02 if size > 20_000 else 0.1)


@pytest.mark.parametrize("precision", STORED)
def test_a_weight_of_zeros_and_an_outlier_give_numbers(precision):
    model = id_classifier(width=34)
    kernel = model.get_layer("recurrence").forward_layer.cell.kernel
    kernel.assign(np.zeros(kernel.shape))
    for layer, at in (("table", (7, 3)), ("out", (3, 2))):
        weight = model.get_layer(layer).weights[0]
        values = np.asarray(weight).copy()
        values[at] = 1e4
        weight.assign(values)
    conversion = converted(model, "tflite")
    exact = run_tflite(conversion.content, ids())[0]
    built = conversion.write(precision)
    found = run_tflite(built.content, ids())[0]
    assert np.isfinite(found).all()
    others = [0, 1, *range(3, 16)]
    np.testing.assert_allclose(found[1:, others], exact[1:, others], atol=0.25)
    stored = {form.layer: form for form in built.weights}
    assert stored["out"].storage == "float16"
    assert precision is Precision.FLOAT16 or "would round" in stored["out"].reason


@pytest.mark.parametrize("precision", STORED)
@pytest.mark.parametrize(("value", "part"), [(1e5, "range"), (1e-12, "small"), (np.nan, "NaN")])
def test_weights_beyond_float16_stay_float32(value, part, precision):
    weight = np.full((16, 32), min(value, 1e-9), np.float32)
    weight[0, 0] = value
    stored = weight_storage.store_matrix(weight, Precision.FLOAT16)
    assert stored.precision is Precision.FLOAT32
    assert part in stored.reason
    again = weight_storage.store_matrix(weight, precision)
    assert again.data.dtype.kind != "f" or np.array_equal(again.data, weight, equal_nan=True)


def test_a_convolution_is_stored_but_not_computed_in_integers():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = converted(
        keras.Sequential(
            [
                keras.Input((None, 12)),
                layers.Conv1D(24, 3, padding="same"),
                layers.Bidirectional(layers.LSTM(16)),
            ]
        ),
        "tflite",
    )
    for precision in STORED:
        built = model.write(precision)
        forms = {form.operator: form for form in built.weights}
        assert not forms["CONV_2D"].dynamic
        kind = "float16" if precision is Precision.FLOAT16 else "int8"
        assert forms["CONV_2D"].storage == kind
        assert kind == "float16" or forms["CONV_2D"].reason
        rounded = with_rounded_weights(model.converter_output, precision, model.loaded)
        found, wanted = run_tflite(built.content, signals()), run_tflite(rounded, signals())
        assert spread_error(found, wanted) <= (1e-4 if precision is Precision.FLOAT16 else 6 / 255)


def test_a_layer_keeps_its_own_precision(classifiers):
    built = classifiers["GRU"].write(Precision.INT4, table=Precision.INT8, out=Precision.FLOAT32)
    storage = {form.layer: form.storage for form in built.weights}
    assert storage["table"] == "int8"
    assert storage["out"] == "float32"
    assert storage["forward_gru"] == storage["backward_gru"] == "int4"


def test_float32_changes_nothing(tagger):
    built = tagger.write(Precision.FLOAT32)
    assert built.weights == []
    assert worst(run_tflite(built.content, signals()), run_tflite(tagger.content, signals())) == 0
    assert "FULLY_CONNECTED" in built.operators


@pytest.mark.parametrize("precision", STORED)
def test_outputs_do_not_depend_on_earlier_runs(tagger, precision):
    content = tagger.write(precision).content
    alone = run_tflite(content, signals())[0]
    np.testing.assert_array_equal(run_tflite(content, signals())[0], alone)
    # Rows do not touch each other: every row has its own range.
    np.testing.assert_allclose(run_tflite(content, signals()[1:2])[0], alone[1:2], atol=1e-5)


_FRESH = """
import hashlib, sys
sys.path.insert(0, {tests!r})
from quantization.conversions import bilstm_tagger, converted
from bilstm_exporter.quantization.recipes import Precision
model = converted(bilstm_tagger(), "tflite")
for precision in (Precision.FLOAT16, Precision.INT8, Precision.INT4):
    print(hashlib.sha256(model.write(precision).content).hexdigest())
"""


def test_the_same_model_gives_the_same_bytes_in_another_process(pytestconfig, tagger):
    code = _FRESH.format(tests=str(pytestconfig.rootpath / "tests"))
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = [hashlib.sha256(tagger.write(p).content).hexdigest() for p in STORED]
    assert fresh.stdout.split() == here


def test_sizes():
    """From some 2.5 MB on; below, loops and scales are a larger part (3.5 times at 1.3 MB)."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    text = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(8000, 64),
            layers.Bidirectional(layers.LSTM(128)),
            layers.Dense(10),
        ]
    )
    deep = keras.Sequential(
        [
            keras.Input((None, 128)),
            layers.Bidirectional(layers.LSTM(128, return_sequences=True)),
            layers.Bidirectional(layers.LSTM(128, return_sequences=True)),
            layers.Dense(10),
        ]
    )
    for model in (text, deep):
        conversion = converted(model, "tflite")
        size = {p: len(conversion.write(p).content) for p in (*STORED, Precision.FLOAT32)}
        assert size[Precision.FLOAT32] > 1 << 20
        assert size[Precision.FLOAT32] / size[Precision.INT8] >= 3.8
        assert size[Precision.FLOAT32] / size[Precision.INT4] >= 6.5
        assert size[Precision.FLOAT32] / size[Precision.FLOAT16] >= 1.95


def test_constants_are_where_the_widest_load_can_read_them(tagger):
    content = tagger.write(Precision.INT8).content
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    starts = [
        content.find(bytes(b.data))
        for b in model.buffers
        if b.data is not None and b.data.size > 64
    ]
    assert starts
    assert all(start % 16 == 0 for start in starts)
