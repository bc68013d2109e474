"""Models in one format in float32, ready to be written in any recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

import bilstm_exporter.artifacts  # noqa: F401 - registers the formats
from bilstm_exporter.frontends.keras3.model import Keras3Model
from bilstm_exporter.inspection.interface import Interface, find_interface
from bilstm_exporter.quantization.recipes import Owners, Precision, PrecisionPlan
from bilstm_exporter.targets.base import TARGETS, Built, Conversion


@dataclass(frozen=True)
class Converted:
    """A model, and its float32 form in one format."""

    model: keras.Model
    interface: Interface
    conversion: Conversion
    owners: Owners

    def write(self, precision: Precision, **layers: Precision) -> Built:
        return self.conversion.write(PrecisionPlan(precision, layers), self.owners)


def converted(model: keras.Model, format_name: str) -> Converted:
    source = Keras3Model(model)
    interface = find_interface(source)
    conversion = TARGETS[format_name].convert(
        lambda lowering: source.trace(lowering, interface.declared()), interface, opset=18
    )
    return Converted(model, interface, conversion, Owners(source.weights()))


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
