"""The whole job: read, ask, probe, build, check, write."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.manifest import Artifact, Manifest, StateSpec
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
from bilstm_exporter.properties import declared_difference, independent_rows, neutral_padding
from bilstm_exporter.quiet import captured_stderr
from bilstm_exporter.quantization.owners import Owners
from bilstm_exporter.recipes import Precision, PrecisionPlan
from bilstm_exporter.report import ArtifactReport, ExportReport
from bilstm_exporter.stages import Listener, Stages
from bilstm_exporter.targets import TARGETS, Built
from bilstm_exporter.tolerance import TOLERANCE
from bilstm_exporter.versions import versions

_RECIPE = "float32"


@dataclass(frozen=True)
class Prepared:
    """A model that has been read and asked; nothing is built yet.

    Attributes:
        source: The model.
        origin: Where it came from.
        interface: Its inputs and outputs.
        probes: With its answers.
    """

    source: Source
    origin: Origin
    interface: Interface
    probes: ProbeSet

    @property
    def generation(self) -> str:
        """Which library read the model, and why."""
        return f"{self.source.generation}: {self.origin.why}"


@dataclass(frozen=True)
class Checked:
    """An artifact that gives Keras's answers.

    Attributes:
        artifact: What the manifest says of it.
        built: Its bytes, and how each recurrence was written.
        parity: What the probes found.
        probes: Those that float32 decides, of those it was given.
    """

    artifact: Artifact
    built: Built
    parity: Parity
    probes: ProbeSet


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
        checked = []
        for name in options.formats:
            checked.append(build_and_check(name, prepared, manifest, options, stages))
            prepared = replace(prepared, probes=checked[-1].probes)
        manifest = replace(manifest, artifacts=tuple(item.artifact for item in checked))
        files = {item.artifact.file: item.built.content for item in checked}
        bundle.write(aside, manifest, {bundle.GOLDEN_FILE: golden, **files})
    return ExportReport(
        bundle=folder,
        model=source.name,
        generation=prepared.generation,
        artifacts=[_artifact_report(item) for item in checked],
        probes_left_out=prepared.probes.left_out,
        largest_state=prepared.probes.largest_state,
        declared_difference=declared_difference(source, prepared.probes.probes),
        padding_neutral=manifest.padding_neutral,
        seconds=stages.seconds,
    )


def prepare(model: Any, options: ExportOptions, stages: Stages) -> Prepared:
    """Read a model and let it answer the probes."""
    with stages.stage("reading the model"):
        source, origin = read(
            model,
            weights=None if options.weights is None else Path(options.weights),
            builder=options.builder,
            custom_objects=options.custom_objects,
            trust_code=options.trust_code,
        )
    with stages.stage("asking Keras for its answers"):
        interface = find_interface(source, batch=options.batch, time=options.time)
        return Prepared(source, origin, interface, make_probes(source, interface))


def build_and_check(
    name: str, prepared: Prepared, manifest: Manifest, options: ExportOptions, stages: Stages
) -> Checked:
    """Build one format and compare it with Keras.

    Raises:
        ExportError: The format cannot hold the model, or does not give its answers.
    """
    source, interface = prepared.source, prepared.interface
    with stages.stage(f"writing {name}"):
        conversion = TARGETS[name].convert(
            lambda lowering: source.trace(lowering, interface.declared()),
            interface,
            opset=options.opset,
        )
        built = conversion.write(PrecisionPlan(Precision.FLOAT32), Owners(source.weights()))
    with stages.stage(f"checking {name} against Keras"):
        return _check(name, built, manifest, prepared)


def describe(prepared: Prepared) -> tuple[Manifest, bytes]:
    """The manifest as far as it does not depend on the artifacts, and golden.npz."""
    source, interface, probes = prepared.source, prepared.interface, prepared.probes
    origin = prepared.origin
    golden = golden_probes(source, probes.probes)
    content = bundle.golden_content(golden)
    manifest = Manifest(
        name=source.name,
        source=ManifestSource(origin.file or source.name, origin.sha256, prepared.generation),
        inputs=interface.inputs[: len(interface.inputs) - source.state_count],
        outputs=interface.outputs[: len(interface.outputs) - source.state_count],
        output_structure=source.output_structure,
        padding_neutral=neutral_padding(source, interface),
        # Whose states would a batch that is divided carry on?
        rows_independent=not source.state_count
        and independent_rows(source, probes.probes, interface),
        recommended_recipe=_RECIPE,
        artifacts=(),
        golden=bundle.golden_entry(content, len(golden)),
        tolerance=TOLERANCE,
        versions=versions(origin.keras_version),
        states=_states(source, interface),
        preprocessing=source.preprocessing,
    )
    return manifest, content


def _states(source: Source, interface: Interface) -> tuple[StateSpec, ...]:
    specs = interface.inputs[len(interface.inputs) - source.state_count :]
    return tuple(StateSpec(spec.name, spec.dtype, spec.axes) for spec in specs)


def _check(name: str, built: Built, manifest: Manifest, prepared: Prepared) -> Checked:
    """Run all probes through the runtime that users run, and refuse a wrong answer.

    Only where something differs is it worth asking which probes float32 decides at all.
    """
    probes, interface = prepared.probes, prepared.interface
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
        probes = decided(prepared.source, probes)
        parity = check_parity(session.run, probes.probes, artifact.outputs)
    require(artifact.file, parity)
    return Checked(replace(artifact, parity=parity.to_dict()), built, parity, probes)


def _artifact_report(checked: Checked) -> ArtifactReport:
    return ArtifactReport(
        file=checked.artifact.file,
        format=checked.artifact.format,
        recipe=checked.artifact.recipe,
        bytes=checked.artifact.bytes,
        parity=checked.parity,
        recurrences=checked.built.recurrences,
    )
