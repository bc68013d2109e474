"""Models of `cases.py` reproduce tf_keras in both formats.

`ZOO_ALL=1` runs all of them (minutes); by default every sixth.
"""

import os

import numpy as np
import pytest
import tf_keras

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.keras_model import TOLERANCE

from .cases import CASES
from .compare import check

# Their states are carried, and their precision changed: see test_files.py.
APART = {"stateful", "mixed-precision", "float64"}
STEP = 1 if os.environ.get("ZOO_ALL") else 6


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES.keys() - APART)[::STEP])
def test_model(name, tmp_path):
    report = check(model := CASES[name](), model, tmp_path / "bundle")
    assert report.generation == f"tf_keras {tf_keras.__version__}: a model in memory"


@pytest.mark.slow
def test_convolutional_recurrence_with_dropout(tmp_path):
    # tf_keras keeps the masks of its first eager call, and refuses every other batch size.
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [
            layers.Input((None, 6)),
            layers.Reshape((-1, 1, 3, 2)),
            layers.Bidirectional(
                layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True, dropout=0.1)
            ),
            layers.ConvLSTM2D(2, 1, recurrent_dropout=0.1),
        ]
    )
    export(model, tmp_path / "bundle")
    for backend in ("onnx", "litert"):
        loaded = bilstm_runtime.load(tmp_path / "bundle", backend=backend)
        for batch in (1, 3):
            x = np.random.default_rng(batch).normal(size=(batch, 7, 6)).astype(np.float32)
            np.testing.assert_allclose(
                loaded.predict(x),
                model.predict(x, verbose=0),
                TOLERANCE.relative,
                TOLERANCE.absolute,
            )
