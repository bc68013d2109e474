"""Text layers with every option, and lookups of integers, in whole bundles and against Keras."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.frontends.keras3.text import split_off_text
from bilstm_runtime.text import make_encoder
from bilstm_runtime.text.hashing import bucket, fingerprint64, siphash

WORDS = ["so", "good", "film", "so good", "na\u00efve", "日"]
TEXTS = ["so good, SO bad", "", "good", "film so good film", "na\u00efve 日 日 x" * 9, "!"]


def entry_of(layer: Any, shape: tuple[int | None, ...]) -> Any:
    x = keras.Input(shape, dtype="string", name="text")
    model = keras.Model(x, keras.ops.cast(layer(x), "float32"))
    (entry,) = split_off_text(model).preprocessing
    return entry


VECTORIZATIONS: list[dict[str, Any]] = [
    {"ngrams": 2}, {"ngrams": (1, 3), "output_sequence_length": 4},
    {"ngrams": (2,), "split": "character"}, {"output_mode": "multi_hot"},
    {"output_mode": "count", "max_tokens": 12, "pad_to_max_tokens": True},
    {"output_mode": "tf_idf", "idf_weights": [0.5, 1, 1.5, 2, 2.5, 3], "ngrams": 2},
    {"output_mode": "multi_hot", "split": None}, {"output_mode": "count", "split": "character"},
]  # fmt: skip


@pytest.mark.parametrize("options", VECTORIZATIONS, ids=str)
def test_vectorization(options) -> None:
    layer = kl.TextVectorization(vocabulary=WORDS, **options)
    encoder = make_encoder(entry_of(layer, (1,)))
    wanted = np.asarray(layer(tf.constant([[text] for text in TEXTS])))
    for text, row in zip(TEXTS, wanted, strict=True):
        found = encoder.encode([text], "text")
        assert np.pad(found, (0, len(row) - len(found))).tolist() == row.tolist(), text


def test_joined_strings_that_one_string_does_not_make() -> None:
    layer = kl.TextVectorization(
        vocabulary=WORDS, split=None, ngrams=(2,), output_sequence_length=4
    )
    row = ["So", "good", "film"]
    found = make_encoder(entry_of(layer, (3,))).encode(row, "text")
    assert found.tolist() == np.asarray(layer(tf.constant([row])))[0].tolist()


LOOKUPS: list[tuple[type[keras.Layer], dict[str, Any]]] = [
    *(
        (kl.StringLookup, {"num_oov_indices": n, "mask_token": m})
        for n in (1, 5)
        for m in (None, "x")
    ),
    *((kl.StringLookup, {"output_mode": m, "mask_token": "x"}) for m in ("multi_hot", "count")),
    (kl.StringLookup, {"output_mode": "one_hot", "num_oov_indices": 2}),
    *((kl.Hashing, {"salt": salt}) for salt in (None, 7, [7, 2**40])),
    *((kl.Hashing, {"output_mode": m, "mask_value": "x"}) for m in ("int", "multi_hot", "one_hot")),
]


@pytest.mark.parametrize(("kind", "options"), LOOKUPS, ids=str)
def test_lookup(kind, options) -> None:
    given = {"num_bins": 9} if kind is kl.Hashing else {"vocabulary": WORDS}
    layer = kind(**given, **options)
    encoder = make_encoder(entry_of(layer, (2,)))
    rows = [["so", "x"], ["x", "x"], ["", "good"], ["a" * 70, "ünk"], ["日", "日"]]
    wanted = np.asarray(layer(tf.constant(rows)))
    for row, values in zip(rows, wanted, strict=True):
        assert encoder.encode(row, "text").tolist() == values.tolist(), row


def test_hashes_of_every_length() -> None:
    rng = random.Random(0)
    texts = ["".join(chr(rng.randrange(1, 0xD800)) for _ in range(n)) for n in range(150)]
    fast = tf.strings.to_hash_bucket_fast(texts, 2**60).numpy()
    strong = tf.strings.to_hash_bucket_strong(texts, 2**60, key=[5, 2**62]).numpy()
    assert [bucket(text.encode(), 2**60, None) for text in texts] == fast.tolist()
    assert [bucket(text.encode(), 2**60, (5, 2**62)) for text in texts] == strong.tolist()
    assert fingerprint64(b"") == 0x9AE16A3B2F90404F
    assert siphash(b"", 0, 0) == 0x1E924B9D737700D7


def strings(layer: Any, shape: tuple[int | None, ...]) -> keras.Model:
    return keras.Sequential([keras.Input(shape, dtype="string", name="text"), layer,
                             kl.Embedding(20, 2), kl.Bidirectional(kl.LSTM(2))])  # fmt: skip


def counted(layer: Any, shape: tuple[int | None, ...]) -> keras.Model:
    text = keras.Input(shape, dtype="string", name="text")
    tail = [kl.Dense(4), kl.Reshape((2, 2)), kl.Bidirectional(kl.LSTM(2))]
    return keras.Sequential([text, layer, *tail])


BUNDLES: dict[str, tuple[Callable[[], keras.Model], list[Any]]] = {
    "ngrams": (lambda: strings(kl.TextVectorization(vocabulary=WORDS, ngrams=2), (1,)), TEXTS[2:4]),
    "counts": (
        lambda: counted(kl.TextVectorization(vocabulary=WORDS, output_mode="count"), (1,)),
        TEXTS,
    ),
    "multi-hot strings": (
        lambda: counted(kl.StringLookup(vocabulary=WORDS, output_mode="multi_hot"), (3,)),
        [["so", "x", "so"], ["film", "good", "日"]],
    ),
    "one-hot string": (
        lambda: counted(kl.StringLookup(vocabulary=WORDS, output_mode="one_hot"), (1,)),
        ["so", "x", "日"],
    ),
    "hashes": (lambda: strings(kl.Hashing(20), (None,)), [["so", "x"], ["", "longer than that"]]),
}  # fmt: skip


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.slow
def test_bundles(name, tmp_path) -> None:
    build, texts = BUNDLES[name]
    model = build()
    export(model, tmp_path / "edge")
    wanted = model(tf.constant([[t] if isinstance(t, str) else t for t in texts]), training=False)
    for backend in ("onnx", "litert"):
        loaded = bilstm_runtime.load(tmp_path / "edge", backend=backend)
        for n, text in enumerate(texts):
            row = np.asarray(wanted)[n]
            if name == "ngrams":  # Keras pads the batch, and nothing masks the padding
                row = np.asarray(model(tf.constant([[text]]), training=False))[0]
            np.testing.assert_allclose(loaded.predict([text])[0], row, atol=1e-5)


INTEGERS: dict[str, Callable[[], list[Any]]] = {
    "mask": lambda: [kl.IntegerLookup(vocabulary=[5, -7, 9], mask_token=0), kl.Embedding(9, 3)],
    "several unknown": lambda: [
        kl.IntegerLookup(vocabulary=[9, 5, 7], num_oov_indices=3, mask_token=-1),
        kl.Embedding(9, 3),
    ],
    "invert": lambda: [
        kl.IntegerLookup(vocabulary=[3, 1, 2], invert=True, oov_token=0), kl.Embedding(9, 3),
    ],
    "multi-hot": lambda: [
        kl.IntegerLookup(vocabulary=[5, 7, 9], mask_token=0, output_mode="multi_hot"),
        kl.Reshape((2, 2)),
    ],
    "counts": lambda: [
        kl.IntegerLookup(vocabulary=[5, 7, 9], num_oov_indices=3, output_mode="count"),
        kl.Reshape((3, 2)),
    ],
    "tf-idf": lambda: [
        kl.IntegerLookup(vocabulary=[5, 7, 9], output_mode="tf_idf", idf_weights=[0.5, 2, 3]),
        kl.Reshape((2, 2)),
    ],
    "one-hot": lambda: [kl.IntegerLookup(vocabulary=[5, 7, 9], output_mode="one_hot")],
    "classes": lambda: [kl.CategoryEncoding(num_tokens=8, output_mode="one_hot")],
    "classes, counts": lambda: [
        kl.CategoryEncoding(num_tokens=8, output_mode="count"), kl.Reshape((4, 2)),
    ],
    "classes, sparse": lambda: [
        kl.CategoryEncoding(num_tokens=8, output_mode="multi_hot", sparse=True),
        kl.Dense(6), kl.Reshape((3, 2)),
    ],
    "bins": lambda: [kl.Discretization(bin_boundaries=[0.0, 5.0, 7.0]), kl.Embedding(9, 3)],
    "bins, one-hot": lambda: [kl.Discretization(bin_boundaries=[2.0, 5.0], output_mode="one_hot")],
}  # fmt: skip


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.slow
def test_integers_stay_in_the_graph(name, tmp_path) -> None:
    dtype = "float32" if name.startswith("bins") else "int64"
    x = keras.Input((4,), dtype=dtype, name="x")
    model = keras.Sequential([x, *INTEGERS[name](), kl.Bidirectional(kl.LSTM(2))])
    export(model, tmp_path / "edge")
    low = 0 if name == "invert" or name.startswith("classes") else -9
    values = np.random.default_rng(0).integers(low, 7 if name == "invert" else 8, (40, 4))
    values = np.concatenate([values, [[5, 7, 5, -7 if low else 3]]]).astype(dtype)
    wanted = np.asarray(model(values, training=False))
    for backend in ("onnx", "litert"):
        found = bilstm_runtime.load(tmp_path / "edge", backend=backend).predict(values)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
