"""The whole job: read, ask, probe, build, check, write."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.manifest import Artifact, Manifest
from bilstm_runtime.manifest import Source as ManifestSource

# isort: split
import bilstm_exporter.onnx.artifact
import bilstm_exporter.tflite.artifact  # noqa: F401 - both register their format
from bilstm_exporter import bundle
from bilstm_exporter.folder import check_writable, default_folder, staged
from bilstm_exporter.frontend.reading import Origin, read
from bilstm_exporter.frontend.source import Source
from bilstm_exporter.interface import Interface, find_interface
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.parity import Parity, check_parity, require
from bilstm_exporter.probes import ProbeSet, decided, golden_probes, make_probes
from bilstm_exporter.properties import independent_rows, neutral_padding
from bilstm_exporter.quiet import captured_stderr
from bilstm_exporter.report import ArtifactReport, ExportReport
from bilstm_exporter.stages import Listener, Stages
from bilstm_exporter.targets import TARGETS, Built
from bilstm_exporter.tolerance import TOLERANCE
from bilstm_exporter.versions import versions

_RECIPE = "float32"


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
    with stages.stage("reading the model"):
        source, origin = read(
            model,
            weights=options.weights,
            builder=options.builder,
            custom_objects=options.custom_objects,
            trust_code=options.trust_code,
        )
    folder = Path(out) if out is not None else default_folder(origin.file, source.name)
    with staged(folder, overwrite=options.overwrite) as aside:
        with stages.stage("asking Keras for its answers"):
            interface = find_interface(source, batch=options.batch, time=options.time)
            probes = make_probes(source, interface)
        manifest, golden = _describe(source, origin, interface, probes)
        files, reports = {bundle.GOLDEN_FILE: golden}, []
        for name in options.formats:
            with stages.stage(f"writing {name}"):
                built = TARGETS[name].build(
                    lambda lowering: source.trace(lowering, interface.declared()),
                    interface,
                    opset=options.opset,
                )
            with stages.stage(f"checking {name} against Keras"):
                artifact, parity, probes = _check(name, built, manifest, source, interface, probes)
            manifest = replace(manifest, artifacts=(*manifest.artifacts, artifact))
            files[artifact.file] = built.content
            reports.append(_artifact_report(artifact, parity, built))
        bundle.write(aside, manifest, files)
    return ExportReport(
        bundle=folder,
        model=source.name,
        generation=f"{source.generation}: {origin.why}",
        artifacts=reports,
        probes_left_out=probes.left_out,
        largest_state=probes.largest_state,
        padding_neutral=manifest.padding_neutral,
        seconds=stages.seconds,
    )


def _describe(
    source: Source, origin: Origin, interface: Interface, probes: ProbeSet
) -> tuple[Manifest, bytes]:
    """The manifest as far as it does not depend on the artifacts, and golden.npz."""
    golden = golden_probes(probes.probes)
    content = bundle.golden_content(golden)
    manifest = Manifest(
        name=source.name,
        source=ManifestSource(
            origin.file or source.name, origin.sha256, f"{source.generation}: {origin.why}"
        ),
        inputs=interface.inputs,
        outputs=interface.outputs,
        output_structure=source.output_structure,
        padding_neutral=neutral_padding(source, interface),
        rows_independent=independent_rows(source, probes.probes, interface),
        recommended_recipe=_RECIPE,
        artifacts=(),
        golden=bundle.golden_entry(content, len(golden)),
        tolerance=TOLERANCE,
        versions=versions(origin.keras_version),
    )
    return manifest, content


def _check(  # noqa: PLR0913, PLR0917 - one artifact, all that decides about it
    name: str,
    built: Built,
    manifest: Manifest,
    source: Source,
    interface: Interface,
    probes: ProbeSet,
) -> tuple[Artifact, Parity, ProbeSet]:
    """Run all probes through the runtime that users run, and refuse a wrong answer.

    Only where something differs is it worth asking which probes float32 decides at all.
    """
    artifact = Artifact(
        file=f"model.{name}",
        format=name,
        recipe=_RECIPE,
        bytes=len(built.content),
        sha256=bundle.sha256(built.content),
        inputs=interface.input_names,
        outputs=interface.output_names,
    )
    backend = next(backend for backend in BACKENDS.values() if backend.format == name)
    with captured_stderr():  # LiteRT greets on stderr
        session = backend.open(built.content, artifact, manifest, threads=1)
    parity = check_parity(session.run, probes.probes, artifact.outputs)
    if not parity.passed:
        probes = decided(source, probes)
        parity = check_parity(session.run, probes.probes, artifact.outputs)
    require(artifact.file, parity)
    return replace(artifact, parity=parity.to_dict()), parity, probes


def _artifact_report(artifact: Artifact, parity: Parity, built: Built) -> ArtifactReport:
    return ArtifactReport(
        file=artifact.file,
        format=artifact.format,
        recipe=artifact.recipe,
        bytes=artifact.bytes,
        parity=parity,
        recurrences=built.recurrences,
    )
