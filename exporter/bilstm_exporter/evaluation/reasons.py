"""Why a search recommends what it does, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bilstm_exporter.evaluation.budget import Budget
from bilstm_exporter.evaluation.mixing import Costs
from bilstm_exporter.evaluation.selection import MIXED, Candidate, keeps_drop, misses
from bilstm_exporter.evaluation.units import Assignment, Unit, listed
from bilstm_exporter.quantization.recipes import Precision

_SHOWN = 3


@dataclass(frozen=True)
class Kept:
    """A layer, or some that share a weight, kept in a higher precision than others, or than wanted.

    Attributes:
        layers: Their names.
        precision: The precision they keep.
        lower: The precision that it could not bear.
        drop: The drop with this one lowered, or None where nobody tried.
        alone: Whether that was with this one alone lowered; else beside the others of the mix.
        label: The layers in words.
    """

    layers: tuple[str, ...]
    precision: Precision
    lower: Precision
    drop: float | None
    alone: bool
    label: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and the manifest."""
        finite = self.drop is not None and math.isfinite(self.drop)
        return {
            "layers": list(self.layers),
            "precision": self.precision.label,
            "lower": self.lower.label,
            "drop": self.drop if finite else None,
            "alone": self.alone,
        }

    def sentence(self, drop_unit: str) -> str:
        """Why it is kept."""
        stays = "stay" if len(self.layers) > 1 else "stays"
        where = f"{self.label} {stays} in {self.precision.label}"
        if self.drop is None:
            return where
        cost = _amount(self.drop, drop_unit)
        if self.alone:
            return f"{where}: {self.lower.label} of {self.label} alone costs {cost}"
        return f"{where}: with {self.label} in {self.lower.label} too the drop would be {cost}"


def kept_layers(
    units: Sequence[Unit], assignment: Assignment, costs: Costs, budget: Budget
) -> tuple[Kept, ...]:
    """What an artifact keeps above its lowest precision: the highest first, then the costliest.

    Of a plain recipe, all of one precision, it is what made a mix with a lower one lose too much.
    """
    found = []
    is_plain = len(set(assignment)) == 1
    for unit, precision in zip(units, assignment, strict=True):
        if precision == min(assignment) and not is_plain:
            continue
        tried = {lower for owner, lower in (*costs.alone, *costs.beside) if owner == unit}
        lower = max((level for level in tried if level < precision), default=min(assignment))
        alone, beside = costs.alone.get((unit, lower)), costs.beside.get((unit, lower))
        # What one layer alone can bear is no reason to keep it.
        tells = alone is not None and (budget.max_drop is None or not keeps_drop(alone, budget))
        drop = alone if tells else beside
        if drop is not None or not is_plain:
            found.append(Kept(unit.layers, precision, lower, drop, tells, unit.label))
    return tuple(sorted(found, key=lambda kept: (-kept.precision, -(kept.drop or 0), kept.layers)))


def reason_for(  # noqa: PLR0913, PLR0917 - each is another thing
    recommended: Candidate | None,
    nearest: Candidate | None,
    candidates: Sequence[Candidate],
    budget: Budget,
    kept: Sequence[Kept],
    drop_unit: str,
) -> str:
    """One sentence: why this one, or that none fits and which comes nearest."""
    if recommended is None:
        if nearest is None:
            return f"No mix of recipes keeps within {budget.described}."
        broken = {"drop": "loses too much", "size": "is too large", "time": "is too slow"}
        what = listed([broken[name] for name in misses(nearest, budget)])
        return (
            f"No mix of recipes keeps within {budget.described}: the nearest, "
            f"{nearest.description}, {what}, with {_figures(nearest, drop_unit)}."
        )
    if budget.max_drop is None:
        start = f"{recommended.description} loses least within {budget.described}"
    else:
        start = f"{recommended.description} is the smallest within {budget.described}"
    figures = f"{start}, with {_figures(recommended, drop_unit)}"
    if kept:
        whys = "; ".join(item.sentence(drop_unit) for item in kept[:_SHOWN])
        more = len(kept) - _SHOWN
        rest = f"; {more} more {'stays' if more == 1 else 'stay'} higher too" if more > 0 else ""
        return f"{figures}; {whys}{rest}."
    smaller = [
        candidate
        for candidate in candidates
        if candidate.recipe != MIXED and candidate.bytes < recommended.bytes
    ]
    if budget.max_drop is not None and smaller:
        next_one = max(smaller, key=lambda c: c.bytes)
        broken_by = {"drop": "loses", "time": "takes", "size": "takes"}
        for name in misses(next_one, budget)[:1]:
            figure = (
                _amount(next_one.drop, drop_unit)
                if name == "drop"
                else f"{next_one.milliseconds or 0:.3g} ms"
            )
            return f"{figures}; {next_one.recipe} {broken_by[name]} {figure}."
    return f"{figures}."


def _figures(candidate: Candidate, drop_unit: str) -> str:
    time = "" if candidate.milliseconds is None else f" and {candidate.milliseconds:.3g} ms"
    drop = f"a drop of {_amount(candidate.drop, drop_unit)}"
    return f"{drop}{',' if time else ' and'} {candidate.kib:,.0f} KiB{time}"


def _amount(drop: float, unit: str) -> str:
    if not math.isfinite(drop):
        return "everything (an answer is not a number)"
    digits = f"{drop:.1f}" if drop >= 1 or drop == 0 else f"{drop:.2g}"
    return f"{digits} {unit}"
