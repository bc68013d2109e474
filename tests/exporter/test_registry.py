"""Formats are registered by their folders, each name once."""

from __future__ import annotations

import pytest

from bilstm_exporter import ExportOptions, export
from bilstm_exporter.errors import UnsupportedModelError
from bilstm_exporter.quantization.recipes import RECIPES, Precision
from bilstm_exporter.targets.base import TargetOptions
from bilstm_exporter.targets.registry import TARGETS, RegisteredTarget, register_target

from .models import MODELS


def test_the_formats_and_their_order():
    assert list(TARGETS) == ["onnx", "tflite"]
    assert ExportOptions().formats == tuple(TARGETS)


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


def test_a_format_can_support_some_precisions_only():
    target = RegisteredTarget("toy", "module", "Class", precisions=frozenset({Precision.FLOAT32}))
    assert [name for name, recipe in RECIPES.items() if target.holds(recipe)] == ["float32"]


@pytest.mark.slow
def test_a_format_without_a_backend_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("bilstm_exporter.artifacts.BACKENDS", {})
    with pytest.raises(UnsupportedModelError, match="no backend of bilstm_runtime runs onnx"):
        export(MODELS["lstm"](), tmp_path / "bundle", formats="onnx")
