"""One TFLite file on input after input of other shapes, in the runtime."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as kl

import bilstm_runtime
from bilstm_exporter import export

pytestmark = pytest.mark.slow

FEATURES = 3


def bidirectional(layer):
    def of(x):
        return kl.Bidirectional(layer(6, return_sequences=True))(x)

    return of


def attention(x):
    return bidirectional(kl.LSTM)(kl.MultiHeadAttention(2, 3)(x, x))


MODELS = {
    "GRU": bidirectional(kl.GRU),
    "SimpleRNN": bidirectional(kl.SimpleRNN),
    "attention": attention,
}


def exported(name, folder):
    keras.utils.set_random_seed(0)
    x = keras.Input((None, FEATURES))
    model = keras.Model(x, MODELS[name](x))
    export(model, folder, formats="tflite")
    return model


@pytest.mark.parametrize("name", MODELS)
def test_outputs_at_every_shape(name, tmp_path):
    """LiteRT's output is wrong now and then, at the last shape, if one interpreter runs all."""
    model = exported(name, tmp_path / "edge")
    rng = np.random.default_rng(0)
    inputs = [
        rng.standard_normal((batch, time, FEATURES), np.float32)
        for time in (1, 2, 5, 9, 33)
        for batch in (1, 3)
    ]
    inputs.append(inputs[-2])
    references = [model(x).numpy() for x in inputs]
    for _ in range(24):
        found = bilstm_runtime.load(tmp_path / "edge")
        for x, reference in zip(inputs, references, strict=True):
            np.testing.assert_allclose(found.predict(x), reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "kept"), [("GRU", True), ("attention", False)])
def test_an_interpreter_is_kept_where_litert_knows_all_shapes(name, kept, tmp_path):
    exported(name, tmp_path / "edge")
    model = bilstm_runtime.load(tmp_path / "edge")
    planned = model._file._session._planned
    interpreters = []
    for time in (9, 4):
        model.predict(np.ones((2, time, FEATURES), np.float32))
        interpreters.append(planned._interpreter)
    assert (interpreters[0] is interpreters[1]) is kept
