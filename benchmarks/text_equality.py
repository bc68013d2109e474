"""Compares the ids that the runtime computes with those of the original tokenizers.

    python benchmarks/text_equality.py [--texts 100000] [--seed 0]
        [--only legacy,tokenizers,layers,layers-of-tf_keras,numbers,integers,places]

Random Unicode texts: words of a vocabulary, upper-cased and lower-cased, punctuation, every kind
of whitespace, characters of all planes, empty texts and long ones. `legacy` compares with the
`Tokenizer` and `pad_sequences` of tf_keras, `tokenizers` with the library of that name, `layers`
with the text layers of Keras 3 with every option, and `layers-of-tf_keras` with those of tf_keras.
`numbers` compares exported files with layers of both that take numbers and stay in the graph,
`integers` compares with layers that hash integers or stop at unknown ones, and `places` compares
exported files of text layers that share an input and stand inside other models.
"""

from __future__ import annotations

import argparse
import random
import re
import string
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras.preprocessing.sequence import pad_sequences
from tf_keras.preprocessing.text import Tokenizer

from bilstm_exporter import export
from bilstm_exporter.frontends.keras2.text import split_off_text as split_off_text_2
from bilstm_exporter.frontends.keras3.text import split_off_text as split_off_text_3
from bilstm_exporter.processing.tokenizers import Length, preprocessing_of, read_tokenizers
from bilstm_runtime import load
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec
from bilstm_runtime.text import RawValue, TextReader, make_encoder

WORDS = [
    *("so", "good", "Film", "it's", "na\u00efve", "Stra\u00dfe", "\u65e5\u672c", "I", "\u0130"),
    *("\U0001f469\u200d\U0001f467", "\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2", "e\u0301"),
    *("\u039f\u0394\u039f\u03a3", "a,b", "x_y", "42"),
]
SPACES = [*" \t\n\v\f\u00a0\u2003\u3000\x1c\x85\u200b", "  ", "\r\n"]
PUNCTUATION = [*"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\u2026\u00bf\u201c\u3002"]
PLANES = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x530), (0x590, 0x700), (0x900, 0xE00),
          (0x1E00, 0x2100), (0x3040, 0x3100), (0x4E00, 0x9FFF), (0xA640, 0xA7FF), (0xE000, 0xFFFF),
          (0x10400, 0x10450), (0x1F300, 0x1FAFF), (0x0, 0x20)]  # fmt: skip


def random_texts(count: int, seed: int = 0) -> Iterator[str]:
    """Yield random texts without lone surrogates."""
    rng = random.Random(seed)
    for _ in range(count):
        parts = []
        for _ in range(rng.choice((0, 1, 2, 5, 10, 30))):
            kind = rng.random()
            if kind < 0.45:
                word = rng.choice(WORDS)
                parts.append(rng.choice((word, word.lower(), word.upper(), word.title())))
            elif kind < 0.65:
                parts.append(rng.choice(SPACES))
            elif kind < 0.8:
                parts.append(rng.choice(PUNCTUATION))
            else:
                low, high = rng.choice(PLANES)
                parts += [chr(rng.randrange(low, high)) for _ in range(rng.choice((1, 3)))]
            if rng.random() < 0.5:
                parts.append(" ")
        yield "".join(parts)


def report(name: str, count: int, wrong: int, start: float) -> None:
    """Print one line of the result."""
    print(f"{name}: {count - wrong:,} of {count:,} equal, {time.perf_counter() - start:.0f} s")


def check_legacy(count: int, seed: int) -> int:
    """Compare with tf_keras; returns the number of texts whose ids differ."""
    settings: list[dict[str, object]] = [
        {},
        {"lower": False},
        {"oov_token": "<oov>"},
        {"num_words": 40},
        {"num_words": 40, "oov_token": "<oov>"},
        {"char_level": True},
        {"char_level": True, "lower": False, "oov_token": "?", "num_words": 100},
        {"filters": "", "lower": False},
        {"filters": "aeiou", "split": "xx"},
        {"split": "o", "oov_token": "good"},
    ]
    lengths = [(None, "pre", "pre"), (5, "pre", "pre"), (12, "post", "pre"), (3, "pre", "post")]
    fitted = list(random_texts(300, seed=seed + 1))
    wrong = total = 0
    start = time.perf_counter()
    spec = ModelSpec("m", (InputSpec("x", "int32", (Axis("batch", None), Axis("time", None))),), ())
    for number, options in enumerate(settings):
        original = Tokenizer(**options)
        original.fit_on_texts(fitted)
        texts = list(random_texts(count // len(settings), seed=seed + 10 + number))
        found = read_tokenizers(original)
        for at, (length, padding, truncating) in enumerate(lengths):
            part = texts[at :: len(lengths)]
            entries, _ = preprocessing_of(found, Length(length, padding, truncating), spec)
            encoder = make_encoder(entries[0])
            wanted = original.texts_to_sequences(part)
            if length is not None:
                wanted = pad_sequences(wanted, length, padding=padding, truncating=truncating)
            for text, ids in zip(part, wanted, strict=True):
                total += 1
                if not np.array_equal(encoder.encode(text, "text"), np.array(ids, np.int64)):
                    wrong += 1
                    if wrong < 4:
                        print("differs:", options, repr(text), file=sys.stderr)
    report("Tokenizer and pad_sequences of tf_keras", total, wrong, start)
    return wrong


def check_tokenizers(count: int, seed: int) -> int:
    """Compare with the library `tokenizers`; returns the number of texts whose ids differ."""
    import tokenizers  # noqa: PLC0415 - an extra
    from tokenizers import (  # noqa: PLC0415
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    corpus = list(random_texts(2000, seed=seed + 2))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    spec = ModelSpec("m", (InputSpec("x", "int32", (Axis("batch", None), Axis("time", None))),), ())
    made = []
    for model, trainer, options in (
        (models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer, {}),
        (models.BPE(unk_token="[UNK]"), trainers.BpeTrainer, {}),
        (models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer, {}),
        (models.Unigram(), trainers.UnigramTrainer, {"unk_token": "[UNK]"}),
    ):
        one = tokenizers.Tokenizer(model)
        one.normalizer = normalizers.BertNormalizer()
        one.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        one.train_from_iterator(
            corpus,
            trainer(special_tokens=special, vocab_size=5000, show_progress=False, **options),
        )
        one.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[(name, one.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
        )
        made.append(one)
    wrong = total = 0
    start = time.perf_counter()
    for number, one in enumerate(made):
        found = read_tokenizers(one)
        for at, (length, padding, truncating) in enumerate(
            [(None, "post", "post"), (8, "pre", "post"), (16, "post", "pre")]
        ):
            entries, files = preprocessing_of(found, Length(length, padding, truncating), spec)
            encoder = make_encoder(entries[0], lambda item, files=files: files[item.file])
            original = tokenizers.Tokenizer.from_str(one.to_str())
            if length is not None:
                sides = {"pre": "left", "post": "right"}
                original.enable_truncation(length, direction=sides[truncating])
                original.enable_padding(
                    direction=sides[padding], pad_id=0, pad_token="[PAD]", length=length
                )
            for text in random_texts(count // 12 + 1, seed=seed + 100 + 3 * number + at):
                total += 1
                wrong += encoder.encode(text, "text").tolist() != original.encode(text).ids
    report("tokenizers", total, wrong, start)
    return wrong


def check_layers(count: int, seed: int, library: Any = keras) -> int:
    """Compare with the layers of Keras; returns the number of texts whose values differ."""
    wrong = total = 0
    start = time.perf_counter()
    layers = list(text_layers(library))
    for number, (layer, shape) in enumerate(layers):
        x = library.Input(shape, dtype="string", name="x")
        outputs = library.layers.Reshape((-1,), dtype="float32")(layer(x))
        (entry,) = split_off_text(library, library.Model(x, outputs))
        encoder = make_encoder(entry)
        texts = list(random_texts(count // len(layers) + 1, seed=seed + 1000 + number))
        for at in range(0, len(texts), 500):
            part = texts[at : at + 500]
            rows = [[text] for text in part]
            if entry.split is None and shape == (3,):
                rows = [(part * 2)[n : n + 3] for n in range(len(part))]
            wanted = np.asarray(layer(tf.constant(rows)))
            for row, values in zip(rows, wanted, strict=True):
                total += 1
                found = encoder.encode(row, "text")
                if entry.output_mode == "int" and found.ndim == 1:
                    found = np.pad(found, (0, len(values) - len(found)))
                if not np.array_equal(found, values):
                    wrong += 1
                    if wrong < 4:
                        print("differs:", layer.get_config(), row, file=sys.stderr)
    report(f"{len(layers)} text layers of {library.__name__}", total, wrong, start)
    return wrong


def split_off_text(library: Any, model: Any) -> tuple[Any, ...]:
    """Return what the manifest says of a model's text layers."""
    split = split_off_text_3 if library is keras else split_off_text_2
    return tuple(split(model).preprocessing)


def cleaned(text: Any) -> Any:
    """Standardize as a tutorial on the classification of texts does."""
    text = tf.strings.regex_replace(tf.strings.lower(text), "<br />", " ")
    return tf.strings.regex_replace(text, f"[{re.escape(string.punctuation)}]", "")


def framed(text: Any) -> Any:
    """Standardize as a tutorial on translation does."""
    text = tf.strings.regex_replace(tf.strings.lower(text), "[^ a-z.?!,\u00bf]", "")
    text = tf.strings.strip(tf.strings.regex_replace(text, "[.?!,\u00bf]", r" \0 "))
    return tf.strings.join(["[START]", text, "[END]"], separator=" ")


def spaced(text: Any) -> Any:
    """Standardize with each kind of class."""
    text = tf.strings.regex_replace(tf.strings.upper(text), r"\s+", " ")
    text = tf.strings.regex_replace(text, r"[^\w\s]{2,3}", r"<\0>")
    return tf.strings.regex_replace(text, "[\u4e00-\u9fff]+.?", r"\0 ab ")


def own_standardizations(
    library: Any, words: list[str]
) -> Iterator[tuple[Any, tuple[int | None, ...]]]:
    """Yield layers with functions that standardize text, and the shape of their input."""
    kl = library.layers
    for function in (cleaned, framed, spaced):
        for split in (None, "whitespace", "character"):
            options = {"standardize": function, "split": split}
            yield kl.TextVectorization(vocabulary=[*words, "[START]"], **options), (1,)
            options["output_mode"] = "count"
            yield kl.TextVectorization(vocabulary=[*words, "[START]"], **options), (1,)


def text_layers(library: Any) -> Iterator[tuple[Any, tuple[int | None, ...]]]:
    """Yield layers with every option that describes text, and the shape of their input."""
    kl = library.layers
    words = [
        "so",
        "good",
        "film",
        "a",
        "\u65e5",
        "\u65e5\u672c",
        "so good",
        "na\u00efve",
        "it's",
        "its",
    ]
    standardize = (None, "lower", "strip_punctuation", "lower_and_strip_punctuation")
    for text in standardize:
        for split in (None, "whitespace", "character"):
            # Keras joins no tokens without a split.
            for ngrams in (None, 2, (1, 3), (2,)) if split else (None,):
                options = {"standardize": text, "split": split, "ngrams": ngrams}
                yield kl.TextVectorization(vocabulary=words, **options), (1,)
                length = {"output_sequence_length": 4}
                yield kl.TextVectorization(vocabulary=words, **options, **length), (1,)
                for mode in ("multi_hot", "count"):
                    options["output_mode"] = mode
                    yield kl.TextVectorization(vocabulary=words, **options), (1,)
                    padded = {"max_tokens": 20, "pad_to_max_tokens": True}
                    yield kl.TextVectorization(vocabulary=words, **options, **padded), (1,)
                weights = [0.1 * n for n in range(1, 11)]
                options["output_mode"] = "tf_idf"
                yield kl.TextVectorization(vocabulary=words, idf_weights=weights, **options), (1,)
    yield from own_standardizations(library, words)
    for mask in (None, "", "so"):
        for buckets in (1, 3, 50):
            options = {"vocabulary": words[1:], "num_oov_indices": buckets, "mask_token": mask}
            yield kl.StringLookup(**options), (1,)
            yield kl.StringLookup(**options), (3,)
            for mode in ("one_hot", "multi_hot", "count"):
                shape = (1,) if mode == "one_hot" else (3,)
                yield kl.StringLookup(output_mode=mode, **options), shape
        for salt in (None, 133, [133, 2**40]):
            options = {"num_bins": 17, "mask_value": mask, "salt": salt}
            yield kl.Hashing(**options), (1,)
            yield kl.Hashing(output_mode="multi_hot", **options), (3,)


def check_numbers(count: int, seed: int) -> int:
    """Compare exported files with layers that take numbers; returns how many values differ."""
    rng = np.random.default_rng(seed)
    integers = rng.integers(-9, 12, (count // 8, 4))
    floats = (10 * rng.standard_normal((count // 8, 4))).astype(np.float32)
    floats[: len(floats) // 4] = np.round(floats[: len(floats) // 4])  # boundaries of bins
    wrong_in_all = 0
    for library in (keras, tf_keras):
        start = time.perf_counter()
        values = {"integers": integers, "classes": abs(integers) % 8, "floats": floats}
        # tf_keras makes one-hot rows of one number for each example only.
        values |= {f"one of {name}": rows[:, :1] for name, rows in values.items()}
        x = {
            name: library.Input(rows.shape[1:], dtype=rows.dtype, name=name)
            for name, rows in values.items()
        }
        made = [layer(x[name]) for name, layer in number_layers(library)]
        model = library.Model(x, made)
        with tempfile.TemporaryDirectory() as folder:
            export(model, folder, overwrite=True)
            wanted = [np.asarray(one) for one in model(values)]
            wrong = total = 0
            for backend in ("onnx", "litert"):
                found = load(folder, backend=backend).predict(values)
                for one, other in zip(found, wanted, strict=True):
                    total += other.size
                    wrong += int(np.sum(abs(one - other) > 1e-6 * (1 + abs(other))))
        report(f"{len(made)} layers of numbers of {library.__name__}", total, wrong, start)
        wrong_in_all += wrong
    return wrong_in_all


def number_layers(library: Any) -> Iterator[tuple[str, Any]]:
    """Yield layers with every option that describes numbers, and the name of their input."""
    kl = library.layers
    modes = ("one_hot", "multi_hot", "count")
    for mask in (None, -1, 0):
        for buckets in (1, 3):
            options = {"vocabulary": [5, -7, 9, 2], "mask_token": mask, "num_oov_indices": buckets}
            yield "integers", kl.IntegerLookup(**options)
            for mode in modes:
                yield rows_for("integers", mode), kl.IntegerLookup(output_mode=mode, **options)
            options |= {"output_mode": "tf_idf", "idf_weights": [0.5, 2.0, 3.0, 0.25]}
            yield "integers", kl.IntegerLookup(**options)
            options = {"output_mode": "multi_hot", "pad_to_max_tokens": True, "max_tokens": 11}
            yield "integers", kl.IntegerLookup(vocabulary=[5, 2], mask_token=mask, **options)
    for mode in modes:
        yield rows_for("classes", mode), kl.CategoryEncoding(8, output_mode=mode)
        bins = kl.Discretization([-4.0, 0.0, 0.5, 7.0], output_mode=mode)
        yield rows_for("floats", mode), bins
    yield "floats", kl.Discretization([-4.0, 0.0, 0.5, 7.0])
    yield "integers", kl.Discretization([-4.0, 0.0, 7.0])
    for axis, mean, variance in (
        (-1, [1.0, 2.0, -3.0, 0.0], [1.0, 4.0, 0.25, 1e-8]),
        (None, 2.0, 9.0),
    ):
        for invert in (False, True):
            settings = {"mean": mean, "variance": variance, "invert": invert}
            yield "floats", kl.Normalization(axis, **settings)
    yield "floats", kl.Rescaling(1 / 127.5, offset=-1.0)
    yield "integers", kl.Rescaling(0.3, offset=7.0)


def check_integers(count: int, seed: int) -> int:
    """Compare with layers that hash integers; returns the number of examples that differ."""
    wrong_in_all = 0
    for library in (keras, tf_keras):
        layers = list(integer_layers(library))
        wrong = total = 0
        start = time.perf_counter()
        for number, (layer, dtype, known) in enumerate(layers):
            x = library.Input((3,), dtype=dtype, name="x")
            (entry,) = split_off_text(library, library.Model(x, layer(x)))
            axes = (Axis("batch", None), Axis(None, entry.size or 3))
            is_id = entry.output_mode == "int"
            spec = InputSpec(entry.input, "int32" if is_id else "float32", axes)
            reader = TextReader(entry, spec, can_pad=False)
            values = random_integers(count // len(layers) + 1, dtype, known, seed + number)
            for at in range(0, len(values), 1000):
                part = values[at : at + 1000]
                found = np.stack(reader.read(RawValue(part)) or [])
                wanted = np.asarray(layer(tf.constant(part)))
                wrong += int(np.sum(np.any(found != wanted, axis=-1)))
                total += len(part)
        report(f"{len(layers)} layers of integers of {library.__name__}", total, wrong, start)
        wrong_in_all += wrong
    return wrong_in_all


def random_integers(count: int, dtype: str, known: list[int] | None, seed: int) -> np.ndarray:
    """Return `[count, 3]` integers: any of the dtype, its ends, small ones, and known ones.

    Args:
        count: The number of examples.
        dtype: The dtype.
        known: The only ones that may occur; None for any.
        seed: The seed.
    """
    rng = np.random.default_rng(seed)
    if known is not None:
        return rng.choice(np.array(known, dtype), (count, 3))
    limits = np.iinfo(dtype)
    values = rng.integers(limits.min, limits.max, (count, 3), dtype, endpoint=True)
    small = rng.integers(-12, 12, (count, 3), dtype)
    ends = rng.choice(
        np.array([limits.min, limits.min + 1, limits.max - 1, limits.max]), (count, 3)
    )
    kind = rng.integers(3, size=(count, 3))
    return np.choose(kind, [values, small, ends]).astype(dtype)


def integer_layers(library: Any) -> Iterator[tuple[Any, str, list[int] | None]]:
    """Yield layers of integers that no file can hold, with the dtype and integers they take."""
    kl = library.layers
    modes = ("int", "multi_hot", "count")
    for dtype in ("int32", "int64"):
        for mask in (None, 0, -1):
            for salt in (None, 133, [133, 2**40]):
                for mode in modes:
                    options = {"num_bins": 17, "mask_value": mask, "salt": salt}
                    yield kl.Hashing(output_mode=mode, **options), dtype, None
    for mask in (None, 0, -1):
        known = [5, -7, 2**63 - 1, -(2**63)]
        for mode in modes:
            options = {"vocabulary": known, "mask_token": mask, "output_mode": mode}
            allowed = known if mask is None else [*known, mask]
            yield kl.IntegerLookup(num_oov_indices=0, **options), "int64", allowed
            for salt in (None, 7, [1, 2]) if library is keras else ():
                options |= {"num_oov_indices": 3, "oov_method": "farmhash", "salt": salt}
                yield kl.IntegerLookup(**options), "int64", None


def check_places(count: int, seed: int) -> int:
    """Compare exported files that take one text for several inputs; returns how many differ."""
    texts = np.array(list(random_texts(count // 4, seed=seed + 5000)))[:, None]
    numbers = random_integers(len(texts), "int64", None, seed)
    wrong_in_all = 0
    for library in (keras, tf_keras):
        start = time.perf_counter()
        model = model_of_places(library)
        given = {"text": texts, "numbers": numbers}
        wanted = {
            name: np.concatenate(parts)
            for name, parts in joined(
                model({key: tf.constant(value[at : at + 1000]) for key, value in given.items()})
                for at in range(0, len(texts), 1000)
            ).items()
        }
        wrong = total = 0
        with tempfile.TemporaryDirectory() as folder:
            export(model, folder, overwrite=True)
            for backend in ("onnx", "litert"):
                found = load(folder, backend=backend).predict(given)
                for name, values in wanted.items():
                    total += len(values)
                    wrong += int(np.sum(np.any(found[name] != values, axis=-1)))
        report(f"{len(wanted)} text layers in places of {library.__name__}", total, wrong, start)
        wrong_in_all += wrong
    return wrong_in_all


def joined(outputs: Iterable[Mapping[str, Any]]) -> dict[str, list[np.ndarray]]:
    """Return the values of several calls by output."""
    found: dict[str, list[np.ndarray]] = {}
    for one in outputs:
        for name, values in one.items():
            found.setdefault(name, []).append(np.asarray(values))
    return found


def model_of_places(library: Any) -> Any:
    """Make a model that returns what text layers make of one text, in different places."""
    kl = library.layers
    words = ["so", "good", "film", "日", "naïve", "it's", "its"]

    class Own(library.Model):
        def __init__(self) -> None:
            super().__init__(name="own")
            self.ids = kl.TextVectorization(
                vocabulary=words, standardize=None, output_sequence_length=9, name="in_a_call"
            )

        def call(self, inputs: Any) -> Any:
            return self.ids(inputs)

    x = library.Input((1,), dtype="string", name="text")
    numbers = library.Input((3,), dtype="int64", name="numbers")
    y = library.Input((1,), dtype="string", name="y")
    letters = kl.TextVectorization(
        vocabulary=list("sogdfilm"), split="character", output_sequence_length=20, name="letters"
    )
    inner = library.Model(y, letters(y), name="inner")
    z = library.Input((1,), dtype="string", name="z")
    outer = library.Model(z, inner(z), name="outer")
    counts = kl.TextVectorization(vocabulary=words, output_mode="count", ngrams=2, name="counts")
    hashes = kl.Hashing(50, salt=9, name="hashes")
    made = {
        "nested": outer(x),
        "counts": counts(x),
        "whole": kl.StringLookup(vocabulary=words, num_oov_indices=5, name="whole")(x),
        "call": Own()(x),
        "hashes": hashes(numbers),
    }
    outputs = {name: kl.Reshape((-1,), dtype="float32")(one) for name, one in made.items()}
    return library.Model({"text": x, "numbers": numbers}, outputs)


def rows_for(name: str, mode: str) -> str:
    """Name the input whose rows a layer takes."""
    return f"one of {name}" if mode == "one_hot" else name


CHECKS: dict[str, Callable[[int, int], int]] = {
    "legacy": check_legacy,
    "tokenizers": check_tokenizers,
    "layers": check_layers,
    "layers-of-tf_keras": partial(check_layers, library=tf_keras),
    "numbers": check_numbers,
    "integers": check_integers,
    "places": check_places,
}


def main() -> int:
    """Run the checks; returns 1 if any text differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=100_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--only", default=",".join(CHECKS), metavar="LIST")
    args = parser.parse_args()
    return int(sum(CHECKS[name](args.texts, args.seed) for name in args.only.split(",")) > 0)


if __name__ == "__main__":
    sys.exit(main())
