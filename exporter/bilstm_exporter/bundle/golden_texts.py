"""Makes the golden texts of a bundle, from text to ids, Keras's outputs and answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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

_CASES, _WORDS, _FREE_SIZE = 4, 6, 3
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
    """Yield the texts of one example by input: the same one for all, then one for each."""
    inputs = [one for one in spec.inputs if one.name in entries]
    first = inputs[0]
    for example in _examples(entries[first.name], first):
        yield {one.name: [example] for one in inputs}
    if len(inputs) > 1:
        for examples in zip(*(_examples(entries[one.name], one) for one in inputs), strict=False):
            pairs = zip(inputs, examples, strict=True)
            yield {one.name: [example] for one, example in pairs}


def _numbers(
    spec: ModelSpec,
    entries: Mapping[str, TextEntry],
    read: Callable[[str, Any], Any],
    texts: Mapping[str, Any],
) -> dict[str, Any]:
    """Return one example of random numbers for each input that takes no text.

    An axis that such an input shares with a text has as many entries as the text has ids.
    """
    inputs = {one.name: one for one in spec.inputs}
    sizes: dict[str | None, int] = {}
    for name, text in texts.items():
        sizes |= {
            axis.name: size
            for axis, size in zip(inputs[name].axes, read(name, text)[0][None].shape, strict=True)
        }
    rng = np.random.default_rng(len(str(texts)))
    found = {}
    for one in spec.inputs:
        if one.name in entries:
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
    words = ["so"] if isinstance(entry, TokenizerFilePreprocessing) else list(entry.vocabulary)
    words = [word for word in words[:: max(len(words) // _WORDS, 1)] if word.strip()] or ["so"]
    if isinstance(entry, TextPreprocessing) and entry.rank is None:
        count = one.axes[1].size or len(words) if len(one.axes) > 1 else 0
        chosen = [*words, "Unheard-of"] * (count + 1)
        yield from (
            [chosen[start : start + count] for start in (0, 1)] if count else chosen[:_CASES]
        )
        return
    separator = " "
    if isinstance(entry, TextPreprocessing) and entry.split == "character":
        separator = ""
    elif isinstance(entry, TokenizerPreprocessing):
        separator = "" if entry.level == "character" else entry.separator
    text = separator.join(words)
    yield from (text, f"{text.upper()}!", *_SENTENCES)
