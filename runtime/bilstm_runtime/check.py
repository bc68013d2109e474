"""Checking the model files of a bundle on its golden cases.

The reference is Keras's outputs. For a file whose own outputs were recorded at export, such as a
quantized one, the reference is those: against Keras, a wrong file of a coarse recipe could not be
told from a correct one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from bilstm_runtime.backends import BACKENDS, find_backend
from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.bundle.golden import read_cases
from bilstm_runtime.comparison import EXACT, Difference, compare, replay
from bilstm_runtime.errors import BackendMissingError, BilstmRuntimeError, GoldenError
from bilstm_runtime.model import load_artifact

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from bilstm_runtime.backends import Backend
    from bilstm_runtime.bundle.folder import Bundle
    from bilstm_runtime.bundle.golden import Case
    from bilstm_runtime.bundle.manifest import Manifest
    from bilstm_runtime.spec import AnyArray, Artifact

_MAX_DRIFT: Final = 0.75
"""How far a file may be from its own recorded outputs, as a share of its error against Keras.

Another processor rounds differently, and a quantized activation then moves by a whole step: with
other kernels than at export, shares up to 0.4 were measured. The file of another recipe differs
by at least the error itself, 1, even if it is an exact one. docs/numerics.md has the figures.
"""


@dataclass(frozen=True)
class ArtifactCheck:
    """What the check of one model file on one backend found.

    Attributes:
        file: The model file.
        recipe: How its numbers are stored.
        backend: The backend; empty where none runs this format.
        reference: "Keras", or "export" where the reference is the outputs recorded at export.
        passed: Whether all outputs agree with the reference; None where it was not run.
        cases: Golden cases that were run, each of them twice.
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
        """Whether any model file could be run."""
        return any(check.passed is not None for check in self.checks)

    @property
    def passed(self) -> bool:
        """Whether something ran, and everything that ran agrees with its reference."""
        return self.ran and all(check.passed is not False for check in self.checks)


def check(path: str | os.PathLike[str], *, backends: Sequence[str] | None = None) -> CheckReport:
    """Run every model file of a bundle on its golden cases.

    Each case runs twice on the same loaded model, the second time in reverse order, so that
    anything a model keeps from one run to the next shows.

    Args:
        path: The bundle folder.
        backends: Names of the backends to check; by default all. One that is not installed is
            reported, and does not count as a failure.

    Raises:
        BundleError: The manifest or the golden cases cannot be read. A model file that cannot
            be used is a failed check instead.
        UnknownBackendError: There is no backend of that name.
    """
    chosen = list(BACKENDS.values()) if backends is None else [find_backend(b) for b in backends]
    bundle = open_bundle(path)
    cases = read_cases(bundle)
    formats = {backend.format for backend in BACKENDS.values()}
    checks = []
    for artifact in bundle.manifest.artifacts:
        checks += [
            _check_artifact(bundle, backend, artifact, cases)
            for backend in chosen
            if backend.format == artifact.format
        ]
        if artifact.format not in formats:
            reason = f"no backend runs the format {artifact.format}"
            checks.append(_unchecked(artifact, "", reason))
    return CheckReport(bundle.manifest.spec.name, tuple(checks))


def _unchecked(artifact: Artifact, backend: str, reason: str) -> ArtifactCheck:
    reference = "export" if artifact.recorded_at_export else "Keras"
    return ArtifactCheck(artifact.file, artifact.recipe, backend, reference, None, reason=reason)


def _check_artifact(
    bundle: Bundle, backend: Backend, artifact: Artifact, cases: Sequence[Case]
) -> ArtifactCheck:
    found = _unchecked(artifact, backend.name, f"not installed ({backend.install_command})")
    if not backend.is_installed:
        return found
    try:
        model = load_artifact(bundle, backend, artifact, threads=1)
        (first, reason), (second, again) = (
            _compare_cases(bundle.manifest, artifact, cases, outputs)
            for outputs in replay(model.run_case, cases)
        )
    except BackendMissingError as error:
        return replace(found, reason=str(error))
    except BilstmRuntimeError as error:
        return replace(found, passed=False, reason=str(error))
    if again and not reason:
        reason = f"{again} the second time it runs: something is kept between runs"
    total = first + second
    return replace(
        found,
        passed=not reason,
        cases=len(cases),
        max_abs_error=total.max_abs_error,
        max_error_ratio=total.max_error_ratio,
        reason=reason,
    )


def _compare_cases(
    manifest: Manifest,
    artifact: Artifact,
    cases: Sequence[Case],
    outputs: Sequence[Sequence[AnyArray]],
) -> tuple[Difference, str]:
    """Compare the outputs of one artifact for all cases with their references.

    Returns:
        The difference, and what is wrong, in words; empty where nothing is.
    """
    tolerance = artifact.tolerance or manifest.tolerance
    total = Difference()
    reason = ""
    for number, (case, found) in enumerate(zip(cases, outputs, strict=True)):
        references = case.recorded[artifact.file] if artifact.recorded_at_export else case.outputs
        for spec, output, reference in zip(manifest.spec.outputs, found, references, strict=True):
            if output.shape != reference.shape:
                message = (
                    f"{spec.name!r} has the shape {output.shape}, "
                    f"in {manifest.golden.file} {reference.shape}"
                )
                raise GoldenError(message)
            difference = compare(output, reference, tolerance)
            total += difference
            if not difference.passed and not reason:
                reason = f"case {number} is wrong"
    if artifact.recorded_at_export:
        drift = _drift(manifest, artifact, cases, outputs)
        total += Difference(max_error_ratio=drift)
        if not drift <= 1 and not reason:
            reason = "the outputs differ from those at export"
    return total, reason


def _drift(
    manifest: Manifest,
    artifact: Artifact,
    cases: Sequence[Case],
    outputs: Sequence[Sequence[AnyArray]],
) -> float:
    """How far an artifact is from its recorded outputs, as a multiple of what is allowed.

    One activation that moves by a step can change a number by as much as the recipe's largest
    error, so single numbers mean little; root mean squares are robust. They are taken over each
    output of each case, as errors differ between cases, and then over those.
    """
    tolerance = manifest.tolerance
    ratios = []
    for case, found in zip(cases, outputs, strict=True):
        recorded = case.recorded[artifact.file]
        for name, output, reference, keras in zip(
            artifact.outputs, found, recorded, case.outputs, strict=False
        ):
            stored = artifact.quantized_outputs.get(name)
            moved = compare(output, reference, EXACT)
            allowed = (
                tolerance.absolute
                + tolerance.relative * moved.rms_reference
                # The last rounding may differ by one for one integer in four.
                + (stored.scale / 2 if stored is not None else 0.0)
                + _MAX_DRIFT * _rms_error(compare(reference, keras, EXACT))
            )
            error = _rms_error(moved)
            ratios.append(error / allowed if allowed else np.inf if error else 0.0)
    return float(np.sqrt(np.mean(np.square(ratios))))


def _rms_error(difference: Difference) -> float:
    """Infinite for a mismatch, such as NaN where the reference is a number."""
    return np.inf if difference.mismatch else difference.rms_error
