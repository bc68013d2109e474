"""Every stored part of a weight belongs to its layer, however a cell divides its gates."""

from __future__ import annotations

import keras
import pytest
from keras import layers as kl

from bilstm_exporter.quantization.recipes import Precision

from .conversions import converted

CELLS = {
    "gru-cell-reset-before": lambda: kl.RNN(kl.GRUCell(32, reset_after=False), name="a"),
    "gru-cell-gelu": lambda: kl.RNN(kl.GRUCell(32, activation="gelu", reset_after=False), name="a"),
    "gru-reset-before": lambda: kl.GRU(32, reset_after=False, name="a"),
}


@pytest.mark.parametrize("format_name", ["onnx", "tflite"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.slow
def test_gates_keep_the_precision_of_their_layer(cell, format_name):
    model = keras.Sequential([keras.Input((None, 16), name="x"), CELLS[cell]()])
    weights = converted(model, format_name).write(Precision.INT8, a=Precision.FLOAT16).weights
    assert {(weight.layer, weight.storage) for weight in weights} == {("a", "float16")}
