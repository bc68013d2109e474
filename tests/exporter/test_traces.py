"""How often an export traces the model: tracing a large model takes seconds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bilstm_exporter import export
from bilstm_exporter.frontends.keras3.model import Keras3Model

from .models import MODELS

DATA = np.random.default_rng(0).standard_normal((20, 6, 3)).astype(np.float32)

# What ARCHITECTURE.md says. Analysis and ONNX share one graph while their shapes are the same.
CASES = {
    "one format, float32": ({"formats": "onnx"}, 1),
    "both formats, float32": ({}, 2),
    "both formats, recipes of weights": ({"recipes": "float32,float16,int8,int4"}, 2),
    "both formats, fixed shapes": ({"batch": 1, "time": 6}, 3),
    "every recipe, fixed shapes": ({"batch": 1, "time": 6, "recipes": "all", "data": DATA}, 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_number_of_traces(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options, expected = CASES[name]
    calls: Counter[str] = Counter()
    trace = Keras3Model.trace

    def counted(self: Keras3Model, *args: Any, **options: Any) -> Any:
        calls["trace"] += 1
        return trace(self, *args, **options)

    monkeypatch.setattr(Keras3Model, "trace", counted)
    export(MODELS["stacked"](), tmp_path / "bundle", **options)
    assert calls["trace"] == expected
