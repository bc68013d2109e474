"""What an export reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from bilstm_exporter.evaluation.evaluator import Verdict
from bilstm_exporter.evaluation.search import SearchResult
from bilstm_exporter.targets.base import RecurrenceForm, WeightForm
from bilstm_exporter.verification.agreement import Agreement
from bilstm_exporter.verification.parity import Parity


@dataclass(frozen=True)
class ArtifactReport:
    """One artifact.

    Attributes:
        file: Its name in the bundle.
        format: ``"onnx"`` or ``"tflite"``.
        recipe: How its numbers are stored.
        bytes: Its size.
        parity: What the checks found: that it gives Keras's answers or, for a recipe that
            promises less, how near it comes.
        recurrences: How each recurrence was written.
        weights: How each weight is stored, where not all are float32.
        verdict: What it does on the user's data; None without data.
        operators: TFLite operators that a runtime must have to run it.
        missing_in_micro: Those of them that TFLite Micro lacks.
    """

    file: str
    format: str
    recipe: str
    bytes: int
    parity: Parity | Agreement
    recurrences: list[RecurrenceForm]
    weights: list[WeightForm]
    verdict: Verdict | None = None
    operators: tuple[str, ...] = ()
    missing_in_micro: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """What artifacts were judged on.

    Attributes:
        on: The examples, in words.
        own_data: Whether they are the user's own; otherwise those of the probes.
        resolution: The drop that one decision makes, in percentage points.
    """

    on: str
    own_data: bool
    resolution: float


@dataclass(frozen=True)
class ExportReport:
    """A finished export.

    Attributes:
        bundle: The folder written.
        model: The model's name.
        generation: Which library read the model and defined what is right, and why.
        artifacts: What is in the bundle.
        probes_left_out: Probes that Keras itself does not answer, with the reason.
        largest_state: The largest ``|state|`` any probe drove a recurrence to, or None.
        declared_difference: For a model that computes in half precision or float64, how far
            that takes Keras's answers from those in float32, in which it is exported; or None.
        padding_neutral: Whether padding changes no answer.
        recommended: The recipe to run where nobody says otherwise.
        judged: What the artifacts were judged on; None without data or limits.
        searches: By format, what a search within limits found.
        left_out: Recipes that could not be written, with the reason.
        seconds: Time spent, by stage.
    """

    bundle: Path
    model: str
    generation: str
    artifacts: list[ArtifactReport]
    probes_left_out: dict[str, str]
    largest_state: float | None
    declared_difference: float | None
    padding_neutral: bool
    recommended: str
    judged: Judged | None
    searches: Mapping[str, SearchResult]
    left_out: Mapping[str, str]
    seconds: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether every float32 artifact gives Keras's answers; nothing is written otherwise."""
        return all(a.parity.passed for a in self.artifacts if isinstance(a.parity, Parity))

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        plain["bundle"] = str(self.bundle)
        plain["artifacts"] = [asdict(replace(item, verdict=None)) for item in self.artifacts]
        plain["judged"] = None if self.judged is None else asdict(self.judged)
        plain["searches"] = {name: result.to_dict() for name, result in self.searches.items()}
        for artifact, report in zip(plain["artifacts"], self.artifacts, strict=True):
            artifact["verdict"] = None if report.verdict is None else report.verdict.to_dict()
            if isinstance(report.parity, Parity):
                artifact["parity"]["passed"] = report.parity.passed
        return plain
