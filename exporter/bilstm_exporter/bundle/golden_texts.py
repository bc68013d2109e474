"""Makes the golden texts of a bundle, from text to ids, Keras's outputs and answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bilstm_exporter.evaluation.predictions import KerasSession
from bilstm_exporter.loaded import LoadedModel
from bilstm_runtime.bundle.golden_texts import TextCase, plain_answers
from bilstm_runtime.errors import BilstmRuntimeError
from bilstm_runtime.inputs import InputReader
from bilstm_runtime.predictor import Predictor
from bilstm_runtime.preprocessing_spec import (
    TextEntry,
    TextPreprocessing,
    TokenizerFilePreprocessing,
    TokenizerPreprocessing,
)
from bilstm_runtime.spec import InputSpec, ModelSpec
from bilstm_runtime.text import RawValue

_CASES, _WORDS, _FREE_SIZE = 4, 6, 3
_EXACT = 2**53 - 1
_SENTENCES = ("So good!", "It's not bad, is it?", "Unheard-of: na\u00efve \u65e5\u672c 42")


def text_cases(loaded: LoadedModel) -> list[TextCase]:
    """Return a few texts with what they become; none for a model that takes no text.

    Inputs of numbers beside the texts get random numbers of their range.
    """
    spec = loaded.spec
    entries = {item.input: item for item in spec.texts}
    if spec.states or not entries:
        return []
    predictor = Predictor(
        spec, KerasSession(loaded.keras), label="Keras", read_file=loaded.read_file
    )
    reader = InputReader(spec, loaded.read_file)
    cases: list[TextCase] = []
    for chosen in _texts(spec, entries):
        try:
            texts = chosen | _numbers(spec, entries, reader.read_input, chosen)
            columns = reader.read(texts).columns
            found = predictor.predict(texts)
        except BilstmRuntimeError:  # such as a text without tokens
            continue
        outputs = spec.flatten_outputs(found)
        if not all(np.isfinite(np.asarray(one)).all() for one in outputs):
            continue
        answers = {
            item.output: plain_answers(predictor.answers(texts, outputs, item)[0])
            for item in spec.decoding
        }
        ids = {
            one.name: np.asarray(column[0]).tolist()
            for one, column in zip(spec.inputs, columns, strict=True)
        }
        cases.append(TextCase(texts, ids, [np.asarray(one).tolist() for one in outputs], answers))
        if len(cases) == _CASES:
            break
    return cases


def _texts(spec: ModelSpec, entries: Mapping[str, TextEntry]) -> Iterator[dict[str, Any]]:
    """Yield what the entries take, for one example: the same for all, then one for each."""
    pairs = zip(spec.inputs, spec.sources, strict=True)
    made = [(source, one) for one, source in pairs if one.name in entries]
    _, first = made[0]
    for example in _examples(entries[first.name], first):
        yield {source: [example] for source, _ in made}
    inputs = dict(reversed(made))
    if len(inputs) > 1:
        for examples in zip(
            *(_examples(entries[one.name], one) for one in inputs.values()), strict=False
        ):
            yield {source: [one] for source, one in zip(inputs, examples, strict=True)}


def _numbers(
    spec: ModelSpec,
    entries: Mapping[str, TextEntry],
    read: Callable[[str, Any], Any],
    texts: Mapping[str, Any],
) -> dict[str, Any]:
    """Return one example of random numbers for each input that takes no text.

    An axis that such an input shares with a text has as many entries as the text has ids.
    """
    sizes: dict[str | None, int] = {}
    for one, source in zip(spec.inputs, spec.sources, strict=True):
        if one.name in entries:
            entry = entries[one.name]
            is_raw = isinstance(entry, TextPreprocessing) and entry.integers is not None
            value = RawValue(texts[source]) if is_raw else texts[source]
            shape = read(one.name, value)[0][None].shape
            sizes |= {axis.name: size for axis, size in zip(one.axes, shape, strict=True)}
    rng = np.random.default_rng(len(str(texts)))
    found = {}
    for one in spec.inputs:
        if one.name in entries or one.name in texts:
            continue
        shape = [
            axis.size or sizes.get(axis.name) or max(axis.min, _FREE_SIZE) for axis in one.axes[1:]
        ]
        low, high = one.range or (-1, 1)
        if np.dtype(one.dtype).kind == "f":
            values = rng.uniform(max(low, -1), min(high, 1), shape).astype(one.dtype)
        else:
            values = rng.integers(int(low), int(high), shape, endpoint=True).astype(one.dtype)
        found[one.name] = [values.tolist()]
    return found


def _examples(entry: TextEntry, one: InputSpec) -> Iterator[Any]:
    """Yield examples: known words, in upper case and with punctuation, and unknown ones."""
    if isinstance(entry, TextPreprocessing) and entry.integers is not None:
        yield from _integers(entry, one)
        return
    words = ["so"] if isinstance(entry, TokenizerFilePreprocessing) else list(entry.vocabulary)
    words = [word for word in words[:: max(len(words) // _WORDS, 1)] if word.strip()] or ["so"]
    if isinstance(entry, TextPreprocessing) and entry.rank is None:
        yield from _nested([*words, "Unheard-of"], entry, one)
        return
    separator = " "
    if isinstance(entry, TextPreprocessing) and entry.split == "character":
        separator = ""
    elif isinstance(entry, TokenizerPreprocessing):
        separator = "" if entry.level == "character" else entry.separator
    text = separator.join(words)
    yield from (text, f"{text.upper()}!", *_SENTENCES)


def _integers(entry: TextPreprocessing, one: InputSpec) -> Iterator[Any]:
    """Yield examples of integers: known ones, and, unless these are errors, any of the dtype."""
    limits = np.iinfo(entry.integers or "int64")
    known = list(map(int, entry.vocabulary))
    if entry.mask_token is not None:
        known.append(int(entry.mask_token))
    if entry.unknown_id is not None:
        # JSON has larger integers, but not every reader of it.
        known += [0, 1, 2, 17, max(int(limits.min), -_EXACT), min(int(limits.max), _EXACT)]
    yield from _nested(known, entry, one)


def _nested(tokens: Sequence[Any], entry: TextPreprocessing, one: InputSpec) -> Iterator[Any]:
    """Yield examples of tokens, each in lists of the shape that the input takes."""
    axes = one.axes[1:]
    sizes = [axis.size or len(tokens) for axis in axes]
    if entry.output_mode == "one_hot":
        sizes.pop()
    elif entry.output_mode != "int":
        sizes = [_FREE_SIZE]
    count = math.prod(sizes)
    for start in range(_CASES):
        chosen = [tokens[(start * count + n) % len(tokens)] for n in range(count)]
        yield np.array([*chosen, None], object)[:-1].reshape(sizes).tolist()
