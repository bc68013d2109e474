"""The bundles that the tests of `web/` run: one of every kind of input, output, padding and state.

    python tests/web/models.py FOLDER

exports all of them into that folder; a second run keeps those that are there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

RECIPES: Final = ("float32", "float16", "int8", "int4")
EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "japanese_vowels.keras"

TEXTS: Final = [
    "so good",
    "so bad",
    "not good at all",
    "it's fine, really",
    "ÉTÉ été",
    "naïve café",
]


def _bilstm(units: int = 8, *, last: bool = False) -> Any:
    from keras import layers

    return layers.Bidirectional(layers.LSTM(units, return_sequences=not last))


def tagger() -> Any:
    """Ids with a mask; a tag for every step."""
    from keras import Input, Model, layers

    x = Input((None,), dtype="int32", name="tokens")
    y = _bilstm()(layers.Embedding(40, 8, mask_zero=True)(x))
    return Model(x, layers.Dense(5, "softmax", name="tags")(y))


def words() -> Any:
    """Text, split at whitespace, of any length."""
    from keras import Input, Sequential, layers

    to_ids = layers.TextVectorization()
    to_ids.adapt(TEXTS)
    size = to_ids.vocabulary_size()
    return Sequential(
        [
            Input((), dtype="string", name="text"),
            to_ids,
            layers.Embedding(size, 8, mask_zero=True),
            _bilstm(last=True),
            layers.Dense(1, "sigmoid", name="mood"),
        ]
    )


def characters() -> Any:
    """Text, split into characters, of a fixed length, without a mask."""
    from keras import Input, Sequential, layers

    to_ids = layers.TextVectorization(
        standardize="lower", split="character", output_sequence_length=12
    )
    to_ids.adapt(TEXTS)
    size = to_ids.vocabulary_size()
    head = [layers.Embedding(size, 8), _bilstm(last=True), layers.Dense(3, name="scores")]
    return Sequential([Input((), dtype="string", name="text"), to_ids, *head])


def lookup() -> Any:
    """A list of words per example, each with a tag."""
    from keras import Input, Model, layers

    vocabulary = ["the", "cat", "sat", "été", "mat"]
    words = Input((None,), dtype="string", name="words")
    ids = layers.StringLookup(vocabulary=vocabulary, mask_token="")(words)
    y = _bilstm()(layers.Embedding(7, 8, mask_zero=True)(ids))
    return Model(words, layers.Dense(4, name="tags")(y))


def meter() -> Any:
    """A stateful model."""
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input((None, 3), batch_size=1, name="x"),
            layers.LSTM(8, return_sequences=True, stateful=True),
            layers.Dense(2, name="y"),
        ]
    )


def pair() -> Any:
    """Two inputs of two dtypes, one of them masked; a dict of outputs with and without time."""
    from keras import Input, Model, layers

    ids, extra = Input((None,), dtype="int32", name="ids"), Input((3,), name="extra")
    embedded = layers.Embedding(30, 8, mask_zero=True)(ids)
    steps, last = _bilstm()(embedded), _bilstm(last=True)(embedded)
    both = layers.Concatenate()([last, extra])
    outputs = {"steps": layers.Dense(3)(steps), "label": layers.Dense(2)(both)}
    return Model({"ids": ids, "extra": extra}, outputs)


def unmasked() -> Any:
    """A classifier for which padding is not neutral."""
    from keras import Input, Model, layers

    x = Input((None, 4), name="x")
    return Model(x, layers.Dense(3, "softmax", name="label")(_bilstm(last=True)(x)))


def pooled() -> Any:
    """An output whose length the model computes."""
    from keras import Input, Model, layers

    x = Input((None, 4), name="x")
    return Model(x, [layers.MaxPooling1D(2)(_bilstm()(x)), layers.GlobalMaxPooling1D()(x)])


def typed() -> Any:
    """Inputs of int64, uint8, bool and float16; outputs of int64 and float32."""
    from keras import Input, Model, layers, ops

    ids = Input((None,), dtype="int64", name="ids")
    image = Input((None, 2), dtype="uint8", name="image")
    flag = Input((None, 1), dtype="bool", name="flag")
    half = Input((None, 2), dtype="float16", name="half")
    floats = [ops.cast(t, "float32") for t in (image, flag, half)]
    y = _bilstm()(layers.Concatenate()([layers.Embedding(20, 4)(ids), *floats]))
    scores = layers.Dense(5, name="scores")(y)
    return Model([ids, image, flag, half], [scores, ops.argmax(scores, axis=-1)])


def batchwise() -> Any:
    """The mean over the batch: rows depend on each other."""
    from keras import Input, Model, ops

    x = Input((None, 4), name="x")
    return Model(x, ops.mean(_bilstm(last=True)(x), axis=0))


def gru() -> Any:
    """A masked GRU with an activation that ONNX has no operator for, so a Scan."""
    from keras import Input, Model, layers

    x = Input((None, 4), name="x")
    cell = layers.GRU(6, activation="gelu", return_sequences=True)
    return Model(x, layers.Bidirectional(cell)(layers.Masking(-1.0)(x)))


def entities() -> Any:
    """Ids of words whose vocabulary stands outside of the model; tags that form spans."""
    from keras import Input, Model, layers

    x = Input((None,), dtype="int32", name="words")
    y = _bilstm()(layers.Embedding(7, 8, mask_zero=True)(x))
    return Model(x, layers.Dense(3, name="tags")(y))


def speech() -> Any:
    """Characters with blanks, as after a training with CTC."""
    from keras import Input, Model, layers

    x = Input((None, 4), name="x")
    y = _bilstm()(layers.Masking(0.0)(x))
    return Model(x, layers.Dense(4, "softmax", name="characters")(y))


def mixed() -> Any:
    """Two texts beside numbers: pairs of words that are counted, a hashed text, and a vector."""
    from keras import Input, Model, layers

    pairs = layers.TextVectorization(output_mode="count", ngrams=2)
    pairs.adapt(TEXTS)
    text = Input((), dtype="string", name="text")
    place = Input((1,), dtype="string", name="place")
    numbers = Input((None, 4), name="numbers")
    parts = [
        pairs(text),
        layers.Flatten()(layers.Embedding(16, 3)(layers.Hashing(16)(place))),
        _bilstm(last=True)(layers.Masking(0.0)(numbers)),
    ]
    inputs = {"text": text, "place": place, "numbers": numbers}
    return Model(inputs, layers.Dense(3, "softmax", name="kind")(layers.Concatenate()(parts)))


def sources() -> Any:
    """Words, framed by a function, and characters of one text; integers that are hashed."""
    from keras import Input, Model, layers

    def framed(text: Any) -> Any:
        import tensorflow as tf

        text = tf.strings.regex_replace(tf.strings.lower(text), r"[^a-z?!]+", " ")
        text = tf.strings.strip(tf.strings.regex_replace(text, "[?!]", r" \0 "))
        return tf.strings.join(["[S]", text, "[E]"], separator=" ")

    words = layers.TextVectorization(standardize=framed, name="words")
    words.adapt(TEXTS)
    letters = layers.TextVectorization(split="character", output_sequence_length=7, name="letters")
    letters.adapt(TEXTS)
    inner_text = Input((), dtype="string", name="inner_text")
    inner = Model(inner_text, words(inner_text), name="inner")
    text = Input((), dtype="string", name="text")
    users = Input((2,), dtype="int64", name="users")
    hashed = layers.Hashing(12, mask_value=0, salt=7, name="hashed")(users)
    parts = [
        _bilstm(last=True)(layers.Embedding(40, 4, mask_zero=True)(inner(text))),
        _bilstm(last=True)(layers.Embedding(40, 4)(letters(text))),
        layers.Flatten()(layers.Embedding(12, 3)(hashed)),
    ]
    inputs = {"text": text, "users": users}
    return Model(inputs, layers.Dense(3, "softmax", name="kind")(layers.Concatenate()(parts)))


def subwords() -> Any:
    """Ids of parts of words, by a `tokenizer.json` beside the model; tags of whole words."""
    from keras import Input, Model, layers

    x = Input((None,), dtype="int32", name="ids")
    y = _bilstm()(layers.Embedding(len(PARTS), 8, mask_zero=True)(x))
    return Model(x, layers.Dense(3, name="tags")(y))


PARTS: Final = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "so",
    "good",
    "##ness",
    "caf",
    "##e",
    "!",
)


def tokenizer_json() -> dict[str, Any]:
    """A WordPiece model of `PARTS`, as the library `tokenizers` writes it."""
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": n, "content": PARTS[n], "special": True, **special} for n in range(4)
        ],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
            "strip_accents": None, "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2],
        },
        "decoder": None,
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {part: n for n, part in enumerate(PARTS)},
        },
    }  # fmt: skip


MODELS: Final[dict[str, Callable[[], Any]]] = {
    build.__name__: build
    for build in (
        tagger, words, characters, lookup, meter, pair, unmasked, pooled, typed, batchwise, gru,
            entities, speech, mixed, sources, subwords,
    )
}  # fmt: skip
if find_spec("tokenizers") is None:  # an extra, without which the file cannot be exported
    del MODELS["subwords"]
OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "speaker": {"formats": ["onnx", "tflite"], "labels": [f"speaker {n}" for n in range(1, 10)]},
    "fixed": {"batch": 3, "time": 9},
    "tagger": {"labels": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]},
    "words": {"labels": ["bad", "good"]},
    "unmasked": {"labels": ["a", "b", "c"], "window": 6, "hop": 2},
    "mixed": {"labels": ["a", "b", "c"]},
    "sources": {"labels": ["a", "b", "c"]},
    "entities": {
        "labels": ["O", "B-X", "I-X"],
        "tokenizer": {"the": 1, "été": 2, "cat": 3, "sat": 4, "on": 5, "mat": 6},
        "max_tokens": 6,
    },
    "subwords": {"labels": ["O", "B-X", "I-X"], "tokenizer": tokenizer_json()},
    "speech": {"labels": ["a", "b", " "], "ctc": "blank=last,beam=5"},
}
"""The options of an export, beside the recipes."""


def export_all(folder: Path) -> None:
    """Export the shipped example as `speaker`, and every model of `MODELS`, as ONNX files.

    The example also as TFLite files.
    """
    import keras

    from bilstm_exporter import export

    for name in ("speaker", "fixed", *MODELS):
        if (folder / name / "manifest.json").is_file():
            continue
        keras.utils.set_random_seed(7)
        model = EXAMPLE if name == "speaker" else MODELS["tagger" if name == "fixed" else name]()
        options = {"formats": ["onnx"], **OPTIONS.get(name, {})}
        export(model, folder / name, recipes=list(RECIPES), **options)


if __name__ == "__main__":
    export_all(Path(sys.argv[1]))
