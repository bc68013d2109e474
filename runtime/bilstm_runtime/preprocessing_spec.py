"""How raw data becomes what the model takes: the entries of `preprocessing` in the manifest.

Each kind of entry is a dataclass whose field `kind` names it. `Preprocessing` is their union.
`bilstm_runtime.text` computes the ids of texts, `bilstm_runtime.windows` cuts recordings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from bilstm_runtime.constraints import BYTES, FILE_NAME, SHA256, Choices, Flag, Items, Key, Range

MAX_TEXT: Final = 2**20
"""Largest number of ids that a text is padded to."""

MAX_ID: Final = 2**24
"""Largest id."""

MAX_STEPS: Final = 2**24
"""Largest number of steps of a window, and from one window to the next."""

MAX_NGRAMS: Final = 64
"""Largest number of numbers of tokens that are joined."""

KINDS: Final = ("text_vectorization", "string_lookup", "hashing")
OUTPUT_MODES: Final = ("int", "one_hot", "multi_hot", "count", "tf_idf")
STANDARDIZATIONS: Final = ("lower", "strip_punctuation", "lower_and_strip_punctuation")
SPLITS: Final = ("whitespace", "character")
LEVELS: Final = ("word", "character", "word_characters")
SIDES: Final = ("pre", "post")
INTEGERS: Final = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

MAX_STEPS_OF_TEXT: Final = 256
"""Largest number of steps that change a text, of characters of a pattern, and of their ranges."""

MAX_REPEATS: Final = 1
"""Largest number of parts of a pattern whose number of characters is not fixed. With each more, the
time of regular expressions grows with a higher power of the text's length."""

MAX_GROWTH: Final = 1024
"""By how many times the steps that replace characters can lengthen a text, together."""

MAX_FRAME: Final = 2**16
"""Largest number of characters that are put around a text."""

STEP_KINDS: Final = ("lower", "upper", "strip", "replace", "join")

_Violation: TypeAlias = tuple[str, str]
_Id: TypeAlias = Annotated[int, Range(0, MAX_ID)]
_Length: TypeAlias = Annotated[int, Range(1, MAX_TEXT)]
_CodePoint: TypeAlias = Annotated[int, Range(0, 0x10FFFF)]
_Steps: TypeAlias = Annotated[int, Range(1, MAX_STEPS)]
_Side: TypeAlias = Annotated[str, Choices(SIDES)]


@dataclass(frozen=True, kw_only=True)
class Characters:
    """Some characters in a row, as a part of a pattern.

    Attributes:
        ranges: The first and the last code point of each range of them, one after the other.
        least: The smallest number in a row.
        most: The largest number in a row; None for any.
    """

    ranges: Annotated[tuple[_CodePoint, ...], Items(2 * MAX_STEPS_OF_TEXT)]
    least: Annotated[int, Range(0, 1000), Flag.OMIT_DEFAULT] = 1
    most: Annotated[int, Range(1, 1000)] | None = None

    def violation(self) -> _Violation | None:
        """The rule of the manifest that this breaks, if any."""
        pairs = list(zip(self.ranges[::2], self.ranges[1::2], strict=False))
        if not pairs or len(self.ranges) % 2 or any(low > high for low, high in pairs):
            return "ranges", "pairs of code points, the lower first"
        if self.most is not None and self.most < self.least:
            return "most", "at least 'least'"
        return None


@dataclass(frozen=True, kw_only=True)
class TextStep:
    """A change of a text before it is standardized.

    Attributes:
        kind: "lower" or "upper" for the letters of ASCII, "strip" to remove whitespace of ASCII at
            both ends, "replace" for every match of `pattern`, "join" for strings around the text.
        by: For "replace", what takes the place of a match: these strings, with the match between
            each two. For "join", the string before the text and the one after it.
        pattern: For "replace", the characters of a match, as many of each as possible.
    """

    kind: Annotated[str, Choices(STEP_KINDS)]
    by: Annotated[
        tuple[Annotated[str, Flag.UNICODE], ...], Flag.OMIT_DEFAULT, Items(MAX_STEPS_OF_TEXT)
    ] = ()
    pattern: Annotated[tuple[Characters, ...], Flag.OMIT_DEFAULT, Items(MAX_STEPS_OF_TEXT)] = ()

    def violation(self) -> _Violation | None:
        """The rule of the manifest that this breaks, if any."""
        if (self.kind == "replace") != any(one.least for one in self.pattern):
            return "pattern", "one or more characters, for 'replace' alone"
        if sum(one.least != one.most for one in self.pattern) > MAX_REPEATS:
            return "pattern", f"at most {MAX_REPEATS} part of no fixed number of characters"
        if not self._has_strings:
            return "by", f"strings for 'replace', and two for 'join', of {MAX_FRAME} characters"
        return None

    @property
    def growth(self) -> int:
        """By how many times this can lengthen a text, at most."""
        if self.kind != "replace":
            return 1
        least = max(1, sum(one.least for one in self.pattern))
        return max(1, -(-sum(map(len, self.by)) // least) + len(self.by) - 1)

    @property
    def _has_strings(self) -> bool:
        if self.kind == "replace":
            return bool(self.by)
        is_short = self.kind != "join" or sum(map(len, self.by)) <= MAX_FRAME
        return is_short and len(self.by) == (2 if self.kind == "join" else 0)


@dataclass(frozen=True)
class TextPreprocessing:
    """How the strings or integers of one input become ids, as in a text layer of Keras.

    Attributes:
        input: The input of the manifest that takes the ids.
        kind: The Keras layer that does the same, one of `KINDS`.
        standardize: How a string is normalized first, one of `STANDARDIZATIONS`, or None.
        split: How a string is split into tokens, one of `SPLITS`; None for one token per string.
        output_sequence_length: The number of ids per text, truncated or padded at the end; None
            for one id per token.
        vocabulary: The known tokens, each once.
        first_id: The id of the first known token; the others follow.
        mask_token: The token that stands for padding, known or not; None if none does.
        padding_id: The id of padding; None if there is none.
        unknown_id: The id of every other token, or of the first of their buckets; None if other
            tokens are an error.
        buckets: The number of ids of other tokens, among which a hash of the token chooses.
        hash_key: The key of the hash, two numbers; None for the hash without a key.
        ngrams: The numbers of tokens that are joined to one, such as (1, 2); empty for tokens as
            they are.
        output_mode: What ids become, one of `OUTPUT_MODES`; "int" for ids.
        size: The number of values for one text, if it does not become ids.
        weights: The weight of each id, for "tf_idf".
        source: The name under which the strings or integers are given, if it is not that of
            `input`; entries with the same name take the same value.
        integers: The dtype of the integers that are given in place of strings, one of `INTEGERS`;
            each token is the decimal form of one. None for strings.
        steps: What changes a string before it is standardized.
    """

    input: str
    kind: Annotated[str, Choices(KINDS)]
    standardize: Annotated[str, Choices(STANDARDIZATIONS)] | None
    split: Annotated[str, Choices(SPLITS)] | None
    output_sequence_length: _Length | None
    vocabulary: Annotated[tuple[str, ...], Flag.VOCABULARY, Flag.MAY_BE_EMPTY]
    first_id: _Id
    mask_token: Annotated[str, Flag.UNICODE] | None
    padding_id: _Id | None
    unknown_id: _Id | None
    buckets: Annotated[int, Range(1, MAX_ID), Flag.OMIT_DEFAULT] = 1
    hash_key: Annotated[tuple[int, ...], Flag.OMIT_DEFAULT, Items(2)] = ()
    ngrams: Annotated[tuple[_Length, ...], Flag.OMIT_DEFAULT, Items(MAX_NGRAMS)] = ()
    output_mode: Annotated[str, Choices(OUTPUT_MODES), Flag.OMIT_DEFAULT] = "int"
    size: Annotated[_Length | None, Flag.OMIT_DEFAULT] = None
    weights: Annotated[tuple[float, ...], Flag.OMIT_DEFAULT, Items(MAX_TEXT)] = ()
    source: Annotated[str | None, Flag.OMIT_DEFAULT] = None
    integers: Annotated[Annotated[str, Choices(INTEGERS)] | None, Flag.OMIT_DEFAULT] = None
    steps: Annotated[tuple[TextStep, ...], Flag.OMIT_DEFAULT, Items(MAX_STEPS_OF_TEXT)] = ()

    def violation(self) -> _Violation | None:
        """The rule of the manifest that this breaks, if any."""
        pads = self.mask_token is not None or self.output_sequence_length is not None
        is_split = self.standardize or self.split or self.ngrams or self.steps
        broken = (
            (
                not self.vocabulary and self.kind != "hashing",
                ("vocabulary", "a list of one or more tokens"),
            ),
            (len(self.hash_key) not in (0, 2), ("hash_key", "two numbers")),
            (
                (self.size is None) != (self.output_mode == "int"),
                ("", "a 'size' if and only if 'output_mode' is not 'int'"),
            ),
            (
                len(self.weights) != (self.size if self.output_mode == "tf_idf" else 0),
                ("", "as many 'weights' as 'size', for 'tf_idf' alone"),
            ),
            (
                pads and self.padding_id is None,
                ("", "a 'padding_id' beside 'mask_token' or 'output_sequence_length'"),
            ),
            (
                self.integers is not None and (self.source is None or bool(is_split)),
                ("", "a 'source' beside 'integers', which are neither split nor joined"),
            ),
            (
                math.prod(step.growth for step in self.steps) > MAX_GROWTH,
                ("steps", f"steps that make a text at most {MAX_GROWTH} times as long"),
            ),
        )
        return next((violation for is_broken, violation in broken if is_broken), None)

    @property
    def rank(self) -> int | None:
        """The number of axes of the values of one text; None if it follows from the strings."""
        return None if self.split is None and self.output_mode in ("int", "one_hot") else 1


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How ids get the length that the model takes, as in Keras's `pad_sequences`.

    Attributes:
        length: The number of ids; None for as many as there are.
        padding: The side on which fewer ids are padded, "pre" or "post".
        truncating: The side on which more ids are cut.
        padding_id: The id of padding.
    """

    length: _Length | None = None
    padding: _Side = "pre"
    truncating: _Side = "pre"
    padding_id: _Id = 0

    def place(self, count: int) -> tuple[int, int, int]:
        """Find where ids go.

        Args:
            count: The number of ids.

        Returns:
            The first id that is kept, the number of ids kept, and the position of the first.
        """
        if self.length is None:
            return 0, count, 0
        if count >= self.length:
            return (count - self.length if self.truncating == "pre" else 0), self.length, 0
        return 0, count, (self.length - count if self.padding == "pre" else 0)


@dataclass(frozen=True, kw_only=True)
class TokenizerPreprocessing:
    """How the texts of one input become ids, as in the `Tokenizer` of Keras.

    Attributes:
        input: The input of the manifest that takes the ids.
        kind: "tokenizer".
        level: "word" for the words of a text, "character" for its characters, or
            "word_characters" for the characters of each word, `[words, characters]`.
        lower: Whether text is lower-cased first, by the rules of Unicode.
        filters: The characters that separate words, beside `separator`.
        separator: The string between words.
        vocabulary: The known tokens, each once.
        first_id: The id of the first known token; the others follow.
        ids: The id of each known token, if they do not follow one another.
        unknown_id: The id of every other token; None if other tokens are left out.
        characters: The number of characters of each word; None for as many as the longest has.
        fit: How ids get the length that the model takes.
    """

    input: str
    kind: Annotated[str, Choices(("tokenizer",))] = "tokenizer"
    level: Annotated[str, Choices(LEVELS)]
    lower: bool
    filters: Annotated[str, Flag.UNICODE]
    separator: str
    vocabulary: Annotated[tuple[str, ...], Flag.VOCABULARY]
    first_id: _Id = 1
    ids: Annotated[tuple[_Id, ...], Flag.OMIT_DEFAULT, Items(MAX_ID)] = ()
    unknown_id: _Id | None = None
    characters: _Length | None = None
    fit: Annotated[Fit, Key(())] = Fit()

    def violation(self) -> _Violation | None:
        """The rule of the manifest that this breaks, if any."""
        if self.ids and len(self.ids) != len(self.vocabulary):
            return "ids", "as many ids as tokens in 'vocabulary'"
        if self.characters is not None and self.level != "word_characters":
            return "characters", "null, unless 'level' is 'word_characters'"
        return None

    @property
    def rank(self) -> int:
        """The number of axes of the ids of one text."""
        return 2 if self.level == "word_characters" else 1

    @property
    def largest_id(self) -> int:
        """The largest id that a text can get."""
        largest = max(self.ids) if self.ids else self.first_id + len(self.vocabulary) - 1
        return max(largest, self.fit.padding_id, self.unknown_id or 0)


@dataclass(frozen=True, kw_only=True)
class TokenizerFilePreprocessing:
    """How the texts of one input become ids, by a `tokenizer.json` of the library `tokenizers`.

    Attributes:
        input: The input of the manifest that takes the ids.
        kind: "tokenizer_file".
        file: The name of the file in the bundle folder.
        bytes: Its size in bytes.
        sha256: Its SHA-256, 64 lower-case hexadecimal digits.
        fit: How ids get the length that the model takes.
    """

    input: str
    kind: Annotated[str, Choices(("tokenizer_file",))] = "tokenizer_file"
    file: Annotated[str, FILE_NAME]
    bytes: Annotated[int, BYTES]
    sha256: Annotated[str, SHA256]
    fit: Annotated[Fit, Key(())] = Fit()

    @property
    def rank(self) -> int:
        """The number of axes of the ids of one text."""
        return 1


@dataclass(frozen=True, kw_only=True)
class WindowPreprocessing:
    """How a long recording is cut into the examples of one input.

    Attributes:
        input: The only input of the model, `[batch, time, ...]`.
        kind: "sliding_windows".
        window: The number of steps of a window.
        hop: The number of steps from the start of one window to that of the next.
    """

    input: str
    kind: Annotated[str, Choices(("sliding_windows",))] = "sliding_windows"
    window: _Steps
    hop: _Steps


TextEntry: TypeAlias = TextPreprocessing | TokenizerPreprocessing | TokenizerFilePreprocessing
"""Any entry of `preprocessing` for an input that takes text."""

Preprocessing: TypeAlias = (
    TextPreprocessing | TokenizerPreprocessing | TokenizerFilePreprocessing | WindowPreprocessing
)
"""Any entry of `preprocessing`; a further kind is a further member."""
