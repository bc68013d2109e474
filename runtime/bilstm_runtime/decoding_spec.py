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
    """

    output: str
    kind: Annotated[str, Choices(("tags",))] = "tags"
    labels: _Labels
    activation: Annotated[str, Choices(ACTIVATIONS)] | None = None
    threshold: _Share | None = None
    scheme: Annotated[str, Choices(SCHEMES)] | None = None

    def misfit(self, shape: tuple[int | None, ...], dtype: str) -> str:
        """What does not fit the output, as in `LabelDecoding.misfit`."""
        return _misfit(self.labels, shape[2:], dtype, "step", "[batch, time, tags]")


Decoding: TypeAlias = LabelDecoding | TagDecoding
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
