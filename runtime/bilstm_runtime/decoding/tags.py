"""The tags of tokens and of steps, and the spans that they form."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bilstm_runtime.decoding.crf import best_paths, chain_of
from bilstm_runtime.decoding.crf import marginals as marginals_of
from bilstm_runtime.decoding.results import Span, Tag
from bilstm_runtime.decoding.scores import best_of, scores_of
from bilstm_runtime.errors import BackendRunError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_runtime.decoding_spec import TagDecoding
    from bilstm_runtime.spec import AnyArray


@dataclass(frozen=True)
class Token:
    """A token of a text, or a step of numbers, and the step of the output that belongs to it.

    Attributes:
        text: The token as it stands in the text; None for a step of numbers.
        start: Where it starts, in characters of the text; for numbers, the step.
        end: The position after it.
        step: The step of the model's input, and of the output.
    """

    text: str | None
    start: int
    end: int
    step: int


@dataclass(frozen=True)
class TokenSequence:
    """The tokens of one example, without padding.

    Attributes:
        text: The text; None for numbers, and for a list of words.
        tokens: The tokens in the order of the text.
    """

    text: str | None
    tokens: Sequence[Token]


@dataclass(frozen=True)
class BestTags:
    """The tags of one example.

    Attributes:
        numbers: `[steps] int64`, the number of each tag.
        scores: `[steps] float64`, its score; None if there is none.
    """

    numbers: AnyArray
    scores: AnyArray | None


def best_tags(
    examples: Sequence[AnyArray], decoding: TagDecoding, *, marginals: bool = False
) -> list[BestTags]:
    """Return the best tag of each step, or the tags of the best path of a CRF.

    Args:
        examples: For each example `[steps, tags]` of floats or `[steps]` of integers, without the
            steps of padding.
        decoding: How to read the output.
        marginals: Whether the scores of a CRF are computed.

    Raises:
        InputError: An example of a CRF has no steps.
    """
    if decoding.crf is not None:
        return _best_path_tags(examples, decoding, marginals=marginals)
    found = []
    for values in examples:
        if values.dtype.kind in "iub":
            found.append(BestTags(values.reshape(-1).astype(np.int64), None))
            continue
        rows = values.reshape(len(values), values.shape[1] if values.ndim > 1 else 1)
        scores = scores_of(rows, decoding.activation, len(decoding.labels))
        is_binary = scores.shape[-1] != rows.shape[-1]
        numbers = best_of(scores, decoding.threshold if is_binary else None)
        chosen = np.take_along_axis(scores, numbers[:, None], axis=-1)[:, 0]
        found.append(BestTags(numbers, chosen))
    return found


def _best_path_tags(
    examples: Sequence[AnyArray], decoding: TagDecoding, *, marginals: bool
) -> list[BestTags]:
    lengths = np.array([len(values) for values in examples], np.int64)
    for number in np.flatnonzero(lengths == 0):
        message = (
            f"example {number}: every step is padding, so the output {decoding.output!r} has no "
            "path of tags; leave the example out"
        )
        raise InputError(message)
    if not len(examples):
        return []
    chain = chain_of(decoding)
    size = (len(examples), int(lengths.max()), len(decoding.labels))
    emissions = np.zeros(size, examples[0].dtype)
    for row, values in zip(emissions, examples, strict=True):
        row[: len(values)] = values
    mask = np.arange(size[1]) < lengths[:, None]
    paths, _ = best_paths(emissions, chain, mask)
    numbers = [path[:length] for path, length in zip(paths, lengths, strict=True)]
    if not marginals:
        return [BestTags(one, None) for one in numbers]
    shares = marginals_of(emissions, chain, mask)
    return [
        BestTags(one, row[np.arange(len(one)), one])
        for one, row in zip(numbers, shares, strict=True)
    ]


def tags_of(
    outputs: Sequence[AnyArray],
    sequences: Sequence[TokenSequence] | None,
    decoding: TagDecoding,
    *,
    marginals: bool = False,
) -> list[list[Tag]]:
    """Return the tags of each example.

    Args:
        outputs: For each example `[steps, tags]` of floats or `[steps]` of integers.
        sequences: The tokens of each example; None to tag every step of the outputs.
        decoding: How to read the output.
        marginals: Whether the scores of a CRF are computed.

    Raises:
        InputError: An example of a CRF has no steps.
    """
    if sequences is None:
        sequences = [
            TokenSequence(None, [Token(None, n, n + 1, n) for n in range(len(output))])
            for output in outputs
        ]
    kept = [
        [token for token in sequence.tokens if token.step < len(output)]
        for sequence, output in zip(sequences, outputs, strict=True)
    ]
    values = [
        output[np.array([token.step for token in tokens], dtype=np.int64)]
        for tokens, output in zip(kept, outputs, strict=True)
    ]
    found = best_tags(values, decoding, marginals=marginals)
    return [
        _joined(tokens, best, decoding.labels) for tokens, best in zip(kept, found, strict=True)
    ]


def _joined(tokens: Sequence[Token], best: BestTags, labels: Sequence[str]) -> list[Tag]:
    scores = [None] * len(tokens) if best.scores is None else best.scores.tolist()
    return [
        Tag(token.text, _label(labels, number), score, token.start, token.end)
        for token, number, score in zip(tokens, best.numbers.tolist(), scores, strict=True)
    ]


def _label(labels: Sequence[str], number: int) -> str:
    if not 0 <= number < len(labels):
        message = (
            f"the model returns the tag {number}, and the manifest names {len(labels)} tags. "
            "Export the model again with all labels."
        )
        raise BackendRunError(message)
    return labels[number]


_SPAN_TAG: Final = re.compile(r"([BILUES])(?:[-_](.*))?", re.DOTALL)
_LAST: Final = {"L": True, "E": True, "U": True, "S": True}
_FIRST: Final = {"B": True, "U": True, "S": True}


def spans_of(tags: Sequence[Tag], text: str | None) -> list[Span]:
    """Join the tags of one example to spans.

    A span starts at `B-X`, `U-X` or `S-X`, and at any other tag of X that does not continue a span
    of X. It goes on with `I-X` and ends with `L-X` or `E-X`, or before any other tag.

    Args:
        tags: The tags in the order of the text.
        text: The text; None for steps of numbers.
    """
    found: list[list[Tag]] = []
    names: list[str] = []
    is_open = False
    for tag in tags:
        match = _SPAN_TAG.fullmatch(tag.tag)
        if match is None:
            is_open = False
            continue
        prefix, name = match[1], match[2] or ""
        if not is_open or prefix in _FIRST or names[-1] != name:
            found.append([])
            names.append(name)
        found[-1].append(tag)
        is_open = prefix not in _LAST
    return [_span(name, parts, text) for name, parts in zip(names, found, strict=True)]


def _span(name: str, tags: Sequence[Tag], text: str | None) -> Span:
    start, end = tags[0].start, tags[-1].end
    scores = [tag.score for tag in tags if tag.score is not None]
    score = sum(scores) / len(scores) if scores else None
    return Span(None if text is None else text[start:end], name, score, start, end)


def scheme_of(labels: Sequence[str]) -> str | None:
    """Return the scheme in which labels form spans; None if they do not.

    >>> scheme_of(["O", "B-PER", "I-PER"])
    'bio'
    >>> scheme_of(["NOUN", "VERB"]) is None
    True
    """
    prefixes = {match[1] for match in map(_SPAN_TAG.fullmatch, labels) if match is not None}
    if "B" not in prefixes or "I" not in prefixes:
        return None
    if prefixes & {"L", "U"}:
        return "bilou"
    return "bioes" if prefixes & {"E", "S"} else "bio"
