"""Converts texts to ids, as Keras's TextVectorization and StringLookup layers do."""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bilstm_runtime.decoding.tags import Token, TokenSequence
from bilstm_runtime.errors import InputError
from bilstm_runtime.text.checked import checked_text, shown, utf8_of
from bilstm_runtime.text.hashing import bucket
from bilstm_runtime.text.steps import make_change

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_runtime.preprocessing_spec import TextPreprocessing
    from bilstm_runtime.spec import AnyArray

# Keras calls tf.strings.lower without an encoding, which changes only ASCII letters. It strips
# ASCII punctuation. tf.strings.split splits at the characters of C's isspace, as `bytes.split`
# does. None of these bytes is part of another character in UTF-8.
_LOWERS: Final = ("lower", "lower_and_strip_punctuation")
_STRIPS: Final = ("strip_punctuation", "lower_and_strip_punctuation")
_LOWER: Final = bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode())
_WORD: Final = re.compile(r"[^\t\n\v\f\r ]+")


class TextEncoder:
    """Converts texts to ids, as one entry of a manifest's `preprocessing` describes.

    Texts are standardized and split as UTF-8, as in TensorFlow, which is faster than as `str`.
    Tokens are `bytes`; only characters are `str`.
    """

    def __init__(self, preprocessing: TextPreprocessing) -> None:
        """Build the table of ids."""
        item = preprocessing
        self._lower = _LOWER if item.standardize in _LOWERS else None
        self._stripped = string.punctuation if item.standardize in _STRIPS else ""
        self._deleted = self._stripped.encode()
        self._change = make_change(item.steps)
        self._split = item.split
        self._ngrams = item.ngrams
        self._length = item.output_sequence_length
        self._padding = item.padding_id
        self._unknown = item.unknown_id
        self._buckets = item.buckets
        self._hash_key = (item.hash_key[0], item.hash_key[1]) if item.hash_key else None
        self._mode = item.output_mode
        self._size = item.size or 0
        self._weights = np.array(item.weights, dtype=np.float32)
        words = {word: item.first_id + i for i, word in enumerate(item.vocabulary)}
        if item.mask_token is not None and item.padding_id is not None:
            words[item.mask_token] = item.padding_id
        is_character = item.split == "character"
        self._space: Any = " " if is_character else b" "
        self._ids: dict[Any, int] = (
            words if is_character else {word.encode(): number for word, number in words.items()}
        )
        self.largest_id = max(
            [*words.values(), item.padding_id or 0, (item.unknown_id or 0) + item.buckets - 1]
        )
        self._is_quick = (
            item.split == "whitespace"
            and not item.ngrams
            and item.output_mode == "int"
            and item.buckets == 1
            and not item.steps
        )

    def ids(self, text: str) -> list[int] | None:
        """Return the ids of one text in few steps; None if `encode` has to find them."""
        find, unknown = self._ids.get, self._unknown
        if not self._is_quick or unknown is None:
            return None
        try:
            words = text.encode().translate(self._lower, self._deleted).split()
        except UnicodeEncodeError:
            return None
        return self._fitted([find(word, unknown) for word in words])

    def encode(self, example: Any, label: str) -> AnyArray:
        """Return the ids of one example, or what they become.

        Args:
            example: A `str`; without a split also nested lists of `str`, in the shape of the ids.
            label: The example's name in messages, such as "input 'text', example 3".

        Returns:
            `[tokens] int64` with a split; without one, the shape of the example. In another mode
            than "int", `[size] float32`, or `[..., size]` for "one_hot".

        Raises:
            InputError: A token has no id, or the text is not Unicode.
            InputTypeError: The example is not text.
        """
        if self._split is not None:
            if isinstance(example, (list, tuple)) and len(example) == 1:
                example = example[0]
            text = self._standardized(example, label)
            tokens: Sequence[Any] = text.split() if self._split == "whitespace" else text.decode()
            ids = self._fitted(self._lookup(self._joined(tokens), label))
            return self._encoded(np.array(ids, dtype=np.int64))
        try:
            return self._encoded(np.array(self._nested(example, label), dtype=np.int64))
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
        text = checked_text(example, label)
        text = text if self._change is None else self._change(text)
        places = self._places(text)
        if self._ngrams:
            places = [
                (places[n][0], places[n + width - 1][1])
                for width in self._ngrams
                for n in range(len(places) - width + 1)
            ]
        found = [
            Token(text[first:last], first, last, step)
            for step, (first, last) in enumerate(places[: self._length])
        ]
        return TokenSequence(text, found)

    def _places(self, text: str) -> list[tuple[int, int]]:
        """Return the place of each token: from its first to its last character that is kept."""
        if self._split == "character":
            return [(n, n + 1) for n, one in enumerate(text) if one not in self._stripped]
        places = []
        for match in _WORD.finditer(text):
            run = match[0].lstrip(self._stripped)
            if run:
                start = match.end() - len(run)
                places.append((start, start + len(run.rstrip(self._stripped))))
        return places

    def _nested(self, example: Any, label: str) -> Any:
        """Return the ids of strings in lists, in lists of the same structure."""
        if not isinstance(example, (list, tuple)):
            return self._lookup([self._standardized(example, label)], label)[0]
        if any(isinstance(item, (list, tuple)) for item in example):
            return [self._nested(item, label) for item in example]
        tokens = self._joined([self._standardized(item, label) for item in example])
        return self._fitted(self._lookup(tokens, label))

    def _standardized(self, text: Any, label: str) -> bytes:
        if self._change is not None:
            text = self._change(checked_text(text, label))
        return utf8_of(text, label).translate(self._lower, self._deleted)

    def _joined(self, tokens: Sequence[Any]) -> Sequence[Any]:
        """Join neighbouring tokens: first all of the first number of tokens, then of the next."""
        if not self._ngrams:
            return tokens
        return [
            self._space.join(tokens[n : n + width])
            for width in self._ngrams
            for n in range(len(tokens) - width + 1)
        ]

    def _lookup(self, tokens: Sequence[Any], label: str) -> list[int]:
        find, unknown = self._ids.get, self._unknown
        if unknown is not None and self._buckets == 1:
            return [find(token, unknown) for token in tokens]
        if unknown is not None:
            found = [(token, find(token)) for token in tokens]
            return [
                unknown + bucket(_utf8(token), self._buckets, self._hash_key)
                if one is None
                else one
                for token, one in found
            ]
        ids = [one for one in map(find, tokens) if one is not None]
        if len(ids) < len(tokens):
            token = next(_utf8(token) for token in tokens if token not in self._ids)
            message = (
                f"{label}: {shown(token.decode())} is not in the vocabulary, and this model has "
                "no id for unknown tokens (its layer has num_oov_indices=0)"
            )
            raise InputError(message)
        return ids

    def _fitted(self, ids: list[int]) -> list[int]:
        """Truncate or pad to the fixed length of the layer, if it has one."""
        if self._length is None or self._padding is None:
            return ids
        return ids[: self._length] + [self._padding] * (self._length - len(ids))

    def _encoded(self, ids: AnyArray) -> AnyArray:
        """Return ids, or what they become in another mode than "int"."""
        if self._mode == "int":
            return ids
        if self._mode == "one_hot":
            # As in Keras, an axis of size 1 becomes the axis of classes.
            ids = ids[..., 0] if ids.ndim and ids.shape[-1] == 1 else ids
            return np.eye(self._size + 1, self._size, dtype=np.float32)[ids]
        # The id of masked tokens is the size, one more than the last column.
        counts = np.bincount(ids.reshape(-1), minlength=self._size)[: self._size].astype(np.float32)
        if self._mode == "multi_hot":
            return np.minimum(counts, np.float32(1))
        return counts * self._weights if self._mode == "tf_idf" else counts


def _utf8(token: str | bytes) -> bytes:
    return token.encode() if isinstance(token, str) else token
