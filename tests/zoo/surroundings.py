"""Layers and operations around a BiLSTM: convolutions, pooling, normalisation, arithmetic, types."""

from functools import partial

import keras
import numpy as np
from keras import layers as L
from keras import ops

from .case import add_case, add_family, case, floats, ids

FLOAT = ("lstm", "bidirectional", "float-input")
IDS = ("lstm", "bidirectional", "id-input")


def _bilstm(units: int = 4, *, last: bool = False, **options) -> L.Layer:
    return L.Bidirectional(L.LSTM(units, return_sequences=not last), **options)


CONVOLUTIONS = {
    "conv1d-same": lambda: [L.Conv1D(5, 3, padding="same", activation="relu"), _bilstm()],
    "conv1d-causal": lambda: [L.Conv1D(5, 3, padding="causal"), _bilstm()],
    "conv1d-same-strides": lambda: [L.Conv1D(5, 3, strides=2, padding="same"), _bilstm()],
    "conv1d-same-dilation": lambda: [L.Conv1D(5, 3, padding="same", dilation_rate=2), _bilstm()],
    "conv1d-causal-dilation": lambda: [
        L.Conv1D(5, 2, padding="causal", dilation_rate=4),
        _bilstm(last=True),
    ],
    "conv1d-groups": lambda: [L.Conv1D(6, 3, padding="same", groups=2), _bilstm()],
    "conv1d-no-bias-then-norm": lambda: [
        L.Conv1D(5, 3, padding="same", use_bias=False),
        L.BatchNormalization(),
        L.ReLU(),
        _bilstm(last=True),
    ],
    "separable-conv1d-same": lambda: [L.SeparableConv1D(5, 3, padding="same"), _bilstm()],
    "depthwise-conv1d-same": lambda: [L.DepthwiseConv1D(3, padding="same"), _bilstm()],
    "conv1d-transpose": lambda: [L.Conv1DTranspose(5, 2, strides=2), _bilstm()],
    "conv1d-behind": lambda: [_bilstm(), L.Conv1D(3, 3, padding="same")],
    "max-pooling-same": lambda: [L.MaxPooling1D(2, padding="same"), _bilstm()],
    "average-pooling-same": lambda: [L.AveragePooling1D(2, padding="same"), _bilstm()],
    "max-pooling-stride-1": lambda: [L.MaxPooling1D(3, strides=1, padding="same"), _bilstm()],
    "up-sampling": lambda: [L.UpSampling1D(2), _bilstm()],
    "up-sampling-behind": lambda: [_bilstm(), L.UpSampling1D(3)],
    "zero-padding": lambda: [L.ZeroPadding1D((2, 1)), _bilstm()],
}
NORMALISATIONS = {
    "batch-normalization": lambda: [L.BatchNormalization(), _bilstm()],
    "batch-normalization-behind": lambda: [_bilstm(), L.BatchNormalization(), L.Dense(3)],
    "batch-normalization-plain": lambda: [
        L.BatchNormalization(scale=False, center=False),
        _bilstm(),
    ],
    "layer-normalization": lambda: [L.LayerNormalization(), _bilstm(), L.LayerNormalization()],
    "group-normalization": lambda: [L.GroupNormalization(2), _bilstm()],
    "unit-normalization": lambda: [L.UnitNormalization(), _bilstm()],
    "rms-normalization": lambda: [L.RMSNormalization(), _bilstm()],
    "rescaling": lambda: [L.Rescaling(1 / 4, offset=-0.5), _bilstm()],
    "spectral-normalized-dense": lambda: [_bilstm(), L.SpectralNormalization(L.Dense(3))],
}
ELEMENTWISE = {
    "prelu-shared": lambda: [L.Dense(5), L.PReLU(shared_axes=[1]), _bilstm()],
    "leaky-relu": lambda: [L.Dense(5), L.LeakyReLU(negative_slope=0.2), _bilstm()],
    "elu": lambda: [L.ELU(alpha=0.7), _bilstm()],
    "relu-capped": lambda: [L.ReLU(max_value=1.5, negative_slope=0.1, threshold=0.2), _bilstm()],
    "softmax-layer": lambda: [_bilstm(), L.Softmax()],
    "softmax-over-time": lambda: [_bilstm(), L.Softmax(axis=1)],
    "activation-gelu": lambda: [L.Dense(5, activation="gelu"), _bilstm()],
    "activation-mish-and-selu": lambda: [
        L.Dense(5, "mish"),
        _bilstm(),
        L.Dense(4, "selu"),
        L.Dense(2, "softplus"),
    ],
    "dropouts": lambda: [
        L.Dropout(0.2),
        L.SpatialDropout1D(0.2),
        L.GaussianNoise(0.1),
        L.GaussianDropout(0.1),
        L.AlphaDropout(0.1),
        _bilstm(),
        L.ActivityRegularization(l2=0.1),
    ],
    "identity": lambda: [L.Identity(), _bilstm(), L.Identity()],
    "einsum-dense": lambda: [L.EinsumDense("btf,fg->btg", (None, 5), bias_axes="g"), _bilstm()],
    "global-average-pooling": lambda: [_bilstm(), L.GlobalAveragePooling1D(), L.Dense(3)],
    "global-max-pooling": lambda: [_bilstm(), L.GlobalMaxPooling1D(), L.Dense(3)],
    "global-max-pooling-keepdims": lambda: [_bilstm(), L.GlobalMaxPooling1D(keepdims=True)],
    "time-distributed-dense": lambda: [L.TimeDistributed(L.Dense(5)), _bilstm()],
    "time-distributed-sequential": lambda: [
        _bilstm(),
        L.TimeDistributed(keras.Sequential([L.Dense(5, "relu"), L.Dense(2)])),
    ],
    "reshape-free-time": lambda: [L.Reshape((-1, 2)), _bilstm()],
    "repeat-vector": lambda: [
        _bilstm(last=True),
        L.RepeatVector(4),
        L.LSTM(3, return_sequences=True),
    ],
    "repeat-vector-autoencoder": lambda: [
        L.LSTM(5),
        L.RepeatVector(6),
        _bilstm(),
        L.TimeDistributed(L.Dense(4)),
    ],
}
for _family in (CONVOLUTIONS, NORMALISATIONS, ELEMENTWISE):
    add_family(_family, floats(None, 4), *FLOAT, prefix="around-")

NEEDS_LENGTH = {
    "conv1d-valid": (lambda: [L.Conv1D(5, 3), _bilstm()], 3),
    "conv1d-valid-strides": (lambda: [L.Conv1D(5, 3, strides=2), _bilstm()], 3),
    "conv1d-valid-dilation": (lambda: [L.Conv1D(5, 3, dilation_rate=2), _bilstm()], 5),
    "separable-conv1d-valid": (lambda: [L.SeparableConv1D(5, 2, strides=2), _bilstm()], 2),
    "max-pooling-valid": (lambda: [L.MaxPooling1D(2), _bilstm()], 2),
    "average-pooling-behind": (lambda: [_bilstm(), L.AveragePooling1D(3, strides=2)], 3),
    "cropping": (lambda: [L.Cropping1D((1, 1)), _bilstm()], 3),
    "conv-pool-twice": (
        lambda: [
            L.Conv1D(6, 3, activation="relu"),
            L.MaxPooling1D(2),
            L.Conv1D(4, 2, activation="relu"),
            _bilstm(last=True),
            L.Dense(3, "softmax"),
        ],
        6,
    ),
}
for _name, (_layers, _time) in NEEDS_LENGTH.items():
    add_case(f"around-{_name}", floats(None, 4)(_layers), *FLOAT, min_time=_time)

STATIC = {
    "flatten": lambda: [_bilstm(), L.Flatten(), L.Dense(3)],
    "permute": lambda: [L.Permute((2, 1)), _bilstm()],
    "permute-behind": lambda: [_bilstm(), L.Permute((2, 1)), L.Dense(3)],
    "reshape-split": lambda: [L.Reshape((12, 2)), _bilstm()],
    "reshape-behind": lambda: [_bilstm(), L.Reshape((3, 16)), L.Dense(2)],
    "prelu-per-step": lambda: [L.PReLU(), _bilstm()],
    "channels-first-pooling": lambda: [
        L.MaxPooling1D(2, data_format="channels_first"),
        _bilstm(),
    ],
    "adaptive-pooling": lambda: [_bilstm(), L.AdaptiveAveragePooling1D(3)],
    "einsum-over-time": lambda: [L.EinsumDense("btf,tu->buf", (5, 4)), _bilstm()],
}
add_family(STATIC, floats(6, 4), "static-time", *FLOAT, prefix="around-")

IMAGES = {
    "crnn-columns": (
        (None, 8, 1),
        lambda: [
            L.Conv2D(4, 3, padding="same", activation="relu"),
            L.MaxPooling2D((1, 2)),
            L.Reshape((-1, 16)),
            _bilstm(),
            L.Dense(6, "softmax"),
        ],
    ),
    "conv2d-time-distributed-flatten": (
        (None, 6, 2),
        lambda: [
            L.Conv2D(3, (3, 3), padding="same"),
            L.TimeDistributed(L.Flatten()),
            _bilstm(),
        ],
    ),
    "time-distributed-conv2d": (
        (None, 5, 5, 1),
        lambda: [
            L.TimeDistributed(L.Conv2D(3, 3, activation="relu")),
            L.TimeDistributed(L.GlobalAveragePooling2D()),
            _bilstm(last=True),
            L.Dense(2),
        ],
    ),
    "time-distributed-cnn-model": (
        (None, 6, 6, 1),
        lambda: [
            L.TimeDistributed(
                keras.Sequential(
                    [
                        L.Conv2D(3, 3, padding="same", activation="relu"),
                        L.BatchNormalization(),
                        L.MaxPooling2D(2),
                        L.Flatten(),
                        L.Dense(4),
                    ]
                )
            ),
            _bilstm(),
        ],
    ),
    "conv3d-front": (
        (None, 4, 4, 1),
        lambda: [
            L.Conv3D(2, (3, 3, 3), padding="same", activation="relu"),
            L.TimeDistributed(L.Flatten()),
            _bilstm(last=True),
        ],
    ),
}
for _name, (_shape, _layers) in IMAGES.items():
    add_case(f"around-{_name}", floats(*_shape)(_layers), "image", *FLOAT)
add_case(
    "around-conv2d-static",
    floats(8, 6, 1)(
        lambda: [
            L.Conv2D(3, 3, activation="relu"),
            L.MaxPooling2D((2, 1)),
            L.Permute((2, 1, 3)),
            L.Reshape((4, 9)),
            _bilstm(),
        ]
    ),
    "static-time",
    "image",
    *FLOAT,
)

EMBEDDED = {
    "embedding-unmasked": lambda: [_bilstm(last=True), L.Dense(2)],
    "embedding-spatial-dropout-conv": lambda: [
        L.SpatialDropout1D(0.2),
        L.Conv1D(5, 3, padding="same", activation="relu"),
        _bilstm(),
        L.GlobalMaxPooling1D(),
        L.Dense(1, "sigmoid"),
    ],
}
add_family(EMBEDDED, ids(mask_zero=False), *IDS, prefix="around-")


def _functional(function, shape: tuple = (None, 4)) -> keras.Model:
    x = keras.Input(shape, name="x")
    return keras.Model(x, function(x))


OPERATIONS = {
    "ops-mean-over-time": lambda x: ops.mean(_bilstm()(x), axis=1),
    "ops-max-minus-min": lambda x: ops.max(y := _bilstm()(x), axis=1) - ops.min(y, axis=1),
    "ops-last-step": lambda x: L.Dense(3)(_bilstm()(x)[:, -1]),
    "ops-first-step": lambda x: L.Dense(3)(_bilstm()(x)[:, 0, :]),
    "ops-every-second-step": lambda x: _bilstm()(x[:, ::2]),
    "ops-reversed": lambda x: _bilstm()(x[:, ::-1]),
    "ops-flip": lambda x: ops.flip(_bilstm()(ops.flip(x, axis=1)), axis=1),
    "ops-feature-slices": lambda x: _bilstm()(x[:, :, 1:3]) + _bilstm()(x[..., :2]),
    "ops-concatenate": lambda x: _bilstm()(ops.concatenate([x, ops.square(x)], axis=-1)),
    "ops-concatenate-time": lambda x: _bilstm()(ops.concatenate([x, x[:, :1]], axis=1)),
    "ops-stack": lambda x: ops.stack([_bilstm()(x), _bilstm()(x)], axis=2),
    "ops-softmax-weights": lambda x: ops.sum(
        ops.softmax(L.Dense(1)(y := _bilstm()(x)), axis=1) * y, axis=1
    ),
    "ops-arithmetic": lambda x: _bilstm()(2.0 * x - ops.tanh(x) / 3.0 + ops.abs(x) ** 0.5),
    "ops-where-and-clip": lambda x: _bilstm()(ops.where(x > 0, ops.clip(x, 0, 1), 0.1 * x)),
    "ops-transpose-matmul": lambda x: ops.matmul(y := _bilstm()(x), ops.transpose(y, (0, 2, 1))),
    "ops-einsum": lambda x: ops.einsum("bti,bsi->bts", y := _bilstm()(x), y),
    "ops-cumulative-sum": lambda x: _bilstm()(ops.cumsum(x, axis=1)),
    "ops-variance": lambda x: ops.concatenate(
        [ops.mean(y := _bilstm()(x), axis=1), ops.var(y, axis=1)], axis=-1
    ),
    "ops-argmax": lambda x: {
        "best": ops.argmax(y := L.Dense(6)(_bilstm()(x)), axis=-1),
        "scores": y,
    },
    "ops-top-k": lambda x: ops.top_k(L.Dense(6)(_bilstm()(x)), 2)[0],
    "ops-expand-and-squeeze": lambda x: ops.squeeze(
        ops.expand_dims(_bilstm(last=True)(x), axis=1), axis=1
    ),
    "ops-shifted-difference": lambda x: _bilstm()(x - ops.pad(x, [[0, 0], [1, 0], [0, 0]])[:, :-1]),
}
for _name, _function in OPERATIONS.items():
    add_case(f"around-{_name}", partial(_functional, _function), "ops", *FLOAT)

MERGES = {
    "residual": lambda x: L.Add()([L.Dense(8)(x), _bilstm()(x)]),
    "minimum-maximum-average": lambda x: L.Average()(
        [L.Minimum()([a := _bilstm()(x), b := _bilstm()(x)]), L.Maximum()([a, b])]
    ),
    "subtract-multiply": lambda x: L.Multiply()(
        [L.Subtract()([_bilstm()(x), y := L.Dense(8)(x)]), y]
    ),
    "dot": lambda x: L.Dot(axes=-1)([_bilstm(last=True)(x), _bilstm(last=True)(x)]),
    "dot-normalized": lambda x: L.Dot(axes=1, normalize=True)(
        [_bilstm(last=True)(x), L.GlobalMaxPooling1D()(L.Dense(8)(x))]
    ),
    "dot-over-time": lambda x: L.Dot(axes=(2, 2))([_bilstm()(x), L.Dense(8)(x)]),
    "squeeze-excite": lambda x: L.Multiply()(
        [
            y := _bilstm()(x),
            L.Reshape((1, 8))(L.Dense(8, "sigmoid")(L.GlobalAveragePooling1D()(y))),
        ]
    ),
    "average-and-max-pooling": lambda x: L.Dense(2)(
        L.Concatenate()([L.GlobalAveragePooling1D()(y := _bilstm()(x)), L.GlobalMaxPooling1D()(y)])
    ),
    "pooled-broadcast": lambda x: L.Add()(
        [y := _bilstm()(x), L.GlobalAveragePooling1D(keepdims=True)(y)]
    ),
}
for _name, _function in MERGES.items():
    add_case(f"around-{_name}", partial(_functional, _function), "merge", *FLOAT)


@case("around-normalization-adapted", *FLOAT)
def _adapted() -> keras.Model:
    normalization = L.Normalization()
    normalization.adapt(np.random.default_rng(3).normal(2.0, 3.0, (16, 5, 4)).astype("float32"))
    return keras.Sequential([keras.Input((None, 4), name="x"), normalization, _bilstm()])


@case("around-normalization-given", *FLOAT)
def _given() -> keras.Model:
    normalization = L.Normalization(mean=[0.5, -1.0, 2.0, 0.0], variance=[1.0, 2.0, 0.5, 4.0])
    return keras.Sequential([keras.Input((None, 4), name="x"), normalization, _bilstm()])


@case("around-discretization", *FLOAT)
def _discretised() -> keras.Model:
    x = keras.Input((None,), name="x")
    bins = L.Discretization(bin_boundaries=[-1.0, 0.0, 0.7])(x)
    return keras.Model(x, _bilstm()(L.Embedding(4, 5)(bins)))


# Of an input of length 1 the layer drops the time axis.
@case("around-category-encoding", *IDS, min_time=2)
def _category_encoding() -> keras.Model:
    x = keras.Input((None,), dtype="int32", name="ids")
    return keras.Model(x, _bilstm()(L.CategoryEncoding(6, output_mode="one_hot")(x)))
