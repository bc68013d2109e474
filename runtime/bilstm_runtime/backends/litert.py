"""Running TFLite files with LiteRT (ai-edge-litert)."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bilstm_runtime.backends.agreement import check_agreement, disagreement
from bilstm_runtime.backends.registry import BACKENDS, Array, Session, register
from bilstm_runtime.errors import ArtifactError, BackendRunError
from bilstm_runtime.manifest import integer_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bilstm_runtime.manifest import Artifact, Manifest, Quantization
    from bilstm_runtime.values import AnyArray

SIGNATURE = "serving_default"
_ERRORS = (RuntimeError, ValueError, TypeError)
"""What the interpreter raises."""
MOST_ROOM: Final = 2
"""Times as many numbers as the larger of two inputs, for which memory is planned at most."""


class LitertSession:
    """A TFLite model in a LiteRT interpreter.

    The interpreter holds the shapes and values of the last run, so runs take turns under a lock,
    and after a failure a new interpreter takes the place of the one that may be half changed.

    A new one takes its place, too, for shapes larger than those it was planned for first. All
    parts of a file that XNNPACK runs share a workspace. When that has to grow, the parts that have
    run are set up again, with pointers of before; where such a pointer into memory that was given
    back happens to be where a copy (of a split, of a concatenation) goes to, XNNPACK takes the copy
    for done and leaves it out of the next run (`setup_unary_elementwise_nc` and
    `initialize_workspace_values` of XNNPACK, as in LiteRT 2.3). Up to one in a hundred changes of
    shape gave a wrong answer so. An interpreter planned for the largest shape before its first run
    has a workspace that never grows; where LiteRT knows a shape only as it runs, it cannot be
    planned for, and every change of shape takes a new one.
    """

    def __init__(
        self,
        create: Callable[[], Any],
        artifact: Artifact,
        inputs: Sequence[int],
        outputs: Sequence[int],
        quantized: tuple[Sequence[Quantization | None], Sequence[Quantization | None]],
    ) -> None:
        """Create the interpreter.

        Args:
            create: Creates an interpreter.
            artifact: The file it runs, for messages.
            inputs: Tensor indices, in the order of the manifest.
            outputs: Tensor indices, in the order of the manifest.
            quantized: How each input, and each output, holds its floats, or None.
        """
        self._create = create
        self._interpreter: Any = None
        self._artifact = artifact
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._quantized_inputs, self._quantized_outputs = map(tuple, quantized)
        self._quantizes = any(map(any, quantized))
        self._shapes: list[tuple[int, ...]] | None = None
        self._largest: list[tuple[int, ...]] = []
        self._is_planned_whole = False
        self._has_run = False
        self._lock = threading.Lock()

    def prepare(self, shapes: list[tuple[int, ...]]) -> None:
        """Plan the memory for inputs of these shapes, unless that is done already."""
        if shapes == self._shapes:
            return
        self._shapes = None
        has_room = self._is_planned_whole and _hold(self._largest, shapes)
        if not self._has_run or not has_room:
            self._make_room(shapes)
        self._plan(shapes)

    def _make_room(self, shapes: list[tuple[int, ...]]) -> None:
        """Plan an interpreter that has not run for these shapes and for those of before."""
        if self._has_run:
            self._drop()  # its memory first
        self._largest = _together(self._largest, shapes) if self._is_planned_whole else shapes
        try:
            self._plan(self._largest)
        except _ERRORS:
            # Not every model takes the longest of every axis at once.
            self._drop()
            self._largest = shapes
            self._plan(shapes)
        self._is_planned_whole = self._are_outputs_planned()

    def _are_outputs_planned(self) -> bool:
        """Whether LiteRT has given memory to all outputs, which it does last, before any run."""
        try:
            for index in self._outputs:
                self._interpreter.get_tensor(index)
        except ValueError:
            return False
        return True

    def _plan(self, shapes: list[tuple[int, ...]]) -> None:
        if shapes == self._shapes:
            return
        if self._interpreter is None:
            self._interpreter = self._create()
        for index, shape in zip(self._inputs, shapes, strict=True):
            self._interpreter.resize_tensor_input(index, shape)
        self._interpreter.allocate_tensors()
        self._shapes = shapes

    def _drop(self) -> None:
        self._interpreter = self._shapes = None
        self._has_run = False

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Run the model once; see `Session.run`."""
        if self._quantizes:
            arrays = list(map(_stored, arrays, self._quantized_inputs))
        with self._lock:
            try:
                self.prepare([array.shape for array in arrays])
                interpreter = self._interpreter
                if self._artifact.reset_between_runs:
                    interpreter.reset_all_variables()
                for index, array in zip(self._inputs, arrays, strict=True):
                    interpreter.set_tensor(index, array)
                self._has_run = True
                interpreter.invoke()
                answers = [interpreter.get_tensor(index) for index in self._outputs]  # copies
            except _ERRORS as error:
                self._drop()
                shapes = ", ".join(str(array.shape) for array in arrays)
                msg = f"LiteRT failed on {self._artifact.file} with inputs of shape {shapes}: "
                raise BackendRunError(msg + str(error)) from error
        return list(map(_value, answers, self._quantized_outputs)) if self._quantizes else answers


def _hold(largest: list[tuple[int, ...]], shapes: list[tuple[int, ...]]) -> bool:
    """Whether no axis is longer than that of the largest shapes."""
    return all(
        size <= most
        for shape, limits in zip(shapes, largest, strict=True)
        for size, most in zip(shape, limits, strict=True)
    )


def _together(
    before: list[tuple[int, ...]], shapes: list[tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """The smallest shapes that hold both; those asked for where that is far more than either."""
    pairs = list(zip(before, shapes, strict=True))
    both = [tuple(map(max, one, other)) for one, other in pairs]
    most = max(_numbers(before), _numbers(shapes))
    return both if _numbers(both) <= MOST_ROOM * most else shapes


def _numbers(shapes: list[tuple[int, ...]]) -> int:
    return sum(map(math.prod, shapes))


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
    quantized = (
        [artifact.quantized_inputs.get(name) for name in artifact.inputs],
        [artifact.quantized_outputs.get(name) for name in artifact.outputs],
    )
    session = LitertSession(create, artifact, inputs, outputs, quantized)
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
    _check_quantization(artifact, "input", inputs, artifact.quantized_inputs)
    _check_quantization(artifact, "output", outputs, artifact.quantized_outputs)
    check_agreement(
        artifact,
        manifest,
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
