"""What the manifest says of a model before anything is built."""

from __future__ import annotations

from bilstm_runtime.bundle.manifest import Manifest
from bilstm_runtime.bundle.manifest import Source as ManifestSource
from bilstm_runtime.spec import ModelSpec, StateSpec

# isort: split
from bilstm_exporter.bundle import writer
from bilstm_exporter.bundle.versions import versions
from bilstm_exporter.inspection.interface import Interface
from bilstm_exporter.inspection.prepared import Prepared
from bilstm_exporter.inspection.probes import Probe, golden_probes
from bilstm_exporter.inspection.properties import independent_rows, neutral_padding
from bilstm_exporter.keras_model import Source
from bilstm_exporter.quantization.recipes import FLOAT32
from bilstm_exporter.verification.tolerance import TOLERANCE


def describe(prepared: Prepared) -> tuple[Manifest, list[Probe]]:
    """The manifest as far as it does not depend on the artifacts, and the golden cases."""
    source, interface, probes = prepared.source, prepared.interface, prepared.probes
    origin = prepared.origin
    golden = golden_probes(source, probes.probes)
    spec = ModelSpec(
        name=source.name,
        inputs=interface.inputs[: len(interface.inputs) - source.state_count],
        outputs=interface.outputs[: len(interface.outputs) - source.state_count],
        states=_states(source, interface),
        output_structure=source.output_structure,
        padding_neutral=neutral_padding(source, interface),
        # Whose states would a batch that is divided carry on?
        rows_independent=not source.state_count
        and independent_rows(source, probes.probes, interface),
        preprocessing=source.preprocessing,
    )
    manifest = Manifest(
        spec=spec,
        source=ManifestSource(origin.file or source.name, origin.sha256, prepared.generation),
        recommended_recipe=FLOAT32,
        artifacts=(),
        golden=writer.golden_entry(writer.golden_content(golden, {}), len(golden)),
        tolerance=TOLERANCE,
        versions=versions(origin.keras_version),
    )
    return manifest, golden


def _states(source: Source, interface: Interface) -> tuple[StateSpec, ...]:
    specs = interface.inputs[len(interface.inputs) - source.state_count :]
    return tuple(StateSpec(spec.name, spec.dtype, spec.axes) for spec in specs)
