"""The answers that decoding returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """A class of an example.

    Attributes:
        label: The name of the class.
        score: Its score, from 0 to 1; None if the model returns the number of the class only.
        start: The first step of the window that was classified; None for a whole example.
        end: The step after the last one of that window; None for a whole example.
    """

    label: str
    score: float | None
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class Tag:
    """The tag of one token, or of one step.

    Attributes:
        token: The token as it stands in the text; None for a step of numbers.
        tag: The name of the tag.
        score: Its score, from 0 to 1; None if the model returns the number of the tag only.
        start: Where the token starts, in characters of the text; for numbers, the step.
        end: The position after its last character, or the step after it.
    """

    token: str | None
    tag: str
    score: float | None
    start: int
    end: int


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens whose tags form one unit, such as a name.

    Attributes:
        text: The part of the text; None for steps of numbers.
        label: The name of the unit: that of its tags without `B-`, `I-` and so on.
        score: The mean score of its tags; None if there are no scores.
        start: Where it starts, in characters of the text; for numbers, its first step.
        end: The position after its last character, or the step after its last one.
    """

    text: str | None
    label: str
    score: float | None
    start: int
    end: int


@dataclass(frozen=True)
class Transcription:
    """The text of one example.

    Attributes:
        text: The texts of its classes, joined.
        score: The natural logarithm of its probability: of the best path in greedy decoding; of
            all paths in a beam search, and of what words or n-grams add.
        classes: The numbers of its classes, without blanks.
    """

    text: str
    score: float
    classes: tuple[int, ...]
