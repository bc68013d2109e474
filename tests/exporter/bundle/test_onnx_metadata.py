"""The metadata of an ONNX file: what its reader needs without the manifest."""

from __future__ import annotations

import json

import onnxruntime as ort
import pytest


def read(folder) -> dict[str, str]:
    session = ort.InferenceSession(folder / "model.onnx")
    return session.get_modelmeta().custom_metadata_map


@pytest.mark.slow
def test_a_masked_model(exported):
    found = read(exported("classifier").folder)
    (ids,) = json.loads(found["inputs"])
    manifest = exported("classifier").manifest
    assert found["name"] == manifest["name"]
    assert {key: ids[key] for key in ("name", "dtype", "axes", "range", "mask_value")} == {
        key: manifest["inputs"][0][key] for key in ("name", "dtype", "axes", "range", "mask_value")
    }
    assert ids["description"] == "[batch, time] int32, from 0 to 8; 0 is padding"
    (label,) = json.loads(found["outputs"])
    assert label["description"] == "[batch, 2] float32"
    assert "fill the shorter ones" in found["padding"]
    assert "states" not in found


def test_a_model_without_a_mask(exported):
    assert "must have equal lengths" in read(exported("lstm").folder)["padding"]
