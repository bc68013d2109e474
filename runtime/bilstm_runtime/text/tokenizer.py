"""Converts texts to ids as the `Tokenizer` and `pad_sequences` of Keras do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bilstm_runtime.decoding.tags import Token, TokenSequence
from bilstm_runtime.text.checked import checked_text

if TYPE_CHECKING:
    from bilstm_runtime.preprocessing_spec import TokenizerPreprocessing
    from bilstm_runtime.spec import AnyArray


_ASCII: Final = bytes(range(128))


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
        # Lower-cases ASCII letters and replaces filtered characters; None if bytes cannot do it.
        self._bytes_table = _bytes_table(item.filters, item.separator, lower=item.lower)
        self._bytes_separator = item.separator.encode()
        self._unknown = item.unknown_id
        ids = item.ids or range(item.first_id, item.first_id + len(item.vocabulary))
        # Words are looked up as bytes where they are split as bytes.
        self._is_quick = item.level == "word" and self._bytes_table is not None
        self._key = str.encode if self._is_quick else str
        self._ids: dict[Any, int] = dict(zip(map(self._key, item.vocabulary), ids, strict=True))
        self.largest_id = item.largest_id

    def ids(self, text: str) -> list[int] | None:
        """Return the ids of one text in few steps; None if `encode` has to find them."""
        if not self._is_quick:
            return None
        if self._lower and not text.isascii():
            text = text.lower()
        try:
            content = text.encode()
        except UnicodeEncodeError:
            return None
        words = content.translate(self._bytes_table).split(self._bytes_separator)
        find, unknown = self._ids.get, self._unknown
        if unknown is None:
            found = [number for number in map(find, filter(None, words)) if number is not None]
        else:
            found = [find(word, unknown) for word in words if word]
        return self._fitted(found, self._fit.length)

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
        quick = self.ids(example) if type(example) is str else None
        if quick is not None:
            return np.array(quick, dtype=np.int64)
        tokens = self._split(example, label)
        if not self._has_characters:
            ids = self._fitted(self._lookup(tokens), self._fit.length)
            return np.array(ids, dtype=np.int64)
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
            known = [n for n, word in enumerate(words) if self._key(word) in self._ids]
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
        if self._bytes_table is None:
            return list(filter(None, text.translate(self._table).split(self._separator)))
        # 20 times as fast for texts that are not ASCII.
        replaced = text.encode().translate(self._bytes_table).decode()
        return list(filter(None, replaced.split(self._separator)))

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
        if self._is_quick:
            tokens = map(str.encode, tokens)
        find, unknown = self._ids.get, self._unknown
        if unknown is not None:
            return [find(token, unknown) for token in tokens]
        return [found for found in map(find, tokens) if found is not None]

    def _fitted(self, ids: list[int], length: int | None) -> list[int]:
        """Cut or pad to a length."""
        fit, missing = self._fit, 0 if length is None else length - len(ids)
        if missing > 0:
            padding = [fit.padding_id] * missing
            ids = [*padding, *ids] if fit.padding == "pre" else [*ids, *padding]
        elif missing < 0:
            ids = ids[-missing:] if fit.truncating == "pre" else ids[:missing]
        return ids


def _bytes_table(filters: str, separator: str, *, lower: bool) -> bytes | None:
    """Return a table for `bytes.translate`; None if a separator or filter is not ASCII."""
    if len(separator) != 1 or not (separator + filters).isascii():
        return None
    found = _ASCII.lower() if lower else _ASCII
    found = found.translate(bytes.maketrans(filters.encode(), separator.encode() * len(filters)))
    return found + bytes(range(128, 256))
