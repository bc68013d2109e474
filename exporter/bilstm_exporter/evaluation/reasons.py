"""Writes the sentences that explain the recommendation of a search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bilstm_exporter.evaluation.selection import (
    MIXED,
    Budget,
    Candidate,
    Limit,
    exceeded,
    keeps_drop,
)
from bilstm_exporter.evaluation.weight_groups import (
    Assignment,
    MeasuredDrops,
    WeightGroup,
    join_words,
)
from bilstm_exporter.quantization.recipes import Precision

NO_DATA = (
    "Nothing is known about accuracy: without --data, artifacts are compared with Keras on random "
    "probes only. Use --data FILE to evaluate them on your own examples."
)

ONLY_PROBES = (
    "Only probes were used, not your data: the agreement by delay says little about the accuracy "
    "of your model. Give examples with --data."
)

_MAX_SHOWN = 3
_PROBLEMS = {
    Limit.DROP: "loses too much",
    Limit.SIZE: "is too large",
    Limit.TIME: "is too slow",
}


@dataclass(frozen=True)
class KeptGroup:
    """A group of weights that keeps a higher precision than the rest of the artifact.

    Attributes:
        layers: The names of its layers.
        precision: Its precision.
        lower: The lower precision with too large a drop.
        drop: The drop in the lower precision, or None if it was not measured.
        alone: Whether the drop was measured with only this group in the lower precision. If not,
            it was measured for the mix, with this group in the lower precision too.
        label: The group's name in a sentence.
    """

    layers: tuple[str, ...]
    precision: Precision
    lower: Precision
    drop: float | None
    alone: bool
    label: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON and the manifest."""
        finite = self.drop is not None and math.isfinite(self.drop)
        return {
            "layers": list(self.layers),
            "precision": self.precision.label,
            "lower": self.lower.label,
            "drop": self.drop if finite else None,
            "alone": self.alone,
        }

    def sentence(self, drop_unit: str) -> str:
        """Explain why the group keeps its precision."""
        verb = "stay" if len(self.layers) > 1 else "stays"
        start = f"{self.label} {verb} in {self.precision.label}"
        if self.drop is None:
            return start
        drop = _amount(self.drop, drop_unit)
        if self.alone:
            return f"{start}: {self.lower.label} of {self.label} alone loses {drop}"
        return f"{start}: with {self.label} in {self.lower.label} too, the drop would be {drop}"


def kept_groups(
    groups: Sequence[WeightGroup], assignment: Assignment, drops: MeasuredDrops, budget: Budget
) -> tuple[KeptGroup, ...]:
    """Return the groups above the artifact's lowest precision, the highest precision first.

    For a plain recipe, in which all groups have the same precision, these are the groups with too
    large a drop in a lower one.
    """
    found = []
    is_plain = len(set(assignment)) == 1
    for group, precision in zip(groups, assignment, strict=True):
        if precision == min(assignment) and not is_plain:
            continue
        tried = {level for owner, level in (*drops.alone, *drops.in_mix) if owner == group}
        lower = max((level for level in tried if level < precision), default=min(assignment))
        alone, in_mix = drops.alone.get((group, lower)), drops.in_mix.get((group, lower))
        # A drop within the limit does not explain why the group keeps its precision.
        explains = alone is not None and (budget.max_drop is None or not keeps_drop(alone, budget))
        drop = alone if explains else in_mix
        if drop is not None or not is_plain:
            found.append(KeptGroup(group.layers, precision, lower, drop, explains, group.label))
    return tuple(sorted(found, key=lambda kept: (-kept.precision, -(kept.drop or 0), kept.layers)))


@dataclass(frozen=True)
class Wording:
    """How drops are formatted.

    Attributes:
        drop_unit: ``"points"`` or ``"%"``.
        user_data: Whether drops were measured on the user's data, not on random probes.
    """

    drop_unit: str = "points"
    user_data: bool = True

    def drop(self, candidate: Candidate) -> str:
        """Format the drop of a candidate with its unit."""
        return _amount(candidate.drop, self.drop_unit)

    def figures(self, candidate: Candidate) -> str:
        """Format the drop, size and time of a candidate."""
        source = "" if self.user_data else " on random probes"
        parts = [f"a drop of {self.drop(candidate)}{source}", f"{candidate.kib:,.0f} KiB"]
        if candidate.milliseconds is not None:
            parts.append(f"{candidate.milliseconds:.3g} ms")
        return join_words(parts)


def explain_recommendation(
    recommended: Candidate,
    candidates: Sequence[Candidate],
    budget: Budget,
    kept: Sequence[KeptGroup],
    wording: Wording,
) -> str:
    """Explain in one sentence why this candidate is recommended."""
    best = "loses least" if budget.max_drop is None else "is the smallest"
    start = (
        f"{recommended.description} {best} within {budget.described}, with "
        f"{wording.figures(recommended)}"
    )
    if kept:
        sentences = "; ".join(item.sentence(wording.drop_unit) for item in kept[:_MAX_SHOWN])
        more = len(kept) - _MAX_SHOWN
        verb = "keeps" if more == 1 else "keep"
        rest = f"; {more} more {verb} a higher precision" if more > 0 else ""
        return f"{start}; {sentences}{rest}."
    smaller = [c for c in candidates if c.recipe != MIXED and c.bytes < recommended.bytes]
    if budget.max_drop is None or not smaller:
        return f"{start}."
    next_smaller = max(smaller, key=lambda c: c.bytes)
    limit = next(iter(exceeded(next_smaller, budget)), None)
    if limit is Limit.DROP:
        return f"{start}; {next_smaller.recipe} loses {wording.drop(next_smaller)}."
    if limit is Limit.TIME and next_smaller.milliseconds is not None:
        return f"{start}; {next_smaller.recipe} takes {next_smaller.milliseconds:.3g} ms."
    return f"{start}."


def explain_failure(closest: Candidate | None, budget: Budget, wording: Wording) -> str:
    """Report in one sentence that no candidate is within the limits, and name the closest one."""
    start = f"No mix of recipes is within {budget.described}"
    if closest is None:
        return f"{start}."
    problems = join_words([_PROBLEMS[limit] for limit in exceeded(closest, budget)])
    return (
        f"{start}: the closest, {closest.description}, {problems}, with {wording.figures(closest)}."
    )


def _amount(drop: float, unit: str) -> str:
    if not math.isfinite(drop):
        return "everything (an output is not a number)"
    digits = f"{drop:.1f}" if drop >= 1 or drop == 0 else f"{drop:.2g}"
    return f"{digits} {unit}"
