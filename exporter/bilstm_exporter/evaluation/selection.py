"""Which of the artifacts that a search tried keeps within the limits, and which is best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bilstm_exporter.evaluation.budget import KIB, Budget
from bilstm_exporter.quantization.recipes import PrecisionPlan

MIXED = "mixed"
"""The recipe's name of a mix."""

# A mix that is not even this much smaller is not worth being one.
_WORTH_MIXING = 0.02
# A limit of no drop at all is missed by twice as much at 0.2 points as at 0.1.
_LEAST_DROP = 0.1
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Candidate:
    """An artifact that a search tried.

    Attributes:
        recipe: The recipe's name, or ``"mixed"``.
        description: In words, such as ``"int8, but 'dense' in float16"``.
        plan: The precision of every layer.
        bytes: The file's size.
        drop: What it loses by the metric: percentage points of a share, or percent of an error.
        error: How far its answers are from Keras's, in percent of their spread.
        milliseconds: The median time of one example here, or None if that was not measured.
        payload: What the caller keeps with it, such as the artifact itself.
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
        """Plain values, for JSON and the manifest."""
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
    """By which part of a limit a candidate misses the budget most; 0 where it keeps all limits."""
    parts = [0.0]
    if budget.max_drop is not None:
        over = candidate.drop - budget.max_drop
        parts.append(over / max(budget.max_drop, _LEAST_DROP))
    if budget.max_kb is not None:
        parts.append(candidate.kib / budget.max_kb - 1)
    if budget.max_ms is not None and candidate.milliseconds is not None:
        parts.append(candidate.milliseconds / budget.max_ms - 1)
    return math.inf if any(map(math.isnan, parts)) else max(parts)


def keeps_drop(drop: float, budget: Budget) -> bool:
    """Whether a drop is within the limit, if there is one; differences of shares have rounding."""
    return budget.max_drop is None or drop <= budget.max_drop + _ROUNDING


def misses(candidate: Candidate, budget: Budget) -> list[str]:
    """Which limits it breaks: "drop", "size", "time"."""
    broken = []
    if not keeps_drop(candidate.drop, budget):
        broken.append("drop")
    if budget.max_kb is not None and candidate.kib > budget.max_kb:
        broken.append("size")
    ms = candidate.milliseconds
    if budget.max_ms is not None and (ms is None or ms > budget.max_ms):
        broken.append("time")
    return broken


def choose(candidates: Sequence[Candidate], budget: Budget) -> Candidate | None:
    """The best of those that keep all limits, or None.

    With a limit on the drop that is the smallest file; where the files of plain recipes are within
    2 % of it, the plainest of those, which is also the most precise (the fastest, where time is
    limited). Without a limit on the drop it is what loses least, and of equals the smallest.

    Args:
        candidates: The plain recipes first.
        budget: The limits.
    """
    fitting = [candidate for candidate in candidates if not misses(candidate, budget)]
    if not fitting:
        return None
    if budget.max_drop is None:
        return min(fitting, key=lambda c: (c.drop, c.error, c.bytes))
    smallest = min(candidate.bytes for candidate in fitting)
    plain = [c for c in fitting if c.recipe != MIXED and c.bytes * (1 - _WORTH_MIXING) <= smallest]
    if plain:
        return plain[0] if budget.max_ms is None else min(plain, key=_time)
    return min(fitting, key=lambda c: (c.bytes, _time(c), c.drop, c.error))


def nearest(candidates: Sequence[Candidate], budget: Budget) -> Candidate | None:
    """What misses the limits least; None without candidates."""
    timed = [c for c in candidates if c.milliseconds is not None]
    known = timed if budget.max_ms is not None and timed else candidates
    return min(known, key=lambda c: (excess(c, budget), c.drop, c.bytes), default=None)


def pareto(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other one beats in size, drop and, where measured, time; the largest first."""
    kept: list[Candidate] = []
    for one in sorted(candidates, key=lambda c: (c.bytes, c.drop, _time(c), c.recipe == MIXED)):
        beaten = any(
            other.bytes <= one.bytes
            and other.drop <= one.drop
            and (
                one.milliseconds is None
                or (other.milliseconds is not None and _time(other) <= _time(one))
            )
            for other in kept
        )
        if not beaten and math.isfinite(one.drop):
            kept.append(one)
    return tuple(reversed(kept))


def _time(candidate: Candidate) -> float:
    return math.inf if candidate.milliseconds is None else candidate.milliseconds
