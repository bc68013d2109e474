"""Custom layers, which `conftest.here` copies next to the user's model."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops


class Doubler(keras.layers.Layer):
    def call(self, x):
        return x * 2


class Looks(keras.layers.Layer):
    """Decides by the values of its input."""

    def call(self, x):
        return x * 2 if float(ops.max(x)) > 0 else x

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class Numpy(keras.layers.Layer):
    def call(self, x):
        return ops.convert_to_tensor(np.sort(ops.convert_to_numpy(x)))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class Fails(keras.layers.Layer):
    def call(self, x):
        raise RuntimeError("no such luck")

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class Noisy(keras.layers.Layer):
    def call(self, x):
        return x + keras.random.normal(ops.shape(x))


class Digamma(keras.layers.Layer):
    """Neither format has it."""

    def call(self, x):
        return tf.math.digamma(x * x + 1)


class Bits(keras.layers.Layer):
    """ONNX has it, TFLite has not."""

    def call(self, x):
        return x + ops.cast(ops.bitwise_or(ops.cast(x, "int32"), 1), "float32")


class Python(keras.layers.Layer):
    """Calls back into Python."""

    def call(self, x):
        sorted_x = tf.numpy_function(np.sort, [x], tf.float32)
        sorted_x.set_shape(x.shape)
        return sorted_x

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def bent(x):
    """No file can do without this module."""
    return ops.tanh(x) * 0.5


STATE = {"Doubler": Doubler}
