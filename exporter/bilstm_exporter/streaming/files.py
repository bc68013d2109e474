"""Builds the stream files of a model, and verifies each one against Keras."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bilstm_exporter.errors import StreamingError, UnsupportedOperatorError
from bilstm_exporter.inspection.interface import CALL_ERRORS
from bilstm_exporter.inspection.probes import Probe, ProbeSet
from bilstm_exporter.keras_model import layer_of_node
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.profiles import Profile
from bilstm_exporter.progress import captured_stderr
from bilstm_exporter.quantization.recipes import FLOAT32, RECIPES, PrecisionPlan, file_name
from bilstm_exporter.streaming.stream_model import StreamModel, default_steps, multiple
from bilstm_exporter.targets.base import Target, TargetOptions
from bilstm_exporter.targets.registry import TARGETS
from bilstm_exporter.verification.parity import Parity, conditioned_parity, measure_parity
from bilstm_runtime.backends import BACKENDS, Session
from bilstm_runtime.spec import Artifact, ModelSpec
from bilstm_runtime.stream_spec import StreamOutputSpec, StreamSpec
from bilstm_runtime.streams import run_stream

# Rows of probes that each file is verified on, and the longest of them.
_MAX_ROWS, _MAX_STEPS = 8, 48


@dataclass(frozen=True)
class OpenedStreamFile:
    """A stream file in its backend.

    Attributes:
        artifact: Its entry in the manifest.
        content: Its bytes.
        session: An open session of it.
        spec: Its inputs, outputs and states.
    """

    artifact: Artifact
    content: bytes
    session: Session
    spec: ModelSpec


@dataclass(frozen=True)
class StreamFile:
    """A stream file that was compared with Keras.

    Attributes:
        artifact: Its entry in the manifest.
        content: Its bytes.
        session: An open session of the file.
        max_abs_error: The largest error in the cases in which a stream is exact.
    """

    artifact: Artifact
    content: bytes
    session: Session
    max_abs_error: float


def stream_spec(
    loaded: LoadedModel,
    model: StreamModel,
    artifacts: Sequence[Artifact],
    steps: tuple[int, int],
    agreement: Mapping[str, object] | None = None,
) -> StreamSpec:
    """Describe stream files for the manifest.

    Args:
        loaded: The model.
        model: The model as a stream.
        artifacts: The files.
        steps: Chunk and look-ahead by default.
        agreement: What was measured.
    """
    layout = model.layout
    has_tail = any(one.over > 0 for one in layout.outputs)
    least = loaded.spec.inputs[model.timed[0]].axes[1].min
    return StreamSpec(
        files=model.loaded.spec,
        artifacts=tuple(artifacts),
        timed=tuple(loaded.spec.inputs[number].name for number in model.timed),
        outputs=tuple(StreamOutputSpec(one.is_sequence, one.rate) for one in layout.outputs),
        chunk=steps[0],
        lookahead=steps[1],
        has_ahead=layout.has_ahead,
        unit=layout.unit,
        overlap=layout.overlap,
        has_tail=has_tail,
        min_steps=max(least, layout.overlap + 1) if has_tail else least,
        right_context=layout.right_context,
        has_backward=layout.has_backward,
        starts_from_data=model.starts_from_data,
        attends=bool(layout.attending),
        agreement=agreement or {},
    )


class StreamFileBuilder:
    """Builds the stream files of one model.

    Args:
        loaded: The model.
        model: The model as a stream.
        probes: The inputs that the files are verified on.
        opset: The ONNX opset.
        profiles: The runtimes that the export is made for.

    Attributes:
        model: The model as a stream.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        model: StreamModel,
        probes: ProbeSet,
        opset: int,
        profiles: Sequence[Profile] = (),
    ) -> None:
        self._loaded, self.model = loaded, model
        self._opset, self._profiles = opset, profiles
        self._targets: dict[str, Target] = {}
        self._exact: set[str] = set()
        cases = list(stream_cases(loaded, probes, self._spec().min_steps))
        self._cases = ProbeSet(loaded.keras, cases, {}, None)

    def with_model(self, model: StreamModel) -> StreamFileBuilder:
        """Return a builder for another form of the stream, verified on the same sequences."""
        other = copy.copy(self)
        other.model, other._targets, other._exact = model, {}, set()  # noqa: SLF001 - of this class
        return other

    @property
    def cases(self) -> Sequence[Probe]:
        """The sequences that the files are verified on, and Keras's outputs for each."""
        return self._cases.probes

    def build(self, name: str, recipe: str, plan: PrecisionPlan | None = None) -> StreamFile:
        """Build and verify one file, and the float32 file of this format before another recipe.

        Args:
            name: The format.
            recipe: The recipe, which needs no calibration.
            plan: The precision of every layer's weights; that of the recipe by default.

        Raises:
            StreamingError: Outputs in float32 differ from Keras's where a stream is exact.
            ExportError: The format cannot represent the model.
        """
        if recipe != FLOAT32 and name not in self._exact:
            self.build(name, FLOAT32)
        opened = self.open(name, recipe, plan)
        parity = self._verified(opened, is_exact=recipe == FLOAT32)
        entry = {
            "sequences": parity.probes,
            "max_abs_error": parity.max_abs_error,
            "max_error_ratio": parity.max_error_ratio,
        }
        artifact = replace(opened.artifact, parity=entry)
        return StreamFile(artifact, opened.content, opened.session, parity.max_abs_error)

    def open(self, name: str, recipe: str, plan: PrecisionPlan | None = None) -> OpenedStreamFile:
        """Build and open one file, and compare nothing; see `build`.

        Raises:
            ExportError: The format cannot represent the model.
        """
        if name not in self._targets:
            forms = (profile.forms for profile in self._profiles if profile.format == name)
            options = TargetOptions(self._opset, frozenset().union(*forms))
            self._targets[name] = TARGETS[name].create(options)
        loaded = self.model.loaded
        try:
            built = self._targets[name].build(loaded, plan or RECIPES[recipe].plan)
        except UnsupportedOperatorError as error:
            kinds = dict(loaded.keras.layers())
            others = [other for other in TARGETS if other != name]
            raise error.located(lambda node: layer_of_node(node, kinds), kinds, others) from error
        artifact = Artifact(
            file=file_name(recipe, name).replace("model.", "stream.", 1),
            format=name,
            recipe=recipe,
            bytes=len(built.content),
            sha256=hashlib.sha256(built.content).hexdigest(),
            inputs=loaded.input_names,
            outputs=loaded.output_names,
        )
        backend = next(one for one in BACKENDS.values() if one.format == name)
        with captured_stderr():  # LiteRT prints a line when it starts
            session = backend.open(built.content, artifact, loaded.spec, threads=1)
        return OpenedStreamFile(artifact, built.content, session, loaded.spec)

    def _spec(self, *artifacts: Artifact) -> StreamSpec:
        steps = default_steps(self.model.layout)
        return stream_spec(self._loaded, self.model, artifacts, steps)

    def _verified(self, file: OpenedStreamFile, *, is_exact: bool) -> Parity:
        """Compare streams with Keras where a stream is exact: with all the look-ahead it needs.

        Raises:
            StreamingError: The file must be exact, and is not, or could not be compared.
        """
        rng = np.random.default_rng(23)
        names = [output.name for output in self._loaded.spec.outputs]

        def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            return self.run(file, inputs, chunk=int(rng.integers(1, 12)))

        if not is_exact:
            return measure_parity(run, self.cases, names)
        parity = conditioned_parity(run, self._cases, names)
        if not parity.probes:
            message = (
                f"{file.artifact.file} could not be compared with Keras: no sequence was found "
                f"that the model takes and on which Keras's own output does not depend on "
                f"rounding. Give examples of real inputs with --data, or export without --streaming"
            )
            raise StreamingError(message)
        if not parity.passed:
            problem = parity.reason or f"an error {parity.max_error_ratio:.3g} times the tolerance"
            message = (
                f"{file.artifact.file} does not reproduce Keras's outputs chunk by chunk: "
                f"{problem} with all the look-ahead that the model needs. A layer computes in a "
                f"way that depends on the whole sequence, so the model cannot be streamed; export "
                f"without --streaming, and please report the model's layers"
            )
            raise StreamingError(message)
        self._exact.add(file.artifact.format)
        return parity

    def run(
        self, file: OpenedStreamFile, inputs: Sequence[np.ndarray], *, chunk: int
    ) -> list[np.ndarray]:
        """Stream one sequence with all the look-ahead that the model needs.

        Args:
            file: The file.
            inputs: One array per input of the model, and for each state, with a batch of 1.
            chunk: The number of steps at once, which is rounded up to a multiple of the unit.
        """
        layout = self.model.layout
        spec = self._spec(file.artifact)
        length = inputs[self.model.timed[0]].shape[1]
        ahead = multiple(length if layout.has_backward else layout.right_context, layout.unit)
        size = 1 if layout.one_step else multiple(chunk, layout.unit)
        if layout.attending:  # exact only if a chunk and its look-ahead are the whole sequence
            size = multiple(length, layout.unit)
        own = inputs[: len(self._loaded.spec.inputs)]
        return run_stream(spec, file.session, own, size, ahead)


def stream_cases(loaded: LoadedModel, probes: ProbeSet, min_steps: int) -> Iterator[Probe]:
    """Choose rows of the probes, of different kinds and lengths, with Keras's outputs for each.

    Args:
        loaded: The model.
        probes: The probes.
        min_steps: The length of the shortest sequence.
    """
    count, outputs = len(loaded.spec.inputs), len(loaded.spec.outputs)
    found = 0
    kinds: set[tuple[Any, int]] = set()
    for probe in probes.probes:
        if found == _MAX_ROWS:
            return
        length = max((array.shape[1] for array in probe.inputs if array.ndim > 1), default=1)
        if (length > _MAX_STEPS and found) or (probe.kind, length) in kinds or length < min_steps:
            continue
        kinds.add((probe.kind, length))
        row = len(probe.inputs[0]) // 2
        inputs = [array[row : row + 1] for array in probe.inputs[:count]]
        inputs += [np.zeros_like(array[row : row + 1]) for array in probe.inputs[count:]]
        try:
            references = loaded.keras.reference(inputs)
        except CALL_ERRORS:
            continue
        case = Probe(probe.kind, f"a row of {probe.name}", inputs, references[:outputs])
        if case.is_finite:
            found += 1
            yield case
