"""Tags of a CRF and texts of a CTC model, from the manifest to `Model.tag` and `transcribe`."""

import json

import numpy as np
import pytest

from bilstm_runtime.bundle.codec import decode, encode, parse_document
from bilstm_runtime.decoding.crf import best_paths, chain_of, marginals
from bilstm_runtime.decoding.recorded import agree, to_array
from bilstm_runtime.decoding_spec import CrfWeights, CtcDecoding, TagDecoding
from bilstm_runtime.errors import InputError, ManifestError, OptionError
from bilstm_runtime.predictor import Predictor
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec

RNG = np.random.default_rng(0)
TRANSITIONS = RNG.normal(size=(3, 3)).round(3)
TAGS = TagDecoding(
    output="scores",
    labels=("O", "B-X", "I-X"),
    scheme="bio",
    crf=CrfWeights(
        transitions=tuple(map(tuple, TRANSITIONS.tolist())),
        start=(0.5, 0.0, -1.0),
        constrained=True,
    ),
)
CHARACTERS = CtcDecoding(
    output="scores", labels=("a", "b", ""), blank=2, activation="softmax", beam_width=1
)


class Echo:
    """A session whose output is its input."""

    def run(self, arrays):
        return [arrays[0]]


def predictor(decoding, mask_value=None):
    axes = (Axis("batch", None), Axis("time", None), Axis(None, 3))
    spec = ModelSpec(
        "echo",
        (InputSpec("x", "float32", axes, mask_value=mask_value),),
        (OutputSpec("scores", "float32", axes),),
        padding_neutral=mask_value is not None,
        rows_independent=True,
        decoding=(decoding,),
    )
    return Predictor(spec, Echo(), label="echo")


def read_again(decoding):
    document = parse_document(json.dumps(encode(decoding)), "manifest.json")
    return decode(type(decoding), document)


@pytest.mark.parametrize("decoding", [TAGS, CHARACTERS])
def test_the_manifest_keeps_every_number(decoding):
    assert read_again(decoding) == decoding


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        ("transitions", [[0.0, 1.0], [0.0]], "2 rows of 2 values"),
        ("transitions", [[0.0]], "transitions of 3 tags"),
        ("transitions", [], "1 or more items"),
        ("start", [0.0], "3 values"),
    ],
)
def test_a_manifest_with_other_shapes_is_refused(member, value, message):
    content = encode(TAGS)
    content["crf"].update({"start": None, member: value})
    with pytest.raises(ManifestError, match=message):
        decode(TagDecoding, parse_document(json.dumps(content), "manifest.json"))


def test_a_blank_that_is_no_class_is_refused():
    content = {**encode(CHARACTERS), "blank": 3}
    with pytest.raises(ManifestError, match="one of the 3 labels"):
        decode(CtcDecoding, parse_document(json.dumps(content), "manifest.json"))


def test_tags_are_the_best_path_of_each_example():
    examples = [RNG.normal(size=(n, 3)).astype("f4") for n in (4, 1, 7)]
    found = predictor(TAGS).tag(examples)
    chain = chain_of(TAGS)
    for tags, values in zip(found, examples, strict=True):
        paths, _ = best_paths(values[None], chain)
        assert [one.tag for one in tags] == [TAGS.labels[tag] for tag in paths[0]]
        assert [one.score for one in tags] == [None] * len(values)


def test_masked_steps_have_no_tag_wherever_they_stand():
    values = RNG.normal(size=(2, 6, 3)).astype("f4")
    values[0, :2] = values[1, 3] = 9.0
    found = predictor(TAGS, mask_value=9.0).tag(values, marginals=True)
    mask = (values != 9.0).any(-1)
    paths, _ = best_paths(values, chain_of(TAGS), mask)
    shares = marginals(values, chain_of(TAGS), mask)
    for row in range(2):
        steps = np.flatnonzero(mask[row])
        assert [one.start for one in found[row]] == steps.tolist()
        assert [one.tag for one in found[row]] == [TAGS.labels[t] for t in paths[row][steps]]
        wanted = shares[row, steps, paths[row][steps]]
        np.testing.assert_allclose([one.score for one in found[row]], wanted)


def test_an_example_of_padding_only_is_named():
    values = RNG.normal(size=(2, 4, 3)).astype("f4")
    values[1] = 9.0
    with pytest.raises(InputError, match="example 1: every step is padding"):
        predictor(TAGS, mask_value=9.0).tag(values)


def test_texts_are_those_of_the_best_classes_or_of_a_search():
    classes = [0, 0, 2, 0, 1, 2]
    values = 5 * np.eye(3, dtype="f4")[[classes]]
    model = predictor(CHARACTERS)
    ((greedy,),) = model.transcribe(values)
    assert (greedy.text, greedy.classes) == ("aab", (0, 0, 1))
    ((best, second),) = model.transcribe(values, beam_width=20, top_k=2)
    assert best.text == "aab"
    assert best.score > greedy.score > second.score
    ((word,),) = model.transcribe(values, words=["ab", "ba"])
    assert word.text == "ab"
    assert model.decode(values) == {"scores": [[greedy]]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_width": 0}, "beam_width is 0; expected a whole number from 1"),
        ({"beam_width": 1, "words": ["a"]}, "need a beam search"),
        ({"words": ["a"], "scorer": object()}, "both given"),
        ({"words": "ab"}, "expected a list of one or more words"),
        ({"words": [b"ab"]}, "each a str"),
        ({"words": ["x", "yz"]}, "none of the 2 words .* the first is 'x', .* characters are a, b"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        predictor(CHARACTERS).transcribe(np.zeros((1, 2, 3), "f4"), **options)


def test_methods_for_other_models_say_which_to_use():
    with pytest.raises(OptionError, match=r"use transcribe\(\) for 'scores'"):
        predictor(CHARACTERS).tag(np.zeros((1, 2, 3), "f4"))
    with pytest.raises(OptionError, match=r"use tag\(\) for 'scores'"):
        predictor(TAGS).transcribe(np.zeros((1, 2, 3), "f4"))


def test_recorded_answers_agree_but_for_rounding():
    values = RNG.normal(size=(2, 5, 3)).astype("f4")
    model = predictor(CHARACTERS)
    recorded = to_array(model.answers(values, [values], CHARACTERS))
    assert agree(model.answers(values, [values * (1 + 1e-7)], CHARACTERS), recorded)
    assert not agree(model.answers(values, [-values], CHARACTERS), recorded)
    assert not agree(model.answers(values, [values], CHARACTERS), recorded[:-3])
