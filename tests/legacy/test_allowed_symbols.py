"""An untrusted file of Keras 2 may only call functions of tensors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras.src.layers.core import tf_op_layer

from bilstm_exporter.errors import UntrustedCodeError
from bilstm_exporter.frontends.keras2.allowed_symbols import only_functions_of_tensors
from bilstm_exporter.frontends.loading import read

ALLOWED = [
    "__operators__.add", "__operators__.getitem", "cast", "clip_by_value", "concat", "einsum",
    "expand_dims", "experimental.numpy.sum", "image.resize", "keras.activations.relu",
    "keras.backend.ctc_batch_cost", "keras.backend.reverse", "linalg.matmul", "math.argmax",
    "math.l2_normalize", "math.reduce_sum", "nn.softmax", "one_hot", "reshape", "reverse",
    "sequence_mask", "signal.stft", "split", "stack", "tile", "transpose", "unstack", "where",
]  # fmt: skip
REFUSED = [
    "io.write_file", "io.read_file", "raw_ops.WriteFile", "raw_ops.ImmutableConst", "py_function",
    "numpy_function", "keras.models.load_model", "keras.utils.get_file", "saved_model.load",
    "load_library", "print", "map_fn", "function", "keras.backend.set_floatx", "Module",
    "summary.create_file_writer", "data.Dataset", "train.Checkpoint", "keras.Model",
]  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_functions_of_tensors_are_allowed(name):
    with only_functions_of_tensors():
        assert tf_op_layer.get_symbol_from_name(name) is not None


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_is_refused_by_name(name):
    with only_functions_of_tensors(), pytest.raises(UntrustedCodeError, match="--trust-code") as e:
        tf_op_layer.get_symbol_from_name(name)
    assert name in str(e.value)


def architecture(tmp_path, **config):
    """A model with one TFOpLambda, whose config is changed."""
    x = tf_keras.Input((3,))
    model = tf_keras.Model(x, tf.math.add(tf_keras.layers.Dense(3)(x), 1.0))
    parsed = json.loads(model.to_json())
    (layer,) = [one for one in parsed["config"]["layers"] if one["class_name"] == "TFOpLambda"]
    layer["config"].update(config)
    (tmp_path / "model.json").write_text(json.dumps(parsed))
    model.save_weights(tmp_path / "weights.h5")
    return {"model": tmp_path / "model.json", "weights": tmp_path / "weights.h5"}


def test_a_function_that_loads_a_file_is_not_called(tmp_path, monkeypatch):
    monkeypatch.setattr(tf_keras.models, "load_model", lambda *_: pytest.fail("called"))
    with pytest.raises(UntrustedCodeError, match=r"keras\.models\.load_model"):
        read(**architecture(tmp_path, function="keras.models.load_model"))


def test_operators_of_tensors_load(tmp_path):
    source = read(**architecture(tmp_path))[0]
    assert source.reference([np.zeros((2, 3), np.float32)])[0].shape == (2, 3)


def test_attributes_of_python_are_refused(tmp_path):
    x = tf_keras.Input((3,))
    parsed = json.loads(tf_keras.Model(x, tf_keras.layers.Dense(3)(x)).to_json())
    parsed["config"]["layers"][1] |= {"class_name": "InstanceProperty"}
    parsed["config"]["layers"][1]["config"] = {"name": "p", "attr_name": "__class__"}
    (tmp_path / "model.json").write_text(json.dumps(parsed))
    with pytest.raises(UntrustedCodeError, match="layer 'p'"):
        read(tmp_path / "model.json", weights=tmp_path / "none.h5")
