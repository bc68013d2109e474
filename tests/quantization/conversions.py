"""Models converted to float32 in one format, to be written in any recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from bilstm_exporter.frontends.loading import read
from bilstm_exporter.inspection.interface import find_interface
from bilstm_exporter.keras_model import TOLERANCE
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.quantization.recipes import Precision, PrecisionPlan
from bilstm_exporter.targets.base import Built, Target, TargetOptions
from bilstm_exporter.targets.onnx.target import OnnxTarget
from bilstm_exporter.targets.tflite.target import TfliteTarget
from bilstm_runtime.comparison import compare
from bilstm_runtime.spec import ModelSpec

TARGETS = {"onnx": OnnxTarget, "tflite": TfliteTarget}


@dataclass(frozen=True)
class Converted:
    """A model, and the target that builds it in one format."""

    model: keras.Model
    loaded: LoadedModel
    target: Target

    @property
    def content(self) -> bytes:
        """The float32 file."""
        return self.write(Precision.FLOAT32).content

    @property
    def converter_output(self) -> bytes:
        """TFLite's float32 file before its inputs and outputs get their names."""
        return self.target.converted(self.loaded).content

    def write(self, precision: Precision, **layers: Precision) -> Built:
        return self.target.build(self.loaded, PrecisionPlan(precision, layers))


def load(model: keras.Model, *, batch: int | None = None, time: int | None = None) -> LoadedModel:
    """Describe a model without states; no probes are made."""
    source, origin = read(model)
    found = find_interface(source, batch=batch, time=time)
    spec = ModelSpec(source.name, found.inputs, found.outputs)
    return LoadedModel(source, origin, spec, found.typical_sizes, found.graph)


def converted(model: keras.Model, format_name: str) -> Converted:
    return Converted(model, load(model), TARGETS[format_name](TargetOptions(opset=18)))


def worst(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest error as a multiple of the tolerance."""
    return max(
        compare(a, b, TOLERANCE).max_error_ratio for a, b in zip(found, expected, strict=True)
    )


def run_onnx(content: bytes, *inputs: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


def constants(content: bytes) -> dict[str, np.ndarray]:
    graph = onnx.load_model_from_string(content).graph
    return {item.name: numpy_helper.to_array(item) for item in graph.initializer}


def operators(content: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(content).graph.node]


def bilstm_tagger(units: int = 24, features: int = 12, **options: Any) -> keras.Model:
    keras.utils.clear_session()  # names are counted up
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((None, features), name="x"),
            keras.layers.Masking(),
            keras.layers.Bidirectional(
                keras.layers.LSTM(units, return_sequences=True, **options), name="tagger"
            ),
            keras.layers.Dense(16, name="out"),
        ]
    )
    _give_biases(model)
    return model


def id_classifier(
    cell: type[keras.layers.Layer] = keras.layers.LSTM, width: int = 33, units: int = 24
) -> Any:
    keras.utils.clear_session()  # names are counted up
    keras.utils.set_random_seed(4)
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="ids"),
            keras.layers.Embedding(90, width, mask_zero=True, name="table"),
            keras.layers.Bidirectional(cell(units), name="recurrence"),
            keras.layers.Dense(16, name="out"),
        ]
    )
    _give_biases(model)
    return model


def _give_biases(model: keras.Model) -> None:
    """Biases that training would have moved away from zeros."""
    rng = np.random.default_rng(5)
    for variable in model.trainable_variables:
        if "bias" in variable.path:
            variable.assign(rng.normal(0, 0.3, variable.shape))
