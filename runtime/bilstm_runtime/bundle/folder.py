"""The bundle folder: finds and reads its files, and verifies size and checksum."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bilstm_runtime.bundle.codec import manifest_from_json
from bilstm_runtime.bundle.manifest import MANIFEST_FILE
from bilstm_runtime.constraints import SHA256
from bilstm_runtime.errors import (
    BundleError,
    BundleNotFoundError,
    ChecksumError,
    ManifestError,
    OptionError,
)

if TYPE_CHECKING:
    import os

    from bilstm_runtime.bundle.manifest import Artifact, Golden, Manifest, TargetFile
    from bilstm_runtime.preprocessing_spec import TokenizerFilePreprocessing

_MAX_MANIFEST_BYTES: Final = 32 * 2**20
"""A manifest takes a few KB, and some MB with a vocabulary; a larger file is not read."""


@dataclass(frozen=True)
class Bundle:
    """A bundle folder whose manifest was read and checked.

    Attributes:
        folder: The path of the folder.
        manifest: The manifest.
        sha256: The SHA-256 of manifest.json, which contains those of all other files; empty for a
            manifest that was not read from a file.
    """

    folder: Path
    manifest: Manifest
    sha256: str = ""

    def read(self, item: Artifact | Golden | TokenizerFilePreprocessing | TargetFile) -> bytes:
        """Read a file of the bundle once, and verify its size and checksum.

        Raises:
            BundleNotFoundError: The file is missing.
            BundleError: It is not a regular file, or is a link to a file outside the folder.
            ChecksumError: Its size or checksum differs from the manifest.
        """
        path = self.folder / item.file
        found = _regular_file_size(self.folder, item.file)
        if found != item.bytes:
            message = f"{path} has {found} bytes, the manifest says {item.bytes}. {_COPY_AGAIN}"
            raise ChecksumError(message)
        if item.bytes > _LARGE:  # a sparse file costs no disk, but memory
            self._check(item, _checksum(path))
        content = _read(path, item.bytes)
        self._check(item, hashlib.sha256(content).hexdigest())
        return content

    def _check(
        self, item: Artifact | Golden | TokenizerFilePreprocessing | TargetFile, checksum: str
    ) -> None:
        if checksum != item.sha256:
            message = (
                f"{self.folder / item.file} has the sha256 {checksum[:12]}..., "
                f"the manifest says {item.sha256[:12]}... {_COPY_AGAIN}"
            )
            raise ChecksumError(message)


_LARGE: Final = 2**27
"""The checksum of a file of more bytes is compared before the file is read into memory."""

_COPY_AGAIN: Final = "The file was changed or truncated: copy the bundle again."


def open_bundle(path: str | os.PathLike[str], *, sha256: str | None = None) -> Bundle:
    """Read the manifest of a bundle folder.

    Args:
        path: The folder, such as `model-edge/`.
        sha256: The SHA-256 that manifest.json must have, 64 hexadecimal digits.

    Raises:
        OptionError: `sha256` is not a SHA-256.
        ChecksumError: The manifest has another SHA-256.
        BundleNotFoundError: There is no such folder, or no manifest.json in it.
        BundleError: The manifest cannot be read.
        ManifestError: The manifest is wrong.
        BundleVersionError: The bundle needs a newer bilstm-edge.
    """
    if sha256 is not None and not (
        isinstance(sha256, str) and SHA256.pattern.fullmatch(sha256.lower())
    ):
        message = f"sha256 is {sha256!r:.80}; expected {SHA256.expected}, as export-bilstm prints"
        raise OptionError(message)
    folder = Path(path)
    if folder.is_file():
        message = f"{folder} is a file. Give the bundle folder that holds {MANIFEST_FILE}."
        raise BundleError(message)
    if not folder.is_dir():
        message = f"there is no folder {folder}. Give the folder that bilstm-edge exported to."
        raise BundleNotFoundError(message)
    size = _regular_file_size(folder, MANIFEST_FILE)
    if size > _MAX_MANIFEST_BYTES:
        message = (
            f"{folder / MANIFEST_FILE} has {size} bytes; at most {_MAX_MANIFEST_BYTES} are read"
        )
        raise ManifestError(message)
    content = _read(folder / MANIFEST_FILE, _MAX_MANIFEST_BYTES)
    checksum = hashlib.sha256(content).hexdigest()
    if sha256 is not None and checksum != sha256.lower():
        message = (
            f"{folder / MANIFEST_FILE} has the sha256 {checksum}, not {sha256}: this is not the "
            "bundle that was asked for. Copy the right one, or give the sha256 of this one."
        )
        raise ChecksumError(message)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"{folder / MANIFEST_FILE} is not UTF-8 text ({error}). Copy the bundle again."
        raise ManifestError(message) from error
    return Bundle(folder, manifest_from_json(text), checksum)


def _regular_file_size(folder: Path, name: str) -> int:
    """Return the size in bytes of a regular file inside the folder, with links resolved."""
    path = folder / name
    try:
        real = path.resolve(strict=True)
        status = real.stat()
    except FileNotFoundError as error:
        message = (
            f"there is no file {path}. Give a folder that export-bilstm wrote, and copy all of it."
            if name == MANIFEST_FILE
            else f"there is no file {path}. The bundle is incomplete: copy or export it again."
        )
        raise BundleNotFoundError(message) from error
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        message = f"{path} cannot be opened: {error}"
        raise BundleError(message) from error
    # A target file lies in a folder inside the bundle, which may be no link either.
    if real.parent != folder.resolve() / Path(name).parent:
        message = f"{path} leads out of the bundle folder, to {real}. That is not opened."
        raise BundleError(message)
    if not stat.S_ISREG(status.st_mode):
        message = f"{path} is not a regular file. That is not opened."
        raise BundleError(message)
    return status.st_size


def _checksum(path: Path) -> str:
    """Return the SHA-256 of a file, block by block."""
    checksum = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                checksum.update(block)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}"
        raise BundleError(message) from error
    return checksum.hexdigest()


def _read(path: Path, limit: int) -> bytes:
    """Read up to `limit` bytes of a file."""
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}"
        raise BundleError(message) from error
