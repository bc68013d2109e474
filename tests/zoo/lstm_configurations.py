"""LSTM and Bidirectional(LSTM) in every configuration the two layers have."""

from functools import partial

import keras
from keras import layers as L

from .case import add_case, add_family, case, floats

FLOAT = ("lstm", "float-input")
BIDIRECTIONAL = ("lstm", "bidirectional", "float-input")

# Names in keras.activations that a single ONNX LSTM node can run.
ONNX_ACTIVATIONS = {
    "elu",
    "hard_sigmoid",
    "leaky_relu",
    "linear",
    "relu",
    "sigmoid",
    "softsign",
    "tanh",
}
# glu halves the last axis and threshold takes two more arguments: neither fits a gate.
OTHER_ACTIVATIONS = {  # swish and hard_swish are aliases that Keras 3 keeps
    "celu",
    "exponential",
    "gelu",
    "hard_shrink",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "relu6",
    "selu",
    "silu",
    "soft_shrink",
    "softmax",
    "softplus",
    "sparse_plus",
    "sparse_sigmoid",
    "sparsemax",
    "squareplus",
    "swish",
    "tanh_shrink",
}

SINGLE = {
    "lstm-last": lambda: [L.LSTM(5)],
    "lstm-sequences": lambda: [L.LSTM(5, return_sequences=True)],
    "lstm-one-unit": lambda: [L.LSTM(1, return_sequences=True)],
    "lstm-go-backwards": lambda: [L.LSTM(5, go_backwards=True)],
    "lstm-go-backwards-sequences": lambda: [L.LSTM(5, go_backwards=True, return_sequences=True)],
    "lstm-no-bias": lambda: [L.LSTM(5, use_bias=False, return_sequences=True)],
    "lstm-no-unit-forget-bias": lambda: [L.LSTM(5, unit_forget_bias=False)],
    "lstm-dropouts": lambda: [L.LSTM(5, dropout=0.3, recurrent_dropout=0.2, return_sequences=True)],
    "lstm-seeded-dropout": lambda: [L.LSTM(5, dropout=0.3, seed=7)],
    "lstm-implementation-1": lambda: [L.LSTM(5, implementation=1)],
    "lstm-implementation-2": lambda: [L.LSTM(5, implementation=2, return_sequences=True)],
    "lstm-use-cudnn-false": lambda: [L.LSTM(5, use_cudnn=False)],
    "lstm-regularised": lambda: [
        L.LSTM(
            5,
            kernel_regularizer="l2",
            recurrent_regularizer="l1",
            bias_regularizer="l2",
            activity_regularizer="l2",
            kernel_constraint="max_norm",
        )
    ],
    "lstm-stacked-2": lambda: [L.LSTM(5, return_sequences=True), L.LSTM(3)],
    "lstm-stacked-3-sequences": lambda: [L.LSTM(n, return_sequences=True) for n in (5, 3, 4)],
    "lstm-forwards-then-backwards": lambda: [
        L.LSTM(4, return_sequences=True),
        L.LSTM(5, go_backwards=True, return_sequences=True),
    ],
    "lstm-relu-hard-sigmoid": lambda: [
        L.LSTM(5, activation="relu", recurrent_activation="hard_sigmoid", return_sequences=True)
    ],
    "lstm-activation-none": lambda: [L.LSTM(5, activation=None)],
    "lstm-activation-function-object": lambda: [
        L.LSTM(4, activation=keras.activations.elu, recurrent_activation=keras.ops.sigmoid)
    ],
}
add_family(SINGLE, floats(None, 4), *FLOAT)

STATIC = {
    "lstm-static-time": lambda: [L.LSTM(5)],
    "lstm-static-time-backwards-sequences": lambda: [
        L.LSTM(5, go_backwards=True, return_sequences=True)
    ],
    "lstm-unroll": lambda: [L.LSTM(5, unroll=True)],
    "lstm-unroll-sequences": lambda: [L.LSTM(5, unroll=True, return_sequences=True)],
    "lstm-unroll-backwards-sequences": lambda: [
        L.LSTM(5, unroll=True, go_backwards=True, return_sequences=True)
    ],
    "lstm-unroll-then-dense": lambda: [
        L.LSTM(5, unroll=True, return_sequences=True),
        L.Flatten(),
        L.Dense(3),
    ],
    "bilstm-static-time": lambda: [L.Bidirectional(L.LSTM(5, return_sequences=True))],
    "bilstm-unroll": lambda: [L.Bidirectional(L.LSTM(4, unroll=True))],
    "bilstm-unroll-sequences": lambda: [
        L.Bidirectional(L.LSTM(4, unroll=True, return_sequences=True))
    ],
}
add_family(STATIC, floats(6, 4), "static-time", *FLOAT)
add_family({"lstm-static-one-step": lambda: [L.LSTM(5)]}, floats(1, 4), "static-time", *FLOAT)

for _mode in ("concat", "sum", "mul", "ave", None):
    for _sequences in (False, True):
        _name = f"bilstm-{_mode or 'separate'}-{'sequences' if _sequences else 'last'}"
        _layers = partial(
            lambda mode, sequences: [
                L.Bidirectional(L.LSTM(4, return_sequences=sequences), merge_mode=mode)
            ],
            _mode,
            _sequences,
        )
        add_case(_name, floats(None, 4)(_layers), *BIDIRECTIONAL)


def _own_backward(forward: dict, backward: dict, **options) -> list[L.Layer]:
    return [
        L.Bidirectional(
            L.LSTM(**forward), backward_layer=L.LSTM(go_backwards=True, **backward), **options
        )
    ]


WRAPPED = {
    "bilstm-own-backward": lambda: _own_backward({"units": 4}, {"units": 4}),
    "bilstm-own-backward-activation-sequences": lambda: _own_backward(
        {"units": 4, "return_sequences": True},
        {"units": 4, "return_sequences": True, "activation": "relu", "use_bias": False},
        merge_mode="sum",
    ),
    "bilstm-own-backward-units": lambda: _own_backward({"units": 3}, {"units": 5}),
    "bilstm-own-backward-units-sequences": lambda: _own_backward(
        {"units": 3, "return_sequences": True},
        {"units": 5, "return_sequences": True, "recurrent_activation": "hard_sigmoid"},
    ),
    # Only with its own backward layer: without one Keras refuses a layer that goes backwards.
    "bilstm-directions-swapped": lambda: [
        L.Bidirectional(L.LSTM(4, go_backwards=True), backward_layer=L.LSTM(4))
    ],
    "bilstm-directions-swapped-sequences": lambda: [
        L.Bidirectional(
            L.LSTM(4, go_backwards=True, return_sequences=True),
            backward_layer=L.LSTM(4, return_sequences=True),
        )
    ],
    "bilstm-no-bias": lambda: [L.Bidirectional(L.LSTM(4, use_bias=False, return_sequences=True))],
    "bilstm-activations": lambda: [
        L.Bidirectional(L.LSTM(4, activation="softsign", recurrent_activation="hard_sigmoid"))
    ],
    "bilstm-dropouts": lambda: [
        L.Bidirectional(L.LSTM(4, dropout=0.2, recurrent_dropout=0.2, return_sequences=True))
    ],
    "bilstm-implementation-1": lambda: [L.Bidirectional(L.LSTM(4, implementation=1))],
    "bilstm-stacked-2": lambda: [
        L.Bidirectional(L.LSTM(4, return_sequences=True)),
        L.Bidirectional(L.LSTM(3)),
    ],
    "bilstm-stacked-3": lambda: [
        *[L.Bidirectional(L.LSTM(n, return_sequences=True)) for n in (4, 3, 5)],
        L.Dense(2, activation="softmax"),
    ],
    "bilstm-stacked-merge-modes": lambda: [
        L.Bidirectional(L.LSTM(4, return_sequences=True), merge_mode="sum"),
        L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode="ave"),
        L.Bidirectional(L.LSTM(3), merge_mode="mul"),
    ],
    "bilstm-then-lstm": lambda: [
        L.Bidirectional(L.LSTM(4, return_sequences=True)),
        L.LSTM(5, return_sequences=True),
        L.Dense(3),
    ],
}
add_family(WRAPPED, floats(None, 4), *BIDIRECTIONAL)
add_family(
    {"bilstm-saturated": lambda: [L.Bidirectional(L.LSTM(4, return_sequences=True))]},
    floats(None, 4),
    *BIDIRECTIONAL,
    scale=6.0,
)


@case("lstm-fixed-batch", "static-batch", *FLOAT)
def _fixed_batch() -> keras.Model:
    x = keras.Input(batch_shape=(2, None, 4), name="x")
    return keras.Model(x, L.LSTM(5, return_sequences=True)(x))


@case("bilstm-fixed-batch-and-time", "static-batch", "static-time", *BIDIRECTIONAL)
def _fixed_shape() -> keras.Model:
    x = keras.Input(batch_shape=(3, 6, 4), name="x")
    return keras.Model(x, L.Dense(2)(L.Bidirectional(L.LSTM(5))(x)))


# Some activations grow without bound along a sequence unless the weights are small, others are
# zero wherever they are.
SCALES = {"exponential": 0.1, "hard_shrink": 1.2, "soft_shrink": 1.2, "tanh_shrink": 1.2}


def _with_activation(name: str) -> keras.Model:
    """One LSTM with the activation as `activation`, one with it as `recurrent_activation`."""
    x = keras.Input((None, 4), name="x")
    content = L.LSTM(3, activation=name, return_sequences=True)(x)
    gates = L.LSTM(3, recurrent_activation=name, return_sequences=True)(x)
    return keras.Model(x, {"content": content, "gates": gates})


for _name in sorted(ONNX_ACTIVATIONS | OTHER_ACTIVATIONS):
    _tags = () if _name in ONNX_ACTIVATIONS else ("fallback",)
    _kebab = _name.replace("_", "-")
    add_case(
        f"lstm-activation-{_kebab}",
        partial(_with_activation, _name),
        "activation",
        *_tags,
        *FLOAT,
        scale=SCALES.get(_name, 0.5),
    )


@keras.saving.register_keras_serializable("bilstm_zoo")
def cubic(x):
    """A custom activation: a polynomial with a clip."""
    return keras.ops.clip(0.25 * x * x * x + 0.75 * x, -1.5, 1.5)


@keras.saving.register_keras_serializable("bilstm_zoo")
def scaled_tanh(x):
    """LeCun's tanh."""
    return 1.7159 * keras.ops.tanh(x * 2 / 3)


@keras.saving.register_keras_serializable("bilstm_zoo")
def legacy_hard_sigmoid(x):
    """Keras 2's hard sigmoid, as people carry it over to Keras 3."""
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


CUSTOM_ACTIVATIONS = {
    "lstm-custom-activation": lambda: [L.LSTM(4, activation=cubic, return_sequences=True)],
    "lstm-custom-gates": lambda: [L.LSTM(4, recurrent_activation=legacy_hard_sigmoid)],
    "bilstm-custom-activations": lambda: [
        L.Bidirectional(
            L.LSTM(
                4,
                activation=scaled_tanh,
                recurrent_activation=legacy_hard_sigmoid,
                return_sequences=True,
            )
        )
    ],
    "lstm-activation-layer-object": lambda: [
        L.LSTM(4, activation=L.LeakyReLU(negative_slope=0.1), return_sequences=True)
    ],
}
add_family(CUSTOM_ACTIVATIONS, floats(None, 4), "custom-activation", "fallback", *FLOAT)
