"""Reading a model and asking it, before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilstm_exporter.explanation import explained
from bilstm_exporter.frontends.loading import Origin, read
from bilstm_exporter.inspection.interface import Interface, find_interface
from bilstm_exporter.inspection.probes import ProbeSet, make_probes
from bilstm_exporter.keras_model import Source
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.progress import Stages


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
    generation = f"{source.generation}: {origin.why}"
    with stages.stage("asking Keras for its answers"), explained(source, generation):
        interface = find_interface(source, batch=options.batch, time=options.time)
        return Prepared(source, origin, interface, make_probes(source, interface))
