"""What the Python runtime does with groups, requests, values and texts: cases for other languages.

    python tests/web/make_cases.py

writes web/test/cases.json, which the tests of the ES module read. A request runs on a file that
exists in no format: `Echo` computes its outputs from the shapes and sums of its inputs.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bilstm_runtime.batching import plan_groups
from bilstm_runtime.bundle.codec import encode, manifest_to_json
from bilstm_runtime.bundle.manifest import Artifact, Golden, Manifest, Source
from bilstm_runtime.comparison import Tolerance
from bilstm_runtime.decoding.crf import best_paths, chain_of, log_normalizers
from bilstm_runtime.decoding.labels import labels_of
from bilstm_runtime.decoding.options import DecodingOptions
from bilstm_runtime.decoding.scorers import CharacterNgrams
from bilstm_runtime.decoding.tags import spans_of, tags_of
from bilstm_runtime.decoding.transcriptions import transcriptions_of
from bilstm_runtime.decoding_spec import (
    CrfWeights,
    CtcDecoding,
    Decoding,
    LabelDecoding,
    TagDecoding,
)
from bilstm_runtime.errors import BilstmRuntimeError, DataFileError, InputError
from bilstm_runtime.io.readers import READERS
from bilstm_runtime.predictor import Predictor, RecordingSession
from bilstm_runtime.preprocessing_spec import (
    Characters,
    Fit,
    TextEntry,
    TextPreprocessing,
    TextStep,
    TokenizerPreprocessing,
    WindowPreprocessing,
)
from bilstm_runtime.spec import (
    Axis,
    InputSpec,
    ModelSpec,
    OutputSpec,
    StateSpec,
)
from bilstm_runtime.text.reader import make_encoder
from bilstm_runtime.values import ValueRule
from bilstm_runtime.windows import sliding_windows

FILE: Final = Path(__file__).parents[2] / "web" / "test" / "cases.json"
BATCH, TIME = Axis("batch", None), Axis("time", None)
SERIES = InputSpec("x", "float32", (BATCH, TIME, Axis(None, 2)))
MASKED = InputSpec("x", "float32", (BATCH, TIME, Axis(None, 2)), mask_value=-1.5)
IDS = InputSpec("ids", "int32", (BATCH, TIME), (0, 9), 0)
STEPS = OutputSpec("steps", "float32", (BATCH, TIME, Axis(None, 3)))
LABEL = OutputSpec("label", "float32", (BATCH, Axis(None, 2)))


class Echo:
    """A session whose outputs show what went in, row by row."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """For each output, the sum of the row's inputs times 100, plus the position in the row.

        A free size without a name is half the time, as after pooling; an output without rows has
        the sum of everything.
        """
        rows = len(arrays[0])
        sums = sum(np.asarray(a, np.float64).reshape(rows, -1).sum(axis=1) for a in arrays)
        sizes = {
            axis.name: array.shape[n]
            for spec, array in zip(self._spec.file_inputs, arrays, strict=True)
            for n, axis in enumerate(spec.axes)
        }
        half = sizes.get("time", 2) // 2
        outputs = []
        for spec in self._spec.file_outputs:
            shape = [sizes.get(axis.name or "", axis.size or half) for axis in spec.axes]
            if spec.axes and spec.axes[0].name == "batch":
                inner = np.arange(int(np.prod(shape[1:]))).reshape([1, *shape[1:]])
                value = sums.reshape([rows] + [1] * (len(shape) - 1)) * 100 + inner
            else:
                value = np.sum(sums) + np.arange(int(np.prod(shape))).reshape(shape)
            outputs.append(np.asarray(value, spec.dtype))
        return outputs


def spec(inputs: Sequence[InputSpec], outputs: Sequence[OutputSpec], **others: Any) -> ModelSpec:
    """A model of that many outputs, whose rows are independent."""
    defaults = {
        "output_structure": "single" if len(outputs) == 1 else "list",
        "rows_independent": True,
    }
    return ModelSpec("made", tuple(inputs), tuple(outputs), **{**defaults, **others})


WORDS = TextPreprocessing(
    "ids", "text_vectorization", "lower_and_strip_punctuation", "whitespace", None,
    ("the", "cat", "été", "on"), 2, "", 0, 1,
)  # fmt: skip
CHARACTERS = TextPreprocessing(
    "ids", "text_vectorization", "lower", "character", 6,
    ("a", "b", " ", "\U0001f600", "É"), 2, "", 0, 1,
)  # fmt: skip
WHOLE = TextPreprocessing(
    "ids", "string_lookup", None, None, None, ("", "yes", "no way", "[MASK]"), 1, "[MASK]", 0, None
)  # fmt: skip
STRIP = TextPreprocessing(
    "ids", "string_lookup", "strip_punctuation", "whitespace", 3, ("Ab", "ab"), 1, None, 0, 5
)  # fmt: skip
_OPTIONS: Final = ({
    "buckets": 7,
}, {
    "buckets": 1000, "hash_key": (133137, 9007199254740991), "ngrams": (2, 1),
}, {
    "ngrams": (1, 3), "output_sequence_length": 5,
}, {
    "output_mode": "multi_hot", "size": 6, "ngrams": (1, 2),
}, {
    "output_mode": "count", "size": 6, "split": "character",
}, {
    "output_mode": "tf_idf", "size": 6, "weights": (0.0, 0.1, 1.5, 0.7, 2.25, -1.0),
}, {
    "kind": "hashing", "vocabulary": (), "split": None, "mask_token": "the", "unknown_id": 0,
    "buckets": 1 << 24,
}, {
    "kind": "string_lookup", "split": None, "output_mode": "one_hot", "size": 6,
})  # fmt: skip
OPTIONS: Final = tuple(dataclasses.replace(WORDS, **one) for one in _OPTIONS)

HASHED_INTEGERS: Final = dataclasses.replace(
    OPTIONS[6], input="x_ids", mask_token="-1", padding_id=0, unknown_id=1, buckets=99,
    hash_key=(5, 2**40), source="x", integers="int64", standardize=None,
)  # fmt: skip

_SPACES: Final = (9, 10, 12, 13, 32, 32)
CHANGED: Final = dataclasses.replace(
    WORDS, standardize=None,
    steps=(
        TextStep(kind="upper"), TextStep(kind="lower"),
        TextStep(
            kind="replace", by=(" ", " "), pattern=(Characters(ranges=(33, 33, 63, 63), most=1),)
        ),
        TextStep(
            kind="replace", by=("<",),
            pattern=(
                Characters(ranges=(97, 99), least=2, most=2), Characters(ranges=_SPACES, least=0,
                                                                         most=None),
            ),
        ),
        TextStep(
            kind="replace", by=("",), pattern=(Characters(ranges=(0x1F600, 0x10FFFF), most=1),)
        ),
        TextStep(
            kind="replace", by=(" ",),
            pattern=(Characters(ranges=(0, 8, 14, 31, 33, 64, 0x2000, 0xFFFF), most=None),),
        ),
        TextStep(kind="strip"), TextStep(kind="join", by=("the ", "| on")),
    ),
)  # fmt: skip

_KERAS_FILTERS: Final = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
_KNOWN: Final = ("the", "cat", "été", "on", "i\u0307", "\U0001f600\U0001f600b", "ab")
TOKENIZERS: Final = tuple(
    TokenizerPreprocessing(
        input="ids",
        level=level,
        lower=lower,
        filters=filters,
        separator=separator,
        vocabulary=known,
        ids=ids,
        unknown_id=unknown,
        characters=characters,
        fit=Fit(length=length, padding=padding, truncating=truncating, padding_id=padding_id),
    )
    for level, lower, filters, separator, known, ids, unknown, characters, length, padding,
        truncating, padding_id in (
        ("word", True, _KERAS_FILTERS, " ", _KNOWN, (), 1, None, 4, "pre", "pre", 0),
        ("word", True, _KERAS_FILTERS, " ", _KNOWN, (), None, None, 3, "post", "post", 0),
        ("word", False, "-'", "<>", _KNOWN, (9, 8, 7, 6, 5, 4, 3), 2, None, None, "pre", "pre", 0),
        ("character", True, "", " ", tuple("abcét \U0001f600"), (), 1, None, 5, "pre", "post", 0),
        ("character", False, "", " ", tuple("abcÉT"), (), None, None, None, "post", "pre", 3),
        ("word_characters", True, _KERAS_FILTERS, " ", tuple("abcét"), (), 1, 4, 3,
         "post", "pre", 0),
        ("word_characters", True, ",", " ", tuple("thecaé"), (), None, None, None, "pre", "pre", 0),
    )
)  # fmt: skip
RULES: Final = (WORDS, CHARACTERS, WHOLE, STRIP, *OPTIONS, HASHED_INTEGERS, CHANGED, *TOKENIZERS)

MODELS: Final[dict[str, ModelSpec]] = {
    "masked": spec([MASKED], [STEPS, LABEL], padding_neutral=True),
    "unmasked": spec([SERIES], [LABEL, STEPS], output_structure="list"),
    "pooled": spec(
        [InputSpec("x", "float32", (BATCH, Axis("time", None, 2), Axis(None, 2)))],
        [OutputSpec("half", "float32", (BATCH, Axis(None, None), Axis(None, 2)))],
        padding_neutral=True,
    ),
    "pair": spec(
        [IDS, InputSpec("extra", "float32", (BATCH, Axis(None, 2)))],
        [STEPS, LABEL],
        output_structure="dict",
        padding_neutral=True,
    ),
    "fixed": spec(
        [
            InputSpec(
                "x", "float32", (Axis("batch", 3), Axis("time", 4), Axis(None, 2)), None, 9.0
            ),
        ],
        [OutputSpec("label", "float32", (Axis("batch", 3), Axis(None, 2)))],
        padding_neutral=True,
    ),
    "fixed-unmasked": spec(
        [InputSpec("x", "float32", (Axis("batch", 2), Axis("time", 3), Axis(None, 1)))],
        [OutputSpec("label", "float32", (Axis("batch", 2), Axis(None, 2)))],
        preprocessing=(WindowPreprocessing(input="x", window=3, hop=2),),
    ),
    "mean": spec(
        [MASKED],
        [OutputSpec("mean", "float32", (Axis(None, 3),))],
        rows_independent=False,
        padding_neutral=True,
    ),
    "mean-unmasked": spec(
        [SERIES], [OutputSpec("mean", "float32", ())], rows_independent=False
    ),
    "stateful": spec(
        [InputSpec("x", "float32", (Axis("batch", 1), TIME, Axis(None, 1)))],
        [OutputSpec("y", "float32", (Axis("batch", 1), TIME, Axis(None, 1)))],
        states=(StateSpec("h", "float32", (Axis("batch", 1), Axis(None, 2))),),
    ),
    "words": spec([IDS], [LABEL], padding_neutral=True, preprocessing=(WORDS,)),
    "words-unmasked": spec(
        [InputSpec("ids", "int64", (BATCH, TIME), (0, 9))], [LABEL], preprocessing=(WORDS,)
    ),
    "texts-and-numbers": spec(
        [IDS, InputSpec("extra", "float32", (BATCH, Axis(None, 2)))],
        [STEPS, LABEL],
        padding_neutral=True,
        preprocessing=(WORDS,),
    ),
    "words-and-characters": spec(
        [
            InputSpec("words", "int32", (BATCH, TIME), (0, 9), 0),
            InputSpec("ids", "int32", (BATCH, TIME, Axis("time_2", None)), (0, 9), 0),
        ],
        [STEPS],
        padding_neutral=True,
        preprocessing=(
            dataclasses.replace(TOKENIZERS[0], input="words", fit=Fit(padding="post")),
            dataclasses.replace(TOKENIZERS[5], characters=None, fit=Fit(padding="post")),
        ),
    ),
    "two-texts": spec(
        [IDS, InputSpec("other", "float32", (BATCH, Axis(None, 6)))],
        [LABEL],
        padding_neutral=True,
        preprocessing=(WORDS, dataclasses.replace(OPTIONS[3], input="other")),
    ),
    "hashed": spec(
        [InputSpec("ids", "int64", (BATCH, TIME), (0, 2**24))],
        [LABEL],
        preprocessing=(OPTIONS[6],),
    ),
    "one-text": spec(
        [InputSpec("text_a", "int32", (BATCH, TIME), (0, 9), 0),
         InputSpec("text_b", "int32", (BATCH, Axis("time_2", 6)), (0, 9), 0),
         InputSpec("extra", "float32", (BATCH, Axis(None, 2)))],
        [STEPS, LABEL],
        output_structure="dict",
        padding_neutral=True,
        preprocessing=(
            dataclasses.replace(WORDS, input="text_a", source="text"),
            dataclasses.replace(CHARACTERS, input="text_b", source="text"),
        ),
    ),
    "one-list": spec(
        [InputSpec("a", "int32", (BATCH, TIME), (0, 9), 0),
         InputSpec("b", "float32", (BATCH, Axis(None, 6)))],
        [LABEL],
        padding_neutral=True,
        preprocessing=(
            dataclasses.replace(WHOLE, input="a", source="text"),
            dataclasses.replace(OPTIONS[6], input="b", source="text", output_mode="count", size=6,
                                buckets=6, mask_token=None),
        ),
    ),
    "integers": spec(
        [InputSpec("x_ids", "int32", (BATCH, TIME), (0, 2**24), 0)],
        [STEPS],
        padding_neutral=True,
        preprocessing=(HASHED_INTEGERS,),
    ),
    "integers-and-ids": spec(
        [IDS, InputSpec("known", "int32", (BATCH, TIME), (0, 9), 0)],
        [LABEL],
        preprocessing=(
            dataclasses.replace(
                HASHED_INTEGERS, input="known", kind="string_lookup", source="ids",
                integers="int16", vocabulary=("-7", "3", "5"), buckets=2, unknown_id=1, first_id=3,
            ),
        ),
    ),
    "changed": spec([IDS], [LABEL], padding_neutral=True, preprocessing=(CHANGED,)),
    "lists": spec(
        [InputSpec("ids", "int32", (BATCH, TIME), (0, 9), 0)],
        [STEPS],
        padding_neutral=True,
        preprocessing=(WHOLE,),
    ),
    "shifted-range": spec(
        [InputSpec("ids", "int64", (BATCH, TIME), (3, 9))], [LABEL], padding_neutral=True
    ),
    "images": spec(
        [InputSpec("x", "uint8", (BATCH, TIME, Axis("time_2", None)))],
        [LABEL],
        padding_neutral=True,
    ),
    "value-sizes": spec(
        [MASKED],
        [OutputSpec("cut", "float32", (BATCH, Axis(None, None, from_values=True)))],
        rows_independent=False,
    ),
}  # fmt: skip


def sequences(lengths: Sequence[int], features: int = 2) -> list[Any]:
    """Sequences of those lengths, all of whose values differ."""
    found, start = [], 1
    for length in lengths:
        values = np.arange(start, start + length * features) / 8
        found.append(values.reshape(length, features).tolist())
        start += length * features
    return found


def array(dtype: str, *shape: int) -> dict[str, Any]:
    """An array of 0, 1, ... 6, 0, 1, ..., as the cases write it."""
    return {"dtype": dtype, "shape": list(shape)}


REQUESTS: Final[list[tuple[str, Any, dict[str, Any]]]] = [
    ("masked", sequences([3, 5, 4, 4, 9, 1]), {}),
    ("masked", sequences([3, 3]), {}),
    ("masked", sequences([3, 5, 4, 4, 9, 1]), {"batch_size": 2}),
    ("masked", sequences(list(range(1, 40))), {}),
    ("masked", array("float32", 2, 3, 2), {}),
    ("masked", array("int16", 2, 3, 2), {}),
    ("masked", array("float64", 5, 3, 2), {"batch_size": 2}),
    ("masked", array("float32", 20, 900, 2), {}),
    ("masked", {"x": array("float32", 1, 2, 2)}, {}),
    ("masked", {"y": array("float32", 1, 2, 2)}, {}),
    ("masked", array("float32", 3, 2), {}),
    ("masked", array("float32", 0, 3, 2), {}),
    ("masked", array("float32", 2, 3, 3), {}),
    ("masked", array("bool", 2, 3, 2), {}),
    ("masked", sequences([3, 4])[0], {}),
    ("masked", [], {}),
    ("masked", [[]], {}),
    ("masked", [[[1.0, 2.0], [3.0]]], {}),
    ("masked", "text", {}),
    ("masked", None, {}),
    ("masked", sequences([3, 2]), {"batch_size": 0}),
    ("unmasked", sequences([3, 5, 3, 5, 2, 3]), {}),
    ("unmasked", sequences([3, 5, 3, 5, 2, 3]), {"batch_size": 2}),
    ("pooled", sequences([4, 5, 4, 2]), {}),
    ("pooled", sequences([4, 1]), {}),
    ("pooled", array("float32", 2, 5, 2), {}),
    ("pair", {"ids": [[1, 2, 3], [4]], "extra": [[1.0, 2.0], [3.0, 4.0]]}, {}),
    ("pair", [[[1, 2, 3], [4, 5, 6]], array("float32", 2, 2)], {}),
    ("pair", {"ids": [[1, 2, 3], [4]], "extra": [[1.0, 2.0]]}, {}),
    ("pair", {"ids": [[1, 2], [4]], "extra": [[1.0, 2.0], [3.0]]}, {}),
    ("pair", {"ids": [[1, 12]], "extra": [[1.0, 2.0]]}, {}),
    ("pair", [[[1, 2]]], {}),
    ("pair", {"ids": [[1, 2]]}, {}),
    ("pair", array("int32", 1, 2), {}),
    ("fixed", sequences([4, 4]), {}),
    ("fixed", sequences([4, 2, 3, 1, 4, 4, 3]), {}),
    ("fixed", array("float32", 7, 4, 2), {}),
    ("fixed", array("float32", 2, 3, 2), {}),
    ("fixed", sequences([5]), {}),
    ("fixed", array("float32", 3, 4, 2), {"batch_size": 2}),
    ("fixed-unmasked", array("float32", 3, 3, 1), {}),
    ("fixed-unmasked", array("float32", 2, 2, 1), {}),
    ("mean", sequences([3, 5, 2]), {}),
    ("mean", array("float32", 4, 3, 2), {}),
    ("mean", array("float32", 4, 3, 2), {"batch_size": 2}),
    ("mean-unmasked", sequences([3, 5, 2]), {}),
    ("mean-unmasked", sequences([3, 3, 3]), {}),
    ("stateful", array("float32", 1, 3, 1), {}),
    ("stateful", array("float32", 2, 3, 1), {}),
    ("words", ["The cat", "on", "", "  été, THE\u00a0cat!  ", "?!"], {}),
    ("words", [["the cat"], ["on on"]], {}),
    ("words", [[1, 2, 3], [2]], {}),
    ("words", "the cat", {}),
    ("words", ["the", 3], {}),
    ("words", [["the", "cat"]], {}),
    ("words-unmasked", ["the cat on", "on"], {}),
    ("words-unmasked", ["the", ""], {}),
    ("texts-and-numbers", {"ids": ["the cat", "on"], "extra": array("float32", 2, 2)}, {}),
    ("texts-and-numbers", [["the cat", "on", ""], [[1, 2], [3, 4], [5, 6]]], {}),
    ("texts-and-numbers", ["the cat", "on"], {}),
    ("texts-and-numbers", {"ids": ["the cat"], "extra": array("float32", 2, 2)}, {}),
    ("words-and-characters", ["The cat, on!", "été"], {}),
    ("words-and-characters", {"words": ["the cat", "on"], "ids": ["the cat", "on"]}, {}),
    ("words-and-characters", {"words": ["the cat"], "ids": ["the"]}, {}),
    ("words-and-characters", [["the"], ["the"]], {}),
    ("words-and-characters", [["the", "cat", "on"], ["a", "b"]], {}),
    ("two-texts", ["the cat", "on the on", ""], {}),
    ("two-texts", {"ids": ["the cat", "on"], "other": ["?", "on"]}, {}),
    ("two-texts", {"ids": ["the cat", "on"], "other": array("float32", 2, 6)}, {}),
    ("hashed", [["yes", "the", "é"], ["a", "b"]], {}),
    ("hashed", [["yes", "the"], ["a"]], {}),
    ("one-text", {"text": ["The cat", "on"], "extra": array("float32", 2, 2)}, {}),
    ("one-text", [["The cat", "on"], [[1.0, 2.0], [3.0, 4.0]]], {}),
    ("one-text", {"text_a": [[1, 2]], "text_b": [[1] * 6], "extra": [[1.0, 2.0]]}, {}),
    ("one-text", {"text_a": ["cat on"], "text_b": ["ab"], "extra": [[1.0, 2.0]]}, {}),
    ("one-text", {"text": ["The cat"], "text_b": ["ab"], "extra": [[1.0, 2.0]]}, {}),
    ("one-text", ["The cat", "on", "on"], {}),
    ("one-text", {"text": [3], "extra": [[1.0, 2.0]]}, {}),
    ("one-list", [["yes", "no way"], ["", "[MASK]", "yes"]], {}),
    ("one-list", [["yes", 3]], {}),
    ("one-list", {"text": [["yes"], [""]]}, {}),
    ("one-list", [[[1, 2]], array("float32", 1, 6)], {}),
    ("integers", [[1, -1, 300], [-9007199254740991]], {}),
    ("integers", {"x": [[1, -1], [2, 2]]}, {}),
    ("integers", {"x_ids": [[1, 0], [2, 2]]}, {}),
    ("integers", array("int64", 2, 4), {}),
    ("integers", array("int16", 2, 4), {}),
    ("integers", array("float32", 2, 4), {}),
    ("integers", [[1, 2.5]], {}),
    ("integers", [[1], []], {}),
    ("integers", [["a"]], {}),
    ("integers", [1, 2], {}),
    ("integers", array("int64", 2, 1, 1), {}),
    ("integers-and-ids", [[3, 5, 9], [0, 0, 1]], {}),
    ("integers-and-ids", {"ids": [[3, 5], [9, 9]]}, {}),
    ("integers-and-ids", {"ids": [[3, 5]], "known": [[1, 2]]}, {}),
    ("integers-and-ids", {"ids": [[3, 40000]]}, {}),
    ("changed", ["The CAT!", "aB  on", ""], {}),
    ("lists", [["yes", "no way"], ["", "[MASK]", "yes"]], {}),
    ("lists", ["yes", "no way"], {}),
    ("lists", [["yes", "maybe"]], {}),
    ("shifted-range", [[3, 4], [5, 6, 7], [9]], {}),
    ("shifted-range", [[0, 4]], {}),
    ("images", [[[1, 2], [3, 4]], [[5, 6, 7]], [[8], [9], [10]]], {}),
    ("images", [[[1, 256]]], {}),
    ("images", [[[1.5]]], {}),
    ("value-sizes", sequences([4, 4]), {}),
    ("value-sizes", sequences([4, 3]), {}),
]

WINDOWS: Final[list[tuple[str, Any, dict[str, Any]]]] = [
    ("fixed-unmasked", array("float32", 8, 1), {}),
    ("fixed-unmasked", array("float32", 8, 1), {"hop": 3}),
    ("pooled", array("float32", 8, 2), {"window": 1}),
    ("fixed", array("float32", 11, 2), {}),
    ("fixed", array("float64", 11, 2), {"hop": 3}),
    ("fixed", array("int16", 4, 2), {"window": 4, "hop": 9}),
    ("fixed", array("float32", 11, 2), {"window": 5}),
    ("fixed", array("float32", 3, 2), {}),
    ("fixed", array("float32", 1, 4, 2), {}),
    ("fixed", array("float32", 11, 2), {"hop": 0}),
    ("masked", array("bool", 5, 2), {"window": 3, "hop": 1}),
    ("masked", sequences([7])[0], {"window": 2}),
    ("masked", array("float32", 5, 2), {}),
    ("masked", array("float32", 5, 2), {"window": 1.5}),
    ("masked", array("int64", 5), {"window": 2}),
    ("words", array("int64", 7), {"window": 3}),
    ("words", "the cat", {"window": 3}),
    ("pair", array("int32", 9), {"window": 2}),
]

TEXTS: Final = [
    "", " ", "the cat", "The CAT's on!", "été ÉTÉ e\u0301te\u0301", "a\tb\nc\vd\fe\rf g",
    "the\u00a0cat", "the\u2003cat\u3000on", "the\x85cat", "the\x00cat", "\x1cthe\x1fcat",
    "\U0001f600\U0001f600b", "\U0001f468\u200d\U0001f469", "İı \u017f K Σς ẞß", "¿qué? … “the” 。",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "a-b c_d", "[MASK]", "yes", "no way",
    "Ab ab aB", "\ufeffthe",
    "ab ab ab ab", "the" * 50, "\ud800", "a\udc00b", "the cat on the été", "\n", "É", "aÉ b",
    "yes!", "abc d" * 8, "é" * 70,
]  # fmt: skip

VALUES: Final[list[tuple[str, list[Any] | None, Any, str, list[Any]]]] = [
    # dtype, range, mask value, dtype of the values, values
    ("float32", None, None, "float64", [0.1, 1e-50, 3.4028235e38, -0.0]),
    ("float32", None, None, "float64", [3.5e38]),
    ("float32", None, None, "float64", ["NaN"]),
    ("float32", None, None, "float64", ["Infinity"]),
    ("float32", None, "NaN", "float64", [1.0, "NaN"]),
    ("float32", None, "-Infinity", "float64", [1.0, "-Infinity"]),
    ("float32", [-1.0, 1.0], None, "float64", [-1.0, 0.5, 1.0]),
    ("float32", [-1.0, 1.0], None, "float64", [1.5]),
    ("float32", None, None, "int64", [16777216, -16777218]),
    ("float32", None, None, "int64", [16777217]),
    ("float32", None, None, "bool", [True]),
    ("float16", None, None, "float64", [0.1, 65504.0, 65519.0, 1e-8, 3e-8, 6.1e-5, -2.0009765625]),
    ("float16", None, None, "float64", [65520.0]),
    ("float16", None, None, "float32", [0.333, 1.0009765625, 1.00048828125, 1.00146484375]),
    ("float16", None, None, "int32", [2048, 2050]),
    ("float16", None, None, "int32", [2049]),
    ("float64", None, None, "int64", [9007199254740992]),
    ("int32", [0, 9], 0, "float64", [0.0, 9.0]),
    ("int32", [0, 9], 0, "float64", [0.5]),
    ("int32", [0, 9], 0, "float64", ["NaN"]),
    ("int32", [0, 9], 0, "int64", [10]),
    ("int32", [0, 9], 0, "int64", [-1]),
    ("int32", None, None, "float64", [2147483647.0, -2147483648.0]),
    ("int32", None, None, "float64", [2147483648.0]),
    ("int32", None, None, "float64", ["Infinity"]),
    ("int64", None, None, "float64", [9223372036854774784.0]),
    ("int64", None, None, "float64", [9223372036854775808.0]),
    ("uint8", None, None, "int32", [0, 255]),
    ("uint8", None, None, "int32", [256]),
    ("uint8", None, None, "int32", [-1]),
    ("bool", None, None, "bool", [True, False]),
    ("bool", None, None, "int32", [1]),
]

GROUPS: Final = [
    ([[n % 11 + 1] for n in range(0, 77, 5)], 3),
    ([[n * n % 37 + 1] for n in range(50)], None),
    ([[5], [5], [5], [1], [100]], None),
    ([[n % 3 + 1, n * 7 % 5 + 1] for n in range(30)], None),
    ([[7]], 1),
]


def _plain(array: Any) -> dict[str, Any]:
    values = [_number(value) for value in array.reshape(-1).tolist()]
    return {"dtype": str(array.dtype), "shape": list(array.shape), "data": values}


def _number(value: Any) -> Any:
    if isinstance(value, float) and not np.isfinite(value):
        return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return str(value) if type(value) is int and abs(value) > 2**53 else value


def _given(value: Any) -> Any:
    """Turn the objects of `array` into arrays."""
    if isinstance(value, dict) and set(value) == {"dtype", "shape"}:
        count = int(np.prod(value["shape"]))
        return (np.arange(count) % 7).astype(value["dtype"]).reshape(value["shape"])
    if isinstance(value, dict):
        return {name: _given(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_given(item) for item in value]
    return value


def _attempt(compute: Callable[[], Any]) -> dict[str, Any]:
    """Return `{"value": ...}`, or `{"error": class}` for an error of the runtime."""
    try:
        return {"value": compute()}
    except BilstmRuntimeError as error:
        # JavaScript has no TypeError of its own for a value that is never converted.
        name = type(error).__name__
        return {"error": "InputError" if isinstance(error, InputError) else name}


def _request(model: ModelSpec, x: Any, options: dict[str, Any]) -> dict[str, Any]:
    session = RecordingSession(Echo(model))
    predictor = Predictor(model, session, label="made.onnx")

    def run() -> Any:
        # A stateful model is called twice, so that the second call has the states of the first.
        calls = [predictor.predict(_given(x), **options) for _ in range(2 if model.states else 1)]
        outputs = calls[-1]
        if isinstance(outputs, dict):
            outputs = list(outputs.values())
        elif model.output_structure == "single":
            outputs = [outputs]
        return {
            "runs": [list(map(_digest, run)) for run in session.runs],
            "outputs": [
                list(map(_digest, output)) if isinstance(output, list) else _digest(output)
                for output in outputs
            ],
        }

    return _attempt(run)


def _windows(model: ModelSpec, recording: Any, options: dict[str, Any]) -> dict[str, Any]:
    def cut() -> Any:
        chosen = {"window": None, "hop": None, **options}
        windows, starts = sliding_windows(_given(recording), model, **chosen)
        return {"windows": _plain(windows), "starts": starts}

    return _attempt(cut)


def _digest(array: Any) -> dict[str, Any]:
    """The array itself, or of a large one its shape and a weighted sum."""
    if array.size <= 400:
        return _plain(array)
    weights = np.arange(1, array.size + 1) % 1009
    total = float((array.reshape(-1).astype(np.float64) * weights).sum())
    return {"dtype": str(array.dtype), "shape": list(array.shape), "sum": total}


def _manifest(model: ModelSpec) -> Any:
    """The manifest of a bundle whose only file has no bytes."""
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    names = (
        tuple(item.name for item in model.file_inputs),
        tuple(item.name for item in model.file_outputs),
    )
    return json.loads(
        manifest_to_json(
            Manifest(
                model,
                Source("made.keras", "0" * 64, "keras3"),
                (Artifact("made.onnx", "onnx", "float32", 0, empty, *names),),
                Golden("golden.npz", 0, empty, 1),
                Tolerance(1e-5, 1e-4),
                "float32",
            )
        )
    )


def _special(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def _wav(
    samples: Any, kind: int = 1, rate: int = 8000, *, size: int | None = None, rf64: bool = False
) -> bytes:
    """A WAV file of `[samples, channels]`; `size` is what its header announces."""
    width, channels = samples.itemsize, samples.shape[1]
    frame = width * channels
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * frame, frame, 8 * width)
    if kind == 0xFFFE:
        form += struct.pack("<HHIH14x", 22, 8 * width, 0, 3)
    data = samples.tobytes()
    announced = 0xFFFFFFFF if rf64 else len(data) if size is None else size
    body = b"fmt " + struct.pack("<I", len(form)) + form + b"LIST\x03\0\0\0abc\0"
    body += b"data" + struct.pack("<I", announced) + data
    if rf64:
        body = b"ds64" + struct.pack("<IQQQI", 28, 0, len(data), len(samples), 0) + body + b"LIST"
    return (b"RF64" if rf64 else b"RIFF") + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def _recordings() -> list[dict[str, Any]]:
    """WAV files, with the samples that the model takes or the message of the error."""
    rng = np.random.default_rng(5)
    short = np.array([[0, -32768], [32767, 256]], "<i2")
    floats = rng.normal(size=(4, 1)).astype("<f4")
    mono = InputSpec("wave", "float32", (BATCH, TIME), sample_rate=8000)
    stereo = dataclasses.replace(mono, axes=(BATCH, TIME, Axis(None, 2)))
    plain = _wav(floats, 3)
    files = [
        (_wav(short), stereo), (plain, mono), (_wav(floats.astype("<f8"), 3), mono),
        (_wav(floats, 0xFFFE), mono), (_wav(floats, 3, size=0xFFFFFFFF), mono),
        (_wav(floats, 3, rf64=True), mono), (_wav(floats, 3, rf64=True)[:-9], mono),
        (plain[:-3], mono), (plain[:50], mono), (plain[:30], mono), (b"RIFF", mono),
        (_wav(floats, 3, size=7), mono), (_wav(floats[:0], 3), mono),
        (_wav(floats[:, :0], 3), mono),
        (_wav(floats, 6), mono), (_wav(short.view("i1")), mono), (plain, stereo),
        (_wav(floats, 3, 44100), mono), (plain, dataclasses.replace(mono, sample_rate=None)),
        (plain, IDS),
    ]  # fmt: skip
    found = []
    for content, one in files:
        case: dict[str, Any] = {"content": content.hex(), "input": encode(one)}
        case["input"].setdefault("sample_rate", None)
        try:
            samples = READERS["wav"](content, [one], "clip.wav")[one.name]
            case |= {"shape": list(samples.shape), "samples": samples.reshape(-1).tolist()}
        except DataFileError as error:
            case["error"] = str(error)
        found.append(case)
    return found


def make_cases() -> dict[str, Any]:
    """All cases, as written to the file."""
    groups = []
    for sizes, limit in GROUPS:
        for pad, together in ((True, False), (False, False), (True, True), (False, True)):
            table = np.array(sizes, np.int64).reshape(len(sizes), -1)
            found = plan_groups(table, pad=pad, limit=limit, together=together)
            groups.append(
                {"sizes": sizes, "limit": limit, "pad": pad, "together": together,
                 "groups": [group.tolist() for group in found]}
            )  # fmt: skip
    texts = [{"rule": _rule(rule), "cases": _texts(rule)} for rule in RULES]
    values = [_values(*case) for case in VALUES]
    requests = [
        {"model": name, "x": x, "options": options, **_request(MODELS[name], x, options)}
        for name, x, options in REQUESTS
    ]
    windows = [
        {"model": name, "recording": recording, "options": options,
         **_windows(MODELS[name], recording, options)}
        for name, recording, options in WINDOWS
    ]  # fmt: skip
    manifests = {name: _manifest(model) for name, model in MODELS.items()}
    return {
        "groups": groups, "texts": texts, "values": values, "decodings": _decodings(),
        "manifests": manifests, "requests": requests, "windows": windows,
        "recordings": _recordings(),
    }  # fmt: skip


def _texts(rule: TextEntry) -> list[Any]:
    encoder = make_encoder(rule)

    def read(text: str) -> dict[str, Any]:
        found = _attempt(lambda: encoder.encode(text, "text").tolist())
        # An unknown word is an error of `encode` only.
        if "value" in found:
            sequence = encoder.tokens(text, "text")
            found["tokens"] = [[one.text, one.step] for one in sequence.tokens]
        return found

    return [{"text": text, **read(text)} for text in TEXTS]


def _values(
    dtype: str, bounds: list[Any] | None, mask: Any, given: str, numbers: list[Any]
) -> dict[str, Any]:
    limits = None if bounds is None else (bounds[0], bounds[1])
    item = InputSpec("x", dtype, (BATCH,), limits, None if mask is None else _special(mask))
    array = np.array([_special(n) for n in numbers], given)
    return {
        "dtype": dtype, "range": bounds, "mask_value": mask, "given": given,
        "numbers": [_number(n) for n in numbers],
        **_attempt(lambda: _plain(ValueRule(item).convert(array, "x"))),
    }  # fmt: skip


def _rule(rule: TextEntry) -> Any:
    return encode(rule) | {"kind": rule.kind}


TAGS: Final = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
BILOU: Final = ("O", "B-X", "I-X", "L-X", "U-X")
DECODINGS: Final[list[tuple[Decoding, list[int], dict[str, Any]]]] = [
    (LabelDecoding(output="y", labels=("a", "b", "c")), [4, 3], {}),
    (LabelDecoding(output="y", labels=("a", "b", "c"), activation="softmax"), [4, 3], {"top_k": 2}),
    (
        LabelDecoding(output="y", labels=("no", "yes"), activation="sigmoid", threshold=0.3),
        [6, 1], {},
    ),
    (LabelDecoding(output="y", labels=("no", "yes"), threshold=0.5), [6], {"threshold": 0.2}),
    (
        LabelDecoding(
            output="y", labels=("a", "b", "c"), exclusive=False, activation="sigmoid", threshold=0.5
        ),
        [5, 3], {},
    ),
    (
        LabelDecoding(output="y", labels=("a", "b", "c"), exclusive=False, threshold=0.1),
        [5, 3], {"top_k": 1},
    ),
    (TagDecoding(output="y", labels=TAGS, activation="softmax", scheme="bio"), [2, 9, 5], {}),
    (TagDecoding(output="y", labels=BILOU, scheme="bilou"), [2, 9, 5], {}),
    (
        TagDecoding(output="y", labels=("x", "y"), activation="sigmoid", threshold=0.6),
        [2, 4, 1], {},
    ),
    (TagDecoding(output="y", labels=("x", "y"), threshold=0.6), [2, 9, 1], {"threshold": 0.25}),
] + [
    (
        TagDecoding(
            output="y",
            labels=labels,
            scheme=scheme,
            crf=CrfWeights(
                transitions=tuple(
                    tuple(((i * 7 + j * 3) % 11 - 5) / 4 for j in range(5)) for i in range(5)
                ),
                start=start, end=end, constrained=constrained,
            ),
        ),
        [3, 8, 5], {},
    )
    for labels, scheme, start, end, constrained in (
        (TAGS, "bio", None, None, False),
        (TAGS, "bio", (0.5, 1.0, 2.0, -1.0, 0.0), (1.0, -1.0, 0.0, 3.0, 0.1), True),
        (BILOU, "bilou", None, (0.0, 0.0, 2.0, 0.0, 0.0), True),
    )
] + [
    (
        CtcDecoding(output="y", labels=("a", "b", " ", ""), blank=3, activation="softmax"),
        [3, 12, 4], {},
    ),
    (CtcDecoding(output="y", labels=("", "b", "c"), blank=0), [2, 9, 3], {}),
    (CtcDecoding(output="y", labels=("", "b", "c"), blank=0, merge_repeated=False), [2, 9, 3], {}),
    (
        CtcDecoding(
            output="y", labels=tuple("abcdef "), blank=6, activation="softmax", beam_width=3
        ),
        [9, 25, 7], {},
    ),
    (CtcDecoding(output="y", labels=("", "b", "c"), blank=0), [6, 14, 3], {"beam_width": 2}),
    (
        CtcDecoding(
            output="y", labels=tuple("abcde "), blank=5, activation="softmax", beam_width=25
        ),
        [4, 20, 6], {"top_k": 4},
    ),
]  # fmt: skip

_LETTERS: Final = CtcDecoding(
    output="y", labels=("a", "b", "c", " ", "é😀", ""), blank=5, activation="softmax"
)
_WORDS: Final = ("ab", "abc", "ca", "cé😀", "b", "")
_TEXTS: Final = ("ab ca", "ba é😀a", "abcabc", "", "c")
"""What a scorer is made of, with the options of `CharacterNgrams`; None for words."""
SCORED: Final[list[tuple[CtcDecoding, list[int], dict[str, Any], dict[str, Any]]]] = [
    (_LETTERS, [4, 14, 6], {}, {"words": _WORDS}),
    (_LETTERS, [4, 14, 6], {"top_k": 3, "beam_width": 8}, {"words": _WORDS}),
    (
        CtcDecoding(output="y", labels=("a", "b", "c", ""), blank=3, beam_width=5),
        [4, 9, 4], {}, {"words": ("abc", "cab", "b")},
    ),
    (_LETTERS, [1, 3, 6], {}, {"words": ("abcabcabc",)}),
    (_LETTERS, [4, 14, 6], {"top_k": 2}, {"texts": _TEXTS}),
    (_LETTERS, [4, 14, 6], {"beam_width": 6}, {"texts": _TEXTS, "order": 1, "weight": 0.5}),
    (_LETTERS, [4, 14, 6], {"beam_width": 6}, {"texts": _TEXTS, "order": 4, "weight": 2.0}),
]  # fmt: skip


def _scorer(labels: Sequence[str], given: dict[str, Any]) -> Any:
    if "words" in given:
        return given["words"]
    options = {key: value for key, value in given.items() if key != "texts"}
    return CharacterNgrams(labels, given["texts"], **options)


def _decodings() -> list[Any]:
    """The answers for random values, with equal ones among them."""
    rng = np.random.default_rng(11)
    found = []
    plain = [(*one, {}) for one in DECODINGS]
    for decoding, shape, options, known in [*plain, *SCORED]:
        is_score = decoding.activation is None and getattr(decoding, "crf", None) is None
        values = (rng.integers(0, 9, shape) / 8 if is_score else rng.normal(size=shape) * 2).astype(
            np.float32
        )
        case = {"decoding": encode(decoding) | {"kind": decoding.kind}, "options": options,
                "output": _plain(values), "known": known}  # fmt: skip
        scorer = _scorer(decoding.labels, known) if known else None
        chosen = DecodingOptions(**options, scorer=scorer)
        if isinstance(decoding, LabelDecoding):
            case["answers"] = [
                [[one.label, one.score] for one in row]
                for row in labels_of(values, decoding, chosen)
            ]
        elif isinstance(decoding, CtcDecoding):
            case["answers"] = [
                [[one.text, one.score] for one in row]
                for row in transcriptions_of(list(values), None, decoding, chosen)
            ]
        else:
            tags = tags_of(list(values), None, chosen.applied(decoding))
            case["answers"] = [[[one.tag, one.score] for one in row] for row in tags]
            case["spans"] = [
                [[one.label, one.start, one.end, one.score] for one in spans_of(row, None)]
                for row in tags
            ]
            if decoding.crf is not None:
                case["crf"] = _chain_scores(values, decoding)
        found.append(case)
    return found


def _chain_scores(values: Any, decoding: TagDecoding) -> dict[str, Any]:
    chain = chain_of(decoding)
    tags = tags_of(list(values), None, decoding, marginals=True)
    return {
        "marginals": [[one.score for one in row] for row in tags],
        "path_scores": best_paths(values, chain)[1].tolist(),
        "log_normalizers": log_normalizers(values, chain).tolist(),
    }


def as_text() -> str:
    """The file: a case per line."""
    parts = []
    for name, cases in make_cases().items():
        items = (
            [f"{json.dumps(key)}: {json.dumps(case)}" for key, case in cases.items()]
            if isinstance(cases, dict)
            else [json.dumps(case) for case in cases]
        )
        opening, closing = "{}" if isinstance(cases, dict) else "[]"
        parts.append(f"{json.dumps(name)}: {opening}\n" + ",\n".join(items) + f"\n{closing}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(as_text(), encoding="utf-8")
