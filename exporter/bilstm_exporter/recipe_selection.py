"""Writing, checking and judging artifacts in the recipes a user asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bilstm_exporter.artifacts import Checked, Exact, build_calibrated, check_near
from bilstm_exporter.errors import BudgetError, ExportError, OptionError
from bilstm_exporter.evaluation.budget import Budget, parse_budget
from bilstm_exporter.evaluation.calibration import calibration_runs
from bilstm_exporter.evaluation.evaluator import Verdict
from bilstm_exporter.evaluation.latency import latencies_ms, questions
from bilstm_exporter.evaluation.overall import overall
from bilstm_exporter.evaluation.predictions import session_model
from bilstm_exporter.evaluation.reference_evaluation import Opinion, form_opinion
from bilstm_exporter.evaluation.search import Measured, SearchResult, search
from bilstm_exporter.evaluation.selection import Candidate
from bilstm_exporter.evaluation.units import units_of
from bilstm_exporter.inspection.prepared import Prepared
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.progress import Stages
from bilstm_exporter.quantization.recipes import (
    ALL,
    FLOAT32,
    RECIPES,
    Precision,
    PrecisionPlan,
    Recipe,
    file_name,
    parse_recipes,
)
from bilstm_exporter.quantization.weight_owners import Owners
from bilstm_runtime.bundle.manifest import Manifest


@dataclass(frozen=True)
class Made:
    """An artifact of a bundle.

    Attributes:
        checked: It, and what the probes found.
        verdict: What it does on the user's data; None without.
    """

    checked: Checked
    verdict: Verdict | None


@dataclass(frozen=True)
class Selection:
    """The artifacts of a bundle.

    Attributes:
        made: In the order of the manifest.
        recommended: The recipe to run where nobody says otherwise.
        opinion: What the data was, and how it was judged; None without data or limits.
        searches: By format, what a search within limits found; empty without limits.
        left_out: Recipes that could not be written, with the reason.
    """

    made: list[Made]
    recommended: str
    opinion: Opinion | None
    searches: Mapping[str, SearchResult] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """Why the recipe is recommended; "" where nobody searched."""
        return " ".join(f"{name}: {result.reason}" for name, result in self.searches.items())


def select_artifacts(
    formats: Mapping[str, Exact],
    prepared: Prepared,
    manifest: Manifest,
    options: ExportOptions,
    stages: Stages,
) -> Selection:
    """Write every recipe asked for, or what a search finds within the limits.

    Args:
        formats: The float32 form of each format.
        prepared: The model, with probes that float32 decides.
        manifest: Without artifacts.
        options: Of the export.
        stages: Told what is done.

    Raises:
        BudgetError: Nothing keeps the limits; it holds what was found.
        DataError: The data cannot be used.
        ExportError: A recipe gives no number where Keras gives one.
    """
    budget = parse_budget(options.max_drop, options.max_kb, options.max_ms)
    opinion = None
    if options.data is not None or not budget.is_open:
        opinion = form_opinion(prepared, manifest, options.data, options.metric, stages)
    maker = _Maker(formats, prepared, manifest, opinion, stages)
    recipes = parse_recipes(options.recipes)
    if not budget.is_open:
        return maker.search(recipes, budget)
    made, left_out = maker.plain(recipes, whatever_works=options.recipes == ALL)
    return Selection(made, made[0].checked.artifact.recipe, opinion, {}, left_out)


class _Maker:
    """Makes artifacts of one model."""

    def __init__(
        self,
        formats: Mapping[str, Exact],
        prepared: Prepared,
        manifest: Manifest,
        opinion: Opinion | None,
        stages: Stages,
    ) -> None:
        self._formats = formats
        self._prepared = prepared
        self._manifest = manifest
        self._opinion = opinion
        self._stages = stages
        self._owners = Owners(prepared.source.weights())

    def plain(
        self, recipes: Sequence[Recipe], *, whatever_works: bool
    ) -> tuple[list[Made], dict[str, str]]:
        """Write recipes, check them and judge them.

        Args:
            recipes: Which.
            whatever_works: Leave out a calibrated recipe that cannot be written, with the reason;
                nobody asked for it by name.
        """
        made, left_out = [], {}
        for recipe in recipes:
            for name in self._formats:
                if name not in recipe.formats:
                    continue
                try:
                    made.append(self._told(name, recipe))
                except ExportError as error:
                    if not (whatever_works and recipe.calibrated):
                        raise
                    left_out[recipe.name] = str(error)
        if not made:
            wanted = ", ".join(recipe.name for recipe in recipes)
            message = (
                f"recipes: {wanted} cannot be written as {', '.join(self._formats)}; add "
                f"{', '.join(sorted({f for recipe in recipes for f in recipe.formats}))} to "
                f"--formats, or another recipe"
            )
            raise OptionError(message)
        return made, left_out

    def _told(self, name: str, recipe: Recipe) -> Made:
        plan = PrecisionPlan(recipe.precision)
        if recipe.name == FLOAT32 and self._opinion is None:
            return self._made(name, recipe.name, plan)
        with self._stages.stage(f"{name}, {recipe.name}"):
            return self._made(name, recipe.name, plan)

    def search(self, recipes: Sequence[Recipe], budget: Budget) -> Selection:
        """Find the best artifact of every format within limits."""
        results = {
            name: self._search(name, [r for r in recipes if name in r.formats], budget)
            for name in self._formats
        }
        found = overall(results)
        if found is None:
            reasons = " ".join(f"{name}: {result.reason}" for name, result in results.items())
            message = (
                f"{reasons} Nothing was written. Allow more, give the search other --recipes, or "
                f"leave a format out with --formats"
            )
            raise BudgetError(message, results)
        recommended, chosen = found
        exact = [self._made(name, FLOAT32, _ALL_FLOAT32) for name in self._formats]
        best = [self._renamed(name, recommended, one) for name, one in chosen.items()]
        made = best if recommended == FLOAT32 else [*exact, *best]
        return Selection(made, recommended, self._opinion, results)

    def _search(self, name: str, recipes: Sequence[Recipe], budget: Budget) -> SearchResult:
        opinion = self._opinion
        if opinion is None:
            message = "a search needs an opinion"
            raise ValueError(message)
        lowest = self._formats[name].conversion.write(PrecisionPlan(Precision.INT4), self._owners)

        def evaluate(recipe: str, plan: PrecisionPlan) -> Measured:
            made = self._made(name, recipe, plan)
            if made.verdict is None:
                message = "nothing was judged"
                raise ValueError(message)
            size = made.checked.artifact.bytes
            return Measured(size, made.verdict.drop, made.verdict.relative_error, made)

        def measure(candidates: Sequence[Candidate]) -> list[float]:
            sessions = [one.payload.checked.session for one in candidates]
            models = [session_model(session, self._manifest, name) for session in sessions]
            return latencies_ms(models, questions(opinion.dataset, self._manifest))

        with self._stages.stage(f"searching {name}"):
            result = search(
                name,
                recipes,
                units_of(lowest.weights),
                budget,
                evaluate,
                measure=measure,
                progress=self._stages.tell,
                drop_unit=opinion.drop_unit,
            )
        return replace(result, reason=" ".join([result.reason, *_held_back(result.recommended)]))

    def _made(self, name: str, recipe: str, plan: PrecisionPlan) -> Made:
        exact = self._formats[name]
        if recipe == FLOAT32:
            checked = exact.checked
        elif recipe in RECIPES and RECIPES[recipe].calibrated:
            checked = self._calibrated(name, recipe)
        else:
            built = exact.conversion.write(plan, self._owners)
            checked = check_near(name, recipe, built, self._prepared, self._manifest)
        verdict = None
        if self._opinion is not None:
            verdict = self._opinion.of(session_model(checked.session, self._manifest, name))
            parity = {**checked.artifact.parity, "judged": verdict.to_dict()}
            checked = replace(checked, artifact=replace(checked.artifact, parity=parity))
        return Made(checked, verdict)

    def _calibrated(self, name: str, recipe: str) -> Checked:
        if self._opinion is None or not self._opinion.on_data:
            message = f"{recipe} finds the ranges of the activations in your data: add --data FILE"
            raise OptionError(message)
        runs = calibration_runs(self._prepared.source, self._manifest, self._opinion.dataset)
        return build_calibrated(name, recipe, self._prepared, self._manifest, runs)

    @staticmethod
    def _renamed(name: str, recipe: str, candidate: Candidate) -> Made:
        """The artifact of a format under the name that the manifest recommends."""
        made: Made = candidate.payload
        artifact = replace(made.checked.artifact, recipe=recipe, file=file_name(recipe, name))
        return replace(made, checked=replace(made.checked, artifact=artifact))


def _held_back(candidate: Candidate | None) -> list[str]:
    """Sentences about layers that the recommended artifact could not store as its recipe says."""
    if candidate is None:
        return []
    made: Made = candidate.payload
    forms = made.checked.built.weights
    low = min((Precision[form.storage.upper()] for form in forms), default=Precision.FLOAT32)
    kept = {
        form.layer: f"{form.layer!r} is stored in {form.storage}: {form.reason}."
        for form in forms
        if form.layer and form.reason and Precision[form.storage.upper()] > low
    }
    return list(kept.values())


_ALL_FLOAT32 = PrecisionPlan(Precision.FLOAT32)
