"""The stored precision of a matrix, and the elements that share a scale."""

import numpy as np
import pytest

from bilstm_exporter.quantization.affine import ONE_SCALE_ERROR
from bilstm_exporter.quantization.recipes import Precision
from bilstm_exporter.targets.tflite import weight_storage

CHANNELS = 10


def matrix(inputs):
    return np.random.default_rng(0).normal(0, 0.3, (CHANNELS, inputs)).astype(np.float32)


@pytest.mark.parametrize(("inputs", "block"), [(64, 64), (128, 64), (96, 32), (32, 32)])
def test_blocks_are_as_large_as_the_inputs_allow(inputs, block):
    stored = weight_storage.store_matrix(matrix(inputs), Precision.INT4)
    assert stored.precision is Precision.INT4
    assert stored.scales.shape == (CHANNELS, inputs // block)
    assert stored.scales.dtype == np.float16
    assert stored.data.size == CHANNELS * inputs // 2
    assert not stored.reason


def test_no_block_divides_the_inputs():
    stored = weight_storage.store_matrix(matrix(34), Precision.INT4)
    assert stored.precision is Precision.INT4
    assert stored.scales.shape == (CHANNELS,)


@pytest.mark.parametrize("inputs", [2, 12, 24])
def test_a_narrow_matrix_has_one_scale_in_int8(inputs):
    weight = matrix(inputs)
    stored = weight_storage.store_matrix(weight, Precision.INT4)
    assert stored.precision is Precision.INT8
    assert stored.scales.shape == (1,)
    assert f"{inputs} inputs" in stored.reason
    assert np.abs(stored.data * stored.scales - weight).max() <= 0.501 * stored.scales[0]


def test_only_int4_that_would_take_more_room_is_narrow():
    assert weight_storage.store_matrix(matrix(26), Precision.INT4).precision is Precision.INT4


@pytest.mark.parametrize(
    ("inputs", "spread", "scales"), [(128, 1, 1), (128, 3_000, CHANNELS), (512, 1, CHANNELS)]
)
def test_one_scale_serves_where_channels_are_alike_and_theirs_would_take_room(
    inputs, spread, scales
):
    weight = matrix(inputs) * np.geomspace(1, 1 / spread, CHANNELS, dtype=np.float32)[:, None]
    stored = weight_storage.store_matrix(weight, Precision.INT8)
    assert stored.scales.shape == (scales,)
    assert not stored.reason
    error = stored.data * stored.scales[:, None] - weight
    assert np.sqrt(np.square(error).sum() / np.square(weight).sum()) <= ONE_SCALE_ERROR


def test_a_channel_that_one_scale_would_lose_gives_each_its_own():
    weight = matrix(12)
    weight[3] *= 1e-5
    stored = weight_storage.store_matrix(weight, Precision.INT4)
    assert stored.precision is Precision.INT8
    assert stored.scales.shape == (CHANNELS,)
    assert "12 inputs" in stored.reason
    held = stored.data * stored.scales[:, None]
    assert (np.abs(held - weight) <= 0.501 * stored.scales[:, None]).all()
    assert np.abs(stored.data[3]).max() == 127
