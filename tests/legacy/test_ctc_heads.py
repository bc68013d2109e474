"""Models for training whose output is a CTC loss, in both generations of Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from bilstm_exporter import export
from bilstm_exporter.errors import UnknownObjectError, UnsupportedModelError, UntrustedCodeError
from bilstm_exporter.frontends.loading import read

pytestmark = pytest.mark.filterwarnings("ignore")
both = pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])


def ctc_loss(arguments):
    shares, labels, steps, length = arguments
    loss = tf.nn.ctc_loss(
        tf.cast(labels, tf.int32), tf.math.log(shares + 1e-7), tf.cast(length, tf.int32)[:, 0],
        tf.cast(steps, tf.int32)[:, 0], logits_time_major=False, blank_index=-1,
    )  # fmt: skip
    return tf.expand_dims(loss, 1)


def training_model(library, head):
    layers = library.layers
    image = library.Input((8, 6), name="the_input")
    labels = library.Input((3,), name="the_labels")
    steps = library.Input((1,), dtype="int64", name="input_length")
    length = library.Input((1,), dtype="int64", name="label_length")
    hidden = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(image)
    shares = layers.Dense(5, activation="softmax", name="characters")(hidden)
    loss = head(library)([shares, labels, steps, length])
    return library.Model([image, labels, steps, length], loss)


def lambda_head(library):
    return library.layers.Lambda(ctc_loss, output_shape=(1,), name="ctc")


def layer_head(library):
    class Loss(library.layers.Layer):
        def call(self, arguments):
            return ctc_loss(arguments)

        def compute_output_shape(self, shapes):
            return (shapes[0][0], 1)

    return Loss(name="ctc")


def saved(library, folder):
    model = training_model(library, lambda_head)
    path = folder / ("model.keras" if library is keras else "model.h5")
    model.save(path)
    return model, path


@pytest.mark.slow
@both
def test_the_code_of_a_loss_is_not_needed_for_the_layer_before_it(library, tmp_path):
    model, path = saved(library, tmp_path)
    source, _ = read(path, outputs=("characters",))
    x = np.random.default_rng(0).normal(size=(2, 8, 6)).astype("f4")
    part = library.Model(model.inputs[0], model.get_layer("characters").output)
    np.testing.assert_allclose(source.reference([x])[0], part(x), 1e-6, 1e-6)
    assert [one.name for one in source.inputs] == ["the_input"]


@both
def test_the_error_for_code_in_a_loss_names_the_layer_before_it(library, tmp_path):
    _, path = saved(library, tmp_path)
    with pytest.raises(UntrustedCodeError, match=r"in layer 'ctc'.*--outputs characters") as error:
        read(path)
    assert error.value.layers == ("ctc",)
    with pytest.raises(UntrustedCodeError):
        read(path, outputs=("ctc",))


@pytest.mark.slow
@both
def test_a_loss_that_no_format_has_names_the_layer_before_it(library, tmp_path):
    model = training_model(library, layer_head)
    with pytest.raises(UnsupportedModelError, match=r"in layer 'ctc', Loss.*--outputs characters"):
        export(model, tmp_path / "edge", formats="onnx")


def test_the_error_for_an_unknown_loss_names_the_layer_before_it(tmp_path):
    training_model(keras, layer_head).save(tmp_path / "model.keras")
    with pytest.raises(UnknownObjectError, match=r"in layer 'ctc'.*--outputs characters"):
        read(tmp_path / "model.keras")
    part, _ = read(tmp_path / "model.keras", outputs=("characters",))
    assert [one.name for one in part.inputs] == ["the_input"]
