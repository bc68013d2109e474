"""Writing what was found fastest on this device to where `load` looks for it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bilstm_runtime.bundle.tuning import (
    FORMAT_VERSION,
    Tuning,
    model_key,
    read_entries,
    tuning_file,
)
from bilstm_runtime.device import this_device
from bilstm_runtime.errors import ManifestError, TuningFileError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bilstm_runtime.bundle.folder import Bundle

_MAX_DEVICES: Final = 64
"""Entries kept in one file; the oldest goes first."""


def check_storable(bundle: Bundle) -> None:
    """Raise `TuningFileError` before minutes of work if the tuning surely cannot be written."""
    path = tuning_file(bundle)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        message = (
            f"{path} cannot be written, and that is where the tuning goes, beside the bundle: "
            f"make {path.parent} writable, or give load() itself what is fastest"
        )
        raise TuningFileError(message)


def store_tuning(bundle: Bundle, tuning: Tuning, measured: Mapping[str, Any]) -> Path:
    """Write the tuning for this device beside the bundle, and keep those of other devices.

    Args:
        bundle: The bundle.
        tuning: What to run.
        measured: What was measured, for whoever reads the file; JSON values.

    Returns:
        The file, which was written aside and renamed.

    Raises:
        TuningFileError: It cannot be written.
    """
    path = tuning_file(bundle)
    device = this_device()
    try:
        old = read_entries(path) or {}
    except (ManifestError, OSError, UnicodeDecodeError):
        old = {}  # it was of no use
    devices = {key: entry.value for key, entry in old.items() if key != device.key}
    devices[device.key] = {
        "device": dataclasses.asdict(device),
        "model": model_key(bundle.manifest),
        "choice": dataclasses.asdict(tuning),
        "measured": dict(measured),
    }
    kept = dict(list(devices.items())[-_MAX_DEVICES:])
    text = json.dumps({"format_version": FORMAT_VERSION, "devices": kept}, indent=2) + "\n"
    try:
        write_aside(path, text)
    except OSError as error:
        message = (
            f"{path} cannot be written: {error.strerror or error}. The tuning lies beside the "
            f"bundle: make {path.parent} writable, or load with backend={tuning.backend!r}, "
            f"recipe={tuning.recipe!r}, threads={tuning.threads}"
        )
        raise TuningFileError(message) from error
    return path


def write_aside(path: Path, text: str) -> None:
    """Write a file aside and rename it into place; raises `OSError`."""
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(aside).unlink()
        raise
