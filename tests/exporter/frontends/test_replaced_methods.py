"""The methods of Keras that tracing replaces: as expected before, and restored afterwards."""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers as kl
from keras.src import backend

from bilstm_exporter import export
from bilstm_exporter.errors import KerasContractError, UnsupportedModelError
from bilstm_exporter.frontends.keras3.model import Keras3Model
from bilstm_exporter.frontends.keras3.recurrent import check_contract, describe_activation
from bilstm_exporter.ir.recurrence import Lowering
from bilstm_exporter.quantization.recipes import RECIPES
from bilstm_exporter.targets.base import TargetOptions
from bilstm_exporter.targets.registry import TARGETS
from exporter.conftest import inspect
from exporter.models import MODELS, floats

RECURRENT = (kl.RNN, kl.LSTM, kl.GRU, kl.SimpleRNN, kl.Bidirectional, kl.ConvLSTM1D, kl.ConvLSTM2D)
OWNERS = (*RECURRENT, kl.TimeDistributed, kl.Embedding, kl.Layer, kl.LSTMCell, kl.GRUCell)
MODULES = (backend, backend.numpy, backend.nn, backend.math, backend.core, keras.ops)


def snapshot() -> dict[tuple[object, str], object]:
    """Every attribute of Keras that an export could have left changed."""
    return {
        (owner, name): value
        for owner in (*OWNERS, *MODULES)
        for name, value in vars(owner).items()
        if name == "__call__" or not name.startswith(("__", "_abc"))
    }


@pytest.fixture
def keras_is_restored():
    """Keras is the same, object by object, after the test."""
    before = snapshot()
    yield
    after = snapshot()
    assert after.keys() == before.keys()
    assert not [key for key in before if after[key] is not before[key]]


# --- the contract


def test_this_keras_is_as_expected():
    check_contract()


@pytest.mark.parametrize("cls", [kl.RNN, kl.LSTM, kl.GRU])
def test_a_renamed_parameter_is_told(monkeypatch, cls):
    def inner_loop(self, sequences, starting_state, mask, training=False):
        """A Keras of the future."""

    monkeypatch.setattr(cls, "inner_loop", inner_loop)
    with pytest.raises(KerasContractError) as raised:
        check_contract()
    words = str(raised.value)
    for part in (f"{cls.__name__}.inner_loop", "starting_state", f"Keras {keras.__version__}"):
        assert part in words
    assert "Install" in words


def test_a_new_parameter_is_told(monkeypatch):
    def inner_loop(self, sequences, initial_state, mask, *, steps=None):
        """A Keras of the future."""

    monkeypatch.setattr(kl.LSTM, "inner_loop", inner_loop)
    with pytest.raises(KerasContractError, match=r"LSTM\.inner_loop takes .*steps"):
        check_contract()


@pytest.mark.parametrize("cls", [kl.RNN, kl.LSTM, kl.GRU])
def test_a_missing_loop_is_told(monkeypatch, cls):
    monkeypatch.delattr(cls, "inner_loop")
    with pytest.raises(KerasContractError, match=f"{cls.__name__} has no inner_loop of its own"):
        check_contract()


def test_a_new_way_around_the_loop_is_told(monkeypatch):
    def gate(*_args):
        return True

    monkeypatch.setattr(kl.Bidirectional, "_can_attempt_fused_x", gate, raising=False)
    with pytest.raises(
        KerasContractError, match="unknown bypass of inner_loop, _can_attempt_fused_x"
    ):
        check_contract()


def test_missing_dropout_masks_are_told(monkeypatch):
    monkeypatch.delattr(kl.RNN, "_maybe_config_dropout_masks")
    with pytest.raises(KerasContractError, match="_maybe_config_dropout_masks"):
        check_contract()


def test_all_that_moved_is_told_at_once(monkeypatch):
    monkeypatch.delattr(kl.GRU, "inner_loop")
    monkeypatch.delattr(kl.LSTM, "inner_loop")
    with pytest.raises(KerasContractError) as raised:
        check_contract()
    assert "LSTM has no" in str(raised.value)
    assert "GRU has no" in str(raised.value)


def test_an_export_checks_the_contract_first(fails, saved, monkeypatch):
    monkeypatch.delattr(kl.LSTM, "inner_loop")
    assert "LSTM has no inner_loop of its own" in fails(3, saved("lstm"))


# --- restored


def everything() -> keras.Model:
    """A model that passes through all that is replaced while tracing."""
    x = keras.Input((None,), dtype="int32", name="ids")
    steps = kl.Embedding(9, 4, mask_zero=True)(x)
    steps = kl.Bidirectional(kl.LSTM(3, return_sequences=True, dropout=0.5))(steps)
    steps = kl.TimeDistributed(kl.Dense(4, activation="softplus"))(steps)
    return keras.Model(x, kl.Bidirectional(kl.GRU(2, dropout=0.5))(steps))


@pytest.mark.slow
@pytest.mark.usefixtures("keras_is_restored")
def test_building_files_leaves_keras_as_it_was():
    loaded = inspect(everything()).loaded
    for registered in TARGETS.values():
        target = registered.create(TargetOptions(opset=18))
        assert len(target.build(loaded, RECIPES["float32"].plan).recurrences) == 4


@pytest.mark.usefixtures("keras_is_restored")
@pytest.mark.slow
def test_an_export_leaves_keras_as_it_was(tmp_path):
    export(MODELS["lstm"](), tmp_path / "b")


class Unlucky(Exception):  # noqa: N818
    """What a lowering raises here."""


@pytest.mark.usefixtures("keras_is_restored")
@pytest.mark.parametrize("error", [Unlucky, KeyboardInterrupt, ValueError, SystemExit])
def test_a_failed_tracing_leaves_keras_as_it_was(error):
    source = Keras3Model(everything())

    class Raising(Lowering):
        def lower(self, *_args):
            raise error("x")

    with pytest.raises(BaseException, match="x"):
        source.trace(Raising(), source.flat_inputs)


@pytest.mark.usefixtures("keras_is_restored")
def test_a_layer_that_cannot_be_traced_leaves_keras_as_it_was(fails, tmp_path):
    class Looks(kl.Layer):
        def call(self, x):
            return x * 2 if float(keras.ops.max(x)) > 0 else x

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    model = floats(floats(Looks(name="inner")), kl.LSTM(2))
    with pytest.raises(
        UnsupportedModelError, match=r"'inner' \(Looks\) .* cannot be traced"
    ) as raised:
        export(model, tmp_path / "b")
    assert raised.value.layers == ("inner",)


def test_a_layer_of_keras_2_that_cannot_be_traced_is_named(tmp_path):
    class Looks(tf_keras.layers.Layer):
        def call(self, x):
            return x * 2 if np.max(x.numpy()) > 0 else x

    class Own(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.last = tf_keras.layers.LSTM(2), Looks(name="inner")

        def call(self, x):
            return self.last(self.first(x))

    model = Own()
    model(np.ones((2, 3, 4), np.float32))
    with pytest.raises(UnsupportedModelError, match="cannot be traced") as raised:
        export(model, tmp_path / "b")
    assert raised.value.layers == ("inner",)


def test_a_model_that_cannot_be_traced_itself_names_no_layer(tmp_path):
    class Own(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.first = tf_keras.layers.LSTM(2)

        def call(self, x):
            with contextlib.suppress(TypeError):
                self.first(x, unknown=1)
            return self.first(x) * np.max(x.numpy())

    model = Own()
    model(np.ones((2, 3, 4), np.float32))
    with pytest.raises(UnsupportedModelError, match="the model runs eagerly") as raised:
        export(model, tmp_path / "b")
    assert raised.value.layers == ()


@pytest.mark.slow
@pytest.mark.usefixtures("keras_is_restored")
def test_states_are_observed_and_keras_as_it_was(inspected):
    keras_model = inspected("stacked").loaded.keras
    states = keras_model.final_states([np.ones((2, 5, 3), np.float32)])
    assert len(states) >= 8  # hidden and cell, four LSTMs
    assert all(state.shape == (2, 3) for state in states)


@pytest.mark.slow
def test_the_model_answers_as_before(tmp_path):
    model = MODELS["unmasked_ids"]()
    ids = np.array([[1, 2, 0, 3], [0, 0, 4, 5]], np.int32)
    before, weights = model(ids).numpy(), model.get_weights()
    export(model, tmp_path / "b", formats=("onnx",))
    np.testing.assert_array_equal(model(ids).numpy(), before)
    for one, other in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_model_can_be_trained_after_its_export(tmp_path):
    model = MODELS["lstm"]()
    export(model, tmp_path / "b", formats=("onnx",))
    model.compile("sgd", "mse")
    x, y = np.ones((4, 5, 3), np.float32), np.zeros((4, 2), np.float32)
    before = model.get_weights()
    model.fit(x, y, verbose=0)
    pairs = zip(model.get_weights(), before, strict=True)
    assert any(not np.array_equal(one, other) for one, other in pairs)


# --- what is described


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "relu", "gelu", "linear", "hard_sigmoid"])
def test_keras_activations_are_known_by_name(name):
    function = getattr(keras.activations, name)
    assert describe_activation(function).name == name


def test_an_activation_that_only_has_a_known_name_is_not_taken_for_it():
    def tanh(x):
        return x / 2

    assert describe_activation(tanh).name is None
    assert describe_activation(None).name == "linear"
    assert describe_activation(lambda x: x).name is None


# --- functions of TensorFlow in layers


def compiled_layer(library, **settings):
    """A layer whose call is a ``tf.function`` around a recurrent layer."""

    class Compiled(library.layers.Layer):
        def __init__(self):
            super().__init__(name="compiled")
            self.lstm = library.layers.LSTM(4, return_sequences=True)

        def build(self, shape):
            self.lstm.build(shape)
            self.built = True

        @tf.function(**settings)
        def call(self, x):
            y = self.lstm(x)
            h = tf.zeros_like(y[:, 0])
            for step in tf.range(tf.shape(y)[1]):
                h = tf.tanh(h + y[:, step])
            return tf.roll(y, 1, 1) + h[:, None]

    return Compiled()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "settings"),
    [
        (keras, {}),
        (keras, {"reduce_retracing": True}),
        (keras, {"input_signature": [tf.TensorSpec([None, None, 3])]}),
        (tf_keras, {}),
    ],
)
def test_functions_that_layers_keep_hold_no_graph_of_an_export(library, settings, tmp_path):
    x = library.Input((None, 3))
    model = library.Model(x, compiled_layer(library, **settings)(x))
    example = np.ones((2, 5, 3), np.float32)
    before = np.asarray(model(example, training=False))
    report = export(model, tmp_path / "out")
    assert len(report.artifacts) == 2
    np.testing.assert_array_equal(np.asarray(model(example, training=False)), before)


@pytest.mark.slow
@pytest.mark.parametrize("library", [keras, tf_keras])
def test_a_model_whose_call_is_a_function(library, tmp_path):
    class Compiled(library.Model):
        def __init__(self):
            super().__init__()
            self.lstm = library.layers.LSTM(3, return_sequences=True)
            self.dense = library.layers.Dense(2)

        @tf.function
        def call(self, x, training=False):
            del training
            return self.dense(self.lstm(x))

    model = Compiled()
    model(np.ones((2, 5, 3), np.float32))
    assert len(export(model, tmp_path / "out").artifacts) == 2
