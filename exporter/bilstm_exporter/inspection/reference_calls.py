"""Fewer questions to Keras, whose eager recurrences loop in Python, with the same answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bilstm_exporter.inspection.interface import REFUSALS, Interface
from bilstm_exporter.keras_model import Source
from bilstm_exporter.verification.tolerance import difference

Candidate = tuple[str, list[np.ndarray]]

# How probes that are always asked alone begin, and the one that pads its rows in every way.
ORDINARY = "batch"
EVERY_PADDING = "every padding in one batch"

# One question holds no more values than this, or else seven rows, which are asked at once anyway.
_LARGEST_QUESTION = 2**20
_FEWEST_ROWS = 7
# Of the tolerance: another number of rows rounds otherwise, and does no more.
_ROUNDING = 0.05


def answers_together(
    source: Source, interface: Interface, candidates: Sequence[Candidate]
) -> dict[int, list[np.ndarray]]:
    """Ask candidates of the same length in one call, where a row's answer is its own.

    Whether it is, Keras says: in every such call are rows that are asked alone too, some of
    them padded. Ordinary candidates, the first of their shape, are always left to be asked alone.

    Args:
        source: The model.
        interface: Its inputs and outputs.
        candidates: Name and inputs of each.

    Returns:
        Answers by the candidate's place; none where a row depends on the others.
    """
    if source.state_count or any(spec.axes[0].size is not None for spec in interface.inputs):
        return {}
    answers: dict[int, list[np.ndarray]] = {}
    alone = _asked_alone(candidates)
    for members in _same_length(candidates):
        if len(set(members) - alone) < 2:
            continue
        witness = max(members, key=lambda i: (candidates[i][0] == EVERY_PADDING, i in alone, -i))
        try:
            found = _asked_in_one(source, [candidates[index][1] for index in members])
            own = source.reference(candidates[witness][1])
        except REFUSALS:
            continue  # each alone will say why
        if found is None or not _same(found[members.index(witness)], own):
            return {}
        answers.update((i, one) for i, one in zip(members, found, strict=True) if i not in alone)
        answers[witness] = own
    return answers


def _asked_alone(candidates: Sequence[Candidate]) -> set[int]:
    """The first ordinary candidate of every shape."""
    first: dict[tuple[tuple[int, ...], ...], int] = {}
    for index, (name, inputs) in enumerate(candidates):
        if name.startswith(ORDINARY):
            first.setdefault(tuple(array.shape for array in inputs), index)
    return set(first.values())


def _same_length(candidates: Sequence[Candidate]) -> list[list[int]]:
    """The places of candidates that differ in nothing but the batch, together as far as fits."""
    groups: dict[tuple[tuple[int, ...], ...], list[list[int]]] = {}
    for index, (_, inputs) in enumerate(candidates):
        chunks = groups.setdefault(tuple(array.shape[1:] for array in inputs), [[]])
        rows = sum(len(candidates[member][1][0]) for member in chunks[-1]) + len(inputs[0])
        values = rows * sum(int(np.prod(array.shape[1:])) for array in inputs)
        if chunks[-1] and rows > _FEWEST_ROWS and values > _LARGEST_QUESTION:
            chunks.append([])
        chunks[-1].append(index)
    return [members for chunks in groups.values() for members in chunks]


def _asked_in_one(
    source: Source, questions: Sequence[Sequence[np.ndarray]]
) -> list[list[np.ndarray]] | None:
    """Ask questions as the rows of one; None if the answers have no rows."""
    ends = np.cumsum([len(question[0]) for question in questions])
    outputs = source.reference([np.concatenate(arrays) for arrays in zip(*questions, strict=True)])
    if any(output.ndim == 0 or len(output) != ends[-1] for output in outputs):
        return None
    parts = [np.split(output, ends[:-1]) for output in outputs]
    return [list(answer) for answer in zip(*parts, strict=True)]


def _same(answers: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    return all(
        one.shape == other.shape and difference(one, other).ratio <= _ROUNDING
        for one, other in zip(answers, others, strict=True)
    )
