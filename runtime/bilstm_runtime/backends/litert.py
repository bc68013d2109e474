"""Running TFLite files with LiteRT (ai-edge-litert)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm_runtime.backends.agreement import check_agreement, disagreement
from bilstm_runtime.backends.registry import BACKENDS, Array, Session, register
from bilstm_runtime.errors import ArtifactError, BackendRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bilstm_runtime.manifest import Artifact, Manifest

SIGNATURE = "serving_default"
_ERRORS = (RuntimeError, ValueError, TypeError)
"""What the interpreter raises."""


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
    ) -> None:
        """Create the interpreter.

        Args:
            create: Creates an interpreter.
            artifact: The file it runs, for messages.
            inputs: Tensor indices, in the order of the manifest.
            outputs: Tensor indices, in the order of the manifest.
        """
        self._create = create
        self._interpreter = create()
        self._artifact = artifact
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._shapes: list[tuple[int, ...]] | None = None
        self._lock = threading.Lock()

    def prepare(self, shapes: list[tuple[int, ...]]) -> None:
        """Plan the memory for inputs of these shapes, unless that is done already."""
        if shapes == self._shapes:
            return
        self._shapes = None
        for index, shape in zip(self._inputs, shapes, strict=True):
            self._interpreter.resize_tensor_input(index, shape)
        self._interpreter.allocate_tensors()
        self._shapes = shapes

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Run the model once; see `Session.run`."""
        with self._lock:
            try:
                self.prepare([array.shape for array in arrays])
                interpreter = self._interpreter
                for index, array in zip(self._inputs, arrays, strict=True):
                    interpreter.set_tensor(index, array)
                interpreter.invoke()
                return [interpreter.get_tensor(index) for index in self._outputs]  # copies
            except _ERRORS as error:
                self._interpreter = self._create()
                self._shapes = None
                shapes = ", ".join(str(array.shape) for array in arrays)
                msg = f"LiteRT failed on {self._artifact.file} with inputs of shape {shapes}: "
                raise BackendRunError(msg + str(error)) from error


@register("litert", format="tflite", package="ai_edge_litert", extra="litert")
def open_litert(content: bytes, artifact: Artifact, manifest: Manifest, threads: int) -> Session:
    """Open a TFLite file; see `Opener`."""
    try:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 (only where used)
    except ImportError as error:
        raise BACKENDS["litert"].missing(error) from error

    def create() -> Any:
        return Interpreter(model_content=content, num_threads=threads)

    try:
        interpreter = create()
    except _ERRORS as error:
        msg = f"LiteRT cannot open {artifact.file}: {error}"
        raise ArtifactError(msg) from error
    inputs, outputs = _indices(interpreter, artifact, manifest)
    session = LitertSession(create, artifact, inputs, outputs)
    least = [tuple(axis.size or axis.min for axis in spec.axes) for spec in manifest.file_inputs]
    try:
        session.prepare(least)
    except _ERRORS as error:
        msg = (
            f"LiteRT cannot run {artifact.file}: {error}. "
            "It may need operators that LiteRT does not have; export the model again."
        )
        raise ArtifactError(msg) from error
    return session


def _indices(
    interpreter: Any,
    artifact: Artifact,
    manifest: Manifest,
) -> tuple[list[int], list[int]]:
    """Tensor indices of the inputs and outputs, compared with the manifest on the way."""
    signatures = interpreter.get_signature_list()
    if SIGNATURE not in signatures:
        raise disagreement(
            artifact, f"it has the signatures {list(signatures)}, none is {SIGNATURE!r}"
        )
    runner = interpreter.get_signature_runner(SIGNATURE)
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    check_agreement(
        artifact,
        manifest,
        inputs={
            name: (np.dtype(item["dtype"]).name, [int(size) for size in item["shape_signature"]])
            for name, item in inputs.items()
        },
        outputs={name: np.dtype(item["dtype"]).name for name, item in outputs.items()},
    )
    main = sorted(int(item["index"]) for item in interpreter.get_input_details())
    if main != sorted(int(item["index"]) for item in inputs.values()):
        raise disagreement(artifact, f"{SIGNATURE!r} is not the signature of its main graph")
    return (
        [int(inputs[name]["index"]) for name in artifact.inputs],
        [int(outputs[name]["index"]) for name in artifact.outputs],
    )
