"""Whether outputs depend on padding or other rows of a batch, found by calling the model."""

from __future__ import annotations

import keras
import pytest
from keras import layers as kl

from bilstm_exporter.inspection.properties import are_rows_independent, is_padding_neutral
from exporter.conftest import inspect
from exporter.models import bilstm, floats, tokens
from zoo import randomize


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "neutral"),
    [
        slow("classifier", True),
        slow("pooled", False),
        ("unmasked_ids", False),
        ("lstm", False),
    ],
)
@pytest.mark.slow
def test_padding_is_neutral_only_where_it_changes_nothing(inspected, name, neutral):
    found = inspected(name)
    assert is_padding_neutral(found.loaded) is neutral


@pytest.mark.parametrize(
    ("layers", "neutral"),
    [
        (lambda: [bilstm(), kl.Dense(2)], True),  # steps of a masked tagger
        slow(lambda: [kl.LSTM(2, go_backwards=True)], True),
        slow(lambda: [bilstm(), kl.GlobalAveragePooling1D()], True),  # Keras's average masks
        # A Bidirectional outputs zeros at masked steps; an LSTM repeats the last output.
        slow(lambda: [bilstm(), kl.Conv1D(2, 3, padding="same")], True),
        (lambda: [kl.LSTM(2, return_sequences=True), kl.Conv1D(2, 3, padding="same")], False),
        (lambda: [bilstm(), kl.Flatten(), kl.Dense(2)], False),
    ],
    ids=["tagger", "backwards", "average", "conv", "held-conv", "flatten"],
)
@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
@pytest.mark.slow
def test_padding_of_masked_heads(layers, neutral):
    head = layers()
    steps = 8 if any(isinstance(layer, kl.Flatten) for layer in head) else None
    model = keras.Sequential(
        [keras.Input((steps,), name="x"), kl.Embedding(9, 4, mask_zero=True), *head]
    )
    randomize(model, 5)
    found = inspect(model)
    assert is_padding_neutral(found.loaded) is neutral


class BatchMean(kl.Layer):
    """Lets every row of a batch change every other."""

    def call(self, inputs):
        return inputs - keras.ops.mean(inputs, axis=0, keepdims=True)


@pytest.mark.parametrize("name", ["classifier", "lstm", "pooled"])
@pytest.mark.slow
def test_rows_are_independent(inspected, name):
    found = inspected(name)
    assert are_rows_independent(found.loaded, found.probes.probes) is True


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.slow
def test_rows_that_mix_are_found(place):
    layers = [BatchMean(), kl.LSTM(3)] if place == "before" else [kl.LSTM(3), BatchMean()]
    model = floats(*layers)
    randomize(model, 5)
    found = inspect(model)
    assert are_rows_independent(found.loaded, found.probes.probes) is False


@pytest.mark.slow
def test_rows_that_are_merged_are_found():
    model = floats(kl.LSTM(3), kl.Lambda(lambda x: keras.ops.sum(x, axis=0)))
    randomize(model, 5)
    found = inspect(model)
    assert are_rows_independent(found.loaded, found.probes.probes) is False


@pytest.mark.parametrize(
    ("name", "neutral"),
    [slow("classifier", True), slow("pooled", False)],
)
def test_the_properties_are_in_the_manifest(exported, name, neutral):
    done = exported(name)
    assert done.manifest["padding"] == {"neutral": neutral}
    assert done.manifest["rows_independent"] is True
    assert done.report.padding_neutral is neutral


@pytest.mark.slow
def test_an_unmasked_twin_of_a_masked_model_is_not_neutral():
    for mask_zero in (True, False):
        model = tokens(kl.LSTM(3), mask_zero=mask_zero)
        model.set_weights(tokens(kl.LSTM(3)).get_weights())
        randomize(model, 4)
        found = inspect(model)
        assert is_padding_neutral(found.loaded) is mask_zero
