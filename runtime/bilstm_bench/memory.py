"""How much memory a process holds.

Linux tells both figures in /proc. Elsewhere the peak comes from `getrusage`, and the present
one from `ps` (macOS); on Windows both come from the process status interface.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

_STATUS: Final = Path("/proc/self/status")


def resident_bytes() -> int | None:
    """What this process holds in memory now, in bytes; None where the system does not tell."""
    if _STATUS.exists():
        return _from_status("VmRSS")
    if sys.platform == "win32":
        return _windows()[0]
    command = ["/bin/ps", "-o", "rss=", "-p", str(os.getpid())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        return int(done.stdout) * 1024
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def peak_bytes() -> int | None:
    """The most this process ever held, in bytes; None where the system does not tell."""
    if _STATUS.exists():
        return _from_status("VmHWM")
    if sys.platform == "win32":
        return _windows()[1]
    import resource  # noqa: PLC0415 (not on Windows)

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _from_status(name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(encoding="utf-8"), re.MULTILINE)
    return None if found is None else int(found[1]) * 1024


def _windows() -> tuple[int | None, int | None]:
    """The working set, now and at its peak."""

    class Counters(ctypes.Structure):
        _fields_ = (
            ("size", ctypes.c_uint32),
            ("faults", ctypes.c_uint32),
            ("peak", ctypes.c_size_t),
            ("now", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 6),
        )

    counters = Counters()
    counters.size = ctypes.sizeof(counters)
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 (only on Windows)
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    if not kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), counters.size):
        return None, None
    return counters.now, counters.peak
