"""Configurations that other projects' test suites exercise, each rebuilt and scaled down.

A comment in front of each group names the suite whose choice of configurations it follows.
"""

from functools import partial

import keras
from keras import layers as L
from keras import ops

from .case import add_case, add_family, case, floats, ids

BEYOND_LSTM = "beyond-lstm"
FLOAT = ("lstm", "float-input", "suite")
STATIC = ("static-time", *FLOAT)

# OpenVINO, tests/layer_tests/tensorflow2_keras_tests/test_tf2_keras_lstm.py: (time, features),
# units, activation, recurrent activation, use_bias, go_backwards.
OPENVINO_LSTM = (
    ((2, 3), 1, "tanh", "sigmoid", True, False),
    ((2, 3), 4, "relu", "sigmoid", True, False),
    ((2, 3), 2, "elu", "tanh", True, False),
    ((3, 4), 1, "elu", "softmax", True, False),
    ((3, 4), 3, "linear", "sigmoid", True, False),
    ((8, 3), 4, "relu", "sigmoid", False, False),
    ((2, 2), 2, "elu", "tanh", False, False),
    ((8, 3), 3, "relu", "tanh", False, True),
    ((2, 7), 5, "relu", "tanh", True, True),
)


def _lstm(units: int, act: str, gates: str, bias: bool, backwards: bool) -> list[L.Layer]:
    options = {"use_bias": bias, "go_backwards": backwards, "dropout": 0.2}
    return [L.LSTM(units, act, gates, recurrent_dropout=0.3, **options)]


for _shape, *_arguments in OPENVINO_LSTM:
    _units, _act, _gates, _bias, _backwards = _arguments
    _name = f"openvino-lstm-{_shape[0]}x{_shape[1]}-{_units}-{_act}-{_gates}"
    _name += ("" if _bias else "-no-bias") + ("-backwards" if _backwards else "")
    _tags = ("fallback", *STATIC) if _gates == "softmax" else STATIC
    add_case(_name, floats(*_shape)(partial(_lstm, *_arguments)), *_tags)

# OpenVINO, test_tf2_keras_bidirectional.py, _timedistributed.py, _masking.py, _embedding.py.
OPENVINO = {
    "openvino-bidirectional-own-backward": lambda: [
        L.Bidirectional(L.LSTM(3), backward_layer=L.LSTM(3, activation="relu", go_backwards=True))
    ],
    "openvino-dense-then-masking": lambda: [L.Dense(4), L.Masking(0.0), L.LSTM(3)],
}
add_family(OPENVINO, floats(4, 5), *STATIC)


@case("openvino-time-distributed-conv2d", "image", "no-recurrence", "static-time", "suite")
def _distributed_conv() -> keras.Model:
    x = keras.Input((4, 6, 6, 2), name="x")
    return keras.Model(x, L.TimeDistributed(L.Conv2D(3, (3, 3)))(x))


@case("openvino-masking-rank-4", "no-recurrence", "mask", "static-time", "suite")
def _masked_rank_4() -> keras.Model:
    x = keras.Input((4, 3, 5), name="x")
    return keras.Model(x, L.Masking(1.0)(L.Dense(4)(x)))


# OpenVINO, test_tf2_keras_gru.py, _simplernn.py, _rnn.py, _lstm_cell.py, _gru_cell.py,
# _stackedrnncells.py, _conv_lstm_2d.py.
OPENVINO_LATER = {
    "gru-elu-softmax": lambda: [L.GRU(3, "elu", "softmax", reset_after=False)],
    "gru-relu-tanh-no-bias-backwards": lambda: [
        L.GRU(2, "relu", "tanh", use_bias=False, go_backwards=True)
    ],
    "gru-linear-sigmoid-one-unit": lambda: [L.GRU(1, "linear")],
    "simplernn-elu": lambda: [L.SimpleRNN(3, "elu", dropout=0.8, recurrent_dropout=0.3)],
    "simplernn-selu": lambda: [L.SimpleRNN(3, "selu")],
    "lstm-cell-softmax": lambda: [L.RNN(L.LSTMCell(3, "softmax"), return_sequences=True)],
    "lstm-cell-softsign-elu": lambda: [
        L.RNN(L.LSTMCell(5, "softsign", "elu", unit_forget_bias=False), return_sequences=True)
    ],
    "lstm-cell-softplus-softsign": lambda: [
        L.RNN(L.LSTMCell(6, "softplus", "softsign", use_bias=False), return_sequences=True)
    ],
    "gru-cell-linear-tanh": lambda: [
        L.RNN(L.GRUCell(5, "linear", "tanh", reset_after=False), return_sequences=True)
    ],
    "gru-cell-softmax": lambda: [L.RNN(L.GRUCell(4, "softmax", use_bias=False))],
    "stacked-three-gru-cells": lambda: [L.RNN(L.StackedRNNCells([L.GRUCell(4) for _ in range(3)]))],
}
for _name, _layers in OPENVINO_LATER.items():
    _tags = ("fallback",) if "softmax" in _name or "selu" in _name else ()
    _tags = (BEYOND_LSTM, "suite", "float-input", "static-time", *_tags)
    add_case(f"openvino-{_name}", floats(4, 3)(_layers), *_tags, scale=0.6)
OPENVINO_CONV = {
    "conv-lstm2d-swish": lambda: [L.ConvLSTM2D(3, 3, padding="same", activation="swish")],
    "conv-lstm2d-recurrent-elu": lambda: [
        L.ConvLSTM2D(2, 3, dilation_rate=3, recurrent_activation="elu")
    ],
}
add_family(
    OPENVINO_CONV,
    floats(3, 8, 8, 1),
    BEYOND_LSTM,
    "suite",
    "conv-lstm",
    "fallback",
    prefix="openvino-",
)

# tf2onnx, tests/keras2onnx_unit_tests/test_layers.py (once onnx/keras-onnx).
KERAS2ONNX = {
    "lstm-one-step-one-unit": ((1, 1), lambda: [L.LSTM(1, return_sequences=True)]),
    "lstm-reshape": ((3, 7), lambda: [L.LSTM(5, return_sequences=True), L.Reshape((3, 5))]),
    "bidirectional-dense-softmax": (
        (5, 10),
        lambda: [L.Bidirectional(L.LSTM(7)), L.Dense(5), L.Activation("softmax")],
    ),
    "bidirectional-sequences-separate": (
        (5, 10),
        lambda: [L.Bidirectional(L.LSTM(7, return_sequences=True), merge_mode=None)],
    ),
    "three-lstms-unrolled": (
        (3, 4),
        lambda: [
            L.LSTM(6, return_sequences=True, unroll=True),
            L.LSTM(8, return_sequences=True, unroll=True),
            L.LSTM(6, unroll=True),
        ],
    ),
}
for _name, (_shape, _layers) in KERAS2ONNX.items():
    add_case(f"keras2onnx-{_name}", floats(*_shape)(_layers), *STATIC)
KERAS2ONNX_MASKED = {
    "masking-zero": lambda: [L.Masking(0.0), L.LSTM(8)],
    "masking-five": lambda: [L.Masking(5.0), L.LSTM(8)],
    "masking-bidirectional": lambda: [L.Masking(0.0), L.Bidirectional(L.LSTM(8))],
}
add_family(KERAS2ONNX_MASKED, floats(3, 5), "mask", *STATIC, prefix="keras2onnx-")
add_family(
    {
        "bidirectional-free-length": lambda: [
            L.Bidirectional(L.LSTM(6, return_sequences=True)),
            L.Dense(9),
        ]
    },
    ids(vocabulary=39, mask_zero=False),
    "lstm",
    "id-input",
    "suite",
    prefix="keras2onnx-",
)


@case("keras2onnx-lstm-and-cell-side-by-side", BEYOND_LSTM, "states", "cell", *STATIC)
def _side_by_side() -> keras.Model:
    x = keras.Input((3, 5), name="x")
    options = {"return_state": True, "return_sequences": True}
    return keras.Model(x, [*L.LSTM(2, **options)(x), *L.RNN(L.LSTMCell(2), **options)(x)])


@case("keras2onnx-lstm-initial-states-one-step", BEYOND_LSTM, "states", "multi-input", *STATIC)
def _initial_states() -> keras.Model:
    inputs = [keras.Input((1, 2), name="inputs")]
    inputs += [keras.Input((5,), name="state_h"), keras.Input((5,), name="state_c")]
    y = L.LSTM(5, activation="relu", return_sequences=True)(inputs[0], initial_state=inputs[1:])
    return keras.Model(inputs, L.Dense(2, "sigmoid")(y))


@case("keras2onnx-lstm-stateful-free-length", BEYOND_LSTM, "stateful", "static-batch", *FLOAT)
def _stateful() -> keras.Model:
    x = keras.Input(batch_shape=(1, None, 1), name="x")
    return keras.Model(x, L.LSTM(2, return_sequences=True, stateful=True)(x))


@case("keras2onnx-custom-masked-pooling", "mask", "custom-layer", *STATIC)
def _masked_pooling() -> keras.Model:
    layers = [keras.Input((3, 5), name="x"), L.Masking(0.0), L.LSTM(4, return_sequences=True)]
    return keras.Sequential([*layers, MaskedMean()])


@keras.saving.register_keras_serializable("bilstm_zoo")
class MaskedMean(L.Layer):
    """Sum over time divided by the count of valid steps."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_mask(self, inputs, mask=None):
        return None

    def call(self, inputs, mask=None):
        if mask is None:
            return ops.mean(inputs, axis=-2)
        count = ops.sum(ops.cast(mask, inputs.dtype), axis=-1, keepdims=True)
        return ops.sum(inputs, axis=-2) / (count + 1e-7)


# tf2onnx, tests/keras2onnx_applications: CRNN from two LSTMs of opposite direction.
@case("keras2onnx-crnn-two-directions", "image", *STATIC)
def _crnn() -> keras.Model:
    image = keras.Input((8, 8, 1), name="image")
    x = L.MaxPooling2D(2)(L.Conv2D(3, 3, padding="same", activation="relu")(image))
    x = L.Dense(5, "relu")(L.Reshape((4, 12))(x))
    for merge in (L.add, L.concatenate):
        forwards = L.LSTM(4, return_sequences=True)(x)
        backwards = L.LSTM(4, return_sequences=True, go_backwards=True)(x)
        x = L.BatchNormalization()(merge([forwards, ops.flip(backwards, axis=1)]))
    return keras.Model(image, L.Dense(6, "softmax")(x))


@case("keras2onnx-lipnet", BEYOND_LSTM, "gru", "image", "static-time", "suite", "float-input")
def _lipnet() -> keras.Model:
    video = keras.Input((4, 6, 8, 1), name="video")
    x = L.Conv3D(2, (3, 5, 5), strides=(1, 2, 2), activation="relu")(
        L.ZeroPadding3D((1, 2, 2))(video)
    )
    x = L.TimeDistributed(L.Flatten())(L.MaxPooling3D((1, 2, 2))(L.SpatialDropout3D(0.5)(x)))
    for _ in range(2):
        x = L.Bidirectional(L.GRU(4, return_sequences=True))(x)
    return keras.Model(video, L.Dense(5, "softmax")(x))


# tf2onnx, tests/test_lstm.py and test_stacked_lstm.py: sequence lengths as an input, outputs of
# a bidirectional layer used in part, several of them over one input.
@case("tf2onnx-bilstm-outputs-partially-consumed", *FLOAT)
def _partially_consumed() -> keras.Model:
    x = keras.Input((None, 3), name="x")
    forwards, _ = L.Bidirectional(L.LSTM(5, return_sequences=True), merge_mode=None)(x)
    return keras.Model(x, forwards)


@case("tf2onnx-four-bilstms-same-input", *FLOAT)
def _four() -> keras.Model:
    x = keras.Input((None, 3), name="x")
    outputs = [L.Bidirectional(L.LSTM(n))(x) for n in (3, 3, 4)]
    return keras.Model(x, [*outputs, L.LSTM(3)(x)])


@case("tf2onnx-stacked-cells", BEYOND_LSTM, "cell", *FLOAT)
def _stacked() -> keras.Model:
    x = keras.Input((None, 2), name="x")
    return keras.Model(x, L.RNN([L.LSTMCell(5), L.LSTMCell(5)], return_sequences=True)(x))


# tf2onnx, issue 2211: activations that a Bidirectional lost, on one step of one feature.
# onnx2tf, issues 198 and 299 and ops/LSTM.py: a text recogniser with a bidirectional LSTM, a
# policy of one step with its states as inputs, GRU in both directions.
ISSUES = {
    "tf2onnx-issue-2211-bidirectional-relu": (
        (1, 1),
        lambda: [L.Bidirectional(L.LSTM(2, "relu", "relu", return_sequences=True))],
    ),
    "onnx2tf-bidirectional-tanh": (
        (6, 4),
        lambda: [L.Bidirectional(L.LSTM(4, "tanh", "tanh", return_sequences=True))],
    ),
}
for _name, (_shape, _layers) in ISSUES.items():
    add_case(_name, floats(*_shape)(_layers), *STATIC)
add_family(
    {"onnx2tf-bidirectional-gru": lambda: [L.Bidirectional(L.GRU(4, return_sequences=True))]},
    floats(6, 4),
    BEYOND_LSTM,
    "suite",
    "gru",
    "static-time",
    "float-input",
)


@case("onnx2tf-policy-with-states", BEYOND_LSTM, "states", "multi-input", "static-batch", *STATIC)
def _policy() -> keras.Model:
    shapes = {"input": (1, 1, 5), "h_in": (1, 4), "c_in": (1, 4)}
    x, h, c = (keras.Input(batch_shape=shape, name=name) for name, shape in shapes.items())
    y, h_out, c_out = L.LSTM(4, return_state=True)(L.Dense(4, "elu")(x), initial_state=[h, c])
    return keras.Model([x, h, c], [L.Dense(2)(y), h_out, c_out])


# TensorFlow Lite, lite_v2_test.py: a fixed batch, one LSTM and two Bidirectionals on (10, 10).
@case("tflite-rnn-multi-batches", "static-batch", *STATIC)
def _multi_batches() -> keras.Model:
    x = keras.Input(batch_shape=(4, 10, 5), name="x")
    return keras.Model(x, L.LSTM(6)(x))


TFLITE = {
    "lstm": lambda: [L.LSTM(6)],
    "bidirectional": lambda: [
        L.Bidirectional(L.LSTM(5, return_sequences=True)),
        L.Bidirectional(L.LSTM(5)),
        L.Dense(5),
        L.Activation("softmax"),
    ],
    "bidirectional-flatten": lambda: [
        L.Bidirectional(L.LSTM(5, return_sequences=True)),
        L.Flatten(),
        L.Dense(5),
        L.Activation("softmax"),
    ],
}
add_family(TFLITE, floats(10, 5), *STATIC, prefix="tflite-")

# coremltools, converters/mil/frontend/tensorflow2/test/test_v2_ops_tf_keras.py: units 1 and 3,
# activation and recurrent activation None or given, bias or not.
COREMLTOOLS = {
    "lstm-no-activations": lambda: [L.LSTM(3, None, None, return_sequences=True)],
    "lstm-no-gates-no-bias": lambda: [L.LSTM(3, "tanh", None, use_bias=False)],
    "lstm-relu-gates": lambda: [L.LSTM(1, None, "relu", return_sequences=True)],
    "lstm-time-distributed-dense": lambda: [
        L.LSTM(7, return_sequences=True),
        L.TimeDistributed(L.Dense(1)),
    ],
}
add_family(COREMLTOOLS, floats(3, 2), *STATIC, prefix="coremltools-", scale=0.6)

# Keras, layers/rnn/lstm_test.py, bidirectional_test.py, time_distributed_test.py, masking_test.py.
KERAS = {
    "lstm-implementation-1-backwards": (
        (6, 4),
        lambda: [L.LSTM(3, implementation=1, go_backwards=True)],
    ),
    "lstm-implementation-1-unroll": ((6, 4), lambda: [L.LSTM(3, implementation=1, unroll=True)]),
    "bidirectional-two-steps": ((2, 4), lambda: [L.Bidirectional(L.LSTM(4))]),
    "masking-one-unit": ((None, 2), lambda: [L.Masking(0.0), L.LSTM(1)]),
    "time-distributed-no-bias": (
        (2, 4),
        lambda: [L.TimeDistributed(L.Dense(1, use_bias=False)), L.LSTM(2)],
    ),
}
for _name, (_shape, _layers) in KERAS.items():
    add_case(f"keras-{_name}", floats(*_shape)(_layers), *(STATIC if _shape[0] else FLOAT))


@case("keras-time-distributed-softmax-masked", "mask", "no-recurrence", "id-input", "suite")
def _softmax_masked() -> keras.Model:
    tokens = keras.Input((None,), dtype="int32", name="ids")
    x = L.Embedding(10, 5, mask_zero=True)(tokens)
    return keras.Model(tokens, L.TimeDistributed(L.Dense(5, activation="softmax"))(x))


@case("mask-ends-at-up-sampling", "mask", "lstm", "id-input", "suite")
def _mask_ends() -> keras.Model:
    """A mask that ends at the first layer that takes none: the second LSTM sees every step."""
    tokens = keras.Input((None,), dtype="int32", name="ids")
    x = L.LSTM(4, return_sequences=True)(L.Embedding(20, 5, mask_zero=True)(tokens))
    return keras.Model(tokens, L.LSTM(3)(L.UpSampling1D(2)(x)))
