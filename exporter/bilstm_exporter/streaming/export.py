"""The streaming part of an export: stream files for each recipe, and their agreement by delay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bilstm_exporter.artifacts import VerifiedArtifact
from bilstm_exporter.errors import DataError, ExportError, StreamingError
from bilstm_exporter.evaluation.evaluator import EvaluationSet, make_evaluation_set
from bilstm_exporter.evaluation.selection import parse_budget
from bilstm_exporter.inspection.probes import ProbeSet
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.progress import Stages
from bilstm_exporter.quantization.recipes import FLOAT32, PrecisionPlan
from bilstm_exporter.streaming.delays import (
    DelayReport,
    better_start,
    choose_recipe,
    measure_delays,
)
from bilstm_exporter.streaming.files import (
    StreamFile,
    StreamFileBuilder,
    stream_spec,
)
from bilstm_exporter.streaming.starts import estimate_starts
from bilstm_exporter.streaming.stream_model import default_steps, make_stream_model
from bilstm_runtime.stream_spec import StreamSpec


@dataclass(frozen=True)
class Streaming:
    """The stream files of an export.

    Attributes:
        spec: Their description in the manifest.
        files: The files.
        report: What was measured for each delay, in float32 if the bundle has it; None if no
            example could be compared.
        reports: The same for each recipe.
        recipe: The recipe that keeps the metric at the smallest delay; None without a limit, or if
            none does.
        left_out: The reasons why files of the bundle have no stream file, by the file's name.
        attending: The layers in which steps attend to those of a chunk and its look-ahead only.
    """

    spec: StreamSpec
    files: tuple[StreamFile, ...]
    report: DelayReport | None
    reports: tuple[DelayReport, ...]
    recipe: str | None
    left_out: dict[str, str]
    attending: tuple[str, ...]


@dataclass(frozen=True)
class _Measured:
    """One form of the stream, with its first file.

    Attributes:
        builder: Builds its files.
        file: The file that was measured.
        spec: The description of that file.
        report: What was measured; None if no example could be compared.
    """

    builder: StreamFileBuilder
    file: StreamFile
    spec: StreamSpec
    report: DelayReport | None


def export_streaming(  # noqa: PLR0913, PLR0917 - each argument is independent
    loaded: LoadedModel,
    probes: ProbeSet,
    artifacts: Sequence[VerifiedArtifact],
    evaluation: EvaluationSet | None,
    options: ExportOptions,
    stages: Stages,
) -> Streaming:
    """Build and verify a stream file beside each file of a bundle, and measure the delays.

    Raises:
        StreamingError: The model needs the whole sequence; the message names the layer.
        ExportError: A file cannot be written.
    """
    with stages.stage("analysing the model as a stream"):
        model = make_stream_model(loaded, chunk=options.chunk, lookahead=options.lookahead)
        steps = default_steps(model.layout, options.chunk, options.lookahead)
        builder = StreamFileBuilder(loaded, model, probes, options.opset, options.profiles)
    wanted, left_out = wanted_files(artifacts)
    first = next((one for one in wanted if one[1] == FLOAT32), wanted[0])
    examples = evaluation or _probes(loaded, probes, options, stages)
    chosen = _measured(loaded, builder, first, steps, examples, stages)
    if evaluation is not None and evaluation.user_data and model.layout.has_backward:
        chosen = _with_better_start(loaded, chosen, first, evaluation, options, stages)
    files, reports = [], [] if chosen.report is None else [chosen.report]
    measured = [first[1:]]
    for name, recipe, plan in wanted:
        if (name, recipe) == first[:2]:
            files.append(chosen.file)
            continue
        with stages.stage(f"writing and checking the stream file of {name}, {recipe}"):
            files.append(chosen.builder.build(name, recipe, plan))
        if examples is None or (recipe, plan) in measured or not reports:
            continue
        measured.append((recipe, plan))
        with stages.stage(f"measuring the agreement by delay of {recipe}"):
            found = measure_delays(chosen.spec, files[-1], examples)
        reports += [] if found is None else [found]
    best = None
    if options.lookahead is None:
        best = choose_recipe(reports, parse_budget(options.max_drop).max_drop)
    report, ahead = (chosen.report, steps[1]) if best is None else best
    spec = stream_spec(
        loaded,
        chosen.builder.model,
        [one.artifact for one in files],
        (steps[0], ahead),
        None if report is None else report.to_dict(),
    )
    return Streaming(
        spec,
        tuple(files),
        chosen.report,
        tuple(reports),
        None if best is None else best[0].recipe,
        left_out,
        model.layout.attending,
    )


_Wanted = tuple[str, str, PrecisionPlan]
"""The format, the recipe and the precisions of a stream file."""


def wanted_files(artifacts: Sequence[VerifiedArtifact]) -> tuple[list[_Wanted], dict[str, str]]:
    """Return the stream files to write, and why other files of the bundle have none.

    Raises:
        StreamingError: No file of the bundle can have a stream file.
    """
    wanted: list[_Wanted] = []
    left_out: dict[str, str] = {}
    for one in artifacts:
        if one.plan.integer_activations:
            left_out[one.artifact.file] = "integers from end to end, at fixed shapes"
        else:
            wanted.append((one.artifact.format, one.artifact.recipe, one.plan))
    if not wanted:
        message = (
            "int8-full computes at fixed shapes and cannot stream, and the bundle holds no other "
            "recipe; add one to --recipes, or export without --streaming"
        )
        raise StreamingError(message)
    return wanted, left_out


def _probes(
    loaded: LoadedModel, probes: ProbeSet, options: ExportOptions, stages: Stages
) -> EvaluationSet | None:
    try:
        return make_evaluation_set(loaded, probes, None, options.metric, stages)
    except (DataError, ExportError):
        return None


def _measured(  # noqa: PLR0913, PLR0917 - each argument is independent
    loaded: LoadedModel,
    builder: StreamFileBuilder,
    wanted: _Wanted,
    steps: tuple[int, int],
    examples: EvaluationSet | None,
    stages: Stages,
) -> _Measured:
    """Build a file, and measure its delays."""
    name, recipe, plan = wanted
    with stages.stage(f"writing and checking the stream file of {name}, {recipe}"):
        file = builder.build(name, recipe, plan)
    spec = stream_spec(loaded, builder.model, [file.artifact], steps)
    with stages.stage("measuring the agreement by delay"):
        report = None if examples is None else measure_delays(spec, file, examples)
    return _Measured(builder, file, spec, report)


def _with_better_start(  # noqa: PLR0913, PLR0917 - each argument is independent
    loaded: LoadedModel,
    zeros: _Measured,
    wanted: _Wanted,
    evaluation: EvaluationSet,
    options: ExportOptions,
    stages: Stages,
) -> _Measured:
    """Let backward layers start at the mean states of the data, if that is better."""
    if zeros.report is None:
        return zeros
    model, builder, spec = zeros.builder.model, zeros.builder, zeros.spec
    with stages.stage("finding the states at which backward layers start"):
        file = builder.with_model(model.with_boundaries()).open(wanted[0], FLOAT32)
        starts = estimate_starts(model, file, spec, evaluation.dataset)
    if starts is None:
        return zeros
    steps = spec.chunk, spec.lookahead
    other = builder.with_model(model.with_starts(starts))
    data = _measured(loaded, other, wanted, steps, evaluation, stages)
    if data.report is None:
        return zeros
    max_drop = parse_budget(options.max_drop).max_drop if options.lookahead is None else None
    report = better_start(zeros.report, data.report, spec.lookahead, max_drop)
    return replace(data if report.starts_from_data else zeros, report=report)
