"""The report of an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from bilstm_exporter.artifacts import VerifiedArtifact
from bilstm_exporter.errors import ExportError
from bilstm_exporter.evaluation.evaluator import Evaluation, EvaluationSet
from bilstm_exporter.evaluation.search import SearchResult
from bilstm_exporter.explanation import Explanation
from bilstm_exporter.inspection.probes import ProbeSet
from bilstm_exporter.inspection.properties import native_dtype_error
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.profiles import PROFILES
from bilstm_exporter.quantization.recipes import RECIPES
from bilstm_exporter.recipe_selection import Selection
from bilstm_exporter.streaming.delays import DelayReport
from bilstm_exporter.streaming.export import Streaming
from bilstm_exporter.targets.base import RecurrenceForm, WeightForm
from bilstm_exporter.verification.agreement import Agreement
from bilstm_exporter.verification.parity import Parity
from bilstm_runtime.spec import BATCH, ModelSpec, RuntimeProof


@dataclass(frozen=True)
class ArtifactReport:
    """One artifact.

    Attributes:
        file: Its name in the bundle.
        format: ``"onnx"`` or ``"tflite"``.
        recipe: How its numbers are stored.
        bytes: Its size in bytes.
        parity: The comparison with Keras: `Parity` for an exact recipe, `Agreement` for a
            quantized one.
        recurrences: How each recurrence was written.
        weights: How each weight is stored, if not all are float32.
        verdict: Its evaluation on the user's data; None without data.
        operators: The TFLite operators that a runtime must support.
        missing_in_micro: The operators, with their dtypes, that TFLite Micro lacks; see
            `bilstm_exporter.profiles.tflite_micro`. Only for a file in integers.
        runtimes: The runtimes that it was made for, and how it was checked for each.
        silently_wrong_in: Other runtimes of the format that would compute other values without
            reporting it: their names in ``--target``, with the reason.
    """

    file: str
    format: str
    recipe: str
    bytes: int
    parity: Parity | Agreement
    recurrences: list[RecurrenceForm]
    weights: list[WeightForm]
    verdict: Evaluation | None = None
    operators: tuple[str, ...] = ()
    missing_in_micro: tuple[str, ...] = ()
    runtimes: tuple[RuntimeProof, ...] = ()
    silently_wrong_in: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluatedOn:
    """The examples that the artifacts were evaluated on.

    Attributes:
        on: A description of the examples.
        own_data: Whether they are the user's data; if not, they are the probes.
        resolution: The drop that one changed prediction causes, in percentage points.
    """

    on: str
    own_data: bool
    resolution: float


@dataclass(frozen=True)
class StreamingReport:
    """The stream files of a bundle.

    Attributes:
        files: Name, size in bytes and largest absolute error of each, where a stream is exact.
        chunk: Steps that a stream computes at once by default.
        lookahead: Look-ahead by default, in steps.
        is_exact: Whether every output is exact at this look-ahead.
        attending: The layers in which steps attend to those of a chunk and its look-ahead only;
            "" for operators outside of layers.
        delays: What each delay costs, in float32 if the bundle has it; None if no example could be
            compared.
        recipes: What each delay costs with each recipe.
        recipe: The recipe that keeps the metric at the smallest delay; None without a limit, or if
            none does.
        left_out: The reasons why files of the bundle have no stream file.
    """

    files: tuple[tuple[str, int, float], ...]
    chunk: int
    lookahead: int
    is_exact: bool
    attending: tuple[str, ...]
    delays: DelayReport | None
    recipes: tuple[DelayReport, ...]
    recipe: str | None
    left_out: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        delays = None if self.delays is None else self.delays.to_dict()
        recipes = [one.to_dict() for one in self.recipes]
        plain = asdict(replace(self, delays=None, recipes=()))
        return {**plain, "delays": delays, "recipes": recipes}


@dataclass(frozen=True)
class ExportReport:
    """A finished export.

    Attributes:
        bundle: The folder written.
        model: The model's name.
        generation: The library that read the model, and why; its output is the reference.
        artifacts: The artifacts in the bundle.
        probes_left_out: The reasons for the inputs that were not compared.
        largest_state: The largest ``|state|`` of a recurrence on any probe, or None.
        declared_difference: For a model in half precision or float64, the largest absolute
            difference between its own outputs and those in float32, in which it is exported; or
            None.
        padding_neutral: Whether padding changes no output.
        recommended: The recipe to run by default.
        judged: The examples of the evaluation; None without data or limits.
        searches: The results of searches within limits, by format.
        left_out: The reasons for the recipes that could not be written.
        seconds: Time spent in seconds, by stage.
        sha256: The SHA-256 of the bundle's manifest, which contains those of all its files.
        spec: The inputs, outputs and states, with free and fixed axes.
        fixed_by_options: The names of axes that an option fixed, not the model.
        notes: What the user should know about the model, in sentences.
        streaming: The stream files; None without ``--streaming``.
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
    judged: EvaluatedOn | None
    searches: Mapping[str, SearchResult]
    left_out: Mapping[str, str]
    seconds: dict[str, float]
    spec: ModelSpec
    fixed_by_options: tuple[str, ...] = ()
    sha256: str = ""
    notes: tuple[str, ...] = ()
    streaming: StreamingReport | None = None

    @property
    def passed(self) -> bool:
        """Whether every float32 artifact is exact; if not, nothing is written."""
        return all(a.parity.passed for a in self.artifacts if isinstance(a.parity, Parity))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        plain["bundle"] = str(self.bundle)
        spec = plain.pop("spec")
        for side in ("inputs", "outputs", "states"):
            plain[side] = [
                {"name": one.name, "dtype": one.dtype, "axes": [asdict(a) for a in one.axes]}
                for one in getattr(spec, side)
            ]
        plain["artifacts"] = [asdict(replace(item, verdict=None)) for item in self.artifacts]
        plain["streaming"] = None if self.streaming is None else self.streaming.to_dict()
        plain["judged"] = None if self.judged is None else asdict(self.judged)
        plain["searches"] = {name: result.to_dict() for name, result in self.searches.items()}
        for artifact, report in zip(plain["artifacts"], self.artifacts, strict=True):
            artifact["verdict"] = None if report.verdict is None else report.verdict.to_dict()
            if isinstance(report.parity, Parity):
                artifact["parity"]["passed"] = report.parity.passed
        return plain


@dataclass(frozen=True)
class FailedExport:
    """An export that wrote nothing.

    Attributes:
        error: The cause.
        explanation: An explanation layer by layer, if it adds to the error.
        searches: The results of searches within limits, by format.
    """

    error: ExportError
    explanation: Explanation | None = None
    searches: Mapping[str, SearchResult] = field(default_factory=dict)


def make_report(  # noqa: PLR0913, PLR0917 - each argument is independent
    bundle: Path,
    loaded: LoadedModel,
    probes: ProbeSet,
    evaluation: EvaluationSet | None,
    selection: Selection,
    seconds: dict[str, float],
    options: ExportOptions,
) -> ExportReport:
    """Make the report of a finished export."""
    evaluated_on = None
    if evaluation is not None:
        evaluated_on = EvaluatedOn(
            evaluation.dataset.described, evaluation.user_data, evaluation.evaluator.resolution
        )
    return ExportReport(
        bundle=bundle,
        model=loaded.spec.name,
        generation=loaded.generation,
        artifacts=[_artifact_report(one) for one in selection.artifacts],
        probes_left_out=probes.left_out,
        largest_state=probes.largest_state,
        declared_difference=native_dtype_error(loaded.keras, probes.probes),
        padding_neutral=loaded.spec.padding_neutral,
        recommended=selection.recommended,
        judged=evaluated_on,
        searches=selection.searches,
        left_out=selection.left_out,
        seconds=seconds,
        spec=loaded.spec,
        fixed_by_options=_fixed_by_options(loaded, options),
        notes=loaded.notes,
    )


def report_streaming(streaming: Streaming | None) -> StreamingReport | None:
    """Make the part of the report about stream files."""
    if streaming is None:
        return None
    spec = streaming.spec
    return StreamingReport(
        files=tuple(
            (one.artifact.file, one.artifact.bytes, one.max_abs_error) for one in streaming.files
        ),
        chunk=spec.chunk,
        lookahead=spec.lookahead,
        is_exact=not (spec.has_backward or spec.attends) and spec.lookahead >= spec.right_context,
        attending=streaming.attending,
        delays=streaming.report,
        recipes=streaming.reports,
        recipe=streaming.recipe,
        left_out=streaming.left_out,
    )


def _fixed_by_options(loaded: LoadedModel, options: ExportOptions) -> tuple[str, ...]:
    """Return the names of the axes that ``batch`` and ``time`` fixed."""
    given = {BATCH} if options.batch is not None else set()
    given |= loaded.time_axes if options.time is not None else set()
    names: dict[str, None] = {}
    for declared, spec in zip(loaded.keras.inputs, loaded.spec.inputs, strict=True):
        for size, axis in zip(declared.shape, spec.axes, strict=True):
            is_models_own = declared.declared and size is not None
            if axis.name and axis.name in given and axis.size is not None and not is_models_own:
                names[axis.name] = None
    return tuple(names)


def _artifact_report(verified: VerifiedArtifact) -> ArtifactReport:
    recipe = RECIPES.get(verified.artifact.recipe)
    in_integers = recipe is not None and recipe.calibrated
    return ArtifactReport(
        file=verified.artifact.file,
        format=verified.artifact.format,
        recipe=verified.artifact.recipe,
        bytes=verified.artifact.bytes,
        parity=verified.parity,
        recurrences=verified.built.recurrences,
        weights=verified.built.weights,
        verdict=verified.verdict,
        operators=verified.built.operators,
        missing_in_micro=_missing_in_micro(verified) if in_integers else (),
        runtimes=verified.artifact.runtimes,
        silently_wrong_in=verified.silently_wrong_in,
    )


def _missing_in_micro(verified: VerifiedArtifact) -> tuple[str, ...]:
    refusals = PROFILES["tflite-micro"].refusals(verified.built.operator_uses)
    return tuple(sorted({refusal.text for refusal in refusals}))
