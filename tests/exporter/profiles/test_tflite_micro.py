"""TFLite Micro: its table of kernels, and exports that run in its interpreter."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import flatbuffers
import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers as kl

from bilstm_exporter import export
from bilstm_exporter.errors import OptionError, TargetError
from bilstm_exporter.profiles import PROFILES
from bilstm_exporter.targets.operators import OperatorUse
from bilstm_exporter.targets.tflite import flatbuffer
from bilstm_exporter.targets.tflite.micro_forms import write_forms
from bilstm_exporter.targets.tflite.operators import list_operators
from bilstm_runtime.bundle.folder import open_bundle
from exporter.models import bilstm, floats, tokens
from zoo.case import randomize

from .one_operator import (
    OPERATORS,
    RANKED,
    TYPES,
    depends_on_dtype,
    dtypes_of,
    one_operator,
    with_rank,
)

MICRO = PROFILES["tflite-micro"]
STEPS = 7
IS_INSTALLED = importlib.util.find_spec("tflite_micro") is not None
slow = pytest.mark.slow


def runs_in_micro(content: bytes, arrays: list[np.ndarray]) -> bool:
    """Run a model in a process of its own: some kernels abort."""
    from tflite_micro import runtime

    child = os.fork()
    if child == 0:
        code = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            interpreter = runtime.Interpreter.from_bytes(content, arena_size=100_000)
            for index, array in enumerate(arrays):
                interpreter.set_input(array, index)
            interpreter.invoke()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


@slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("name", OPERATORS)
def test_the_table_says_what_the_interpreter_does(name):
    pytest.importorskip("tflite_micro")
    for dtype in TYPES if depends_on_dtype(name) else ["float32"]:
        inputs, outputs = dtypes_of(name, dtype)
        said = not MICRO.refusals([OperatorUse(name, inputs, outputs)])
        assert said == runs_in_micro(*one_operator(name, dtype)), dtype


@slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("name", RANKED)
def test_the_table_says_how_many_axes_the_interpreter_takes(name):
    pytest.importorskip("tflite_micro")
    for rank in range(3, 8):
        content, arrays = one_operator(name, "float32", with_rank(name, rank))
        (use,) = list_operators(content)
        assert use.rank == rank
        assert runs_in_micro(content, arrays) == (not MICRO.refusals([use])), rank


def test_an_operator_on_too_many_axes_is_refused():
    use = OperatorUse("STRIDED_SLICE", ("int8", "int32"), ("int8",), rank=5)
    (refusal,) = MICRO.refusals([use])
    assert refusal.text == "STRIDED_SLICE (int8, int32): 5 axes, and at most 4 are taken"
    assert not MICRO.refusals([replace(use, rank=4)])


X = np.array([[-30, -1, -0.3], [0, 0.1, 6]], np.float32)
ONE_HOT = replace(
    OPERATORS["ONE_HOT"],
    inputs=[("int32", (2,)), *OPERATORS["ONE_HOT"].inputs[1:]],
)


@pytest.mark.parametrize(
    ("name", "operator", "arrays"),
    [
        ("GELU", OPERATORS["GELU"], [X]),
        ("GELU", replace(OPERATORS["GELU"], attributes={"approximate": True}), [X]),
        ("RELU_N1_TO_1", OPERATORS["RELU_N1_TO_1"], [X]),
        ("ONE_HOT", ONE_HOT, [np.array([2, 7], np.int32), np.float32(3), np.float32(-1)]),
    ],
)
def test_an_operator_that_the_interpreter_lacks_is_written_with_others(name, operator, arrays):
    content, _ = one_operator(name, "float32", operator)
    assert MICRO.refusals(list_operators(content))
    model = flatbuffer.read(content)
    write_forms(model, MICRO.forms)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    written = bytes(builder.Output())
    assert not MICRO.refusals(list_operators(written))
    outputs = []
    for file in (content, written):
        interpreter = Interpreter(model_content=file)
        interpreter.allocate_tensors()
        for item, array in zip(interpreter.get_input_details(), arrays, strict=True):
            interpreter.set_tensor(item["index"], array)
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-6, atol=1e-6)


def examples(model: keras.Model, count: int = 24) -> dict[str, np.ndarray]:
    """Rows of different lengths, padded as the model's mask wants it."""
    rng = np.random.default_rng(0)
    found = {}
    for tensor in model.inputs:
        shape = [count, *(STEPS if size is None else size for size in tensor.shape[1:])]
        is_ids = tensor.dtype == "int32"
        array = rng.integers(1, 9, shape) if is_ids else rng.uniform(-2, 2, shape)
        for row in range(0, count, 3):
            array[row, 2 + row % 4 :] = 0
        found[tensor.name] = array.astype(tensor.dtype)
    return found


def masked_stack():
    return tokens(bilstm(), bilstm(last=True), kl.Dense(3, activation="softmax"))


def masked_gru():
    return floats(
        kl.Masking(),
        kl.Bidirectional(kl.GRU(4, return_sequences=True)),
        kl.Bidirectional(kl.GRU(3)),
        kl.Dense(2),
    )


def autoencoder():
    return tokens(bilstm(last=True), kl.RepeatVector(3), kl.LSTM(3, return_sequences=True))


def built(build, scale=0.7):
    keras.utils.clear_session()
    model = build()
    randomize(model, 5, scale)
    return model


@slow
@pytest.mark.parametrize("build", [masked_stack, masked_gru, autoencoder])
def test_masked_models_run_in_the_interpreter(build, tmp_path):
    pytest.importorskip("tflite_micro")
    model = built(build)
    report = export(
        model, tmp_path / "bundle", target="tflite-micro", time=STEPS, data=examples(model)
    )
    assert [one.recipe for one in report.artifacts] == ["float32", "int8-full"]
    for artifact in open_bundle(tmp_path / "bundle").manifest.artifacts:
        (proof,) = artifact.runtimes
        assert (proof.name, proof.how) == ("tflite-micro", "run")
        assert 1_000 < proof.arena_bytes < 100_000


@slow
def test_the_ids_of_a_text_layer_stay_int32(tmp_path):
    """Keras's text layers return int64, which few kernels take."""
    example = Path(__file__).parents[3] / "examples" / "language.keras"
    report = export(example, tmp_path / "bundle", target="tflite-micro")
    (proof,) = report.artifacts[0].runtimes
    assert proof.how == ("run" if IS_INSTALLED else "operator table")


@slow
def test_without_the_package_the_table_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(type(MICRO.verifier), "is_installed", False)
    report = export(built(masked_stack), tmp_path / "bundle", target="tflite-micro", time=STEPS)
    (artifact,) = report.artifacts
    assert artifact.runtimes[0].how == "operator table"
    assert artifact.runtimes[0].arena_bytes is None


@keras.saving.register_keras_serializable("tests")
class Largest(kl.Layer):
    """The two largest values, which needs an operator that TFLite Micro lacks."""

    def call(self, x):
        return keras.ops.top_k(x, 2)[0]


@slow
def test_a_missing_operator_is_named_with_its_layer(tmp_path):
    model = floats(bilstm(last=True), Largest(name="largest"), kl.Dense(2))
    with pytest.raises(TargetError) as failed:
        export(model, tmp_path / "bundle", target="tflite-micro", time=STEPS)
    message = str(failed.value)
    assert "TFLite Micro 0.dev" in message
    assert "has no TOPK_V2 (float32, int32)" in message
    assert "sort them in your program) (in layer 'largest', Largest)" in message
    assert "--target litert runs this file" in message


@pytest.mark.slow
def test_time_must_be_fixed(tmp_path):
    with pytest.raises(OptionError, match="needs fixed shapes, and time is free: add --time N"):
        export(built(masked_stack), tmp_path / "bundle", target="tflite-micro")
