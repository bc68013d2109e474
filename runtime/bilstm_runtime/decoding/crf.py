"""Linear-chain conditional random fields: the best path, its score, and marginals.

The score of a path is the sum of the emissions of its tags, of the transition between each two
neighbours, and of the start and the end. A masked step is left out: its neighbours become
neighbours of each other. Lafferty, McCallum and Pereira (2001) describe the model.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from bilstm_runtime.decoding_spec import TagDecoding
    from bilstm_runtime.spec import AnyArray

MASKED: Final = -1
"""The tag of a masked step in a path."""

_CANDIDATE_BYTES: Final = 2**19
"""The scores of the paths into one step are computed for so many examples at once that they fit
into a cache of one core. 128 examples of 50 tags took 13 ms instead of 21 (2 MB of L2)."""


@dataclass(frozen=True)
class Chain:
    """The weights between tags.

    Attributes:
        transitions: `[tags, tags]`, from the tag of a row to the tag of a column.
        start: `[tags]`, added to the first step of each example; None for zeros.
        end: `[tags]`, added to the last step of each example; None for zeros.
    """

    transitions: AnyArray
    start: AnyArray | None = None
    end: AnyArray | None = None

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            ValueError: The shapes do not belong together.
        """
        shape = np.shape(self.transitions)
        if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
            message = f"transitions have the shape {list(shape)}; expected [tags, tags]"
            raise ValueError(message)
        for name, values in (("start", self.start), ("end", self.end)):
            if values is not None and np.shape(values) != shape[:1]:
                message = (
                    f"{name} has the shape {list(np.shape(values))}; expected [{shape[0]}], one "
                    "value for each tag of the transitions"
                )
                raise ValueError(message)

    def constrained(self, labels: Sequence[str], scheme: str) -> Chain:
        """Return a chain with which no path breaks a scheme.

        Args:
            labels: The name of each tag.
            scheme: "bio", "bilou" or "bioes".
        """
        allowed, first, last = allowed_tags(labels, scheme)
        never = np.float32(-np.inf)
        start = np.zeros(len(labels), np.float32) if self.start is None else self.start
        end = np.zeros(len(labels), np.float32) if self.end is None else self.end
        return Chain(
            np.where(allowed, self.transitions, never),
            np.where(first, start, never),
            np.where(last, end, never),
        )


@functools.lru_cache(maxsize=16)
def chain_of(decoding: TagDecoding) -> Chain:
    """Return the weights between tags that an entry of `decoding` in a manifest has.

    Args:
        decoding: The entry; its `crf` is not None.

    Returns:
        The weights as float32; with those of forbidden paths excluded, if it is constrained.

    Raises:
        ValueError: Its `crf` is None.
    """
    weights = decoding.crf
    if weights is None:
        message = "an entry without transitions has no best path"
        raise ValueError(message)
    start, end = (
        None if values is None else np.array(values, np.float32)
        for values in (weights.start, weights.end)
    )
    chain = Chain(np.array(weights.transitions, np.float32), start, end)
    if weights.constrained and decoding.scheme is not None:
        return chain.constrained(decoding.labels, decoding.scheme)
    return chain


_TAG: Final = re.compile(r"([BILUES])[-_](.*)", re.DOTALL)
_LAST: Final = frozenset("LEUS")
_ALONE: Final = frozenset("BUS")


def allowed_tags(labels: Sequence[str], scheme: str) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Return which tags may follow each other, be first, and be last.

    In every scheme, `I-X`, `L-X` and `E-X` follow `B-X` or `I-X` only. In "bilou" and "bioes", one
    of them must follow `B-X` and `I-X`. Any other name is a tag outside of spans.

    Args:
        labels: The name of each tag.
        scheme: "bio", "bilou" or "bioes".

    Returns:
        `[tags, tags] bool`, from the tag of a row to the tag of a column; `[tags] bool`;
        `[tags] bool`.
    """
    found = [_TAG.fullmatch(label) for label in labels]
    prefixes = ["O" if match is None else match[1] for match in found]
    kinds = ["" if match is None else match[2] for match in found]
    inside = [prefix not in _ALONE and prefix != "O" for prefix in prefixes]
    is_open = [prefix != "O" and prefix not in _LAST for prefix in prefixes]
    must_close = scheme != "bio"
    allowed = np.array(
        [
            [
                is_open[one] and kinds[one] == kinds[other]
                if inside[other]
                else not (must_close and is_open[one])
                for other in range(len(labels))
            ]
            for one in range(len(labels))
        ]
    )
    last = ~np.array(is_open) if must_close else np.ones(len(labels), bool)
    return allowed, ~np.array(inside), last


@dataclass(frozen=True)
class _Steps:
    """The valid steps of a batch at the front, and the examples in order of descending length.

    Attributes:
        emissions: `[time, batch, tags]`, with the start and the end added; the longest example
            has `time` steps.
        lengths: `[batch] int64`, the number of valid steps.
        counts: For each step, how many examples are so long.
        places: `[batch, time] int64`, where the valid steps stand in the masked input.
        order: `[batch] int64`, the place of each example in the input.
    """

    emissions: AnyArray
    lengths: AnyArray
    counts: list[int]
    places: AnyArray
    order: AnyArray


def _valid_steps(emissions: AnyArray, chain: Chain, mask: AnyArray | None) -> _Steps:
    batch, time, tags = emissions.shape
    if tags != len(chain.transitions):
        message = f"the emissions have {tags} tags, and the transitions {len(chain.transitions)}"
        raise ValueError(message)
    valid = np.ones((batch, time), bool) if mask is None else np.asarray(mask, bool)
    if valid.shape != (batch, time):
        message = f"the mask has the shape {list(valid.shape)}; expected {[batch, time]}"
        raise ValueError(message)
    lengths = np.count_nonzero(valid, axis=1)
    if batch and valid.all():
        longest, order = time, np.arange(batch)
        places = np.broadcast_to(np.arange(time), (batch, time))
        steps = emissions.transpose(1, 0, 2)
        if chain.start is not None or chain.end is not None:
            steps = steps.copy()
    else:
        order = np.argsort(-lengths, kind="stable")
        lengths, longest = lengths[order], int(lengths.max(initial=0))
        places = np.argsort(~valid[order], axis=1, kind="stable")[:, :longest]
        steps = emissions[order[None, :], places.T]
    rows = np.arange(np.count_nonzero(lengths))
    if chain.start is not None and longest:
        steps[0, rows] += chain.start.astype(steps.dtype)
    if chain.end is not None and longest:
        steps[lengths[rows] - 1, rows] += chain.end.astype(steps.dtype)
    counts = np.count_nonzero(lengths > np.arange(longest)[:, None], axis=1).tolist()
    return _Steps(steps, lengths, counts, places, order)


def _floats(emissions: AnyArray) -> AnyArray:
    """Return emissions as floats; raises `ValueError` for another number of axes."""
    found = np.asarray(emissions)
    if found.ndim != 3:
        message = f"the emissions have the shape {list(found.shape)}; expected [batch, time, tags]"
        raise ValueError(message)
    return found if found.dtype.kind == "f" else found.astype(np.float64)


def best_paths(
    emissions: AnyArray, chain: Chain, mask: AnyArray | None = None
) -> tuple[AnyArray, AnyArray]:
    """Find the path of the highest score for each example, by the Viterbi algorithm.

    Of tags with equal scores, the first one wins at the last step, and before it the first one
    from which the path goes on.

    Args:
        emissions: `[batch, time, tags]` of floats, the score of each tag of each step.
        chain: The weights between tags.
        mask: `[batch, time]`, whether a step is valid; None if all are. Valid steps may stand
            anywhere.

    Returns:
        `[batch, time] int64`, the tags, and `MASKED` for masked steps; and `[batch]`, the score of
        each path in the dtype of the emissions, 0 for an example without valid steps.

    Raises:
        ValueError: The shapes do not belong together.
    """
    emissions = _floats(emissions)
    steps = _valid_steps(emissions, chain, mask)
    values = _best_scores(steps.emissions, chain.transitions, steps.counts)
    time, batch, _ = values.shape
    rows = np.arange(batch)
    paths = np.full(emissions.shape[:2], MASKED, np.int64)
    scores = np.zeros(batch, values.dtype)
    if not time:
        return paths, scores
    ends = values[np.maximum(steps.lengths - 1, 0), rows]
    scores[steps.order] = np.where(steps.lengths > 0, ends.max(axis=1), 0)
    found = np.empty((time, batch), np.int64)
    last = ends.argmax(axis=1)
    found[-1] = last
    # The previous tag is looked for on the best path only: that takes far less time than to
    # remember it for every tag.
    columns = np.ascontiguousarray(chain.transitions.T, values.dtype)
    before = np.empty_like(ends)
    for step in range(time - 1, 0, -1):
        columns.take(found[step], axis=0, out=before, mode="clip")
        np.add(before, values[step - 1], out=before)
        before.argmax(axis=1, out=found[step - 1])
        count = steps.counts[step]
        if count < batch:  # the others end here, or before
            found[step - 1, count:] = last[count:]
    is_valid = np.arange(time) < steps.lengths[:, None]
    paths[np.repeat(steps.order, steps.lengths), steps.places[is_valid]] = found.T[is_valid]
    return paths, scores


def _best_scores(emissions: AnyArray, transitions: AnyArray, counts: Sequence[int]) -> AnyArray:
    """Return the score of the best path that ends in each tag of each step.

    Args:
        emissions: `[time, batch, tags]`.
        transitions: `[tags, tags]`.
        counts: For each step, how many examples are so long; they stand in front.

    Returns:
        `[time, batch, tags]`. What stands after the end of an example has no meaning.
    """
    time, batch, tags = emissions.shape
    size = batch * tags * tags * emissions.itemsize
    rows = max(1, -(-batch // max(1, -(-size // _CANDIDATE_BYTES))))
    if batch == rows and time:
        return _scores_of_rows(emissions, transitions)
    scores = np.zeros(emissions.shape, emissions.dtype)
    for start in range(0, batch, rows):
        steps = sum(count > start for count in counts)
        if not steps:
            break
        part = emissions[:steps, start : start + rows]
        scores[:steps, start : start + rows] = _scores_of_rows(part, transitions)
    return scores


def _scores_of_rows(emissions: AnyArray, transitions: AnyArray) -> AnyArray:
    """Compute `_best_scores` of examples whose candidates fit into a cache.

    For each distance d, the tags j follow the tags (j + d) modulo the number of tags. A step is a
    row of `tags * rows` values. Read again and again, with a gap of `rows` values between two
    distances, it has the candidates of every distance one behind the other. So one addition and one
    maximum over long rows compute a step. (A call of numpy takes long for each row of a view.)
    """
    time, rows, tags = emissions.shape
    dtype, item, row = emissions.dtype, emissions.itemsize, tags * rows
    values = np.array(emissions.transpose(0, 2, 1), order="C").reshape(time, row)
    group = min(tags, 5)  # distances in one row of the addition; 3 to 10 are equally fast
    groups = -(-tags // group)
    distances = np.arange(groups * group) % tags  # a distance that comes twice changes no maximum
    numbers = np.arange(tags)
    diagonals = transitions[(numbers + distances[:, None]) % tags, numbers].astype(dtype)
    width = row + rows
    weights = _aligned(len(distances) * width, dtype).reshape(len(distances), width)
    weights[:, row:] = 0
    weights[:, :row] = np.repeat(diagonals, rows, axis=1)
    weights = weights.reshape(groups, group * width)
    candidates = _aligned(weights.size, dtype).reshape(weights.shape)
    of_distances = candidates.reshape(len(distances), width)[:, :row]
    repeated = _aligned((group + 2) * row, dtype).reshape(group + 2, row)
    strides = (group * rows * item, item)
    before = np.lib.stride_tricks.as_strided(repeated, weights.shape, strides)
    best = _aligned(row, dtype)
    repeated[...] = values[0]
    for step in values[1:]:
        np.add(before, weights, out=candidates)
        np.maximum.reduce(of_distances, axis=0, out=best)
        np.add(step, best, out=step)
        repeated[...] = step
    return values.reshape(time, tags, rows).transpose(0, 2, 1)


def _aligned(size: int, dtype: npt.DTypeLike) -> AnyArray:
    """Return an array that starts at a cache line; vector instructions are faster on it."""
    line = 64
    item = np.dtype(dtype).itemsize
    room = np.empty(size + line // item, dtype)
    start = -room.ctypes.data % line // item
    return room[start : start + size]


def log_normalizers(emissions: AnyArray, chain: Chain, mask: AnyArray | None = None) -> AnyArray:
    """Compute the logarithm of the sum of exp(score) over all paths.

    Args:
        emissions: See `best_paths`.
        chain: The same.
        mask: The same.

    Returns:
        `[batch] float64`; 0 for an example without valid steps. `score - log_normalizer` is the
        logarithm of a path's probability.

    Raises:
        ValueError: The shapes do not belong together.
    """
    steps = _valid_steps(_floats(emissions).astype(np.float64), chain, mask)
    forward = _forward(steps.emissions, chain.transitions.astype(np.float64), steps.counts)
    found = np.zeros(len(emissions))
    if len(forward):
        ends = forward[np.maximum(steps.lengths - 1, 0), np.arange(len(found))]
        found[steps.order] = np.where(steps.lengths > 0, _log_sum(ends, 1), 0)
    return found


def marginals(emissions: AnyArray, chain: Chain, mask: AnyArray | None = None) -> AnyArray:
    """Compute the probability of each tag of each step, over all paths.

    Args:
        emissions: See `best_paths`.
        chain: The same.
        mask: The same.

    Returns:
        `[batch, time, tags] float64`; zeros for masked steps.

    Raises:
        ValueError: The shapes do not belong together.
    """
    steps = _valid_steps(_floats(emissions).astype(np.float64), chain, mask)
    transitions = chain.transitions.astype(np.float64)
    values = steps.emissions
    forward = _forward(values, transitions, steps.counts)
    backward = np.zeros_like(values)
    for step in range(len(values) - 1, 0, -1):
        count = steps.counts[step]
        after = values[step, :count] + backward[step, :count]
        backward[step - 1, :count] = _log_sum(transitions[None] + after[:, None, :], 2)
    joint = forward + backward
    found = np.zeros(emissions.shape, np.float64)
    if not len(values):
        return found
    highest = joint.max(axis=2, keepdims=True)
    shares = np.exp(joint - np.where(np.isfinite(highest), highest, 0))
    shares /= np.maximum(shares.sum(axis=2, keepdims=True), np.finfo(np.float64).tiny)
    is_valid = np.arange(len(values)) < steps.lengths[:, None]
    rows = np.repeat(steps.order, steps.lengths)
    found[rows, steps.places[is_valid]] = shares.transpose(1, 0, 2)[is_valid]
    return found


def _forward(values: AnyArray, transitions: AnyArray, counts: Sequence[int]) -> AnyArray:
    """Return the logarithms of the sums over the paths that end in each tag of each step."""
    forward = values.copy()
    for step in range(1, len(values)):
        count = counts[step]
        before = forward[step - 1, :count, :, None] + transitions[None]
        forward[step, :count] += _log_sum(before, 1)
    return forward


def _log_sum(values: AnyArray, axis: int) -> AnyArray:
    """Return log(sum(exp(values))) without overflow; -inf for no finite value."""
    highest = values.max(axis=axis, keepdims=True)
    highest = np.where(np.isfinite(highest), highest, 0)
    with np.errstate(divide="ignore"):
        total: AnyArray = np.log(np.exp(values - highest).sum(axis=axis))
    return total + highest.squeeze(axis)
