"""A real model in which int8 of one layer ruins everything, through to the recommendation."""

import keras
import numpy as np
import pytest

from bilstm_exporter.artifacts import build_exact
from bilstm_exporter.evaluation.budget import Budget
from bilstm_exporter.evaluation.data import read_data
from bilstm_exporter.evaluation.evaluator import Judge
from bilstm_exporter.evaluation.predictions import ask, keras_answers, session_model
from bilstm_exporter.evaluation.search import Measured, search
from bilstm_exporter.evaluation.units import units_of
from bilstm_exporter.inspection.description import describe
from bilstm_exporter.inspection.prepared import prepare
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.progress import Stages
from bilstm_exporter.quantization.recipes import Precision, PrecisionPlan, parse_recipes
from bilstm_exporter.quantization.weight_owners import Owners
from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.bundle.manifest import Artifact

FEATURES, UNITS, CLASSES = 16, 24, 5


def ruined():
    """One weight a channel is some hundred times the others, and is multiplied with 0.

    The scale of the channel follows that weight, so that int8 leaves little of the others; but
    enough for them not to be stored in float16 from the first.
    """
    keras.utils.set_random_seed(0)
    x = keras.Input((None, FEATURES), name="x")
    layer = keras.layers.Bidirectional(keras.layers.LSTM(UNITS), name="bilstm")
    features = layer(x)
    features = keras.layers.Dense(64, activation="tanh", name="ruined")(features)
    model = keras.Model(x, keras.layers.Dense(CLASSES, activation="softmax")(features))
    cell = layer.forward_layer.cell
    kernel, recurrent, bias = cell.get_weights()
    gate = 3 * UNITS  # the output gate of the first unit
    kernel[:, gate], recurrent[:, gate], bias[gate] = 0, 0, -200
    cell.set_weights([kernel, recurrent, bias])
    weight, bias = model.get_layer("ruined").get_weights()
    weight *= 4
    weight[0] = 100
    model.get_layer("ruined").set_weights([weight, bias])
    return model


@pytest.mark.parametrize("format_name", ["onnx"])
def test_the_search_finds_the_layer_and_a_mix_that_keeps_the_limit(format_name):
    model = ruined()
    x = np.random.default_rng(0).normal(size=(200, 8, FEATURES)).astype(np.float32)
    labels = model(x, training=False).numpy().argmax(axis=1)
    options, stages = ExportOptions(formats=(format_name,)), Stages()
    prepared = prepare(model, options, stages)
    described, _ = describe(prepared)
    dataset = read_data((x, labels), described)
    judge = Judge(described, dataset, keras_answers(prepared.source, described, dataset))
    conversion = build_exact(format_name, prepared, described, options, stages).conversion
    owners = Owners(prepared.source.weights())
    backend = next(b for b in BACKENDS.values() if b.format == format_name)
    names = prepared.interface.input_names, prepared.interface.output_names

    def evaluate(recipe, plan):
        content = conversion.write(plan, owners).content
        artifact = Artifact("m", format_name, recipe, len(content), "", *names)
        session = backend.open(content, artifact, described.spec, 1)
        found = judge.compare(ask(session_model(session, described, "m"), dataset))
        return Measured(len(content), found.drop, found.relative_error)

    weights = conversion.write(PrecisionPlan(Precision.INT8), owners).weights
    result = search(
        format_name,
        parse_recipes("float32,float16,int8"),
        units_of(weights),
        Budget(max_drop=2.0),
        evaluate,
    )
    plain = {candidate.recipe: candidate for candidate in result.candidates[:3]}
    assert plain["float32"].drop == plain["float16"].drop == 0
    assert plain["int8"].drop > 20
    assert result.recommended.recipe == "mixed"
    assert result.recommended.drop <= 2
    assert plain["int8"].bytes < result.recommended.bytes < plain["float16"].bytes
    (kept,) = result.kept
    assert kept.layers == ("ruined",)
    assert kept.drop > 20
    assert "int8 of 'ruined' alone costs" in result.reason
