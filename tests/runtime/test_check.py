"""`check`: correct files pass, and all others fail."""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bilstm_runtime import check
from bilstm_runtime.backends import BACKENDS, Backend
from bilstm_runtime.errors import ChecksumError, GoldenError, UnknownBackendError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BundleMaker = Any


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "golden.npz") as arrays:
        return dict(arrays)


def npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


@pytest.mark.parametrize("name", ["tagger", "classifier", "pair", "pooled", "fixed"])
def test_right_bundles_pass(fixtures: Path, name: str) -> None:
    report = check(fixtures / name)
    assert report.passed
    assert [item.backend for item in report.checks] == ["onnx", "litert"]
    for item in report.checks:
        assert item.passed and item.cases == 4 and not item.reason
        assert item.max_error_ratio is not None and 0 <= item.max_error_ratio < 0.1
        assert item.max_abs_error is not None and item.max_abs_error < 1e-6


def test_state_that_leaks_is_caught(fixtures: Path) -> None:
    report = check(fixtures / "leaky")
    assert not report.passed
    assert "the second time it runs: something is kept between runs" in report.checks[0].reason


@pytest.mark.parametrize("factor", [1.01, 1 + 1e-3])
def test_wrong_answers_fail(bundle: BundleMaker, factor: float) -> None:
    arrays = arrays_of(bundle())
    arrays["case2_output0"] = arrays["case2_output0"] * np.float32(factor)
    report = check(bundle(files={"golden.npz": npz(**arrays)}))
    assert not report.passed
    assert all(item.passed is False and item.reason == "case 2 is wrong" for item in report.checks)


def test_nan_in_the_answer_fails(bundle: BundleMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [np.full((*arrays[0].shape, 3), np.nan, np.float32)]

    monkeypatch.setitem(
        BACKENDS, "onnx", Backend("onnx", "onnx", "numpy", "onnx", lambda *_, **__: Broken())
    )
    report = check(bundle(), backends=["onnx"])
    assert not report.passed
    assert report.checks[0].max_abs_error == np.inf


def test_an_artifact_may_have_its_own_tolerance(bundle: BundleMaker) -> None:
    arrays = arrays_of(bundle())
    arrays["case0_output0"] = arrays["case0_output0"] + np.float32(0.01)

    def edit(root: dict[str, Any]) -> None:
        root["artifacts"][0]["tolerance"] = {"absolute": 0.05, "relative": 0}

    report = check(bundle(edit=edit, files={"golden.npz": npz(**arrays)}))
    assert [item.passed for item in report.checks] == [True, False]


def recorded_at_export(bundle: BundleMaker, moved: float, error: float) -> Path:
    """An ONNX file that differs by `moved` from its recorded outputs; those differ from Keras."""
    arrays = arrays_of(bundle())
    for name in [name for name in arrays if "output" in name]:
        signs = np.random.default_rng(0).choice([-1, 1], arrays[name].shape).astype(np.float32)
        own = arrays[name] + moved * signs
        arrays[f"{name}_model.onnx"] = own
        arrays[name] = own + error * signs

    def edit(root: dict[str, Any]) -> None:
        del root["artifacts"][1]
        root["artifacts"][0].update(own_answers=True, tolerance={"absolute": 0.5, "relative": 0})

    folder: Path = bundle(edit=edit, files={"golden.npz": npz(**arrays)})
    return folder


@pytest.mark.parametrize(
    ("moved", "error", "passed"),
    [(0, 0.1, True), (0.05, 0.1, True), (0.1, 0.1, False), (1e-3, 0, False), (0.6, 2, False)],
)
def test_recorded_outputs_replace_keras_as_reference(
    bundle: BundleMaker, moved: float, error: float, *, passed: bool
) -> None:
    (item,) = check(recorded_at_export(bundle, moved, error)).checks
    assert (item.reference, item.passed) == ("export", passed)
    assert item.max_abs_error == pytest.approx(moved, abs=1e-6)
    if not passed:
        wrong = "case 0 is wrong" if moved > 0.5 else "the outputs differ from those at export"
        assert item.reason == wrong


def test_missing_recorded_outputs(bundle: BundleMaker) -> None:
    def edit(root: dict[str, Any]) -> None:
        root["artifacts"][0]["own_answers"] = True

    with pytest.raises(GoldenError, match=r"lacks an array.*case0_output0_model\.onnx"):
        check(bundle(edit=edit))


def test_damaged_artifact_fails_with_its_reason(bundle: BundleMaker) -> None:
    folder = bundle()
    (folder / "model.onnx").write_bytes(b"x")
    (folder / "model.tflite").unlink()
    report = check(folder)
    assert [item.passed for item in report.checks] == [False, False]
    assert "has 1 bytes" in report.checks[0].reason
    assert "there is no file" in report.checks[1].reason


def test_backend_that_is_not_installed_is_no_failure(
    bundle: BundleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = check(bundle())
    assert report.passed
    assert [item.passed for item in report.checks] == [None, True]
    assert "not installed" in report.checks[0].reason
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    report = check(bundle())
    assert not report.ran
    assert not report.passed


def test_formats_nobody_runs_are_reported(bundle: BundleMaker) -> None:
    def edit(root: dict[str, Any]) -> None:
        root["artifacts"][1]["format"] = "coreml"

    report = check(bundle(edit=edit))
    assert report.passed
    assert report.checks[1].reason == "no backend runs the format coreml"


def test_unknown_backend(fixtures: Path) -> None:
    with pytest.raises(UnknownBackendError):
        check(fixtures / "tagger", backends=["torch"])


def test_golden_file_that_was_changed(bundle: BundleMaker) -> None:
    with pytest.raises(ChecksumError):
        check(bundle(files={"golden.npz": b"x" * 100}, honest=False))


def bomb() -> bytes:
    """A small file that unpacks to 2 GiB."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("case0_input0.npy", b"")
        archive.infolist()[0].file_size = 2**31
    return content.getvalue()


def huge_array() -> bytes:
    """An array whose header promises more than it holds."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<i4", "fortran_order": False, "shape": (2**50,)}
    )
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("case0_input0.npy", header.getvalue())
    return content.getvalue()


GOLDEN = {
    "garbage": (b"garbage", "cannot be read"),
    "empty": (b"", "cannot be read"),
    "npy": (b"\x93NUMPY\x01\x00", "cannot be read"),
    "missing": (npz(case0_input0=np.ones((1, 2), np.int32)), "lacks an array.*case0_output0"),
    "pickle": (npz(case0_input0=np.array([{}])), "cannot be read"),
    "bomb": (bomb(), "unpacks to|cannot be read"),
    "huge array": (huge_array(), "cannot be read"),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_files_that_cannot_be_read(bundle: BundleMaker, case: str) -> None:
    content, message = GOLDEN[case]
    with pytest.raises(GoldenError, match=message):
        check(bundle(files={"golden.npz": content}))


def test_golden_answers_of_another_shape(bundle: BundleMaker) -> None:
    arrays = arrays_of(bundle())
    arrays["case0_output0"] = arrays["case0_output0"][:, :2]
    report = check(bundle(files={"golden.npz": npz(**arrays)}))
    assert all("has the shape" in item.reason for item in report.checks)
    arrays = arrays_of(bundle())
    arrays["case0_input0"] = arrays["case0_input0"] + 100
    report = check(bundle(files={"golden.npz": npz(**arrays)}))
    assert all("outside of the vocabulary" in item.reason for item in report.checks)


def with_target_file(bundle: BundleMaker) -> Path:
    content = b"int main() { return 0; }"

    def edit(manifest: dict[str, Any]) -> None:
        digest = hashlib.sha256(content).hexdigest()
        entry = {"file": "micro/main.cc", "bytes": len(content), "sha256": digest}
        manifest["target_files"] = [entry]

    folder: Path = bundle(edit=edit)
    (folder / "micro").mkdir()
    (folder / "micro" / "main.cc").write_bytes(content)
    return folder


def test_files_of_other_runtimes_pass_unseen(bundle: BundleMaker) -> None:
    report = check(with_target_file(bundle))
    assert report.passed
    assert [item.backend for item in report.checks] == ["onnx", "litert"]


@pytest.mark.parametrize("how", ["changed", "cut", "missing", "linked", "folder"])
def test_files_of_other_runtimes_are_compared_with_the_manifest(
    bundle: BundleMaker, tmp_path: Path, how: str
) -> None:
    folder = with_target_file(bundle)
    file = folder / "micro" / "main.cc"
    content = file.read_bytes()
    file.unlink()
    if how == "changed":
        file.write_bytes(content.replace(b"0", b"1"))
    elif how == "cut":
        file.write_bytes(content[:-1])
    elif how != "missing":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "main.cc").write_bytes(content)
        if how == "folder":
            file.parent.rmdir()
        link = file if how == "linked" else file.parent
        link.symlink_to(tmp_path / "elsewhere" / ("main.cc" if how == "linked" else ""))
    report = check(folder)
    assert not report.passed
    *_, found = report.checks
    assert (found.file, found.backend, found.passed) == ("micro/main.cc", "", False)
    assert "main.cc" in found.reason


def test_without_a_backend_a_wrong_file_is_found_too(bundle: BundleMaker) -> None:
    folder = with_target_file(bundle)
    (folder / "micro" / "main.cc").write_bytes(b"")
    report = check(folder, backends=[])
    assert not report.ran
    assert not report.passed
    assert [item.reason for item in report.checks] != []
