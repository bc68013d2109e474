"""Equivalent forms of tf_keras functions that both converters support.

They replace the originals while a model is traced. Each docstring gives the reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow.compat import v2 as tf_v2
from tensorflow.python.eager.context import eager_mode
from tf_keras.src import backend
from tf_keras.src.engine import sequential
from tf_keras.src.layers.convolutional import base_conv
from tf_keras.src.layers.preprocessing import preprocessing_utils
from tf_keras.src.layers.rnn.base_conv_rnn import ConvRNN

from bilstm_exporter.frontends.operators.functions import before_flip, per_group, softplus
from bilstm_exporter.frontends.operators.lookups import encode_classes_of_keras_2, lookup_integers
from bilstm_exporter.frontends.operators.operator_forms import COMMON_FORMS
from bilstm_exporter.frontends.patching import replaced
from bilstm_exporter.ir.cells import StepCell
from bilstm_exporter.ir.operator_forms import operator_forms
from bilstm_exporter.ir.recurrence import Lowering, Recurrence


@contextlib.contextmanager
def convertible_operators(lowering: Lowering) -> Iterator[None]:
    """Use the convertible forms in this context."""
    embedding, repeated = tf_keras.layers.Embedding, tf_keras.layers.TimeDistributed
    with (
        operator_forms(COMMON_FORMS),
        replaced(
            {
                (backend, "reverse"): _reverse(backend.reverse),
                (tf_v2, "split"): _split(tf_v2.split),
                (tf_v2, "tensordot"): _tensordot(tf_v2.tensordot),
                (tf_v2.math, "softplus"): softplus,
                (tf_v2.nn, "softplus"): softplus,
                (tf_v2.nn, "convolution"): _convolution(tf_v2.nn.convolution),
                (base_conv.Conv, "_jit_compiled_convolution_op"): base_conv.Conv.convolution_op,
                (ConvRNN, "get_initial_state"): _initial_images(ConvRNN.get_initial_state),
                # A Sequential without a declared input would rebuild itself for this shape.
                (sequential.Sequential, "_build_graph_network_for_inferred_shape"): _keep_graph(
                    sequential.Sequential._build_graph_network_for_inferred_shape  # noqa: SLF001
                ),
                (embedding, "call"): _embedding_call,
                (tf_keras.layers.IntegerLookup, "_lookup_dense"): lookup_integers,
                (preprocessing_utils, "encode_categorical_inputs"): encode_classes_of_keras_2(
                    preprocessing_utils.encode_categorical_inputs
                ),
                (repeated, "call"): _time_distributed_call(repeated.call, lowering),
                (repeated, "compute_mask"): _time_distributed_mask(repeated.compute_mask),
            }
        ),
    ):
        yield


def _reverse(original: Any) -> Any:
    def reverse(x: Any, axes: Any) -> Any:
        """Remove a pair of flips, as in Bidirectional."""
        before = before_flip(x, axes) if isinstance(axes, int) else None
        return original(x, axes) if before is None else before

    return reverse


def _split(original: Any) -> Any:
    def split(value: Any, *args: Any, **kwargs: Any) -> Any:
        """Split a weight into constants; TFLite requires a constant convolution kernel."""
        if not isinstance(value, tf.Variable):
            return original(value, *args, **kwargs)
        with eager_mode():
            parts = [part.numpy() for part in original(value.read_value(), *args, **kwargs)]
        return [tf.constant(part) for part in parts]

    return split


def _tensordot(original: Any) -> Any:
    def tensordot(a: Any, b: Any, axes: Any, name: str | None = None) -> Any:
        """Write ``[..., n] x [n, m]`` as one MatMul; tensordot adds about ten shape operators."""
        if tf.is_tensor(a) and len(b.shape) == 2 and axes == [[len(a.shape) - 1], [0]]:
            return tf.matmul(a, tf.convert_to_tensor(b))
        return original(a, b, axes, name=name)

    return tensordot


def _convolution(original: Any) -> Any:
    def convolution(inputs: Any, filters: Any, *args: Any, **kwargs: Any) -> Any:
        """Write a grouped convolution as one convolution per group; no format supports groups."""
        groups = inputs.shape[-1] // filters.shape[-2] if inputs.shape[-1] else 1
        if groups <= 1 or str(kwargs.get("data_format")).startswith("NC"):
            return original(inputs, filters, *args, **kwargs)
        return per_group(original, groups, inputs, filters, *args, **kwargs)

    return convolution


def _initial_images(original: Any) -> Any:
    def get_initial_state(layer: Any, inputs: Any) -> Any:
        """Return zeros of the inferred shape; tf_keras convolves zeros to find the shape."""
        shape = layer.compute_output_shape(inputs.shape)
        shape = (shape[0] if layer.return_state else shape)[2 if layer.return_sequences else 1 :]
        if None in tuple(shape):
            return original(layer, inputs)
        zeros = tf.zeros([inputs.shape[0] or tf.shape(inputs)[0], *shape], inputs.dtype)
        return [zeros] * len(layer.cell.state_size)

    return get_initial_state


def _keep_graph(original: Any) -> Any:
    def build_graph(model: Any, *args: Any, **kwargs: Any) -> None:
        if not model._graph_initialized:  # noqa: SLF001 - as the original checks it
            original(model, *args, **kwargs)

    return build_graph


def _embedding_call(layer: Any, inputs: Any) -> Any:
    """Look up constants; tf_keras reads from the variable, which is a constant here."""
    if inputs.dtype not in (tf.int32, tf.int64):
        inputs = tf.cast(inputs, tf.int32)
    outputs = tf.gather(tf.convert_to_tensor(layer.embeddings), inputs)
    return tf.cast(outputs, layer.compute_dtype)


def _time_distributed_call(original: Any, lowering: Lowering) -> Any:
    def call(layer: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """Merge time into the batch for one call, as tf_keras does for its own layers.

        For other layers, tf_keras's eager call loops over time without passing the mask, and a
        masked step repeats the previous output.
        """
        if layer._always_use_reshape or tf.nest.is_nested(inputs):  # noqa: SLF001
            return original(layer, inputs, training=training, mask=mask)
        outputs = _reshaped(layer.layer, inputs)
        if mask is None:
            return outputs
        repeat = Recurrence(layer.name, StepCell(_identity, 1), False, True, False)  # noqa: FBT003
        states = [tf.zeros([tf.shape(inputs)[0], 1])]
        return lowering.lower(repeat, outputs, states, tf.cast(mask, tf.bool)).outputs

    return call


def _identity(inputs: Any, states: list[Any]) -> tuple[Any, list[Any]]:
    return inputs, states


def _reshaped(layer: Any, inputs: Any) -> Any:
    static, sizes = inputs.shape, tf.shape(inputs)
    inner = [size or sizes[axis] for axis, size in enumerate(static)][2:]
    merged = tf.ensure_shape(tf.reshape(inputs, [-1, *inner]), [None, *static[2:]])
    kwargs = {"training": False} if layer._expects_training_arg else {}  # noqa: SLF001
    outputs = layer(merged, **kwargs)
    rest = [size or tf.shape(outputs)[axis] for axis, size in enumerate(outputs.shape)][1:]
    split = tf.reshape(outputs, [static[0] or sizes[0], static[1] or sizes[1], *rest])
    return tf.ensure_shape(split, [*static[:2], *outputs.shape[1:]])


def _time_distributed_mask(original: Any) -> Any:
    def compute_mask(layer: Any, inputs: Any, mask: Any = None) -> Any:
        """Compute the mask as in an eager call: only tf_keras's own layers change it."""
        return original(layer, inputs, mask) if layer._always_use_reshape else mask  # noqa: SLF001

    return compute_mask
