"""Runs TFLite files with LiteRT (ai-edge-litert).

All XNNPACK subgraphs of a file share a workspace. When the workspace grows, subgraphs that have
already run are set up again with stale pointers. If a stale pointer equals the destination of a
copy (in a split or a concatenation), XNNPACK treats the copy as done and skips it in the next run
(`initialize_workspace_values` and `setup_unary_elementwise_nc` of XNNPACK, as in LiteRT 2.3). Up
to one in a hundred changes of shape gave a wrong output for this reason.

If memory is planned for the largest shapes before the first run, the workspace never grows. If
LiteRT knows a shape only at run time, as in attention, memory cannot be planned, and each change
of shape takes a new interpreter. `_PlannedInterpreter` handles both cases.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from bilstm_runtime.backends.base import (
    BACKENDS,
    Session,
    check_signature,
    mismatch,
    register,
)
from bilstm_runtime.backends.quantized import dequantize, quantize
from bilstm_runtime.backends.tflite_wire import ExternalBuffersError, check_indices
from bilstm_runtime.errors import ArtifactError, BackendRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bilstm_runtime.spec import AnyArray, Artifact, ModelSpec, Quantization

SIGNATURE: Final = "serving_default"

Shapes: TypeAlias = list[tuple[int, ...]]
"""One shape per input."""

ERRORS: Final = (Exception,)
"""The errors that an interpreter raises: its bindings let through those of C++ and of numpy."""

MAX_GROWTH: Final = 2
"""Memory is planned for two sets of inputs together, up to this multiple of the larger one."""


class _PlannedInterpreter:
    """Holds one interpreter at a time; its workspace does not grow after its first run."""

    def __init__(
        self, create: Callable[[], Any], inputs: Sequence[int], outputs: Sequence[int]
    ) -> None:
        """Store the arguments; `prepare` creates the interpreter.

        Args:
            create: Creates an interpreter.
            inputs: Tensor indices of the inputs, in the order of the shapes.
            outputs: Tensor indices of the outputs.
        """
        self._create = create
        self._inputs = inputs
        self._outputs = outputs
        self._interpreter: Any = None
        self._shapes: Shapes | None = None
        self._largest: Shapes = []
        self._is_planned_whole = False
        self._has_run = False

    def adopt(self, interpreter: Any) -> None:
        """Use an interpreter that has not run, instead of creating the first one."""
        self._interpreter = interpreter

    def prepare(self, shapes: Shapes) -> Any:
        """Return the interpreter, ready for inputs of these shapes; raises `ERRORS`."""
        if shapes != self._shapes:
            self._shapes = None
            has_room = self._is_planned_whole and _fits(self._largest, shapes)
            if not self._has_run or not has_room:
                self._make_room(shapes)
            self._plan(shapes)
        return self._interpreter

    def invoke(self) -> None:
        """Run the prepared interpreter."""
        self._has_run = True
        self._interpreter.invoke()

    def drop(self) -> None:
        """Discard the interpreter: the next run takes a new one."""
        self._interpreter = self._shapes = None
        self._has_run = False

    def _make_room(self, shapes: Shapes) -> None:
        """Plan an interpreter that has not run, for these shapes and the earlier ones."""
        if self._has_run:
            self.drop()  # frees its memory before the next one is created
        self._largest = _joint_shapes(self._largest, shapes) if self._is_planned_whole else shapes
        try:
            self._plan(self._largest)
        except ERRORS:
            # Not every model accepts the maximum of all axes in one call.
            self.drop()
            self._largest = shapes
            self._plan(shapes)
        self._is_planned_whole = self._are_outputs_planned()

    def _are_outputs_planned(self) -> bool:
        """Whether LiteRT has allocated all outputs, which it does last, before the first run."""
        try:
            for index in self._outputs:
                self._interpreter.get_tensor(index)
        except ValueError:
            return False
        return True

    def _plan(self, shapes: Shapes) -> None:
        if shapes == self._shapes:
            return
        if self._interpreter is None:
            self._interpreter = self._create()
        for index, shape in zip(self._inputs, shapes, strict=True):
            self._interpreter.resize_tensor_input(index, shape)
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def _fits(largest: Shapes, shapes: Shapes) -> bool:
    """Whether no axis is longer than the same axis of the largest shapes."""
    return all(
        size <= limit
        for shape, limits in zip(shapes, largest, strict=True)
        for size, limit in zip(shape, limits, strict=True)
    )


def _joint_shapes(before: Shapes, shapes: Shapes) -> Shapes:
    """Return the smallest shapes that hold both, or only the requested ones if that is too large.

    See `MAX_GROWTH`.
    """
    pairs = list(zip(before, shapes, strict=True))
    both = [tuple(map(max, one, other)) for one, other in pairs]
    larger = max(_element_count(before), _element_count(shapes))
    return both if _element_count(both) <= MAX_GROWTH * larger else shapes


def _element_count(shapes: Shapes) -> int:
    return sum(map(math.prod, shapes))


class LitertSession:
    """A TFLite model in a LiteRT interpreter.

    The interpreter keeps the shapes and values of the last run, so a lock serializes the runs.
    After a failure its state may be inconsistent, so a new interpreter replaces it.
    """

    def __init__(  # noqa: PLR0913 (by name)
        self,
        create: Callable[[], Any],
        artifact: Artifact,
        inputs: Sequence[int],
        outputs: Sequence[int],
        quantized: tuple[Sequence[Quantization | None], Sequence[Quantization | None]],
        *,
        single_use: bool = False,
    ) -> None:
        """Store the arguments; `prepare` creates the interpreter.

        Args:
            create: Creates an interpreter.
            artifact: The model file.
            inputs: Tensor indices, in the order of the model.
            outputs: Tensor indices, in the order of the model.
            quantized: The quantization of each input and of each output, or None.
            single_use: Whether each run takes a new interpreter: shapes inside change with the
                values, so the workspace can grow without a change of the inputs' shapes.
        """
        self._planned = _PlannedInterpreter(create, inputs, outputs)
        self._is_single_use = single_use
        self._artifact = artifact
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._quantized_inputs, self._quantized_outputs = map(tuple, quantized)
        self._quantizes = any(map(any, quantized))
        self._lock = threading.Lock()

    def adopt(self, interpreter: Any) -> None:
        """Use an interpreter that has not run, instead of creating the first one."""
        self._planned.adopt(interpreter)

    def prepare(self, shapes: list[tuple[int, ...]]) -> None:
        """Plan the memory for inputs of these shapes, if that is not done yet."""
        self._planned.prepare(shapes)

    def row_bytes(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Return the bytes of the tensors with free axes; see `SizedSession.row_bytes`."""
        with self._lock:
            try:
                found = self._planned.prepare(list(shapes)).get_tensor_details()
            except ERRORS as error:
                self._planned.drop()
                raise self._failure(shapes, error) from error
        total: int = sum(
            math.prod(map(int, one["shape"])) * np.dtype(one["dtype"]).itemsize
            for one in found
            if -1 in one["shape_signature"]
        )
        return total // shapes[0][0]

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run the model once; see `Session.run`."""
        if self._quantizes:
            arrays = list(map(quantize, arrays, self._quantized_inputs))
        with self._lock:
            try:
                interpreter = self._planned.prepare([array.shape for array in arrays])
                if self._artifact.reset_between_runs:
                    interpreter.reset_all_variables()
                for index, array in zip(self._inputs, arrays, strict=True):
                    interpreter.set_tensor(index, array)
                self._planned.invoke()
                outputs = [_output(interpreter, number) for number in self._outputs]
                if self._is_single_use:
                    self._planned.drop()
            except ERRORS as error:
                self._planned.drop()
                raise self._failure([array.shape for array in arrays], error) from error
        return (
            list(map(dequantize, outputs, self._quantized_outputs)) if self._quantizes else outputs
        )

    def _failure(self, shapes: Sequence[tuple[int, ...]], error: Exception) -> BackendRunError:
        found = ", ".join(map(str, shapes))
        message = f"LiteRT failed on {self._artifact.file} with inputs of shape {found}: {error}"
        return BackendRunError(message)


_MAX_CHECKED: Final = 4096
_checked: set[str] = set()


def _check_once(content: bytes, sha256: str) -> None:
    """Check the indices in a file, unless this process has checked the same file before.

    Args:
        content: The file.
        sha256: Its SHA-256, which was compared when it was read.

    Raises:
        ValueError: See `check_indices`.
    """
    if sha256 not in _checked:
        check_indices(content)
        if len(_checked) < _MAX_CHECKED:
            _checked.add(sha256)


@register(
    "litert",
    format="tflite",
    package="ai_edge_litert",
    extra="litert",
    min_version="2.1",  # 2.0 computes wrong outputs for int4
)
def open_litert(content: bytes, artifact: Artifact, spec: ModelSpec, threads: int) -> Session:
    """Open a TFLite file; see `Opener`."""
    try:
        import ai_edge_litert  # noqa: PLC0415 (only where this backend is used)
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 (the same)
    except ImportError as error:
        raise BACKENDS["litert"].missing(error) from error
    BACKENDS["litert"].check_version(ai_edge_litert)
    try:
        _check_once(content, artifact.sha256)
    except ExternalBuffersError as error:
        message = (
            f"{artifact.file} stores weights in another file, which is never opened. "
            "Export the model again with its weights inside."
        )
        raise ArtifactError(message) from error
    except ValueError as error:
        raise mismatch(artifact, f"not a TFLite file ({error})") from error

    def create() -> Any:
        return Interpreter(model_content=content, num_threads=threads)

    try:
        interpreter = create()
        inputs, outputs = _indices(interpreter, artifact, spec)
    except ArtifactError:
        raise
    except ERRORS as error:
        message = f"LiteRT cannot open {artifact.file}: {error}"
        raise ArtifactError(message) from error
    quantized = (
        [artifact.quantized_inputs.get(name) for name in artifact.inputs],
        [artifact.quantized_outputs.get(name) for name in artifact.outputs],
    )
    session = LitertSession(
        create, artifact, inputs, outputs, quantized, single_use=spec.has_value_sizes
    )
    session.adopt(interpreter)
    min_shapes = [tuple(axis.size or axis.min for axis in item.axes) for item in spec.file_inputs]
    try:
        session.prepare(min_shapes)
    except ERRORS as error:
        message = (
            f"LiteRT cannot run {artifact.file}: {error}. "
            "It may need operators that LiteRT does not have; export the model again."
        )
        raise ArtifactError(message) from error
    return session


def _output(interpreter: Any, number: int) -> np.ndarray:
    """Copy an output. LiteRT returns a scalar as an object that is no array, and nothing empty."""
    try:
        return np.asarray(interpreter.get_tensor(number))
    except ValueError:
        details = next(one for one in interpreter.get_output_details() if one["index"] == number)
        if 0 not in details["shape"]:
            raise
        return np.zeros(details["shape"], details["dtype"])


def _indices(
    interpreter: Any,
    artifact: Artifact,
    spec: ModelSpec,
) -> tuple[list[int], list[int]]:
    """Return the tensor indices of the inputs and outputs, after a check of the manifest."""
    signatures = interpreter.get_signature_list()
    if SIGNATURE not in signatures:
        raise mismatch(artifact, f"it has the signatures {list(signatures)}, but not {SIGNATURE!r}")
    runner = interpreter.get_signature_runner(SIGNATURE)
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    _check_quantization(artifact, "input", inputs, artifact.quantized_inputs)
    _check_quantization(artifact, "output", outputs, artifact.quantized_outputs)
    check_signature(
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
        raise mismatch(artifact, f"{SIGNATURE!r} is not the signature of its main graph")
    return (
        [int(inputs[name]["index"]) for name in artifact.inputs],
        [int(outputs[name]["index"]) for name in artifact.outputs],
    )


def _dtype(item: Mapping[str, Any], quantized: bool) -> str:  # noqa: FBT001 (private)
    """Return the dtype in the file, or float32 for a quantized tensor."""
    return "float32" if quantized else np.dtype(item["dtype"]).name


def _check_quantization(
    artifact: Artifact,
    side: str,
    items: Mapping[str, Mapping[str, Any]],
    quantized: Mapping[str, Quantization],
) -> None:
    """Compare the scales in the file with those in the manifest."""
    for name, expected in quantized.items():
        item = items.get(name)
        if item is None:
            raise mismatch(artifact, f"it has no {side} {name!r}")
        scale, zero_point = item["quantization"]
        found = (np.dtype(item["dtype"]).name, np.float32(scale), int(zero_point))
        if found != (expected.dtype, np.float32(expected.scale), expected.zero_point):
            problem = (
                f"the {side} {name!r} holds {found[0]} with scale {found[1]} and zero point "
                f"{found[2]}, the manifest says {expected.dtype}, {expected.scale} and "
                f"{expected.zero_point}"
            )
            raise mismatch(artifact, problem)
