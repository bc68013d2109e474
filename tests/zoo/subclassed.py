"""Users' own classes: registered custom layers, subclassed models."""

from functools import partial

import keras
import numpy as np
from keras import layers as L
from keras import ops

from .case import add_case, case, random_ids

CUSTOM_FLOAT = ("lstm", "float-input", "custom-layer")
CUSTOM_IDS = ("lstm", "id-input", "mask", "custom-layer")
FLOAT = ("lstm", "bidirectional", "float-input", "subclassed")
IDS = ("lstm", "bidirectional", "id-input", "mask", "subclassed")
registered = keras.saving.register_keras_serializable("bilstm_zoo")


def _bilstm(units: int = 4) -> L.Layer:
    return L.Bidirectional(L.LSTM(units, return_sequences=True))


# --- layers


@registered
class AttentionPooling(L.Layer):
    """Softmax-weighted mean over time that leaves masked steps out."""

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.supports_masking = True

    def build(self, input_shape):
        self.projection = self.add_weight(shape=(input_shape[-1], self.units), name="projection")
        self.context = self.add_weight(shape=(self.units, 1), name="context")

    def call(self, inputs, mask=None):
        scores = ops.matmul(ops.tanh(ops.matmul(inputs, self.projection)), self.context)
        if mask is not None:
            scores = ops.where(ops.expand_dims(mask, -1), scores, -1e9)
        return ops.sum(inputs * ops.softmax(scores, axis=1), axis=1)

    def compute_mask(self, inputs, mask=None):
        return None

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@registered
class ResidualBiLSTM(L.Layer):
    """A custom layer that owns a Bidirectional and hands the mask on to it."""

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.supports_masking = True
        self.recurrent = L.Bidirectional(L.LSTM(units, return_sequences=True), merge_mode="sum")
        self.norm = L.LayerNormalization()

    def build(self, input_shape):
        self.recurrent.build(input_shape)
        self.norm.build(input_shape)

    def call(self, inputs, mask=None, training=None):
        return self.norm(inputs + self.recurrent(inputs, mask=mask, training=training))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@registered
class PositionScale(L.Layer):
    """A custom layer whose output depends on the length of the sequence."""

    def call(self, inputs):
        length = ops.shape(inputs)[1]
        position = ops.cast(ops.arange(length), "float32") / ops.cast(length, "float32")
        return inputs * (1.0 + position[None, :, None])


CUSTOM = {
    "attention-pooling": lambda y: AttentionPooling(5)(_bilstm()(y)),
    "attention-pooling-twice": lambda y: (
        AttentionPooling(3)(_bilstm()(y)) + AttentionPooling(2)(L.Dense(8)(y))
    ),
    "residual-bilstm": lambda y: L.Dense(3)(ResidualBiLSTM(5)(ResidualBiLSTM(5)(y))),
    "position-scale": lambda y: _bilstm()(PositionScale()(y)),
}
for _name, _function in CUSTOM.items():
    add_case(
        f"custom-{_name}",
        partial(lambda f: keras.Model(x := keras.Input((None, 5), name="x"), f(x)), _function),
        *CUSTOM_FLOAT,
    )
    add_case(
        f"custom-{_name}-masked",
        partial(
            lambda f: keras.Model(
                x := keras.Input((None,), dtype="int32", name="ids"),
                f(L.Embedding(20, 5, mask_zero=True)(x)),
            ),
            _function,
        ),
        *CUSTOM_IDS,
    )


# --- models


def _float_input(rng: np.random.Generator, batch: int, time: int) -> list[np.ndarray]:
    return [rng.normal(size=(batch, time, 4)).astype("float32")]


def _id_input(rng: np.random.Generator, batch: int, time: int) -> list[np.ndarray]:
    return [random_ids(rng, (batch, time), 20, ["left", "right", "mixed", "none", "all"])]


def _two_inputs(rng: np.random.Generator, batch: int, time: int) -> list[np.ndarray]:
    return [*_float_input(rng, batch, time), rng.normal(size=(batch, 3)).astype("float32")]


@registered
class Classifier(keras.Model):
    """BiLSTM, dropout, dense: the way tutorials subclass."""

    def __init__(self, units: int = 4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.encoder = L.Bidirectional(L.LSTM(units))
        self.dropout = L.Dropout(0.3)
        self.head = L.Dense(3, activation="softmax")

    def call(self, inputs, training=False):
        return self.head(self.dropout(self.encoder(inputs), training=training))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@case("subclassed-classifier", *FLOAT, make_inputs=_float_input)
def _called_symbolically() -> keras.Model:
    model = Classifier()
    model(keras.Input((None, 4)))
    return model


@case("subclassed-called-on-arrays", *FLOAT, make_inputs=_float_input)
def _called_on_arrays() -> keras.Model:
    model = Classifier(units=3)
    model(np.zeros((2, 6, 4), "float32"))
    return model


@registered
class Tagger(keras.Model):
    """Masked tagger; the mask travels on its own from layer to layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = L.Embedding(20, 5, mask_zero=True)
        self.first = L.Bidirectional(L.LSTM(4, return_sequences=True))
        self.second = L.LSTM(3, return_sequences=True)
        self.head = L.TimeDistributed(L.Dense(4))

    def call(self, inputs):
        return self.head(self.second(self.first(self.embedding(inputs))))


@case("subclassed-masked-tagger", *IDS, make_inputs=_id_input)
def _tagger() -> keras.Model:
    model = Tagger()
    model(keras.Input((None,), dtype="int32"))
    return model


@registered
class ExplicitMask(keras.Model):
    """Computes the mask itself and hands it over by hand, as the masking guide does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = L.Embedding(20, 5, mask_zero=True)
        self.recurrent = L.LSTM(4, return_sequences=True)
        self.pool = L.GlobalMaxPooling1D()

    def call(self, inputs):
        x = self.embedding(inputs)
        return self.pool(self.recurrent(x, mask=self.embedding.compute_mask(inputs)))


@case("subclassed-explicit-mask", *IDS, make_inputs=_id_input)
def _explicit() -> keras.Model:
    model = ExplicitMask()
    model(keras.Input((None,), dtype="int32"))
    return model


@registered
class TwoInputs(keras.Model):
    """A list of inputs, a dict of outputs."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.recurrent = L.Bidirectional(L.LSTM(4, return_sequences=True))
        self.context = L.Dense(8)
        self.head = L.Dense(2)

    def call(self, inputs):
        sequence, context = inputs
        y = self.recurrent(sequence) + keras.ops.expand_dims(self.context(context), 1)
        return {"steps": self.head(y), "last": y[:, -1]}


@case("subclassed-two-inputs", "multi-input", "multi-output", *FLOAT, make_inputs=_two_inputs)
def _two() -> keras.Model:
    model = TwoInputs()
    model([keras.Input((None, 4)), keras.Input((3,))])
    return model


@case("subclassed-inside-functional", "nested", *FLOAT)
def _inside() -> keras.Model:
    x = keras.Input((None, 4), name="x")
    return keras.Model(x, L.Dense(2)(Classifier(units=5)(x)))


@case("subclassed-inside-sequential", "nested", "nan-when-all-padded", *IDS)
def _inside_sequential() -> keras.Model:
    return keras.Sequential(
        [keras.Input((None,), dtype="int32", name="ids"), Tagger(), L.GlobalAveragePooling1D()]
    )


@registered
class Looping(keras.Model):
    """Reaches one layer several times in a Python loop."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.project = L.Dense(4)
        self.recurrent = L.Bidirectional(L.LSTM(4, return_sequences=True), merge_mode="ave")

    def call(self, inputs):
        x = self.project(inputs)
        for _ in range(3):
            x = x + self.recurrent(x)
        return x


@case("subclassed-loop-over-one-layer", "shared", *FLOAT, make_inputs=_float_input)
def _looping() -> keras.Model:
    model = Looping()
    model(keras.Input((None, 4)))
    return model
