"""Bundle folders that are damaged or hostile."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from bilstm_runtime import load
from bilstm_runtime.bundle import folder as folder_module
from bilstm_runtime.bundle.codec import manifest_from_json
from bilstm_runtime.bundle.folder import Bundle, open_bundle
from bilstm_runtime.errors import (
    ArtifactError,
    BundleError,
    BundleNotFoundError,
    ChecksumError,
    ManifestError,
)

if TYPE_CHECKING:
    from pathlib import Path

BundleMaker = Any
FILES = {"onnx": "model.onnx", "litert": "model.tflite"}


def test_missing_folder_and_file_instead_of_folder(tmp_path: Path, fixtures: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="there is no folder"):
        load(tmp_path / "nothing")
    with pytest.raises(BundleError, match="Give the bundle folder"):
        load(fixtures / "tagger" / "model.onnx")
    with pytest.raises(BundleNotFoundError, match=r"manifest\.json"):
        load(tmp_path)


def test_manifest_that_is_no_text_or_too_large(bundle: BundleMaker) -> None:
    folder = bundle()
    (folder / "manifest.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ManifestError, match="UTF-8"):
        load(folder)
    (folder / "manifest.json").write_bytes(b" " * (33 * 2**20))
    with pytest.raises(ManifestError, match="at most"):
        load(folder)


def test_truncated_manifest(bundle: BundleMaker) -> None:
    folder = bundle()
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])
    with pytest.raises(ManifestError, match="not valid JSON"):
        load(folder)


def test_changed_byte_is_never_run(bundle: BundleMaker, backend: str) -> None:
    folder = bundle()
    path = folder / FILES[backend]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumError, match="sha256"):
        load(folder, backend=backend)


@pytest.mark.parametrize("change", [b"", b"more"])
def test_changed_size_is_never_run(bundle: BundleMaker, backend: str, change: bytes) -> None:
    folder = bundle()
    path = folder / FILES[backend]
    path.write_bytes(path.read_bytes() + change if change else path.read_bytes()[:-1])
    with pytest.raises(ChecksumError, match="bytes, the manifest says"):
        load(folder, backend=backend)


@pytest.mark.parametrize(("size", "error"), [(2**31, ChecksumError), (2**36, ManifestError)])
def test_huge_size_is_not_allocated(
    bundle: BundleMaker, backend: str, size: int, error: type[BundleError]
) -> None:
    def edit(root: dict[str, Any]) -> None:
        for artifact in root["artifacts"]:
            artifact["bytes"] = size

    folder = bundle(edit=edit)
    with pytest.raises(error):
        load(folder, backend=backend)
    with (folder / FILES[backend]).open("r+b") as file:
        file.truncate(size if size > 2**31 else 2**28)  # a sparse file
    with pytest.raises(error):
        load(folder, backend=backend)


def test_a_large_file_is_hashed_before_it_is_read(
    bundle: BundleMaker, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "_LARGE", 10)
    assert load(bundle(), backend=backend).name == "tagger"
    folder = bundle()
    content = bytearray((folder / FILES[backend]).read_bytes())
    content[-1] ^= 1
    (folder / FILES[backend]).write_bytes(content)
    monkeypatch.setattr(folder_module, "_read", lambda *_: pytest.fail("it was read"))
    manifest = manifest_from_json((folder / "manifest.json").read_text())
    artifact = next(a for a in manifest.artifacts if a.file == FILES[backend])
    with pytest.raises(ChecksumError, match="sha256"):
        Bundle(folder, manifest).read(artifact)


CLAIMS: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "mask value": (("inputs", 0, "mask_value"), 1e300, "range of float32"),
    "range": (("inputs", 0, "range"), [-1e300, 1e300], "range of float32"),
    "minimum": (("inputs", 0, "axes", 1, "min"), 2**24, "whole number from 1 to 262144"),
    "sizes": (
        ("inputs", 0, "axes"),
        [{"name": "batch", "size": None}, *({"name": None, "size": 2**24} for _ in range(2))],
        "product is at most",
    ),
    "axes": (
        ("inputs", 0, "axes"),
        [{"name": "batch", "size": None}, *({"name": f"t{i}", "size": 1} for i in range(60_000))],
        "60001 items; at most 32",
    ),
    "inputs": (("inputs",), [{"name": "x"}] * 60_000, "60000 items; at most 4096"),
    "artifacts": (("artifacts",), [{}] * 330_000, "330000 items; at most 256"),
    "versions": (("versions",), dict.fromkeys(map(str, range(200_000)), "1"), "at most 4096"),
    "names": (("artifacts", 0, "inputs"), ["x"] * 330_000, "at most 8192"),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_claims_are_limited_before_they_are_believed(bundle: BundleMaker, case: str) -> None:
    place, value, message = CLAIMS[case]

    def edit(root: dict[str, Any]) -> None:
        item: Any = root
        for key in place[:-1]:
            item = item[key]
        item[place[-1]] = value

    with pytest.raises(ManifestError, match=message):
        load(bundle("classifier", edit=edit))


def test_missing_artifact(bundle: BundleMaker, backend: str) -> None:
    folder = bundle()
    (folder / FILES[backend]).unlink()
    with pytest.raises(BundleNotFoundError, match="incomplete"):
        load(folder, backend=backend)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX files")
def test_links_out_of_the_folder_and_special_files(bundle: BundleMaker, tmp_path: Path) -> None:
    folder = bundle()
    path = folder / "model.onnx"
    shutil.move(path, tmp_path / "elsewhere.onnx")
    path.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="leads out of the bundle folder"):
        load(folder, backend="onnx")
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(BundleError, match="cannot be opened"):
        load(folder, backend="onnx")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BundleError, match="not a regular file"):
        load(folder, backend="onnx")
    path.unlink()
    path.mkdir()
    with pytest.raises(BundleError, match="not a regular file"):
        load(folder, backend="onnx")


def test_a_link_inside_and_a_linked_folder_are_fine(bundle: BundleMaker, tmp_path: Path) -> None:
    folder = bundle()
    (folder / "model.onnx").rename(folder / "real.onnx")
    (folder / "model.onnx").symlink_to("real.onnx")
    (tmp_path / "link").symlink_to(folder)
    assert load(tmp_path / "link", backend="onnx").name == "tagger"


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"\x1c\0\0\0TFL3" + b"\xff" * 64, b"\x08\x09", bytes(1000)]
)
def test_garbage_with_an_honest_checksum(bundle: BundleMaker, backend: str, content: bytes) -> None:
    with pytest.raises(ArtifactError, match=FILES[backend]):
        load(bundle(files={FILES[backend]: content}), backend=backend)


def test_truncated_models_with_an_honest_checksum(bundle: BundleMaker, backend: str) -> None:
    content = (open_bundle(bundle()).folder / FILES[backend]).read_bytes()
    for part in range(1, 8):
        cut = content[: len(content) * part // 8]
        with pytest.raises(ArtifactError):
            load(bundle(files={FILES[backend]: cut}), backend=backend)


def test_external_data_is_not_followed(
    bundle: BundleMaker, fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (fixtures / "external" / "model.onnx").read_bytes()
    monkeypatch.chdir(fixtures / "external")
    with pytest.raises(ArtifactError, match="in another file, which is never opened"):
        load(bundle(files={"model.onnx": content}), backend="onnx")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("inputs", 0, "dtype"), "int64"),
        (("inputs", 0, "axes"), [{"name": "batch", "size": None}]),
        (("outputs", 0, "dtype"), "float64"),
    ],
)
def test_manifest_of_another_model(
    bundle: BundleMaker, backend: str, place: tuple[Any, ...], value: object
) -> None:
    def edit(root: dict[str, Any]) -> None:
        side, number, key = place
        root[side][number][key] = value
        if key == "axes":
            root["outputs"][0]["axes"] = value

    with pytest.raises(ArtifactError, match="do not belong together"):
        load(bundle(edit=edit), backend=backend)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_names_that_are_not_in_the_file(bundle: BundleMaker, backend: str, side: str) -> None:
    def edit(root: dict[str, Any]) -> None:
        for artifact in root["artifacts"]:
            artifact[side] = ["other"]

    with pytest.raises(ArtifactError, match=r"other.*do not belong together"):
        load(bundle(edit=edit), backend=backend)


def test_free_axis_that_is_fixed_in_the_file(bundle: BundleMaker, backend: str) -> None:
    def edit(root: dict[str, Any]) -> None:
        for side in ("inputs", "outputs"):
            root[side][0]["axes"][1]["size"] = None

    with pytest.raises(ArtifactError, match="do not belong together"):
        load(bundle("fixed", edit=edit), backend=backend)
