"""CTC decoders, against the sum over all paths, and with words and n-grams."""

import itertools
import math

import numpy as np
import pytest

from bilstm_runtime.decoding.ctc import beam_search, greedy, log_probabilities
from bilstm_runtime.decoding.scorers import CharacterNgrams, WordList


def labelings(logs, blank):
    """The probability of every labeling: the sum over all paths."""
    time, classes = logs.shape
    found = {}
    for path in itertools.product(range(classes), repeat=time):
        merged = tuple(one for one, _ in itertools.groupby(path) if one != blank)
        total = sum(logs[step, one] for step, one in enumerate(path))
        found[merged] = np.logaddexp(found.get(merged, -np.inf), total)
    return found


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("time", [0, 1, 2, 5])
def test_a_wide_beam_finds_the_most_probable_labelings(time, blank):
    rng = np.random.default_rng(time)
    values = 2 * rng.normal(size=(3, time, 3))
    found = beam_search(values, blank=blank, beam_width=1000, top_paths=4)
    for row in range(3):
        logs = log_probabilities(values[row], "softmax")
        wanted = sorted(labelings(logs, blank).items(), key=lambda item: -item[1])[:4]
        assert [one.classes for one in found[row]] == [classes for classes, _ in wanted]
        np.testing.assert_allclose([one.score for one in found[row]], [s for _, s in wanted], 1e-6)


def test_greedy_merges_repeated_classes_and_removes_blanks():
    best = [1, 1, 0, 1, 2, 2, 0, 0, 2]
    values = np.eye(3)[[best]]
    assert greedy(values, blank=0)[0].classes == (1, 1, 2, 2)
    assert greedy(values, blank=0, merge_repeated=False)[0].classes == (1, 1, 1, 2, 2, 2)
    assert greedy(values, [3], blank=0)[0].classes == (1,)
    assert greedy(values, [0], blank=0)[0] == type(greedy(values, blank=0)[0])((), 0.0)
    assert greedy(values, blank=2)[0].classes == (1, 0, 1, 0)


def test_probabilities_and_logits_give_the_same():
    values = np.random.default_rng(0).normal(size=(1, 6, 4)) * 3
    shares = np.exp(values) / np.exp(values).sum(-1, keepdims=True)
    (first,) = beam_search(log_probabilities(values, "softmax"), blank=3)
    (second,) = beam_search(log_probabilities(shares, None), blank=3)
    assert first[0].classes == second[0].classes
    assert first[0].score == pytest.approx(second[0].score, abs=1e-4)


LABELS = ("a", "c", "t", " ", "")


def spoken(text, rng, noise=1.0):
    """Values in which the characters of a text, with blanks between, are the most probable."""
    classes = [n for one in text for n in (LABELS.index(one), len(LABELS) - 1)]
    values = noise * rng.normal(size=(1, len(classes), len(LABELS)))
    values[0, np.arange(len(classes)), classes] += 2
    return values


def text_of(labeling):
    return "".join(LABELS[one] for one in labeling.classes)


def test_a_word_list_leaves_only_its_words():
    rng = np.random.default_rng(3)
    words = WordList(LABELS, ["cat", "act", "at"])
    changed = 0
    for _ in range(20):
        values = spoken("cat act", rng)
        (found,) = beam_search(values, blank=4, beam_width=30, top_paths=5, scorer=words)
        assert found
        assert all(set(text_of(one).split()) <= {"cat", "act", "at"} for one in found)
        assert not any("  " in text_of(one) for one in found)
        (free,) = beam_search(values, blank=4, beam_width=30)
        changed += text_of(free[0]) != text_of(found[0])
    assert changed


def test_spaces_around_words_and_several_in_a_row_are_one_text():
    labels, words = ("a", "b", " ", ""), ["a", "ab", "ba", "b"]
    rng = np.random.default_rng(8)
    for time in (1, 2, 3, 5, 6) * 3:
        values = 2 * rng.normal(size=(1, time, 4))
        scorer = WordList(labels, words)
        options = {"blank": 3, "beam_width": 3000, "top_paths": 3}
        (found,) = beam_search(values, scorer=scorer, separator=scorer.separator, **options)
        wanted = {}
        for classes, score in labelings(log_probabilities(values[0], "softmax"), 3).items():
            parts = "".join(labels[one] for one in classes).split()
            if set(parts) <= set(words):
                text = " ".join(parts)
                wanted[text] = np.logaddexp(wanted.get(text, -np.inf), score)
        best = sorted(wanted.items(), key=lambda item: -item[1])[:3]
        assert ["".join(labels[one] for one in item.classes) for item in found] == [
            text for text, _ in best
        ]
        np.testing.assert_allclose([item.score for item in found], [s for _, s in best], 1e-6)


def test_a_text_that_ends_inside_a_word_is_not_found():
    words = WordList(LABELS, ["cat"])
    values = np.full((1, 1, 5), -20.0)
    values[0, 0, 1] = 20
    (found,) = beam_search(values, blank=4, scorer=words)
    assert [text_of(one) for one in found] == [""]


def test_ngrams_are_probabilities_and_prefer_what_was_counted():
    ngrams = CharacterNgrams(LABELS, ["cat", "cat", "at"], order=3)
    state = ngrams.after(ngrams.after(0, 1), 0)  # "ca"
    scores = ngrams.scores(state)
    assert scores.argmax() == 2
    assert scores[4] == -np.inf  # the blank
    assert sum(math.exp(one) for one in scores[:4]) + math.exp(ngrams.at_end(state)) == (
        pytest.approx(1)
    )


def test_ngrams_correct_a_weak_character():
    values = 3 * spoken("cat", np.random.default_rng(0), noise=0.0)
    values[0, 2, 2] = values[0, 2, 0] + 0.3  # slightly more "t" than "a"
    (free,) = beam_search(values, blank=4)
    ngrams = CharacterNgrams(LABELS, ["cat"] * 9, order=3)
    (found,) = beam_search(values, blank=4, scorer=ngrams)
    assert text_of(free[0]) == "ctt"
    assert text_of(found[0]) == "cat"


@pytest.mark.slow
def test_decoders_equal_those_of_tensorflow():
    """1,000 random cases of each; a case without as many labelings as asked for is an error there.

    TensorFlow's blank of the beam search is the last class.
    """
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(0)
    counts = {"greedy": 0, "beam": 0}
    while min(counts.values()) < 1000:
        batch, time, classes = 4, int(rng.integers(1, 25)), int(rng.integers(2, 9))
        values = (rng.normal(size=(batch, time, classes)) * rng.choice([0.5, 2, 5])).astype("f4")
        lengths = rng.integers(0, time + 1, batch).astype("i4")
        blank, merges = int(rng.integers(classes)), bool(rng.integers(2))
        (sparse,), negative = tf.nn.ctc_greedy_decoder(
            values.transpose(1, 0, 2), lengths, merge_repeated=merges, blank_index=blank
        )
        for row, one in enumerate(greedy(values, lengths, blank=blank, merge_repeated=merges)):
            assert list(one.classes) == row_of(sparse, row)
            assert one.score == pytest.approx(-negative.numpy()[row, 0], abs=1e-3)
            counts["greedy"] += 1
        width = int(rng.choice([1, 2, 5, 20, 100]))
        top = min(width, int(rng.integers(1, 4)))
        try:
            found, scores = tf.compat.v1.nn.ctc_beam_search_decoder(
                values.transpose(1, 0, 2),
                lengths,
                beam_width=width,
                top_paths=top,
                merge_repeated=merges,
            )
        except tf.errors.InvalidArgumentError:
            continue
        own = beam_search(
            values,
            lengths,
            blank=classes - 1,
            beam_width=width,
            top_paths=top,
            merge_repeated=merges,
        )
        for row, labelings in enumerate(own):
            assert [list(one.classes) for one in labelings] == [row_of(one, row) for one in found]
            np.testing.assert_allclose(
                [one.score for one in labelings], scores.numpy()[row], 1e-4, 1e-3
            )
            counts["beam"] += 1


def row_of(sparse, row):
    return [
        int(value)
        for (at, _), value in zip(sparse.indices.numpy(), sparse.values.numpy(), strict=True)
        if at == row
    ]
