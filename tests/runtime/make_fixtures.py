"""Make the bundles in fixtures/, which the tests of the runtime run.

They are plain graphs of a few KB, not trained models: what matters is that padding is neutral in
some and not in others, and that every kind of axis, dtype and output structure is there. Needs
tensorflow, tf2onnx and onnx; the tests need none of them.

    PYTHONPATH=runtime python tests/runtime/make_fixtures.py
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from onnx import helper

from bilstm_runtime.bundle.codec import manifest_to_json
from bilstm_runtime.bundle.manifest import Artifact, Golden, Manifest, Source
from bilstm_runtime.comparison import Tolerance
from bilstm_runtime.spec import Axis, InputSpec, OutputSpec

FIXTURES = Path(__file__).parent / "fixtures"
BATCH, TIME = Axis("batch", None), Axis("time", None)
RNG = np.random.default_rng(20261122)
VOCABULARY = 20


def weights(*shape: int) -> np.ndarray:
    """Random weights; as numpy arrays they become constants of every graph."""
    return RNG.normal(size=shape).astype(np.float32) * np.float32(0.7)


EMBEDDING, TAGS, EXTRA, SCORES, CLASSES = (
    weights(VOCABULARY, 4), weights(8, 3), weights(5, 4), weights(8, 2), weights(4, 3),
)  # fmt: skip


def masked_context(tokens: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Embed ids and average over the steps that are not padding."""
    embedded = tf.gather(EMBEDDING, tokens)
    mask = tf.cast(tf.expand_dims(tf.not_equal(tokens, 0), 2), tf.float32)
    total = tf.reduce_sum(embedded * mask, axis=1, keepdims=True)
    mean = total / tf.maximum(tf.reduce_sum(mask, axis=1, keepdims=True), 1.0)
    return embedded, mask, mean


def tag(tokens: tf.Tensor) -> dict[str, tf.Tensor]:
    """A masked tagger: padding is neutral."""
    embedded, mask, mean = masked_context(tokens)
    both = tf.concat([embedded * mask, mean * tf.ones_like(embedded)], axis=2)
    flat = tf.matmul(tf.reshape(both, [-1, 8]), TAGS)
    shape = tf.concat([tf.shape(tokens), [3]], axis=0)
    return {"tags": tf.nn.softmax(tf.reshape(flat, shape))}


def classify(series: tf.Tensor) -> dict[str, tf.Tensor]:
    """A classifier without a mask: every padding step changes the output."""
    return {"classes": tf.nn.softmax(tf.matmul(tf.reduce_mean(series, axis=1), CLASSES))}


def pair(tokens: tf.Tensor, extra: tf.Tensor) -> dict[str, tf.Tensor]:
    """Two inputs, two outputs, one of them with a time axis."""
    _, _, mean = masked_context(tokens)
    both = tf.concat([tf.reshape(mean, [-1, 4]), tf.matmul(extra, EXTRA)], axis=1)
    return {"tags": tag(tokens)["tags"], "scores": tf.matmul(both, SCORES)}


def pool(series: tf.Tensor) -> dict[str, tf.Tensor]:
    """Every second step averaged with the next: the model derives the time axis."""
    return {"pooled": tf.nn.avg_pool1d(series, 2, 2, "VALID")}


@dataclass(frozen=True)
class Fixture:
    """What one bundle is made of."""

    function: object
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    structure: str
    neutral: bool


TOKENS = InputSpec("tokens", "int32", (BATCH, TIME), (0, VOCABULARY - 1), 0)
SERIES = InputSpec("series", "float32", (BATCH, TIME, Axis(None, 4)))
FEATURES = InputSpec("extra", "float32", (BATCH, Axis(None, 5)))
TAGGED = OutputSpec("tags", "float32", (BATCH, TIME, Axis(None, 3)))
FIXED = (Axis("batch", 2), Axis("time", 6))

MODELS = {
    "tagger": Fixture(tag, (TOKENS,), (TAGGED,), "single", neutral=True),
    "classifier": Fixture(
        classify,
        (SERIES,),
        (OutputSpec("classes", "float32", (BATCH, Axis(None, 3))),),
        "single",
        neutral=False,
    ),
    "pair": Fixture(
        pair,
        (TOKENS, FEATURES),
        (TAGGED, OutputSpec("scores", "float32", (BATCH, Axis(None, 2)))),
        "dict",
        neutral=True,
    ),
    "pooled": Fixture(
        pool,
        (InputSpec("series", "float32", (BATCH, Axis("time", None, 2), Axis(None, 4))),),
        (OutputSpec("pooled", "float32", (BATCH, Axis(None, None), Axis(None, 4))),),
        "list",
        neutral=True,
    ),
    "fixed": Fixture(
        tag,
        (InputSpec("tokens", "int32", FIXED, (0, VOCABULARY - 1), 0),),
        (OutputSpec("tags", "float32", (*FIXED, Axis(None, 3))),),
        "single",
        neutral=True,
    ),
}


def signature(fixture: Fixture) -> list[tf.TensorSpec]:
    return [
        tf.TensorSpec([axis.size for axis in spec.axes], spec.dtype, name=spec.name)
        for spec in fixture.inputs
    ]


def to_tflite(module: tf.Module, function: tf.types.experimental.PolymorphicFunction) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"serving_default": function})
        return tf.lite.TFLiteConverter.from_saved_model(folder).convert()


def to_onnx(fixture: Fixture) -> tuple[bytes, list[str]]:
    def positional(*arrays: tf.Tensor) -> list[tf.Tensor]:
        results = fixture.function(*arrays)
        return [tf.identity(results[spec.name], name=spec.name) for spec in fixture.outputs]

    model, _ = tf2onnx.convert.from_function(  # noqa: TID251 (plain graphs, no recurrence)
        tf.function(positional), input_signature=signature(fixture), opset=17
    )
    names = [output.name for output in model.graph.output]
    return model.SerializeToString(), names


def cases(fixture: Fixture) -> list[list[np.ndarray]]:
    """Inputs of several sizes; the last two have the same shape, to detect a kept state."""
    found = []
    for batch, time in ((1, 5), (3, 7), (2, 2), (2, 2)):
        sizes = {"batch": batch, "time": time}
        arrays = []
        for spec in fixture.inputs:
            shape = [axis.size or sizes[axis.name] for axis in spec.axes]
            if spec.dtype == "int32":
                ids = RNG.integers(1, VOCABULARY, shape).astype(np.int32)
                ids[-1, shape[1] - shape[1] // 3 :] = 0
                arrays.append(ids)
            else:
                arrays.append(RNG.normal(size=shape).astype(np.float32))
        found.append(arrays)
    return found


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_bundle(
    name: str,
    fixture: Fixture,
    files: dict[str, tuple[bytes, list[str], list[str]]],
    recorded: list[tuple[list[np.ndarray], list[np.ndarray]]],
) -> None:
    folder = FIXTURES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        **{
            f"case{i}_{side}{j}": array
            for i, case in enumerate(recorded)
            for side, arrays in zip(("input", "output"), case, strict=True)
            for j, array in enumerate(arrays)
        },
    )
    artifacts = []
    for file, (content, inputs, outputs) in files.items():
        (folder / file).write_bytes(content)
        kind = file.rpartition(".")[2]
        artifacts.append(
            Artifact(
                file, kind, "float32", len(content), sha256(content), tuple(inputs), tuple(outputs)
            )
        )
    golden = buffer.getvalue()
    (folder / "golden.npz").write_bytes(golden)
    manifest = Manifest(
        name=name,
        source=Source("make_fixtures.py", sha256(b""), "none"),
        inputs=fixture.inputs,
        outputs=fixture.outputs,
        output_structure=fixture.structure,
        padding_neutral=fixture.neutral,
        rows_independent=True,
        recommended_recipe="float32",
        artifacts=tuple(artifacts),
        golden=Golden("golden.npz", len(golden), sha256(golden), len(recorded)),
        tolerance=Tolerance(1e-5, 1e-4),
        versions={"tensorflow": tf.__version__, "tf2onnx": tf2onnx.__version__},
    )
    (folder / "manifest.json").write_text(manifest_to_json(manifest))


def make(name: str, fixture: Fixture) -> None:
    module = tf.Module()
    function = tf.function(fixture.function, input_signature=signature(fixture))
    module.f = function
    names = [spec.name for spec in fixture.inputs]
    output_names = [spec.name for spec in fixture.outputs]
    content, outputs = to_onnx(fixture)
    recorded = []
    for arrays in cases(fixture):
        found = fixture.function(*map(tf.constant, arrays))
        recorded.append((arrays, [found[name].numpy() for name in output_names]))
    write_bundle(
        name,
        fixture,
        {
            "model.onnx": (content, names, outputs),
            "model.tflite": (to_tflite(module, function), names, output_names),
        },
        recorded,
    )


def make_leaky() -> None:
    """A TFLite file that counts its runs and adds the count to its output."""

    class Leaky(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = tf.Variable(0.0)

        @tf.function(input_signature=[tf.TensorSpec([None, None, 4], tf.float32, name="series")])
        def f(self, series: tf.Tensor) -> dict[str, tf.Tensor]:
            kept = self.count.read_value()
            self.count.assign(kept + 1.0)
            return {"classes": classify(series)["classes"] + kept * 0.1}

    module = Leaky()
    fixture = MODELS["classifier"]
    arrays = RNG.normal(size=(1, 3, 4)).astype(np.float32)
    recorded = [([arrays], [classify(tf.constant(arrays))["classes"].numpy()])]
    content = to_tflite(module, module.f)
    write_bundle("leaky", fixture, {"model.tflite": (content, ["series"], ["classes"])}, recorded)


def make_external() -> None:
    """An ONNX file that keeps a weight in another file, which is there to be followed."""
    folder = FIXTURES / "external"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    weight = onnx.numpy_helper.from_array(np.ones(4, np.float32), "w")
    onnx.external_data_helper.set_external_data(weight, "weights.bin", 0, 16)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "external",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 4])],
        [weight],
    )
    weight = graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "weights.bin").write_bytes(np.ones(4, np.float32).tobytes())


def main() -> None:
    for name, fixture in MODELS.items():
        make(name, fixture)
    make_leaky()
    make_external()


if __name__ == "__main__":
    main()
