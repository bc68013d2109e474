"""Converts texts to ids, as Keras's TextVectorization and StringLookup layers do."""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bilstm_runtime.decoding.tags import Token, TokenSequence
from bilstm_runtime.errors import InputError
from bilstm_runtime.text.checked import checked_text, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from bilstm_runtime.preprocessing_spec import TextPreprocessing
    from bilstm_runtime.spec import AnyArray

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
        found = checked_text(text, label)
        return found if self._table is None else found.translate(self._table)

    def _lookup(self, tokens: list[str], label: str) -> list[int]:
        find, unknown = self._ids.get, self._unknown
        if unknown is not None:
            return [find(token, unknown) for token in tokens]
        ids = [found for found in map(find, tokens) if found is not None]
        if len(ids) < len(tokens):
            token = next(token for token in tokens if token not in self._ids)
            message = (
                f"{label}: {shown(token)} is not in the vocabulary, and this model has no id for "
                "unknown tokens (its layer has num_oov_indices=0)"
            )
            raise InputError(message)
        return ids

    def _fitted(self, ids: list[int]) -> list[int]:
        """Truncate or pad to the fixed length of the layer, if it has one."""
        if self._length is None or self._padding is None:
            return ids
        return ids[: self._length] + [self._padding] * (self._length - len(ids))
