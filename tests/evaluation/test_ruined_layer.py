"""A real model in which int8 of one layer destroys the accuracy, up to the recommendation."""

import keras
import numpy as np
import pytest

from bilstm_exporter.artifacts import ArtifactBuilder
from bilstm_exporter.evaluation.evaluator import make_evaluation_set
from bilstm_exporter.evaluation.selection import Budget
from bilstm_exporter.frontends.loading import read
from bilstm_exporter.inspection.properties import inspect_model
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.progress import Stages
from bilstm_exporter.quantization.recipes import parse_recipes
from bilstm_exporter.recipe_selection import RecipeSelector

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


@pytest.mark.slow
def test_the_search_finds_the_layer_and_a_mix_that_keeps_the_limit():
    model = ruined()
    x = np.random.default_rng(0).normal(size=(200, 8, FEATURES)).astype(np.float32)
    labels = model(x, training=False).numpy().argmax(axis=1)
    options, stages = ExportOptions(formats=("onnx",)), Stages()
    loaded, probes = inspect_model(*read(model), batch=None, time=None)
    builder = ArtifactBuilder(loaded, probes, options, stages)
    evaluation = make_evaluation_set(loaded, probes, (x, labels), None, stages)
    selector = RecipeSelector(builder, ("onnx",), evaluation, stages)
    recipes = parse_recipes("float32,float16,int8")
    result = selector.search(recipes, Budget(max_drop=2.0)).searches["onnx"]
    plain = {candidate.recipe: candidate for candidate in result.candidates[:3]}
    assert plain["float32"].drop == plain["float16"].drop == 0
    assert plain["int8"].drop > 20
    assert result.recommended.recipe == "mixed"
    assert result.recommended.drop <= 2
    assert plain["int8"].bytes < result.recommended.bytes < plain["float16"].bytes
    (kept,) = result.kept
    assert kept.layers == ("ruined",)
    assert kept.drop > 20
    assert "int8 of 'ruined' alone loses" in result.reason
