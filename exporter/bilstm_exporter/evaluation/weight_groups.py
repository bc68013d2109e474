"""Groups of weights with one precision in a search: layers, or layers that share weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bilstm_exporter.quantization.recipes import Precision, PrecisionPlan

if TYPE_CHECKING:  # it loads TensorFlow
    from bilstm_exporter.targets.base import WeightForm

MAX_GROUPS = 12
"""The maximum number of groups; the smallest layers form one group."""

_MAX_LISTED = 3


@dataclass(frozen=True)
class WeightGroup:
    """Weights that get the same precision.

    Attributes:
        layers: The layers they belong to; empty for constants that belong to no layer.
        elements: The number of weights.
    """

    layers: tuple[str, ...]
    elements: int

    @property
    def label(self) -> str:
        """The group's name in a sentence, such as ``"'dense'"`` or ``"'a' and 'b'"``."""
        if not self.layers:
            return "weights of no layer"
        if len(self.layers) > _MAX_LISTED:
            return f"{len(self.layers)} small layers ({self.layers[0]!r} and others)"
        return join_words([repr(layer) for layer in self.layers])


Assignment = tuple[Precision, ...]
"""The precision of every group, in the order of the groups."""


@dataclass
class MeasuredDrops:
    """The drops that a search measured with one group in a lower precision.

    Attributes:
        alone: The drop with only this group in that precision, and all others in a higher one.
        in_mix: The drop of the best mix at that time, with this group in that precision too.
    """

    alone: dict[tuple[WeightGroup, Precision], float] = field(default_factory=dict)
    in_mix: dict[tuple[WeightGroup, Precision], float] = field(default_factory=dict)


def find_weight_groups(weights: Iterable[WeightForm]) -> tuple[WeightGroup, ...]:
    """Find the groups of a format, the largest first.

    Args:
        weights: How an artifact of the lowest precision stores its weights. Weights in float32 do
            not belong to a group.
    """
    merged: list[tuple[set[str], int]] = []
    for form in weights:
        if form.storage == Precision.FLOAT32.label:
            continue
        layers = {name.strip() for name in form.layer.split(",") if name.strip()}
        elements = form.elements
        separate = []
        for known, count in merged:
            if known & layers or known == layers:
                layers, elements = layers | known, elements + count
            else:
                separate.append((known, count))
        merged = [*separate, (layers, elements)]
    groups = [WeightGroup(tuple(sorted(layers)), elements) for layers, elements in merged]
    groups.sort(key=lambda group: (-group.elements, group.layers))
    if len(groups) <= MAX_GROUPS:
        return tuple(groups)
    small = [group for group in groups[MAX_GROUPS - 1 :] if group.layers]
    large = [group for group in groups if group not in small]
    layers_of_small = tuple(layer for group in small for layer in group.layers)
    return (*large, WeightGroup(layers_of_small, sum(group.elements for group in small)))


def mix_plan(groups: Sequence[WeightGroup], assignment: Assignment) -> PrecisionPlan:
    """Make the plan that assigns every group its precision."""
    unowned = [p for group, p in zip(groups, assignment, strict=True) if not group.layers]
    return PrecisionPlan(
        default=unowned[0] if unowned else min(assignment),
        layers={
            layer: precision
            for group, precision in zip(groups, assignment, strict=True)
            for layer in group.layers
        },
    )


def _usual_and_others(
    groups: Sequence[WeightGroup], assignment: Assignment
) -> tuple[Precision, Mapping[Precision, list[WeightGroup]]]:
    """Return the precision of most weights, and the groups with another one by precision."""
    counts: dict[Precision, int] = {}
    for group, precision in zip(groups, assignment, strict=True):
        counts[precision] = counts.get(precision, 0) + group.elements
    usual = max(counts, key=lambda precision: (counts[precision], precision))
    others: dict[Precision, list[WeightGroup]] = {}
    for group, precision in zip(groups, assignment, strict=True):
        if precision != usual:
            others.setdefault(precision, []).append(group)
    return usual, {precision: others[precision] for precision in sorted(others, reverse=True)}


def describe_mix(groups: Sequence[WeightGroup], assignment: Assignment) -> str:
    """Describe a mix, such as ``"int8, but 'dense' in float16"``."""
    usual, others = _usual_and_others(groups, assignment)
    parts = [
        f"{join_words([group.label for group in members])} in {precision.label}"
        for precision, members in others.items()
    ]
    return usual.label + (f", but {join_words(parts)}" if parts else "")


def join_words(words: Sequence[str]) -> str:
    """Join words with commas and "and"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
