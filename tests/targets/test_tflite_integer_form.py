"""The recurrences of int8-full files before calibration, run in TensorFlow, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from bilstm_exporter.ir.cells import SeparateGates
from bilstm_exporter.targets.tflite import tensor_ops
from bilstm_exporter.targets.tflite.integer_lowering import IntegerLowering

from .numpy_cells import FEATURES, masks
from .recurrences import KINDS, Layer, assert_close, layer, make_inputs, make_states

TIMES = (1, 2, 5, 11)


def run(
    one: Layer, x: np.ndarray, mask: Any = None, states: Any = None, *, unrolled: bool = True
) -> list[np.ndarray]:
    """Trace and run one layer at the shapes of its inputs."""
    lowering = IntegerLowering(frozenset({0}) if unrolled else frozenset(), "a test")
    count = one.weights.state_count

    def function(x: Any, *more: Any) -> list[Any]:
        given_mask = more[0] if mask is not None else None
        given = list(more[int(mask is not None) :]) or [None] * count
        result = lowering.lower(one.recurrence, x, given, given_mask)
        outputs = [] if result.outputs is None else [result.outputs]
        return [result.last_output, *outputs, *result.states]

    arrays = [x, *([] if mask is None else [mask]), *(states or [])]
    specs = [tf.TensorSpec(array.shape, array.dtype) for array in arrays]
    concrete = tf.function(function, autograph=False).get_concrete_function(*specs)
    assert (lowering.forms[0].form == "unrolled") == unrolled
    return [tensor.numpy() for tensor in concrete(*map(tf.constant, arrays))]


every_direction = pytest.mark.parametrize("backwards", [False, True])


@every_direction
@pytest.mark.parametrize(
    "kind", ["LSTM", *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k != "LSTM")]
)
@pytest.mark.slow
def test_unrolled(kind, backwards):
    one = layer(kind, go_backwards=backwards)
    for time in TIMES:
        x = make_inputs(2, time)
        assert_close(run(one, x), one.reference(x, [None] * one.weights.state_count, None))
        states = make_states(one.weights, 2)
        assert_close(run(one, x, None, states), one.reference(x, states, None))


@pytest.mark.parametrize("zero", [False, True])
@every_direction
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.slow
def test_every_mask(kind, backwards, zero):
    one = layer(kind, go_backwards=backwards, zero_output_for_mask=zero)
    none = [None] * one.weights.state_count
    for name, mask in masks(4, 7).items():
        if name in {"none valid", "holes", "mixed"}:
            x = make_inputs(4, 7)
            assert_close(run(one, x, mask), one.reference(x, none, mask))


@every_direction
def test_the_fused_lstm(backwards):
    """Its cell state cannot be read, so it is NaN."""
    one = layer("LSTM", go_backwards=backwards)
    for mask in (None, masks(3, 6)["mixed"]):
        x = make_inputs(3, 6)
        *found, carry = run(one, x, mask, unrolled=False)
        assert_close(found, one.reference(x, [None, None], mask)[:-1])
        assert np.isnan(carry).all()


@pytest.mark.parametrize("which", ["gates", "masked steps"])
def test_a_mutant_is_detected(which, monkeypatch):
    if which == "gates":
        products = SeparateGates.products
        monkeypatch.setattr(
            SeparateGates, "products", lambda *args: reversed(list(products(*args)))
        )
    else:
        monkeypatch.setattr(
            tensor_ops.ValidSteps, "to_front", lambda _self, sequences: tf.identity(sequences)
        )
    one = layer("LSTM")
    x, mask = make_inputs(3, 6), masks(3, 6)["left padding"]
    found = run(one, x, mask)
    with pytest.raises(AssertionError):
        assert_close(found, one.reference(x, [None, None], mask))
    assert x.shape[2] == FEATURES
