"""Makes the golden texts of a bundle, from text to ids, Keras's outputs and answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bilstm_exporter.evaluation.predictions import KerasSession
from bilstm_exporter.loaded import LoadedModel
from bilstm_runtime.bundle.golden_texts import TextCase, plain_answers
from bilstm_runtime.errors import BilstmRuntimeError
from bilstm_runtime.inputs import InputReader
from bilstm_runtime.predictor import Predictor
from bilstm_runtime.preprocessing_spec import (
    Preprocessing,
    TextPreprocessing,
    TokenizerFilePreprocessing,
    TokenizerPreprocessing,
)
from bilstm_runtime.spec import InputSpec

_CASES, _WORDS = 4, 6
_SENTENCES = ("So good!", "It's not bad, is it?", "Unheard-of: na\u00efve \u65e5\u672c 42")


def text_cases(loaded: LoadedModel) -> list[TextCase]:
    """Return a few texts with what they become; none for a model that does not take text alone."""
    spec = loaded.spec
    entries = {item.input: item for item in spec.preprocessing}
    if spec.states or not entries or {one.name for one in spec.inputs} != set(entries):
        return []
    predictor = Predictor(
        spec, KerasSession(loaded.keras), label="Keras", read_file=loaded.read_file
    )
    reader = InputReader(spec, loaded.read_file)
    first = spec.inputs[0]
    cases = []
    for example in _examples(entries[first.name], first):
        texts = {one.name: [example] for one in spec.inputs}
        try:
            columns = reader.read(texts).columns
            found = predictor.predict(texts)
        except BilstmRuntimeError:  # such as a text without tokens
            continue
        outputs = (
            [found]
            if spec.output_structure == "single"
            else list(found.values() if isinstance(found, dict) else found)
        )
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


def _examples(entry: Preprocessing, one: InputSpec) -> Iterator[Any]:
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
