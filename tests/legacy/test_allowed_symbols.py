"""An untrusted file of Keras 2 may only call functions of tensors."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras.src.layers.core import tf_op_layer

from bilstm_exporter.errors import UntrustedCodeError
from bilstm_exporter.frontends.files.allowed_objects import only_allowed_objects
from bilstm_exporter.frontends.keras2.allowed_symbols import (
    is_allowed_symbol,
    keras2_library,
    only_functions_of_tensors,
)
from bilstm_exporter.frontends.loading import read
from exporter.public_names import public_names

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


MODULES = ("bitwise", "linalg", "math", "nn", "sets", "signal")
# They take functions, make objects that are no tensors, read a file of words, or belong to models
# that are trained with samples.
NO_TENSORS = {
    "linalg": {"experimental"}, "math": {"special"},
    "nn": {"RNNCellDeviceWrapper", "RNNCellDropoutWrapper", "RNNCellResidualWrapper",
           "all_candidate_sampler", "compute_accidental_hits", "experimental",
           "fixed_unigram_candidate_sampler", "learned_unigram_candidate_sampler"},
}  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_the_functions_of_a_module_are_allowed(module):
    found = vars(getattr(tf, module))
    names = [
        name
        for name, value in found.items()
        if name[0] != "_" and callable(value) and not isinstance(value, type)
    ]
    refused = [name for name in names if not is_allowed_symbol(found[name])]
    assert set(refused) <= NO_TENSORS.get(module, set())
    assert len(names) > 3


LIBRARY = keras2_library()
KINDS = (
    "activations",
    "constraints",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "regularizers",
)


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_keras_2_resolves_by_name(kind):
    """As in HDF5 files (by name), and in .keras files (by module and name)."""
    module = getattr(tf_keras, kind)
    names = public_names(module, NO_OBJECTS)
    refused = []
    for name in names:
        value = getattr(module, name)
        is_class = isinstance(value, type)
        try:
            with only_allowed_objects(LIBRARY), contextlib.suppress(TypeError, ValueError):
                found = LIBRARY.serialization._retrieve_class_or_fn(
                    name, name, f"keras.{kind}", "class" if is_class else "function", {}
                )
                if not is_class:
                    config = {"class_name": "function", "config": name}
                    LIBRARY.legacy.deserialize_keras_object(name, vars(module))
                    LIBRARY.serialization.deserialize_keras_object(
                        {"module": f"keras.{kind}", "registered_name": name, **config}
                    )
                assert found is value
        except UntrustedCodeError:
            refused.append(name)
    assert refused == []


NO_OBJECTS = frozenset({"Input", "Reduction", "deserialize", "get", "serialize"})


def unary_functions():
    """The functions of tensors that take one tensor and nothing else."""
    for module in (tf.math, tf.nn, tf.linalg):
        for name, function in sorted(vars(module).items()):
            if callable(function) and name[0] != "_" and not isinstance(function, type):
                yield f"{module.__name__.rpartition('.')[2]}.{name}", function


@pytest.mark.slow
def test_a_model_of_all_functions_of_one_tensor_loads(tmp_path):
    """A TFOpLambda of each function that takes one square matrix of numbers."""
    x = tf_keras.Input((3, 3))
    outputs = {}
    for name, function in unary_functions():
        try:
            found = function(x)
            if tf_keras.backend.is_keras_tensor(found):
                outputs[name] = found
        except (TypeError, ValueError, AttributeError, tf.errors.OpError):
            continue
    assert len(outputs) > 80
    model = tf_keras.Model(x, list(outputs.values()))
    (tmp_path / "model.json").write_text(model.to_json())
    parsed = json.loads(model.to_json())["config"]["layers"]
    with only_functions_of_tensors():
        for layer in parsed:
            if layer["class_name"] == "TFOpLambda":
                tf_op_layer.get_symbol_from_name(layer["config"]["function"])


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
