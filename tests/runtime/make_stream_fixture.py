"""Make fixtures/streamed: a small tagger of two BiLSTMs with a convolution, with stream files.

PYTHONPATH=exporter:runtime python tests/runtime/make_stream_fixture.py
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from bilstm_exporter import export

FOLDER = Path(__file__).parent / "fixtures" / "streamed"


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
    rng = np.random.default_rng(20261127)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.6, weight.shape))
    return model


def main() -> None:
    """Export the model."""
    export(build(), FOLDER, streaming=True, chunk=5, lookahead=3, overwrite=True)


if __name__ == "__main__":
    main()
