"""The stages of an export: read, inspect, build, verify, select, write."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bilstm_exporter.artifacts import ArtifactBuilder
from bilstm_exporter.bundle.folder import check_writable, default_folder, staged
from bilstm_exporter.bundle.writer import write_bundle
from bilstm_exporter.errors import ExportError, ParityError, UnsupportedModelError
from bilstm_exporter.evaluation.evaluator import EvaluationSet, make_evaluation_set
from bilstm_exporter.evaluation.search import SearchResult
from bilstm_exporter.evaluation.selection import parse_budget
from bilstm_exporter.explanation import (
    Explanation,
    FormatOutcome,
    explain_formats,
    explain_refusal,
)
from bilstm_exporter.frontends.loading import layers_of, read
from bilstm_exporter.inspection.probes import ProbeSet, golden_probes
from bilstm_exporter.inspection.properties import inspect_model
from bilstm_exporter.keras_model import ModelLayers
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.progress import Listener, Stages
from bilstm_exporter.quantization.recipes import ALL, parse_recipes
from bilstm_exporter.recipe_selection import NothingFits, RecipeSelector, Selection
from bilstm_exporter.report import ExportReport, FailedExport, make_report


def run_export(
    model: Any,
    out: str | os.PathLike[str] | None,
    options: ExportOptions,
    listener: Listener | None = None,
) -> ExportReport | FailedExport:
    """Export a model; see `bilstm_exporter.export`."""
    stages, attempt = Stages(listener), Attempt(model)
    try:
        if out is not None:
            check_writable(Path(out), overwrite=options.overwrite)
        loaded, probes = load_model(model, options, stages, attempt)
        folder = (
            Path(out) if out is not None else default_folder(loaded.origin.file, loaded.spec.name)
        )
        with staged(folder, overwrite=options.overwrite) as staging:
            golden = golden_probes(loaded, probes.probes)
            builder = ArtifactBuilder(loaded, probes, options, stages)
            build_float32(builder, options.formats, attempt)
            attempt.raise_first()
            evaluation = prepare_evaluation(loaded, probes, options, stages)
            selection = select_artifacts(builder, evaluation, options, stages, attempt)
            write_bundle(staging, loaded, golden, selection)
        return make_report(folder, loaded, probes, evaluation, selection, stages.seconds)
    except ExportError as error:
        attempt.advise(error)
        return FailedExport(error, attempt.explanation_of(error), attempt.searches)


def explain(model: Any, options: ExportOptions, listener: Listener | None = None) -> Explanation:
    """Explain how each layer is written in each format, or why it cannot be; write nothing.

    Raises:
        ExportError: The model cannot be read, and its layers are not known.
    """
    stages, attempt = Stages(listener), Attempt(model)
    try:
        loaded, probes = load_model(model, options, stages, attempt)
        build_float32(ArtifactBuilder(loaded, probes, options, stages), options.formats, attempt)
        attempt.raise_first()
    except ExportError as error:
        attempt.advise(error)
        explanation = attempt.explanation_of(error)
        if explanation is None:
            raise
        return explanation
    return attempt.explanation()


@dataclass
class Attempt:
    """The results of an export so far; they explain a failure.

    Attributes:
        model: The model, as the user gave it.
        layers: The model's layers, once it is loaded.
        outcomes: The result of each format that was tried.
        searches: The results of searches within limits, by format.
        advice: What to do if the model is one for training; see `Origin`.
    """

    model: Any
    layers: ModelLayers | None = None
    advice: str = ""
    outcomes: dict[str, FormatOutcome] = field(default_factory=dict)
    searches: Mapping[str, SearchResult] = field(default_factory=dict)

    def raise_first(self) -> None:
        """Raise the error of the first format that cannot be written."""
        for outcome in self.outcomes.values():
            if outcome.error is not None:
                raise outcome.error

    def advise(self, error: ExportError) -> None:
        """Add to an error of the model what to do if it is one for training."""
        if self.advice and isinstance(error, (UnsupportedModelError, ParityError)):
            error.add_advice(self.advice)

    def explanation(self) -> Explanation:
        """Explain how each layer was written in the formats that were tried."""
        if self.layers is None:
            message = "no model was loaded"
            raise ValueError(message)
        return explain_formats(self.layers, self.outcomes)

    def explanation_of(self, error: ExportError) -> Explanation | None:
        """Explain an error layer by layer; None if it does not concern any layer."""
        if any(outcome.error is error for outcome in self.outcomes.values()):
            return self.explanation()
        layers = (self.layers or layers_of(self.model)) if error.layers else None
        return None if layers is None else explain_refusal(layers, error)


def load_model(
    model: Any, options: ExportOptions, stages: Stages, attempt: Attempt
) -> tuple[LoadedModel, ProbeSet]:
    """Read a model, inspect it, and compute Keras's outputs for the probes."""
    with stages.stage("reading the model"):
        keras_model, origin = read(
            model,
            weights=None if options.weights is None else Path(options.weights),
            builder=options.builder,
            custom_objects=options.custom_objects,
            trust_code=options.trust_code,
            outputs=tuple(options.outputs or ()),
        )
        attempt.advice = origin.advice
        attempt.layers = ModelLayers(
            keras_model.name,
            f"{keras_model.generation}: {origin.why}",
            keras_model.layers(),
            keras_model.text_layers(),
        )
    with stages.stage("calling Keras for its outputs"):
        return inspect_model(keras_model, origin, batch=options.batch, time=options.time)


def build_float32(builder: ArtifactBuilder, formats: Sequence[str], attempt: Attempt) -> None:
    """Build and verify every format in float32; continue after one that fails."""
    for name in formats:
        attempt.outcomes[name] = builder.try_float32(name)


def prepare_evaluation(
    loaded: LoadedModel, probes: ProbeSet, options: ExportOptions, stages: Stages
) -> EvaluationSet | None:
    """Make the examples for the evaluation: the user's data, or the probes for a search."""
    budget = parse_budget(options.max_drop, options.max_kb, options.max_ms)
    if options.data is None and budget.is_unlimited:
        return None
    return make_evaluation_set(loaded, probes, options.data, options.metric, stages)


def select_artifacts(
    builder: ArtifactBuilder,
    evaluation: EvaluationSet | None,
    options: ExportOptions,
    stages: Stages,
    attempt: Attempt,
) -> Selection:
    """Build the requested recipes, or search for the best within the limits."""
    selector = RecipeSelector(builder, options.formats, evaluation, stages)
    recipes = parse_recipes(options.recipes)
    budget = parse_budget(options.max_drop, options.max_kb, options.max_ms)
    if budget.is_unlimited:
        return selector.build(recipes, skip_failed_calibration=options.recipes == ALL)
    selection = selector.search(recipes, budget)
    attempt.searches = selection.searches
    if isinstance(selection, NothingFits):
        raise selection.error
    return selection
