"""Runs ONNX files with onnxruntime.

An ONNX file can refer to weights outside the file: to another file or, with an extension of
onnxruntime, to an address in memory. A bundle needs no external data, so files with it are refused
before onnxruntime sees them (`bilstm_runtime.backends.onnx_wire`). As a second barrier, the session
is opened from bytes, with a folder for external data in which no file can exist.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from bilstm_runtime.backends.base import (
    BACKENDS,
    Session,
    StateRun,
    check_signature,
    mismatch,
    register,
)
from bilstm_runtime.backends.onnx_wire import ExternalDataError, check_encoding
from bilstm_runtime.errors import ArtifactError, BackendRunError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bilstm_runtime.spec import AnyArray, Artifact, ModelSpec

_ONLY_FATAL = 4
"""onnxruntime's log level for fatal errors only: the others are raised as exceptions."""

_EXTERNAL_FOLDER: Final = "session.model_external_initializers_file_folder_path"
"""onnxruntime's option for the folder of external data; the null device holds no files."""

_NO_TELEMETRY: Final = "ORT_DISABLE_TELEMETRY"
"""Without it, onnxruntime starts a thread for telemetry when it is imported (seen in 1.32). A child
process that was forked does not have this thread, and waits for it without end when it exits."""

_MIN_VERSION: Final = "1.24" if sys.version_info >= (3, 11) else "1.23.2"
"""The lower bound of pyproject.toml; Python 3.10 has no later version than 1.23.2."""

_Forms: TypeAlias = "dict[str, tuple[Sequence[int], np.dtype[Any]]]"
"""Shape and dtype of each input and output, by name."""

_DTYPES = {"float": "float32", "double": "float64"}
"""onnxruntime's dtype names that differ from numpy's."""


_MAX_BUFFERS: Final = 2**16
"""Bytes up to which copies of inputs and outputs take less time than binding them anew."""


class OnnxSession:
    """An ONNX model opened by onnxruntime on the CPU; safe to use from several threads."""

    def __init__(self, session: Any, artifact: Artifact) -> None:
        """Wrap an open session.

        Args:
            session: An `onnxruntime.InferenceSession`.
            artifact: The model file, as the manifest describes it.
        """
        self._session, self._run = session, session.run
        self._artifact = artifact
        self._inputs = artifact.inputs
        self._outputs = list(artifact.outputs)
        self._forms = forms = _fixed_forms(session, artifact)
        self._buffers = None
        if forms is not None:
            self._buffers = _Buffers(
                session,
                {name: np.zeros(*forms[name]) for name in artifact.inputs},
                {name: np.zeros(*forms[name]) for name in artifact.outputs},
            )
        self._lock = threading.Lock()

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run the model once; see `Session.run`."""
        buffers = self._buffers
        try:
            # If another thread uses the buffers, this run does without.
            if buffers is not None and buffers.fit(arrays) and self._lock.acquire(blocking=False):
                try:
                    return buffers.run(arrays)
                finally:
                    self._lock.release()
            outputs: list[AnyArray] = self._run(
                self._outputs, dict(zip(self._inputs, arrays, strict=True))
            )
        except Exception as error:  # its exceptions have no common class
            raise _run_error(self._artifact.file, arrays, error) from error
        return outputs

    def carry(self, count: int) -> StateRun | None:
        """Return runs that keep the states; see `StateSession.carry`."""
        if self._forms is None or not count:
            return None
        return _CarriedStates(self._session, self._artifact, self._forms, count)


class _Buffers:
    """The inputs and outputs of a file of fixed shapes, bound to its session.

    A run with them takes half of onnxruntime's time for each call: 4 of 8 us, as much as the
    products of a small recurrent layer over one step.
    """

    def __init__(
        self, session: Any, inputs: Mapping[str, AnyArray], outputs: Mapping[str, AnyArray]
    ) -> None:
        self.inputs, self.outputs = list(inputs.values()), list(outputs.values())
        self._shapes = [array.shape for array in self.inputs]
        self._binding = session.io_binding()
        for name, array in inputs.items():
            self._binding.bind_cpu_input(name, array)
        for name, array in outputs.items():
            place = array.ctypes.data
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, place)
        self._run = session.run_with_iobinding

    def fit(self, arrays: Sequence[AnyArray]) -> bool:
        """Whether arrays have the shapes of the inputs."""
        return [array.shape for array in arrays] == self._shapes

    def run(self, arrays: Sequence[AnyArray], count: int | None = None) -> list[AnyArray]:
        """Run the model once; one thread at a time.

        Args:
            arrays: The values of the first inputs; the others keep theirs.
            count: The number of outputs to return, the first ones; all by default.
        """
        for place, array in zip(self.inputs, arrays, strict=False):
            place[...] = array
        self._run(self._binding)
        return [array.copy() for array in self.outputs[:count]]


class _CarriedStates:
    """Two sets of buffers, where the states that one returns are those that the other takes."""

    def __init__(self, session: Any, artifact: Artifact, forms: _Forms, count: int) -> None:
        arrays = {name: np.zeros(*form) for name, form in forms.items()}
        before, after = artifact.inputs[-count:], artifact.outputs[-count:]
        swapped = {
            **arrays,
            **{one: arrays[other] for one, other in zip(before, after, strict=True)},
            **{other: arrays[one] for one, other in zip(before, after, strict=True)},
        }
        self._now, self._next = (
            _Buffers(
                session,
                {name: found[name] for name in artifact.inputs},
                {name: found[name] for name in artifact.outputs},
            )
            for found in (arrays, swapped)
        )
        self._file = artifact.file
        self._outputs = len(artifact.outputs) - count
        self._states = count

    @property
    def states(self) -> list[AnyArray]:
        """The states with which the next run starts; they may be set in place."""
        return self._now.inputs[-self._states :]

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run the model once; see `StateRun.run`."""
        buffers = self._now
        try:
            outputs = buffers.run(arrays, self._outputs)
        except Exception as error:  # its exceptions have no common class
            raise _run_error(self._file, arrays, error) from error
        self._now, self._next = self._next, buffers
        return outputs


def _run_error(file: str, arrays: Sequence[AnyArray], error: Exception) -> BackendRunError:
    shapes = ", ".join(str(array.shape) for array in arrays)
    message = f"onnxruntime failed on {file} with inputs of shape {shapes}: {error}"
    return BackendRunError(message)


def _fixed_forms(session: Any, artifact: Artifact) -> _Forms | None:
    """Return shape and dtype by name; None if one is not fixed, or if copies would cost more."""
    nodes = {node.name: node for node in (*session.get_inputs(), *session.get_outputs())}
    forms, total = {}, 0
    for name in (*artifact.inputs, *artifact.outputs):
        shape, dtype = nodes[name].shape, np.dtype(_dtype(nodes[name].type))
        if any(type(size) is not int or size < 0 for size in shape):
            return None
        forms[name] = shape, dtype
        total += math.prod(shape) * dtype.itemsize
    return forms if total <= _MAX_BUFFERS else None


@register(
    "onnx",
    format="onnx",
    package="onnxruntime",
    extra="onnx",
    min_version=_MIN_VERSION,
)
def open_onnx(content: bytes, artifact: Artifact, spec: ModelSpec, threads: int) -> Session:
    """Open an ONNX file; see `Opener`."""
    os.environ.setdefault(_NO_TELEMETRY, "1")
    try:
        import onnxruntime as ort  # noqa: PLC0415 (only where this backend is used)
    except ImportError as error:
        raise BACKENDS["onnx"].missing(error) from error
    BACKENDS["onnx"].check_version(ort)
    try:
        check_encoding(content)
    except ExternalDataError as error:
        message = (
            f"{artifact.file} stores weights in another file, which is never opened. "
            "Export the model again with its weights inside."
        )
        raise ArtifactError(message) from error
    except ValueError as error:
        raise mismatch(artifact, f"not an ONNX file ({error})") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ONLY_FATAL
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry(_EXTERNAL_FOLDER, os.devnull)
    try:
        session = ort.InferenceSession(
            content, sess_options=options, providers=["CPUExecutionProvider"]
        )
        inputs = {node.name: (_dtype(node.type), node.shape) for node in session.get_inputs()}
        outputs = {node.name: _dtype(node.type) for node in session.get_outputs()}
    except Exception as error:  # its exceptions have no common class
        message = f"onnxruntime cannot open {artifact.file}: {error}"
        raise ArtifactError(message) from error
    check_signature(artifact, spec, inputs=inputs, outputs=outputs)
    return OnnxSession(session, artifact)


def _dtype(kind: str) -> str:
    """Return numpy's name for a type of onnxruntime, such as "tensor(float)"."""
    inner = kind.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(inner, inner)
