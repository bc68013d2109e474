"""Functions of Lambda layers whose modules the file does not name."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import backend as B  # a name that nobody expects
from tf_keras import backend as K

from bilstm_exporter.errors import UnknownObjectError
from bilstm_exporter.frontends.loading import read

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of HDF5, and of the module


def outer(x):
    return x + 1


def of_a_module_that_is_gone(function):
    """Keras takes the names of the module that defined a function, where it is loaded."""
    function.__module__ = "gone"
    return function


FUNCTIONS = {
    "backend": lambda x: K.reverse(x, axes=1),
    "unusual name": lambda x: B.reverse(x, axes=1),
    "tensorflow": lambda x: tf.reverse(x, axis=[1]),
    "inner function": lambda x: next(K.reverse(one, axes=1) for one in [x]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_module_is_found(name, tmp_path):
    model = tf_keras.Sequential(
        [
            tf_keras.layers.InputLayer((5, 3)),
            tf_keras.layers.Lambda(of_a_module_that_is_gone(FUNCTIONS[name])),
        ]
    )
    model.save(tmp_path / "model.h5")
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    source = read(tmp_path / "model.h5", trust_code=True)[0]
    np.testing.assert_array_equal(source.reference([x])[0], x[:, ::-1])


def test_a_name_without_a_meaning_is_named(tmp_path):
    model = tf_keras.Sequential(
        [
            tf_keras.layers.InputLayer((5, 3)),
            tf_keras.layers.Lambda(of_a_module_that_is_gone(lambda x: outer(x) * 1.0)),
        ]
    )
    model.save(tmp_path / "model.h5")
    with pytest.raises(UnknownObjectError, match="--custom-objects my_module:outer"):
        read(tmp_path / "model.h5", trust_code=True)
    found = read(tmp_path / "model.h5", trust_code=True, custom_objects={"outer": outer})[0]
    x = np.zeros((1, 5, 3), np.float32)
    np.testing.assert_array_equal(found.reference([x])[0], x + 1)


def test_a_name_in_a_file_of_keras_3_is_named(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            keras.layers.Lambda(lambda x: outer(x) * 1.0, output_shape=(5, 3)),
        ]
    )
    model.save(tmp_path / "model.keras")
    with pytest.raises(UnknownObjectError, match="--custom-objects my_module:outer"):
        read(tmp_path / "model.keras", trust_code=True)
