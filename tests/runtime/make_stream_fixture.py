"""Make fixtures with stream files.

streamed: a small tagger of two BiLSTMs with a convolution
stepped: an LSTM and a GRU, whose stream files take one step at a time

PYTHONPATH=exporter:runtime python tests/runtime/make_stream_fixture.py
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from bilstm_exporter import export

FOLDER = Path(__file__).parent / "fixtures"


def build() -> keras.Model:
    """A tagger whose layers need the past, the future, and a few steps around each step."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((None, 3), name="signal"),
            layers.Conv1D(4, 3, padding="same"),
            layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
            layers.Bidirectional(layers.LSTM(2, return_sequences=True)),
            layers.Dense(3, activation="softmax", name="tags"),
        ],
        name="streamed",
    )
    return with_weights(model)


def build_stepped() -> keras.Model:
    """A model of forward layers."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((None, 3), name="signal"),
            layers.LSTM(4, return_sequences=True),
            layers.GRU(3, return_sequences=True),
        ],
        name="stepped",
    )
    return with_weights(model)


def with_weights(model: keras.Model) -> keras.Model:
    """Set all weights, always to the same values."""
    rng = np.random.default_rng(20261127)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.6, weight.shape))
    return model


def main() -> None:
    """Export the models."""
    export(build(), FOLDER / "streamed", streaming=True, chunk=5, lookahead=3, overwrite=True)
    export(build_stepped(), FOLDER / "stepped", streaming=True, chunk=1, overwrite=True)


if __name__ == "__main__":
    main()
