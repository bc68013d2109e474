"""LiteRT's own profiler, through its C interface.

The Python package does not expose the profiler, but it contains the library that has it,
`libLiteRt`, whose C interface is public: litert/c/litert_profiler.h, litert_compiled_model.h,
litert_options.h and litert_tensor_buffer.h of github.com/google-ai-edge/LiteRT (as of 2.3). The
layouts below are those that the headers declare stable. A library with another layout may crash,
so this runs only in a process of its own.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bilstm_runtime.errors import BackendRunError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bilstm_runtime.spec import AnyArray

_LIBRARIES: Final = {"win32": "libLiteRt.dll", "darwin": "libLiteRt.dylib"}
_CPU: Final = 1
_ALIGNMENT: Final = 64
_MAX_RANK: Final = 8
_MAX_EVENTS: Final = 512 * 1024
"""The maximum number of events that LiteRT's profiler keeps; it drops later ones."""

_ELEMENT_TYPES: Final = {
    "float32": 1, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int16": 7, "int8": 9,
    "float16": 10, "float64": 11, "uint64": 13, "uint32": 16, "uint16": 17,
}  # fmt: skip
_STATUS: Final = {
    1: "invalid argument", 2: "out of memory", 3: "runtime failure", 5: "unsupported",
    6: "not found", 8: "wrong version", 501: "invalid model file", 504: "compilation failed",
}  # fmt: skip
_Handle = ctypes.c_void_p
_Size = ctypes.c_size_t


class _Layout(ctypes.Structure):
    _fields_ = (
        ("rank", ctypes.c_uint32),  # 7 bits, then one that is set if there are strides
        ("dimensions", ctypes.c_int32 * _MAX_RANK),
        ("strides", ctypes.c_uint32 * _MAX_RANK),
    )


class _TensorType(ctypes.Structure):
    _fields_ = (("element_type", ctypes.c_int), ("layout", _Layout))


class _Event(ctypes.Structure):
    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory", _Size * 6),
        ("node", ctypes.c_uint64),
        ("graph", ctypes.c_uint64),
        ("source", ctypes.c_int),
    )


@dataclass(frozen=True)
class RawEvent:
    """One event as LiteRT reports it.

    Attributes:
        tag: The kind of operator, or for example "Invoke".
        type: 1 for the interpreter itself, 2 for an operator, 4 and 8 for one of a delegate.
        start_us: The start in microseconds; not meaningful for an operator of a delegate.
        elapsed_us: The duration in whole microseconds.
        node: The number of the node; for an event of the interpreter itself, of the graph.
        graph: The number of the graph.
    """

    tag: str
    type: int
    start_us: int
    elapsed_us: int
    node: int
    graph: int


class ProfiledModel:
    """A TFLite model compiled with LiteRT's profiler on, for inputs of one size."""

    def __init__(
        self,
        content: bytes,
        inputs: Mapping[str, AnyArray],
        outputs: Mapping[str, AnyArray],
        threads: int,
    ) -> None:
        """Compile the model.

        Args:
            content: The TFLite file.
            inputs: The arrays by the input names of its first signature.
            outputs: The expected outputs by name, which also define shapes and dtypes.
            threads: The number of threads that XNNPACK may use.

        Raises:
            BackendRunError: LiteRT returned an error, or the library is missing.
        """
        self._library = _open_library()
        self._kept: list[Any] = []  # memory that LiteRT points to
        environment, model = _Handle(), _Handle()
        self._call("LiteRtCreateEnvironment", 0, None, ctypes.byref(environment))
        memory = ctypes.create_string_buffer(content, len(content))
        self._kept.append(memory)
        self._call(
            "LiteRtCreateModelFromBuffer",
            environment, memory, _Size(len(content)), ctypes.byref(model),
        )  # fmt: skip
        options = self._options(threads)
        self._compiled = _Handle()
        self._call(
            "LiteRtCreateCompiledModel", environment, model, options, ctypes.byref(self._compiled)
        )
        self._profiler = _Handle()
        self._call("LiteRtCompiledModelGetProfiler", self._compiled, ctypes.byref(self._profiler))
        if not self._profiler:
            message = "LiteRT did not turn its profiler on"
            raise BackendRunError(message)
        arrays = [inputs[name] for name in self._names(model, "Input")]
        expected = [outputs[name] for name in self._names(model, "Output")]
        self._resize(arrays)
        self._inputs = [self._buffer(array) for array in arrays]
        self._outputs = [self._buffer(np.zeros_like(array)) for array in expected]
        self._expected = [
            (memory, array)
            for memory, array in zip(self._kept[-len(expected) :], expected, strict=True)
        ]

    def run(self) -> None:
        """Run the model once; raises `BackendRunError`."""
        ins = (_Handle * len(self._inputs))(*self._inputs)
        outs = (_Handle * len(self._outputs))(*self._outputs)
        self._call(
            "LiteRtRunCompiledModel",
            self._compiled, _Size(0), _Size(len(ins)), ins, _Size(len(outs)), outs,
        )  # fmt: skip

    def has_expected_outputs(self) -> bool:
        """Whether the last run had the expected outputs, apart from rounding."""
        return all(
            np.allclose(memory.view(array.dtype).reshape(array.shape), array, 1e-3, 1e-4, True)  # noqa: FBT003
            for memory, array in self._expected
        )

    def profile(self, runs: int) -> list[RawEvent]:
        """Run with the profiler on, and return its events in order.

        Args:
            runs: The number of runs.

        Raises:
            BackendRunError: LiteRT returned an error.
        """
        self._call("LiteRtStartProfiler", self._profiler)
        for _ in range(runs):
            self.run()
        self._call("LiteRtStopProfiler", self._profiler)
        count = ctypes.c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, ctypes.byref(count))
        if not 0 < count.value < _MAX_EVENTS:
            message = f"LiteRT's profiler reported {count.value} events"
            raise BackendRunError(message)
        events = (_Event * count.value)()
        self._call("LiteRtGetProfilerEvents", self._profiler, count, events)
        return [
            RawEvent(
                (event.tag or b"?").decode("utf-8", "replace"),
                event.type, event.start_us, event.elapsed_us, event.node, event.graph,
            )
            for event in events
        ]  # fmt: skip

    def _options(self, threads: int) -> Any:
        options = _Handle()
        self._call("LiteRtCreateOptions", ctypes.byref(options))
        self._call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
        for name, text in (
            (b"runtime_options_string", b"enable_profiling = true\n"),
            (b"xnnpack", b"num_threads = %d\n" % threads),
        ):
            payload = ctypes.create_string_buffer(text)
            keep = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
            self._kept += [payload, keep]
            opaque = _Handle()
            self._call(
                "LiteRtCreateOpaqueOptions",
                ctypes.c_char_p(name), payload, keep, ctypes.byref(opaque),
            )  # fmt: skip
            self._call("LiteRtAddOpaqueOptions", options, opaque)
        return options

    def _names(self, model: Any, side: str) -> list[str]:
        """Return the names of the first signature's inputs or outputs, in its order."""
        signature, count = _Handle(), _Size()
        self._call("LiteRtGetModelSignature", model, _Size(0), ctypes.byref(signature))
        self._call(f"LiteRtGetNumSignature{side}s", signature, ctypes.byref(count))
        names = []
        for number in range(count.value):
            name = ctypes.c_char_p()
            self._call(
                f"LiteRtGetSignature{side}Name", signature, _Size(number), ctypes.byref(name)
            )
            names.append((name.value or b"").decode("utf-8", "replace"))
        return names

    def _resize(self, inputs: Sequence[AnyArray]) -> None:
        for number, array in enumerate(inputs):
            sizes = (ctypes.c_int * array.ndim)(*array.shape)
            self._call(
                "LiteRtCompiledModelResizeInputTensorNonStrict",
                self._compiled, _Size(0), _Size(number), sizes, _Size(array.ndim),
            )  # fmt: skip

    def _buffer(self, array: AnyArray) -> Any:
        """A tensor buffer on memory of this process, with a copy of an array."""
        if array.dtype.name not in _ELEMENT_TYPES or array.ndim > _MAX_RANK:
            message = f"LiteRT's profiler does not take {array.dtype} with {array.ndim} axes"
            raise BackendRunError(message)
        kind = _TensorType(_ELEMENT_TYPES[array.dtype.name])
        kind.layout.rank = array.ndim
        kind.layout.dimensions[: array.ndim] = array.shape
        whole = np.zeros(array.nbytes + _ALIGNMENT, np.uint8)
        start = -whole.ctypes.data % _ALIGNMENT
        memory = whole[start : start + array.nbytes]
        memory[:] = np.frombuffer(array.tobytes(), np.uint8)
        self._kept.append(memory)
        buffer = _Handle()
        self._call(
            "LiteRtCreateTensorBufferFromHostMemory",
            ctypes.byref(kind), _Handle(memory.ctypes.data), _Size(array.nbytes), None,
            ctypes.byref(buffer),
        )  # fmt: skip
        return buffer

    def _call(self, name: str, *arguments: Any) -> None:
        function = getattr(self._library, name, None)
        if function is None:
            message = f"this LiteRT has no {name}"
            raise BackendRunError(message)
        function.restype = ctypes.c_int
        status = function(*arguments)
        if status:
            message = f"{name} failed: {_STATUS.get(status, f'status {status}')}"
            raise BackendRunError(message)


def _open_library() -> ctypes.CDLL:
    found = importlib.util.find_spec("ai_edge_litert")
    name = _LIBRARIES.get(sys.platform, "libLiteRt.so")
    if found is None or found.origin is None:
        message = "ai_edge_litert is not installed"
        raise BackendRunError(message)
    path = Path(found.origin).parent / name
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        message = f"{name} cannot be opened: {error}"
        raise BackendRunError(message) from error
