"""Building the files of a bundle, each checked in the way its recipe promises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bilstm_runtime.backends import BACKENDS, Session
from bilstm_runtime.bundle.manifest import Artifact, Manifest
from bilstm_runtime.errors import BackendRunError

# isort: split
import bilstm_exporter.targets.onnx.target
import bilstm_exporter.targets.tflite.target  # noqa: F401 - both register their format
from bilstm_exporter.bundle import writer
from bilstm_exporter.captured_output import captured_stderr
from bilstm_exporter.errors import ParityError, UnsupportedModelError
from bilstm_exporter.explanation import Attempts
from bilstm_exporter.inspection.interface import Interface
from bilstm_exporter.inspection.prepared import Prepared
from bilstm_exporter.inspection.probes import ProbeSet, decided
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.progress import Stages
from bilstm_exporter.quantization.recipes import FLOAT32, Precision, PrecisionPlan, file_name
from bilstm_exporter.quantization.weight_owners import Owners
from bilstm_exporter.targets.base import TARGETS, Built, Conversion
from bilstm_exporter.targets.tflite.full_integer import convert_full_integer
from bilstm_exporter.verification.agreement import Agreement, measure_agreement
from bilstm_exporter.verification.parity import Parity, check_parity, require


@dataclass(frozen=True)
class Checked:
    """A checked artifact.

    Attributes:
        artifact: What the manifest says of it.
        built: Its bytes, and how each recurrence and weight was written.
        parity: What the probes found.
        session: It, opened.
    """

    artifact: Artifact
    built: Built
    parity: Parity | Agreement
    session: Session


@dataclass(frozen=True)
class Exact:
    """A model in one format, in float32, proven to give Keras's answers.

    Attributes:
        conversion: From which every recipe is written.
        checked: The artifact.
        probes: Those that float32 decides, of those it was given.
    """

    conversion: Conversion
    checked: Checked
    probes: ProbeSet


def build_formats(
    prepared: Prepared, manifest: Manifest, options: ExportOptions, stages: Stages
) -> tuple[dict[str, Exact], Attempts]:
    """Build and check every format in float32.

    Returns:
        Those that succeeded, by name, and what came of all.
    """
    built: dict[str, Exact] = {}
    attempts = Attempts(prepared.source, prepared.generation, options.formats)
    for name in options.formats:
        with attempts.at(name):
            built[name] = build_exact(name, prepared, manifest, options, stages)
            attempts.succeeded(name, built[name].checked.built.recurrences)
            prepared = replace(prepared, probes=built[name].probes)
    return built, attempts


def build_exact(
    name: str, prepared: Prepared, manifest: Manifest, options: ExportOptions, stages: Stages
) -> Exact:
    """Build one format in float32 and compare it with Keras.

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
        built = conversion.write(PrecisionPlan(Precision.FLOAT32), Owners([]))
    try:
        with stages.stage(f"checking {name} against Keras"):
            checked, probes = _check(name, built, manifest, prepared)
    except ParityError as error:
        error.recurrences = built.recurrences
        raise
    except BackendRunError as error:
        message = (
            f"{name} takes the model's operators, but cannot run them: {error}. Leave this format "
            f"out with --formats, and please report the model's layers"
        )
        raise UnsupportedModelError(message) from error
    return Exact(conversion, checked, probes)


def check_near(
    name: str, recipe: str, built: Built, prepared: Prepared, manifest: Manifest
) -> Checked:
    """Check an artifact whose recipe promises no more than to stay near Keras's answers.

    Args:
        name: Of the format.
        recipe: The word for the manifest.
        built: The artifact.
        prepared: The model, with probes that float32 decides.
        manifest: Without artifacts.

    Raises:
        ParityError: It gives no number where Keras gives one, or differs between two runs.
    """
    artifact, session = _open(name, recipe, built, manifest, prepared.interface)
    found = measure_agreement(artifact.file, session.run, prepared.probes.probes, artifact.outputs)
    artifact = replace(
        artifact, parity=found.to_dict(), tolerance=found.tolerance, own_answers=True
    )
    return Checked(artifact, built, found, session)


def build_calibrated(
    name: str,
    recipe: str,
    prepared: Prepared,
    manifest: Manifest,
    calibration: Iterable[Sequence[np.ndarray]],
) -> Checked:
    """Build an artifact that computes in integers, and check it.

    What it does differently from the float32 artifact, as about masks, is first proven in float32
    to give Keras's answers; integers then only round them.

    Args:
        name: Of the format.
        recipe: The word for the manifest.
        prepared: The model, with probes that float32 decides.
        manifest: Without artifacts.
        calibration: Inputs, one list of arrays a run.

    Raises:
        OptionError: An axis is free, or the calibration cannot serve.
        ExportError: The format cannot hold the model so, or does not give its answers.
    """
    source, interface = prepared.source, prepared.interface
    integers = convert_full_integer(
        lambda lowering: source.trace(lowering, interface.declared()), interface, calibration
    )
    floats = Built(
        integers.float_content,
        integers.recurrences,
        reset_between_runs=integers.reset_between_runs,
    )
    artifact, session = _open(name, recipe, floats, manifest, interface)
    probes = prepared.probes.probes
    require(artifact.file, check_parity(session.run, probes, artifact.outputs))
    return check_near(name, recipe, integers.write(), prepared, manifest)


def _check(
    name: str, built: Built, manifest: Manifest, prepared: Prepared
) -> tuple[Checked, ProbeSet]:
    """Run all probes through the runtime that users run, and refuse a wrong answer.

    Only where something differs is it worth asking which probes float32 decides at all.
    """
    probes = prepared.probes
    artifact, session = _open(name, FLOAT32, built, manifest, prepared.interface)
    parity = check_parity(session.run, probes.probes, artifact.outputs)
    if not parity.passed:
        probes = decided(prepared.source, probes)
        parity = check_parity(session.run, probes.probes, artifact.outputs)
    require(artifact.file, parity)
    artifact = replace(artifact, parity=parity.to_dict())
    return Checked(artifact, built, parity, session), probes


def _open(
    name: str, recipe: str, built: Built, manifest: Manifest, interface: Interface
) -> tuple[Artifact, Session]:
    artifact = Artifact(
        file=file_name(recipe, name),
        format=name,
        recipe=recipe,
        bytes=len(built.content),
        sha256=writer.sha256(built.content),
        inputs=interface.input_names,
        outputs=interface.output_names,
        reset_between_runs=built.reset_between_runs,
        quantized_inputs=built.quantized_inputs,
        quantized_outputs=built.quantized_outputs,
    )
    backend = next(backend for backend in BACKENDS.values() if backend.format == name)
    with captured_stderr():  # LiteRT greets on stderr
        return artifact, backend.open(built.content, artifact, manifest.spec, threads=1)
