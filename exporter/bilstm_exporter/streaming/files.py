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
from bilstm_exporter.inspection.probes import ProbeSet
from bilstm_exporter.keras_model import TOLERANCE, layer_of_node
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.profiles import Profile
from bilstm_exporter.progress import captured_stderr
from bilstm_exporter.quantization.recipes import FLOAT32, RECIPES, file_name
from bilstm_exporter.streaming.stream_model import StreamModel
from bilstm_exporter.targets.base import Target, TargetOptions
from bilstm_exporter.targets.registry import TARGETS
from bilstm_runtime.backends import BACKENDS, Session
from bilstm_runtime.comparison import Difference, compare
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
        difference: The comparison, in the cases in which a stream is exact.
    """

    artifact: Artifact
    content: bytes
    session: Session
    difference: Difference


@dataclass(frozen=True)
class StreamCase:
    """One sequence and Keras's outputs for it.

    Attributes:
        inputs: One array per input of the model, with a batch of 1.
        outputs: One array per output, with a batch of 1.
    """

    inputs: list[np.ndarray]
    outputs: list[np.ndarray]


def default_steps(model: StreamModel, chunk: int | None, lookahead: int | None) -> tuple[int, int]:
    """Return the chunk and the look-ahead of an export, multiples of the model's unit.

    Raises:
        StreamingError: The given ones are not.
    """
    unit = model.layout.unit
    needed = _multiple(model.layout.right_context, unit)
    for name, value in (("chunk", chunk), ("lookahead", lookahead)):
        if value is not None and value % unit:
            message = (
                f"--{name} is {value}; the model pools {unit} steps into one, so it must be a "
                f"multiple of {unit}"
            )
            raise StreamingError(message)
    if chunk is None:
        chunk = 1 if model.layout.one_step else _multiple(40, unit)
    if lookahead is None:
        is_free = model.layout.has_backward or model.layout.attending
        lookahead = max(_multiple(20, unit), needed) if is_free else needed
    return chunk, lookahead if model.layout.has_ahead else 0


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
        self._cases = list(stream_cases(loaded, probes))

    def with_model(self, model: StreamModel) -> StreamFileBuilder:
        """Return a builder for another form of the stream, verified on the same sequences."""
        other = copy.copy(self)
        other.model, other._targets = model, {}  # noqa: SLF001 - of this class
        return other

    @property
    def cases(self) -> list[StreamCase]:
        """The sequences that the files are verified on."""
        return self._cases

    def build(self, name: str, recipe: str) -> StreamFile:
        """Build and verify one file.

        Args:
            name: The format.
            recipe: The recipe, which needs no calibration.

        Raises:
            StreamingError: Its outputs differ from Keras's where a stream is exact.
            ExportError: The format cannot represent the model.
        """
        opened = self.open(name, recipe)
        artifact, session = opened.artifact, opened.session
        difference = self._verify(artifact, session, exact=recipe == FLOAT32)
        parity = {
            "sequences": len(self._cases),
            "max_abs_error": difference.max_abs_error,
            "max_error_ratio": difference.max_error_ratio,
        }
        return StreamFile(replace(artifact, parity=parity), opened.content, session, difference)

    def open(self, name: str, recipe: str) -> OpenedStreamFile:
        """Build and open one file, and compare nothing.

        Args:
            name: The format.
            recipe: The recipe, which needs no calibration.

        Raises:
            ExportError: The format cannot represent the model.
        """
        if name not in self._targets:
            forms = (profile.forms for profile in self._profiles if profile.format == name)
            options = TargetOptions(self._opset, frozenset().union(*forms))
            self._targets[name] = TARGETS[name].create(options)
        loaded = self.model.loaded
        try:
            built = self._targets[name].build(loaded, RECIPES[recipe].plan)
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

    def _verify(self, artifact: Artifact, session: Session, *, exact: bool) -> Difference:
        """Compare with Keras where a stream is exact: with all the look-ahead that is needed."""
        rng = np.random.default_rng(23)
        total = Difference()
        for number, case in enumerate(self._cases):
            found = self.compare(
                artifact, session, case, chunk=int(rng.integers(1, 12)) if number else 1
            )
            total += found
            if exact and not found.passed:
                problem = found.mismatch or (
                    f"an error {found.max_error_ratio:.3g} times the tolerance"
                )
                message = (
                    f"{artifact.file} does not reproduce Keras's outputs chunk by chunk: {problem} "
                    f"with all the look-ahead that the model needs. A layer computes in a way that "
                    f"depends on the whole sequence, so the model cannot be streamed; export "
                    f"without --streaming, and please report the model's layers"
                )
                raise StreamingError(message)
        return total

    def compare(
        self, artifact: Artifact, session: Session, case: StreamCase, *, chunk: int
    ) -> Difference:
        """Compare the stream of one sequence with Keras's outputs for the whole.

        Args:
            artifact: The file.
            session: It, opened.
            case: The sequence.
            chunk: The number of steps at once, which is rounded up to a multiple of the unit.
        """
        layout = self.model.layout
        spec = stream_spec(
            self._loaded, self.model, [artifact], default_steps(self.model, None, None)
        )
        length = case.inputs[self.model.timed[0]].shape[1]
        if length < spec.min_steps:
            return Difference()
        ahead = _multiple(length if layout.has_backward else layout.right_context, layout.unit)
        size = 1 if layout.one_step else _multiple(int(chunk), layout.unit)
        if layout.attending:  # exact only if a chunk and its look-ahead are the whole sequence
            size = _multiple(length, layout.unit)
        found = run_stream(spec, session, case.inputs, size, ahead)
        total = Difference()
        for output, reference in zip(found, case.outputs, strict=True):
            total += compare(output, reference, TOLERANCE)
        return total


def stream_cases(loaded: LoadedModel, probes: ProbeSet) -> Iterator[StreamCase]:
    """Choose rows of the probes, of different kinds and lengths, with Keras's outputs for each."""
    count, found = len(loaded.spec.inputs), 0
    kinds: set[tuple[Any, int]] = set()
    for probe in probes.probes:
        if found == _MAX_ROWS:
            return
        length = max((array.shape[1] for array in probe.inputs if array.ndim > 1), default=1)
        if (length > _MAX_STEPS and found) or (probe.kind, length) in kinds:
            continue
        kinds.add((probe.kind, length))
        row = len(probe.inputs[0]) // 2
        inputs = [array[row : row + 1] for array in probe.inputs[:count]]
        states = [np.zeros_like(array) for array in probe.inputs[count:]]
        try:
            outputs = loaded.keras.reference([*inputs, *states])
        except CALL_ERRORS:
            continue
        if all(np.isfinite(o).all() for o in outputs if o.dtype.kind == "f"):
            found += 1
            yield StreamCase(inputs, outputs[: len(loaded.spec.outputs)])


def _multiple(steps: int, unit: int) -> int:
    return -(-steps // unit) * unit
