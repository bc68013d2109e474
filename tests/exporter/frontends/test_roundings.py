"""Comparisons, maxima and rounding in a model, where the last bits of a value decide."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from bilstm_exporter import export
from bilstm_exporter.errors import ParityError
from bilstm_exporter.frontends.loading import read
from bilstm_exporter.frontends.reference.roundings import RoundedCalls, moved_weights
from bilstm_exporter.inspection.candidates import ProbeKind
from bilstm_exporter.inspection.probes import Probe, ProbeSet

LIBRARIES = (keras, tf_keras)
DECISIONS = {
    "positive": lambda x: tf.where(x > 0, x, -0.5 * tf.ones_like(x)),
    "argmax": lambda x: tf.argmax(x, -1),
    "is the maximum": lambda x: tf.cast(tf.equal(x, tf.reduce_max(x, -1, keepdims=True)), x.dtype),
    "sign": tf.sign,
}


def deciding_model(library, decide, scale=12.0):
    """A BiLSTM with large weights, whose gates saturate; then a decision."""
    library.utils.set_random_seed(2)

    class Decision(library.layers.Layer):
        def call(self, x):
            return decide(x)

    x = library.Input((None, 6))
    lstm = library.layers.LSTM(8, return_sequences=True)
    y = library.layers.Bidirectional(lstm)(x)
    y = library.layers.Dense(5, activation="tanh", use_bias=False)(y)
    model = library.Model(x, Decision(name="decision")(y))
    model.set_weights([weight * scale for weight in model.get_weights()])
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "decision"), [(keras, name) for name in DECISIONS] + [(tf_keras, "positive")]
)
def test_decisions_by_saturated_values_are_exported(library, decision, tmp_path):
    report = export(deciding_model(library, DECISIONS[decision]), tmp_path / "out")
    assert [one.format for one in report.artifacts] == ["onnx", "tflite"]


def off_by(model, inputs, seed):
    return read(model)[0].rounded_reference(inputs, seed)[0]


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_changed_results_stay_within_rounding(library):
    model = deciding_model(library, tf.identity, scale=1.0)
    x = np.random.default_rng(1).standard_normal((2, 5, 6)).astype(np.float32)
    expected = np.asarray(model(x, training=False))
    for seed in range(2):
        found = off_by(model, [x], seed)
        assert 0 < np.abs(found - expected).max() < 1e-4
    again = np.asarray(model(x, training=False))
    np.testing.assert_array_equal(again, expected)  # the weights are the model's again


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("layer", ["LSTM", "GRU"])
def test_masked_layers_are_called_with_changed_results(library, layer):
    library.utils.set_random_seed(2)
    x = library.Input((None,), dtype="int32")
    embedded = library.layers.Embedding(9, 4, mask_zero=True)(x)
    model = library.Model(
        x, library.layers.Bidirectional(getattr(library.layers, layer)(3))(embedded)
    )
    ids = np.array([[1, 2, 0, 0], [0, 3, 4, 5]], np.int32)
    expected = np.asarray(model(ids, training=False))
    assert 0 < np.abs(off_by(model, [ids], 0) - expected).max() < 1e-4


def rounded(call, value, seed):
    return np.asarray(RoundedCalls(lambda x: [call(x)]).with_seed(seed)(tf.constant(value))[0])


def test_functions_reach_the_ends_of_their_range_or_do_not():
    high, low = np.full(100, 30.0, np.float32), np.full(100, -30.0, np.float32)
    for call, end in ((tf.sigmoid, 0), (tf.tanh, -1)):
        assert (rounded(call, high, 0) == 1).all()
        assert (rounded(call, high, 1) < 1).mean() > 0.9
        assert (rounded(call, low, 0) == end).all()
        assert (rounded(call, low, 1) > end).mean() > 0.9


def test_integers_and_copies_stay_exact():
    values = np.arange(12, dtype=np.float32)
    for seed in range(4):
        np.testing.assert_array_equal(rounded(tf.cumsum, values, seed), np.cumsum(values))
        np.testing.assert_array_equal(
            rounded(tf.nn.relu, values - 5, seed), np.maximum(values - 5, 0)
        )
        np.testing.assert_array_equal(moved_weights([values], seed)[0], values)


@pytest.mark.slow
def test_a_wrong_artifact_is_not_excused():
    """The output is wrong on a probe that no rounding decides: every probe is kept."""
    model, _ = read(deciding_model(keras, DECISIONS["sign"]))
    rng = np.random.default_rng(1)
    near = rng.standard_normal((2, 3, 6)).astype(np.float32)
    probes = [
        Probe(ProbeKind.ORDINARY, name, [x], model.reference([x]))
        for name, x in (("decided", np.zeros_like(near)), ("ordinary", near))
    ]
    found = ProbeSet(model, probes, {}, None)
    failed = {probe.name: [probe.outputs] for probe in probes}
    assert not found.keep_well_conditioned(failed)
    assert found.probes == probes


@pytest.mark.slow
def test_an_error_beside_a_decision_is_not_excused():
    """Rounding decides some elements; another one is wrong."""
    model, _ = read(deciding_model(keras, DECISIONS["argmax"]))
    near = np.random.default_rng(1).standard_normal((2, 3, 6)).astype(np.float32)
    probe = Probe(ProbeKind.ORDINARY, "near", [near], model.reference([near]))
    outcomes = np.stack([model.rounded_reference([near], seed)[0] for seed in range(16)])
    undecided = (outcomes != outcomes[0]).any(0)
    assert 0 < undecided.sum() < undecided.size
    flipped = outcomes[(outcomes != probe.outputs[0]).any((1, 2))][0]
    found = ProbeSet(model, [probe], {}, None)
    wrong = np.where(undecided, flipped, (flipped + 1) % 5)
    assert not found.keep_well_conditioned({"near": [[wrong]]})
    assert found.probes == [probe]
    assert found.keep_well_conditioned({"near": [[flipped]]})
    assert not found.probes


@pytest.mark.slow
def test_a_model_that_only_rounding_decides_is_refused(tmp_path):
    """Both directions of equal layers: their difference is zero, or what rounding leaves."""
    x = keras.Input((None, 6))
    y = keras.layers.LSTM(4, return_sequences=True)(x)
    z = keras.layers.Rescaling(1 / 3)(keras.layers.Rescaling(3.0)(y))
    model = keras.Model(x, keras.layers.Lambda(tf.sign)(z - y))
    with pytest.raises(ParityError, match="badly conditioned"):
        export(model, tmp_path / "out")
