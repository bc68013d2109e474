"""TFLite Micro, the interpreter for microcontrollers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from bilstm_exporter.profiles.base import Profile, Verifier, kernel_table
from bilstm_exporter.profiles.registry import register
from bilstm_exporter.progress import captured_stderr
from bilstm_exporter.targets.operators import Form
from bilstm_runtime.backends import Session
from bilstm_runtime.backends.quantized import dequantize, quantize
from bilstm_runtime.errors import BackendRunError
from bilstm_runtime.spec import AnyArray, Artifact, ModelSpec

VERSION = "0.dev20261023182759"
"""The version of the package tflite-micro that the table describes."""

_KERNELS = kernel_table(
    """
    ABS                float32|int8|int16
    ADD                float32|int8|int16|int32
    ADD_N              float32|int8
    ARG_MAX            float32|int8, int32 -> int32
    ARG_MIN            float32|int8, int32 -> int32
    AVERAGE_POOL_2D    float32|int8|int16
    BATCH_MATMUL:5     float32|int8|int16
    BATCH_TO_SPACE_ND  float32|int8, int32 -> float32|int8
    BROADCAST_ARGS     int32|int64
    BROADCAST_TO:5     *
    CAST               float32|int8|int16|int32|bool -> float32|int8|int16|int32
    CEIL               float32
    CONCATENATION:6    float32|int8|int16|int32|int64|bool
    CONV_2D            float32, float32, float32
    CONV_2D            int8, int8|int4, int32 -> int8
    CONV_2D            int16, int8, int32|int64 -> int16
    COS                float32
    CUMSUM             float32|int8, int32 -> float32|int8
    DEPTHWISE_CONV_2D  float32, float32, float32
    DEPTHWISE_CONV_2D  int8, int8|int4, int32 -> int8
    DEPTHWISE_CONV_2D  int16, int8, int32|int64 -> int16
    DEPTH_TO_SPACE     float32|int8
    DEQUANTIZE         int8|int16|uint8 -> float32
    DIV                float32|int8|int32
    DYNAMIC_UPDATE_SLICE:6 float32|int8|int16|int32, float32|int8|int16|int32, int32|int64 -> *
    ELU                float32|int8
    EMBEDDING_LOOKUP   int32, float32 -> float32
    EQUAL              float32|int8|int32|int64|bool -> bool
    EXP                float32
    EXPAND_DIMS        float32|int8|int16, int32 -> *
    FILL               int32|int64, float32|int8|int32 -> *
    FLOOR              float32
    FLOOR_DIV          float32
    FLOOR_MOD          float32
    FULLY_CONNECTED    float32, float32, float32
    FULLY_CONNECTED    int8, int8|int4, int32 -> int8
    FULLY_CONNECTED    int16, int8, int32|int64 -> int16
    GATHER             float32|int8, int32 -> *
    GATHER_ND:6        float32|int8, int32 -> *
    GREATER            float32|int8|int16|int32|int64 -> bool
    GREATER_EQUAL      float32|int8|int32|int64 -> bool
    HARD_SWISH         float32|int8
    IF                 *
    L2_NORMALIZATION:4 float32|int8
    L2_POOL_2D         float32
    LEAKY_RELU         float32|int8|int16
    LESS               float32|int8|int32|int64 -> bool
    LESS_EQUAL         float32|int8|int32|int64 -> bool
    LOG                float32
    LOGICAL_AND        bool
    LOGICAL_NOT        bool
    LOGICAL_OR         bool
    LOGISTIC           float32|int8|int16
    LOG_SOFTMAX        float32|int8
    MAXIMUM            float32|int8|int16|int32|int64
    MAX_POOL_2D        float32|int8|int16
    MEAN               float32|int8|int16, int32 -> *
    MINIMUM            float32|int8|int16|int32|int64
    MIRROR_PAD         float32|int8, int32|int64 -> *
    MUL                float32|int8|int16|int32
    NEG                float32
    NOT_EQUAL          float32|int8|int32|int64|bool -> bool
    PACK               float32|int8|int16|int32|int64
    PAD:5              float32|int8|int16|int32, int32|int64 -> *
    PADV2:5            float32|int8|int16|int32, int32|int64, float32|int8|int16|int32 -> *
    PRELU:4            float32|int8
    QUANTIZE           float32|int8|int16 -> int8|int16
    QUANTIZE           int32 -> int8|int16
    REDUCE_ALL         bool, int32 -> bool
    REDUCE_MAX         float32|int8, int32 -> *
    REDUCE_MIN         float32|int8, int32 -> *
    RELU               float32|int8|int16
    RELU6              float32|int8|int16
    RESHAPE            *
    RESIZE_BILINEAR    float32|int8, int32 -> *
    RESIZE_NEAREST_NEIGHBOR  float32|int8|int16, int32 -> *
    REVERSE_V2:6       float32|int8|int16|int32|int64|uint8|bool, int32 -> *
    ROUND              float32
    RSQRT              float32|int8|int16
    SELECT_V2          bool, float32|int8|int16 -> *
    SHAPE              * -> int32
    SIN                float32
    SLICE:5            float32|int8|int16|int32|bool, int32|int64 -> *
    SOFTMAX            float32|int8|int16
    SPACE_TO_BATCH_ND  float32|int8, int32 -> *
    SPACE_TO_DEPTH     float32|int8
    SPLIT              int32, float32|int8|int16|int32 -> *
    SPLIT_V            float32|int8|int16|int32, int32 -> *
    SQRT               float32
    SQUARE             float32
    SQUARED_DIFFERENCE float32|int8|int16|int32
    SQUEEZE            *
    STRIDED_SLICE:4    float32|int8|int16|int32|bool, int32 -> *
    SUB                float32|int8|int16|int32
    SUM                float32|int8|int16, int32 -> *
    SVDF               float32|int8, *
    TANH               float32|int8|int16
    TRANSPOSE:5        float32|int8|int16, int32 -> *
    TRANSPOSE_CONV     int32, float32, float32 -> float32
    TRANSPOSE_CONV     int32, int8, int8, int32 -> int8
    UNIDIRECTIONAL_SEQUENCE_LSTM  float32|int8, * -> *
    UNPACK             float32|int8|int16|int32
    WHILE              *
    ZEROS_LIKE         float32|int8|int32|int64
    """
)

# The arena of the first attempt, as a multiple of the file's size, and the largest one.
_FIRST_ARENA, _MAX_ARENA = 4, 1 << 28
_ARENA_USED = re.compile(r"Arena allocation total (\d+) bytes")

register(
    Profile(
        "tflite-micro",
        "TFLite Micro",
        "tflite",
        VERSION,
        kernels=_KERNELS,
        recipes=("float32", "int8-full"),
        default_recipes=("float32", "int8-full"),
        forms=frozenset({Form.MICRO}),
        fixed={"batch": 1, "time": None},
        instead={
            "GELU": "use an activation such as relu or tanh",
            "ONE_HOT": "use an Embedding",
            "TOPK_V2": "return the values, and sort them in your program",
            "int64": "use int32",
            "uint8": "use int32",
        },
        verifier=Verifier("tflite_micro", "tflite-micro", f"{__name__}:open_artifact"),
    )
)


class _Session:
    """A file in the interpreter of the package tflite-micro."""

    def __init__(self, interpreter: Any, artifact: Artifact) -> None:
        self._interpreter = interpreter
        self._artifact = artifact
        self._quantized = (
            [artifact.quantized_inputs.get(name) for name in artifact.inputs],
            [artifact.quantized_outputs.get(name) for name in artifact.outputs],
        )

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run the file once; see `bilstm_runtime.backends.Session.run`."""
        interpreter = self._interpreter
        log = ""
        try:
            with captured_stderr() as read_log:
                try:
                    if self._artifact.reset_between_runs:
                        interpreter.reset()
                    for index, (array, how) in enumerate(
                        zip(arrays, self._quantized[0], strict=True)
                    ):
                        values = np.ascontiguousarray(quantize(array, how)).reshape(array.shape)
                        interpreter.set_input(values, index)
                    interpreter.invoke()
                finally:
                    log = read_log()
        except (RuntimeError, ValueError) as error:
            raise _failed(self._artifact, error, log) from error
        outputs = (np.asarray(interpreter.get_output(n)) for n in range(len(self._quantized[1])))
        return [
            dequantize(output, how) for output, how in zip(outputs, self._quantized[1], strict=True)
        ]

    @property
    def arena_bytes(self) -> int | None:
        """The bytes of the tensor arena that the runs so far needed, with 8 bytes per pointer."""
        with captured_stderr() as read_log:
            self._interpreter.print_allocations()
            found = _ARENA_USED.search(read_log())
        return int(found[1]) if found else None


def open_artifact(content: bytes, artifact: Artifact, spec: ModelSpec) -> Session:
    """Open a TFLite file with TFLite Micro; see `bilstm_exporter.profiles.base.ArtifactOpener`."""
    del spec
    from tflite_micro import runtime  # noqa: PLC0415 - an optional package

    arena = _FIRST_ARENA * len(content) + (1 << 16)
    while True:
        log = ""
        try:
            with captured_stderr() as read_log:
                try:
                    interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)
                finally:
                    log = read_log()
            return _Session(interpreter, artifact)
        except (RuntimeError, ValueError) as error:
            # The kernels say what they do not take; the allocator says what is missing.
            if arena >= _MAX_ARENA or "missing: " not in log:
                raise _failed(artifact, error, log) from error
            arena *= 4


def _failed(artifact: Artifact, error: Exception, log: str) -> BackendRunError:
    said = " ".join(log.split()) or str(error)
    return BackendRunError(f"TFLite Micro does not run {artifact.file}: {said[:500]}")
