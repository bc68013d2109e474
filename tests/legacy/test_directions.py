"""Two directions of a Keras 2 layer share a TFLite loop, as those of Keras 3 do."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras
from tests.exporter.test_pairing import FEATURES, MASKED, UNITS, inputs, loops

import bilstm_runtime
from bilstm_exporter import export

pytestmark = pytest.mark.slow

kl = tf_keras.layers


@pytest.mark.parametrize("before", [[], [kl.Masking(MASKED)]], ids=["unmasked", "masked"])
@pytest.mark.parametrize("layer", [kl.LSTM, kl.GRU])
def test_paired(before, layer, tmp_path):
    x = tf_keras.Input((None, FEATURES))
    stack = [*before, kl.Bidirectional(layer(UNITS, return_sequences=True))]
    model = tf_keras.Sequential([x, *stack])
    with pytest.warns(UserWarning, match="HDF5"):
        model.save(tmp_path / "model.h5")
    export(tmp_path / "model.h5", tmp_path / "edge", formats="tflite")
    assert loops(tmp_path / "edge") == 1
    exported = bilstm_runtime.load(tmp_path / "edge")
    rng = np.random.default_rng(1)
    for batch, time in ((1, 1), (3, 9), (3, 33)):
        steps = inputs(rng, batch, time)
        wanted = model(steps, training=False).numpy()
        np.testing.assert_allclose(exported.predict(steps), wanted, rtol=1e-4, atol=1e-5)
