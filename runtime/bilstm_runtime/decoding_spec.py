"""How outputs become answers: the entries of `decoding` in the manifest.

Each kind of decoding is a dataclass whose field `kind` has one value. `Decoding` is their union.
`bilstm_runtime.decoding` computes the answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from bilstm_runtime.constraints import Choices, Flag, Items, Range

MAX_LABELS: Final = 2**20
"""Largest number of labels of one output."""

ACTIVATIONS: Final = ("softmax", "sigmoid")
SCHEMES: Final = ("bio", "bilou", "bioes")

_INTEGERS: Final = ("int", "uint", "bool")

_Violation: TypeAlias = tuple[str, str]
_Labels: TypeAlias = Annotated[
    tuple[Annotated[str, Flag.UNICODE], ...], Flag.AT_LEAST_ONE, Items(MAX_LABELS)
]
_Share: TypeAlias = Annotated[float, Range(0, 1)]

MAX_CRF_TAGS: Final = 512
"""Largest number of tags of a CRF: its transitions then take 3 MB of the manifest."""

MAX_BEAM: Final = 2**14
"""Largest number of prefixes that a beam search keeps."""

_PerTag: TypeAlias = Annotated[tuple[float, ...], Flag.AT_LEAST_ONE, Items(MAX_CRF_TAGS)]


@dataclass(frozen=True, kw_only=True)
class LabelDecoding:
    """One row of the output is one example: its classes, for `Model.classify`.

    The output is `[batch, classes]` of floats, one value for each class, or `[batch]` or
    `[batch, 1]` of integers, the number of the class. With two labels and one value for each
    example, the value is that of the second label.

    Attributes:
        output: The output of the manifest.
        kind: "labels".
        labels: The name of each class.
        exclusive: Whether an example belongs to one class. If not, it belongs to every class whose
            score is at least the threshold.
        activation: What makes scores of the values: "softmax", "sigmoid", or None if the values
            are the scores.
        threshold: The lowest score of a class that an example belongs to; for two labels and one
            value, the lowest score of the second label. None for exclusive classes otherwise.
    """

    output: str
    kind: Annotated[str, Choices(("labels",))] = "labels"
    labels: _Labels
    exclusive: bool = True
    activation: Annotated[str, Choices(ACTIVATIONS)] | None = None
    threshold: _Share | None = None

    def violation(self) -> _Violation | None:
        """The rule of the manifest that this breaks, if any."""
        if not self.exclusive and self.threshold is None:
            return "", "a 'threshold' for classes that are not exclusive"
        return None

    def misfit(self, shape: tuple[int | None, ...], dtype: str) -> str:
        """What does not fit the output, in words; empty if all does.

        Args:
            shape: The shape of the output, with the batch axis first; None for a free axis.
            dtype: Its dtype.
        """
        return _misfit(self.labels, shape[1:], dtype, "example", "[batch, classes]")


@dataclass(frozen=True, kw_only=True)
class CrfWeights:
    """The weights of a linear-chain CRF, whose best path gives the tags.

    The score of a path is the sum of the output's values for its tags, of `transitions[a][b]` for
    each tag b that follows a tag a, of `start` for the first tag and `end` for the last. Steps of
    padding are left out.

    Attributes:
        transitions: One row for each tag, with one value for each tag that follows it.
        start: One value for each tag; None for zeros.
        end: One value for each tag; None for zeros.
        constrained: Whether paths that break the scheme of the tags are excluded.
    """

    transitions: Annotated[tuple[_PerTag, ...], Flag.AT_LEAST_ONE, Items(MAX_CRF_TAGS)]
    start: _PerTag | None = None
    end: _PerTag | None = None
    constrained: bool = False

    def violation(self) -> _Violation | None:
        """The rule of the manifest that this breaks, if any."""
        tags = len(self.transitions)
        if any(len(row) != tags for row in self.transitions):
            return "transitions", f"{tags} rows of {tags} values"
        for name in ("start", "end"):
            values = getattr(self, name)
            if values is not None and len(values) != tags:
                return name, f"{tags} values, one for each tag of 'transitions'"
        return None


@dataclass(frozen=True, kw_only=True)
class TagDecoding:
    """One row of the output is a sequence: a tag for each step, for `Model.tag`.

    The output is `[batch, time, tags]` of floats, one value for each tag, or `[batch, time]` of
    integers, the number of the tag. With two labels and one value for each step, the value is that
    of the second label.

    Attributes:
        output: The output of the manifest.
        kind: "tags".
        labels: The name of each tag.
        activation: As in `LabelDecoding`.
        threshold: The lowest score of the second label, for two labels and one value for each
            step; None otherwise.
        scheme: How tags form spans, one of `SCHEMES`; None if they do not.
        crf: The weights between tags, if the tags are the best path; None if each step has its
            best tag.
    """

    output: str
    kind: Annotated[str, Choices(("tags",))] = "tags"
    labels: _Labels
    activation: Annotated[str, Choices(ACTIVATIONS)] | None = None
    threshold: _Share | None = None
    scheme: Annotated[str, Choices(SCHEMES)] | None = None
    crf: Annotated[CrfWeights | None, Flag.OMIT_DEFAULT] = None

    def violation(self) -> _Violation | None:
        """The rule of the manifest that this breaks, if any."""
        if self.crf is None:
            return None
        if len(self.crf.transitions) != len(self.labels):
            return "crf", f"transitions of {len(self.labels)} tags, one for each label"
        if self.crf.constrained and self.scheme is None:
            return "scheme", "a scheme beside a constrained 'crf'"
        return None

    def misfit(self, shape: tuple[int | None, ...], dtype: str) -> str:
        """What does not fit the output, as in `LabelDecoding.misfit`."""
        if self.crf is not None:
            return _no_values(shape, dtype, len(self.labels), "transitions of {} tags")
        return _misfit(self.labels, shape[2:], dtype, "step", "[batch, time, tags]")


@dataclass(frozen=True, kw_only=True)
class CtcDecoding:
    """One row of the output is a sequence of characters with blanks, for `Model.transcribe`.

    The output is `[batch, time, classes]` of floats.

    Attributes:
        output: The output of the manifest.
        kind: "ctc".
        labels: The text of each class, such as a character; "" for the blank.
        blank: The number of the blank.
        activation: "softmax" if the values are logits, None if they are probabilities.
        merge_repeated: Whether neighbouring steps of one class are one character.
        beam_width: The number of prefixes that a beam search keeps; 1 for greedy decoding.
    """

    output: str
    kind: Annotated[str, Choices(("ctc",))] = "ctc"
    labels: _Labels
    blank: Annotated[int, Range(0, MAX_LABELS)]
    activation: Annotated[str, Choices(("softmax",))] | None = None
    merge_repeated: bool = True
    beam_width: Annotated[int, Range(1, MAX_BEAM)] = 1

    def violation(self) -> _Violation | None:
        """The rule of the manifest that this breaks, if any."""
        if self.blank >= len(self.labels):
            return "blank", f"the number of one of the {len(self.labels)} labels"
        if not self.merge_repeated and self.beam_width > 1:
            return "merge_repeated", "true beside a beam search"
        return None

    def misfit(self, shape: tuple[int | None, ...], dtype: str) -> str:
        """What does not fit the output, as in `LabelDecoding.misfit`."""
        return _no_values(shape, dtype, len(self.labels), "{} labels, the blank among them")


Decoding: TypeAlias = LabelDecoding | TagDecoding | CtcDecoding
"""Any entry of `decoding`; a further kind is a further member."""


def _misfit(
    labels: tuple[str, ...], rest: tuple[int | None, ...], dtype: str, unit: str, wanted: str
) -> str:
    """Compare labels with the axes of an output that follow those of examples or steps."""
    if len(rest) > 1:
        return f"it has {len(rest)} axes for each {unit}; expected {wanted}"
    if dtype.startswith(_INTEGERS):
        return "" if rest in ((), (1,)) else f"it has integers {list(rest)} for each {unit}"
    values = rest[0] if rest else 1
    if values is None:
        return f"its number of values for each {unit} is not fixed"
    if len(labels) == values or (values == 1 and len(labels) == 2):
        return ""
    one_or_many = "value" if values == 1 else "values"
    return (
        f"there are {len(labels)} labels, and the output has {values} {one_or_many} for each {unit}"
    )


def _no_values(shape: tuple[int | None, ...], dtype: str, count: int, what: str) -> str:
    """Tell what an output lacks that must have one float for each class of each step."""
    if dtype.startswith(_INTEGERS) or len(shape) != 3:
        sizes = ", ".join("?" if size is None else str(size) for size in shape)
        return f"it is [{sizes}] of {dtype}; expected [batch, time, classes] of floats"
    if shape[2] == count:
        return ""
    return f"there are {what.format(count)}, and the output has {shape[2]} values for each step"
