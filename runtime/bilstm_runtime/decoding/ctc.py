"""Connectionist temporal classification: greedy decoding and prefix beam search.

A path gives each step a class, the blank among them. Its labeling is what remains after repeated
classes are merged and blanks removed. Greedy decoding takes the best class of each step. Beam
search adds the probabilities of all paths of a labeling (Graves et al., 2006; Hannun et al., 2014).
Both give what TensorFlow's `ctc_greedy_decoder` and `ctc_beam_search_decoder` give.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bilstm_runtime.spec import AnyArray


@dataclass(frozen=True)
class Labeling:
    """A decoded sequence.

    Attributes:
        classes: The numbers of its classes, without blanks.
        score: In beam search, the logarithm of its probability, and of what the scorer adds. In
            greedy decoding, the sum of the largest value of each step.
    """

    classes: tuple[int, ...]
    score: float


class Scorer(Protocol):
    """What a beam search knows of its classes beyond the model; states are numbers from 0."""

    def scores(self, state: int) -> AnyArray:
        """Return `[classes] float64`, which is added for each next class; -inf excludes it."""

    def after(self, state: int, label: int) -> int:
        """Return the state after a class that is not excluded."""

    def at_end(self, state: int) -> float:
        """Return what is added if the sequence ends in this state; -inf excludes that."""


def log_probabilities(values: AnyArray, activation: str | None) -> AnyArray:
    """Return logarithms of probabilities for the values of an output.

    Args:
        values: `[..., classes]` of floats.
        activation: "softmax" if the values are logits; None if they are probabilities. Keras's
            `ctc_decode` adds 1e-7 to probabilities, and so does this function.

    Returns:
        `[..., classes] float64`.
    """
    values = values.astype(np.float64)
    if activation is None:
        values = np.log(values + 1e-7)
    return _log_softmax(values)


def _log_softmax(values: AnyArray) -> AnyArray:
    values = values - values.max(axis=-1, keepdims=True)
    total: AnyArray = values - np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return total


def greedy(
    values: AnyArray,
    lengths: Sequence[int] | AnyArray | None = None,
    *,
    blank: int,
    merge_repeated: bool = True,
) -> list[Labeling]:
    """Take the best class of each step, merge repeated classes and remove blanks.

    Args:
        values: `[batch, time, classes]` of floats.
        lengths: The number of steps of each example; all steps by default.
        blank: The number of the blank.
        merge_repeated: Whether neighbouring steps of one class are one.

    Returns:
        One labeling for each example.
    """
    best = values.argmax(axis=-1)
    highest = np.take_along_axis(values, best[..., None], -1)[..., 0].astype(np.float64)
    kept = best != blank
    if merge_repeated:
        kept[:, 1:] &= best[:, 1:] != best[:, :-1]
    found = []
    for number, (row, keeps, scores) in enumerate(zip(best, kept, highest, strict=True)):
        length = len(row) if lengths is None else int(lengths[number])
        classes = row[:length][keeps[:length]]
        found.append(Labeling(tuple(classes.tolist()), float(scores[:length].sum())))
    return found


def beam_search(  # noqa: PLR0913 - the options are independent
    values: AnyArray,
    lengths: Sequence[int] | AnyArray | None = None,
    *,
    blank: int,
    beam_width: int = 100,
    top_paths: int = 1,
    merge_repeated: bool = False,
    scorer: Scorer | None = None,
    separator: int | None = None,
) -> list[list[Labeling]]:
    """Find the most probable labelings, with a beam of prefixes.

    Args:
        values: `[batch, time, classes]` of floats: logits or logarithms of probabilities.
        lengths: The number of steps of each example; all steps by default.
        blank: The number of the blank.
        beam_width: The number of prefixes that are kept after each step.
        top_paths: The largest number of labelings for each example.
        merge_repeated: Whether repeated classes of a labeling are merged even where a blank stood
            between them, as TensorFlow 1 does by default.
        scorer: Adds scores to classes, or excludes them.
        separator: The number of a class that stands between words: several in a row are one, and
            labelings that differ only in those at their start and end are the same.

    Returns:
        For each example its labelings, the most probable first. With a scorer, there may be none.
    """
    logs = _log_softmax(values.astype(np.float64))
    found = []
    for number, steps in enumerate(logs):
        length = len(steps) if lengths is None else int(lengths[number])
        best = _Beam(blank, beam_width, scorer, separator).search(steps[:length])
        labelings = [
            Labeling(_merged(one.classes) if merge_repeated else one.classes, one.score)
            for one in best[:top_paths]
        ]
        found.append(labelings)
    return found


def _merged(classes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(one for place, one in enumerate(classes) if classes[place - 1 : place] != (one,))


_ROOT: Final = 0
_NO_LABEL: Final = -1


class _Leaves:
    """The best prefixes of a step: those of the beam, and those that grow out of them.

    A member is `(place, label)`: the prefix at that place of the beam with one more label, or with
    `_NO_LABEL` the prefix itself. The order in which prefixes grow follows TensorFlow's decoder,
    because a prefix that has left the beam in this step can still grow, unless the prefix before
    it tries to add it again.

    Attributes:
        dead: The places that can no longer grow.
    """

    def __init__(self, scores: AnyArray, width: int) -> None:
        self._width = width
        # The number of a member makes equal scores comparable: the last one leaves first.
        self._heap = [(score, -place, place, _NO_LABEL) for place, score in enumerate(scores)]
        heapq.heapify(self._heap)
        self._left: set[int] = set()
        self._count = len(scores)
        self.dead: set[int] = set()

    @property
    def lowest(self) -> float:
        """The score that a new member must exceed."""
        return float(self._heap[0][0]) if len(self._heap) >= self._width else -math.inf

    def grow(self, place: int, scores: AnyArray, children: Mapping[int, int]) -> None:
        """Add what grows out of a prefix.

        Args:
            place: The place of the prefix in the beam.
            scores: `[classes]`, the score with each class added.
            children: By class, the places of the prefixes that have grown out of it before.
        """
        labels = np.flatnonzero(scores > self.lowest).tolist()
        for label in sorted({*labels, *children}) if children else labels:
            child = children.get(label)
            if child is not None:
                if child in self._left:
                    self.dead.add(child)
                continue
            score = float(scores[label])
            if not score > self.lowest:
                continue
            self._count += 1
            member = (score, -self._count, place, label)
            if len(self._heap) < self._width:
                heapq.heappush(self._heap, member)
                continue
            _, _, gone, added = heapq.heapreplace(self._heap, member)
            if added == _NO_LABEL:
                self._left.add(gone)

    def ordered(self) -> list[tuple[int, int]]:
        """Return the members, the best first."""
        ordered = sorted(self._heap, key=lambda one: (-one[0], -one[1]))
        return [(place, label) for _, _, place, label in ordered]


class _Beam:
    """The search for one example. A prefix is a number; `_ROOT` is the empty one."""

    def __init__(
        self, blank: int, width: int, scorer: Scorer | None, separator: int | None
    ) -> None:
        self._blank, self._width, self._scorer = blank, width, scorer
        self._separator = separator
        self._parents, self._labels, self._states = [_ROOT], [_NO_LABEL], [0]
        self._known: dict[tuple[int, int], int] = {}

    def search(self, logs: AnyArray) -> list[Labeling]:
        """Search `[time, classes]`; returns the labelings, the best first."""
        beam = np.array([_ROOT])
        # The logarithms of the probabilities that a prefix ends with its last class, and with a
        # blank.
        label, blank = np.array([-np.inf]), np.array([0.0])
        for step in logs:
            beam, label, blank = self._step(step, beam, label, blank)
        total = np.logaddexp(label, blank)
        if self._scorer is not None:
            total = total + [self._scorer.at_end(self._states[prefix]) for prefix in beam]
        if self._separator is not None:
            beam, total = self._without_last_separators(beam, total)
        order = np.argsort(-total, kind="stable")
        return [
            Labeling(self._classes(int(beam[place])), float(total[place]))
            for place in order
            if self._scorer is None or total[place] > -np.inf
        ]

    def _without_last_separators(
        self, beam: AnyArray, total: AnyArray
    ) -> tuple[AnyArray, AnyArray]:
        """Join prefixes that differ in a last separator only."""
        found: dict[int, float] = {}
        for prefix, score in zip(beam.tolist(), total.tolist(), strict=True):
            is_last = self._labels[prefix] == self._separator
            one = self._parents[prefix] if is_last else prefix
            found[one] = float(np.logaddexp(found.get(one, -np.inf), score))
        return np.array(list(found), np.int64), np.array(list(found.values()))

    def _step(
        self, step: AnyArray, beam: AnyArray, label: AnyArray, blank: AnyArray
    ) -> tuple[AnyArray, AnyArray, AnyArray]:
        """Extend the beam, which is in descending order, by one step."""
        count, classes = len(beam), len(step)
        total = np.logaddexp(label, blank)
        last = np.array([self._labels[prefix] for prefix in beam])
        places = {prefix: place for place, prefix in enumerate(beam.tolist())}
        parents = np.array(
            [places.get(self._parents[p], -1) if p != _ROOT else -1 for p in beam.tolist()]
        )
        # Each prefix with one more class: after the same class, only a blank separates them.
        grown = np.repeat(total[:, None], classes, axis=1)
        own = np.flatnonzero(last != _NO_LABEL)
        grown[own, last[own]] = blank[own]
        grown += self._bonus(beam, classes)
        # A prefix whose parent is in the beam also gains what the parent grows into it.
        inside = np.flatnonzero(parents >= 0)
        gained = np.full(count, -np.inf)
        gained[inside] = grown[parents[inside], last[inside]]
        if self._separator is not None:  # one more separator changes nothing
            label = np.where(last == self._separator, total, label)
        label = np.logaddexp(label, gained) + np.where(last == _NO_LABEL, 0.0, step[last])
        blank = total + step[self._blank]
        grown += step
        grown[:, self._blank] = -np.inf
        if self._separator is not None:
            same = total + step[self._separator]
            blank = np.where(last == _NO_LABEL, np.logaddexp(blank, same), blank)
            grown[(last == self._separator) | (last == _NO_LABEL), self._separator] = -np.inf
        leaves = _Leaves(np.logaddexp(label, blank), self._width)
        children: dict[int, dict[int, int]] = {}
        for place in inside.tolist():
            children.setdefault(int(parents[place]), {})[int(last[place])] = place
        for place, highest in enumerate(total.tolist()):
            if place in leaves.dead or not highest > leaves.lowest:
                continue
            leaves.grow(place, grown[place], children.get(place, {}))
        kept = leaves.ordered()
        old = np.array([place for place, added in kept if added == _NO_LABEL], np.int64)
        is_old = np.array([added == _NO_LABEL for _, added in kept])
        new_label, new_blank = np.empty(len(kept)), np.full(len(kept), -np.inf)
        new_label[is_old], new_blank[is_old] = label[old], blank[old]
        new_label[~is_old] = [grown[one] for one in kept if one[1] != _NO_LABEL]
        prefixes = beam.tolist()
        new_beam = [
            prefixes[place] if added == _NO_LABEL else self._child(prefixes[place], added)
            for place, added in kept
        ]
        return np.array(new_beam), new_label, new_blank

    def _bonus(self, beam: AnyArray, classes: int) -> AnyArray:
        if self._scorer is None:
            return np.zeros(classes)
        return np.stack([self._scorer.scores(self._states[prefix]) for prefix in beam])

    def _child(self, prefix: int, label: int) -> int:
        key = (prefix, label)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = len(self._parents)
            self._parents.append(prefix)
            self._labels.append(label)
            state = self._states[prefix]
            self._states.append(0 if self._scorer is None else self._scorer.after(state, label))
        return found

    def _classes(self, prefix: int) -> tuple[int, ...]:
        found: list[int] = []
        while prefix != _ROOT:
            found.append(self._labels[prefix])
            prefix = self._parents[prefix]
        return tuple(reversed(found))
