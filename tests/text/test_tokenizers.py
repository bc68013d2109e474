"""Tokenizers that are given beside the model: how they are read, and the ids that they make."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from tf_keras.preprocessing.sequence import pad_sequences
from tf_keras.preprocessing.text import Tokenizer

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.cli.export import main
from bilstm_exporter.errors import OptionError
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.processing.tokenizers import Length, preprocessing_of, read_tokenizers
from bilstm_runtime.errors import InputError, InputTypeError, MissingPackageError
from bilstm_runtime.inputs import InputReader
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec
from bilstm_runtime.text import make_encoder

BATCH, TIME = Axis("batch", None), Axis("time", None)
TEXTS = [
    "So good, so bad!",
    "not good at all",
    "It's na\u00efve: \u00c9T\u00c9, \u0130stanbul \u65e5\u672c",
]
ODD = [
    *(*TEXTS, "", "...", "\t", "SO\u00a0good", "x" * 50, "good " * 30),
    *("\u0130good", "4 \u212a k", "\u039f\u0394\u039f\u03a3 \u03a3"),
]


def spec_of(*axes: Axis, dtype: str = "int32", top: int | None = None) -> ModelSpec:
    bounds = None if top is None else (0, top)
    return ModelSpec("m", (InputSpec("ids", dtype, (BATCH, *axes), range=bounds),), ())


def encoder_of(given: Any, *axes: Axis, **length: Any):
    entries, files = preprocessing_of(
        read_tokenizers(given), Length(**length), spec_of(*(axes or (TIME,)))
    )
    return make_encoder(entries[0], lambda item: files[item.file])


def fitted(**options: Any) -> Tokenizer:
    tokenizer = Tokenizer(**options)
    tokenizer.fit_on_texts(TEXTS)
    return tokenizer


# --- Keras's Tokenizer

SETTINGS: list[dict[str, Any]] = [
    {}, {"lower": False}, {"oov_token": "<oov>"}, {"num_words": 4},
    {"num_words": 4, "oov_token": "<oov>"}, {"char_level": True}, {"filters": ""},
    {"char_level": True, "oov_token": "?", "num_words": 9, "lower": False},
    {"filters": "ao", "split": "xx"}, {"split": "o"}, {"split": "\u00e9"}, {"filters": "\u00efG,"},
    {"filters": "SA-t", "split": "-"}, {"filters": "Sok", "lower": False},
]  # fmt: skip


@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize("length", [None, 2, 9])
def test_ids_of_keras(options, length) -> None:
    original = fitted(**options)
    for padding, truncating in (("pre", "post"), ("post", "pre")):
        fit = {"tokens": length, "padding": padding, "truncating": truncating}
        encoder = encoder_of(original, **fit)
        wanted = original.texts_to_sequences(ODD)
        if length:
            wanted = pad_sequences(wanted, length, padding=padding, truncating=truncating)
        for text, ids in zip(ODD, wanted, strict=True):
            assert encoder.encode(text, "text").tolist() == list(ids), text


@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize("padding", ["pre", "post"])
def test_tokens_are_parts_of_the_text_with_their_ids(options, padding) -> None:
    original = fitted(**options)
    encoder = encoder_of(original, tokens=7, padding=padding, truncating=padding)
    for text in ODD:
        ids = encoder.encode(text, "text")
        found = encoder.tokens(text, "text")
        assert found.text == text
        assert [token.step for token in found.tokens] == np.flatnonzero(ids).tolist()
        for token in found.tokens:
            assert token.text == text[token.start : token.end]
        assert [t.start for t in found.tokens] == sorted(t.start for t in found.tokens)


def test_places_in_text_whose_lower_case_is_longer() -> None:
    tokens = (
        encoder_of({"i\u0307a": 1, "b": 2, "\u03b1\u03c2": 3})
        .tokens("\u0130A b \u0391\u03a3", "x")
        .tokens
    )
    assert [(token.text, token.start, token.end) for token in tokens] == [
        ("\u0130A", 0, 2), ("b", 3, 4), ("\u0391\u03a3", 5, 7),
    ]  # fmt: skip


def test_lists_of_tokens() -> None:
    original = fitted(oov_token="?")
    encoder = encoder_of(original)
    words = ["So", "bad", "never"]
    assert encoder.encode(words, "x").tolist() == original.texts_to_sequences([words])[0]
    assert [token.text for token in encoder.tokens(words, "x").tokens] == words


def test_what_is_no_text() -> None:
    encoder = encoder_of(fitted())
    for value, error, message in (
        ("a \ud800", InputError, "lone surrogate"),
        (b"good", InputTypeError, "decode them first"),
        (3, InputTypeError, "expected a str"),
        (["a", 3], InputTypeError, "expected a str"),
    ):
        with pytest.raises(error, match=message):
            encoder.encode(value, "x")


# --- files


def test_files_of_every_kind(tmp_path: Path) -> None:
    original = fitted()
    wanted = encoder_of(original).encode(TEXTS[0], "x").tolist()
    files = {
        "t.json": original.to_json(),
        "twice.json": json.dumps(original.to_json()),
        "index.json": json.dumps(original.word_index),
        "inverse.json": json.dumps(original.index_word),
        "words.txt": "\n".join(["", *original.word_index]) + "\n",
        "list.json": json.dumps(["", *original.word_index]),
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        for given in (tmp_path / name, str(tmp_path / name), [str(tmp_path / name)]):
            assert encoder_of(given).encode(TEXTS[0], "x").tolist() == wanted, name


def test_settings_of_a_table_follow_from_its_tokens() -> None:
    def ids(table: dict[str, int], text: str) -> list[int]:
        return encoder_of(table).encode(text, "x").tolist()

    assert ids({"<pad>": 0, "<UNK>": 1, "so": 2}, "SO, bad") == [2, 1]
    assert ids({"So": 1, "so": 2}, "So so SO") == [1, 2]
    assert ids({"so": 1, ",": 2, "it's": 3}, "so , it's so,") == [1, 2, 3]
    assert ids({"a": 5, "b": 9, "?": 7}, "ab?x") == [5, 9, 7]
    assert encoder_of({"<pad>": 3, "so": 1, "bad": 2}, tokens=3).encode("so", "x").tolist() == [
        3, 3, 1,
    ]  # fmt: skip


def test_a_pickle_is_refused_with_what_writes_it_as_json(tmp_path: Path) -> None:
    (tmp_path / "t.bin").write_bytes(pickle.dumps(fitted()))
    (tmp_path / "t.pickle").write_bytes(b"ccopy_reg\n")
    for name in ("t.bin", "t.pickle"):
        with pytest.raises(OptionError, match=r"is a pickle, .*to_json\(\)") as raised:
            read_tokenizers(tmp_path / name)
        assert "pickle.load(open(" in str(raised.value)


BAD: list[tuple[str, str, str]] = [
    ("x.json", "[1", "not valid JSON"),
    ("x.json", "3", "is not a tokenizer"),
    ("x.json", "{}", "is not a tokenizer"),
    ("x.json", '{"a": "b"}', "is not a tokenizer"),
    ("x.json", '{"class_name": "Tokenizer", "config": {}}', "to_json"),
    ("x.txt", "a\nb\na\n", "the token 'a' twice"),
    ("x.txt", "play\n##ing\n", "give the tokenizer.json"),
    ("x.txt", "", "has no tokens"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=[m for _, _, m in BAD])
def test_bad_files(tmp_path: Path, name, content, message) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(OptionError, match=message):
        read_tokenizers(tmp_path / name)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is not a tokenizer"):
        read_tokenizers({})
    with pytest.raises(OptionError, match=r"none\.json cannot be read"):
        read_tokenizers(tmp_path / "none.json")
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(OptionError, match="not UTF-8"):
        read_tokenizers(tmp_path / "x.txt")
    config = {"word_index": '{"a": 1}', "oov_token": "b"}
    with pytest.raises(OptionError, match=r"oov_token 'b'.* has no id"):
        read_tokenizers({"class_name": "Tokenizer", "config": config})


def test_options() -> None:
    assert ExportOptions(tokenizer={"a": 1}).tokenizer == read_tokenizers({"a": 1})
    for options, message in (
        ({"padding": "left"}, "choose from pre, post"),
        ({"max_tokens": 0}, "at least 1"),
        ({"max_tokens": 3}, "give --tokenizer"),
    ):
        with pytest.raises(OptionError, match=message):
            ExportOptions(**options)


# --- the inputs of the model


def test_ids_that_leave_the_vocabulary() -> None:
    table = read_tokenizers({"a": 1, "b": 9})
    with pytest.raises(OptionError, match="ids up to 9, and the input 'ids' takes ids up to 8"):
        preprocessing_of(table, Length(), spec_of(TIME, top=8))
    assert preprocessing_of(table, Length(), spec_of(TIME, top=9))[0][0].largest_id == 9
    limited = read_tokenizers(fitted(num_words=5))
    preprocessing_of(limited, Length(), spec_of(TIME, top=4))


def test_a_fixed_length_is_that_of_the_ids() -> None:
    fixed = Axis("time", 4)
    assert encoder_of({"a": 1, "b": 2}, fixed).encode("a", "x").tolist() == [0, 0, 0, 1]
    with pytest.raises(OptionError, match="max_tokens: 5; the input 'ids' takes exactly 4"):
        encoder_of({"a": 1}, fixed, tokens=5)


def test_which_input() -> None:
    spec = ModelSpec(
        "m", (InputSpec("a", "int32", (BATCH, TIME)), InputSpec("b", "int32", (BATCH, TIME))), ()
    )
    with pytest.raises(OptionError, match=r"'a', 'b'; name the one"):
        preprocessing_of(read_tokenizers({"x": 1}), Length(), spec)
    with pytest.raises(OptionError, match="no input 'c'; it has 'a', 'b'"):
        preprocessing_of(read_tokenizers({"c": {"x": 1}}), Length(), spec)
    entries, _ = preprocessing_of(read_tokenizers({"b": {"x": 1}}), Length(), spec)
    assert [entry.input for entry in entries] == ["b"]


def test_words_beside_their_characters() -> None:
    words = InputSpec("words", "int32", (BATCH, TIME))
    characters = InputSpec("chars", "int32", (BATCH, TIME, Axis(None, 4)))
    spec = ModelSpec("m", (words, characters), ())
    given = {"words": {"so": 1, "good": 2}, "chars": {c: n for n, c in enumerate("sogdSx", 1)}}
    entries, _ = preprocessing_of(read_tokenizers(given), Length(3, "post", "post"), spec)
    by_input = {entry.input: make_encoder(entry) for entry in entries}
    assert by_input["words"].encode("So, goodness!", "x").tolist() == [1, 0, 0]
    assert by_input["chars"].encode("So, goodness!", "x").tolist() == [
        [5, 2, 0, 0], [3, 2, 2, 4], [0, 0, 0, 0],
    ]  # fmt: skip
    with pytest.raises(OptionError, match="characters of each word"):
        preprocessing_of(read_tokenizers({"chars": {"a": 1}}), Length(), spec)


def test_one_list_of_texts_is_for_words_and_characters() -> None:
    words = InputSpec("words", "int32", (BATCH, TIME))
    characters = InputSpec("chars", "int32", (BATCH, TIME, Axis(None, 4)))
    spec = ModelSpec("m", (words, characters), ())
    given = {"words": {"so": 1, "good": 2}, "chars": {c: n for n, c in enumerate("sogd", 1)}}
    entries, _ = preprocessing_of(read_tokenizers(given), Length(), spec)
    reader = InputReader(replace(spec, preprocessing=entries))
    texts = ["so good", "so", "good so"]
    for column, wanted in zip(
        reader.read(texts).columns, reader.read(dict.fromkeys(given, texts)).columns, strict=True
    ):
        assert [one.tolist() for one in column] == [one.tolist() for one in wanted]
    assert len(reader.read(np.array(texts)).columns) == 2
    for wrong, message in (("so good", "'words' is a single text"), ([b"so"], "holds bytes")):
        with pytest.raises(InputTypeError, match=message):
            reader.read(wrong)
    tags = InputSpec("tags", "int32", (BATCH, TIME))
    reader = InputReader(ModelSpec("m", (words, tags), (), preprocessing=entries[:1]))
    with pytest.raises(InputError, match="the list holds 3 items"):
        reader.read(texts)


# --- whole exports


def tagger(time: int | None = None, vocabulary: int = 20) -> keras.Model:
    x = keras.Input((time,), name="ids")  # float32, as Keras's default
    y = kl.Embedding(vocabulary, 4, mask_zero=True)(x)
    y = kl.Bidirectional(kl.LSTM(3, return_sequences=True))(y)
    return keras.Model(x, kl.Dense(3, activation="softmax")(y))


@pytest.mark.slow
def test_a_bundle_answers_texts(tmp_path: Path, capsys: Any) -> None:
    from bilstm_runtime.cli import run as cli_run

    model, original = tagger(6), fitted()
    model.save(tmp_path / "m.keras")
    (tmp_path / "t.json").write_text(original.to_json())
    (tmp_path / "labels.txt").write_text("O\nB-X\nI-X\n")
    folder = str(tmp_path / "m-edge")
    command = [str(tmp_path / "m.keras"), "--tokenizer", str(tmp_path / "t.json"), "--out", folder]
    command += ["--labels", str(tmp_path / "labels.txt"), "--formats", "onnx", "--quiet"]
    assert main(command) == 0
    loaded = bilstm_runtime.load(folder)
    wanted = model.predict(pad_sequences(original.texts_to_sequences(TEXTS), 6), verbose=0)
    np.testing.assert_allclose(loaded.predict(TEXTS), wanted, atol=1e-5)
    (tags,) = loaded.tag(["SO good; or so"])
    assert [(tag.token, tag.start, tag.end) for tag in tags] == [
        ("SO", 0, 2), ("good", 3, 7), ("so", 12, 14),
    ]  # fmt: skip
    capsys.readouterr()
    assert cli_run.main([folder, "--text", "so good"]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["so", "good"]
    # Too many ids for the embedding.
    (tmp_path / "t.json").write_text(json.dumps({"a": 1, "b": 20}))
    assert main([*command, "--overwrite"]) == 2
    assert "takes ids up to 19" in capsys.readouterr().err


@pytest.mark.slow
def test_a_tokenizer_json_travels_in_the_bundle(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    one = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    one.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    one.train_from_iterator(
        ["so good so bad"] * 3,
        tokenizers.trainers.WordPieceTrainer(
            vocab_size=20, special_tokens=["[PAD]", "[UNK]"], show_progress=False
        ),
    )
    one.save(str(tmp_path / "tokenizer.json"))
    model = tagger(vocabulary=one.get_vocab_size())
    export(
        model, tmp_path / "edge", formats="onnx", tokenizer=tmp_path / "tokenizer.json",
        labels=["a", "b", "c"],
    )  # fmt: skip
    assert (tmp_path / "edge" / "tokenizer.json").is_file()
    loaded = bilstm_runtime.load(tmp_path / "edge")
    text = "so goodness bad"
    wanted = model(np.array([one.encode(text).ids]), training=False)
    np.testing.assert_allclose(loaded.predict([text])[0], wanted[0], atol=1e-5)
    assert [tag.token for tag in loaded.tag([text])[0]] == ["so", "goodness", "bad"]
    export(model, tmp_path / "edge", formats="onnx", overwrite=True, tokenizer=one, max_tokens=4)
    assert loaded.predict([[2, 3]])[0].shape == (2, 3)
    content = (tmp_path / "edge" / "tokenizer.json").read_bytes()
    (tmp_path / "edge" / "tokenizer.json").write_bytes(content + b" ")
    with pytest.raises(bilstm_runtime.BundleError, match=r"tokenizer\.json has .* bytes"):
        bilstm_runtime.load(tmp_path / "edge").predict([text])


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from bilstm_runtime.preprocessing_spec import TokenizerFilePreprocessing

    monkeypatch.setitem(sys.modules, "tokenizers", None)
    item = TokenizerFilePreprocessing(input="x", file="t.json", bytes=2, sha256="0" * 64)
    with pytest.raises(MissingPackageError, match=r'pip install "bilstm-edge\[text\]"'):
        make_encoder(item, lambda _: b"{}").encode("good", "x")


@pytest.mark.parametrize("change", [
    {"word_index": '{"a": Infinity}'}, {"word_index": "[" * 100_000}, {"num_words": [1]},
    {"num_words": float("inf")}, {"filters": 5}, {"word_index": {"a": [1]}},
])  # fmt: skip
def test_settings_of_another_type(change):
    config = {"word_index": {"a": 1}} | change
    with pytest.raises(OptionError, match=r"not what Tokenizer\.to_json"):
        read_tokenizers({"class_name": "Tokenizer", "config": config})


def test_json_in_json_in_lists(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps("[" * 100_000))
    with pytest.raises(OptionError, match="is not a tokenizer"):
        read_tokenizers(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "BPE", "vocab": 7}}, "no vocabulary that can be read"),
        ({"added_tokens": 7}, "no vocabulary that can be read"),
        ({"padding": {"pad_id": -1}}, "has the id -1"),
        ({"padding": {"pad_id": 2**40}}, "ids up to 1099511627776"),
    ],
)
def test_a_tokenizer_file_with_settings_of_another_type(change, message):
    settings = {"pre_tokenizer": None, "model": {"type": "WordLevel", "vocab": {"a": 0}}}
    tokenizers = read_tokenizers(settings | change)
    with pytest.raises(OptionError, match=message):
        preprocessing_of(tokenizers, Length(), spec_of(TIME))
