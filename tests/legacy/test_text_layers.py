"""Models of tf_keras that begin with text layers: split like those of Keras 3."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from bilstm_exporter import export
from bilstm_exporter.errors import ModelFileError, UntrustedCodeError
from bilstm_exporter.frontends.keras2.text import split_off_text
from bilstm_exporter.frontends.loading import read
from bilstm_runtime import load
from bilstm_runtime.text import make_encoder

WORDS = ["good", "film", "bad", "na\u00efve"]
TEXTS = ["Good film!", "a na\u00efve, bad FILM", "what", "film film\u00a0good bad good film"]
layers = tf_keras.layers


def after(ids):
    """A small classifier of ids."""
    hidden = layers.Embedding(12, 4, mask_zero=True)(ids)
    return layers.Dense(2, "softmax")(layers.Bidirectional(layers.LSTM(3))(hidden))


def vectorized(**options) -> tf_keras.Model:
    text = tf_keras.Input((1,), dtype="string", name="text")
    layer = layers.TextVectorization(**{"vocabulary": WORDS, **options})
    return tf_keras.Model(text, after(layer(text)))


def adapted() -> tf_keras.Model:
    text = tf_keras.Input((1,), dtype="string", name="text")
    layer = layers.TextVectorization(output_sequence_length=5)
    layer.adapt(WORDS)
    return tf_keras.Model(text, after(layer(text)))


def looked_up(vocabulary) -> tf_keras.Model:
    words = tf_keras.Input((6,), dtype="string", name="words")
    numbers = tf_keras.Input((2,), name="numbers")
    found = after(layers.StringLookup(vocabulary=vocabulary, mask_token="")(words))
    joined = layers.concatenate([found, numbers])
    return tf_keras.Model([words, numbers], layers.Dense(2)(joined))


def saved(model, path):
    options = {"save_format": "tf"} if not path.suffix else {}
    model.save(path, **options)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"output_sequence_length": 3},
        {"standardize": "lower", "split": "character", "vocabulary": ["a", "d", "f"]},
        {"standardize": None, "ngrams": 2, "output_sequence_length": 8},
    ],
)
def test_ids_are_those_of_the_layer(options):
    model = vectorized(**options)
    split = split_off_text(model)
    inner, (described,) = split.model, split.preprocessing
    encoder, layer = make_encoder(described), model.layers[1]
    for text in TEXTS:
        ids = encoder.encode(text, "text")
        np.testing.assert_array_equal(ids, layer(tf.constant([[text]]))[0])
        wanted = model(tf.constant([[text]]))
        np.testing.assert_array_equal(inner(ids[None]), wanted)
    assert [one.name for one in inner.inputs] == ["text"]


@pytest.mark.parametrize("options", [{"output_mode": "multi_hot"}, {"output_mode": "count"}])
def test_other_modes_of_output(options):
    text = tf_keras.Input((1,), dtype="string", name="text")
    layer = layers.TextVectorization(vocabulary=WORDS, **options)
    model = tf_keras.Model(text, layers.Dense(2)(layer(text)))
    (described,) = split_off_text(model).preprocessing
    for text in TEXTS:
        found = make_encoder(described).encode(text, "text")
        np.testing.assert_array_equal(found, layer(tf.constant([[text]]))[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize(
    "name",
    [
        "model.h5",
        pytest.param("model.keras", marks=pytest.mark.slow),
        pytest.param("saved", marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_file(tmp_path, name):
    path = saved(vectorized() if name == "model.h5" else adapted(), tmp_path / name)
    model, _ = read(path)
    (described,) = model.preprocessing
    assert set(described.vocabulary) == set(WORDS)
    assert model.text_layers()[0][1] == "TextVectorization"


@pytest.mark.slow
def test_strings_are_hashed_as_by_the_layer():
    words = tf_keras.Input((3,), dtype="string", name="words")
    layer = layers.Hashing(9, mask_value="")
    (described,) = split_off_text(tf_keras.Model(words, after(layer(words)))).preprocessing
    found = make_encoder(described).encode(["good", "", "na\u00efve"], "words")
    np.testing.assert_array_equal(found, layer(tf.constant([["good", "", "na\u00efve"]]))[0])


@pytest.fixture
def with_asset(tmp_path):
    """A SavedModel whose vocabulary is in its own assets; the original file is gone."""
    (tmp_path / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    model = looked_up(str(tmp_path / "words.txt"))
    wanted = np.asarray(model([tf.constant([[*WORDS, "", "x"]]), tf.ones((1, 2))]))
    path = saved(model, tmp_path / "saved")
    (tmp_path / "words.txt").unlink()
    return path, wanted


@pytest.mark.slow
def test_a_vocabulary_in_the_assets_is_read_without_trust(with_asset):
    path, wanted = with_asset
    model, _ = read(path)
    (described,) = model.preprocessing
    assert described.vocabulary == tuple(WORDS)
    ids = make_encoder(described).encode([*WORDS, "", "x"], "words")[None]
    found = model.eager_reference([ids, np.ones((1, 2), np.float32)])
    np.testing.assert_allclose(found[0], wanted, 1e-6, 1e-6)


@pytest.mark.slow
def test_a_vocabulary_is_read_from_nowhere_else(with_asset, tmp_path):
    path, _ = with_asset
    (asset,) = (path / "assets").iterdir()
    secret = tmp_path / "secret.txt"
    secret.write_text("a\nb")
    asset.unlink()
    with pytest.raises(ModelFileError, match=r"has no file 'words.txt' in its folder assets"):
        read(path)
    asset.symlink_to(secret)
    with pytest.raises(ModelFileError, match="leads out of the folder"):
        read(path)


@pytest.mark.slow
def test_a_vocabulary_outside_of_the_file_needs_trust(tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    path = saved(looked_up(str(tmp_path / "words.txt")), tmp_path / "model.keras")
    with pytest.raises(UntrustedCodeError, match="--trust-code"):
        read(path)


@pytest.mark.slow
def test_from_text_to_the_outputs_of_keras(tmp_path):
    model = adapted()
    path = saved(model, tmp_path / "model.keras")
    export(path, tmp_path / "edge")
    shutil.rmtree(path, ignore_errors=True)
    wanted = np.asarray(model(tf.constant([[text] for text in TEXTS])))
    for backend in ("onnx", "litert"):
        found = load(tmp_path / "edge", backend=backend).predict(TEXTS)
        np.testing.assert_allclose(found, wanted, 1e-4, 1e-5)


@pytest.mark.slow
def test_integers_are_looked_up_in_the_files(tmp_path):
    numbers = tf_keras.Input((6,), dtype="int64", name="numbers")
    classes = tf_keras.Input((6,), dtype="int64", name="classes")
    lookup = {"vocabulary": [5, 7, 9], "num_oov_indices": 2}
    weights = {"output_mode": "tf_idf", "idf_weights": [0.5, 2.0, 3.0]}
    outputs = [
        after(layers.IntegerLookup(**lookup)(numbers)),
        layers.IntegerLookup(**lookup, **weights)(numbers),
        layers.CategoryEncoding(8, output_mode="multi_hot")(classes),
        layers.CategoryEncoding(8, output_mode="count")(classes),
    ]
    model = tf_keras.Model([numbers, classes], outputs)
    export(model, tmp_path / "edge")
    x = [np.array([[5, 7, 9, 4, 3, 0]]), np.array([[0, 7, 7, 3, 0, 7]])]
    for backend in ("onnx", "litert"):
        bundle = load(tmp_path / "edge", backend=backend)
        assert bundle.inputs[1].range == (0, 7)  # what the layer asserts
        for found, wanted in zip(bundle.predict(x), model(x), strict=True):
            np.testing.assert_allclose(found, wanted, 1e-4, 1e-5)
