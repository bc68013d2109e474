"""The digest that an export reports pins the bundle that it wrote."""

from __future__ import annotations

import bilstm_runtime
from bilstm_exporter import export
from exporter.models import MODELS


def test_the_reported_digest_loads_the_bundle(tmp_path):
    report = export(MODELS["lstm"](), tmp_path / "out", formats="onnx")
    assert report.to_dict()["sha256"] == report.sha256
    assert bilstm_runtime.load(tmp_path / "out", sha256=report.sha256).sha256 == report.sha256
