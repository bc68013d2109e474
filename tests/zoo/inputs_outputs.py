"""Inputs of every type, several inputs, several outputs."""

from functools import partial

import keras
import numpy as np
from keras import layers as L
from keras import ops

from .case import add_case, case

FLOAT = ("lstm", "bidirectional", "float-input")
IDS = ("lstm", "bidirectional", "id-input")


def _bilstm(units: int = 4, *, last: bool = False, **options) -> L.Layer:
    return L.Bidirectional(L.LSTM(units, return_sequences=not last), **options)


def _input(name: str = "x", features: int = 4) -> keras.KerasTensor:
    return keras.Input((None, features), name=name)


def _tokens(name: str = "ids") -> keras.KerasTensor:
    return keras.Input((None,), dtype="int32", name=name)


# --- several inputs and outputs


@case("two-inputs-list", "multi-input", *FLOAT)
def _two_inputs() -> keras.Model:
    a, b = _input("left"), _input("right", 3)
    return keras.Model([a, b], _bilstm()(L.Concatenate()([a, b])))


@case("two-inputs-dict", "multi-input", *FLOAT)
def _dict_inputs() -> keras.Model:
    inputs = {"signal": _input("signal"), "context": keras.Input((3,), name="context")}
    x = _bilstm(last=True)(inputs["signal"])
    return keras.Model(inputs, L.Dense(2)(L.Concatenate()([x, inputs["context"]])))


@case("three-inputs-of-three-types", "multi-input", "mask", *IDS)
def _mixed_inputs() -> keras.Model:
    ids, features, flag = _tokens(), _input("features", 3), keras.Input((1,), name="flag")
    x = L.Concatenate()([L.Embedding(20, 5)(ids), features])
    x = L.Concatenate()([_bilstm(last=True)(x), flag])
    return keras.Model([ids, features, flag], L.Dense(3, "softmax")(x))


@case("input-names-that-do-not-sort", "multi-input", *FLOAT)
def _unsorted_names() -> keras.Model:
    z, a = _input("z_first"), _input("a_second", 2)
    y = L.Concatenate()([_bilstm(last=True)(z), L.LSTM(2)(a)])
    return keras.Model([z, a], {"zeta": L.Dense(2, name="zeta")(y), "alpha": y})


@case("unused-input", "multi-input", *FLOAT)
def _unused_input() -> keras.Model:
    x, spare = _input(), keras.Input((2,), name="spare")
    return keras.Model([x, spare], _bilstm()(x))


@case("unnamed-input", *FLOAT)
def _unnamed() -> keras.Model:
    return keras.Sequential([keras.Input((None, 4)), _bilstm(), L.Dense(2)])


@case("two-outputs-list", "multi-output", *FLOAT)
def _two_outputs() -> keras.Model:
    y = _bilstm()(x := _input())
    tags = L.TimeDistributed(L.Dense(3, activation="softmax"), name="tags")(y)
    return keras.Model(x, [tags, L.Dense(2, name="label")(_bilstm(last=True)(y))])


@case("three-outputs-dict", "multi-output", "mask", *IDS)
def _dict_outputs() -> keras.Model:
    y = _bilstm()(L.Embedding(20, 5, mask_zero=True)(x := _tokens()))
    outputs = {"steps": L.Dense(3)(y), "peak": L.GlobalMaxPooling1D()(y), "last": L.LSTM(2)(y)}
    return keras.Model(x, outputs)


@case("input-is-an-output", "multi-output", *FLOAT)
def _passed_through() -> keras.Model:
    x = _input()
    return keras.Model(x, [x, _bilstm()(x)])


@case("same-output-twice", "multi-output", *FLOAT)
def _same_output() -> keras.Model:
    y = _bilstm()(x := _input())
    return keras.Model(x, [y, y])


@case("every-layer-an-output", "multi-output", "mask", *IDS)
def _every_layer() -> keras.Model:
    embedded = L.Embedding(20, 5, mask_zero=True)(x := _tokens())
    first = _bilstm()(embedded)
    second = _bilstm(3, last=True)(first)
    return keras.Model(x, [embedded, first, second, L.Dense(2)(second)])


# --- types


# An input keeps the type the model declares.
def _typed(dtype: str, function, shape: tuple = (None, 4)) -> keras.Model:
    x = keras.Input(shape, dtype=dtype, name="x")
    return keras.Model(x, _bilstm()(function(x)))


TYPES = {
    "int32-rescaled": ("int32", lambda x: L.Rescaling(0.1)(x)),
    "int64-cast": ("int64", lambda x: ops.cast(x, "float32") / 10),
    "uint8-rescaled": ("uint8", lambda x: L.Rescaling(1 / 127.5, offset=-1)(x)),
    "bool-cast": ("bool", lambda x: ops.cast(x, "float32")),
    "float16-cast": ("float16", lambda x: ops.cast(x, "float32")),
}


def _typed_values(dtype: str, rng: np.random.Generator, batch: int, time: int) -> list[np.ndarray]:
    if dtype == "float16":
        return [rng.normal(size=(batch, time, 4)).astype(dtype)]
    return [
        rng.integers(0, {"bool": 2, "uint8": 256}.get(dtype, 10), (batch, time, 4)).astype(dtype)
    ]


for _name, (_dtype, _function) in TYPES.items():
    add_case(
        f"input-{_name}",
        partial(_typed, _dtype, _function),
        "typed-input",
        "lstm",
        "bidirectional",
        make_inputs=partial(_typed_values, _dtype),
    )
for _dtype in ("int64", "uint8", "int16", "float32"):
    add_case(
        f"input-ids-{_dtype}",
        partial(_typed, _dtype, lambda x: L.Embedding(20, 5)(x), (None,)),
        "typed-input",
        *IDS,
        make_inputs=lambda rng, batch, time, dtype=_dtype: [
            rng.integers(0, 20, (batch, time)).astype(dtype)
        ],
    )
