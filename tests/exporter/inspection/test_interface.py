"""The axes, names, dtypes and values of inputs and outputs, found by calling the model."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers as kl
from keras import ops

from bilstm_exporter import export
from bilstm_exporter.errors import ModelFileError, OptionError, UnsupportedModelError
from bilstm_exporter.frontends.loading import read
from bilstm_exporter.inspection.interface import Interface, find_interface
from bilstm_exporter.keras_model import KerasModel
from bilstm_runtime import load
from bilstm_runtime.spec import Axis, InputSpec, OutputSpec
from exporter.conftest import inspect
from exporter.models import bilstm, floats

BATCH, TIME = Axis("batch", None), Axis("time", None)


def read_model(model: keras.Model) -> KerasModel:
    return read(model)[0]


def find(model: keras.Model, **fixed: int) -> Interface:
    return find_interface(read_model(model), **fixed)


def size(number: int) -> Axis:
    return Axis(None, number)


def floats_in(name: str = "x", features: int = 3, steps: int | None = None) -> keras.KerasTensor:
    return keras.Input((steps, features), name=name)


def ids_in(name: str = "ids", dtype: str = "int32") -> keras.KerasTensor:
    return keras.Input((None,), dtype=dtype, name=name)


# --- axes


def test_one_input():
    found = find(floats(bilstm(2), kl.Dense(4, name="steps")))
    assert found.inputs == (InputSpec("x", "float32", (BATCH, TIME, size(3))),)
    assert found.outputs == (OutputSpec("steps", "float32", (BATCH, TIME, size(4))),)


def test_inputs_that_must_be_equally_long_share_an_axis():
    a, b = floats_in("a"), floats_in("b", 2)
    found = find(keras.Model([a, b], bilstm(2, last=True)(kl.Concatenate()([a, b]))))
    assert [spec.axes for spec in found.inputs] == [
        (BATCH, TIME, size(3)),
        (BATCH, TIME, size(2)),
    ]


def test_inputs_that_need_not_be_equally_long_do_not():
    a, b = floats_in("a"), floats_in("b", 2)
    outputs = [bilstm(2, last=True)(a), kl.LSTM(2, return_sequences=True, name="second")(b)]
    found = find(keras.Model([a, b], outputs))
    assert [spec.axes[1] for spec in found.inputs] == [TIME, Axis("time_2", None)]
    assert found.outputs[0].axes == (BATCH, size(4))
    assert found.outputs[1].axes == (BATCH, Axis("time_2", None), size(2))


def test_a_valid_convolution_has_a_minimum():
    loaded = inspect(floats(kl.Conv1D(2, 5), kl.LSTM(2))).loaded
    assert loaded.spec.inputs[0].axes[1] == Axis("time", None, 5)
    assert loaded.free_axes == {"batch": BATCH, "time": Axis("time", None, 5)}


def test_two_convolutions_add_up():
    found = find(floats(kl.Conv1D(2, 5), kl.Conv1D(2, 3), kl.LSTM(2)))
    assert found.inputs[0].axes[1].min == 7


class Chosen(kl.Layer):
    """The step whose number is an input; lengths count from 1, and positions from 0."""

    def __init__(self, first):
        super().__init__()
        self.first = first

    def call(self, steps, number):
        places = tf.concat([tf.range(tf.shape(steps)[0])[:, None], number[:, None]], 1)
        return tf.gather_nd(steps, places - [[0, self.first]])

    def compute_output_shape(self, steps_shape, number_shape):
        del number_shape
        return steps_shape[0], steps_shape[2]


@pytest.mark.parametrize("first", [0, 1])
def test_integers_that_are_lengths_or_positions_set_no_minimum(first):
    """Keras refuses those beyond the sequence."""
    x, number = floats_in("x"), keras.Input((), dtype="int32", name="number")
    steps = kl.LSTM(2, return_sequences=True)(x)
    found = inspect(keras.Model([x, number], Chosen(first)(steps, number)))
    assert found.loaded.spec.inputs[0].axes == (BATCH, TIME, size(3))
    assert found.loaded.spec.rows_independent
    shortest = {probe.inputs[0].shape[1] for probe in found.probes.probes}
    assert min(shortest) == 1
    assert not [name for name in found.probes.left_out if "time 1" in name]


def test_pooled_time_is_an_axis_of_its_own():
    found = find(floats(kl.MaxPooling1D(2), kl.LSTM(2, return_sequences=True)))
    assert found.inputs[0].axes[1] == Axis("time", None, 2)
    assert found.outputs[0].axes == (BATCH, Axis(None, None), size(2))


def test_a_size_that_stays_the_same_above_some_length_is_not_fixed():
    cut = kl.Lambda(lambda x: tf.cond(tf.shape(x)[1] > 5, lambda: x[:, :5], lambda: x))
    found = find(floats(cut, bilstm(2)))
    assert found.outputs[0].axes[1] == Axis(None, None)


def test_static_shapes():
    model = keras.Sequential([keras.Input(batch_shape=(2, 6, 3), name="x"), kl.LSTM(4)])
    loaded = inspect(model).loaded
    assert loaded.spec.inputs[0].axes == (Axis("batch", 2), Axis("time", 6), size(3))
    assert loaded.spec.outputs[0].axes == (Axis("batch", 2), size(4))
    assert loaded.free_axes == {}


def test_a_static_time_that_is_as_long_as_the_batch_is_not_taken_for_it():
    model = keras.Sequential([keras.Input((5, 3), name="x"), kl.LSTM(5, return_sequences=True)])
    found = find(model)
    assert found.outputs[0].axes[0] == BATCH
    assert [axis.size for axis in found.outputs[0].axes] == [None, 5, 5]


def test_images_have_more_free_axes():
    image = keras.Input((None, 8, 1), name="image")
    steps = kl.Reshape((-1, 16))(kl.Conv2D(2, 3, padding="same")(image))
    found = find(keras.Model(image, kl.LSTM(2)(steps)))
    assert found.inputs[0].axes == (BATCH, TIME, size(8), size(1))


@pytest.mark.parametrize(("batch", "time"), [(2, None), (None, 12), (2, 12)])
def test_axes_are_fixed(batch, time):
    found = find(floats(bilstm(2), kl.Dense(4)), batch=batch, time=time)
    expected = (Axis("batch", batch), Axis("time", time))
    assert found.inputs[0].axes == (*expected, size(3))
    assert found.outputs[0].axes == (*expected, size(4))


def test_all_time_axes_are_fixed_and_what_depends_on_them():
    a, b = floats_in("a"), floats_in("b")
    outputs = [kl.MaxPooling1D(2)(kl.LSTM(2, return_sequences=True)(a)), kl.LSTM(2)(b)]
    found = find(keras.Model([a, b], outputs), time=8)
    assert [spec.axes[1].size for spec in found.inputs] == [8, 8]
    assert found.outputs[0].axes == (BATCH, size(4), size(2))


@pytest.mark.parametrize(
    ("build", "fixed", "words"),
    [
        (lambda: floats(kl.Conv1D(2, 5), kl.LSTM(2)), {"time": 4}, "at least 5"),
        (lambda: floats(kl.LSTM(2), shape=(6, 3)), {"time": 5}, "fixed at 6"),
        (lambda: floats(kl.Dense(2), shape=(3,)), {"time": 5}, "no time axis"),
        (
            lambda: keras.Sequential([keras.Input(batch_shape=(2, None, 3)), kl.LSTM(2)]),
            {"batch": 3},
            "fixed at 2",
        ),
    ],
)
def test_an_axis_that_cannot_be_fixed_so(build, fixed, words):
    with pytest.raises(OptionError, match=words):
        find(build(), **fixed)


# --- subclassed models


class Ids(keras.Model):
    """Says nothing of its inputs."""

    def __init__(self):
        super().__init__()
        self.embedding = kl.Embedding(9, 4, mask_zero=True)
        self.recurrent = kl.LSTM(3, return_sequences=True)

    def call(self, inputs):
        return self.recurrent(self.embedding(inputs))


class Two(keras.Model):
    """Takes a dict."""

    def __init__(self):
        super().__init__()
        self.recurrent = kl.LSTM(3)

    def call(self, inputs):
        return self.recurrent(inputs["signal"]) + inputs["context"]


def test_a_subclassed_model_of_ids():
    model = Ids()
    model(np.zeros((2, 5), "int32"))
    found = find(model)
    assert found.inputs == (InputSpec("input", "int32", (BATCH, TIME), range=(0, 8), mask_value=0),)
    assert found.outputs == (OutputSpec("output", "float32", (BATCH, TIME, size(3))),)


def test_a_subclassed_model_of_floats_keeps_its_features():
    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.recurrent = kl.LSTM(3)

        def call(self, inputs):
            return self.recurrent(inputs)

    model = Plain()
    model(np.zeros((2, 5, 4), "float32"))
    assert find(model).inputs == (InputSpec("input", "float32", (BATCH, TIME, size(4))),)


def test_a_subclassed_model_of_a_dict():
    model = Two()
    model({"signal": np.zeros((2, 5, 4), "float32"), "context": np.zeros((2, 3), "float32")})
    found = find(model)
    assert {spec.name: spec.axes for spec in found.inputs} == {
        "context": (BATCH, size(3)),
        "signal": (BATCH, TIME, size(4)),
    }


class ByTheExample(tf_keras.Model):
    """Code for a number of steps that is known while it is traced, or for one that is not."""

    def __init__(self, *, needs_sizes):
        super().__init__()
        self.needs_sizes = needs_sizes
        self.recurrent = tf_keras.layers.LSTM(3)

    def call(self, inputs):
        x = inputs["x"]
        if self.needs_sizes:
            return self.recurrent(tf.stack(tf.unstack(x, axis=1)[::-1], 1))
        steps = tf.shape(x)[1]
        missing = [[0, 0], [4 - steps, 0], [0, 0]]
        return self.recurrent(tf.cond(steps > 4, lambda: x[:, -4:], lambda: tf.pad(x, missing)))


@pytest.mark.parametrize(("needs_sizes", "time"), [(True, size(5)), (False, TIME)])
def test_a_subclassed_model_whose_code_depends_on_the_example(needs_sizes, time):
    model = ByTheExample(needs_sizes=needs_sizes)
    model({"x": tf.zeros([2, 5, 4])})
    (spec,) = find(model).inputs
    assert spec.name == "x"
    assert spec.axes[1].size == time.size


def test_a_subclassed_model_that_was_never_called():
    with pytest.raises(ModelFileError, match="never built"):
        read_model(Ids())


# --- names


class OfTwoArguments(keras.Model):
    def call(self, a, b):
        return a + b


class OfTwoArguments2(tf_keras.Model):
    def call(self, a, b):
        return a + b


class ReadsValues(keras.Model):
    def call(self, x):
        return x if float(tf.reduce_sum(x)) > 0 else -x


@pytest.mark.parametrize(
    ("model", "count", "words"),
    [
        (OfTwoArguments, 2, r"records \(input \[None, 4, 3\]\).* one keras.Input for each"),
        (OfTwoArguments2, 2, r"takes several arguments.* one keras.Input for each"),
        (ReadsValues, 1, r"read the values of tensors in Python must be written with keras.ops"),
    ],
)
def test_a_subclassed_model_that_cannot_be_called_as_it_records(model, count, words):
    built = model()
    built(*[np.ones((2, 4, 3), np.float32)] * count)
    with pytest.raises((UnsupportedModelError, ModelFileError), match=words):
        read_model(built)


def test_dict_outputs_have_their_keys_as_names():
    x = floats_in()
    steps = bilstm(2)(x)
    model = keras.Model(x, {"steps": kl.Dense(2, name="p")(steps), "last": kl.LSTM(2)(steps)})
    read_one = read_model(model)
    assert read_one.output_structure == "dict"
    outputs = read_one.reference([np.zeros((2, 5, 3), "float32")])
    sizes = [output.shape for output in outputs]
    shapes = dict(zip(read_one.flat_output_names, sizes, strict=True))
    assert shapes == {"steps": (2, 5, 2), "last": (2, 2)}
    assert [spec.name for spec in find(model).outputs] == list(read_one.flat_output_names)


def test_list_outputs_have_their_layers_as_names():
    x = floats_in()
    steps = bilstm(2)(x)
    model = keras.Model(x, [kl.Dense(2, name="tags")(steps), kl.LSTM(2, name="label")(steps)])
    assert read_model(model).output_structure == "list"
    assert [spec.name for spec in find(model).outputs] == ["tags", "label"]


def test_one_output_in_a_list_is_a_list():
    x = floats_in()
    found = read_model(keras.Model(x, [kl.LSTM(2, name="label")(x)]))
    assert (found.output_names, found.output_structure) == (("label",), "list")


def test_one_output_is_single():
    assert read_model(floats(kl.LSTM(2))).output_structure == "single"


def test_outputs_of_one_name_are_told_apart():
    x = floats_in()
    y = kl.LSTM(2, name="label")(x)
    names = [spec.name for spec in find(keras.Model(x, [y, y, y])).outputs]
    assert names == ["label", "label_1", "label_2"]


def test_outputs_of_one_layer_are_told_apart():
    x = floats_in()
    names = find(keras.Model(x, kl.LSTM(2, return_state=True, name="encoder")(x))).outputs
    assert len({spec.name for spec in names}) == len(names) == 3


def test_an_input_that_is_an_output_has_two_names_in_the_artifacts():
    x = floats_in()
    found = inspect(keras.Model(x, [x, kl.LSTM(2, name="label")(x)])).loaded
    assert not set(found.input_names) & set(found.output_names)
    assert found.input_names == ("x",)


def test_inputs_keep_their_order_and_names():
    z, a = floats_in("z"), floats_in("a", 2)
    found = find(keras.Model([z, a], kl.LSTM(2)(kl.Concatenate()([z, a]))))
    assert [(spec.name, spec.axes[2].size) for spec in found.inputs] == [("z", 3), ("a", 2)]


def test_an_unused_input_is_kept():
    x, spare = floats_in(), keras.Input((2,), name="spare")
    found = find(keras.Model([x, spare], kl.LSTM(2)(x)))
    assert [spec.name for spec in found.inputs] == ["x", "spare"]
    assert found.inputs[1].axes == (BATCH, size(2))


# --- values


def test_the_smallest_vocabulary_counts():
    x = ids_in()
    both = kl.Concatenate()([kl.Embedding(20, 2)(x), kl.Embedding(7, 3)(x), kl.Embedding(9, 2)(x)])
    (spec,) = find(keras.Model(x, kl.LSTM(2)(both))).inputs
    assert (spec.range, spec.mask_value) == ((0, 6), None)


@pytest.mark.parametrize("value", [0.0, -1.0, 2.5])
def test_masking_tells_its_value(value):
    (spec,) = find(floats(kl.Masking(value), bilstm(2))).inputs
    assert (spec.mask_value, spec.range, spec.dtype) == (value, None, "float32")


def test_each_input_has_its_own_mask_value():
    a, b = floats_in("a"), floats_in("b", 2)
    masked = [kl.LSTM(2)(kl.Masking(-1.0)(a)), kl.LSTM(2)(kl.Masking(9.0)(b))]
    found = find(keras.Model([a, b], kl.Add()(masked)))
    assert [spec.mask_value for spec in found.inputs] == [-1.0, 9.0]


def test_ids_that_pass_through_a_reshape_are_ids():
    x = keras.Input((None, 6), dtype="int32", name="chars")
    words = kl.TimeDistributed(kl.Embedding(11, 3))(x)
    words = kl.TimeDistributed(kl.GlobalMaxPooling1D())(words)
    (spec,) = find(keras.Model(x, kl.LSTM(2)(words))).inputs
    assert spec.range == (0, 10)
    assert spec.axes == (BATCH, TIME, size(6))


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "float16", "int32", "float32"])
def test_inputs_keep_their_dtype(dtype):
    x = keras.Input((None, 3), dtype=dtype, name="x")
    (spec,) = find(keras.Model(x, kl.LSTM(2)(ops.cast(x, "float32")))).inputs
    assert spec.dtype == dtype


@pytest.mark.parametrize("dtype", ["int64", "uint8", "int16", "float32"])
def test_ids_keep_their_dtype(dtype):
    x = ids_in(dtype=dtype)
    (spec,) = find(keras.Model(x, kl.LSTM(2)(kl.Embedding(9, 3, mask_zero=True)(x)))).inputs
    assert (spec.dtype, spec.range, spec.mask_value) == (dtype, (0, 8), 0)
    assert isinstance(spec.mask_value, float if dtype == "float32" else int)


def test_a_mask_given_as_an_input_is_boolean():
    x, valid = floats_in(), keras.Input((None,), dtype="bool", name="valid")
    found = find(keras.Model([x, valid], kl.LSTM(2)(x, mask=valid)))
    assert [(spec.dtype, spec.axes[1]) for spec in found.inputs] == [
        ("float32", TIME),
        ("bool", TIME),
    ]


@pytest.mark.slow
def test_the_bundle_keeps_dtypes_and_unused_inputs(tmp_path):
    x = keras.Input((None, 3), dtype="uint8", name="x")
    spare = keras.Input((2,), dtype="int64", name="spare")
    model = keras.Model([x, spare], kl.LSTM(2, name="label")(ops.cast(x, "float32") / 255))
    export(model, tmp_path / "b")
    arrays = {"x": np.full((2, 4, 3), 200, np.uint8), "spare": np.zeros((2, 2), np.int64)}
    expected = model([arrays["x"], arrays["spare"]], training=False).numpy()
    for backend in ("onnx", "litert"):
        output = load(tmp_path / "b", backend=backend).predict(arrays)
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_free_axis_may_need_many_samples():
    keras.utils.set_random_seed(2)
    model = floats(
        kl.Conv1D(2, 230, strides=90), kl.GRU(2), kl.Dense(2, activation="softmax"), shape=(None, 1)
    )
    found = inspect(model)
    (axis,) = [axis for axis in found.loaded.spec.inputs[0].axes if axis.name == "time"]
    assert axis.min == 230
    lengths = {probe.inputs[0].shape[1] for probe in found.probes.probes}
    assert max(lengths) >= 230 + 3 * 90  # the recurrence runs over several steps
    assert all(probe.is_finite for probe in found.probes.probes)


@pytest.mark.slow
def test_a_long_axis_may_be_fixed_by_an_option():
    model = floats(kl.Conv1D(2, 230, strides=90), kl.GRU(2), shape=(None, 1))
    found = find_interface(read(model)[0], time=500)
    assert found.inputs[0].axes[1].size == 500


@pytest.mark.slow
def test_a_model_that_refuses_every_size_is_answered_in_seconds():
    class Refusing(kl.Layer):
        def call(self, x):
            if tf.executing_eagerly():
                message = "never"
                raise ValueError(message)
            return x

    with pytest.raises(UnsupportedModelError, match=r"free axes of 5 to .*never"):
        find_interface(read(floats(kl.GRU(2, return_sequences=True), Refusing()))[0])
