"""The folder ``micro/``: its files, and that --overwrite replaces them and nothing else."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as kl

from bilstm_exporter import export
from bilstm_exporter.bundle.folder import staged
from bilstm_exporter.bundle.micro import resolver_method
from bilstm_runtime.bundle.folder import open_bundle
from exporter.models import bilstm, floats
from zoo.case import randomize

STEPS = 6


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle for TFLite Micro."""
    keras.utils.clear_session()
    model = floats(kl.Masking(), bilstm(4), kl.Dense(2))
    randomize(model, 5)
    folder = tmp_path_factory.mktemp("micro") / "bundle"
    x = np.random.default_rng(0).uniform(-1, 1, (20, STEPS, 3)).astype("float32")
    export(model, folder, target="tflite-micro", time=STEPS, data={"x": x})
    return folder


def replace(bundle: Path, target: Path) -> None:
    with staged(target, overwrite=True) as aside:
        shutil.copytree(bundle, aside, dirs_exist_ok=True)


@pytest.mark.slow
def test_the_manifest_names_every_file(bundle):
    entries = json.loads((bundle / "manifest.json").read_text())["target_files"]
    assert sorted(entry["file"] for entry in entries) == sorted(
        f"micro/{path.name}" for path in (bundle / "micro").iterdir()
    )
    for entry in entries:
        content = (bundle / entry["file"]).read_bytes()
        assert entry["bytes"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.slow
def test_only_the_files_of_the_bundle_are_replaced(bundle, tmp_path):
    target = tmp_path / "bundle"
    shutil.copytree(bundle, target)
    (target / "micro" / "board.h").write_text("mine")
    (target / "micro" / "build").mkdir()
    replace(bundle, target)
    assert (target / "micro" / "board.h").read_text() == "mine"
    assert (target / "micro" / "build").is_dir()
    open_bundle(target)
    fixtures = Path(__file__).parents[2] / "runtime" / "fixtures"
    replace(fixtures / "tagger", target)  # a bundle without micro/
    assert sorted(path.name for path in (target / "micro").iterdir()) == ["board.h", "build"]


@pytest.mark.slow
def test_the_source_holds_the_model(bundle, tmp_path):
    (artifact,) = [
        one for one in open_bundle(bundle).manifest.artifacts if one.recipe == "int8-full"
    ]
    content = (bundle / artifact.file).read_bytes()
    text = (bundle / "micro" / "model_data.cc").read_text()
    assert bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{2}),", text)) == content
    compiled(bundle / "micro" / "model_data.cc", bundle, tmp_path)


# What main.cc uses of the library, declared as there.
LIBRARY = {
    "micro/micro_mutable_op_resolver.h": """
        #pragma once
        #include "tensorflow/lite/schema/schema_generated.h"
        #define TF_LITE_ENSURE_STATUS(a) do { if ((a) != kTfLiteOk) return kTfLiteError; } while (0)
        namespace tflite {
        struct MicroOpResolver {};
        template <unsigned int count> struct MicroMutableOpResolver : MicroOpResolver {
          %s
        };
        }""",
    "micro/micro_interpreter.h": """
        #pragma once
        #include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
        namespace tflite {
        class MicroInterpreter {
         public:
          MicroInterpreter(const Model*, const MicroOpResolver&, uint8_t*, size_t);
          TfLiteStatus AllocateTensors();
          TfLiteStatus Invoke();
          TfLiteStatus Reset();
          TfLiteTensor* input(size_t);
          TfLiteTensor* output(size_t);
          size_t inputs_size() const;
          size_t outputs_size() const;
          size_t arena_used_bytes() const;
        };
        }""",
    "micro/micro_log.h": "void MicroPrintf(const char* format, ...);",
    "micro/system_setup.h": "namespace tflite { void InitializeTarget(); }",
    "schema/schema_generated.h": """
        #pragma once
        #include <cstddef>
        #include <cstdint>
        #define TFLITE_SCHEMA_VERSION (3)
        enum TfLiteStatus { kTfLiteOk, kTfLiteError };
        enum TfLiteType { kTfLiteFloat32, kTfLiteInt8, kTfLiteInt32, kTfLiteInt64, kTfLiteBool };
        struct TfLiteTensor {
          TfLiteType type;
          union { float* f; int8_t* int8; int32_t* i32; int64_t* i64; bool* b; char* raw; } data;
          struct { float scale; int32_t zero_point; } params;
          size_t bytes;
        };
        namespace tflite {
        struct Model { uint32_t version() const; };
        const Model* GetModel(const void*);
        }""",
}


def compiled(source, bundle, folder):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    # The options that the README of the folder gives; TFLM's tensors depend on the second one.
    options = ["-std=c++17", "-DTF_LITE_STATIC_MEMORY"]
    readme = (bundle / "micro" / "README.md").read_text()
    assert f"c++ {' '.join(options)} " in readme
    command = [compiler, *options, "-Wall", "-Wextra", "-Werror", "-c", str(source)]
    paths = ["-I", str(bundle / "micro"), "-I", str(folder), "-o", str(folder / "out.o")]
    subprocess.run([*command, *paths], check=True)


@pytest.mark.slow
def test_the_program_compiles(bundle, tmp_path):
    methods = re.findall(r"Add\w+", (bundle / "micro" / "op_resolver.h").read_text())
    assert "AddFullyConnected" in methods
    for name, text in LIBRARY.items():
        path = tmp_path / "tensorflow" / "lite" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        declared = " ".join(f"TfLiteStatus {method}();" for method in methods)
        path.write_text(text % declared if "%s" in text else text)
    compiled(bundle / "micro" / "main.cc", bundle, tmp_path)


@pytest.mark.parametrize(
    ("operator", "method"),
    [
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", "UnidirectionalSequenceLSTM"),
        ("BATCH_MATMUL", "BatchMatMul"),
        ("L2_NORMALIZATION", "L2Normalization"),
        ("SPACE_TO_BATCH_ND", "SpaceToBatchNd"),
        ("SELECT_V2", "SelectV2"),
        ("RELU6", "Relu6"),
    ],
)
def test_methods_of_the_resolver(operator, method):
    assert resolver_method(operator) == method
