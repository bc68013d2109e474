"""Describes the layers that begin with text: what the manifest says in their place.

The layers have the same settings in both generations of Keras. Layers that the manifest cannot
describe exactly are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from bilstm_exporter.errors import ParityError, UnsupportedModelError
from bilstm_exporter.frontends.text_steps import Change, changes_by
from bilstm_runtime.preprocessing_spec import (
    SPLITS,
    STANDARDIZATIONS,
    TextPreprocessing,
    TextStep,
)
from bilstm_runtime.text import TextEncoder

_FALSE = (False, None)
_WORDS = ("word", "a", "longer than sixteen bytes", "na\u00efve", "x" * 50, "y" * 100)
_MAX_WORDS_PER_TEXT = 64
_TWO_EXAMPLES, _MANY_STRINGS = 2, 3
# Templates for test texts, with characters that layers may standardize, split at, or not know.
_TEMPLATES = (
    "{}", " {}", "\t{}\r\n{}  ", "({}!)", "{}-{}, {}?", "\u00a0{}\u2003{}", "\u00c9{}\u00df",
    "'{}'s", "\U0001f642{}\u4e2d\u6587", "_{}_\v{}\f", "\u0130{}\u1e9e", "\x00{}",
    "\u3000{}\u2028{}\x85{}",
)  # fmt: skip


@dataclass(frozen=True)
class TextCall:
    """One call of a layer on an input that holds strings, or integers that no graph can look up.

    Attributes:
        source: The name of the input.
        source_shape: Its shape with the batch axis.
        source_dtype: Its dtype.
        layer: The layer.
        shape: The shape of what it returns.
        dtype: The dtype of that.
        changes: What changes the strings of the input before the layer takes them.
    """

    source: str
    source_shape: tuple[int | None, ...]
    source_dtype: str
    layer: Any
    shape: tuple[int | None, ...]
    dtype: str
    changes: tuple[Change, ...] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for calls that return the same."""
        return self.source, id(self.layer), tuple(change.step for change in self.changes)

    def called(self, values: Any) -> Any:
        """Call the layer on values of the input."""
        for change in self.changes:
            values = change.apply(values)
        return self.layer(values)


def belongs_into_manifest(layer: Any, dtype: str, layers: Any) -> bool:
    """Whether the manifest has to say what a layer does, because no format can hold it.

    Args:
        layer: The layer.
        dtype: The dtype of what it takes.
        layers: ``keras.layers`` or ``tf_keras.layers``.
    """
    if dtype == "string":
        return type(layer) in (layers.TextVectorization, layers.StringLookup, layers.Hashing)
    if not tf.as_dtype(dtype).is_integer:
        return False
    if type(layer) is layers.IntegerLookup:
        is_hashed = layer.num_oov_indices > 1 and getattr(layer, "oov_method", "") == "farmhash"
        return not layer.invert and (is_hashed or layer.num_oov_indices == 0)
    return type(layer) is layers.Hashing


def called_shape(call: TextCall, described: TextPreprocessing) -> tuple[int | None, ...]:
    """Return the shape that a layer returns when it is called; Keras may declare another.

    Raises:
        UnsupportedModelError: The layer joins the examples of a batch.
    """
    sizes = [size or _MANY_STRINGS for size in call.source_shape[1:]]
    token = next(token for batch in _batches(described) for token in batch)
    given = tf.fill([_TWO_EXAMPLES, *sizes], tf.constant(_value(call, token), call.source_dtype))
    found = call.called(given).shape
    if len(found) < 2 or found[0] != _TWO_EXAMPLES:
        _refuse(call.layer, "input shape", call.source_shape, "(batch, strings)")
    if described.rank is not None and len(found) != 1 + described.rank:
        _refuse(call.layer, "input shape", call.source_shape, "(batch, strings)")
    return (None, *found[1:])


def described(call: TextCall, layers: Any) -> TextPreprocessing:
    """Describe a call; its `input` and `source` are the name of what the layer takes.

    Args:
        call: The call.
        layers: ``keras.layers`` or ``tf_keras.layers``.

    Raises:
        UnsupportedModelError: The layer has a setting that the manifest cannot describe.
    """
    steps = tuple(change.step for change in call.changes)
    if type(call.layer) is layers.TextVectorization:
        found = _described_vectorization(call)
        found = replace(found, steps=(*steps, *found.steps))
        problem = found.violation()
        if problem is not None:
            _refuse(call.layer, problem[0], len(found.steps), problem[1])
        return found
    found = (
        _described_hashing(call) if type(call.layer) is layers.Hashing else _described_lookup(call)
    )
    if call.source_dtype == "string":
        return replace(found, steps=steps)
    return replace(found, source=call.source, integers=call.source_dtype)


def _described_vectorization(call: TextCall) -> TextPreprocessing:
    layer, shape = call.layer, call.source_shape
    config = layer.get_config()
    own = layer._standardize if callable(layer._standardize) else None  # noqa: SLF001 - the only way
    steps = () if own is None else _own_steps(layer, own, shape)
    if own is None:
        _require(layer, config, "standardize", None, *STANDARDIZATIONS)
    _require(layer, config, "split", None, *SPLITS)
    is_int = config["output_mode"] == "int"
    if is_int:
        _require(layer, config, "ragged", *_FALSE)
    length, split = config["output_sequence_length"], config["split"]
    if length is not None and length < 1:
        _refuse(layer, "output_sequence_length", length, "None, or a whole number from 1")
    if split is not None and shape[1:] not in ((), (1,), (None,)):
        _refuse(layer, "input shape", shape, "(batch,) or (batch, 1)")
    ngrams = config["ngrams"]
    # Keras 3 declares two axes for strings of any shape, so that no layer can follow others.
    is_plain = is_int and length is None and not ngrams and len(call.shape) == len(shape)
    if split is None and len(shape) != 2 and not is_plain:
        _refuse(layer, "input shape", shape, "(batch, strings) if split=None")
    described = _described_table(call, layer._lookup_layer)  # noqa: SLF001 - the only way to it
    return replace(
        described,
        kind="text_vectorization",
        standardize=None if own is not None else config["standardize"],
        steps=steps,
        split=split,
        output_sequence_length=length,
        ngrams=tuple(range(1, ngrams + 1)) if isinstance(ngrams, int) else tuple(ngrams or ()),
    )


def _own_steps(
    layer: Any, function: Callable[[Any], Any], shape: tuple[int | None, ...]
) -> tuple[TextStep, ...]:
    """Describe a function of the user that standardizes text."""
    found = changes_by(function, shape)
    if isinstance(found, str):
        shown = f"one of lower, upper, strip, join, and regex_replace of characters (found {found})"
        _refuse(layer, "standardize", function, shown)
    return tuple(change.step for change in found)


def _described_lookup(call: TextCall) -> TextPreprocessing:
    _require(call.layer, call.layer.get_config(), "invert", *_FALSE)
    return _described_table(call, call.layer)


def _described_table(call: TextCall, table: Any) -> TextPreprocessing:
    """Describe what a lookup layer does with its strings or integers."""
    is_int = table.output_mode == "int"
    has_mask = table.mask_token is not None
    first = int(has_mask and is_int)
    size = None if is_int else int(call.shape[-1] or 0)
    salt = getattr(table, "salt", None)
    return TextPreprocessing(
        input=call.source,
        kind="string_lookup",
        standardize=None,
        split=None,
        output_sequence_length=None,
        vocabulary=_vocabulary(call.layer, table),
        first_id=first + table.num_oov_indices,
        mask_token=str(table.mask_token) if has_mask else None,
        # Beyond the size: Keras drops masked tokens where it does not return ids.
        padding_id=(size or 0) if has_mask else None,
        unknown_id=first if table.num_oov_indices else None,
        buckets=max(table.num_oov_indices, 1),
        hash_key=() if salt is None or table.num_oov_indices < 2 else tuple(map(int, salt)),
        output_mode=table.output_mode,
        size=size,
        weights=_weights(table) if table.output_mode == "tf_idf" else (),
    )


def _described_hashing(call: TextCall) -> TextPreprocessing:
    layer = call.layer
    has_mask = layer.mask_value is not None and layer.num_bins > 1
    is_int = layer.output_mode == "int"
    return TextPreprocessing(
        input=call.source,
        kind="hashing",
        standardize=None,
        split=None,
        output_sequence_length=None,
        vocabulary=(),
        first_id=0,
        mask_token=str(layer.mask_value) if has_mask else None,
        padding_id=0 if has_mask else None,
        unknown_id=int(has_mask),
        buckets=layer.num_bins - int(has_mask),
        hash_key=tuple(map(int, layer.salt)) if layer.strong_hash else (),
        output_mode=layer.output_mode,
        size=None if is_int else layer.num_bins,
    )


def _weights(table: Any) -> tuple[float, ...]:
    weights: list[float] = np.asarray(table.idf_weights_const, np.float32).astype(str).tolist()
    return tuple(map(float, weights))


def _vocabulary(layer: Any, table: Any) -> tuple[str, ...]:
    # The option `encoding` of a layer concerns this list alone: it looks up bytes.
    encoding = getattr(table, "encoding", None)
    try:
        if encoding is not None:
            table.encoding = "utf-8"
        words = layer.get_vocabulary(include_special_tokens=False)
    except (UnicodeError, tf.errors.OpError) as error:
        _refuse(layer, "vocabulary", str(error).splitlines()[0][:200], "words in UTF-8")
    finally:
        if encoding is not None:
            table.encoding = encoding
    if not words:
        _refuse(layer, "vocabulary", "no words", "a vocabulary: adapt the layer, or give it one")
    return tuple(map(str, words))


def _require(layer: Any, config: dict[str, Any], setting: str, *supported: object) -> None:
    if config[setting] not in supported:
        _refuse(layer, setting, config[setting], " or ".join(map(repr, supported)))


def _refuse(layer: Any, setting: str, found: Any, supported: str) -> NoReturn:
    message = (
        f"the {type(layer).__name__} layer {layer.name!r} has {setting}={found!r}; supported is "
        f"{supported}. Change it, or export the model without this layer and compute the ids "
        f"before the model"
    )
    raise UnsupportedModelError(message, layers=(layer.name,))


def check_ids(call: TextCall, preprocessing: TextPreprocessing) -> None:
    """Compare the runtime's ids with those of the layer, for every word.

    Raises:
        ParityError: They differ.
    """
    encoder, layer = TextEncoder(preprocessing), call.layer
    # A layer that joins neighbouring strings needs as many as its input declares.
    count = (call.source_shape[1] or _MANY_STRINGS) if _joins_strings(preprocessing) else 1
    for texts in _batches(preprocessing):
        rows = [[_value(call, text)] * count for text in texts]
        expected = np.asarray(_dense(call.called(tf.constant(rows, call.source_dtype))))
        for text, row in zip(texts, expected, strict=True):
            ids = encoder.encode([text] * count, layer.name)
            if preprocessing.output_mode == "int":
                # The layer pads its batch to the longest text.
                missing = max(0, len(row) - len(ids))
                ids = np.pad(ids, (0, missing), constant_values=preprocessing.padding_id or 0)
            if not np.array_equal(ids, row):
                message = (
                    f"the {type(layer).__name__} layer {layer.name!r} does not return the ids "
                    f"that its settings describe: for {text[:80]!r} {row[:20].tolist()}, expected "
                    f"{ids[:20].tolist()}. Please report the layer's settings; the part of the "
                    f"model that takes ids can be exported without it"
                )
                raise ParityError(message, layers=(layer.name,))


def _value(call: TextCall, token: str) -> Any:
    """Return a token as the layer takes it."""
    return token if call.source_dtype == "string" else int(token)


def _dense(values: Any) -> Any:
    """Return what a layer returns; with ``sparse=True``, the same numbers in a dense tensor."""
    return tf.sparse.to_dense(values) if isinstance(values, tf.SparseTensor) else values


def _joins_strings(preprocessing: TextPreprocessing) -> bool:
    return preprocessing.split is None and bool(preprocessing.ngrams)


def _batches(preprocessing: TextPreprocessing) -> Iterator[list[str]]:
    """Yield batches of texts that contain every word, and some words in every template."""
    if preprocessing.integers is not None:
        yield _numbers(preprocessing)
        return
    words = list(preprocessing.vocabulary) or list(_WORDS)
    join: Callable[[list[str]], str] = (" " if preprocessing.split == "whitespace" else "").join
    words_per_text = preprocessing.output_sequence_length or _MAX_WORDS_PER_TEXT
    step = 1 if preprocessing.split is None else min(words_per_text, _MAX_WORDS_PER_TEXT)
    texts = [join(words[start : start + step]) for start in range(0, len(words), step)]
    for start in range(0, len(texts), 1024):
        yield texts[start : start + 1024]
    if preprocessing.unknown_id is None:
        return
    chosen = [words[0], words[-1], words[len(words) // 2].upper(), "", "[UNK]", "Unheard-of"]
    filled = [template.replace("{}", word) for template in _TEMPLATES for word in chosen]
    yield [*filled, "", " ", " ".join(words[:_MAX_WORDS_PER_TEXT]), f"{words[0]} " * 2000]


def _numbers(preprocessing: TextPreprocessing) -> list[str]:
    """Return every known integer, and, unless these are errors, others of its dtype."""
    known = [*preprocessing.vocabulary, preprocessing.mask_token]
    found = [token for token in known if token is not None]
    if preprocessing.unknown_id is None:
        return found
    limits = np.iinfo(preprocessing.integers or "int64")
    low, high = int(limits.min), int(limits.max)
    rng = np.random.default_rng(0)
    others = [low, low + 1, high - 1, high, 0, *range(max(low, -99), min(high, 100))]
    others += rng.integers(low, high, 500, endpoint=True, dtype=limits.dtype).tolist()
    return [*found, *map(str, others)]
