"""The streaming part of an export: stream files for each recipe, and their agreement by delay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bilstm_exporter.artifacts import VerifiedArtifact
from bilstm_exporter.errors import DataError, ExportError
from bilstm_exporter.evaluation.evaluator import EvaluationSet, make_evaluation_set
from bilstm_exporter.evaluation.selection import parse_budget
from bilstm_exporter.inspection.probes import ProbeSet
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.progress import Stages
from bilstm_exporter.quantization.recipes import FLOAT32, RECIPES
from bilstm_exporter.streaming.delays import DelayReport, choose_delay, measure_delays
from bilstm_exporter.streaming.files import (
    StreamFile,
    StreamFileBuilder,
    default_steps,
    stream_spec,
)
from bilstm_exporter.streaming.stream_model import make_stream_model
from bilstm_runtime.stream_spec import StreamSpec


@dataclass(frozen=True)
class Streaming:
    """The stream files of an export.

    Attributes:
        spec: Their description in the manifest.
        files: The files.
        report: What was measured for each delay; None if no example could be compared.
        left_out: The reasons why files of the bundle have no stream file, by the file's name.
    """

    spec: StreamSpec
    files: tuple[StreamFile, ...]
    report: DelayReport | None
    left_out: dict[str, str]


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
        model = make_stream_model(loaded, one_step=options.chunk == 1 and not options.lookahead)
        steps = default_steps(model, options.chunk, options.lookahead)
        builder = StreamFileBuilder(loaded, model, probes, options.opset, options.profiles)
    files: list[StreamFile] = []
    left_out: dict[str, str] = {}
    for one in artifacts:
        recipe = RECIPES.get(one.artifact.recipe)
        if recipe is None or recipe.calibrated:
            left_out[one.artifact.file] = (
                "a mix of precisions" if recipe is None else "integers from end to end"
            )
            continue
        with stages.stage(f"writing and checking the stream file for {one.artifact.file}"):
            files.append(builder.build(one.artifact.format, recipe.name))
    if not files:  # a mix alone: float32 is always verified
        name = artifacts[0].artifact.format
        files.append(builder.build(name, FLOAT32))
    spec = stream_spec(loaded, model, [one.artifact for one in files], steps)
    with stages.stage("measuring the agreement by delay"):
        report = _measured(loaded, probes, spec, files, evaluation, options, stages)
    if report is not None:
        if options.lookahead is None:
            chosen = choose_delay(report, parse_budget(options.max_drop).max_drop)
            steps = (steps[0], steps[1] if chosen is None else chosen)
        spec = stream_spec(loaded, model, [one.artifact for one in files], steps, report.to_dict())
    return Streaming(spec, tuple(files), report, left_out)


def _measured(  # noqa: PLR0913, PLR0917 - each argument is independent
    loaded: LoadedModel,
    probes: ProbeSet,
    spec: StreamSpec,
    files: Sequence[StreamFile],
    evaluation: EvaluationSet | None,
    options: ExportOptions,
    stages: Stages,
) -> DelayReport | None:
    if evaluation is None:
        try:
            evaluation = make_evaluation_set(loaded, probes, None, options.metric, stages)
        except (DataError, ExportError):
            return None
    first = next((one for one in files if one.artifact.recipe == FLOAT32), files[0])
    return measure_delays(spec, first, evaluation)
