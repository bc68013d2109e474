"""Equivalent forms of Keras 3 backend functions that both converters support.

They replace the originals while a model is traced. Each docstring gives the reason.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src import backend
from keras.src.ops import nn as nn_ops
from keras.src.utils import numerical_utils

from bilstm_exporter.frontends.keras3.scans import associative_scan, scan_of_several
from bilstm_exporter.frontends.operators.functions import before_flip, per_group, softplus
from bilstm_exporter.frontends.operators.lookups import encode_classes, lookup_integers
from bilstm_exporter.frontends.operators.operator_forms import COMMON_FORMS
from bilstm_exporter.frontends.patching import replaced
from bilstm_exporter.ir.operator_forms import operator_forms


@contextlib.contextmanager
def convertible_operators() -> Iterator[None]:
    """Use the convertible forms in this context."""
    numpy, nn = backend.numpy, backend.nn
    with (
        operator_forms(COMMON_FORMS),
        replaced(
            {
                (tf, "name_scope"): _name_scope(tf.name_scope),
                (backend.core, "associative_scan"): associative_scan,
                (backend.core, "scan"): scan_of_several(backend.core.scan),
                (numpy, "flip"): _flip(numpy.flip),
                (numpy, "isin"): _isin,
                (numpy, "matmul"): _matmul(numpy.matmul),
                (numpy, "signbit"): _signbit,
                (nn, "conv"): _conv(nn.conv),
                (nn, "max_pool"): _pool(nn.max_pool),
                (nn, "average_pool"): _pool(nn.average_pool),
                (nn, "softplus"): softplus,
                (nn, "log_sigmoid"): lambda x: -softplus(-tf.convert_to_tensor(x)),
                (nn_ops, "_normalize"): _normalize(nn_ops._normalize),  # noqa: SLF001 - for normalize
                (keras.layers.Embedding, "call"): _embedding_call,
                (keras.layers.TimeDistributed, "call"): _time_distributed_call,
                (keras.layers.IntegerLookup, "_lookup_dense"): lookup_integers,
                (numerical_utils, "encode_categorical_inputs"): encode_classes(
                    numerical_utils.encode_categorical_inputs
                ),
            }
        ),
    ):
        yield


def _name_scope(original: Any) -> Any:
    def name_scope(name: str, *args: Any) -> Any:
        """Replace characters that Keras allows in names, but TensorFlow not in scopes."""
        plain = re.sub(r"[^A-Za-z0-9_.\\/>-]", "_", name)
        return original(plain if plain[:1].isalnum() else f"n{plain}", *args)

    return name_scope


def _flip(original: Any) -> Any:
    def flip(x: Any, axis: Any = None) -> Any:
        """Remove a pair of flips, as in Bidirectional."""
        before = before_flip(x, axis) if isinstance(axis, int) else None
        return original(x, axis=axis) if before is None else before

    return flip


def _matmul(original: Any) -> Any:
    def matmul(x1: Any, x2: Any) -> Any:
        """Write ``[..., n] x [n, m]`` as one MatMul; tensordot adds about ten shape operators."""
        if (
            tf.is_tensor(x1)
            and len(x1.shape) > 2
            and len(x2.shape) == 2
            and x1.dtype == x2.dtype
            and x1.dtype.is_floating
        ):
            return tf.matmul(x1, tf.convert_to_tensor(x2))
        return original(x1, x2)

    return matmul


def _isin(x1: Any, x2: Any, assume_unique: bool = False, invert: bool = False) -> Any:  # noqa: FBT001, FBT002
    """Compare with every element; Keras reads the sizes of the tensors in Python."""
    del assume_unique  # has no effect on the result
    x1, x2 = backend.convert_to_tensor(x1), backend.convert_to_tensor(x2)
    dtype = backend.result_type(x1.dtype, x2.dtype)
    column, row = tf.cast(x1, dtype)[..., None], tf.reshape(tf.cast(x2, dtype), [-1])
    found = tf.reduce_any(tf.equal(column, row), -1)
    # As in Keras, no element is found in an empty tensor, also if the result is inverted.
    return tf.logical_and(tf.logical_not(found), tf.size(row) > 0) if invert else found


def _signbit(x: Any) -> Any:
    """Test for 1 / x < 0, which is true for -0.0; no format has the bit operators Keras uses."""
    x = tf.convert_to_tensor(x)
    return tf.logical_or(x < 0, 1 / x < 0)


def _normalize(original: Any) -> Any:
    def normalize(x: Any, axis: Any = -1, order: int = 2, epsilon: float | None = None) -> Any:
        """Use a form that TFLite does not fuse; its fused operator returns NaN for zeros."""
        if order != 2 or not tf.is_tensor(x) or not len(x.shape):
            return original(x, axis=axis, order=order, epsilon=epsilon)
        epsilon = keras.config.epsilon() if epsilon is None else epsilon
        norm = tf.sqrt(tf.reduce_sum(tf.square(x), axis=axis, keepdims=True))
        return x / tf.maximum(norm, epsilon)

    return normalize


def _conv(original: Any) -> Any:
    def conv(inputs: Any, kernel: Any, *args: Any, **kwargs: Any) -> Any:
        """Write a grouped convolution as one convolution per group; Keras calls XLA for it."""
        groups = inputs.shape[-1] // kernel.shape[-2] if len(inputs.shape) > 2 else 1
        if groups == 1 or kwargs.get("data_format") == "channels_first":
            return original(inputs, kernel, *args, **kwargs)
        return per_group(original, groups, inputs, kernel, *args, **kwargs)

    return conv


def _pool(original: Any) -> Any:
    def pool(
        inputs: Any,
        pool_size: Any,
        strides: Any = None,
        padding: str = "valid",
        data_format: Any = None,
    ) -> Any:
        """Pool over two axes, then over the third; TFLite has no 3D pooling."""
        if len(inputs.shape) != 5 or data_format == "channels_first":
            return original(inputs, pool_size, strides, padding, data_format)
        sizes = _three(pool_size)
        steps = sizes if strides is None else _three(strides)
        planes = original(_merge_time(inputs), sizes[1:], steps[1:], padding, data_format)
        planes = _split_time(planes, inputs, tf.shape(inputs))
        height, width, channels = planes.shape[2], planes.shape[3], planes.shape[4]
        area = [height or tf.shape(planes)[2], width or tf.shape(planes)[3]]
        depth = [planes.shape[0] or tf.shape(planes)[0], planes.shape[1] or tf.shape(planes)[1]]
        columns = tf.reshape(planes, [*depth, area[0] * area[1], channels])
        columns = original(columns, (sizes[0], 1), (steps[0], 1), padding, data_format)
        pooled = tf.reshape(
            columns, [depth[0], columns.shape[1] or tf.shape(columns)[1], *area, channels]
        )
        return tf.ensure_shape(pooled, [planes.shape[0], columns.shape[1], height, width, channels])

    return pool


def _three(value: Any) -> tuple[int, ...]:
    return (value,) * 3 if isinstance(value, int) else tuple(value)


def _embedding_call(layer: Any, inputs: Any) -> Any:
    """Look up rows without the four operators that Keras adds for negative ids."""
    if inputs.dtype not in (tf.int32, tf.int64):
        inputs = tf.cast(inputs, tf.int32)
    outputs = tf.gather(tf.convert_to_tensor(layer.embeddings), inputs)
    return keras.ops.cast(outputs, layer.compute_dtype)


def _time_distributed_call(layer: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
    """Merge time into the batch for one call; Keras calls per step, or uses vectorized_map."""
    del training  # always inference
    shape = tf.shape(inputs)
    kwargs: dict[str, Any] = {}
    if mask is not None and layer.layer._call_has_mask_arg:  # noqa: SLF001 - as in Keras
        kwargs["mask"] = _merge_time(mask)
    if layer.layer._call_has_training_arg:  # noqa: SLF001 - as in Keras
        kwargs["training"] = False
    outputs = layer.layer.call(_merge_time(inputs), **kwargs)
    return tf.nest.map_structure(lambda output: _split_time(output, inputs, shape), outputs)


def _merge_time(tensor: Any) -> Any:
    static = tensor.shape
    known = static[0] * static[1] if None not in (static[0], static[1]) else None
    rest = [size or tf.shape(tensor)[axis] for axis, size in enumerate(static) if axis > 1]
    merged = tf.reshape(tensor, [-1 if known is None else known, *rest])
    return tf.ensure_shape(merged, [known, *static[2:]])


def _split_time(output: Any, inputs: Any, shape: Any) -> Any:
    static = inputs.shape
    leading = [static[0] or shape[0], static[1] or shape[1]]
    rest = [size or tf.shape(output)[axis] for axis, size in enumerate(output.shape) if axis > 0]
    split = tf.reshape(output, [*leading, *rest])
    return tf.ensure_shape(split, [static[0], static[1], *output.shape[1:]])
