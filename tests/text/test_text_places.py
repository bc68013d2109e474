"""Text layers that share an input, stand inside other models, or take integers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.frontends.loading import read

WORDS = ["so", "good", "film", "na\u00efve"]
LETTERS = list("sogdfilm\u00ef")
TEXTS = ["So good!", "film na\u00efve x", "", "g\u00f8\u00f8d SO SO so so"]
LIBRARIES = [keras, tf_keras]
SMALLEST, LARGEST = -(2**63), 2**63 - 1


def text(library: Any, shape: tuple[int | None, ...] = (1,), name: str = "text") -> Any:
    return library.Input(shape, dtype="string", name=name)


def words(library: Any, **settings: Any) -> Any:
    options = {"vocabulary": WORDS, "output_sequence_length": 4, "name": "words"}
    return library.layers.TextVectorization(**{**options, **settings})


def letters(library: Any) -> Any:
    options = {"split": "character", "output_sequence_length": 9, "name": "letters"}
    return library.layers.TextVectorization(vocabulary=LETTERS, **options)


def recurrent(library: Any, ids: Any) -> Any:
    kl = library.layers
    return kl.Bidirectional(kl.LSTM(2))(kl.Embedding(20, 3)(ids))


def words_and_letters(library: Any) -> Any:
    x = text(library)
    states = [recurrent(library, layer(library)(x)) for layer in (words, letters)]
    return library.Model(x, library.layers.Concatenate()(states))


def words_and_hashes(library: Any) -> Any:
    x, numbers = text(library), library.Input((2,), name="numbers")
    hashed = library.layers.Hashing(7, output_mode="multi_hot", salt=3, name="hashed")(x)
    joined = [recurrent(library, words(library)(x)), hashed, numbers]
    outputs = library.layers.Concatenate()(joined)
    return library.Model({"text": x, "numbers": numbers}, {"y": outputs})


def one_layer_twice(library: Any) -> Any:
    x, layer = text(library), words(library)
    return library.Model(x, library.layers.Add()([recurrent(library, layer(x)) for _ in "ab"]))


def nested_twice(library: Any) -> Any:
    x = text(library, name="inner_text")
    inner = library.Model(x, words(library)(x), name="inner")
    y = text(library, name="middle_text")
    middle = library.Sequential([y, inner], name="middle")
    z = text(library)
    return library.Model(z, recurrent(library, middle(z)))


def encoder_of_two_inputs(library: Any) -> Any:
    x, numbers = text(library, name="a"), library.Input((3,), name="b")
    outputs = {"ids": words(library)(x), "numbers": library.layers.Dense(2)(numbers)}
    inner = library.Model({"a": x, "b": numbers}, outputs, name="inner")
    given = {"a": text(library), "b": library.Input((3,), name="numbers")}
    found = inner(given)
    joined = [recurrent(library, found["ids"]), found["numbers"]]
    inputs = {"text": given["a"], "numbers": given["b"]}
    return library.Model(inputs, library.layers.Concatenate()(joined))


def subclass(library: Any) -> Any:
    class Own(library.Model):
        def __init__(self) -> None:
            super().__init__(name="own")
            self.ids, self.table = words(library), library.layers.Embedding(20, 3)
            self.inner = library.layers.Bidirectional(library.layers.LSTM(2))

        def call(self, x: Any, training: Any = None) -> Any:
            return self.inner(self.table(self.ids(x)))

    model = Own()
    model(tf.constant([["so"]]))
    return model


def own_call(library: Any) -> Any:
    """A functional model that returns other numbers than its graph."""

    class Own(library.Model):
        def call(self, x: Any, training: Any = None, mask: Any = None) -> Any:
            return super().call(x) + 1

    x = text(library)
    return Own(x, recurrent(library, words(library)(x)))


def subclass_inside(library: Any) -> Any:
    inner = subclass(library)
    x = text(library)
    return library.Model(x, library.layers.Dense(2)(inner(x)))


def never_declared(library: Any) -> Any:
    layers = [words(library), library.layers.Embedding(20, 3), library.layers.LSTM(2)]
    model = library.Sequential([library.Sequential(layers[:1]), *layers[1:]])
    model(tf.constant([["so"]]))
    return model


def ids_returned(library: Any) -> Any:
    x = text(library)
    ids = words(library)(x)
    return library.Model(x, [ids, recurrent(library, ids)])


PLACES: dict[str, Callable[[Any], Any]] = {
    "words and letters": words_and_letters,
    "words and hashes": words_and_hashes,
    "one layer twice": one_layer_twice,
    "nested twice": nested_twice,
    "encoder of two inputs": encoder_of_two_inputs,
    "subclass": subclass,
    "own call": own_call,
    "subclass inside": subclass_inside,
    "never declared": never_declared,
    "ids returned": ids_returned,
}
# Keras 3 does not build a Sequential in another one from strings.
CASES = [
    (library, name)
    for library in LIBRARIES
    for name in PLACES
    if (library, name) != (keras, "never declared")
]


def by_name(library: Any) -> str:
    return str(getattr(library, "__name__", library))


def tensors_of(given: Any) -> Any:
    if isinstance(given, dict):
        return {name: tf.constant(value) for name, value in given.items()}
    return tf.constant(given)


def assert_equal_to_keras(model: Any, folder: Any, given: Any) -> None:
    wanted = [np.asarray(one) for one in tf.nest.flatten(model(tensors_of(given), training=False))]
    for backend in ("onnx", "litert"):
        loaded = bilstm_runtime.load(folder, backend=backend)
        for found, array in zip(tf.nest.flatten(loaded.predict(given)), wanted, strict=True):
            np.testing.assert_allclose(found, array, atol=1e-5)
            assert np.asarray(found).dtype == array.dtype
    assert bilstm_runtime.check(folder).passed


@pytest.mark.slow
@pytest.mark.parametrize(("library", "name"), CASES, ids=by_name)
def test_anywhere_in_a_model(library: Any, name: str, tmp_path) -> None:
    library.utils.set_random_seed(1)
    model = PLACES[name](library)
    given: Any = [[one] for one in TEXTS]
    if name in ("words and hashes", "encoder of two inputs"):
        numbers = np.ones((4, 2 if name == "words and hashes" else 3), "f4")
        given = {"text": np.array(given), "numbers": numbers}
    before = [np.asarray(one) for one in tf.nest.flatten(model(tensors_of(given)))]
    export(model, tmp_path / "edge")
    assert_equal_to_keras(model, tmp_path / "edge", given)
    after = [np.asarray(one) for one in tf.nest.flatten(model(tensors_of(given)))]
    assert all(np.array_equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.slow
def test_one_text_under_the_name_that_it_has_in_keras() -> None:
    loaded, _ = read(words_and_letters(keras))
    assert [(one.input, one.source) for one in sorted(loaded.preprocessing, key=str)] == [
        ("text_letters", "text"),
        ("text_words", "text"),
    ]
    assert {one.name for one in loaded.inputs} == {"text_letters", "text_words"}
    assert sorted(loaded.text_layers()) == [
        ("letters", "TextVectorization"),
        ("words", "TextVectorization"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES, ids=by_name)
def test_layers_inside_are_not_layers_of_the_artifacts(library: Any) -> None:
    loaded, _ = read(nested_twice(library))
    assert [(one.input, one.source) for one in loaded.preprocessing] == [("text", None)]
    assert loaded.text_layers() == [("words", "TextVectorization")]
    assert "TextVectorization" not in {kind for _, kind in loaded.layers()}


INTEGERS: dict[str, Callable[[Any], Any]] = {
    "hashing": lambda kl: kl.Hashing(50),
    "hashing, mask and key": lambda kl: kl.Hashing(50, mask_value=0, salt=[3, 2**40]),
    "hashing, one-hot": lambda kl: kl.Hashing(9, output_mode="one_hot", salt=7),
    "hashing, multi-hot": lambda kl: kl.Hashing(9, output_mode="multi_hot", mask_value=-1),
    "hashing, counts": lambda kl: kl.Hashing(9, output_mode="count"),
    "stops": lambda kl: kl.IntegerLookup(vocabulary=[5, -7, SMALLEST], num_oov_indices=0),
}
HASHED_LOOKUPS: dict[str, dict[str, Any]] = {
    "hashed": {},
    "hashed with a key": {"salt": [5, 9]},
    "hashed with a mask": {"mask_token": 0},
    "hashed, counts": {"output_mode": "count", "mask_token": -1},
    "hashed, tf-idf": {"output_mode": "tf_idf", "idf_weights": [0.5, 2.0, 3.0]},
}


def integer_layer(library: Any, name: str) -> Any:
    kl = library.layers
    if name in INTEGERS:
        return INTEGERS[name](kl)
    options = {"vocabulary": [5, -7, 9], "num_oov_indices": 3, "oov_method": "farmhash"}
    return kl.IntegerLookup(**options, **HASHED_LOOKUPS[name])


INTEGER_CASES = [
    *((library, name) for library in LIBRARIES for name in INTEGERS),
    *((keras, name) for name in HASHED_LOOKUPS),  # tf_keras hashes by the remainder only
]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize(("library", "name"), INTEGER_CASES, ids=by_name)
def test_integers(library: Any, name: str, dtype: str, tmp_path) -> None:
    if name == "stops" and dtype == "int32":
        pytest.skip("its vocabulary needs int64")
    limits = np.iinfo(dtype)
    count = 1 if "one-hot" in name else 3
    x = library.Input((count,), dtype=dtype, name="x")
    y = integer_layer(library, name)(x)
    if "int" in tf.as_dtype(y.dtype).name:
        y = library.layers.Embedding(60, 2)(y)
    outputs = library.layers.Dense(2)(library.layers.Flatten()(y))
    model = library.Model(x, outputs)
    export(model, tmp_path / "edge")
    rng = np.random.default_rng(0)
    values = rng.integers(limits.min, limits.max, (30, count), dtype, endpoint=True)
    small = rng.integers(-9, 10, (30, count), dtype)
    ends = np.full((1, count), limits.min, dtype), np.full((1, count), limits.max, dtype)
    given = np.concatenate([values, small, *ends, np.full((1, count), -7, dtype)])
    if name == "stops":
        given = rng.choice(np.array([5, -7, SMALLEST]), (20, count))
        loaded = bilstm_runtime.load(tmp_path / "edge")
        with pytest.raises(bilstm_runtime.InputError, match="'8' is not in the vocabulary"):
            loaded.predict([[8] * count])
    assert_equal_to_keras(model, tmp_path / "edge", given)


@pytest.mark.slow
def test_integers_as_they_are_and_as_hashes(tmp_path) -> None:
    x = keras.Input((3,), dtype="int64", name="x")
    hashed = keras.layers.Hashing(9, name="hashed")(x)
    table = keras.layers.Embedding(9, 2)
    model = keras.Model(x, keras.layers.Concatenate()([table(hashed), table(x)]))
    export(model, tmp_path / "edge")
    given = np.arange(9).reshape(3, 3) % 9
    assert_equal_to_keras(model, tmp_path / "edge", given)
    loaded = bilstm_runtime.load(tmp_path / "edge")
    assert loaded.spec.sources == ("x", "x")
    ids = {"x": given, "x_hashed": np.asarray(keras.layers.Hashing(9)(given))}
    np.testing.assert_array_equal(loaded.predict(ids), loaded.predict({"x": given}))


@pytest.mark.parametrize("library", LIBRARIES, ids=by_name)
def test_settings_that_change_no_value(library: Any) -> None:
    x = text(library, (3,))
    layer = library.layers.StringLookup(vocabulary=WORDS, encoding="latin-1", name="layer")
    loaded, _ = read(library.Model(x, library.layers.Embedding(9, 2)(layer(x))))
    assert loaded.preprocessing[0].vocabulary == tuple(WORDS)
    assert layer.encoding == "latin-1"


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(), (2, 3)], ids=str)
@pytest.mark.parametrize(
    ("library", "name"),
    [(keras, "StringLookup"), (tf_keras, "StringLookup"), (tf_keras, "TextVectorization")],
    ids=by_name,
)
def test_one_id_for_each_string_of_any_shape(library: Any, name: str, shape: Any, tmp_path) -> None:
    x = text(library, shape)
    options = {"split": None} if name == "TextVectorization" else {}
    layer = getattr(library.layers, name)(vocabulary=WORDS, **options)
    table = library.layers.Embedding(9, 2)
    outputs = library.layers.Dense(2)(library.layers.Flatten()(table(layer(x))))
    model = library.Model(x, outputs)
    export(model, tmp_path / "edge")
    given: Any = ["so", "Good!", "x"]
    if shape:
        given = [[["so", "x", "film"], ["a", "good", "so"]]] * 2
    assert_equal_to_keras(model, tmp_path / "edge", given)
    loaded = bilstm_runtime.load(tmp_path / "edge")
    manifest = json.loads((tmp_path / "edge" / "manifest.json").read_text())
    assert manifest["golden_texts"]["cases"] > 1
    assert loaded.spec.text_names == ("text",)


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES, ids=by_name)
def test_sparse_outputs_are_the_same_numbers(library: Any, tmp_path) -> None:
    x = text(library, (3,))
    options = {"vocabulary": WORDS, "output_mode": "multi_hot", "sparse": True}
    model = library.Model(x, library.layers.Dense(2)(library.layers.StringLookup(**options)(x)))
    export(model, tmp_path / "edge")
    assert_equal_to_keras(model, tmp_path / "edge", [["so", "x", "so"], ["film", "y", "z"]])
