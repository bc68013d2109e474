"""Models whose last layer turns class numbers into strings."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.errors import UnsupportedModelError
from bilstm_exporter.frontends.loading import read

WORDS = ["O", "caf\u00e9", "B-LOC"]
LIBRARIES = {"keras 3": (keras, keras.ops.argmax), "tf_keras": (tf_keras, tf.argmax)}


def scores(library: Any, *, each_step: bool = False) -> tuple[Any, Any]:
    x = library.Input((6, 3), name="x")
    recurrent = library.layers.Bidirectional(library.layers.LSTM(4, return_sequences=each_step))
    return x, library.layers.Dense(4, activation="softmax", name="scores")(recurrent(x))


def names(library: Any, **settings: Any) -> Any:
    return library.layers.StringLookup(vocabulary=WORDS, invert=True, name="names", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("each_step", [False, True])
def test_strings_become_labels(name: str, each_step: bool, tmp_path, capfd) -> None:
    library, argmax = LIBRARIES[name]
    library.utils.set_random_seed(3)
    x, y = scores(library, each_step=each_step)
    model = library.Model(x, names(library)(argmax(y, axis=-1)))
    report = export(model, tmp_path / "edge")
    assert "CollectionDef" not in capfd.readouterr().err  # of TensorFlow, for tables
    assert "its strings are the labels" in " ".join(report.notes)
    given = np.random.default_rng(0).normal(size=(20, 6, 3)).astype("f4") * 4
    wanted = np.vectorize(bytes.decode)(np.asarray(model(given)))
    assert len(np.unique(wanted)) > 1
    for backend in ("onnx", "litert"):
        loaded = bilstm_runtime.load(tmp_path / "edge", backend=backend)
        if each_step:
            found = [[one.tag for one in row] for row in loaded.tag(given)]
        else:
            found = [row[0].label for row in loaded.classify(given)]
        assert found == wanted.tolist()
    assert bilstm_runtime.check(tmp_path / "edge").passed


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_class_has_the_string_of_the_layer(name: str) -> None:
    library, argmax = LIBRARIES[name]
    x, y = scores(library)
    for settings in ({}, {"mask_token": ""}, {"num_oov_indices": 2}, {"num_oov_indices": 0}):
        layer = names(library, **settings)
        model = library.Model(x, {"kind": layer(argmax(y, axis=-1)), "p": y})
        loaded, _ = read(model)
        assert loaded.keras_model is not model
        assert set(loaded.output_names) == {"kind", "p"}
        numbers = np.arange(layer.vocabulary_size())
        strings = np.vectorize(bytes.decode)(np.asarray(layer(numbers)))
        assert loaded.labels == {"kind": tuple(strings.tolist())}


@pytest.mark.parametrize("name", LIBRARIES)
def test_anywhere_else_the_layer_is_refused(name: str) -> None:
    library, argmax = LIBRARIES[name]
    x, y = scores(library)
    lookup = names(library)(argmax(y, axis=-1))
    inner = library.Model(x, lookup)
    other = library.Input((6, 3))
    with pytest.raises(UnsupportedModelError, match="StringLookup layer 'names' inside"):
        read(library.Model(other, inner(other)))


@pytest.mark.parametrize("name", LIBRARIES)
def test_class_numbers_are_integers(name: str) -> None:
    library, _ = LIBRARIES[name]
    x = library.Input((6, 1), name="x")
    with pytest.raises(UnsupportedModelError, match=r"'names' has invert=True and takes float32"):
        read(library.Model(x, names(library)(library.layers.LSTM(1)(x))))
