"""Running ONNX files with onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bilstm_runtime.backends.agreement import check_agreement, disagreement
from bilstm_runtime.backends.base import BACKENDS, Array, Session, register
from bilstm_runtime.backends.onnx_external import has_external_data
from bilstm_runtime.errors import ArtifactError, BackendRunError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_runtime.bundle.manifest import Artifact
    from bilstm_runtime.spec import ModelSpec

_ONLY_FATAL = 4
"""onnxruntime's log level for crashes alone; its errors are raised, and need not be logged too."""

_DTYPES = {"float": "float32", "double": "float64"}
"""onnxruntime's dtype names that differ from numpy's."""


class OnnxSession:
    """An ONNX model opened by onnxruntime on the CPU; safe to use from several threads."""

    def __init__(
        self,
        session: Any,
        artifact: Artifact,
        errors: tuple[type[Exception], ...],
    ) -> None:
        """Keep an open session.

        Args:
            session: An `onnxruntime.InferenceSession`.
            artifact: Its names, in the order of the manifest.
            errors: What onnxruntime raises.
        """
        self._run = session.run
        self._inputs = artifact.inputs
        self._outputs = list(artifact.outputs)
        self._errors = errors
        self._file = artifact.file

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Run the model once; see `Session.run`."""
        try:
            answers: list[Array] = self._run(
                self._outputs, dict(zip(self._inputs, arrays, strict=True))
            )
        except self._errors as error:
            shapes = ", ".join(str(array.shape) for array in arrays)
            message = f"onnxruntime failed on {self._file} with inputs of shape {shapes}: {error}"
            raise BackendRunError(message) from error
        return answers


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
        raise disagreement(artifact, f"not an ONNX file ({error})") from error
    if external:
        message = (
            f"{artifact.file} keeps weights in another file, which is never opened. "
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
    check_agreement(
        artifact,
        spec,
        inputs={node.name: (_dtype(node.type), node.shape) for node in session.get_inputs()},
        outputs={node.name: _dtype(node.type) for node in session.get_outputs()},
    )
    return OnnxSession(session, artifact, errors)


def _dtype(kind: str) -> str:
    """Numpy's name for a type of onnxruntime, such as "tensor(float)"."""
    inner = kind.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(inner, inner)
