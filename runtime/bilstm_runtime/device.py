"""Identifies a device: a measurement is valid only for the same device and backend versions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from bilstm_runtime.backends import BACKENDS

_CPU_INFO: Final = Path("/proc/cpuinfo")
_BOARD: Final = Path("/proc/device-tree/model")
_NAME = re.compile(r"^(?:model name|Hardware|cpu model)\s*:\s*(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Device:
    """The properties of a device that determine the speed of a model.

    Attributes:
        machine: The architecture, such as "x86_64" or "aarch64".
        processor: The name of the processor or the board; empty if the system does not report it.
        cores: The number of cores that this process may use.
        system: The operating system, such as "Linux".
        backends: Versions of the installed backends' packages, by the name of the backend.
    """

    machine: str
    processor: str
    cores: int
    system: str
    backends: dict[str, str]

    @property
    def key(self) -> str:
        """A hash of all attributes, 16 hexadecimal digits."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def this_device() -> Device:
    """Describe the current device, without importing a backend."""
    return Device(
        machine=platform.machine(),
        processor=_processor(),
        cores=usable_cores(),
        system=platform.system(),
        backends={
            backend.name: package_version(backend.package)
            for backend in BACKENDS.values()
            if backend.is_installed
        },
    )


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """Return the name of the processor, or of the board."""
    names = _NAME.findall(_read(_CPU_INFO))
    board = _read(_BOARD).strip("\0 \n")
    return " ".join((names[0] if names else board or platform.processor()).split())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def package_version(package: str) -> str:
    """Return the version of an installed package, or "unknown"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # the module is from a package of another name
        return "unknown"
