"""Runs ONNX files with onnxruntime.

An ONNX file can refer to weights outside the file. onnxruntime would open any path in such a
reference and, with its own extension, read any memory address. A bundle needs no external data, so
files with it are refused. `has_external_data` finds it without the onnx package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bilstm_runtime.backends.base import (
    BACKENDS,
    Session,
    check_signature,
    mismatch,
    register,
)
from bilstm_runtime.errors import ArtifactError, BackendRunError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_runtime.spec import AnyArray, Artifact, ModelSpec

_ONLY_FATAL = 4
"""onnxruntime's log level for fatal errors only: the others are raised as exceptions."""

_DTYPES = {"float": "float32", "double": "float64"}
"""onnxruntime's dtype names that differ from numpy's."""


_VARINT: Final = 0
_FIXED_64: Final = 1
_BYTES: Final = 2
_FIXED_32: Final = 5

# Field numbers of onnx.proto3 by message: the fields that can contain tensors, with their message.
_CHILDREN: Final[dict[str, dict[int, str]]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}  # fmt: skip
_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_MAX_DEPTH: Final = 64
"""Limit for nested messages (protobuf's own limit is 100)."""


class OnnxSession:
    """An ONNX model opened by onnxruntime on the CPU; safe to use from several threads."""

    def __init__(
        self,
        session: Any,
        artifact: Artifact,
        errors: tuple[type[Exception], ...],
    ) -> None:
        """Wrap an open session.

        Args:
            session: An `onnxruntime.InferenceSession`.
            artifact: The model file, as the manifest describes it.
            errors: The exceptions that onnxruntime raises.
        """
        self._run = session.run
        self._inputs = artifact.inputs
        self._outputs = list(artifact.outputs)
        self._errors = errors
        self._file = artifact.file

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run the model once; see `Session.run`."""
        try:
            outputs: list[AnyArray] = self._run(
                self._outputs, dict(zip(self._inputs, arrays, strict=True))
            )
        except self._errors as error:
            shapes = ", ".join(str(array.shape) for array in arrays)
            message = f"onnxruntime failed on {self._file} with inputs of shape {shapes}: {error}"
            raise BackendRunError(message) from error
        return outputs


@register("onnx", format="onnx", package="onnxruntime", extra="onnx")
def open_onnx(content: bytes, artifact: Artifact, spec: ModelSpec, threads: int) -> Session:
    """Open an ONNX file; see `Opener`."""
    try:
        import onnxruntime as ort  # noqa: PLC0415 (only where this backend is used)
        from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415
    except ImportError as error:
        raise BACKENDS["onnx"].missing(error) from error
    try:
        external = has_external_data(content)
    except ValueError as error:
        raise mismatch(artifact, f"not an ONNX file ({error})") from error
    if external:
        message = (
            f"{artifact.file} stores weights in another file, which is never opened. "
            "Export the model again with its weights inside."
        )
        raise ArtifactError(message)
    errors = (
        state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf,
        state.NoSuchFile, state.NotImplemented, state.RuntimeException, RuntimeError, ValueError,
    )  # fmt: skip
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ONLY_FATAL
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        session = ort.InferenceSession(
            content, sess_options=options, providers=["CPUExecutionProvider"]
        )
    except errors as error:
        message = f"onnxruntime cannot open {artifact.file}: {error}"
        raise ArtifactError(message) from error
    check_signature(
        artifact,
        spec,
        inputs={node.name: (_dtype(node.type), node.shape) for node in session.get_inputs()},
        outputs={node.name: _dtype(node.type) for node in session.get_outputs()},
    )
    return OnnxSession(session, artifact, errors)


def _dtype(kind: str) -> str:
    """Return numpy's name for a type of onnxruntime, such as "tensor(float)"."""
    inner = kind.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(inner, inner)


def has_external_data(content: bytes) -> bool:
    """Whether any tensor of an ONNX file refers to data outside of the file.

    Args:
        content: The file.

    Raises:
        ValueError: This is not a protobuf message, or it nests too deeply.
    """
    return _scan(memoryview(content), "Model", _MAX_DEPTH)


def _scan(buffer: memoryview, kind: str, depth: int) -> bool:
    if not depth:
        message = "its graphs nest too deeply"
        raise ValueError(message)
    children = _CHILDREN[kind]
    position = 0
    while position < len(buffer):
        key, position = _varint(buffer, position)
        number, wire = key >> 3, key & 7
        value, position = _value(buffer, position, wire)
        if kind == "Tensor" and (
            number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)
        ):
            return True
        if (
            number in children
            and isinstance(value, memoryview)
            and _scan(value, children[number], depth - 1)
        ):
            return True
    return False


def _value(buffer: memoryview, position: int, wire: int) -> tuple[int | memoryview, int]:
    """Read the value at a position; returns it and the position of the next field."""
    if wire == _VARINT:
        return _varint(buffer, position)
    if wire == _BYTES:
        size, position = _varint(buffer, position)
    elif wire in (_FIXED_32, _FIXED_64):
        size = 4 if wire == _FIXED_32 else 8
    else:
        message = f"it holds a protobuf field of the unknown wire type {wire}"
        raise ValueError(message)
    if position + size > len(buffer):
        message = "it is truncated"
        raise ValueError(message)
    return buffer[position : position + size], position + size


def _varint(buffer: memoryview, position: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if position >= len(buffer):
            break
        byte = buffer[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
    message = "it is truncated"
    raise ValueError(message)
