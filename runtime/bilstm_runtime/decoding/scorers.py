"""What a CTC beam search knows of a language: a list of words, or n-grams of characters."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final

import numpy as np

from bilstm_runtime.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bilstm_runtime.spec import AnyArray

_START: Final = "\x02"
_END: Final = "\x03"
"""Stand for the start and the end of a text in n-grams (the control characters STX and ETX)."""


def check_spells(words: Sequence[str], labels: Sequence[str], separator: str = " ") -> None:
    """Raise `OptionError` if classes can spell none of the words.

    Args:
        words: The words.
        labels: The text of each class; "" for the blank.
        separator: The text between words.
    """
    parts = [label for label in labels if label not in {"", separator}]
    if not any(_can_spell(word, parts) for word in words):
        message = (
            f"none of the {len(words)} words can be written with the characters of the model: the "
            f"first is {words[0]!r:.40}, and the characters are {', '.join(parts):.200}"
        )
        raise OptionError(message)


def _can_spell(word: str, parts: Sequence[str]) -> bool:
    reached = {0}
    for end in range(1, len(word) + 1):
        if any(word.endswith(part, 0, end) and end - len(part) in reached for part in parts):
            reached.add(end)
    return len(word) in reached and bool(word)


class WordList:
    """Excludes every text that is not made of given words.

    Args:
        labels: The text of each class; "" for the blank.
        words: The words.
        separator: The text of the class between two words. If no class has this text, the whole
            text is one word.

    Attributes:
        separator: The number of the class between two words; None without one.
    """

    separator: int | None

    def __init__(self, labels: Sequence[str], words: Iterable[str], separator: str = " ") -> None:
        self._labels = tuple(labels)
        self._separator = separator
        self.separator = self._labels.index(separator) if separator in self._labels else None
        # A state is a position in a tree of characters; 0 is the start of a word.
        self._next: list[dict[str, int]] = [{}]
        self._is_word = [False]
        self._cache: dict[int, AnyArray] = {}
        for word in words:
            state = 0
            for character in word:
                following = self._next[state].get(character)
                if following is None:
                    following = self._next[state][character] = len(self._next)
                    self._next.append({})
                    self._is_word.append(False)
                state = following
            self._is_word[state] = self._is_word[state] or state != 0

    def scores(self, state: int) -> AnyArray:
        """See `bilstm_runtime.decoding.ctc.Scorer`."""
        found = self._cache.get(state)
        if found is None:
            found = self._cache[state] = np.array(
                [
                    0.0 if text and self._walked(state, text) is not None else -np.inf
                    for text in self._labels
                ]
            )
        return found

    def after(self, state: int, label: int) -> int:
        """See `bilstm_runtime.decoding.ctc.Scorer`."""
        following = self._walked(state, self._labels[label])
        return 0 if following is None else following

    def at_end(self, state: int) -> float:
        """See `bilstm_runtime.decoding.ctc.Scorer`."""
        return 0.0 if state == 0 or self._is_word[state] else -math.inf

    def _walked(self, state: int, text: str) -> int | None:
        if text == self._separator:
            return 0 if self._is_word[state] else None
        for character in text:
            following = self._next[state].get(character)
            if following is None:
                return None
            state = following
        return state


class CharacterNgrams:
    """Adds the logarithm of each character's probability after the characters before it.

    The probabilities come from counts, interpolated with those of shorter n-grams as Witten and
    Bell (1991) do: `p(c | h) = (count(hc) + kinds(h) * p(c | shorter h)) / (count(h) + kinds(h))`,
    where `kinds(h)` is the number of different characters after `h`. Below one character, all
    classes are equally probable.

    Args:
        labels: The text of each class; "" for the blank.
        texts: Texts to count in.
        order: The number of characters of an n-gram.
        weight: The factor of the logarithms.
    """

    def __init__(
        self, labels: Sequence[str], texts: Iterable[str], *, order: int = 3, weight: float = 1.0
    ) -> None:
        self._labels, self._order, self._weight = tuple(labels), order, weight
        self._counts: Counter[str] = Counter()
        for text in texts:
            padded = _START + text + _END
            for end in range(2, len(padded) + 1):
                for size in range(1, min(order, end) + 1):
                    self._counts[padded[end - size : end]] += 1
        self._totals: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        for ngram, count in self._counts.items():
            self._totals[ngram[:-1]] += count
            self._kinds[ngram[:-1]] += 1
        self._uniform = 1.0 / (1 + len(set(filter(None, labels))))
        self._histories = [_START if order > 1 else ""]
        self._states = {self._histories[0]: 0}
        self._cache: dict[int, AnyArray] = {}

    def scores(self, state: int) -> AnyArray:
        """See `bilstm_runtime.decoding.ctc.Scorer`."""
        found = self._cache.get(state)
        if found is None:
            history = self._histories[state]
            found = self._cache[state] = np.array(
                [self._log(history, text) if text else -np.inf for text in self._labels]
            )
        return found

    def after(self, state: int, label: int) -> int:
        """See `bilstm_runtime.decoding.ctc.Scorer`."""
        history = self._shortened(self._histories[state] + self._labels[label])
        found = self._states.get(history)
        if found is None:
            found = self._states[history] = len(self._histories)
            self._histories.append(history)
        return found

    def at_end(self, state: int) -> float:
        """See `bilstm_runtime.decoding.ctc.Scorer`."""
        return self._log(self._histories[state], _END)

    def _shortened(self, history: str) -> str:
        return history[-(self._order - 1) :] if self._order > 1 else ""

    def _log(self, history: str, text: str) -> float:
        total = 0.0
        for character in text:
            total += math.log(self._probability(history, character))
            history = self._shortened(history + character)
        return self._weight * total

    def _probability(self, history: str, character: str) -> float:
        found = self._uniform
        for start in range(len(history), -1, -1):
            shorter = history[start:]
            kinds = self._kinds[shorter]
            if not kinds:
                break
            found = (self._counts[shorter + character] + kinds * found) / (
                self._totals[shorter] + kinds
            )
        return found
