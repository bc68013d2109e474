"""Limits, candidates, and the choice of the best candidate within the limits."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bilstm_exporter.errors import OptionError
from bilstm_exporter.quantization.recipes import PrecisionPlan

KIB = 1024

MIXED = "mixed"
"""The name of the recipe of a mix, in which layers differ in precision."""

_NUMBER = r"(\d+\.?\d*|\.\d+)"
_DROP = re.compile(rf"\s*{_NUMBER}\s*%?\s*", re.ASCII)
_SIZE = re.compile(rf"\s*{_NUMBER}\s*(|kb|kib|mb|mib)\s*", re.ASCII | re.IGNORECASE)
_TIME = re.compile(rf"\s*{_NUMBER}\s*(|ms|s)\s*", re.ASCII | re.IGNORECASE)
_KIB_IN = {"": 1, "kb": 1, "kib": 1, "mb": KIB, "mib": KIB}
_MS_IN = {"": 1, "ms": 1, "s": 1000}
_DROP_FORMS = "a percentage from 0 to 100 such as 0.5% or 0.5 (both are half a percent)"
_SIZE_FORMS = "a size above 0 such as 800, 800kb or 1.5mb (one kb is 1,024 bytes)"
_TIME_FORMS = "a time above 0 such as 5, 5ms or 0.005s"

# A mix must be smaller than every plain recipe by at least this fraction.
_MIN_SAVING = 0.02
# In points or percent: the excess over a limit is relative to at least this, as a limit may be 0.
_MIN_LIMIT = 0.1
# Differences of shares have rounding errors.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Budget:
    """The limits of a search; None for no limit.

    Attributes:
        max_drop: The largest loss of any output's metric against Keras: in percentage points for
            a share (accuracy, F1, unchanged decisions), in percent of Keras's error for an error
            (MAE, RMSE).
        max_kb: The largest file, in units of 1,024 bytes.
        max_ms: The longest median time for one example on this machine, in milliseconds.
    """

    max_drop: float | None = None
    max_kb: float | None = None
    max_ms: float | None = None

    @property
    def is_unlimited(self) -> bool:
        """Whether there is no limit."""
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
    """Parse limits.

    Args:
        max_drop: ``"0.5%"`` or ``"0.5"``: both are half a percent, or half a percentage point.
        max_kb: ``"800"``, ``"800kb"`` or ``"1.5mb"``; one kb is 1,024 bytes.
        max_ms: ``"5"``, ``"5ms"`` or ``"0.005s"``.

    Raises:
        OptionError: A limit cannot be read; the message gives the accepted forms.
    """
    return Budget(
        max_drop=None if max_drop is None else _drop(max_drop),
        max_kb=None if max_kb is None else _scaled("max-kb", max_kb, _SIZE, _KIB_IN, _SIZE_FORMS),
        max_ms=None if max_ms is None else _scaled("max-ms", max_ms, _TIME, _MS_IN, _TIME_FORMS),
    )


class Limit(enum.Enum):
    """The quantity that a limit of a budget applies to."""

    DROP = enum.auto()
    SIZE = enum.auto()
    TIME = enum.auto()


@dataclass(frozen=True)
class Candidate:
    """An artifact that a search tried.

    Attributes:
        recipe: The recipe's name, or ``"mixed"``.
        description: A description, such as ``"int8, but 'dense' in float16"``.
        plan: The precision of every layer.
        bytes: The file's size in bytes.
        drop: The loss of the metric: percentage points for a share, percent for an error.
        error: The error of its predictions against Keras's, as a fraction of their spread.
        milliseconds: The median time of one example on this machine; None if not measured.
        payload: An object of the caller, such as the artifact.
    """

    recipe: str
    description: str
    plan: PrecisionPlan
    bytes: int
    drop: float
    error: float
    milliseconds: float | None = None
    payload: Any = field(default=None, repr=False, compare=False)

    @property
    def kib(self) -> float:
        """The size in units of 1,024 bytes."""
        return self.bytes / KIB

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON and the manifest."""
        return {
            "recipe": self.recipe,
            "description": self.description,
            "bytes": self.bytes,
            "drop": self.drop if math.isfinite(self.drop) else None,
            "milliseconds": self.milliseconds,
            "layers": {name: precision.label for name, precision in self.plan.layers.items()}
            if self.recipe == MIXED
            else {},
        }


def excess(candidate: Candidate, budget: Budget) -> float:
    """Return the largest excess over a limit, as a fraction of the limit; 0 within all limits."""
    parts = [0.0]
    if budget.max_drop is not None:
        over = candidate.drop - budget.max_drop
        parts.append(over / max(budget.max_drop, _MIN_LIMIT))
    if budget.max_kb is not None:
        parts.append(candidate.kib / budget.max_kb - 1)
    if budget.max_ms is not None and candidate.milliseconds is not None:
        parts.append(candidate.milliseconds / budget.max_ms - 1)
    return math.inf if any(map(math.isnan, parts)) else max(parts)


def keeps_drop(drop: float, budget: Budget) -> bool:
    """Whether a drop is within the limit, if there is one."""
    return budget.max_drop is None or drop <= budget.max_drop + _ROUNDING


def exceeded(candidate: Candidate, budget: Budget) -> list[Limit]:
    """Return the limits that a candidate exceeds; a time that was not measured is too long."""
    found = []
    if not keeps_drop(candidate.drop, budget):
        found.append(Limit.DROP)
    if budget.max_kb is not None and candidate.kib > budget.max_kb:
        found.append(Limit.SIZE)
    ms = candidate.milliseconds
    if budget.max_ms is not None and (ms is None or ms > budget.max_ms):
        found.append(Limit.TIME)
    return found


def choose(candidates: Sequence[Candidate], budget: Budget) -> Candidate | None:
    """Choose the best candidate within all limits, or None.

    With a limit on the drop, that is the smallest file. If files of plain recipes are within 2 %
    of its size, it is the most precise of these, or the fastest if time is limited. Without a
    limit on the drop, it is the candidate with the smallest drop, then the smallest file.

    Args:
        candidates: The candidates, plain recipes first.
        budget: The limits.
    """
    fitting = [candidate for candidate in candidates if not exceeded(candidate, budget)]
    if not fitting:
        return None
    if budget.max_drop is None:
        return min(fitting, key=lambda c: (c.drop, c.error, c.bytes))
    smallest = min(candidate.bytes for candidate in fitting)
    plain = [c for c in fitting if c.recipe != MIXED and c.bytes * (1 - _MIN_SAVING) <= smallest]
    if plain:
        return plain[0] if budget.max_ms is None else min(plain, key=_time)
    return min(fitting, key=lambda c: (c.bytes, _time(c), c.drop, c.error))


def closest(candidates: Sequence[Candidate], budget: Budget) -> Candidate | None:
    """Return the candidate that exceeds the limits least; None without candidates."""
    timed = [c for c in candidates if c.milliseconds is not None]
    known = timed if budget.max_ms is not None and timed else candidates
    return min(known, key=lambda c: (excess(c, budget), c.drop, c.bytes), default=None)


def pareto(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return the Pareto front in size, drop and measured time, the largest file first."""
    kept: list[Candidate] = []
    ordered = sorted(candidates, key=lambda c: (c.bytes, c.drop, _time(c), c.recipe == MIXED))
    for candidate in ordered:
        dominated = any(
            other.bytes <= candidate.bytes
            and other.drop <= candidate.drop
            and (
                candidate.milliseconds is None
                or (other.milliseconds is not None and _time(other) <= _time(candidate))
            )
            for other in kept
        )
        if not dominated and math.isfinite(candidate.drop):
            kept.append(candidate)
    return tuple(reversed(kept))


def _time(candidate: Candidate) -> float:
    return math.inf if candidate.milliseconds is None else candidate.milliseconds


def _drop(value: str | float) -> float:
    match = _DROP.fullmatch(str(value)) if isinstance(value, str) else None
    found = float(match.group(1)) if match else _number(value)
    if found is None or not 0 <= found <= 100:
        message = f"max-drop: {value!r}; give {_DROP_FORMS}"
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
    """Return a finite number as a float; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
