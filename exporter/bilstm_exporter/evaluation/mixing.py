"""Which mixes a search tries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bilstm_exporter.evaluation.budget import KIB, Budget
from bilstm_exporter.evaluation.selection import Candidate, keeps_drop
from bilstm_exporter.evaluation.units import Assignment, Unit
from bilstm_exporter.quantization.recipes import Precision

# Between equal drops, whose answers are nearer: decisions change in steps, errors do not.
_ERROR_WEIGHT = 1e-3


class Tries(Protocol):
    """Evaluates mixes, each once.

    Attributes:
        units: What is moved.
    """

    units: tuple[Unit, ...]

    def mix(self, assignment: Assignment) -> Candidate | None:
        """Evaluate a mix; None where that is impossible."""
        ...


@dataclass
class Costs:
    """What single layers were found to cost.

    Attributes:
        alone: The drop with one unit at a precision and all others above it.
        beside: The drop of the best mix with one unit lowered to a precision as well.
    """

    alone: dict[tuple[Unit, Precision], float] = field(default_factory=dict)
    beside: dict[tuple[Unit, Precision], float] = field(default_factory=dict)


class Mixer:
    """Tries mixes between the precision that keeps the limits and the one below.

    Args:
        tries: Evaluates.
        levels: The precisions, the lowest first, with the plain recipe of each.
        budget: The limits; the one on the time is not looked at here.
    """

    def __init__(
        self, tries: Tries, levels: Sequence[tuple[Precision, Candidate]], budget: Budget
    ) -> None:
        self.costs = Costs()
        self._tries = tries
        self._units = tries.units
        self._levels = [level for level, _ in levels]
        self._plain = dict(levels)
        self._budget = Budget(max_drop=budget.max_drop, max_kb=budget.max_kb)

    def run(self) -> None:
        """Try what may be better than every plain recipe."""
        if len(self._levels) < 2 or len(self._units) < 2:
            return
        if self._budget.max_drop is not None:
            self._within_drop()
        elif self._budget.max_kb is not None:
            self._within_size()

    def run_for_speed(self) -> bool:
        """Try mixes of int8, which is fast, with float32, which converts nothing.

        Returns:
            Whether that was possible.
        """
        low, high = Precision.INT8, Precision.FLOAT32
        if not {low, high} <= set(self._levels) or len(self._units) < 2:
            return False
        order = self._raising_order(low, high)
        if self._budget.max_drop is not None:
            self._shortest(order, low, high)
            return True
        for quarter in (1, 2, 3):
            self._tries.mix(self._raised(order[: len(order) * quarter // 4], low, high))
        return True

    def _within_drop(self) -> None:
        """The smallest file that keeps the limit on the drop."""
        fitting = [level for level in self._levels if self._keeps_drop(self._plain[level])]
        if not fitting or fitting[0] == self._levels[0]:
            return
        high = fitting[0]
        low = self._levels[self._levels.index(high) - 1]
        raised = self._shortest(self._raising_order(low, high), low, high)
        if raised is not None:
            self._lower_what_can_be(raised)

    def _within_size(self) -> None:
        """What loses least in the size that is allowed."""
        limit = (self._budget.max_kb or 0) * KIB
        fitting = [level for level in self._levels if self._plain[level].bytes <= limit]
        if not fitting or fitting[-1] == self._levels[-1]:
            return
        low = fitting[-1]
        high = self._levels[self._levels.index(low) + 1]
        order = self._raising_order(low, high)
        room = limit - self._plain[low].bytes
        total = sum(unit.elements for unit in self._units)
        step = (self._plain[high].bytes - self._plain[low].bytes) / max(1, total)
        chosen: list[Unit] = []
        for unit in order:
            if unit.elements * step <= room:
                chosen.append(unit)
                room -= unit.elements * step
        while chosen:
            found = self._tries.mix(self._raised(chosen, low, high))
            if found is None or found.bytes <= limit:
                return
            chosen.pop()

    def _raising_order(self, low: Precision, high: Precision) -> list[Unit]:
        """The units, most harm per byte first, by lowering each alone."""
        base = self._plain[high]
        harm = {}
        for unit in self._units:
            others = [other for other in self._units if other is not unit]
            found = self._tries.mix(self._raised(others, low, high))
            if found is None:
                harm[unit] = float("inf")
                continue
            self.costs.alone[unit, low] = found.drop
            harm[unit] = max(0.0, found.drop - base.drop) + _ERROR_WEIGHT * found.error
        index = {unit: number for number, unit in enumerate(self._units)}
        return sorted(
            self._units, key=lambda u: (-harm[u] / max(1, u.elements), u.elements, index[u])
        )

    def _shortest(
        self, order: Sequence[Unit], low: Precision, high: Precision
    ) -> Assignment | None:
        """Raise units in this order, as few as keep the limit on the drop, by bisection.

        Returns:
            The mix; all raised if nothing less was found.
        """
        breaks, keeps = 0, len(order)
        while keeps - breaks > 1:
            middle = (breaks + keeps) // 2
            found = self._tries.mix(self._raised(order[:middle], low, high))
            if found is not None and self._keeps_drop(found):
                keeps = middle
            else:
                breaks = middle
        assignment = self._raised(order[:keeps], low, high)
        found = self._tries.mix(assignment)
        return assignment if found is not None and self._keeps_drop(found) else None

    def _lower_what_can_be(self, assignment: Assignment) -> None:
        """Lower units one step at a time, the most bytes first, while the drop stays within.

        First what was raised for nothing comes down, then what bears an even lower precision.
        """
        current = assignment
        for floor in (min(current), self._levels[0]):
            moved = True
            while moved:
                moved = False
                for number in self._by_saving(current):
                    level = self._levels.index(current[number])
                    if current[number] <= floor:
                        continue
                    lower = self._levels[level - 1]
                    tried = (*current[:number], lower, *current[number + 1 :])
                    unit = self._units[number]
                    if (unit, lower) in self.costs.beside:
                        continue
                    found = self._tries.mix(tried)
                    if found is None:
                        continue
                    if self._keeps_drop(found):
                        current, moved = tried, True
                    else:
                        self.costs.beside[unit, lower] = found.drop

    def _by_saving(self, assignment: Assignment) -> list[int]:
        """Units by how many bits one step down would save, the most first."""

        def saved(number: int) -> int:
            level = self._levels.index(assignment[number])
            lower = self._levels[max(0, level - 1)]
            return self._units[number].elements * (assignment[number] - lower)

        return sorted(range(len(self._units)), key=lambda number: (-saved(number), number))

    def _raised(self, units: Sequence[Unit], low: Precision, high: Precision) -> Assignment:
        return tuple(high if unit in units else low for unit in self._units)

    def _keeps_drop(self, candidate: Candidate) -> bool:
        return keeps_drop(candidate.drop, self._budget)
