"""Converts texts to ids, as Keras's TextVectorization and StringLookup layers do.

docs/manifest.md describes the algorithm for runtimes in other languages.
"""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

from bilstm_runtime.decoding.tags import Token, TokenSequence
from bilstm_runtime.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bilstm_runtime.spec import AnyArray, InputSpec, TextPreprocessing

_TEXT_KINDS: Final = "UST"
_SHOWN: Final = 40
"""The maximum number of characters of a text in a message."""

# Keras calls tf.strings.lower without an encoding, which changes only ASCII letters. It strips
# ASCII punctuation. tf.strings.split splits at the characters of C's isspace.
_LOWER: Final[dict[int, int | None]] = {
    ord(upper): ord(lower)
    for upper, lower in zip(string.ascii_uppercase, string.ascii_lowercase, strict=True)
}
_STRIP: Final[dict[int, int | None]] = dict.fromkeys(map(ord, string.punctuation))
_STANDARDIZE: Final = {
    "lower": _LOWER,
    "strip_punctuation": _STRIP,
    "lower_and_strip_punctuation": {**_LOWER, **_STRIP},
}
_SPLIT: Final[dict[str, Callable[[str], list[str]]]] = {
    "whitespace": re.compile(r"[^\t\n\v\f\r ]+").findall,
    "character": list,
}


class TextEncoder:
    """Converts texts to ids, as one entry of a manifest's `preprocessing` describes."""

    def __init__(self, preprocessing: TextPreprocessing) -> None:
        """Build the table of ids."""
        self._table = _STANDARDIZE[preprocessing.standardize] if preprocessing.standardize else None
        self._split = _SPLIT[preprocessing.split] if preprocessing.split else None
        self._length = preprocessing.output_sequence_length
        self._padding = preprocessing.padding_id
        self._unknown = preprocessing.unknown_id
        first = preprocessing.first_id
        self._ids = {word: first + i for i, word in enumerate(preprocessing.vocabulary)}
        if preprocessing.mask_token is not None and preprocessing.padding_id is not None:
            self._ids[preprocessing.mask_token] = preprocessing.padding_id

    def encode(self, example: Any, label: str) -> AnyArray:
        """Return the ids of one example.

        Args:
            example: A `str`; without a split also nested lists of `str`, in the shape of the ids.
            label: The example's name in messages, such as "input 'text', example 3".

        Returns:
            `[tokens] int64` with a split; without one, the shape of the example.

        Raises:
            InputError: A token has no id, or the text is not Unicode.
            InputTypeError: The example is not text.
        """
        if self._split is not None:
            if isinstance(example, (list, tuple)) and len(example) == 1:
                example = example[0]
            tokens = self._split(self._standardized(example, label))
            return np.array(self._fitted(self._lookup(tokens, label)), dtype=np.int64)
        try:
            return np.array(self._nested(example, label), dtype=np.int64)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            message = f"{label} holds lists of different lengths; pad them with the mask token"
            raise InputError(message) from error

    def tokens(self, example: Any, label: str) -> TokenSequence:
        """Return the tokens of one example that `encode` gives ids, with their steps.

        Raises:
            InputError: The example is not valid, as for `encode`.
        """
        if self._split is None:
            words = example if isinstance(example, (list, tuple)) else [example]
            tokens = [Token(str(word), n, n + 1, n) for n, word in enumerate(words)]
            return TokenSequence(None, tokens[: self._length])
        if isinstance(example, (list, tuple)) and len(example) == 1:
            example = example[0]
        text = self._standardized(example, label)
        # The place in the original of each character that is left.
        table = self._table or {}
        places = [
            n for n, character in enumerate(example) if table.get(ord(character), 0) is not None
        ]
        found, end = [], 0
        for step, token in enumerate(self._split(text)[: self._length]):
            start = text.index(token, end)
            end = start + len(token)
            first, last = places[start], places[end - 1] + 1
            found.append(Token(example[first:last], first, last, step))
        return TokenSequence(example, found)

    def _nested(self, example: Any, label: str) -> Any:
        """Return the ids of strings in lists, in lists of the same structure."""
        if not isinstance(example, (list, tuple)):
            return self._lookup([self._standardized(example, label)], label)[0]
        if any(isinstance(item, (list, tuple)) for item in example):
            return [self._nested(item, label) for item in example]
        tokens = [self._standardized(item, label) for item in example]
        return self._fitted(self._lookup(tokens, label))

    def _standardized(self, text: Any, label: str) -> str:
        if not isinstance(text, str):
            _refuse_type(text, label)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            message = (
                f"{label}: {_shown(text)} contains a lone surrogate, or comes from bytes that are "
                f"not UTF-8, at position {error.start}"
            )
            raise InputError(message) from error
        return text if self._table is None else text.translate(self._table)

    def _lookup(self, tokens: list[str], label: str) -> list[int]:
        find, unknown = self._ids.get, self._unknown
        if unknown is not None:
            return [find(token, unknown) for token in tokens]
        ids = [found for found in map(find, tokens) if found is not None]
        if len(ids) < len(tokens):
            token = next(token for token in tokens if token not in self._ids)
            message = (
                f"{label}: {_shown(token)} is not in the vocabulary, and this model has no id for "
                "unknown tokens (its layer has num_oov_indices=0)"
            )
            raise InputError(message)
        return ids

    def _fitted(self, ids: list[int]) -> list[int]:
        """Truncate or pad to the fixed length of the layer, if it has one."""
        if self._length is None or self._padding is None:
            return ids
        return ids[: self._length] + [self._padding] * (self._length - len(ids))


class TextReader:
    """Reads the value of one text input, if it is text."""

    def __init__(self, preprocessing: TextPreprocessing, spec: InputSpec, *, can_pad: bool) -> None:
        """Derive the expected form of the texts.

        Args:
            preprocessing: How strings become ids.
            spec: The input that takes the ids.
            can_pad: Whether sequences may be padded on the right.
        """
        self._encoder = TextEncoder(preprocessing)
        self._label = f"input {spec.name!r}"
        self._rank = len(spec.axes) - 1
        # An empty text becomes one id of padding, if padding changes no output.
        can_be_empty = can_pad and spec.mask_value == preprocessing.padding_id
        self._empty_id = preprocessing.padding_id if can_be_empty else None
        # The layer takes one string per example, in an axis of size 1.
        self._one_per_example = (
            self._rank == 1
            and preprocessing.split is None
            and (preprocessing.kind == "text_vectorization" or spec.axes[1].size == 1)
        )

    def read(self, value: Any) -> list[AnyArray] | None:
        """Return the ids, one array per example; None if the value is not text.

        Raises:
            InputError: The texts are not valid for the model.
        """
        if not _holds_text(value):
            return None
        if isinstance(value, (str, bytes)):
            message = (
                f"{self._label} is a single text; give a list of texts, such as [{value!r:.40}]"
            )
            raise InputTypeError(message)
        examples = value if isinstance(value, (list, tuple)) else np.asarray(value).tolist()
        return [
            self._example(item, f"{self._label}, example {i}") for i, item in enumerate(examples)
        ]

    def tokens(self, value: Any) -> list[TokenSequence] | None:
        """Return the tokens of each example; None if the value is not text."""
        if not _holds_text(value):
            return None
        examples = value if isinstance(value, (list, tuple)) else np.asarray(value).tolist()
        return [
            self._encoder.tokens(item, f"{self._label}, example {i}")
            for i, item in enumerate(examples)
        ]

    def _example(self, example: Any, label: str) -> AnyArray:
        if isinstance(example, np.ndarray):
            example = example.tolist()
        if self._one_per_example and isinstance(example, str):
            example = [example]
        ids = self._encoder.encode(example, label)
        if ids.ndim != self._rank:
            message = (
                f"{label} holds {'one string' if ids.ndim == 0 else f'strings in {ids.ndim} axes'};"
                f" the model takes {'one string' if self._rank == 0 else 'a list of strings'} per "
                "example. A list is read as a list of examples: put a single example in a list"
            )
            raise InputError(message)
        if ids.shape == (0,):
            if self._empty_id is None:
                message = (
                    f"{label}: {_shown(example)} has no tokens, and padding changes the outputs of "
                    "this model; give it a text of at least one token"
                )
                raise InputError(message)
            ids = np.array([self._empty_id], dtype=np.int64)
        return ids


def _holds_text(value: Any) -> bool:
    """Whether the first item in a value that is not empty is text."""
    return _first_item_is_text(value) is True


def _first_item_is_text(value: Any) -> bool | None:
    """Whether the first item in a value is text; None for an empty value."""
    if isinstance(value, (str, bytes)):
        return True
    if isinstance(value, (list, tuple)):
        found = (_first_item_is_text(item) for item in value)
        return next((is_text for is_text in found if is_text is not None), None)
    if value is None or isinstance(value, np.ma.MaskedArray):
        return None
    if isinstance(value, (bool, int, float, dict)):
        return False
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    if array.dtype.kind == "O" and array.ndim:
        return _first_item_is_text(array.tolist())
    return array.dtype.kind in _TEXT_KINDS


def _refuse_type(value: Any, label: str) -> NoReturn:
    if isinstance(value, bytes):
        message = f"{label} holds bytes; decode them first: [text.decode() for text in texts]"
    elif isinstance(value, (list, tuple)):
        message = f"{label} is a list of {len(value)}; the model takes one text per example, a str"
    else:
        message = (
            f"{label} holds {value!r:.40} ({type(value).__name__}) among texts; expected a str"
        )
    raise InputTypeError(message)


def _shown(text: Any) -> str:
    shown = repr(text)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
