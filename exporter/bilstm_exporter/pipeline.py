"""The stages of an export: read, inspect, build, verify, select, write."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bilstm_exporter.artifacts import ArtifactBuilder
from bilstm_exporter.bundle.folder import (
    check_writable,
    default_folder,
    output_folder,
    staged,
)
from bilstm_exporter.bundle.writer import write_bundle
from bilstm_exporter.errors import (
    ExportError,
    OptionError,
    ParityError,
    UnsupportedModelError,
)
from bilstm_exporter.evaluation.data import check_data_for
from bilstm_exporter.evaluation.dataset import example_calls
from bilstm_exporter.evaluation.evaluator import EvaluationSet, make_evaluation_set
from bilstm_exporter.evaluation.search import SearchResult
from bilstm_exporter.evaluation.selection import Budget, parse_budget
from bilstm_exporter.evaluation.task import parse_metrics
from bilstm_exporter.explanation import (
    Explanation,
    FormatOutcome,
    explain_formats,
    explain_refusal,
)
from bilstm_exporter.frontends.loading import layers_of, read
from bilstm_exporter.inspection.interface import declared_spec
from bilstm_exporter.inspection.probes import ProbeSet, golden_probes
from bilstm_exporter.inspection.properties import inspect_model
from bilstm_exporter.keras_model import KerasModel, ModelLayers
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.processing.decoders import crf_decoding, ctc_decoding, parse_crf, parse_ctc
from bilstm_exporter.processing.labels import Labels, decodings_of
from bilstm_exporter.processing.recordings import with_sample_rate, with_windows
from bilstm_exporter.processing.tokenizers import Length, preprocessing_of
from bilstm_exporter.progress import Listener, Stages
from bilstm_exporter.quantization.recipes import ALL, parse_recipes
from bilstm_exporter.recipe_selection import NothingFits, RecipeSelector, Selection
from bilstm_exporter.report import (
    ExportReport,
    FailedExport,
    make_report,
    report_streaming,
)
from bilstm_exporter.streaming.export import export_streaming
from bilstm_exporter.targets.registry import default_formats
from bilstm_exporter.verification.runtimes import check_rules
from bilstm_runtime.decoding_spec import Decoding, LabelDecoding
from bilstm_runtime.spec import BATCH, TIME, ModelSpec


def run_export(
    model: Any,
    out: str | os.PathLike[str] | None,
    options: ExportOptions,
    listener: Listener | None = None,
) -> ExportReport | FailedExport:
    """Export a model; see `bilstm_exporter.export`."""
    stages, attempt = Stages(listener), Attempt(model)
    try:
        chosen = None if out is None else output_folder(out)
        if chosen is not None:
            check_writable(chosen, overwrite=options.overwrite)
        loaded, probes = load_model(model, options, stages, attempt)
        folder = chosen or default_folder(loaded.origin.file, loaded.spec.name)
        with staged(folder, overwrite=options.overwrite) as staging:
            builder = ArtifactBuilder(loaded, probes, options, stages)
            evaluation = evaluate_on_data(loaded, probes, options, stages)
            build_float32(builder, options.formats, attempt)
            attempt.raise_first()
            if evaluation is None and not limits_of(options).is_unlimited:
                evaluation = evaluate_on_probes(loaded, probes, options, stages)
            selection = select_artifacts(builder, evaluation, options, stages, attempt)
            streaming = None
            if options.streaming:
                streaming = export_streaming(
                    loaded, probes, selection.artifacts, evaluation, options, stages
                )
                selection = selection.for_streams(streaming.recipe)
            golden = golden_probes(loaded, probes.probes)
            digest = write_bundle(staging, loaded, golden, selection, streaming)
        seconds = stages.seconds
        report = make_report(folder, loaded, probes, evaluation, selection, seconds, options)
        return replace(report, sha256=digest, streaming=report_streaming(streaming))
    except ExportError as error:
        attempt.advise(error)
        return FailedExport(error, attempt.explanation_of(error), attempt.searches)


def explain(model: Any, options: ExportOptions, listener: Listener | None = None) -> Explanation:
    """Explain how each layer is written in each format, or why it cannot be; write nothing.

    If the options name targets, explain it for each of them, in the forms that it needs.

    Raises:
        ExportError: The model cannot be read, and its layers are not known.
    """
    stages, attempt = Stages(listener), Attempt(model)
    try:
        loaded, probes = load_model(model, options, stages, attempt)
        if options.target is None:
            builder = ArtifactBuilder(loaded, probes, options, stages)
            build_float32(builder, options.formats, attempt)
        else:
            for profile in options.profiles:
                alone = replace(options, target=profile.name, formats=default_formats())
                builder = ArtifactBuilder(loaded, probes, alone, stages)
                attempt.outcomes[profile.name] = builder.try_float32(profile.format)
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
    check_options_for(keras_model, options)
    with stages.stage("calling Keras for its outputs"):
        loaded, probes = inspect_model(
            keras_model, origin, batch=options.batch, time=options.time, report=stages.report
        )
    check_fixed_axes(loaded, options)
    spec = with_sample_rate(loaded.spec, options.sample_rate, keras_model.sampling_rates())
    loaded = with_tokenizers(replace(loaded, spec=spec), options)
    loaded = replace(loaded, spec=with_windows(loaded.spec, options.window, options.hop))
    loaded = with_decoding(loaded, probes, options)
    for profile in options.profiles:
        check_rules(profile, loaded.spec)
    return loaded, probes


def with_tokenizers(loaded: LoadedModel, options: ExportOptions) -> LoadedModel:
    """Describe how text becomes ids, if the user gives tokenizers.

    Raises:
        OptionError: A tokenizer does not fit its input.
        MissingLibraryError: The library that reads a tokenizer is not installed.
    """
    if options.tokenizer is None:
        return loaded
    length = Length(options.max_tokens, options.padding, options.truncating)
    found, files = preprocessing_of(options.tokenizer, length, loaded.spec)
    spec = replace(loaded.spec, preprocessing=(*loaded.spec.preprocessing, *found))
    return replace(loaded, spec=spec, files=files)


def with_decoding(loaded: LoadedModel, probes: ProbeSet, options: ExportOptions) -> LoadedModel:
    """Describe how the outputs become labels, tags or texts, if the user wants that.

    Raises:
        OptionError: The labels or the weights do not fit the outputs.
    """
    labels, spec = options.labels, loaded.spec
    calls = [probe.outputs for probe in probes.probes]
    columns = [[outputs[number] for outputs in calls] for number in range(len(spec.outputs))]
    found: tuple[Decoding, ...]
    if options.crf is not None:
        weights = loaded.origin.weights()
        found = (crf_decoding(parse_crf(options.crf), labels, spec, weights),)
    elif options.ctc is not None:
        found = (ctc_decoding(parse_ctc(options.ctc), labels, spec, columns),)
    else:
        names = _labels_of(loaded, labels)
        if names is None:
            return loaded
        found = decodings_of(names, options.threshold, spec, columns)
    return replace(loaded, spec=replace(loaded.spec, decoding=found))


def _with_names(spec: ModelSpec, keras_model: KerasModel, labels: Labels | None) -> ModelSpec:
    """Name the classes as far as that is known before Keras is called."""
    by_output: Mapping[str, Sequence[str]]
    if labels is None or isinstance(labels, Mapping):
        by_output = {**keras_model.labels, **(labels or {})}
    else:
        by_output = dict.fromkeys((one.name for one in spec.outputs), labels)
    decoding = tuple(
        LabelDecoding(output=name, labels=tuple(one)) for name, one in by_output.items()
    )
    return replace(spec, decoding=decoding)


def _labels_of(loaded: LoadedModel, given: Labels | None) -> Labels | None:
    """Return the labels that the user gives, and those of the model for other outputs."""
    own = loaded.keras.labels
    if given is None or isinstance(given, Mapping):
        return {**own, **(given or {})} or None
    return given


def check_fixed_axes(loaded: LoadedModel, options: ExportOptions) -> None:
    """Check that the axes are fixed which a runtime needs fixed.

    Raises:
        OptionError: Such an axis is free.
    """
    by_option = {BATCH: {BATCH}, TIME: loaded.time_axes}
    others = set(loaded.free_axes).difference(*by_option.values())
    for profile in options.profiles:
        needed = others.union(*(by_option[axis] for axis in profile.fixed))
        free = [name for name in loaded.free_axes if name in needed] if profile.fixed else []
        if free:
            message = (
                f"{profile.runtime} needs fixed shapes, and {', '.join(free)} "
                f"{'is' if len(free) == 1 else 'are'} free: {loaded.fixing_advice(free)}"
            )
            raise OptionError(message)


def check_options_for(keras_model: KerasModel, options: ExportOptions) -> None:
    """Check the metric and the data by what the model declares, before Keras is called.

    Raises:
        OptionError: The metric names an unknown output.
        DataError: The data has other names, shapes or dtypes, or no labels for a metric.
    """
    metrics = parse_metrics(options.metric, keras_model.output_names)
    spec = declared_spec(keras_model, options.time)
    spec = _with_names(spec, keras_model, options.labels)
    check_data_for(options.data, spec, metrics, reads_texts=options.tokenizer is None)


def build_float32(builder: ArtifactBuilder, formats: Sequence[str], attempt: Attempt) -> None:
    """Build and verify every format in float32; continue after one that fails."""
    for name in formats:
        attempt.outcomes[name] = builder.try_float32(name)


def evaluate_on_data(
    loaded: LoadedModel, probes: ProbeSet, options: ExportOptions, stages: Stages
) -> EvaluationSet | None:
    """Read the user's data, if there is any, and let some examples be the first probes."""
    if options.data is None:
        return None
    found = make_evaluation_set(loaded, probes, options.data, options.metric, stages)
    with stages.stage("calling Keras for its outputs"):
        probes.add_examples(loaded, example_calls(found.dataset, loaded.spec))
    return found


def evaluate_on_probes(
    loaded: LoadedModel, probes: ProbeSet, options: ExportOptions, stages: Stages
) -> EvaluationSet:
    """Make examples of the probes, for a search without data."""
    return make_evaluation_set(loaded, probes, None, options.metric, stages)


def limits_of(options: ExportOptions) -> Budget:
    """Return the limits of a search."""
    return parse_budget(options.max_drop, options.max_kb, options.max_ms)


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
    budget = limits_of(options)
    if budget.is_unlimited:
        return selector.build(recipes, skip_failed_calibration=options.recipes == ALL)
    selection = selector.search(recipes, budget)
    attempt.searches = selection.searches
    if isinstance(selection, NothingFits):
        raise selection.error
    return selection
