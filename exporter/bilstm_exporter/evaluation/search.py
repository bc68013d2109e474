"""The search: recipes, then mixes in which the layers that hurt most keep a higher precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from bilstm_exporter.errors import BudgetError, ExportError
from bilstm_exporter.evaluation.budget import Budget
from bilstm_exporter.evaluation.mixing import Mixer
from bilstm_exporter.evaluation.reasons import Kept, kept_layers, reason_for
from bilstm_exporter.evaluation.selection import MIXED, Candidate, choose, misses, nearest, pareto
from bilstm_exporter.evaluation.units import Assignment, Unit, described, plan_of
from bilstm_exporter.quantization.recipes import FLOAT32, Precision, PrecisionPlan, Recipe

MOST_EVALUATIONS = 60
"""Artifacts of one format that a search writes and judges at most."""

MOST_TIMED = 12
"""Of those that keep the other limits, the smallest are timed."""

Measure = Callable[[Sequence[Candidate]], Sequence[float]]
"""Times some artifacts in turn, in milliseconds for one example."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """What evaluating one artifact gave.

    Attributes:
        bytes: The file's size.
        drop: See `Candidate`.
        error: See `Candidate`.
        payload: What to keep with the candidate.
    """

    bytes: int
    drop: float
    error: float
    payload: Any = None


class Evaluate(Protocol):
    """Writes an artifact of one format and judges it."""

    def __call__(self, recipe: str, plan: PrecisionPlan) -> Measured:
        """Evaluate.

        Args:
            recipe: A recipe's name, or ``"mixed"``.
            plan: The precision of every layer.

        Raises:
            ExportError: The format cannot hold it; the search goes on without.
        """
        ...


@dataclass(frozen=True)
class SearchResult:
    """What a search in one format found.

    Attributes:
        format: The format.
        budget: The limits.
        candidates: All that was tried, the plain recipes first.
        pareto: Those that no other one beats, the largest first.
        recommended: The best that keeps all limits, or None.
        nearest: Otherwise, what misses them least.
        kept: The layers that stay in a higher precision than others, or than was wanted.
        reason: One sentence: why this one.
        failed: Recipes that the format cannot hold, with the reason.
        exhausted: Whether the search ended because it had tried as many as it may.
    """

    format: str
    budget: Budget
    candidates: tuple[Candidate, ...]
    pareto: tuple[Candidate, ...]
    recommended: Candidate | None
    nearest: Candidate | None
    kept: tuple[Kept, ...]
    reason: str
    failed: Mapping[str, str]
    exhausted: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and the manifest."""
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


def search(  # noqa: PLR0913 - each is another thing
    format_name: str,
    recipes: Sequence[Recipe],
    units: Sequence[Unit],
    budget: Budget,
    evaluate: Evaluate,
    *,
    measure: Measure | None = None,
    progress: Progress | None = None,
    most: int = MOST_EVALUATIONS,
    drop_unit: str = "points",
) -> SearchResult:
    """Find the best artifact of one format that keeps the limits.

    All plain recipes are tried. Where a lower precision breaks the limit on the drop, every layer
    is lowered alone to see what it costs; layers then go back up, most harm per byte first, as
    far as is needed, and what need not have gone up comes down again. Nothing is random: the same
    evaluations give the same result.

    Args:
        format_name: ``"onnx"`` or ``"tflite"``.
        recipes: Those to try, and whose precisions a mix may use.
        units: The layers, from `units_of`.
        budget: The limits; at least one.
        evaluate: Writes and judges one artifact.
        measure: Times artifacts; needed for a limit on the time.
        progress: Told what is being tried.
        most: Artifacts tried at most.
        drop_unit: What a drop is counted in, for the sentence.

    Raises:
        BudgetError: Not one artifact could be written.
        ValueError: There is no limit, or a limit on the time and nothing to measure it.
    """
    if budget.is_open or (budget.max_ms is not None and measure is None):
        message = "a search needs a limit, and a limit on the time something to measure it"
        raise ValueError(message)
    trial = Trial(format_name, tuple(units), evaluate, progress, most)
    usable = list(recipes)
    for recipe in usable:
        trial.plain(recipe)
    if not trial.candidates:
        message = f"{format_name}: no recipe can be written; {'; '.join(trial.failed.values())}"
        raise BudgetError(message)
    mixer = Mixer(trial, _levels(usable, trial), budget)
    mixer.run()
    timed = _timed(trial.candidates, budget, measure)
    recommended = choose(timed, budget)
    if _too_slow(recommended, budget) and mixer.run_for_speed():
        timed = _timed(trial.candidates, budget, measure)
        recommended = choose(timed, budget)
    others = None if recommended else nearest(timed, budget)
    shown = recommended or others
    kept: tuple[Kept, ...] = ()
    if shown is not None and shown.description in trial.assignments:
        assignment = trial.assignments[shown.description]
        kept = kept_layers(trial.units, assignment, mixer.costs, budget)
    return SearchResult(
        format=format_name,
        budget=budget,
        candidates=tuple(timed),
        pareto=pareto(timed),
        recommended=recommended,
        nearest=others,
        kept=kept,
        reason=reason_for(recommended, others, timed, budget, kept, drop_unit),
        failed=trial.failed,
        exhausted=trial.exhausted,
    )


class Trial:
    """Evaluates each artifact once, up to a number.

    Attributes:
        units: What is moved.
        candidates: All that could be evaluated, in the order of evaluation.
        assignments: The precisions of their units, by the candidate's description.
        failed: What could not be written, with the reason.
        exhausted: Whether something was asked for beyond the number.
    """

    def __init__(
        self,
        format_name: str,
        units: tuple[Unit, ...],
        evaluate: Evaluate,
        progress: Progress | None,
        most: int,
    ) -> None:
        self.units = units
        self.candidates: list[Candidate] = []
        self.assignments: dict[str, Assignment] = {}
        self.failed: dict[str, str] = {}
        self.exhausted = False
        self._format = format_name
        self._evaluate = evaluate
        self._progress = progress
        self._most = most
        self._count = 0
        self._known: dict[Assignment, Candidate | None] = {}

    def plain(self, recipe: Recipe) -> Candidate | None:
        """Evaluate a recipe; None where the format cannot hold it."""
        plan = recipe.plan
        found = self._try(recipe.name, recipe.name, plan)
        if not recipe.calibrated:
            assignment = (recipe.precision,) * len(self.units)
            self._known[assignment] = found
            self.assignments[recipe.name] = assignment
        return found

    def mix(self, assignment: Assignment) -> Candidate | None:
        """Evaluate a mix; None where it cannot be written, or the number is used up."""
        if assignment not in self._known:
            if self._count >= self._most:
                self.exhausted = True
                return None
            words = described(self.units, assignment)
            self.assignments[words] = assignment
            plan = plan_of(self.units, assignment)
            self._known[assignment] = self._try(MIXED, words, plan)
        return self._known[assignment]

    def _try(self, recipe: str, words: str, plan: PrecisionPlan) -> Candidate | None:
        self._count += 1
        if self._progress is not None:
            number = f"{self._count} of at most {self._most}"
            self._progress(f"trying {self._format} as {words} ({number})")
        try:
            found = self._evaluate(recipe, plan)
        except BudgetError:
            raise
        except ExportError as error:
            self.failed[words] = str(error)
            return None
        candidate = Candidate(
            recipe, words, plan, found.bytes, found.drop, found.error, payload=found.payload
        )
        self.candidates.append(candidate)
        return candidate


def _too_slow(best: Candidate | None, budget: Budget) -> bool:
    """Whether a limit on the time rules out what there is, or, without one on the drop, float32."""
    if budget.max_ms is None:
        return False
    return best is None or (budget.max_drop is None and best.recipe != FLOAT32)


def _levels(recipes: Sequence[Recipe], trial: Trial) -> list[tuple[Precision, Candidate]]:
    """The precisions that a mix may use, the lowest first, with the plain recipe of each."""
    plain = {c.recipe: c for c in trial.candidates}
    found = {r.precision: plain[r.name] for r in recipes if r.name in plain and not r.calibrated}
    return sorted(found.items())


def _timed(
    candidates: Sequence[Candidate], budget: Budget, measure: Measure | None
) -> list[Candidate]:
    """Time the plain recipes and the smallest of what keeps the other limits, all in turn."""
    if measure is None or budget.max_ms is None:
        return list(candidates)
    other = replace(budget, max_ms=None)
    mixes = [c for c in candidates if c.recipe == MIXED and not misses(c, other)]
    mixes.sort(
        key=lambda c: (c.bytes, c.drop) if budget.max_drop is not None else (c.drop, c.bytes)
    )
    wanted = [c for c in candidates if c.recipe != MIXED] + mixes[:MOST_TIMED]
    times = dict(zip(map(id, wanted), measure(wanted), strict=True))
    return [replace(c, milliseconds=times.get(id(c))) for c in candidates]
