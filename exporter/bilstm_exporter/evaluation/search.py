"""The search within limits: plain recipes, then mixes with a higher precision of sensitive layers.

`search` runs it for one format. `Trials` evaluates each artifact once, `Mixer` selects the mixes to
try, and `recommend` combines the results of several formats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from bilstm_exporter.errors import BudgetError, ExportError
from bilstm_exporter.evaluation.reasons import (
    KeptGroup,
    Wording,
    explain_failure,
    explain_recommendation,
    kept_groups,
)
from bilstm_exporter.evaluation.selection import (
    KIB,
    MIXED,
    Budget,
    Candidate,
    choose,
    closest,
    exceeded,
    keeps_drop,
    pareto,
)
from bilstm_exporter.evaluation.weight_groups import (
    Assignment,
    MeasuredDrops,
    WeightGroup,
    describe_mix,
    mix_plan,
)
from bilstm_exporter.quantization.recipes import FLOAT32, Precision, PrecisionPlan, Recipe

MAX_EVALUATIONS = 60
"""The largest number of artifacts that a search in one format builds and evaluates."""

MAX_TIMED = 12
"""The largest number of mixes that are timed: the best within the other limits."""

# The weight of the error relative to the drop, in points. It breaks ties between equal drops: a
# drop changes in steps, an error continuously.
_ERROR_WEIGHT = 0.1

Measure = Callable[[Sequence[Candidate]], Sequence[float]]
"""Times artifacts in turn; returns the milliseconds of one example for each."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Measurement:
    """The result of evaluating one artifact.

    Attributes:
        bytes: The file's size in bytes.
        drop: See `Candidate`.
        error: See `Candidate`.
        payload: An object to keep with the candidate, such as the artifact.
    """

    bytes: int
    drop: float
    error: float
    payload: Any = None


class Evaluate(Protocol):
    """Builds an artifact of one format and evaluates it."""

    def __call__(self, recipe: str, plan: PrecisionPlan) -> Measurement:
        """Build and evaluate one artifact.

        Args:
            recipe: The name of a recipe, or ``"mixed"``.
            plan: The precision of every layer.

        Raises:
            ExportError: The format does not support it; the search continues without it.
        """
        ...


@dataclass(frozen=True)
class SearchResult:
    """The result of a search in one format.

    Attributes:
        format: The format.
        budget: The limits.
        candidates: All artifacts that were tried, the plain recipes first.
        pareto: The Pareto front of the candidates, the largest file first.
        recommended: The best candidate within all limits, or None.
        nearest: If there is none, the candidate that exceeds the limits least.
        kept: The groups of weights that keep a higher precision, with the reason.
        reason: One sentence that explains the recommendation.
        failed: The reasons for recipes and mixes that the format does not support.
        exhausted: Whether the search ended at the largest number of evaluations.
        user_data: Whether drops were measured on the user's data, not on random probes.
    """

    format: str
    budget: Budget
    candidates: tuple[Candidate, ...]
    pareto: tuple[Candidate, ...]
    recommended: Candidate | None
    nearest: Candidate | None
    kept: tuple[KeptGroup, ...]
    reason: str
    failed: Mapping[str, str]
    exhausted: bool
    user_data: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON and the manifest."""
        return {
            "format": self.format,
            "evaluations": len(self.candidates),
            "recommended": None if self.recommended is None else self.recommended.to_dict(),
            "nearest": None if self.nearest is None else self.nearest.to_dict(),
            "reason": self.reason,
            "kept": [item.to_dict() for item in self.kept],
            "pareto": [candidate.to_dict() for candidate in self.pareto],
            "failed": dict(self.failed),
        }


def search(  # noqa: PLR0913 - independent settings
    format_name: str,
    recipes: Sequence[Recipe],
    groups: Sequence[WeightGroup],
    budget: Budget,
    evaluate: Evaluate,
    *,
    measure: Measure | None = None,
    progress: Progress | None = None,
    max_evaluations: int = MAX_EVALUATIONS,
    wording: Wording | None = None,
) -> SearchResult:
    """Find the best artifact of one format within limits.

    1. Evaluate all plain recipes.
    2. If a lower precision exceeds the limit on the drop, lower each group of weights alone to
       measure its drop.
    3. Raise groups, the largest drop per byte first, until the drop is within the limit.
    4. Lower groups again that need not be raised.

    The search is deterministic: the same evaluations give the same result.

    Args:
        format_name: ``"onnx"`` or ``"tflite"``.
        recipes: The recipes to try; a mix may use their precisions.
        groups: The groups of weights, from `find_weight_groups`.
        budget: The limits; at least one.
        evaluate: Builds and evaluates one artifact.
        measure: Times artifacts, for the report; needed for a limit on the time.
        progress: Called with a description of each artifact before it is tried.
        max_evaluations: The largest number of artifacts to try.
        wording: How drops are formatted in the reason.

    Raises:
        BudgetError: No artifact could be built.
        ValueError: There is no limit, or a limit on the time without ``measure``.
    """
    wording = wording or Wording()
    if budget.is_unlimited or (budget.max_ms is not None and measure is None):
        message = "a search needs a limit, and a limit on the time needs a way to measure it"
        raise ValueError(message)
    trials = Trials(format_name, tuple(groups), evaluate, progress, max_evaluations)
    for recipe in recipes:
        trials.plain(recipe)
    if not trials.candidates:
        message = f"{format_name}: no recipe can be written; {'; '.join(trials.failed.values())}"
        raise BudgetError(message)
    mixer = Mixer(trials, _levels(recipes, trials), budget)
    mixer.run()
    timed = _timed(trials.candidates, budget, measure)
    recommended = choose(timed, budget)
    if _is_too_slow(recommended, budget) and mixer.run_for_speed():
        timed = _timed(trials.candidates, budget, measure)
        recommended = choose(timed, budget)
    nearest = None if recommended else closest(timed, budget)
    shown = recommended or nearest
    kept: tuple[KeptGroup, ...] = ()
    if shown is not None and shown.description in trials.assignments:
        assignment = trials.assignments[shown.description]
        kept = kept_groups(trials.groups, assignment, mixer.drops, budget)
    if recommended is None:
        reason = explain_failure(nearest, budget, wording)
    else:
        reason = explain_recommendation(recommended, timed, budget, kept, wording)
    front = pareto(timed)
    if budget.max_ms is None and measure is not None:
        # For the table only; the choice and its reason do not depend on these times.
        shown_rows = [c for c in timed if c.recipe != MIXED or c in (*front, recommended, nearest)]
        times = dict(zip(map(id, shown_rows), measure(shown_rows), strict=True))
        found = {id(c): replace(c, milliseconds=times.get(id(c))) for c in timed}
        timed = [found[id(c)] for c in timed]
        front = tuple(found[id(c)] for c in front)
        recommended = None if recommended is None else found[id(recommended)]
        nearest = None if nearest is None else found[id(nearest)]
    return SearchResult(
        format=format_name,
        budget=budget,
        candidates=tuple(timed),
        pareto=front,
        recommended=recommended,
        nearest=nearest,
        kept=kept,
        reason=reason,
        failed=trials.failed,
        exhausted=trials.exhausted,
        user_data=wording.user_data,
    )


def recommend(results: Mapping[str, SearchResult]) -> tuple[str, dict[str, Candidate]] | None:
    """Choose the recipe that the manifest recommends for all formats that were searched.

    If all formats have the same best recipe, it is that recipe. If not, it is ``"mixed"``, and the
    best artifact of each format is written under that name, even if it is a plain recipe.

    Args:
        results: The results by format.

    Returns:
        The name of the recipe, and the best candidate of each format; None if a format has no
        candidate within the limits.
    """
    found = {name: result.recommended for name, result in results.items()}
    chosen = {name: candidate for name, candidate in found.items() if candidate is not None}
    if not chosen or len(chosen) < len(results):
        return None
    names = {candidate.recipe for candidate in chosen.values()}
    return (names.pop() if len(names) == 1 else MIXED), chosen


class Trials:
    """Evaluates each artifact once, up to a maximum number.

    Attributes:
        groups: The groups of weights.
        candidates: The evaluated artifacts, in the order of evaluation.
        assignments: The precisions of the groups, by the candidate's description.
        failed: The reasons for artifacts that the format does not support.
        exhausted: Whether a mix was left out because of the maximum number.
    """

    def __init__(
        self,
        format_name: str,
        groups: tuple[WeightGroup, ...],
        evaluate: Evaluate,
        progress: Progress | None,
        max_evaluations: int,
    ) -> None:
        self.groups = groups
        self.candidates: list[Candidate] = []
        self.assignments: dict[str, Assignment] = {}
        self.failed: dict[str, str] = {}
        self.exhausted = False
        self._format = format_name
        self._evaluate = evaluate
        self._progress = progress
        self._max_evaluations = max_evaluations
        self._count = 0
        self._known: dict[Assignment, Candidate | None] = {}

    def plain(self, recipe: Recipe) -> Candidate | None:
        """Evaluate a recipe; None if the format does not support it."""
        found = self._try(recipe.name, recipe.name, recipe.plan)
        if not recipe.calibrated:
            assignment = (recipe.precision,) * len(self.groups)
            self._known[assignment] = found
            self.assignments[recipe.name] = assignment
        return found

    def mix(self, assignment: Assignment) -> Candidate | None:
        """Evaluate a mix; None if the format does not support it, or at the maximum number."""
        if assignment not in self._known:
            if self._count >= self._max_evaluations:
                self.exhausted = True
                return None
            description = describe_mix(self.groups, assignment)
            self.assignments[description] = assignment
            plan = mix_plan(self.groups, assignment)
            self._known[assignment] = self._try(MIXED, description, plan)
        return self._known[assignment]

    def _try(self, recipe: str, description: str, plan: PrecisionPlan) -> Candidate | None:
        self._count += 1
        if self._progress is not None:
            number = f"{self._count} of at most {self._max_evaluations}"
            self._progress(f"trying {self._format} as {description} ({number})")
        try:
            found = self._evaluate(recipe, plan)
        except BudgetError:
            raise
        except ExportError as error:
            self.failed[description] = str(error)
            return None
        candidate = Candidate(
            recipe, description, plan, found.bytes, found.drop, found.error, payload=found.payload
        )
        self.candidates.append(candidate)
        return candidate


class Mixer:
    """Tries mixes between the lowest precision within the limits and the one below it.

    Args:
        trials: Evaluates the mixes.
        levels: The precisions, the lowest first, each with its plain recipe.
        budget: The limits; the limit on the time is ignored here.

    Attributes:
        drops: The drops measured with single groups in a lower precision.
    """

    def __init__(
        self, trials: Trials, levels: Sequence[tuple[Precision, Candidate]], budget: Budget
    ) -> None:
        self.drops = MeasuredDrops()
        self._trials = trials
        self._groups = trials.groups
        self._levels = [level for level, _ in levels]
        self._plain = dict(levels)
        self._budget = Budget(max_drop=budget.max_drop, max_kb=budget.max_kb)

    def run(self) -> None:
        """Try mixes that can be better than every plain recipe."""
        if len(self._levels) < 2 or len(self._groups) < 2:
            return
        if self._budget.max_drop is not None:
            self._within_drop()
        elif self._budget.max_kb is not None:
            self._within_size()

    def run_for_speed(self) -> bool:
        """Try mixes of int8, which is fast, and float32, which needs no conversion at run time.

        Returns:
            Whether the format has both.
        """
        low, high = Precision.INT8, Precision.FLOAT32
        if not {low, high} <= set(self._levels) or len(self._groups) < 2:
            return False
        order = self._raising_order(low, high)
        if self._budget.max_drop is not None:
            self._shortest(order, low, high)
            return True
        for quarter in (1, 2, 3):
            self._trials.mix(self._raised(order[: len(order) * quarter // 4], low, high))
        return True

    def _within_drop(self) -> None:
        """Look for the smallest file within the limit on the drop."""
        fitting = [level for level in self._levels if self._keeps_drop(self._plain[level])]
        if not fitting or fitting[0] == self._levels[0]:
            return
        high = fitting[0]
        low = self._levels[self._levels.index(high) - 1]
        raised = self._shortest(self._raising_order(low, high), low, high)
        if raised is not None:
            self._lower_groups(raised)

    def _within_size(self) -> None:
        """Look for the smallest drop within the limit on the size."""
        limit = (self._budget.max_kb or 0) * KIB
        fitting = [level for level in self._levels if self._plain[level].bytes <= limit]
        if not fitting or fitting[-1] == self._levels[-1]:
            return
        low = fitting[-1]
        high = self._levels[self._levels.index(low) + 1]
        order = self._raising_order(low, high)
        room = limit - self._plain[low].bytes
        total = sum(group.elements for group in self._groups)
        bytes_per_weight = (self._plain[high].bytes - self._plain[low].bytes) / max(1, total)
        chosen: list[WeightGroup] = []
        for group in order:
            if group.elements * bytes_per_weight <= room:
                chosen.append(group)
                room -= group.elements * bytes_per_weight
        while chosen:
            found = self._trials.mix(self._raised(chosen, low, high))
            if found is None or found.bytes <= limit:
                return
            chosen.pop()

    def _raising_order(self, low: Precision, high: Precision) -> list[WeightGroup]:
        """Sort the groups by drop per weight, measured with each alone lowered; largest first."""
        base = self._plain[high]
        cost = {}
        for group in self._groups:
            others = [other for other in self._groups if other is not group]
            found = self._trials.mix(self._raised(others, low, high))
            if found is None:
                cost[group] = float("inf")
                continue
            self.drops.alone[group, low] = found.drop
            cost[group] = max(0.0, found.drop - base.drop) + _ERROR_WEIGHT * found.error
        index = {group: number for number, group in enumerate(self._groups)}
        return sorted(
            self._groups, key=lambda g: (-cost[g] / max(1, g.elements), g.elements, index[g])
        )

    def _shortest(
        self, order: Sequence[WeightGroup], low: Precision, high: Precision
    ) -> Assignment | None:
        """Find by bisection how many groups of this order to raise to keep the limit on the drop.

        Returns:
            The mix with the fewest raised groups that was found; None if it could not be
            evaluated or exceeds the limit.
        """
        too_few, enough = 0, len(order)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            found = self._trials.mix(self._raised(order[:middle], low, high))
            if found is not None and self._keeps_drop(found):
                enough = middle
            else:
                too_few = middle
        assignment = self._raised(order[:enough], low, high)
        found = self._trials.mix(assignment)
        return assignment if found is not None and self._keeps_drop(found) else None

    def _lower_groups(self, assignment: Assignment) -> None:
        """Lower groups by one precision at a time, the most bytes first, within the limit.

        The first pass goes down to the lowest precision of the mix, the second to the lowest of
        all.
        """
        current = assignment
        for floor in (min(current), self._levels[0]):
            lowered = True
            while lowered:
                lowered = False
                for number in self._by_saving(current):
                    level = self._levels.index(current[number])
                    if current[number] <= floor:
                        continue
                    lower = self._levels[level - 1]
                    tried = (*current[:number], lower, *current[number + 1 :])
                    group = self._groups[number]
                    if (group, lower) in self.drops.in_mix:
                        continue
                    found = self._trials.mix(tried)
                    if found is None:
                        continue
                    if self._keeps_drop(found):
                        current, lowered = tried, True
                    else:
                        self.drops.in_mix[group, lower] = found.drop

    def _by_saving(self, assignment: Assignment) -> list[int]:
        """Sort groups by the bits that the next lower precision would save, the most first."""

        def saved(number: int) -> int:
            level = self._levels.index(assignment[number])
            lower = self._levels[max(0, level - 1)]
            return self._groups[number].elements * (assignment[number] - lower)

        return sorted(range(len(self._groups)), key=lambda number: (-saved(number), number))

    def _raised(self, raised: Sequence[WeightGroup], low: Precision, high: Precision) -> Assignment:
        return tuple(high if group in raised else low for group in self._groups)

    def _keeps_drop(self, candidate: Candidate) -> bool:
        return keeps_drop(candidate.drop, self._budget)


def _is_too_slow(best: Candidate | None, budget: Budget) -> bool:
    """Whether the limit on time excludes all candidates or, without a limit on drop, float32."""
    if budget.max_ms is None:
        return False
    return best is None or (budget.max_drop is None and best.recipe != FLOAT32)


def _levels(recipes: Sequence[Recipe], trials: Trials) -> list[tuple[Precision, Candidate]]:
    """Return the precisions that a mix may use, the lowest first, each with its plain recipe."""
    plain = {c.recipe: c for c in trials.candidates}
    found = {r.precision: plain[r.name] for r in recipes if r.name in plain and not r.calibrated}
    return sorted(found.items())


def _timed(
    candidates: Sequence[Candidate], budget: Budget, measure: Measure | None
) -> list[Candidate]:
    """Time the plain recipes, and the best mixes within the other limits, in turn."""
    if measure is None or budget.max_ms is None:
        return list(candidates)
    other = replace(budget, max_ms=None)
    mixes = [c for c in candidates if c.recipe == MIXED and not exceeded(c, other)]
    mixes.sort(
        key=lambda c: (c.bytes, c.drop) if budget.max_drop is not None else (c.drop, c.bytes)
    )
    chosen = [c for c in candidates if c.recipe != MIXED] + mixes[:MAX_TIMED]
    times = dict(zip(map(id, chosen), measure(chosen), strict=True))
    return [replace(c, milliseconds=times.get(id(c))) for c in candidates]
