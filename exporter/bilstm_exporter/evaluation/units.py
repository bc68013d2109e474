"""What a search moves from one precision to another: layers, and those that share a weight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bilstm_exporter.quantization.recipes import Precision, PrecisionPlan

if TYPE_CHECKING:  # it loads TensorFlow
    from bilstm_exporter.targets.base import WeightForm

MOST_UNITS = 12
_SHOWN = 3


@dataclass(frozen=True)
class Unit:
    """Weights that are stored alike.

    Attributes:
        layers: The layers they belong to; none for constants that belong to no layer.
        elements: How many numbers they are.
    """

    layers: tuple[str, ...]
    elements: int

    @property
    def label(self) -> str:
        """For people: ``"'dense'"``, ``"'a' and 'b'"``."""
        if not self.layers:
            return "what belongs to no layer"
        if len(self.layers) > _SHOWN:
            return f"{len(self.layers)} small layers ({self.layers[0]!r} and others)"
        return listed([repr(layer) for layer in self.layers])


Assignment = tuple[Precision, ...]
"""The precision of every unit, in their order."""


def units_of(weights: Iterable[WeightForm]) -> tuple[Unit, ...]:
    """The units of a format, the largest first.

    Args:
        weights: How an artifact that is all of a low precision stores its weights; those that it
            could not store so are no part of a mix. Small layers beyond `MOST_UNITS` move together.
    """
    groups: list[tuple[set[str], int]] = []
    for form in weights:
        if form.storage == Precision.FLOAT32.label:
            continue
        layers = {name.strip() for name in form.layer.split(",") if name.strip()}
        elements = form.elements
        apart = []
        for known, count in groups:
            if known & layers or known == layers:
                layers, elements = layers | known, elements + count
            else:
                apart.append((known, count))
        groups = [*apart, (layers, elements)]
    units = [Unit(tuple(sorted(layers)), elements) for layers, elements in groups]
    units.sort(key=lambda unit: (-unit.elements, unit.layers))
    if len(units) <= MOST_UNITS:
        return tuple(units)
    small = [unit for unit in units[MOST_UNITS - 1 :] if unit.layers]
    alone = [unit for unit in units if unit not in small]
    layers_of_small = tuple(layer for unit in small for layer in unit.layers)
    return (*alone, Unit(layers_of_small, sum(unit.elements for unit in small)))


def plan_of(units: Sequence[Unit], assignment: Assignment) -> PrecisionPlan:
    """The plan that gives every unit its precision."""
    loose = [p for unit, p in zip(units, assignment, strict=True) if not unit.layers]
    return PrecisionPlan(
        default=loose[0] if loose else min(assignment),
        layers={
            layer: precision
            for unit, precision in zip(units, assignment, strict=True)
            for layer in unit.layers
        },
    )


def exceptions(
    units: Sequence[Unit], assignment: Assignment
) -> tuple[Precision, Mapping[Precision, list[Unit]]]:
    """The precision of most numbers, and the units that have another one."""
    counts: dict[Precision, int] = {}
    for unit, precision in zip(units, assignment, strict=True):
        counts[precision] = counts.get(precision, 0) + unit.elements
    usual = max(counts, key=lambda precision: (counts[precision], precision))
    others: dict[Precision, list[Unit]] = {}
    for unit, precision in zip(units, assignment, strict=True):
        if precision != usual:
            others.setdefault(precision, []).append(unit)
    return usual, {precision: others[precision] for precision in sorted(others, reverse=True)}


def described(units: Sequence[Unit], assignment: Assignment) -> str:
    """A mix in words: ``"int8, but 'dense' in float16"``."""
    usual, others = exceptions(units, assignment)
    parts = [
        f"{listed([unit.label for unit in others_of])} in {precision.label}"
        for precision, others_of in others.items()
    ]
    return usual.label + (f", but {listed(parts)}" if parts else "")


def listed(words: Sequence[str]) -> str:
    """Words with commas and an "and"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
