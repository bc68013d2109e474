"""Formats are registered by their folders, each name once."""

from __future__ import annotations

import pytest

import bilstm_exporter
from bilstm_exporter.quantization.recipes import RECIPES
from bilstm_exporter.targets.base import TargetOptions
from bilstm_exporter.targets.registry import TARGETS, register_target


def test_the_formats_and_their_order():
    assert list(TARGETS) == ["onnx", "tflite"]
    assert bilstm_exporter.ExportOptions().formats == tuple(TARGETS)


def test_a_format_is_registered_once():
    with pytest.raises(ValueError, match="'onnx' is registered already"):
        register_target("onnx", "anywhere", "Target")


@pytest.mark.parametrize("name", TARGETS)
def test_a_registered_format_can_be_made(name):
    assert callable(TARGETS[name].create(TargetOptions(opset=18)).build)


def test_only_one_format_holds_calibrated_recipes():
    held = {n: [r.name for r in RECIPES.values() if TARGETS[n].holds(r)] for n in TARGETS}
    assert set(held["tflite"]) - set(held["onnx"]) == {"int8-full"}
    assert set(held["tflite"]) == set(RECIPES)
