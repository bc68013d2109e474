"""Checks the model files of a bundle on its golden cases, and its other files by their checksums.

The reference is Keras's outputs. For a quantized file, it is the outputs recorded at export:
quantization errors could hide a wrong file from a comparison with Keras.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from bilstm_runtime.backends import BACKENDS, find_backend
from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.bundle.golden import read_cases
from bilstm_runtime.bundle.golden_texts import (
    arrays_of,
    equals,
    plain_answers,
    read_text_cases,
)
from bilstm_runtime.bundle.golden_windows import places, read_window_cases, window_answers
from bilstm_runtime.comparison import EXACT, Difference, compare, replay
from bilstm_runtime.decoding.recorded import agree
from bilstm_runtime.errors import (
    BackendMissingError,
    BilstmRuntimeError,
    BundleError,
    GoldenError,
    MissingPackageError,
)
from bilstm_runtime.inputs import InputReader
from bilstm_runtime.model import load_artifact
from bilstm_runtime.preprocessing_spec import TokenizerFilePreprocessing
from bilstm_runtime.streams import run_stream
from bilstm_runtime.windows import sliding_windows

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from bilstm_runtime.backends import Backend
    from bilstm_runtime.bundle.folder import Bundle
    from bilstm_runtime.bundle.golden import Case
    from bilstm_runtime.bundle.manifest import Manifest, TargetFile
    from bilstm_runtime.inputs import Values
    from bilstm_runtime.model import Model
    from bilstm_runtime.spec import AnyArray, Artifact
    from bilstm_runtime.stream_spec import StreamSpec

_MAX_DRIFT: Final = 0.75
"""The maximum error against the recorded outputs, as a fraction of the error against Keras.

Another processor rounds differently, which can move a quantized activation by a whole step: with
other kernels than at export, fractions up to 0.4 were measured. The file of another recipe, even
an exact one, differs by at least the error itself, 1. docs/numerics.md has the figures.
"""


@dataclass(frozen=True)
class ArtifactCheck:
    """The result of the check of one model file on one backend.

    Attributes:
        file: The model file.
        recipe: How its numbers are stored.
        backend: The backend; empty if none runs this format.
        reference: "Keras", or "export" for the outputs recorded at export; "manifest" for a file
            that no backend runs and whose size or checksum is wrong.
        passed: Whether all outputs agree with the reference; None if the file was not run.
        cases: The number of golden cases, each of which was run twice.
        max_abs_error: The largest absolute error, or None if nothing was compared.
        max_error_ratio: The largest error as a multiple of the tolerance, or None.
        reason: Why it did not pass, in words; empty if it passed.
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
    """The result of the check of a bundle.

    Attributes:
        name: The name of the model.
        checks: One entry for each model file and backend, and for each other file that is not
            the one in the manifest, such as a tokenizer or a target file.
    """

    name: str
    checks: tuple[ArtifactCheck, ...]

    @property
    def ran(self) -> bool:
        """Whether any model file could be run."""
        return any(check.backend and check.passed is not None for check in self.checks)

    @property
    def passed(self) -> bool:
        """Whether a model file was run, and all that were run agree with their reference."""
        return self.ran and all(check.passed is not False for check in self.checks)


def check(
    path: str | os.PathLike[str],
    *,
    backends: Sequence[str] | None = None,
    sha256: str | None = None,
) -> CheckReport:
    """Run every model file of a bundle on its golden cases.

    Each case runs twice on the same loaded model, the second time in reverse order, to detect
    state that a model keeps from one run to the next.

    Args:
        path: The bundle folder.
        backends: Names of the backends to check; all by default. A backend that is not installed
            is reported, and does not count as a failure.
        sha256: The SHA-256 that the manifest must have, as for `load`.

    Returns:
        The results, one for each model file and backend.

    Raises:
        BundleError: The manifest or the golden cases cannot be read. A model file that cannot
            be used is a failed check, not an error.
        ChecksumError: The manifest has another SHA-256.
        OptionError: `sha256` is not a SHA-256.
        UnknownBackendError: There is no backend of that name.
    """
    chosen = list(BACKENDS.values()) if backends is None else [find_backend(b) for b in backends]
    bundle = open_bundle(path, sha256=sha256)
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
    if bundle.manifest.streaming is not None:
        checks += [
            _check_stream_file(bundle, backend, artifact, bundle.manifest.streaming, cases)
            for artifact in bundle.manifest.stream_artifacts
            for backend in chosen
            if backend.format == artifact.format
        ]
    checks += _wrong_files(bundle)
    return CheckReport(bundle.manifest.spec.name, tuple(checks))


def _wrong_files(bundle: Bundle) -> list[ArtifactCheck]:
    """Compare the files that no backend runs with the manifest; returns those that differ."""
    texts = bundle.manifest.spec.texts
    tokenizers = {one.file: one for one in texts if isinstance(one, TokenizerFilePreprocessing)}
    others: list[TargetFile | TokenizerFilePreprocessing] = [
        *bundle.manifest.target_files,
        *tokenizers.values(),
    ]
    wrong = []
    for item in others:
        try:
            bundle.read(item)
        except BundleError as error:
            found = ArtifactCheck(item.file, "", "", "manifest", passed=False, reason=str(error))
            wrong.append(found)
    return wrong


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
        wrong_answer = (
            _wrong_answer(model, cases)
            or _wrong_text(bundle, artifact, model)
            or _wrong_windows(bundle, artifact, model)
        )
        (first, reason), (second, again) = (
            _compare_cases(bundle.manifest, artifact, cases, outputs)
            for outputs in replay(model.run_case, cases)
        )
    except BackendMissingError as error:
        return replace(found, reason=str(error))
    except BilstmRuntimeError as error:
        return replace(found, passed=False, reason=str(error))
    reason = reason or wrong_answer
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


def _check_stream_file(
    bundle: Bundle,
    backend: Backend,
    artifact: Artifact,
    spec: StreamSpec,
    cases: Sequence[Case],
) -> ArtifactCheck:
    """Open a stream file, and stream the first row of each case with all of its look-ahead.

    Files in float32 then reproduce Keras's outputs. Others must run.
    """
    found = _unchecked(artifact, backend.name, f"not installed ({backend.install_command})")
    if not backend.is_installed:
        return found
    is_exact = artifact.recipe == "float32"
    total, used = Difference(), 0
    timed = [item.name for item in bundle.manifest.spec.inputs].index(spec.timed[0])
    try:
        session = backend.open(bundle.read(artifact), artifact, spec.files, 1)
        for case in cases:
            rows = [len(output) for output in case.outputs if output.ndim]
            steps = case.inputs[timed].shape[1]
            if rows != [len(case.inputs[0])] * len(case.outputs) or steps < spec.min_steps:
                continue
            length = -(-steps // spec.unit) * spec.unit
            inputs = [array[:1] for array in case.inputs]
            chunk = length if spec.attends else spec.chunk  # else steps attend to a part only
            outputs = run_stream(spec, session, inputs, chunk, length)
            used += 1
            for output, reference in zip(outputs, case.outputs, strict=True):
                total += compare(output, reference[:1], bundle.manifest.tolerance)
    except BackendMissingError as error:
        return replace(found, reason=str(error))
    except BilstmRuntimeError as error:
        return replace(found, passed=False, reason=str(error))
    wrong = total.mismatch or ("" if total.passed or not is_exact else "differs from Keras")
    return replace(
        found,
        passed=not wrong,
        cases=used,
        max_abs_error=total.max_abs_error,
        max_error_ratio=total.max_error_ratio if is_exact else 0.0,
        reason=f"as a stream, {wrong}" if wrong else "",
    )


def _wrong_answer(model: Model, cases: Sequence[Case]) -> str:
    """Decode the recorded outputs of Keras, and compare the answers with those at export.

    Outputs of the file itself are compared as numbers: where two classes are nearly equal, their
    rounding errors may decide.

    Returns:
        A description of the problem; empty without one.
    """
    names = [spec.name for spec in model.inputs]
    for number, case in enumerate(cases):
        inputs = dict(zip(names, case.inputs, strict=True))
        for entry, recorded in case.decoded.items():
            decoding = model.spec.decoding[entry]
            if not agree(model.answers(inputs, case.outputs, decoding), recorded):
                return f"the answer of case {number} for {decoding.output!r} is wrong"
    return ""


def _wrong_text(bundle: Bundle, artifact: Artifact, model: Model) -> str:
    """Compare ids, outputs and answers for the recorded texts; see `_wrong_answer`."""
    spec = bundle.manifest.spec
    reader = InputReader(spec, bundle.read)
    for number, case in enumerate(read_text_cases(bundle)):
        try:
            columns = reader.read(dict(case.texts)).columns
        except MissingPackageError:  # reads the tokenizer; ids are checked without it
            return ""
        for item, column in zip(spec.inputs, columns, strict=True):
            if not equals(np.asarray(column[0]).tolist(), case.ids[item.name]):
                return f"the ids of text {number} for {item.name!r} are wrong"
        recorded = arrays_of(case.outputs, [item.dtype for item in spec.outputs])
        for decoding in spec.decoding:
            answers = plain_answers(model.answers(dict(case.texts), recorded, decoding)[0])
            if not equals(answers, case.answers[decoding.output]):
                return f"the answer to text {number} for {decoding.output!r} is wrong"
        wrong = _wrong_output(bundle, artifact, model, dict(case.texts), recorded)
        if wrong:
            return f"the output {wrong!r} for text {number} is wrong"
    return ""


def _wrong_windows(bundle: Bundle, artifact: Artifact, model: Model) -> str:
    """Compare windows, outputs and answers for the recorded recordings; see `_wrong_answer`."""
    spec = bundle.manifest.spec
    for number, case in enumerate(read_window_cases(bundle)):
        windows, starts = sliding_windows(case.recording, spec, None, None)
        found = places(starts, windows.shape[1])
        if not equals(found, case.windows):
            return f"the windows of recording {number} are wrong"
        recorded = arrays_of(case.outputs, [item.dtype for item in spec.outputs])
        for decoding in spec.decoding:
            answers = window_answers(model.answers(windows, recorded, decoding), found)
            if not equals(answers, case.answers[decoding.output]):
                return f"the answers to recording {number} for {decoding.output!r} are wrong"
        wrong = _wrong_output(bundle, artifact, model, windows, recorded)
        if wrong:
            return f"the output {wrong!r} for the windows of recording {number} is wrong"
    return ""


def _wrong_output(
    bundle: Bundle, artifact: Artifact, model: Model, values: Values, recorded: Sequence[AnyArray]
) -> str:
    """Return the name of an output that differs from Keras's; empty if all agree.

    A file whose own outputs were recorded is compared with those, see `_drift`.
    """
    if artifact.recorded_at_export:
        return ""
    spec = bundle.manifest.spec
    outputs = spec.flatten_outputs(model.predict(values))
    tolerance = artifact.tolerance or bundle.manifest.tolerance
    for one, output, reference in zip(spec.outputs, outputs, recorded, strict=True):
        if not compare(np.asarray(output), reference, tolerance).passed:
            return one.name
    return ""


def _compare_cases(
    manifest: Manifest,
    artifact: Artifact,
    cases: Sequence[Case],
    outputs: Sequence[Sequence[AnyArray]],
) -> tuple[Difference, str]:
    """Compare the outputs of one artifact for all cases with their references.

    Returns:
        The difference, and a description of the problem; empty without one.
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
    """Compute the error against the recorded outputs, as a multiple of the allowed error.

    One activation that moves by a step can change a number by as much as the recipe's largest
    error, so root mean squares are compared, not single numbers. Errors differ between cases: the
    ratio is computed for each output of each case, and the result is the root mean square of the
    ratios.
    """
    tolerance = manifest.tolerance
    ratios = []
    for case, found in zip(cases, outputs, strict=True):
        recorded = case.recorded[artifact.file]
        for name, output, reference, keras in zip(
            artifact.outputs, found, recorded, case.outputs, strict=False
        ):
            stored = artifact.quantized_outputs.get(name)
            drift = compare(output, reference, EXACT)
            allowed = (
                tolerance.absolute
                + tolerance.relative * drift.rms_reference
                # The last rounding may differ by one for one integer in four.
                + (stored.scale / 2 if stored is not None else 0.0)
                + _MAX_DRIFT * _rms_error(compare(reference, keras, EXACT))
            )
            error = _rms_error(drift)
            ratios.append(error / allowed if allowed else np.inf if error else 0.0)
    return float(np.sqrt(np.mean(np.square(ratios))))


def _rms_error(difference: Difference) -> float:
    """Return the RMS error; infinite for a mismatch, such as NaN where the reference is finite."""
    return np.inf if difference.mismatch else difference.rms_error
