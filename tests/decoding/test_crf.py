"""The numpy decoder of CRFs, against the sum over every path, and against the recurrence."""

import itertools

import numpy as np
import pytest

from bilstm_runtime.decoding.crf import (
    MASKED,
    Chain,
    allowed_tags,
    best_paths,
    log_normalizers,
    marginals,
)


def chain(rng, tags, *, has_ends=True):
    return Chain(
        rng.normal(size=(tags, tags)).astype(np.float32),
        rng.normal(size=tags).astype(np.float32) if has_ends else None,
        rng.normal(size=tags).astype(np.float32) if has_ends else None,
    )


def masks(rng, batch, time):
    """Full, right-padded, left-padded and empty rows, and rows with holes."""
    mask = rng.random((batch, time)) < 0.6
    mask[0] = True
    mask[1] = np.arange(time) < time // 2 + 1
    mask[2] = np.arange(time) >= time // 2
    mask[3] = False
    return mask


def score(emissions, weights, path):
    """The definition: sums over the valid steps only."""
    if not len(path):
        return 0.0
    total = sum(float(emissions[step, tag]) for step, tag in enumerate(path))
    total += sum(float(weights.transitions[a, b]) for a, b in itertools.pairwise(path))
    if weights.start is not None:
        total += float(weights.start[path[0]]) + float(weights.end[path[-1]])
    return total


def all_scores(emissions, weights):
    time, tags = emissions.shape
    paths = list(itertools.product(range(tags), repeat=time))
    return paths, np.array([score(emissions, weights, path) for path in paths])


@pytest.mark.parametrize("has_ends", [False, True])
@pytest.mark.parametrize(("tags", "time"), [(1, 3), (2, 6), (3, 5), (4, 1), (3, 0)])
def test_best_path_score_and_marginals_are_those_of_all_paths(tags, time, has_ends):
    rng = np.random.default_rng(tags * 10 + time)
    weights = chain(rng, tags, has_ends=has_ends)
    emissions = (3 * rng.normal(size=(7, time, tags))).astype(np.float32)
    mask = masks(rng, 7, time)
    paths, scores = best_paths(emissions, weights, mask)
    shares = marginals(emissions, weights, mask)
    totals = log_normalizers(emissions, weights, mask)
    for row in range(7):
        every, wanted = all_scores(emissions[row][mask[row]], weights)
        assert tuple(paths[row][mask[row]]) == every[int(wanted.argmax())]
        assert (paths[row][~mask[row]] == MASKED).all()
        np.testing.assert_allclose(scores[row], wanted.max(), 1e-5, 1e-5)
        np.testing.assert_allclose(totals[row], np.logaddexp.reduce(wanted), 1e-6, 1e-6)
        weight = np.exp(wanted - totals[row])
        found = np.zeros((time, tags))
        for path, one in zip(every, weight, strict=True):
            found[np.flatnonzero(mask[row]), list(path)] += one
        np.testing.assert_allclose(shares[row], found, 1e-6, 1e-6)


def recurrence(emissions, transitions):
    """The max-plus recurrence of one example, written step by step in float32."""
    state, tables = emissions[0], []
    for values in emissions[1:]:
        total = state[:, None] + transitions
        tables.append(total.argmax(0))
        state = values + total.max(0)
    path = [int(state.argmax())]
    for table in reversed(tables):
        path.append(int(table[path[-1]]))
    return path[::-1], state.max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("tags", "time", "batch"), [(50, 100, 32), (50, 9, 130), (7, 33, 5), (2, 400, 3)]
)
def test_large_batches_have_the_bits_of_the_recurrence(tags, time, batch, dtype):
    rng = np.random.default_rng(tags)
    weights = chain(rng, tags, has_ends=False)
    # Few different numbers, so that there are ties.
    emissions = np.round(rng.normal(size=(batch, time, tags)), 1).astype(dtype)
    mask = rng.random((batch, time)) < 0.8
    paths, scores = best_paths(emissions, weights, mask)
    for row in range(batch):
        path, highest = recurrence(emissions[row][mask[row]], weights.transitions.astype(dtype))
        assert paths[row][mask[row]].tolist() == path
        assert scores[row] == highest


def test_the_arguments_are_not_changed():
    rng = np.random.default_rng(1)
    weights, emissions = chain(rng, 4), rng.normal(size=(3, 5, 4)).astype(np.float32)
    before = emissions.copy()
    best_paths(emissions, weights)
    marginals(emissions, weights)
    np.testing.assert_array_equal(emissions, before)


def test_an_empty_batch_has_no_paths():
    paths, scores = best_paths(np.zeros((0, 4, 3), np.float32), chain(np.random.default_rng(0), 3))
    assert paths.shape == (0, 4)
    assert scores.shape == (0,)


LABELS = ("O", "B-X", "I-X", "B-Y", "I-Y")
BILOU = ("O", "B-X", "I-X", "L-X", "U-X", "U-Y", "B-Y", "L-Y")


def spans_are_whole(path, labels, scheme):
    """Whether a path keeps to a scheme, read as a machine with one open span."""
    kind = None
    for tag in path:
        prefix, _, name = labels[tag].partition("-")
        if prefix in "ILE":
            if kind != name:
                return False
        elif scheme != "bio" and kind is not None:
            return False
        kind = name if prefix in "BI" else None
    return scheme == "bio" or kind is None


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [
        (LABELS, "bio"),
        (BILOU, "bilou"),
        (tuple(one.replace("L-", "E-").replace("U-", "S-") for one in BILOU), "bioes"),
    ],
)
def test_constrained_paths_are_the_best_that_keep_to_the_scheme(labels, scheme):
    rng = np.random.default_rng(2)
    weights = chain(rng, len(labels))
    emissions = (3 * rng.normal(size=(6, 4, len(labels)))).astype(np.float32)
    paths, _ = best_paths(emissions, weights.constrained(labels, scheme))
    broken = 0
    for row in range(6):
        every, scores = all_scores(emissions[row], weights)
        broken += not spans_are_whole(every[int(scores.argmax())], labels, scheme)
        kept = [spans_are_whole(path, labels, scheme) for path in every]
        assert tuple(paths[row]) == every[int(np.where(kept, scores, -np.inf).argmax())]
    assert broken  # otherwise this proves nothing


def test_every_pair_of_tags_is_allowed_or_not_as_the_scheme_says():
    allowed, first, last = allowed_tags(("O", "B-A", "I-A", "I-B"), "bio")
    assert allowed.tolist() == [
        [True, True, False, False],
        [True, True, True, False],
        [True, True, True, False],
        [True, True, False, True],
    ]
    assert first.tolist() == [True, True, False, False]
    assert last.all()


@pytest.mark.parametrize(
    ("transitions", "start", "message"),
    [
        (np.zeros((2, 3)), None, r"transitions have the shape \[2, 3\]; expected \[tags, tags\]"),
        (np.zeros(3), None, r"transitions have the shape \[3\]"),
        (np.zeros((3, 3)), np.zeros(2), r"start has the shape \[2\]; expected \[3\]"),
    ],
)
def test_weights_of_wrong_shapes_are_refused(transitions, start, message):
    with pytest.raises(ValueError, match=message):
        Chain(transitions, start)


def test_other_numbers_of_tags_are_refused():
    weights = chain(np.random.default_rng(0), 3)
    with pytest.raises(ValueError, match="the emissions have 4 tags, and the transitions 3"):
        best_paths(np.zeros((1, 2, 4), np.float32), weights)
    with pytest.raises(ValueError, match=r"the mask has the shape \[1, 3\]; expected \[1, 2\]"):
        best_paths(np.zeros((1, 2, 3), np.float32), weights, np.ones((1, 3), bool))
    with pytest.raises(ValueError, match=r"shape \[2, 3\]; expected \[batch, time, tags\]"):
        best_paths(np.zeros((2, 3), np.float32), weights)


def test_whole_numbers_are_not_rounded_sums():
    weights = chain(np.random.default_rng(0), 3)
    numbers = np.array([[[0, 1, 0], [1, 0, 0], [0, 0, 1]]])
    paths, scores = best_paths(numbers, weights)
    wanted_paths, wanted_scores = best_paths(1.0 * numbers, weights)
    np.testing.assert_array_equal(paths, wanted_paths)
    np.testing.assert_array_equal(scores, wanted_scores)
