"""The examples in the docstrings of the exporter."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import bilstm_exporter

FOLDER = Path(bilstm_exporter.__file__).parent
MODULES = [
    ".".join(path.relative_to(FOLDER.parent).with_suffix("").parts)
    for path in sorted(FOLDER.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", MODULES)
def test_examples(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_there_are_examples():
    assert "bilstm_exporter.quantization.recipes" in MODULES
