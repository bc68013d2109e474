"""Questions asked together have the answers that each has alone, or are asked alone."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from bilstm_exporter.inspection.reference_calls import EVERY_PADDING, answers_together
from keras import layers as kl

from bilstm_exporter.frontends.keras3.model import Keras3Model
from bilstm_exporter.inspection.interface import find_interface
from bilstm_exporter.inspection.probes import make_probes

from .models import floats


class Counting(Keras3Model):
    """Counts what it is asked."""

    def __init__(self, model):
        super().__init__(model)
        self.asked = []

    def reference(self, inputs):
        self.asked.append([array.shape for array in inputs])
        return super().reference(inputs)


class Mixing(kl.Layer):
    """Lets every row see the others."""

    def call(self, x):
        return x + keras.ops.mean(x, axis=0, keepdims=True)


class MixingPadded(kl.Layer):
    """Lets rows see how many steps of the others are padding."""

    def call(self, x):
        steps = keras.ops.cast(keras.ops.any(keras.ops.not_equal(x, 0), axis=-1), "float32")
        return x * keras.ops.mean(steps)


def masked(*layers):
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((None, 3)), kl.Masking(), *layers])


@pytest.mark.parametrize(
    "build",
    [
        lambda: masked(kl.Bidirectional(kl.LSTM(4, return_sequences=True)), kl.GRU(3)),
        lambda: floats(kl.LSTM(4), shape=(6, 3)),
    ],
    ids=["masked", "fixed time"],
)
def test_every_probe_has_its_own_answer(build):
    source = Counting(build())
    interface = find_interface(source)
    source.asked.clear()
    probes = make_probes(source, interface).probes
    assert len(source.asked) < len(probes) - 2
    for probe in probes:
        for found, wanted in zip(probe.outputs, source.reference(probe.inputs), strict=True):
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [Mixing, MixingPadded])
def test_rows_that_depend_on_others_are_asked_alone(layer):
    source = Counting(masked(layer(), kl.LSTM(4)))
    interface = find_interface(source)
    for probe in make_probes(source, interface).probes:
        for found, wanted in zip(probe.outputs, source.reference(probe.inputs), strict=True):
            np.testing.assert_array_equal(found, wanted, err_msg=probe.name)


def candidates(rng, *kinds):
    def values(rows, steps):
        return [rng.normal(size=(rows, steps, 3)).astype(np.float32)]

    return [(name, values(rows, steps)) for name, rows, steps in kinds]


def test_the_first_of_a_shape_is_left_to_be_asked_alone(rng):
    source = Counting(masked(kl.LSTM(4)))
    interface = find_interface(source)
    source.asked.clear()
    asked = candidates(
        rng, ("batch 2", 2, 5), ("batch 2 again", 2, 5), ("ends", 7, 5), (EVERY_PADDING, 7, 5)
    )
    answers = answers_together(source, interface, asked)
    assert sorted(answers) == [1, 2, 3]
    assert source.asked == [[(18, 5, 3)], [(7, 5, 3)]]


def test_a_question_stays_small(rng):
    source = Counting(floats(kl.Dense(2), shape=(2**17,)))
    interface = find_interface(source)
    source.asked.clear()
    kinds = [(name, [rng.normal(size=(4, 2**17)).astype(np.float32)]) for name in "abcd"]
    answers = answers_together(source, interface, kinds)
    assert sorted(answers) == [0, 1, 2, 3]
    assert max(shape[0] for (shape,) in source.asked) == 8


def test_a_fixed_batch_is_asked_alone(rng):
    x = keras.Input(batch_shape=(2, None, 3))
    source = Counting(keras.Model(x, kl.LSTM(4)(x)))
    interface = find_interface(source)
    kinds = candidates(rng, ("a", 2, 5), ("b", 2, 5), ("c", 2, 5))
    assert answers_together(source, interface, kinds) == {}


def test_what_keras_refuses_is_left_to_be_asked_alone(rng):
    source = Counting(floats(kl.LSTM(2)))
    interface = find_interface(source)
    kinds = [(name, [rng.normal(size=(2, 5, 4)).astype(np.float32)]) for name in "abc"]
    assert answers_together(source, interface, kinds) == {}
