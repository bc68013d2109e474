"""Converts texts to ids as the `Tokenizer` and `pad_sequences` of Keras do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm_runtime.decoding.tags import Token, TokenSequence
from bilstm_runtime.text.checked import checked_text

if TYPE_CHECKING:
    from bilstm_runtime.preprocessing_spec import TokenizerPreprocessing
    from bilstm_runtime.spec import AnyArray


class KerasTokenizer:
    """Converts texts to ids, as an entry of `preprocessing` of the kind "tokenizer" describes."""

    def __init__(self, preprocessing: TokenizerPreprocessing) -> None:
        """Build the tables."""
        item = preprocessing
        self._fit = item.fit
        self._lower = item.lower
        self._is_character = item.level == "character"
        self._has_characters = item.level == "word_characters"
        self._characters = item.characters
        self._separator = item.separator
        self._table = str.maketrans(dict.fromkeys(item.filters, item.separator))
        filters = dict.fromkeys(one for one in item.filters if one != item.separator)
        # If no character becomes another one that is filtered, they can be replaced in turn. That
        # is as fast for ASCII and 20 times as fast for other texts: few are in a text.
        self._filters = None if filters.keys() & set(item.separator) else tuple(filters)
        self._unknown = item.unknown_id
        ids = item.ids or range(item.first_id, item.first_id + len(item.vocabulary))
        self._ids = dict(zip(item.vocabulary, ids, strict=True))

    def encode(self, example: Any, label: str) -> AnyArray:
        """Return the ids of one example.

        Args:
            example: A text, or a list of its tokens.
            label: The example's name in messages.

        Returns:
            `[tokens] int64`, or `[words, characters] int64`.

        Raises:
            InputError: The text is not Unicode.
            InputTypeError: The example is not text.
        """
        tokens = self._split(example, label)
        if not self._has_characters:
            return self._fitted(self._lookup(tokens), self._fit.length)
        first, kept, offset = self._fit.place(len(tokens))
        rows = [self._lookup(word) for word in tokens[first : first + kept]]
        width = self._characters or max(map(len, rows), default=1)
        length = self._fit.length or len(rows)
        found = np.full((length, width), self._fit.padding_id, dtype=np.int64)
        for number, row in enumerate(rows, start=offset):
            found[number] = self._fitted(row, width)
        return found

    def tokens(self, example: Any, label: str) -> TokenSequence:
        """Return the tokens of one example that have ids, with their steps.

        Raises:
            InputError: The example is not valid, as for `encode`.
        """
        if isinstance(example, (list, tuple)):
            words = self._split(example, label)
            places = [(n, n + 1) for n in range(len(words))]
            names = [str(item) for item in example]
        else:
            text = checked_text(example, label)
            words, places = self._located(text)
            names = [text[start:end] for start, end in places]
        if self._unknown is None and not self._has_characters:
            known = [n for n, word in enumerate(words) if word in self._ids]
            names, places = [names[n] for n in known], [places[n] for n in known]
        first, kept, offset = self._fit.place(len(names))
        found = [
            Token(names[n], *places[n], n - first + offset) for n in range(first, first + kept)
        ]
        return TokenSequence(None if isinstance(example, (list, tuple)) else example, found)

    def _split(self, example: Any, label: str) -> Any:
        """Return the tokens, lower-cased: a list, or a string of characters."""
        if isinstance(example, (list, tuple)):
            items = [checked_text(item, label) for item in example]
            return [item.lower() for item in items] if self._lower else items
        text = checked_text(example, label)
        if self._lower:
            text = text.lower()
        if self._is_character:
            return text
        return list(filter(None, self._filtered(text).split(self._separator)))

    def _filtered(self, text: str) -> str:
        """Replace the characters that separate words by the separator."""
        if self._filters is None:
            return text.translate(self._table)
        separator = self._separator
        for character in self._filters:
            if character in text:
                text = text.replace(character, separator)
        return text

    def _located(self, text: str) -> tuple[list[str], list[tuple[int, int]]]:
        """Return the tokens, and their places in the text as it was before lower-casing."""
        lowered, places = text, list(range(len(text) + 1))
        if self._lower:
            lowered = text.lower()
            # Some characters become several.
            places = [n for n, character in enumerate(text) for _ in character.lower()]
            places.append(len(text))
        if self._is_character:
            ends = [min(places[n] + 1, len(text)) for n in range(len(lowered))]
            return list(lowered), list(zip(places, ends, strict=False))
        replaced = lowered.translate(self._table)
        if len(self._separator) != 1:  # each filtered character becomes the whole separator
            places = [
                n
                for n, character in zip(places, lowered, strict=False)
                for _ in character.translate(self._table)
            ]
            places.append(len(text))
        words, found, start = [], [], 0
        for word in replaced.split(self._separator):
            end = start + len(word)
            if word:
                words.append(word)
                found.append((places[start], places[end - 1] + 1))
            start = end + len(self._separator)
        return words, found

    def _lookup(self, tokens: Any) -> list[int]:
        find, unknown = self._ids.get, self._unknown
        if unknown is not None:
            return [find(token, unknown) for token in tokens]
        return [found for found in map(find, tokens) if found is not None]

    def _fitted(self, ids: list[int], length: int | None) -> AnyArray:
        """Cut or pad to a length."""
        fit, missing = self._fit, 0 if length is None else length - len(ids)
        if missing > 0:
            padding = [fit.padding_id] * missing
            ids = [*padding, *ids] if fit.padding == "pre" else [*ids, *padding]
        elif missing < 0:
            ids = ids[-missing:] if fit.truncating == "pre" else ids[:missing]
        return np.array(ids, dtype=np.int64)
