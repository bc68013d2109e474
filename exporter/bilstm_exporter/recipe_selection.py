"""Selects the artifacts of a bundle: the requested recipes, or the result of a search."""

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
    file_name,
)
from bilstm_exporter.targets.base import Calibration
from bilstm_exporter.targets.registry import TARGETS
from bilstm_runtime.predictor import Predictor


@dataclass(frozen=True)
class Selection:
    """The artifacts of a bundle.

    Attributes:
        artifacts: The artifacts in the order of the manifest.
        recommended: The recipe to run by default.
        searches: The results of searches by format; empty without limits.
        left_out: The reasons for the recipes that could not be written.
        streams: The reason for the recommendation that streams give; "" if they give none.
    """

    artifacts: list[VerifiedArtifact]
    recommended: str
    searches: Mapping[str, SearchResult] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    streams: str = ""

    @property
    def reason(self) -> str:
        """The reason for the recommendation; "" without a search."""
        found = [f"{name}: {result.reason}" for name, result in self.searches.items()]
        return " ".join([*found, *([self.streams] if self.streams else [])])

    def for_streams(self, recipe: str | None) -> Selection:
        """Return the selection that recommends a recipe for streams; None for no preference."""
        if recipe is None or recipe == self.recommended:
            return self
        reason = f"Streams: {recipe} keeps the metric at the smallest delay."
        return replace(self, recommended=recipe, streams=reason)


@dataclass(frozen=True)
class NothingFits:
    """The result of a search if no artifact is within the limits.

    Attributes:
        error: The error to raise.
        searches: The results of searches by format.
    """

    error: BudgetError
    searches: Mapping[str, SearchResult]


class RecipeSelector:
    """Builds artifacts in recipes, and evaluates them.

    Args:
        builder: Builds and verifies the artifacts.
        formats: The formats to write, each already verified in float32.
        evaluation: The examples for the evaluation; None without data or limits.
        stages: Receives the name of each stage.
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
        """Build recipes in every format that supports them.

        Args:
            recipes: The recipes.
            skip_failed_calibration: Leave out a calibrated recipe that cannot be written, and
                record the reason. For recipes that the user did not name.

        Raises:
            OptionError: No format supports any of the recipes.
            ExportError: A recipe cannot be written, or an output is NaN where Keras's is not.
        """
        artifacts: list[VerifiedArtifact] = []
        left_out: dict[str, str] = {}
        for recipe in recipes:
            for name in self._formats:
                if not TARGETS[name].holds(recipe):
                    continue
                refused = self._refused(name, recipe)
                if refused:
                    left_out[file_name(recipe.name, name)] = refused
                    continue
                try:
                    artifacts.append(self._builder.prove(self._artifact_as_stage(name, recipe)))
                except ExportError as error:
                    if not (skip_failed_calibration and recipe.calibrated):
                        raise
                    left_out[recipe.name] = str(error)
        if not artifacts:
            if left_out:
                message = f"{'; '.join(left_out.values())}. Choose other --recipes or --target"
                raise OptionError(message)
            requested = ", ".join(recipe.name for recipe in recipes)
            others = [t.name for t in TARGETS.values() if any(t.holds(r) for r in recipes)]
            message = (
                f"recipes: {requested} cannot be written as {', '.join(self._formats)}; add "
                f"{', '.join(sorted(others))} to --formats, or another recipe"
            )
            raise OptionError(message)
        return Selection(artifacts, artifacts[0].artifact.recipe, {}, left_out)

    def search(self, recipes: Sequence[Recipe], budget: Budget) -> Selection | NothingFits:
        """Find the best artifact of every format within limits."""
        evaluation = self._evaluation
        if evaluation is None:
            message = "a search needs examples to evaluate on"
            raise ValueError(message)
        results = {
            name: self._search(
                name,
                [r for r in recipes if TARGETS[name].holds(r) and not self._refused(name, r)],
                budget,
                evaluation,
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
        best = [
            self._builder.prove(candidate.payload.renamed(recommended))
            for candidate in chosen.values()
        ]
        if recommended == FLOAT32:
            return Selection(best, recommended, results)
        exact = [self._artifact(name, FLOAT32, RECIPES[FLOAT32].plan) for name in self._formats]
        return Selection([*exact, *best], recommended, results)

    def _refused(self, name: str, recipe: Recipe) -> str:
        """Return why a runtime that the export is made for cannot run a recipe; "" if all can."""
        for profile in self._builder.profiles_of(name):
            if recipe.name not in profile.recipes:
                return f"{profile.label} does not run {recipe.name} in {name}"
        return ""

    def _search(
        self, name: str, recipes: Sequence[Recipe], budget: Budget, evaluation: EvaluationSet
    ) -> SearchResult:
        def evaluate(recipe: str, plan: PrecisionPlan) -> Measurement:
            verified = self._artifact(name, recipe, plan)
            result = verified.verdict
            if result is None:
                message = "nothing was evaluated"
                raise ValueError(message)
            return Measurement(
                verified.artifact.bytes, result.drop, result.relative_error, verified
            )

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
        sentences = _higher_precision_notes(result.recommended)
        return replace(result, reason=" ".join([result.reason, *sentences]))

    def _artifact_as_stage(self, name: str, recipe: Recipe) -> VerifiedArtifact:
        if recipe.name == FLOAT32 and self._evaluation is None:
            return self._artifact(name, recipe.name, recipe.plan)
        with self._stages.stage(f"{name}, {recipe.name}"):
            return self._artifact(name, recipe.name, recipe.plan)

    def _artifact(self, name: str, recipe: str, plan: PrecisionPlan) -> VerifiedArtifact:
        if recipe == FLOAT32:
            verified = self._builder.float32(name)
        else:
            calibration = self._calibration(recipe) if plan.integer_activations else None
            verified = self._builder.recipe(name, recipe, plan, calibration)
        if self._evaluation is None:
            return verified
        result = self._evaluation.evaluate(
            Predictor(self._builder.loaded.spec, verified.session, label=name)
        )
        artifact = verified.artifact
        parity = {**artifact.parity, "judged": result.to_dict()}
        return replace(verified, verdict=result, artifact=replace(artifact, parity=parity))

    def _calibration(self, recipe: str) -> Calibration:
        if self._evaluation is None or not self._evaluation.user_data:
            message = f"{recipe} finds the ranges of the activations in your data: add --data FILE"
            raise OptionError(message)
        loaded = self._builder.loaded
        return calibration_runs(loaded.keras, loaded.spec, self._evaluation.dataset)


def _higher_precision_notes(candidate: Candidate | None) -> list[str]:
    """Describe the layers that are stored in a higher precision than the recipe's."""
    if candidate is None:
        return []
    verified: VerifiedArtifact = candidate.payload
    forms = verified.built.weights
    low = min((Precision[form.storage.upper()] for form in forms), default=Precision.FLOAT32)
    kept = {
        form.layer: f"{form.layer!r} is stored in {form.storage}: {form.reason}."
        for form in forms
        if form.layer and form.reason and Precision[form.storage.upper()] > low
    }
    return list(kept.values())
