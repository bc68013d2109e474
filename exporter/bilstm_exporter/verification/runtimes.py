"""Checks an artifact for the runtimes that an export is made for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from importlib import metadata

from bilstm_exporter.errors import ParityError, TargetError
from bilstm_exporter.inspection.probes import ProbeSet
from bilstm_exporter.keras_model import TOLERANCE, layer_of_node
from bilstm_exporter.profiles import PROFILES, Profile, Refusal, WorksInArena
from bilstm_exporter.quantization.recipes import FLOAT32
from bilstm_exporter.targets.operators import OperatorUse
from bilstm_exporter.verification.agreement import Agreement, measure_agreement
from bilstm_exporter.verification.parity import conditioned_parity
from bilstm_runtime.backends import BACKENDS, Session
from bilstm_runtime.errors import BackendRunError
from bilstm_runtime.spec import BY_TABLE, RUN, Artifact, ModelSpec, RuntimeProof

# A runtime may round otherwise than the one that measured the error of a quantized artifact.
_OTHER_RUNTIME_FACTOR = 2.0
# The largest number of operators of one kind of problem in a message.
_SHOWN = 3


def check_operators(
    profile: Profile, artifact: Artifact, operators: Sequence[OperatorUse], kinds: Mapping[str, str]
) -> None:
    """Check that a runtime has every operator of an artifact, with its dtypes.

    Args:
        profile: The runtime.
        artifact: The artifact.
        operators: Its operators.
        kinds: The class of every layer of the model.

    Raises:
        TargetError: The runtime lacks an operator.
    """
    refusals = profile.refusals(operators)
    if not refusals:
        return
    places: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for refusal in refusals:
        layer = layer_of_node(refusal.use.node, kinds)
        place = places.setdefault(_sentence(refusal), [])
        if layer is not None and layer not in place:
            place.append(layer)
            reasons.setdefault(layer, f"{profile.label} has no {_sentence(refusal)}")
    found = [
        f"{text} (in {', '.join(f'layer {name!r}, {kinds[name]}' for name in layers)})"
        if layers
        else text
        for text, layers in list(places.items())[:_SHOWN]
    ]
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    message = (
        f"{artifact.file}: {profile.label} has no {'; '.join(found)}{more}. "
        f"{_others(profile, artifact.recipe, operators)}"
    )
    raise TargetError(message, target=profile.name, reasons=reasons)


def check_dtypes(profile: Profile, artifact: Artifact, spec: ModelSpec) -> None:
    """Check that a runtime takes the dtypes of a model's inputs and outputs.

    Raises:
        TargetError: It does not.
    """
    tensors = [*spec.file_inputs, *spec.file_outputs]
    wrong = [
        one for one in tensors if profile.dtypes is not None and one.dtype not in profile.dtypes
    ]
    if wrong:
        one = wrong[0]
        takes = ", ".join(sorted(profile.dtypes or ()))
        reason = (
            f"{profile.label} passes tensors of {takes} only, and {one.name!r} is {one.dtype}. "
            f"--target web passes any dtype in a browser, --target litert elsewhere"
        )
        # An input is a layer of its name; no layer's operators are refused.
        reasons = {tensor.name: reason for tensor in wrong}
        message = f"{artifact.file}: {reason}"
        raise TargetError(message, target=profile.name, reasons=reasons)


def check_rules(profile: Profile, spec: ModelSpec) -> None:
    """Check that a runtime which goes from text to labels has the rules of a model.

    Raises:
        TargetError: It lacks one.
    """
    problem = "" if profile.misfit is None else profile.misfit(spec)
    if problem:
        message = (
            f"{profile.label} computes other outputs than this model: {problem}. Leave "
            f"{profile.name} out of --target, and run the model with bilstm_runtime"
        )
        raise TargetError(message, target=profile.name, reasons={})


def _sentence(refusal: Refusal) -> str:
    instead = f" ({refusal.instead})" if refusal.instead else ""
    return f"{refusal.text}{instead}"


def _others(profile: Profile, recipe: str, operators: Sequence[OperatorUse]) -> str:
    """Say which targets can run an artifact that this one cannot."""
    others = [
        one.name
        for one in PROFILES.values()
        if one.name != profile.name
        and one.format == profile.format
        and recipe in one.recipes
        and one.misfit is None  # it runs more than the file
        and (one.backend or (one.kernels is not None and not one.refusals(operators)))
    ]
    if not others:
        return "Replace the layer that computes it, or leave this target out of --target"
    also = f"; so {'does' if len(others) == 2 else 'do'} {', '.join(others[1:])}"
    return f"--target {others[0]} runs this file{also if others[1:] else ''}"


def silent_differences(
    format_name: str, operators: Sequence[OperatorUse], proofs: Sequence[RuntimeProof]
) -> dict[str, str]:
    """Return the runtimes that would compute other values without reporting it, with the reason.

    Args:
        format_name: The format of the artifact.
        operators: Its operators.
        proofs: The runtimes that it was checked for.
    """
    checked = {proof.name for proof in proofs}
    others = [p for p in PROFILES.values() if p.format == format_name and p.name not in checked]
    found = {profile.name: profile.silent_refusals(operators) for profile in others}
    return {name: refusals[0].text for name, refusals in found.items() if refusals}


def prove(
    profile: Profile,
    content: bytes,
    artifact: Artifact,
    spec: ModelSpec,
    probes: ProbeSet,
) -> RuntimeProof:
    """Run an artifact in a runtime on all probes, if the runtime is installed.

    Args:
        profile: The runtime; it has the operators of the artifact.
        content: The bytes of the artifact.
        artifact: The artifact, as its format's own backend measured it.
        spec: The model.
        probes: The inputs, with Keras's outputs.

    Raises:
        TargetError: The runtime does not run the artifact, or its outputs are wrong.
    """
    if profile.backend:
        package = BACKENDS[profile.backend].package
        return RuntimeProof(profile.name, _installed_version(package), RUN)
    verifier = profile.verifier
    if verifier is None or not verifier.is_installed:
        return RuntimeProof(profile.name, profile.version, BY_TABLE)
    version = verifier.version
    arena_bytes = None
    try:
        session = verifier.open(content, artifact, spec)
        problem = _problem(session, artifact, probes)
        if isinstance(session, WorksInArena):
            arena_bytes = session.arena_bytes
    except (BackendRunError, ParityError) as error:
        problem = " ".join(str(error).split())
    if problem:
        message = (
            f"{artifact.file} is right in its format's own runtime, and {profile.runtime} "
            f"{version} does not reproduce it: {problem}. Leave {profile.name} out of --target, "
            f"or this recipe out of --recipes"
        )
        raise TargetError(message, target=profile.name, reasons={})
    return RuntimeProof(profile.name, version, RUN, arena_bytes)


def _installed_version(package: str) -> str:
    module = importlib.import_module(package)
    version = getattr(module, "__version__", None)
    if version is None:
        distributions = metadata.packages_distributions().get(package, [package])
        version = metadata.version(distributions[0])
    return str(version)


def _problem(session: Session, artifact: Artifact, probes: ProbeSet) -> str:
    """Return what is wrong with the outputs of an artifact; "" if they are right."""
    if artifact.recipe == FLOAT32:
        parity = conditioned_parity(session.run, probes, artifact.outputs)
        if not parity.probes:
            return "Keras's own output is badly conditioned on every probe that differs"
        if parity.passed:
            return ""
        found = parity.reason or (
            f"an error {parity.max_error_ratio:.3g} times the tolerance (largest absolute error "
            f"{parity.max_abs_error:.3g})"
        )
        return f"output {parity.worst_output!r} on the probe {parity.worst_probe!r} has {found}"
    agreement = measure_agreement(artifact.file, session.run, probes.probes, artifact.outputs)
    return _excess(agreement, artifact)


def _excess(agreement: Agreement, artifact: Artifact) -> str:
    """Return by how much the errors exceed those in the format's own runtime; "" if they do not."""
    for name, found in (
        ("max_abs_error", agreement.max_abs_error),
        ("relative_error", agreement.relative_error),
    ):
        own = artifact.parity.get(name)
        bound = _OTHER_RUNTIME_FACTOR * (own if isinstance(own, float) else 0.0)
        if found > bound + TOLERANCE.absolute + TOLERANCE.relative:
            return (
                f"output {agreement.worst_output!r} on the probe {agreement.worst_probe!r}: "
                f"{name} is {found:.3g}, and {own} in the format's own runtime"
            )
    return ""
