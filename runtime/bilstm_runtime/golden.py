"""Checking the model files of a bundle against recorded answers: Keras's, or the file's own."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from bilstm_runtime.backends import BACKENDS, find_backend
from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.errors import BackendMissingError, BilstmRuntimeError, GoldenError
from bilstm_runtime.model import load_artifact

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from bilstm_runtime.backends import Backend
    from bilstm_runtime.bundle.folder import Bundle
    from bilstm_runtime.bundle.manifest import Artifact, Manifest
    from bilstm_runtime.comparison import Tolerance
    from bilstm_runtime.values import AnyArray

_MAX_GOLDEN_BYTES: Final = 2**30
"""Golden cases take some MB unpacked; a file that unpacks to more is not read."""

_OWN_SHARE: Final = 0.75
"""How far a file may be from its own recorded answers, as a share of its error against Keras.

Another processor rounds otherwise, and a quantized activation then moves by a whole step: with
other kernels than at export, shares up to 0.4 were measured. The file of another recipe misses
by at least the error itself, 1, even if it is an exact one. docs/numerics.md has the figures.
"""


@dataclass(frozen=True)
class Case:
    """One recorded question and its answers, arrays in the order of the manifest.

    Attributes:
        inputs: The question.
        outputs: Keras's answer.
        own: By file, what artifacts answered at export.
    """

    inputs: tuple[AnyArray, ...]
    outputs: tuple[AnyArray, ...]
    own: Mapping[str, tuple[AnyArray, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Deviation:
    """How far answers are from the reference.

    Attributes:
        absolute: The largest absolute difference; infinite where an answer is not a number.
        ratio: The largest difference as a multiple of what is tolerated at that place.
    """

    absolute: float
    ratio: float


@dataclass(frozen=True)
class ArtifactCheck:
    """What the check of one model file on one backend found.

    Attributes:
        file: The model file.
        recipe: How its numbers are stored.
        backend: The backend; empty where none runs this format.
        reference: With whose answers it was compared: "Keras", or "export" for its own.
        passed: Whether all answers agree; None where it was not run.
        cases: Golden cases answered, each of them twice.
        max_abs_error: The largest absolute error, or None where nothing was compared.
        max_error_ratio: The largest error as a multiple of what is allowed, or None.
        reason: Why it did not pass, in words; empty where it did.
    """

    file: str
    recipe: str
    backend: str
    reference: str
    passed: bool | None
    cases: int = 0
    max_abs_error: float | None = None
    max_error_ratio: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class CheckReport:
    """What the check of a bundle found, one entry for each model file and backend."""

    name: str
    checks: tuple[ArtifactCheck, ...]

    @property
    def ran(self) -> bool:
        """Whether anything could be run at all."""
        return any(check.passed is not None for check in self.checks)

    @property
    def passed(self) -> bool:
        """Whether something ran, and all that ran agrees with what was recorded."""
        return self.ran and all(check.passed is not False for check in self.checks)


def check(path: str | os.PathLike[str], *, backends: Sequence[str] | None = None) -> CheckReport:
    """Run every model file of a bundle on its golden cases.

    Each case runs twice on the same loaded model, the second time in reverse order, so that
    anything a model keeps from one run to the next shows.

    Args:
        path: The bundle folder.
        backends: Names of the backends to check; by default all. One that is not installed is
            reported as such, and is no failure.

    Raises:
        BundleError: The manifest or the golden cases cannot be read. A model file that cannot
            be used is no error but a failed check.
        UnknownBackendError: There is no backend of that name.
    """
    chosen = list(BACKENDS.values()) if backends is None else [find_backend(b) for b in backends]
    bundle = open_bundle(path)
    cases = read_cases(bundle)
    checks = []
    for artifact in bundle.manifest.artifacts:
        checks += [
            _check_artifact(bundle, backend, artifact, cases)
            for backend in chosen
            if backend.format == artifact.format
        ]
        if artifact.format not in [backend.format for backend in BACKENDS.values()]:
            reason = f"no backend runs the format {artifact.format}"
            reference = _reference(artifact)
            checks.append(
                ArtifactCheck(artifact.file, artifact.recipe, "", reference, None, reason=reason)
            )
    return CheckReport(bundle.manifest.name, tuple(checks))


def read_cases(bundle: Bundle) -> list[Case]:
    """Read the golden cases of a bundle.

    Raises:
        BundleError: The file is missing, changed, or does not hold what the manifest says.
    """
    manifest = bundle.manifest
    content = io.BytesIO(bundle.read(manifest.golden))
    outputs = range(len(manifest.outputs))
    own = [artifact.file for artifact in manifest.artifacts if artifact.own_answers]
    try:
        with zipfile.ZipFile(content) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _MAX_GOLDEN_BYTES:
            message = f"{manifest.golden.file} unpacks to {size} bytes, which is not read"
            raise GoldenError(message)
        with np.load(content, allow_pickle=False) as arrays:
            return [
                Case(
                    tuple(arrays[f"case{i}_input{j}"] for j in range(len(manifest.inputs))),
                    tuple(arrays[f"case{i}_output{j}"] for j in outputs),
                    {f: tuple(arrays[f"case{i}_output{j}_{f}"] for j in outputs) for f in own},
                )
                for i in range(manifest.golden.cases)
            ]
    except KeyError as error:
        message = f"{manifest.golden.file} lacks an array: {error.args[0]}. Export the model again."
        raise GoldenError(message) from error
    except (OSError, EOFError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, GoldenError):
            raise
        message = f"{manifest.golden.file} cannot be read ({error}). Export the model again."
        raise GoldenError(message) from error


def compare(answer: AnyArray, reference: AnyArray, tolerance: Tolerance) -> Deviation:
    """Compare answers of equal shape with the reference.

    Args:
        answer: Any shape and dtype.
        reference: The same shape.
        tolerance: What is tolerated; `ratio` is 1 at just that.
    """
    found, wanted = answer.astype(np.float64), reference.astype(np.float64)
    bound = tolerance.absolute + tolerance.relative * np.abs(wanted)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.where(found == wanted, 0.0, np.abs(found - wanted))
        ratio = np.where(difference == 0, 0.0, difference / bound)
    largest = (
        float(np.max(np.where(np.isnan(a), np.inf, a), initial=0)) for a in (difference, ratio)
    )
    return Deviation(*largest)


def _reference(artifact: Artifact) -> str:
    return "export" if artifact.own_answers else "Keras"


def _check_artifact(
    bundle: Bundle, backend: Backend, artifact: Artifact, cases: Sequence[Case]
) -> ArtifactCheck:
    def result(
        reason: str, worst: Deviation | None = None, *, passed: bool | None = False
    ) -> ArtifactCheck:
        return ArtifactCheck(
            file=artifact.file,
            recipe=artifact.recipe,
            backend=backend.name,
            reference=_reference(artifact),
            passed=passed,
            cases=0 if worst is None else len(cases),
            max_abs_error=None if worst is None else worst.absolute,
            max_error_ratio=None if worst is None else worst.ratio,
            reason=reason,
        )

    if not backend.is_installed:
        return result(f"not installed ({backend.install_command})", passed=None)
    worst = Deviation(0.0, 0.0)
    reason = ""
    numbers = range(len(cases))
    try:
        model = load_artifact(bundle, backend, artifact, threads=1)
        for order in (numbers, reversed(numbers)):
            given = {number: model.run_case(cases[number].inputs) for number in order}
            answers = [given[number] for number in numbers]
            found, wrong = _judge(bundle.manifest, artifact, cases, answers)
            worst = _worse(worst, found)
            if wrong and not reason:
                reason = wrong
                if order is not numbers:
                    reason += " the second time it runs: something is kept between runs"
    except BackendMissingError as error:
        return result(str(error), passed=None)
    except BilstmRuntimeError as error:
        return result(str(error))
    return result(reason, worst, passed=not reason)


def _judge(
    manifest: Manifest,
    artifact: Artifact,
    cases: Sequence[Case],
    answers: Sequence[Sequence[AnyArray]],
) -> tuple[Deviation, str]:
    """Compare one artifact's answers to all cases with the recorded ones.

    Returns:
        How far they are, and what is wrong with them, in words; empty where nothing is.
    """
    tolerance = artifact.tolerance or manifest.tolerance
    own = artifact.own_answers
    worst = Deviation(0.0, 0.0)
    reason = ""
    for number, (case, given) in enumerate(zip(cases, answers, strict=True)):
        references = case.own[artifact.file] if own else case.outputs
        for spec, answer, reference in zip(manifest.outputs, given, references, strict=True):
            if not isinstance(answer, np.ndarray) or answer.shape != reference.shape:
                found, wanted = np.shape(answer), reference.shape
                message = f"{spec.name!r} has the shape {found}, in {manifest.golden.file} {wanted}"
                raise GoldenError(message)
            deviation = compare(answer, reference, tolerance)
            worst = _worse(worst, deviation)
            if not deviation.ratio <= 1 and not reason:
                reason = f"case {number} is wrong"
    if own:
        drift = _drift(manifest, artifact, cases, answers)
        worst = _worse(worst, Deviation(0.0, drift))
        if not drift <= 1 and not reason:
            reason = "the answers are others than at export"
    return worst, reason


def _drift(
    manifest: Manifest,
    artifact: Artifact,
    cases: Sequence[Case],
    answers: Sequence[Sequence[AnyArray]],
) -> float:
    """How far an artifact is from its own answers, as a multiple of what is allowed.

    One activation that moves by a step can change a number by as much as the recipe's largest
    error, so single numbers tell little; root mean squares do. They are taken of each output of
    each case, as errors differ between cases, and then over those.
    """
    tolerance = manifest.tolerance
    ratios = []
    for case, given in zip(cases, answers, strict=True):
        for name, answer, own, keras in zip(
            artifact.outputs, given, case.own[artifact.file], case.outputs, strict=False
        ):
            stored = artifact.quantized_outputs.get(name)
            allowed = (
                tolerance.absolute
                + tolerance.relative * _root_mean_square(own, np.zeros_like(own))
                # The last rounding may go the other way for one integer in four.
                + (stored.scale / 2 if stored is not None else 0.0)
                + _OWN_SHARE * _root_mean_square(own, keras)
            )
            moved = _root_mean_square(answer, own)
            ratios.append(moved / allowed if allowed else np.inf if moved else 0.0)
    return float(np.sqrt(np.mean(np.square(ratios))))


def _root_mean_square(one: AnyArray, other: AnyArray) -> float:
    """Of the difference; infinite where only one is a number."""
    if one.size == 0:
        return 0.0
    with np.errstate(invalid="ignore"):
        difference = np.where(one == other, 0.0, one.astype(np.float64) - other.astype(np.float64))
    return float(np.sqrt(np.mean(np.square(np.where(np.isnan(difference), np.inf, difference)))))


def _worse(one: Deviation, other: Deviation) -> Deviation:
    return Deviation(max(one.absolute, other.absolute), max(one.ratio, other.ratio))
