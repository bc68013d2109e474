"""What an artifact may cost: in quality, size and time."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from bilstm_exporter.errors import OptionError

KIB = 1024
_NUMBER = r"(\d+\.?\d*|\.\d+)"
_DROP = re.compile(rf"\s*{_NUMBER}\s*%?\s*", re.ASCII)
_SIZE = re.compile(rf"\s*{_NUMBER}\s*(|kb|kib|mb|mib)\s*", re.ASCII | re.IGNORECASE)
_TIME = re.compile(rf"\s*{_NUMBER}\s*(|ms|s)\s*", re.ASCII | re.IGNORECASE)
_KIB_IN = {"": 1, "kb": 1, "kib": 1, "mb": KIB, "mib": KIB}
_MS_IN = {"": 1, "ms": 1, "s": 1000}


@dataclass(frozen=True)
class Budget:
    """The limits of a search; None where there is none.

    Attributes:
        max_drop: The most that any output may lose by its metric, against the float model:
            percentage points of a share (accuracy, F1, unchanged decisions), percent of the float
            model's error (MAE, RMSE).
        max_kb: The largest file, in units of 1,024 bytes.
        max_ms: The longest median time for one example on this machine, in milliseconds.
    """

    max_drop: float | None = None
    max_kb: float | None = None
    max_ms: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is no limit at all, and so nothing to search for."""
        return self.max_drop is None and self.max_kb is None and self.max_ms is None

    @property
    def described(self) -> str:
        """The limits in words, such as ``"a drop of 0.5 % and 800 KiB"``."""
        parts = [
            *([] if self.max_drop is None else [f"a drop of {self.max_drop:g} %"]),
            *([] if self.max_kb is None else [f"{self.max_kb:g} KiB"]),
            *([] if self.max_ms is None else [f"{self.max_ms:g} ms"]),
        ]
        return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 2 else parts)


def parse_budget(
    max_drop: str | float | None = None,
    max_kb: str | float | None = None,
    max_ms: str | float | None = None,
) -> Budget:
    """Read limits as users write them.

    Args:
        max_drop: ``"0.5%"`` or ``"0.5"``: both are half a percent, or half a percentage point.
        max_kb: ``"800"``, ``"800kb"`` or ``"1.5mb"``; one kb is 1,024 bytes.
        max_ms: ``"5"``, ``"5ms"`` or ``"0.005s"``.

    Raises:
        OptionError: One cannot be read; the message says the accepted forms.
    """
    return Budget(
        max_drop=None if max_drop is None else _drop(max_drop),
        max_kb=None if max_kb is None else _scaled("max-kb", max_kb, _SIZE, _KIB_IN, _SIZES),
        max_ms=None if max_ms is None else _scaled("max-ms", max_ms, _TIME, _MS_IN, _TIMES),
    )


_DROPS = "a percentage from 0 to 100 such as 0.5% or 0.5 (both are half a percent)"
_SIZES = "a size above 0 such as 800, 800kb or 1.5mb (one kb is 1,024 bytes)"
_TIMES = "a time above 0 such as 5, 5ms or 0.005s"


def _drop(value: str | float) -> float:
    match = _DROP.fullmatch(str(value)) if isinstance(value, str) else None
    found = float(match.group(1)) if match else _number(value)
    if found is None or not 0 <= found <= 100:
        message = f"max-drop: {value!r}; give {_DROPS}"
        raise OptionError(message)
    return found


def _scaled(
    name: str, value: str | float, pattern: re.Pattern[str], units: dict[str, int], forms: str
) -> float:
    match = pattern.fullmatch(value) if isinstance(value, str) else None
    if match:
        found: float | None = float(match.group(1)) * units[match.group(2).lower()]
    else:
        found = _number(value)
    if found is None or not 0 < found < math.inf:
        message = f"{name}: {value!r}; give {forms}"
        raise OptionError(message)
    return found


def _number(value: object) -> float | None:
    """A number given in Python; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
