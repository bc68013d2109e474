"""Which output an answer is made of, and the options of answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bilstm_runtime.decoding.scorers import check_spells
from bilstm_runtime.decoding_spec import MAX_BEAM, CtcDecoding, LabelDecoding, TagDecoding
from bilstm_runtime.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bilstm_runtime.decoding.ctc import Scorer
    from bilstm_runtime.decoding_spec import Decoding
    from bilstm_runtime.spec import ModelSpec

_Kind = TypeVar("_Kind")

METHODS: Final[dict[type[Any], str]] = {
    LabelDecoding: "classify",
    TagDecoding: "tag",
    CtcDecoding: "transcribe",
}
"""The methods of a loaded model that return the answers of each decoding."""


@dataclass(frozen=True)
class DecodingOptions:
    """The options of answers.

    Attributes:
        top_k: The largest number of labels of an example; None for the best exclusive class, or
            for all classes whose score is at least the threshold.
        threshold: Replaces the threshold of the bundle; None leaves it.
        spans: Whether tags become spans.
        marginals: Whether the tags of a CRF have scores: their probability over all paths.
        beam_width: The number of prefixes that a CTC beam search keeps, 1 for greedy decoding;
            None for that of the bundle, or 100 with a scorer.
        scorer: What a CTC beam search knows of the language, or the words that it may find.

    Raises:
        OptionError: A value is impossible.
    """

    top_k: int | None = None
    threshold: float | None = None
    spans: bool = False
    marginals: bool = False
    beam_width: int | None = None
    scorer: Scorer | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.top_k is not None and (type(self.top_k) is not int or self.top_k < 1):
            message = f"top_k is {self.top_k!r}; expected a whole number from 1, or None"
            raise OptionError(message)
        is_number = isinstance(self.threshold, (int, float)) and type(self.threshold) is not bool
        if self.threshold is not None and not (is_number and 0 <= self.threshold <= 1):
            message = f"threshold is {self.threshold!r}; expected a number from 0 to 1"
            raise OptionError(message)
        width = self.beam_width
        if width is not None and (type(width) is not int or not 1 <= width <= MAX_BEAM):
            message = f"beam_width is {width!r}; expected a whole number from 1 to {MAX_BEAM}"
            raise OptionError(message)
        if width == 1 and self.scorer is not None:
            message = "words and scorers need a beam search: a beam_width from 2, such as 100"
            raise OptionError(message)

    def check(self, decodings: Sequence[Decoding]) -> None:
        """Raise `OptionError` for an option that applies to none of the decodings."""
        for decoding in decodings:
            if self.spans and isinstance(decoding, TagDecoding) and decoding.scheme is None:
                message = (
                    f"the tags of {decoding.output!r} form no spans: their names do not begin with "
                    f"B- and I-; they are {', '.join(decoding.labels[:8])}"
                )
                raise OptionError(message)
            if isinstance(self.scorer, tuple) and isinstance(decoding, CtcDecoding):
                check_spells(self.scorer, decoding.labels)
        outputs = ", ".join(repr(decoding.output) for decoding in decodings)
        kinds = {type(decoding) for decoding in decodings}
        for name, is_given, takers, need in (
            ("top_k", self.top_k is not None, {LabelDecoding, CtcDecoding}, "labels or texts"),
            ("spans", self.spans, {TagDecoding}, "tags"),
            ("beam_width", self.beam_width is not None, {CtcDecoding}, "texts of a CTC model"),
            ("words", self.scorer is not None, {CtcDecoding}, "texts of a CTC model"),
        ):
            if is_given and not kinds & takers:
                message = f"{name} is for {need}, which the model does not return: leave it out"
                raise OptionError(message)
        if self.threshold is not None and all(_threshold(one) is None for one in decodings):
            message = (
                f"threshold is for one value between two classes, or for classes that do not "
                f"exclude each other; those of {outputs} do: leave it out"
            )
            raise OptionError(message)

    def applied(self, decoding: TagDecoding) -> TagDecoding:
        """Return a decoding with the threshold of the options, if it has a threshold."""
        if self.threshold is None or decoding.threshold is None:
            return decoding
        return replace(decoding, threshold=self.threshold)


def words_of(words: Iterable[str]) -> tuple[str, ...]:
    """Return the words that texts may have; raises `OptionError` if they are not words."""
    found = () if isinstance(words, (str, bytes)) else tuple(words)
    if not found or not all(isinstance(word, str) for word in found):
        message = f"words is {words!r:.60}; expected a list of one or more words, each a str"
        raise OptionError(message)
    return found


def _threshold(decoding: Decoding) -> float | None:
    return None if isinstance(decoding, CtcDecoding) else decoding.threshold


def check_has_decoding(spec: ModelSpec) -> None:
    """Raise `OptionError` for a model without labels."""
    if not spec.decoding:
        message = "the model has no labels; export it with --labels FILE, one name for each class"
        raise OptionError(message)


def find_decoding(spec: ModelSpec, kind: type[_Kind], output: str | None) -> _Kind:
    """Find the decoding of one kind.

    Args:
        spec: The model.
        kind: The class of the decoding.
        output: The name of the output; None if only one has such a decoding.

    Raises:
        OptionError: There is none, or several without a name.
    """
    names = [item.name for item in spec.outputs]
    if output is not None and output not in names:
        message = f"the model has no output {output!r}; it has {', '.join(map(repr, names))}"
        raise OptionError(message)
    check_has_decoding(spec)
    among = [item for item in spec.decoding if output in (None, item.output)]
    found = [item for item in among if isinstance(item, kind)]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(repr(item.output) for item in among if isinstance(item, kind))
        message = f"several outputs have labels: {shown}; name one with output="
    elif among:
        use = " or ".join(
            f"{METHODS.get(type(item), 'decode')}() for {item.output!r}" for item in among
        )
        message = f"{METHODS.get(kind, 'decode')}() does not suit this model: use {use}"
    else:
        message = f"the output {output!r} has no labels; export the model with labels for it"
    raise OptionError(message)
