"""Running TFLite files with LiteRT (ai-edge-litert)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm_runtime.backends.agreement import check_agreement, disagreement
from bilstm_runtime.backends.base import BACKENDS, Array, Session, register
from bilstm_runtime.backends.litert_planning import ERRORS, PlannedInterpreter
from bilstm_runtime.errors import ArtifactError, BackendRunError
from bilstm_runtime.spec import integer_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bilstm_runtime.bundle.manifest import Artifact, Quantization
    from bilstm_runtime.spec import ModelSpec
    from bilstm_runtime.values import AnyArray

SIGNATURE = "serving_default"


class LitertSession:
    """A TFLite model in a LiteRT interpreter.

    The interpreter holds the shapes and values of the last run, so runs take turns under a lock,
    and after a failure a new interpreter takes the place of the one that may be half changed.
    """

    def __init__(
        self,
        create: Callable[[], Any],
        artifact: Artifact,
        inputs: Sequence[int],
        outputs: Sequence[int],
        quantized: tuple[Sequence[Quantization | None], Sequence[Quantization | None]],
    ) -> None:
        """Nothing is created yet.

        Args:
            create: Creates an interpreter.
            artifact: The file it runs, for messages.
            inputs: Tensor indices, in the order of the manifest.
            outputs: Tensor indices, in the order of the manifest.
            quantized: How each input, and each output, holds its floats, or None.
        """
        self._planned = PlannedInterpreter(create, inputs, outputs)
        self._artifact = artifact
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._quantized_inputs, self._quantized_outputs = map(tuple, quantized)
        self._quantizes = any(map(any, quantized))
        self._lock = threading.Lock()

    def prepare(self, shapes: list[tuple[int, ...]]) -> None:
        """Plan the memory for inputs of these shapes, unless that is done already."""
        self._planned.prepare(shapes)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Run the model once; see `Session.run`."""
        if self._quantizes:
            arrays = list(map(_stored, arrays, self._quantized_inputs))
        with self._lock:
            try:
                interpreter = self._planned.prepare([array.shape for array in arrays])
                if self._artifact.reset_between_runs:
                    interpreter.reset_all_variables()
                for index, array in zip(self._inputs, arrays, strict=True):
                    interpreter.set_tensor(index, array)
                self._planned.invoke()
                answers = [interpreter.get_tensor(index) for index in self._outputs]  # copies
            except ERRORS as error:
                self._planned.drop()
                shapes = ", ".join(str(array.shape) for array in arrays)
                message = f"LiteRT failed on {self._artifact.file} with inputs of shape {shapes}: "
                raise BackendRunError(message + str(error)) from error
        return list(map(_value, answers, self._quantized_outputs)) if self._quantizes else answers


def _stored(values: AnyArray, how: Quantization | None) -> Array:
    """Floats as the integers that stand for them, if any do, `docs/manifest.md`."""
    if how is None:
        return values
    low, high = integer_limits(how.dtype)
    steps = np.rint(values / np.float32(how.scale)) + how.zero_point
    integers: Array = np.clip(steps, low, high).astype(how.dtype)
    return integers


def _value(stored: AnyArray, how: Quantization | None) -> Array:
    """The floats that integers stand for, if they do."""
    if how is None:
        return stored
    return (stored.astype(np.float32) - np.float32(how.zero_point)) * np.float32(how.scale)


@register("litert", format="tflite", package="ai_edge_litert", extra="litert")
def open_litert(content: bytes, artifact: Artifact, spec: ModelSpec, threads: int) -> Session:
    """Open a TFLite file; see `Opener`."""
    try:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 (only where used)
    except ImportError as error:
        raise BACKENDS["litert"].missing(error) from error

    def create() -> Any:
        return Interpreter(model_content=content, num_threads=threads)

    try:
        interpreter = create()
    except ERRORS as error:
        message = f"LiteRT cannot open {artifact.file}: {error}"
        raise ArtifactError(message) from error
    inputs, outputs = _indices(interpreter, artifact, spec)
    quantized = (
        [artifact.quantized_inputs.get(name) for name in artifact.inputs],
        [artifact.quantized_outputs.get(name) for name in artifact.outputs],
    )
    session = LitertSession(create, artifact, inputs, outputs, quantized)
    least = [tuple(axis.size or axis.min for axis in item.axes) for item in spec.file_inputs]
    try:
        session.prepare(least)
    except ERRORS as error:
        message = (
            f"LiteRT cannot run {artifact.file}: {error}. "
            "It may need operators that LiteRT does not have; export the model again."
        )
        raise ArtifactError(message) from error
    return session


def _indices(
    interpreter: Any,
    artifact: Artifact,
    spec: ModelSpec,
) -> tuple[list[int], list[int]]:
    """Tensor indices of the inputs and outputs, compared with the manifest on the way."""
    signatures = interpreter.get_signature_list()
    if SIGNATURE not in signatures:
        raise disagreement(
            artifact, f"it has the signatures {list(signatures)}, none is {SIGNATURE!r}"
        )
    runner = interpreter.get_signature_runner(SIGNATURE)
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    _check_quantization(artifact, "input", inputs, artifact.quantized_inputs)
    _check_quantization(artifact, "output", outputs, artifact.quantized_outputs)
    check_agreement(
        artifact,
        spec,
        inputs={
            name: (
                _dtype(item, name in artifact.quantized_inputs),
                [int(size) for size in item["shape_signature"]],
            )
            for name, item in inputs.items()
        },
        outputs={
            name: _dtype(item, name in artifact.quantized_outputs) for name, item in outputs.items()
        },
    )
    main = sorted(int(item["index"]) for item in interpreter.get_input_details())
    if main != sorted(int(item["index"]) for item in inputs.values()):
        raise disagreement(artifact, f"{SIGNATURE!r} is not the signature of its main graph")
    return (
        [int(inputs[name]["index"]) for name in artifact.inputs],
        [int(outputs[name]["index"]) for name in artifact.outputs],
    )


def _dtype(item: Mapping[str, Any], quantized: bool) -> str:  # noqa: FBT001 (read as a word)
    """The dtype the file says, or float32 where integers stand for it."""
    return "float32" if quantized else np.dtype(item["dtype"]).name


def _check_quantization(
    artifact: Artifact,
    side: str,
    items: Mapping[str, Mapping[str, Any]],
    quantized: Mapping[str, Quantization],
) -> None:
    """Compare the scales in the file with those in the manifest."""
    for name, how in quantized.items():
        item = items.get(name)
        if item is None:
            raise disagreement(artifact, f"it has no {side} {name!r}")
        scale, zero_point = item["quantization"]
        found = (np.dtype(item["dtype"]).name, np.float32(scale), int(zero_point))
        if found != (how.dtype, np.float32(how.scale), how.zero_point):
            what = (
                f"the {side} {name!r} holds {found[0]} with scale {found[1]} and zero point "
                f"{found[2]}, the manifest says {how.dtype}, {how.scale} and {how.zero_point}"
            )
            raise disagreement(artifact, what)
