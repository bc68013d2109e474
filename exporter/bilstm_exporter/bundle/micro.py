"""The folder ``micro/`` of a bundle: a model file as C++ source, and a program that checks it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from string import Template

import numpy as np

from bilstm_exporter.artifacts import VerifiedArtifact
from bilstm_exporter.inspection.probes import Probe
from bilstm_exporter.keras_model import TOLERANCE
from bilstm_runtime.backends.quantized import quantize
from bilstm_runtime.spec import AnyArray, Quantization

FOLDER = "micro"

# The methods of tflite::MicroMutableOpResolver whose names do not follow from the operator's.
_METHODS = {
    "AVERAGE_POOL_2D": "AveragePool2D",
    "BATCH_MATMUL": "BatchMatMul",
    "CONV_2D": "Conv2D",
    "CUMSUM": "CumSum",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "L2_POOL_2D": "L2Pool2D",
    "MAX_POOL_2D": "MaxPool2D",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}
_C_TYPES = {
    "float32": "float", "int8": "int8_t", "int16": "int16_t", "int32": "int32_t",
    "int64": "int64_t", "uint8": "uint8_t", "bool": "bool",
}  # fmt: skip
_CASE_BYTES = 1 << 15
"""The recorded cases take at most this much flash, or are one."""

# An arena that was not measured: the file's size times this, and a little more.
_ARENA_FACTOR, _ARENA_REST = 4, 1 << 16

_MODEL_H = Template("""\
// $file as a C array. Written by bilstm-edge; do not edit.
#ifndef BILSTM_EDGE_MODEL_DATA_H_
#define BILSTM_EDGE_MODEL_DATA_H_

// $sha256
extern const unsigned char model_data[];
extern const unsigned int model_data_size;  // $bytes

#endif  // BILSTM_EDGE_MODEL_DATA_H_
""")

_MODEL_CC = Template("""\
// $file as a C array. Written by bilstm-edge; do not edit.
#include "model_data.h"

alignas(16) const unsigned char model_data[] = {
$data
};
const unsigned int model_data_size = sizeof(model_data);
""")

_RESOLVER_H = Template("""\
// The operators of $file, and no others. Written by bilstm-edge; do not edit.
#ifndef BILSTM_EDGE_OP_RESOLVER_H_
#define BILSTM_EDGE_OP_RESOLVER_H_

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

using OpResolver = tflite::MicroMutableOpResolver<$count>;

inline TfLiteStatus RegisterOperators(OpResolver& resolver) {
$registrations
  return kTfLiteOk;
}

#endif  // BILSTM_EDGE_OP_RESOLVER_H_
""")

_GOLDEN_H = Template("""\
// Recorded cases: inputs as $file takes them, and the outputs of Keras.
// Written by bilstm-edge; do not edit.
#ifndef BILSTM_EDGE_GOLDEN_CASES_H_
#define BILSTM_EDGE_GOLDEN_CASES_H_

#include <cmath>
#include <cstddef>
#include <cstdint>

constexpr std::size_t kTensorArenaSize = $arena;  // $measured
constexpr float kAbsoluteTolerance = $absolute;
constexpr float kRelativeTolerance = $relative;
constexpr int kInputCount = $inputs;
constexpr int kOutputCount = $outputs;
constexpr int kCaseCount = $cases;

struct GoldenCase {
  const void* inputs[kInputCount];
  std::size_t input_bytes[kInputCount];
  const float* outputs[kOutputCount];
  std::size_t output_elements[kOutputCount];
};

$arrays

static const GoldenCase kGoldenCases[kCaseCount] = {
$table
};

#endif  // BILSTM_EDGE_GOLDEN_CASES_H_
""")

_MAIN_CC = """\
// Runs every recorded case twice and compares the outputs with those of Keras.
// Written by bilstm-edge. Take what you need of it into your program.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "golden_cases.h"
#include "model_data.h"
#include "op_resolver.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

#ifndef TF_LITE_STATIC_MEMORY
#error "Compile with -DTF_LITE_STATIC_MEMORY, as TFLM is: without it, tensors have another layout."
#endif

namespace {

alignas(16) uint8_t tensor_arena[kTensorArenaSize];

// Element `index` of an output, as a float.
float Value(const TfLiteTensor& tensor, std::size_t index) {
  switch (tensor.type) {
    case kTfLiteFloat32:
      return tensor.data.f[index];
    case kTfLiteInt8: {
      const float scale = tensor.params.scale;  // 0 for plain integers
      const int value = tensor.data.int8[index];
      return scale == 0.0f ? value : (value - tensor.params.zero_point) * scale;
    }
    case kTfLiteInt32:
      return static_cast<float>(tensor.data.i32[index]);
    case kTfLiteInt64:
      return static_cast<float>(tensor.data.i64[index]);
    case kTfLiteBool:
      return tensor.data.b[index] ? 1.0f : 0.0f;
    default:
      return NAN;
  }
}

// The error of a value as a multiple of the tolerance.
float ErrorRatio(float value, float expected, bool quantized) {
  if (!std::isfinite(expected)) {
    // Integers hold no NaN and no infinity.
    const bool same = std::isnan(expected) ? std::isnan(value) : value == expected;
    return same || quantized ? 0.0f : 1e9f;
  }
  const float ratio =
      std::fabs(value - expected) /
      (kAbsoluteTolerance + kRelativeTolerance * std::fabs(expected));
  return std::isfinite(ratio) ? ratio : 1e9f;
}

// The largest error of a case as a multiple of the tolerance, or -1 if it does not run.
float Run(tflite::MicroInterpreter& interpreter, const GoldenCase& golden) {
  // The fused LSTM keeps its state from one run to the next.
  if (interpreter.Reset() != kTfLiteOk) return -1.0f;
  for (int i = 0; i < kInputCount; ++i) {
    TfLiteTensor* input = interpreter.input(i);
    if (input->bytes != golden.input_bytes[i]) return -1.0f;
    std::memcpy(input->data.raw, golden.inputs[i], golden.input_bytes[i]);
  }
  if (interpreter.Invoke() != kTfLiteOk) return -1.0f;
  float largest = 0.0f;
  for (int o = 0; o < kOutputCount; ++o) {
    const TfLiteTensor& output = *interpreter.output(o);
    for (std::size_t e = 0; e < golden.output_elements[o]; ++e) {
      const float ratio =
          ErrorRatio(Value(output, e), golden.outputs[o][e], output.type == kTfLiteInt8);
      if (ratio > largest) largest = ratio;
    }
  }
  return largest;
}

}  // namespace

int main() {
  tflite::InitializeTarget();
  const tflite::Model* model = tflite::GetModel(model_data);
  if (model->version() != TFLITE_SCHEMA_VERSION) {
    MicroPrintf("The model has schema version %d, the library %d.",
                static_cast<int>(model->version()), TFLITE_SCHEMA_VERSION);
    return 1;
  }
  static OpResolver resolver;
  if (RegisterOperators(resolver) != kTfLiteOk) return 1;
  static tflite::MicroInterpreter interpreter(model, resolver, tensor_arena, kTensorArenaSize);
  if (interpreter.AllocateTensors() != kTfLiteOk) {
    MicroPrintf("The arena is too small, or the library lacks an operator.");
    return 1;
  }
  if (static_cast<int>(interpreter.inputs_size()) != kInputCount ||
      static_cast<int>(interpreter.outputs_size()) != kOutputCount) {
    MicroPrintf("The model and golden_cases.h do not belong together.");
    return 1;
  }
  int passed = 0;
  for (int run = 0; run < 2; ++run) {
    for (int c = 0; c < kCaseCount; ++c) {
      const float ratio = Run(interpreter, kGoldenCases[c]);
      if (ratio >= 0.0f && ratio <= 1.0f) {
        ++passed;
      } else if (ratio < 0.0f) {
        MicroPrintf("case %d does not run", c);
      } else {
        MicroPrintf("case %d: the largest error is %d thousandths of the tolerance", c,
                    ratio < 1e6f ? static_cast<int>(ratio * 1000.0f) : 1000000000);
      }
    }
  }
  MicroPrintf("%d of %d runs agree with Keras; the arena used %d bytes", passed, 2 * kCaseCount,
              static_cast<int>(interpreter.arena_used_bytes()));
  return passed == 2 * kCaseCount ? 0 : 1;
}
"""

_README = Template("""\
# $file on a microcontroller

| file | content |
|---|---|
| `model_data.h`, `model_data.cc` | the model as a C array, aligned to 16 bytes; keep it in flash |
| `op_resolver.h` | registers the $count operators that the model needs, and no others |
| `golden_cases.h` | the size of the arena, the tolerance, and $cases recorded cases |
| `main.cc` | runs every case twice and compares with Keras |

They need TensorFlow Lite for Microcontrollers (`tensorflow/lite/micro`), no other library
and no file system. Compile the two `.cc` files with its headers and link its library. Here
`tflite-micro` is the tree that its script `create_tflm_tree.py` writes; in a checkout,
`make` puts the folders of `third_party` into `tensorflow/lite/micro/tools/make/downloads`:

    c++ -std=c++17 -DTF_LITE_STATIC_MEMORY -I tflite-micro \\
        -I tflite-micro/third_party/flatbuffers/include \\
        -I tflite-micro/third_party/gemmlowp \\
        main.cc model_data.cc libtensorflow-microlite.a -o golden_test

Your own program needs `TF_LITE_STATIC_MEMORY` too: TFLM is built with it, and without it
tensors have another layout. In an Arduino, Zephyr or ESP-IDF project, add the files to the
sources beside the TFLM package of that platform. The program prints the number of runs that
agree, and returns 0 if all do.

- Tensor arena: $measured.
- Shapes are fixed. $padding
- Inputs, in this order:
$inputs
- Outputs, in this order:
$outputs
$reset
""")


def micro_files(artifacts: Sequence[VerifiedArtifact], golden: Sequence[Probe]) -> dict[str, bytes]:
    """Return the files of ``micro/`` by path; of several artifacts the one in integers.

    Args:
        artifacts: The artifacts for TFLite Micro, at least one.
        golden: The recorded cases.
    """
    chosen = next((one for one in artifacts if one.artifact.quantized_inputs), artifacts[-1])
    content, artifact = chosen.built.content, chosen.artifact
    operators = sorted({use.operator for use in chosen.built.operator_uses})
    arena_bytes = next((one.arena_bytes for one in artifact.runtimes if one.arena_bytes), None)
    if arena_bytes is None:
        arena = _ARENA_FACTOR * len(content) + _ARENA_REST
        measured = f"not measured; {arena} bytes are an estimate, main.cc prints what is used"
    else:
        arena = _rounded(arena_bytes)
        measured = f"{arena_bytes} bytes on a 64-bit machine, less with 32-bit pointers"
    inputs, outputs = (
        [_described(name, shape, how) for name, (shape, how) in zip(names, tensors, strict=True)]
        for names, tensors in (
            (
                artifact.inputs,
                _tensors(golden[0].inputs, artifact.inputs, artifact.quantized_inputs),
            ),
            (
                artifact.outputs,
                _tensors(golden[0].outputs, artifact.outputs, artifact.quantized_outputs),
            ),
        )
    )
    cases = _chosen_cases(golden, len(content))
    values = {
        "file": artifact.file,
        "sha256": artifact.sha256,
        "bytes": len(content),
        "data": _byte_lines(content),
        "count": len(operators),
        "cases": len(cases),
        "arena": arena,
        "measured": measured,
        "inputs": "\n".join(f"  - {line}" for line in inputs),
        "outputs": "\n".join(f"  - {line}" for line in outputs),
        "registrations": "\n".join(
            f"  TF_LITE_ENSURE_STATUS(resolver.Add{resolver_method(name)}());" for name in operators
        ),
        "padding": "Pad shorter sequences as in training; see the manifest of the bundle.",
        "reset": "- Call `Reset()` of the interpreter before every run: the fused LSTM keeps its\n"
        "  state."
        if artifact.reset_between_runs
        else "",
    }
    files = {
        "model_data.h": _MODEL_H.substitute(values),
        "model_data.cc": _MODEL_CC.substitute(values),
        "op_resolver.h": _RESOLVER_H.substitute(values),
        "golden_cases.h": _golden_header(chosen, cases, values),
        "main.cc": _MAIN_CC,
        "README.md": _README.substitute(values),
    }
    return {f"{FOLDER}/{name}": text.encode() for name, text in files.items()}


def resolver_method(operator: str) -> str:
    """The method of ``MicroMutableOpResolver`` that registers an operator, without ``Add``.

    >>> resolver_method("FULLY_CONNECTED"), resolver_method("SPLIT_V"), resolver_method("CUMSUM")
    ('FullyConnected', 'SplitV', 'CumSum')
    """
    known = _METHODS.get(operator)
    return known or "".join(part.capitalize() for part in operator.split("_"))


def _rounded(size: int) -> int:
    """A multiple of 1 KiB with some room: allocations are aligned."""
    return -(-(size + 512) // 1024) * 1024


def _tensors(
    arrays: Sequence[AnyArray], names: Sequence[str], quantized: Mapping[str, Quantization]
) -> list[tuple[str, Quantization | None]]:
    return [
        (f"{list(array.shape)} {array.dtype}", quantized.get(name))
        for array, name in zip(arrays, names, strict=True)
    ]


def _described(name: str, shape: str, how: Quantization | None) -> str:
    if how is None:
        return f"`{name}` {shape}"
    return (
        f"`{name}` {shape} as {how.dtype}: real value = (stored - {how.zero_point}) * {how.scale!r}"
    )


def _chosen_cases(golden: Sequence[Probe], model_bytes: int) -> list[Probe]:
    """The first cases, as many as take no more flash than the model or `_CASE_BYTES`."""
    chosen: list[Probe] = []
    used = 0
    for probe in golden:
        used += sum(array.nbytes for array in (*probe.inputs, *probe.outputs))
        if chosen and used > max(_CASE_BYTES, model_bytes):
            break
        chosen.append(probe)
    return chosen


def _golden_header(
    chosen: VerifiedArtifact, cases: Sequence[Probe], values: dict[str, object]
) -> str:
    artifact = chosen.artifact
    tolerance = artifact.tolerance or TOLERANCE
    arrays, table = [], []
    for number, probe in enumerate(cases):
        inputs = [
            quantize(np.asarray(array), artifact.quantized_inputs.get(name))
            for array, name in zip(probe.inputs, artifact.inputs, strict=True)
        ]
        outputs = [np.asarray(array, np.float32) for array in probe.outputs]
        names: dict[str, list[str]] = {"input": [], "output": []}
        for side, tensors in (("input", inputs), ("output", outputs)):
            for index, array in enumerate(tensors):
                name = f"case{number}_{side}{index}"
                names[side].append(name)
                kind = _C_TYPES[array.dtype.name]
                arrays.append(f"static const {kind} {name}[] = {{\n{_value_lines(array)}\n}};")
        members = (
            ", ".join(names["input"]),
            ", ".join(f"sizeof({name})" for name in names["input"]),
            ", ".join(names["output"]),
            ", ".join(str(array.size) for array in outputs),
        )
        table.append("    {" + ", ".join(f"{{{member}}}" for member in members) + "},")
    return _GOLDEN_H.substitute(
        values,
        absolute=_literal(tolerance.absolute),
        relative=_literal(tolerance.relative),
        inputs=len(artifact.inputs),
        outputs=len(artifact.outputs),
        arrays="\n".join(arrays),
        table="\n".join(table),
    )


def _byte_lines(content: bytes) -> str:
    lines = (content[start : start + 16] for start in range(0, len(content), 16))
    return "\n".join("    " + " ".join(f"0x{byte:02x}," for byte in line) for line in lines)


def _value_lines(array: AnyArray) -> str:
    literals = list(_literals(array))
    lines = (literals[start : start + 8] for start in range(0, len(literals), 8))
    return "\n".join("    " + " ".join(f"{literal}," for literal in line) for line in lines)


def _literals(array: AnyArray) -> Iterator[str]:
    for value in array.ravel().tolist():
        yield _literal(value) if isinstance(value, float) else json.dumps(value)


def _literal(value: float) -> str:
    """A float literal of C++ with the same float32 value."""
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    text = f"{np.float32(value):.9g}"
    return f"{text}f" if re.search("[.e]", text) else f"{text}.0f"
