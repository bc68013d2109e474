"""Parts of models by the names of layers, and models with the loss of their training."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.errors import OptionError, UnsupportedModelError
from bilstm_exporter.frontends.files.model_file import without_unneeded_code
from bilstm_exporter.frontends.loading import read
from bilstm_exporter.ir.graphs import unread_inputs, without_captures

pytestmark = pytest.mark.filterwarnings("ignore")
libraries = pytest.mark.parametrize("library", ["keras", "tf_keras"])
x = np.random.default_rng(0).normal(size=(2, 6, 4)).astype("float32")
labels = np.ones((2, 3), "float32")


def functional(library):
    keras = importlib.import_module(library)
    layers = keras.layers
    inner = keras.Input((None, 4), name="sequence")
    hidden = layers.LSTM(3, return_sequences=True, name="lstm")(inner)
    encoder = keras.Model(inner, layers.Dense(3, name="dense")(hidden), name="encoder")
    sequence, extra = keras.Input((None, 4), name="x"), keras.Input((3,), name="extra")
    last = layers.GRU(3, name="gru")(encoder(sequence))
    output = layers.Dense(2, name="out")(layers.Concatenate(name="both")([last, extra]))
    return keras.Model({"x": sequence, "extra": extra}, output)


@libraries
@pytest.mark.parametrize("ending", ["", ".keras", ".h5"])
@pytest.mark.slow
def test_the_outputs_of_layers(library, ending, tmp_path):
    model = functional(library)
    path = tmp_path / f"model{ending}"
    if ending:
        model.save(path)
    source, origin = read(path if ending else model, outputs=("encoder/lstm", "gru"))
    assert [spec.name for spec in source.inputs] == ["x"]
    assert source.output_names == ("encoder_lstm", "gru")
    encoder = model.get_layer("encoder")
    hidden = encoder.get_layer("lstm")(x)
    wanted = [hidden, model.get_layer("gru")(encoder.get_layer("dense")(hidden))]
    for found, expected in zip(source.reference([x]), wanted, strict=True):
        np.testing.assert_allclose(found, expected, 1e-6, 1e-6)
    assert "'extra'" in origin.notes[0]


@libraries
def test_a_layer_of_a_sequential_model(library):
    keras = importlib.import_module(library)
    layers = keras.layers
    model = keras.Sequential([layers.Input((None, 4)), layers.LSTM(3, name="l"), layers.Dense(2)])
    source, _ = read(model, outputs=("l",))
    np.testing.assert_allclose(source.reference([x])[0], model.get_layer("l")(x), 1e-6, 1e-6)


@libraries
@pytest.mark.slow
def test_layers_that_cannot_be_outputs(library):
    keras = importlib.import_module(library)
    for name, words in (("lstm", "did you mean 'encoder/lstm'"), ("none", "its layers are"),
                        ("x", "is an input")):  # fmt: skip
        with pytest.raises(OptionError, match=words):
            read(functional(library), outputs=(name,))
    shared = keras.layers.Dense(4, name="shared")
    first = keras.Input((None, 4))
    with pytest.raises(OptionError, match="2 times"):
        read(keras.Model(first, shared(shared(first))), outputs=("shared",))

    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(UnsupportedModelError, match="--builder"):
        read(Own(), outputs=("shared",))


def with_loss(library, kind):
    """A model for training by CTC: the loss is its output, or is added in a layer or the model."""
    keras = importlib.import_module(library)
    layers = keras.layers

    def cost(y_true, y_pred):
        rows = tf.shape(y_pred)[0]
        steps = tf.fill([rows, 1], tf.shape(y_pred)[1])
        lengths = tf.fill([rows, 1], tf.shape(y_true)[1])
        return tf_keras.backend.ctc_batch_cost(tf.abs(y_true) * 0 + 1, y_pred, steps, lengths)

    class Loss(layers.Layer):
        def call(self, y_true, y_pred):
            if kind == "dense":  # a loop of TensorFlow's
                rows = tf.shape(y_pred)[0]
                steps, lengths = tf.fill([rows], 6), tf.fill([rows], 3)
                ones = tf.ones([rows, 3], "int32")
                options = {"logits_time_major": False, "blank_index": 0}
                loss = tf.nn.ctc_loss(ones, y_pred, lengths, steps, **options)
                self.add_loss(tf.reduce_mean(loss))
                return y_pred
            loss = cost(y_true, y_pred)
            if kind == "output":
                return loss
            self.add_loss(tf.reduce_mean(loss))
            if library == "tf_keras":
                self.add_metric(tf.reduce_mean(y_pred), name="mean")
            return y_pred

        def compute_output_spec(self, y_true, y_pred):
            return keras.KerasTensor((None, 1) if kind == "output" else y_pred.shape)

    sequence, y_true = keras.Input((6, 4), name="x"), keras.Input((3,), name="label")
    hidden = layers.LSTM(3, return_sequences=True)(sequence)
    probabilities = layers.Dense(5, activation="softmax", name="softmax")(hidden)
    if kind == "model":
        model = keras.Model([sequence, y_true], probabilities)
        model.add_loss(tf.reduce_mean(cost(y_true, probabilities)))
        model.add_metric(tf.reduce_mean(probabilities), name="mean")
        return model
    return keras.Model([sequence, y_true], Loss(name="ctc")(y_true, probabilities))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "kind"),
    [("keras", "layer"), ("keras", "dense"), ("tf_keras", "layer"), ("tf_keras", "dense"),
     ("tf_keras", "model")],
)  # fmt: skip
def test_a_loss_inside_a_model_is_not_exported(library, kind, tmp_path):
    model = with_loss(library, kind)
    report = export(model, tmp_path / "bundle")
    assert "--outputs softmax" in report.notes[0]
    assert "'label'" in report.notes[0]
    wanted = model([x, labels])
    for backend in ("onnx", "litert"):
        found = bilstm_runtime.load(tmp_path / "bundle", backend=backend).predict([x, labels])
        np.testing.assert_allclose(found, wanted, 1e-4, 1e-5)


@libraries
@pytest.mark.slow
def test_a_loss_as_output_is_answered_with_the_layers_before_it(library, tmp_path):
    model = with_loss(library, "output")
    with pytest.raises(UnsupportedModelError, match=r"'label' is an input.*--outputs softmax"):
        export(model, tmp_path / "bundle", formats="onnx")
    source, _ = read(model, outputs=("softmax",))
    assert [spec.name for spec in source.inputs] == ["x"]
    assert source.reference([x])[0].shape == (2, 6, 5)


@pytest.mark.slow
@libraries
def test_an_export_of_a_part(library, tmp_path):
    model = functional(library)
    report = export(model, tmp_path / "bundle", outputs="encoder/lstm,gru")
    assert "'extra'" in report.notes[0]
    source, _ = read(model, outputs=("encoder/lstm", "gru"))
    for backend in ("onnx", "litert"):
        found = bilstm_runtime.load(tmp_path / "bundle", backend=backend).predict(x)
        for one, wanted in zip(found.values() if isinstance(found, dict) else found,
                               source.reference([x]), strict=True):  # fmt: skip
            np.testing.assert_allclose(one, wanted, 1e-4, 1e-5)


def test_a_branch_with_effects_that_nobody_reads_is_removed():
    counter, factor = tf.Variable(0.0), tf.Variable(1.0)

    @tf.function(autograph=False)
    def call(one, other):
        counter.assign_add(tf.reduce_sum(other))
        tf.debugging.assert_less(other, 100.0)
        return {"y": one + factor}

    spec = tf.TensorSpec([None])
    function = without_captures(call.get_concrete_function(spec, spec))
    kinds = {operation.type for operation in function.graph.get_operations()}
    assert not kinds & {"AssignAddVariableOp", "Assert", "If", "StatelessIf", "Sum"}
    assert unread_inputs(function) == [1]
    found = function(tf.constant([1.0]), tf.constant([2.0]))
    assert found["y"].numpy() == [2.0]


def test_outputs_as_an_option():
    for bad in ("", ",", "a,a", ()):
        with pytest.raises(OptionError, match="outputs"):
            export(functional("keras"), outputs=bad)


@libraries
def test_a_layer_that_draws_random_numbers_is_named(library):
    keras = importlib.import_module(library)

    class Noisy(keras.layers.Layer):
        def call(self, inputs):
            return inputs + tf.random.normal(tf.shape(inputs))

    layers = keras.layers
    inside = [layers.LSTM(3, return_sequences=True), Noisy(name="noisy"), layers.Dense(2)]
    source, _ = read(keras.Sequential([layers.Input((None, 4)), *inside]))
    assert source.random_layer([x]) == "noisy"
    source, _ = read(keras.Sequential([layers.Input((None, 4)), inside[0], inside[2]]))
    assert source.random_layer([x]) is None


@libraries
@pytest.mark.slow
def test_an_operator_is_named_with_its_layer_and_an_error_without_keras_s_frame(library, tmp_path):
    keras = importlib.import_module(library)

    class Own(keras.layers.Layer):
        def call(self, inputs):
            return tf.math.digamma(inputs * inputs + 1)

    class Fails(keras.layers.Layer):
        def call(self, inputs):
            if tf.executing_eagerly():
                message = "no such luck"
                raise RuntimeError(message)
            return inputs

    layers = keras.layers
    first = [layers.Input((None, 4)), layers.LSTM(3, return_sequences=True)]
    with pytest.raises(UnsupportedModelError, match=r"Digamma \(in layer 'own', Own\)"):
        export(keras.Sequential([*first, Own(name="own")]), tmp_path / "a", formats="onnx")
    with pytest.raises(UnsupportedModelError, match=r"no such luck$") as raised:
        export(keras.Sequential([*first, Fails()]), tmp_path / "b", formats="onnx")
    assert "Exception encountered" not in str(raised.value)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("kind", ["code", "unknown class"])
def test_a_part_has_the_weights_of_its_own_layers(library, ending, kind, tmp_path):
    """A file numbers the layers of a class: another one, which is left out, comes first."""
    layers = library.layers

    class Unknown(layers.Layer):
        def call(self, x):
            return 2 * x

    x = library.Input((3,), name="x")
    other = layers.Dense(4, name="other")(x)
    other = layers.Lambda(abs)(other) if kind == "code" else Unknown(name="unknown")(other)
    model = library.Model(x, [other, layers.Dense(4, name="main")(layers.Dense(4, name="a")(x))])
    model.save(tmp_path / f"model{ending}")
    part, _ = read(tmp_path / f"model{ending}", outputs=["main"])
    values = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    (found,) = part.eager_reference([values])
    np.testing.assert_allclose(found, np.asarray(model(values)[1]), atol=1e-6)


def test_a_part_of_a_sequential_model_needs_all_layers_before_it():
    layers = [{"class_name": name, "config": {"name": name}} for name in ("A", "B", "Lambda")]
    config = {"class_name": "Sequential", "config": {"layers": layers}}
    found = without_unneeded_code(config, ["B"])
    assert found["config"]["layers"] == layers[:2]
