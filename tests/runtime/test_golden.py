"""The golden file: written and read back."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.bundle.golden import Case, golden_content, read_cases

if TYPE_CHECKING:
    from pathlib import Path


def cases() -> list[Case]:
    ids = [np.array([[1, 2, n]], np.int32) for n in range(2)]
    scores = [np.full((1, 3), n, np.float32) for n in range(2)]
    recorded = [{"model.onnx": [score + 1], "other.tflite": [score + 2]} for score in scores]
    return [Case([i], [s], r) for i, s, r in zip(ids, scores, recorded, strict=True)]


def test_round_trip_through_a_bundle(bundle: Any) -> None:
    def edit(root: dict[str, Any]) -> None:
        root["golden"]["cases"] = 2
        root["artifacts"][0]["own_answers"] = True

    folder: Path = bundle(edit=edit, files={"golden.npz": golden_content(cases())})
    found = read_cases(open_bundle(folder))
    assert [list(case.recorded) for case in found] == [["model.onnx"]] * 2
    for case, wanted in zip(found, cases(), strict=True):
        for name in ("inputs", "outputs"):
            for one, other in zip(getattr(case, name), getattr(wanted, name), strict=True):
                np.testing.assert_array_equal(one, other)
                assert one.dtype == other.dtype
        np.testing.assert_array_equal(
            case.recorded["model.onnx"][0], wanted.recorded["model.onnx"][0]
        )


def test_the_same_cases_give_the_same_bytes() -> None:
    content = golden_content(cases())
    assert content == golden_content(cases())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
    assert [member.filename for member in members][:5] == [
        "case0_input0.npy",
        "case0_output0.npy",
        "case0_output0_model.onnx.npy",
        "case0_output0_other.tflite.npy",
        "case1_input0.npy",
    ]
    assert {member.date_time for member in members} == {(1980, 1, 1, 0, 0, 0)}
