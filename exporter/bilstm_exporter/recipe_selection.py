"""Which artifacts a bundle gets: the recipes asked for, or what a search finds within limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bilstm_exporter.artifacts import ArtifactBuilder, VerifiedArtifact
from bilstm_exporter.errors import BudgetError, ExportError, OptionError
from bilstm_exporter.evaluation.evaluator import EvaluationSet
from bilstm_exporter.evaluation.latency import latencies_ms, latency_examples
from bilstm_exporter.evaluation.predictions import calibration_runs
from bilstm_exporter.evaluation.reasons import NO_DATA, Wording
from bilstm_exporter.evaluation.search import Measurement, SearchResult, recommend, search
from bilstm_exporter.evaluation.selection import Budget, Candidate
from bilstm_exporter.evaluation.weight_groups import find_weight_groups
from bilstm_exporter.progress import Stages
from bilstm_exporter.quantization.recipes import (
    FLOAT32,
    RECIPES,
    Precision,
    PrecisionPlan,
    Recipe,
)
from bilstm_exporter.targets.base import Calibration
from bilstm_exporter.targets.registry import TARGETS
from bilstm_runtime.predictor import Predictor


@dataclass(frozen=True)
class Selection:
    """The artifacts of a bundle.

    Attributes:
        artifacts: In the order of the manifest.
        recommended: The recipe to run where nobody says otherwise.
        searches: By format, what a search within limits found; empty without limits.
        left_out: Recipes that could not be written, with the reason.
    """

    artifacts: list[VerifiedArtifact]
    recommended: str
    searches: Mapping[str, SearchResult] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """Why the recipe is recommended; "" without a search."""
        return " ".join(f"{name}: {result.reason}" for name, result in self.searches.items())


@dataclass(frozen=True)
class NothingFits:
    """What searches found where no artifact keeps within the limits.

    Attributes:
        error: Says so.
        searches: By format, what was tried.
    """

    error: BudgetError
    searches: Mapping[str, SearchResult]


class RecipeSelector:
    """Builds artifacts in recipes, and evaluates them.

    Args:
        builder: Builds and verifies them.
        formats: Those to write, each already proven in float32.
        evaluation: What artifacts are evaluated on; None without data or limits.
        stages: Told what runs.
    """

    def __init__(
        self,
        builder: ArtifactBuilder,
        formats: Sequence[str],
        evaluation: EvaluationSet | None,
        stages: Stages,
    ) -> None:
        self._builder = builder
        self._formats = tuple(formats)
        self._evaluation = evaluation
        self._stages = stages

    def build(self, recipes: Sequence[Recipe], *, skip_failed_calibration: bool) -> Selection:
        """Build recipes in every format that holds them.

        Args:
            recipes: Which.
            skip_failed_calibration: Leave out a calibrated recipe that cannot be written, with the
                reason, because nobody asked for it by name.

        Raises:
            OptionError: No format holds any of them.
            ExportError: A recipe cannot be written, or gives no number where Keras gives one.
        """
        artifacts: list[VerifiedArtifact] = []
        left_out: dict[str, str] = {}
        for recipe in recipes:
            for name in self._formats:
                if not TARGETS[name].holds(recipe):
                    continue
                try:
                    artifacts.append(self._reported(name, recipe))
                except ExportError as error:
                    if not (skip_failed_calibration and recipe.calibrated):
                        raise
                    left_out[recipe.name] = str(error)
        if not artifacts:
            wanted = ", ".join(recipe.name for recipe in recipes)
            others = [t.name for t in TARGETS.values() if any(t.holds(r) for r in recipes)]
            message = (
                f"recipes: {wanted} cannot be written as {', '.join(self._formats)}; add "
                f"{', '.join(sorted(others))} to --formats, or another recipe"
            )
            raise OptionError(message)
        return Selection(artifacts, artifacts[0].artifact.recipe, {}, left_out)

    def search(self, recipes: Sequence[Recipe], budget: Budget) -> Selection | NothingFits:
        """Find the best artifact of every format within limits."""
        evaluation = self._evaluation
        if evaluation is None:
            message = "a search needs something to evaluate on"
            raise ValueError(message)
        results = {
            name: self._search(
                name, [r for r in recipes if TARGETS[name].holds(r)], budget, evaluation
            )
            for name in self._formats
        }
        found = recommend(results)
        if found is None:
            sentences = [] if evaluation.user_data else [NO_DATA]
            sentences += [f"{name}: {result.reason}" for name, result in results.items()]
            reasons = " ".join(sentences)
            message = (
                f"{reasons} Nothing was written. Allow more, give the search other --recipes, or "
                f"leave a format out with --formats"
            )
            return NothingFits(BudgetError(message), results)
        recommended, chosen = found
        best = [candidate.payload.renamed(recommended) for candidate in chosen.values()]
        if recommended == FLOAT32:
            return Selection(best, recommended, results)
        exact = [self._artifact(name, FLOAT32, RECIPES[FLOAT32].plan) for name in self._formats]
        return Selection([*exact, *best], recommended, results)

    def _search(
        self, name: str, recipes: Sequence[Recipe], budget: Budget, evaluation: EvaluationSet
    ) -> SearchResult:
        def evaluate(recipe: str, plan: PrecisionPlan) -> Measurement:
            made = self._artifact(name, recipe, plan)
            verdict = made.verdict
            if verdict is None:
                message = "nothing was evaluated"
                raise ValueError(message)
            return Measurement(made.artifact.bytes, verdict.drop, verdict.relative_error, made)

        def measure(candidates: Sequence[Candidate]) -> list[float]:
            spec = self._builder.loaded.spec
            models = [Predictor(spec, one.payload.session, label=name) for one in candidates]
            return latencies_ms(models, latency_examples(evaluation.dataset, spec))

        with self._stages.stage(f"searching {name}"):
            result = search(
                name,
                recipes,
                find_weight_groups(self._builder.smallest(name).weights),
                budget,
                evaluate,
                measure=measure,
                progress=self._stages.report,
                wording=Wording(evaluation.drop_unit, evaluation.user_data),
            )
        sentences = _kept_higher(result.recommended)
        return replace(result, reason=" ".join([result.reason, *sentences]))

    def _reported(self, name: str, recipe: Recipe) -> VerifiedArtifact:
        if recipe.name == FLOAT32 and self._evaluation is None:
            return self._artifact(name, recipe.name, recipe.plan)
        with self._stages.stage(f"{name}, {recipe.name}"):
            return self._artifact(name, recipe.name, recipe.plan)

    def _artifact(self, name: str, recipe: str, plan: PrecisionPlan) -> VerifiedArtifact:
        if recipe == FLOAT32:
            made = self._builder.float32(name)
        else:
            calibration = self._calibration(recipe) if plan.integer_activations else None
            made = self._builder.recipe(name, recipe, plan, calibration)
        if self._evaluation is None:
            return made
        verdict = self._evaluation.evaluate(
            Predictor(self._builder.loaded.spec, made.session, label=name)
        )
        parity = {**made.artifact.parity, "judged": verdict.to_dict()}
        return replace(made, verdict=verdict, artifact=replace(made.artifact, parity=parity))

    def _calibration(self, recipe: str) -> Calibration:
        if self._evaluation is None or not self._evaluation.user_data:
            message = f"{recipe} finds the ranges of the activations in your data: add --data FILE"
            raise OptionError(message)
        loaded = self._builder.loaded
        return calibration_runs(loaded.keras, loaded.spec, self._evaluation.dataset)


def _kept_higher(candidate: Candidate | None) -> list[str]:
    """Sentences about layers that the recommended artifact could not store as its recipe says."""
    if candidate is None:
        return []
    made: VerifiedArtifact = candidate.payload
    forms = made.built.weights
    low = min((Precision[form.storage.upper()] for form in forms), default=Precision.FLOAT32)
    kept = {
        form.layer: f"{form.layer!r} is stored in {form.storage}: {form.reason}."
        for form in forms
        if form.layer and form.reason and Precision[form.storage.upper()] > low
    }
    return list(kept.values())
