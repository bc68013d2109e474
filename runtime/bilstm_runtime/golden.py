"""Checking the model files of a bundle against Keras's recorded answers."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bilstm_runtime.backends import BACKENDS, find_backend
from bilstm_runtime.bundle import open_bundle
from bilstm_runtime.errors import BackendMissingError, BilstmRuntimeError, GoldenError
from bilstm_runtime.model import load_artifact

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from bilstm_runtime.backends import Backend
    from bilstm_runtime.bundle import Bundle
    from bilstm_runtime.manifest import Artifact, Tolerance
    from bilstm_runtime.model import Model
    from bilstm_runtime.values import AnyArray

_MAX_GOLDEN_BYTES: Final = 2**30
"""Golden cases take some MB unpacked; a file that unpacks to more is not read."""


@dataclass(frozen=True)
class Case:
    """One recorded question and Keras's answer, arrays in the order of the manifest."""

    inputs: tuple[AnyArray, ...]
    outputs: tuple[AnyArray, ...]


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
        passed: Whether all answers agree; None where it was not run.
        cases: Golden cases answered, each of them twice.
        max_abs_error: The largest absolute error, or None where nothing was compared.
        max_error_ratio: The largest error as a multiple of the tolerance, or None.
        reason: Why it did not pass, in words; empty where it did.
    """

    file: str
    recipe: str
    backend: str
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
        """Whether something ran, and all that ran agrees with Keras."""
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
            checks.append(ArtifactCheck(artifact.file, artifact.recipe, "", None, reason=reason))
    return CheckReport(bundle.manifest.name, tuple(checks))


def read_cases(bundle: Bundle) -> list[Case]:
    """Read the golden cases of a bundle.

    Raises:
        BundleError: The file is missing, changed, or does not hold what the manifest says.
    """
    manifest = bundle.manifest
    content = io.BytesIO(bundle.read(manifest.golden))
    try:
        with zipfile.ZipFile(content) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _MAX_GOLDEN_BYTES:
            msg = f"{manifest.golden.file} unpacks to {size} bytes, which is not read"
            raise GoldenError(msg)
        with np.load(content, allow_pickle=False) as arrays:
            return [
                Case(
                    tuple(arrays[f"case{i}_input{j}"] for j in range(len(manifest.inputs))),
                    tuple(arrays[f"case{i}_output{j}"] for j in range(len(manifest.outputs))),
                )
                for i in range(manifest.golden.cases)
            ]
    except KeyError as error:
        msg = f"{manifest.golden.file} lacks an array: {error.args[0]}. Export the model again."
        raise GoldenError(msg) from error
    except (OSError, EOFError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, GoldenError):
            raise
        msg = f"{manifest.golden.file} cannot be read ({error}). Export the model again."
        raise GoldenError(msg) from error


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
            passed=passed,
            cases=0 if worst is None else len(cases),
            max_abs_error=None if worst is None else worst.absolute,
            max_error_ratio=None if worst is None else worst.ratio,
            reason=reason,
        )

    if not backend.is_installed:
        return result(f"not installed ({backend.install_command})", passed=None)
    tolerance = artifact.tolerance or bundle.manifest.tolerance
    worst = Deviation(0.0, 0.0)
    reason = ""
    try:
        model = load_artifact(bundle, backend, artifact, threads=1)
        order = list(range(len(cases)))
        for turn, number in enumerate([*order, *reversed(order)]):
            found = _deviation(model, cases[number], tolerance)
            worst = Deviation(max(worst.absolute, found.absolute), max(worst.ratio, found.ratio))
            if not found.ratio <= 1 and not reason:
                reason = f"case {number} is wrong"
                if turn >= len(cases):
                    reason += " the second time it runs: something is kept between runs"
    except BackendMissingError as error:
        return result(str(error), passed=None)
    except BilstmRuntimeError as error:
        return result(str(error))
    return result(reason, worst, passed=not reason)


def _deviation(model: Model, case: Case, tolerance: Tolerance) -> Deviation:
    """Ask the model for one case and compare."""
    names = [spec.name for spec in model.inputs]
    model.reset()
    answers = model.predict(dict(zip(names, case.inputs, strict=True)))
    if isinstance(answers, dict):
        answers = list(answers.values())
    elif not isinstance(answers, list):
        answers = [answers]
    worst = Deviation(0.0, 0.0)
    for spec, answer, reference in zip(model.outputs, answers, case.outputs, strict=True):
        if not isinstance(answer, np.ndarray) or answer.shape != reference.shape:
            msg = f"{spec.name!r} has the shape {np.shape(answer)}, Keras's {reference.shape}"
            raise GoldenError(msg)
        found = compare(answer, reference, tolerance)
        worst = Deviation(max(worst.absolute, found.absolute), max(worst.ratio, found.ratio))
    return worst
