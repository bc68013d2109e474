"""Which models have decisions by rounding, and which outputs rounding explains."""

from __future__ import annotations

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from bilstm_exporter.inspection.candidates import ProbeKind
from bilstm_exporter.inspection.decisions import is_possible, may_decide
from bilstm_exporter.inspection.probes import Probe, golden_probes
from exporter.conftest import inspect


def graph_of(*layers, dtype="float32"):
    model = keras.Sequential([keras.Input((None, 3) if dtype == "float32" else (None,)), *layers])
    return inspect(model).loaded.first_graph


def test_models_with_decisions():
    assert not may_decide(graph_of(kl.Masking(), kl.Bidirectional(kl.LSTM(2)), kl.Dense(2)))
    assert may_decide(graph_of(kl.LSTM(2), kl.Lambda(lambda x: tf.argmax(x, -1))))


@pytest.mark.parametrize(
    ("function", "decides"),
    [
        (lambda x: tf.gather(tf.range(9.0), tf.cast(x, tf.int32)), False),
        (lambda x: tf.not_equal(tf.cast(tf.cast(x, tf.int32), tf.float32), 0.0), False),
        (lambda x: tf.argmax(tf.reshape(x, [2, 1]), -1), False),
        (lambda x: tf.cast(tf.cumsum(tf.cast(x, tf.int32)), tf.float32) > 2.0, False),
        (lambda x: tf.not_equal(tf.ensure_shape(x, [2]), 0.0), False),
        (lambda x: tf.cast(2.5 * x, tf.int32), True),
        (lambda x: tf.math.floordiv(x, 0.1), True),
        (lambda x: tf.equal(x, tf.tanh(x)), True),
    ],
)
def test_what_is_made_of_inputs_without_arithmetic_is_exact(function, decides):
    traced = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec([2]))
    assert may_decide(SimpleNamespace(markers={}, function=traced)) == decides


@pytest.mark.slow
def test_a_decision_in_a_loop_is_found():
    def scan(x):
        step = lambda h, row: tf.where(h > row, h, row)  # noqa: E731
        return tf.scan(step, tf.transpose(x, [1, 0, 2]))[-1]

    assert may_decide(graph_of(kl.LSTM(3, return_sequences=True), kl.Lambda(scan)))


def test_the_argument_of_a_function_is_no_input_of_the_graph_of_the_same_name():
    inner = tf.function(lambda x: tf.equal(x, 0.5), autograph=False)
    outer = tf.function(lambda x: inner(tf.tanh(x)), autograph=False)
    graph = outer.get_concrete_function(tf.TensorSpec([2], name="x"))
    assert may_decide(SimpleNamespace(markers={}, function=graph))


def test_rounding_explains_only_what_it_changes():
    first, second = np.array([1.0, 0.0, 5.0], np.float32), np.array([0.0, 1.0, 5.0], np.float32)
    outcomes = [[first], [second]]
    assert is_possible([second], outcomes)
    assert is_possible([np.array([1, 1, 5], np.float32)], outcomes)
    assert not is_possible([np.array([1, 0, 5.1], np.float32)], outcomes)
    assert not is_possible([np.array([4, 0, 5], np.float32)], outcomes)
    assert not is_possible([np.array([np.nan, 0, 5], np.float32)], outcomes)
    assert not is_possible([first[:2]], outcomes)
    sums = [[np.array([0.5], np.float32)], [np.array([0.5 + 1e-4], np.float32)]]
    assert is_possible([np.array([0.5 + 9e-4], np.float32)], sums)
    assert not is_possible([np.array([0.5 + 2e-3], np.float32)], sums)
    ids = [[np.array([1, 2])], [np.array([1, 4])]]
    assert is_possible([np.array([1, 3])], ids)
    assert not is_possible([np.array([2, 2])], ids)


def test_golden_cases_are_those_that_rounding_leaves(inspected, monkeypatch):
    found = inspected("lstm")
    probes = found.probes.probes
    undecided = {probe.name for probe in probes if probe.kind is ProbeKind.RISING}

    def moved(inputs, seed):
        probe = next(one for one in probes if one.inputs is inputs)
        return [output + (probe.name in undecided) for output in probe.outputs]

    monkeypatch.setattr("bilstm_exporter.inspection.probes.may_decide", lambda graph: True)
    monkeypatch.setattr(found.loaded.keras, "rounded_reference", moved, raising=False)
    names = {probe.name for probe in golden_probes(found.loaded, probes)}
    assert names
    assert not names & undecided
    undecided |= names
    (other,) = golden_probes(found.loaded, probes)
    assert other.name not in undecided
    assert isinstance(other, Probe)
