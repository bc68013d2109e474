"""The whole job: read, ask, probe, build, check, write."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from bilstm_exporter.artifacts import build_formats
from bilstm_exporter.bundle import writer
from bilstm_exporter.bundle.folder import check_writable, default_folder, staged
from bilstm_exporter.evaluation.reference_evaluation import Opinion
from bilstm_exporter.inspection.description import describe
from bilstm_exporter.inspection.prepared import prepare
from bilstm_exporter.inspection.properties import declared_difference
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.progress import Listener, Stages
from bilstm_exporter.recipe_selection import Made, select_artifacts
from bilstm_exporter.report import ArtifactReport, ExportReport, Judged
from bilstm_exporter.targets.tflite import micro
from bilstm_exporter.verification.recorded_outputs import own_answers


def run_export(
    model: Any,
    out: str | os.PathLike[str] | None,
    options: ExportOptions,
    listener: Listener | None = None,
) -> ExportReport:
    """Export a model; see :func:`bilstm_exporter.export`."""
    stages = Stages(listener)
    if out is not None:
        check_writable(Path(out), overwrite=options.overwrite)
    prepared = prepare(model, options, stages)
    source, origin = prepared.source, prepared.origin
    folder = Path(out) if out is not None else default_folder(origin.file, source.name)
    with staged(folder, overwrite=options.overwrite) as aside:
        manifest, golden = describe(prepared)
        formats, attempts = build_formats(prepared, manifest, options, stages)
        attempts.raise_first()
        prepared = replace(prepared, probes=list(formats.values())[-1].probes)
        selection = select_artifacts(formats, prepared, manifest, options, stages)
        checked = [item.checked for item in selection.made]
        recorded = writer.golden_content(golden, own_answers(checked, golden, manifest))
        manifest = replace(
            manifest,
            artifacts=tuple(item.artifact for item in checked),
            golden=writer.golden_entry(recorded, len(golden)),
            recommended_recipe=selection.recommended,
            recommended_reason=selection.reason,
        )
        files = {item.artifact.file: item.built.content for item in checked}
        writer.write(aside, manifest, {writer.GOLDEN_FILE: recorded, **files})
    return ExportReport(
        bundle=folder,
        model=source.name,
        generation=prepared.generation,
        artifacts=[_artifact_report(item) for item in selection.made],
        probes_left_out=prepared.probes.left_out,
        largest_state=prepared.probes.largest_state,
        declared_difference=declared_difference(source, prepared.probes.probes),
        padding_neutral=manifest.padding_neutral,
        recommended=selection.recommended,
        judged=_judged(selection.opinion),
        searches=selection.searches,
        left_out=selection.left_out,
        seconds=stages.seconds,
    )


def _artifact_report(made: Made) -> ArtifactReport:
    checked = made.checked
    return ArtifactReport(
        file=checked.artifact.file,
        format=checked.artifact.format,
        recipe=checked.artifact.recipe,
        bytes=checked.artifact.bytes,
        parity=checked.parity,
        recurrences=checked.built.recurrences,
        weights=checked.built.weights,
        verdict=made.verdict,
        operators=checked.built.operators,
        missing_in_micro=micro.missing(checked.built.operators),
    )


def _judged(opinion: Opinion | None) -> Judged | None:
    if opinion is None:
        return None
    return Judged(opinion.dataset.described, opinion.on_data, opinion.judge.resolution)
