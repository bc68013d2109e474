"""Lookups of integers and encodings of classes, as operators that both formats have."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.errors import UnsupportedModelError


def refuse_lookup(layer: Any) -> None:
    """Raise an error for an IntegerLookup whose rule no graph can hold.

    Raises:
        UnsupportedModelError: It stops at unknown integers, or hashes them.
    """
    problem = ""
    if not layer.invert and layer.num_oov_indices == 0:
        problem = "num_oov_indices=0, so that it stops at an unknown integer; train it with 1"
    elif layer.num_oov_indices > 1 and getattr(layer, "oov_method", None) == "farmhash":
        problem = "oov_method='farmhash', which no format has; use the default, 'floormod'"
    if problem:
        message = f"the IntegerLookup layer {layer.name!r} has {problem}"
        raise UnsupportedModelError(message, layers=(layer.name,))


def lookup_integers(layer: Any, inputs: Any) -> Any:
    """Look integers up in a sorted constant; no format has TensorFlow's tables.

    Takes the place of ``IndexLookup._lookup_dense``.

    Args:
        layer: The IntegerLookup layer.
        inputs: Integers of any shape.
    """
    with tf.init_scope():
        keys, values = (np.asarray(one) for one in layer.lookup_table.export())
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    flat = tf.reshape(inputs, [-1])
    places = tf.minimum(tf.searchsorted(tf.constant(keys), flat), len(keys) - 1)
    is_known = tf.equal(tf.gather(tf.constant(keys), places), flat)
    found = tf.gather(tf.constant(values), places)
    unknown = tf.fill(tf.shape(flat), tf.constant(layer._default_value, values.dtype))  # noqa: SLF001
    if not layer.invert and layer.num_oov_indices > 1:
        unknown = tf.math.floormod(flat, tf.constant(layer.num_oov_indices, flat.dtype))
        unknown = tf.cast(unknown, values.dtype) + layer._oov_start_index()  # noqa: SLF001
    found = tf.reshape(tf.where(is_known, found, unknown), tf.shape(inputs))
    if layer.mask_token is not None:
        is_mask = tf.equal(inputs, tf.cast(layer._mask_key, inputs.dtype))  # noqa: SLF001
        found = tf.where(is_mask, tf.cast(layer._mask_value, found.dtype), found)  # noqa: SLF001
    return tf.ensure_shape(found, inputs.shape)


def encode_classes(original: Any) -> Any:
    """Return a form of Keras's encoding of classes without DenseBincount, which TFLite lacks."""

    def encode_categorical_inputs(  # noqa: PLR0913, PLR0917
        inputs: Any,
        output_mode: str,
        depth: int,
        dtype: Any,
        sparse: bool = False,  # noqa: FBT001, FBT002 - as in Keras
        count_weights: Any = None,
        backend_module: Any = None,
    ) -> Any:
        # A sparse tensor has the same numbers; what follows takes them in a dense one too.
        if output_mode == "int" or not tf.is_tensor(inputs):
            options = {"sparse": sparse, "backend_module": backend_module}
            return original(
                inputs, output_mode, depth, dtype, count_weights=count_weights, **options
            )
        inputs = inputs if len(inputs.shape) else tf.expand_dims(inputs, 0)
        rank = len(inputs.shape)
        if output_mode == "one_hot":
            if rank > 1 and inputs.shape[-1] == 1:
                inputs = tf.squeeze(inputs, -1)
            return _one_hot(inputs, depth, dtype)
        is_binary = output_mode == "multi_hot"
        return _counts(
            inputs, depth, dtype, count_weights, axis=min(1, rank - 1), is_binary=is_binary
        )

    return encode_categorical_inputs


def encode_classes_of_keras_2(original: Any) -> Any:
    """Return the same for Keras 2, in which classes of one example are the last axis."""

    def encode_categorical_inputs(  # noqa: PLR0913, PLR0917
        inputs: Any,
        output_mode: str,
        depth: int,
        dtype: Any = "float32",
        sparse: bool = False,  # noqa: FBT001, FBT002 - as in Keras
        count_weights: Any = None,
        idf_weights: Any = None,
    ) -> Any:
        rows = inputs
        if tf.is_tensor(inputs) and not len(inputs.shape):
            rows = tf.expand_dims(inputs, -1)
        if tf.is_tensor(inputs) and output_mode == "one_hot" and rows.shape[-1] != 1:
            rows = tf.expand_dims(rows, -1)
        # A sparse tensor has the same numbers; what follows takes them in a dense one too.
        if output_mode == "int" or not tf.is_tensor(inputs) or len(rows.shape) > 2:
            return original(inputs, output_mode, depth, dtype, sparse, count_weights, idf_weights)
        is_binary = output_mode in {"one_hot", "multi_hot"}
        found = _counts(rows, depth, dtype, count_weights, axis=-1, is_binary=is_binary)
        return found * idf_weights if output_mode == "tf_idf" else found

    return encode_categorical_inputs


def _counts(  # noqa: PLR0913 - how Keras's encodings differ
    inputs: Any, depth: int, dtype: Any, weights: Any, *, axis: int, is_binary: bool
) -> Any:
    """Count classes along an axis of numbers, each by its weight, or mark those that occur."""
    axis = axis % len(inputs.shape)
    if is_binary:
        return tf.reduce_max(_one_hot(inputs, depth, dtype), axis=axis)
    if weights is None:
        return tf.reduce_sum(_one_hot(inputs, depth, dtype), axis=axis)
    weights = tf.expand_dims(tf.convert_to_tensor(weights), -1)
    return tf.reduce_sum(_one_hot(inputs, depth, weights.dtype) * weights, axis=axis)


def _one_hot(inputs: Any, depth: int, dtype: Any) -> Any:
    indices = inputs if inputs.dtype in (tf.int32, tf.int64) else tf.cast(inputs, tf.int32)
    return tf.one_hot(indices, depth, dtype=dtype)
