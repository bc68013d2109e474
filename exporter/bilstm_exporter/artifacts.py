"""Builds the model files of a bundle, and verifies each one against Keras."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bilstm_exporter.errors import (
    ExportError,
    MissingLibraryError,
    ParityError,
    TargetError,
    UnsupportedModelError,
    UnsupportedOperatorError,
)
from bilstm_exporter.evaluation.evaluator import Evaluation
from bilstm_exporter.explanation import FormatOutcome
from bilstm_exporter.inspection.probes import ProbeSet
from bilstm_exporter.keras_model import in_terms_of_layers, layer_of_node
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.profiles import Profile
from bilstm_exporter.progress import Stages, captured_stderr
from bilstm_exporter.quantization.recipes import FLOAT32, RECIPES, PrecisionPlan, file_name
from bilstm_exporter.targets.base import Built, Calibration, Target, TargetOptions
from bilstm_exporter.targets.registry import TARGETS
from bilstm_exporter.verification.agreement import Agreement, measure_agreement
from bilstm_exporter.verification.parity import (
    Parity,
    conditioned_parity,
    largest_input,
    require_parity,
)
from bilstm_exporter.verification.runtimes import (
    check_dtypes,
    check_operators,
    prove,
    silent_differences,
)
from bilstm_runtime.backends import BACKENDS, Session
from bilstm_runtime.bundle.manifest import Artifact
from bilstm_runtime.errors import BackendMissingError, BackendRunError


@dataclass(frozen=True)
class VerifiedArtifact:
    """An artifact that was compared with Keras.

    Attributes:
        artifact: Its entry in the manifest.
        built: Its bytes, and how each recurrence and weight was written.
        plan: The precision of every layer's weights.
        parity: The comparison on the probes.
        session: An open session of the artifact.
        verdict: Its evaluation on the user's data; None without data.
        silently_wrong_in: Runtimes of the format that the export is not made for and that would
            compute other values without reporting it: their names, with the reason.
    """

    artifact: Artifact
    built: Built
    plan: PrecisionPlan
    parity: Parity | Agreement
    session: Session
    verdict: Evaluation | None = None
    silently_wrong_in: Mapping[str, str] = field(default_factory=dict)

    def renamed(self, recipe: str) -> VerifiedArtifact:
        """Return the same artifact under the name of another recipe."""
        file = file_name(recipe, self.artifact.format)
        return replace(self, artifact=replace(self.artifact, recipe=recipe, file=file))


class ArtifactBuilder:
    """Builds and verifies the artifacts of one model.

    Args:
        loaded: The model.
        probes: The inputs that every artifact is compared on.
        options: The options of the export.
        stages: Receives the name of each stage.

    Attributes:
        loaded: The model.
        probes: The inputs that every artifact is compared on.
    """

    def __init__(
        self, loaded: LoadedModel, probes: ProbeSet, options: ExportOptions, stages: Stages
    ) -> None:
        self.loaded = loaded
        self.probes = probes
        self._stages = stages
        self._opset, self._profiles = options.opset, options.profiles
        self._targets: dict[str, Target] = {}
        self._built: dict[str, Built] = {}
        self._float32: dict[str, VerifiedArtifact] = {}

    def try_float32(self, name: str) -> FormatOutcome:
        """Build the float32 artifact of a format; errors are returned, not raised."""
        try:
            artifact = self.float32(name)
        except (ParityError, TargetError) as error:
            return FormatOutcome(self._built[name].recurrences, error)
        except ExportError as error:
            return FormatOutcome(None, error)
        return FormatOutcome(artifact.built.recurrences)

    def float32(self, name: str) -> VerifiedArtifact:
        """Build the float32 artifact of a format and verify it against Keras; cached.

        Raises:
            ExportError: The format cannot represent the model, its outputs differ, or a runtime
                that the export is made for cannot run it.
        """
        if name not in self._float32:
            with self._stages.stage(f"writing {name}"):
                built = self._build_float32(name)
            self._built[name] = built
            try:
                with self._stages.stage(f"checking {name} against Keras"):
                    verified = self._verify_exact(name, FLOAT32, built)
            except BackendRunError as error:
                reason, layers = in_terms_of_layers(str(error), self.loaded.keras.layers())
                message = (
                    f"{name} can store the model's operators, but not run them: {reason}. Leave "
                    f"this format out with --formats, and please report the model's layers"
                )
                raise UnsupportedModelError(message, layers=layers) from error
            self._float32[name] = self.prove(verified)
        return self._float32[name]

    def _build_float32(self, name: str) -> Built:
        try:
            return self._target(name).build(self.loaded, RECIPES[FLOAT32].plan)
        except UnsupportedOperatorError as error:
            kinds = dict(self.loaded.keras.layers())
            others = [other for other in TARGETS if other != name]
            raise error.located(lambda node: layer_of_node(node, kinds), kinds, others) from error
        except UnsupportedModelError as error:
            if error.layers:
                raise
            message, layers = in_terms_of_layers(str(error), self.loaded.keras.layers())
            raise UnsupportedModelError(message, layers=layers) from error

    def recipe(
        self, name: str, recipe: str, plan: PrecisionPlan, calibration: Calibration | None = None
    ) -> VerifiedArtifact:
        """Build a quantized artifact, and measure its error against Keras.

        Args:
            name: The format.
            recipe: The recipe's name, for the manifest.
            plan: The precision of every layer's weights.
            calibration: Example inputs; needed if activations become integers.

        Raises:
            ParityError: An output is NaN where Keras's is a number, or differs between two runs;
                or the artifact's float form does not reproduce Keras's outputs.
            ExportError: The format cannot represent the model in this recipe.
        """
        built = self._target(name).build(self.loaded, plan, calibration)
        if built.float_form is not None:
            self._verify_exact(name, recipe, built.float_form)
        artifact, session = self._open(name, recipe, built)
        found = measure_agreement(artifact.file, session.run, self.probes.probes, artifact.outputs)
        artifact = replace(
            artifact,
            parity=found.to_dict(),
            tolerance=found.tolerance,
            recorded_at_export=True,
            largest_input=largest_input(session.run, self.probes.large),
        )
        return VerifiedArtifact(artifact, built, plan, found, session)

    def profiles_of(self, name: str) -> tuple[Profile, ...]:
        """Return the runtimes of a format that the export is made for."""
        return tuple(profile for profile in self._profiles if profile.format == name)

    def prove(self, verified: VerifiedArtifact) -> VerifiedArtifact:
        """Run an artifact in every runtime that the export is made for, or check its operators.

        Raises:
            TargetError: A runtime cannot run it, or runs it wrongly.
        """
        artifact = verified.artifact
        if artifact.runtimes:
            return verified
        content = verified.built.content
        kinds = dict(self.loaded.keras.layers())
        proofs = []
        names = verified.built.node_names
        operators = verified.built.operator_uses or [
            replace(use, node=names.get(use.node, use.node))
            for use in self._target(artifact.format).operators(content)
        ]
        for profile in self.profiles_of(artifact.format):
            check_dtypes(profile, artifact, self.loaded.spec)
            if profile.kernels is not None:
                check_operators(profile, artifact, operators, kinds)
            shown: contextlib.AbstractContextManager[None] = (
                contextlib.nullcontext()
            )  # the backend has run the artifact already
            if not profile.backend:
                shown = self._stages.stage(f"checking {artifact.file} for {profile.name}")
            with shown:
                proofs.append(prove(profile, content, artifact, self.loaded.spec, self.probes))
        return replace(
            verified,
            artifact=replace(artifact, runtimes=tuple(proofs)),
            silently_wrong_in=silent_differences(artifact.format, operators, proofs),
        )

    def smallest(self, name: str) -> Built:
        """Build the file of a format with all weights in the lowest precision, unverified."""
        plan = PrecisionPlan(min(TARGETS[name].precisions))
        return self._target(name).build(self.loaded, plan)

    def _verify_exact(self, name: str, recipe: str, built: Built) -> VerifiedArtifact:
        """Run all probes through bilstm_runtime, and raise if an output differs from Keras's.

        Badly conditioned probes are searched for only if an output differs.
        """
        artifact, session = self._open(name, recipe, built)
        parity = conditioned_parity(session.run, self.probes, artifact.outputs)
        require_parity(artifact.file, parity, self.probes.values_tried)
        limit = largest_input(session.run, self.probes.large)
        artifact = replace(artifact, parity=parity.to_dict(), largest_input=limit)
        return VerifiedArtifact(artifact, built, RECIPES[FLOAT32].plan, parity, session)

    def _open(self, name: str, recipe: str, built: Built) -> tuple[Artifact, Session]:
        artifact = Artifact(
            file=file_name(recipe, name),
            format=name,
            recipe=recipe,
            bytes=len(built.content),
            sha256=hashlib.sha256(built.content).hexdigest(),
            inputs=self.loaded.input_names,
            outputs=self.loaded.output_names,
            reset_between_runs=built.reset_between_runs,
            quantized_inputs=built.quantized_inputs,
            quantized_outputs=built.quantized_outputs,
        )
        backend = next((one for one in BACKENDS.values() if one.format == name), None)
        if backend is None:
            message = f"no backend of bilstm_runtime runs {name}, so its files cannot be verified"
            raise UnsupportedModelError(message)
        with captured_stderr():  # LiteRT prints a line when it starts
            try:
                session = backend.open(built.content, artifact, self.loaded.spec, threads=1)
            except BackendMissingError as error:
                raise MissingLibraryError(str(error)) from error
        return artifact, session

    def _target(self, name: str) -> Target:
        if name not in self._targets:
            forms = (profile.forms for profile in self.profiles_of(name))
            options = TargetOptions(self._opset, frozenset().union(*forms))
            self._targets[name] = TARGETS[name].create(options)
        return self._targets[name]
