"""Model files used by position alone, as in C, Kotlin and TFLite Micro: no names, no runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime as ort
import pytest
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

from bilstm_exporter import export
from bilstm_exporter.targets.tflite import flatbuffer
from bilstm_exporter.targets.tflite.converter import convert_function

# tf_keras warns of every .h5 file that it writes.
pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")

RTOL, ATOL = 1e-4, 1e-5
KERAS = {"keras3": keras, "keras2": tf_keras}


def several_outputs(k: Any) -> Any:
    """Inputs created in another order than used; one tensor twice; both inputs passed through."""
    late, early = k.Input((4, 3), name="zeta"), k.Input((None, 3), name="alpha")
    steps = k.layers.Bidirectional(k.layers.LSTM(3, return_sequences=True))(early)
    last = k.layers.GRU(2, name="last")(late)
    tags = k.layers.Dense(2, name="tags")(steps)
    pooled = k.layers.GlobalAveragePooling1D()(steps)
    score = k.layers.Dense(1, name="score")(k.layers.Concatenate()([pooled, last]))
    return k.Model([late, early], [score, tags, last, score, late, early])


def dict_outputs(k: Any) -> Any:
    frames = k.Input((None, 3), name="frames")
    last = k.layers.LSTM(3)(frames)
    outputs = {"z": k.layers.Dense(2)(last), "a": k.layers.Dense(1)(last), "m": frames}
    return k.Model(frames, outputs)


def stateful(k: Any) -> Any:
    """An output that is also a state."""
    x = k.Input((None, 3), batch_size=1, name="x")
    bias = k.Input((2,), batch_size=1, name="bias")
    steps = k.layers.LSTM(4, stateful=True, return_sequences=True)(x)
    last = k.layers.GRU(3, stateful=True)(steps)
    outputs = [k.layers.Dense(2)(steps), k.layers.Add()([k.layers.Dense(2)(last), bias]), last]
    return k.Model([x, bias], outputs)


def run_onnx(path: Path, arrays: list[np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    assert len(inputs) == len(arrays)
    return session.run(None, {i.name: a for i, a in zip(inputs, arrays, strict=True)})


def run_tflite(content: bytes, arrays: list[np.ndarray]) -> list[np.ndarray]:
    interpreter = Interpreter(model_content=content)
    inputs = interpreter.get_input_details()
    assert len(inputs) == len(arrays)
    for item, array in zip(inputs, arrays, strict=True):
        interpreter.resize_tensor_input(item["index"], array.shape)
    interpreter.allocate_tensors()
    for item, array in zip(inputs, arrays, strict=True):
        scale, zero = item["quantization"]
        if item["dtype"] == np.int8 and array.dtype != np.int8:
            integers = np.clip(np.rint(array / scale) + zero, -128, 127).astype(np.int8)
            interpreter.set_tensor(item["index"], integers)
        else:
            interpreter.set_tensor(item["index"], array)
    interpreter.invoke()
    found = []
    for item in interpreter.get_output_details():
        output, (scale, zero) = interpreter.get_tensor(item["index"]), item["quantization"]
        found.append((output.astype("float32") - zero) * scale if scale else output)
    return found


def flat_arrays(model: Any, time: int, batch: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    return [
        rng.standard_normal((s[0] or batch, *(size or time for size in s[1:]))).astype("float32")
        for s in shapes
    ]


def called(model: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    outputs = model(arrays if len(arrays) > 1 else arrays[0], training=False)
    return [np.asarray(output) for output in tf.nest.flatten(outputs)]


def assert_listed(folder: Path) -> None:
    """Every file lists the names of the manifest, in its order, and one tensor for each."""
    for entry in json.loads((folder / "manifest.json").read_text())["artifacts"]:
        path = folder / entry["file"]
        if entry["format"] == "onnx":
            session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
            assert [item.name for item in session.get_inputs()] == entry["inputs"]
            assert [item.name for item in session.get_outputs()] == entry["outputs"]
            continue
        model = flatbuffer_utils.read_model(str(path))
        graph, signature = model.subgraphs[0], model.signatureDefs[0]
        for numbers, maps, names in (
            (graph.inputs, signature.inputs, entry["inputs"]),
            (graph.outputs, signature.outputs, entry["outputs"]),
        ):
            assert [graph.tensors[number].name.decode() for number in numbers] == names
            assert [item.name.decode() for item in maps] == names
            assert [item.tensorIndex for item in maps] == list(numbers)
        assert len({*graph.inputs, *graph.outputs}) == len(graph.inputs) + len(graph.outputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "generation"),
    [(several_outputs, "keras3"), (several_outputs, "keras2"), (dict_outputs, "keras3")],
)
def test_positions_are_those_of_the_model(build, generation, tmp_path):
    library = KERAS[generation]
    library.utils.set_random_seed(1)
    model = build(library)
    path = tmp_path / ("model.keras" if generation == "keras3" else "model.h5")
    model.save(path)
    folder = tmp_path / "bundle"
    export(path, folder, recipes="float32,float16,int8")
    assert_listed(folder)
    for seed, (batch, time) in enumerate([(1, 3), (3, 7)]):
        arrays = flat_arrays(model, time, batch, seed)
        expected = called(model, arrays)
        for file, run in (("model.onnx", run_onnx), ("model.tflite", run_tflite)):
            source = folder / file
            found = run(source if run is run_onnx else source.read_bytes(), arrays)
            for output, reference in zip(found, expected, strict=True):
                np.testing.assert_allclose(output, reference, rtol=RTOL, atol=ATOL)


@pytest.mark.slow
@pytest.mark.parametrize("generation", KERAS)
def test_states_follow_inputs_and_outputs(generation, tmp_path):
    library = KERAS[generation]
    library.utils.set_random_seed(2)
    model = stateful(library)
    path = tmp_path / ("model.keras" if generation == "keras3" else "model.h5")
    model.save(path)
    folder = tmp_path / "bundle"
    export(path, folder)
    assert_listed(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    states = [tuple(axis["size"] for axis in item["axes"]) for item in manifest["states"]]
    arrays = [flat_arrays(model, 5, 1, seed) for seed in (3, 4)]
    expected = [called(model, call) for call in arrays]
    for run, source in (
        (run_onnx, folder / "model.onnx"),
        (run_tflite, (folder / "model.tflite").read_bytes()),
    ):
        kept = [np.zeros(shape, "float32") for shape in states]
        for call, references in zip(arrays, expected, strict=True):
            found = run(source, [*call, *kept])
            assert len(found) == len(references) + len(kept)
            kept = found[len(references) :]
            for output, reference in zip(found, references, strict=False):
                np.testing.assert_allclose(output, reference, rtol=RTOL, atol=ATOL)


@pytest.mark.slow
def test_positions_of_int8_throughout(tmp_path):
    keras.utils.set_random_seed(5)
    model = several_outputs(keras)
    data = dict(zip(["zeta", "alpha"], flat_arrays(model, 4, 32, 0), strict=True))
    folder = tmp_path / "bundle"
    options = {"formats": "tflite", "batch": 1, "time": 4}
    export(model, folder, recipes="float32,int8-full", data=data, **options)
    assert_listed(folder)
    arrays = [array[:1] for array in data.values()]
    entries = json.loads((folder / "manifest.json").read_text())["artifacts"]
    (file,) = (entry["file"] for entry in entries if entry["recipe"] == "int8-full")
    found = run_tflite((folder / file).read_bytes(), arrays)
    for output, reference in zip(found, called(model, arrays), strict=True):
        assert output.shape == reference.shape
        # Calibrated int8: far less than the distance between two outputs, which differ in shape
        # or in values.
        assert np.abs(output - reference).max() < 0.1


@pytest.mark.parametrize("shape", [(), (3,), (None, 3), (None, None, 2)])
@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
@pytest.mark.slow
def test_an_output_never_shares_a_tensor(shape, dtype):
    def call(b: Any, a: Any) -> dict[str, Any]:
        other = tf.logical_not(a) if dtype == "bool" else a + a
        outputs = [other, a, other, b, a, tf.zeros([2], dtype)]
        return {f"output_{i:04}": tf.identity(tensor) for i, tensor in enumerate(outputs)}

    specs = [tf.TensorSpec(shape, dtype, name=f"input_{i}") for i in range(2)]
    function = tf.function(call, autograph=False).get_concrete_function(*specs)
    model = flatbuffer.read_converted(convert_function(function))
    content = flatbuffer.finish(model, ["b", "a"], ["o", "p", "q", "r", "s", "zeros"])

    rng = np.random.default_rng(0)
    b, a = (rng.integers(0, 2, [n or 4 for n in shape]).astype(dtype) for _ in range(2))
    other = ~a if dtype == "bool" else a + a
    interpreter = Interpreter(model_content=content)
    assert [item["name"] for item in interpreter.get_input_details()] == ["b", "a"]
    outputs = interpreter.get_output_details()
    assert [item["name"] for item in outputs] == ["o", "p", "q", "r", "s", "zeros"]
    assert len({item["index"] for item in outputs}) == len(outputs)
    expected = [other, a, other, b, a, np.zeros(2, dtype)]
    for output, reference in zip(run_tflite(content, [b, a]), expected, strict=True):
        np.testing.assert_array_equal(output, reference)
