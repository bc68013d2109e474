"""What the TextClassifier of MediaPipe Tasks reads from the metadata of a TFLite file.

It splits a text where a regular expression matches, looks up what is between, adds the id of
``<PAD>`` at the end or cuts there, runs the file, and names each score of its output. The metadata
has no other rules: a text is not lower-cased, for example. The rules here are those of
RegexTokenizer and RegexPreprocessorCalculator of MediaPipe 1.2.3.

This module imports nothing heavy, so that ``--help`` starts quickly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bilstm_runtime.decoding_spec import LabelDecoding
from bilstm_runtime.preprocessing_spec import (
    TextEntry,
    TextPreprocessing,
    TokenizerPreprocessing,
)
from bilstm_runtime.spec import InputSpec, ModelSpec

_PADDING, _UNKNOWN, _START = "<PAD>", "<UNKNOWN>", "<START>"
_ENDS = frozenset(" \n\r\0")
"""The characters that end a token in the file of a vocabulary."""

_WHITESPACE = "\t\n\v\f\r "
"""Where Keras's text layers split."""


@dataclass(frozen=True)
class RegexTokenizer:
    """The tokenizer of a text input.

    Attributes:
        pattern: The regular expression of RE2 that matches what separates tokens.
        vocabulary: The lines of its file, each a token, a space and its id.
    """

    pattern: str
    vocabulary: tuple[str, ...]


def misfit(spec: ModelSpec) -> str:
    """Tell which rule of a model the TextClassifier does not have; "" if it has all of them."""
    found = _tokenizer_or_misfit(spec)
    return found if isinstance(found, str) else ""


def regex_tokenizer(spec: ModelSpec) -> RegexTokenizer | None:
    """Describe the tokenizer of a model; None if a rule of the model differs."""
    found = _tokenizer_or_misfit(spec)
    return None if isinstance(found, str) else found


def _tokenizer_or_misfit(spec: ModelSpec) -> RegexTokenizer | str:
    if len(spec.texts) != 1 or len(spec.file_inputs) != 1:
        return "it gives the ids of one text, and nothing else"
    item, one = spec.texts[0], spec.inputs[0]
    problem = _text_misfit(item) or _input_misfit(one) or _answer_misfit(spec)
    if problem or not isinstance(item, (TextPreprocessing, TokenizerPreprocessing)):
        return problem
    return _described(item)


def _text_misfit(item: TextEntry) -> str:
    if isinstance(item, TextPreprocessing):
        standardize, split, length = item.standardize, item.split, item.output_sequence_length
        return _first(
            (
                standardize is not None,
                f"it does not standardize texts (standardize={standardize!r})",
            ),
            (bool(item.steps), "it does not change texts"),
            (split != "whitespace", f"it splits at separators (split={split!r})"),
            (bool(item.ngrams) or item.output_mode != "int", "it gives the id of each token"),
            (item.buckets > 1, "it has one id for all unknown tokens"),
            (length is None, "it pads and cuts each text to one length (output_sequence_length)"),
        )
    if isinstance(item, TokenizerPreprocessing):
        at_end = (item.fit.padding, item.fit.truncating) == ("post", "post")
        splits = item.level == "word" and len(item.separator) == 1
        return _first(
            (item.lower, "it does not make a text lower case (lower=True)"),
            (not splits, f"it splits at separators of one character (level {item.level})"),
            (not at_end, "it pads and cuts at the end: --padding post --truncating post"),
            (item.unknown_id is None, "it does not leave out unknown tokens"),
        )
    return "it reads no tokenizer.json"


def _input_misfit(one: InputSpec) -> str:
    is_single = len(one.axes) == 2 and one.axes[0].size in (None, 1)
    return _first(
        (not is_single, "it takes one text at a time"),
        (one.axes[-1].size is None, "it takes a fixed number of ids: --time N"),
        (one.dtype != "int32", f"its ids are int32, and {one.name} is {one.dtype}"),
    )


def _answer_misfit(spec: ModelSpec) -> str:
    """Tell which rule from the outputs to labels differs."""
    if len(spec.decoding) != 1 or len(spec.outputs) != 1:
        return "it names the classes of one output: --labels FILE"
    item, output = spec.decoding[0], spec.outputs[0]
    if not isinstance(item, LabelDecoding):
        return "it names classes, and no tags or characters"
    has_scores = len(output.axes) == 2 and output.axes[1].size == len(item.labels)
    is_line = all(label and not set("\r\n") & set(label) for label in item.labels)
    return _first(
        (not has_scores, "it needs one score for each label, and two labels share one here"),
        (output.dtype != "float32", f"it reads float32, and {output.name} is {output.dtype}"),
        (item.activation is not None, "it takes the outputs as scores, and here they are logits"),
        (not is_line, "each label is one line"),
    )


def _first(*problems: tuple[bool, str]) -> str:
    """Return the first problem that there is."""
    return next((text for is_there, text in problems if is_there), "")


def _described(item: TextPreprocessing | TokenizerPreprocessing) -> RegexTokenizer | str:
    """Write the pattern and the vocabulary, if all tokens can stand in it."""
    numbers: Sequence[int] = range(item.first_id, item.first_id + len(item.vocabulary))
    if isinstance(item, TextPreprocessing):
        separators, padding = _WHITESPACE, item.padding_id
    else:
        separators = "".join(sorted({*item.filters, item.separator}))
        numbers, padding = item.ids or numbers, item.fit.padding_id
    table = {_PADDING: padding, _UNKNOWN: item.unknown_id}
    for token, number in zip(item.vocabulary, numbers, strict=True):
        if not token or set(separators) & set(token):
            continue  # no part of a text is this token
        if token == _START or _ENDS & set(token) or table.setdefault(token, number) != number:
            return f"its vocabulary cannot have the token {token!r:.60}"
    pattern = "".join(f"\\x{{{ord(char):x}}}" for char in separators)
    lines = tuple(f"{token} {number}" for token, number in table.items())
    return RegexTokenizer(f"[{pattern}]+", lines)
