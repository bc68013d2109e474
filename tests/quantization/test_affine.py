"""Symmetric quantization: integers and scales."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm_exporter.quantization.affine import quantize, quantize_multiplier
from bilstm_exporter.quantization.recipes import (
    Precision,
    PrecisionPlan,
    WeightOwners,
    parse_recipes,
)


@pytest.fixture
def weight():
    return np.random.default_rng(0).normal(0, 0.2, (40, 24)).astype(np.float32)


@pytest.mark.parametrize("bits", [8, 4])
def test_error_is_at_most_half_a_step(weight, bits):
    stored = quantize(weight, (1,), bits)
    most = 2 ** (bits - 1) - 1
    assert np.abs(stored.values).max() == most
    inside = np.abs(weight) <= most * stored.scale
    assert (np.abs(stored.dequantized - weight) <= stored.scale * 0.5001)[inside].all()
    assert stored.scale.shape == (40, 1)


def test_clipping_in_four_bits_lowers_the_squared_error(weight):
    stored = quantize(weight, (1,), 4)
    plain = np.abs(weight).max(axis=1, keepdims=True) / 7
    rounded = np.rint(weight / plain) * plain
    assert np.square(stored.dequantized - weight).sum() < np.square(rounded - weight).sum()


@pytest.mark.parametrize("store", [lambda w: quantize(w, (0,)), quantize_multiplier])
def test_zeros_stay_zeros(store):
    weight = np.zeros((8, 3), np.float32)
    weight[:, 1] = 0.5
    stored = store(weight)
    assert np.isfinite(stored.scale).all()
    assert (stored.scale > 0).all()
    np.testing.assert_array_equal(stored.dequantized[:, [0, 2]], 0)


def test_weights_too_small_for_a_scale_become_zeros():
    stored = quantize(np.full((4, 4), 1e-44, np.float32), (1,))
    np.testing.assert_array_equal(stored.dequantized, 0)


def test_an_outlier_costs_its_own_channel_only(weight):
    weight[3, 5] = 1e4
    stored = quantize_multiplier(weight)
    others = np.arange(24) != 5
    assert np.abs(stored.dequantized - weight)[:, others].max() < 0.01
    assert stored.dequantized[3, 5] == pytest.approx(1e4, rel=1e-3)


def test_float16_scales_are_exact_in_float16(weight):
    scale = quantize(weight, (1,), 4, float16_scales=True).scale
    np.testing.assert_array_equal(scale.astype(np.float16).astype(np.float32), scale)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 33), st.integers(1, 5), st.integers(0, 2**31))
def test_no_pair_of_products_saturates(inputs, channels, seed):
    """As ``vpmaddubsw`` adds two products in 16 bits, for any uint8 on the other side."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(2, (inputs, channels)).astype(np.float32)
    values = quantize_multiplier(weight).values.astype(int)
    padded = np.concatenate([values, np.zeros((inputs % 2, channels), int)])
    pairs = padded.reshape(-1, 2, channels)
    assert 255 * np.maximum(pairs, 0).sum(axis=1).max() <= 32767
    assert 255 * np.minimum(pairs, 0).sum(axis=1).min() >= -32768


def test_plain_quantization_would_saturate():
    values = quantize(np.ones((2, 1), np.float32), (0,)).values.astype(int)
    assert 255 * values.sum() > 32767


def test_owners_know_a_weight_in_any_order(weight):
    owners = WeightOwners([("a", weight), ("b", weight + 1), ("c", weight.T.copy())])
    assert owners.of(weight.reshape(1, 24, 40)) == ("a", "c")
    assert owners.of(weight[::-1] + 1) == ("b",)
    assert owners.of(weight + 2) == ()


def test_a_shared_weight_gets_the_highest_precision():
    plan = PrecisionPlan(Precision.INT4, {"a": Precision.INT8, "b": Precision.FLOAT16})
    assert plan.of(("a", "b")) is Precision.FLOAT16
    assert plan.of(("a", "other")) is Precision.INT8
    assert plan.of(()) is Precision.INT4


def test_recipes_are_parsed_in_their_own_order():
    assert [recipe.name for recipe in parse_recipes("int4, float32")] == ["float32", "int4"]
    assert len(parse_recipes("all")) == 5
