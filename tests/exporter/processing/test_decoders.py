"""The options --crf and --ctc: what they mean, and bundles that decode as the model's own rules."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers as kl

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.errors import OptionError
from bilstm_exporter.frontends.submodel import named_weights
from bilstm_exporter.processing.decoders import (
    CrfOption,
    CtcOption,
    crf_decoding,
    ctc_decoding,
    parse_crf,
    parse_ctc,
)
from bilstm_runtime.decoding.crf import MASKED, best_paths, chain_of
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec

TAGS = ("O", "B-X", "I-X")


@keras.saving.register_keras_serializable("tests")
class Transitions(kl.Layer):
    """Holds the weights of a CRF, and passes scores on."""

    def build(self, shape):
        tags = shape[-1]
        self.transitions = self.add_weight(shape=(tags, tags), name="transitions")
        self.start = self.add_weight(shape=(tags,), name="start")

    def call(self, scores):
        return scores


def tagger():
    ids = keras.Input((None,), dtype="int32", name="ids")
    steps = kl.Embedding(9, 4, mask_zero=True)(ids)
    steps = kl.Bidirectional(kl.LSTM(3, return_sequences=True))(steps)
    scores = kl.Dense(3, name="emissions")(steps)
    model = keras.Model(ids, Transitions(name="crf")(scores))
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    return model


def spec(*outputs):
    axes = (Axis("batch", None), Axis("time", None), Axis(None, 4))
    found = [OutputSpec(name, "float32", (*axes[:2], Axis(None, size))) for name, size in outputs]
    structure = "single" if len(found) == 1 else "list"
    return ModelSpec("m", (InputSpec("x", "float32", axes),), tuple(found),
                     output_structure=structure)  # fmt: skip


WEIGHTS = {
    "crf/transitions": np.eye(3, dtype="f4"),
    "crf/start": np.array([0.1, -np.inf, 0.0], "f4"),
    "dense/kernel": np.zeros((5, 3), "f4"),
    "encoder/other/transitions": np.zeros((2, 2), "f4"),
}


def test_options_are_read():
    assert parse_crf("transitions=crf") == CrfOption("crf")
    assert parse_crf("transitions=a/b, start=c/d ,end=e,constrain") == CrfOption(
        "a/b", "c/d", "e", constrain=True
    )
    assert parse_ctc("blank=last") == CtcOption(-1)
    assert parse_ctc("blank=0,beam=25") == CtcOption(0, 25)


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_crf, "crf", "'crf' cannot be read; write --crf transitions=LAYER"),
        (parse_crf, "start=a", "names no transitions"),
        (parse_crf, "transitions=a,transitions=b", "'transitions=b' cannot be read"),
        (parse_crf, "transitions=a,constrain=1", "'constrain=1' cannot be read"),
        (parse_ctc, "blank=first", "blank=first; it is the number of the blank, or last"),
        (parse_ctc, "last", "'last' cannot be read; write --ctc blank=last"),
        (parse_ctc, "blank=0,beam=0", "beam=0; it is a whole number from 1"),
    ],
)
def test_options_that_cannot_be_read_are_refused(parse, text, message):
    with pytest.raises(OptionError, match=message):
        parse(text)


def test_the_weights_are_stored_to_the_last_bit():
    option = parse_crf("transitions=crf/transitions,start=crf/start,constrain")
    weights = {**WEIGHTS, "crf/transitions": np.random.default_rng(0).normal(size=(3, 3))}
    found = crf_decoding(option, TAGS, spec(("y", 3)), weights)
    stored = np.array(found.crf.transitions).astype("f4")
    np.testing.assert_array_equal(stored, weights["crf/transitions"].astype("f4"))
    assert found.crf.start[1] == np.finfo(np.float32).min
    assert (found.output, found.scheme, found.crf.constrained) == ("y", "bio", True)


def test_numbers_are_the_tags_without_labels():
    found = crf_decoding(parse_crf("transitions=crf"), None, spec(("a", 5), ("b", 3)), WEIGHTS)
    assert (found.output, found.labels) == ("b", ("0", "1", "2"))


@pytest.mark.parametrize(
    ("text", "labels", "outputs", "message"),
    [
        ("transitions=dense/kernel", TAGS, [("y", 3)], r"have the shape \[5, 3\]; expected"),
        ("transitions=transitions", TAGS, [("y", 3)], "is not one weight: crf/transitions, enc"),
        ("transitions=none", TAGS, [("y", 3)], "is not a weight of the model; .*crf/transitions"),
        ("transitions=crf,start=dense/kernel", TAGS, [("y", 3)], "one value for each tag"),
        ("transitions=crf", TAGS, [("y", 4)], "no output fits transitions of 3 tags: 'y' is"),
        ("transitions=crf", TAGS, [("y", 3), ("z", 3)], "several outputs fit"),
        ("transitions=crf", TAGS[:2], [("y", 3)], "there are 2 labels, and the transitions have 3"),
        ("transitions=crf,constrain", ("N", "V", "A"), [("y", 3)], "constrain needs labels such"),
    ],
)
def test_weights_that_do_not_fit_are_refused(text, labels, outputs, message):
    with pytest.raises(OptionError, match=message):
        crf_decoding(parse_crf(text), labels, spec(*outputs), WEIGHTS)


def test_the_blank_stands_where_the_option_says():
    logits = [[np.array([[[1.0, -2.0, 3.0]]])]]
    shares = [[np.array([[[0.5, 0.25, 0.25], [0.0, 0.0, 0.0]]])]]
    last = ctc_decoding(parse_ctc("blank=last"), ("a", "b"), spec(("y", 3)), logits)
    first = ctc_decoding(parse_ctc("blank=0,beam=9"), ("a", "b"), spec(("y", 3)), shares)
    assert (last.labels, last.blank, last.activation) == (("a", "b", ""), 2, "softmax")
    assert (first.labels, first.blank, first.activation) == (("", "a", "b"), 0, None)
    whole = ctc_decoding(parse_ctc("blank=1"), ("a", "_", "b"), spec(("y", 3)), shares)
    assert whole.labels == ("a", "", "b")


@pytest.mark.parametrize(
    ("text", "labels", "message"),
    [
        ("blank=last", None, "it needs the characters of the classes"),
        ("blank=last", ("a",), "there are 1 labels, blank=2, and the output 'y' has 3 classes"),
        ("blank=3", ("a", "b"), "blank=3, and the output 'y' has 3 classes; give 2 labels"),
    ],
)
def test_characters_that_do_not_fit_are_refused(text, labels, message):
    values = [[np.zeros((1, 1, 3))]]
    with pytest.raises(OptionError, match=message):
        ctc_decoding(parse_ctc(text), labels, spec(("y", 3)), values)


def test_weights_are_named_by_their_layers():
    model = tagger()
    found = named_weights(keras.Sequential([keras.Input((None,)), model]))
    inner = f"{model.name}/"
    np.testing.assert_array_equal(
        found[f"{inner}crf/transitions"], model.get_layer("crf").transitions
    )
    assert f"{inner}emissions/kernel" in found
    assert len(found) == len(model.weights)


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [None, "emissions"])
def test_bundles_tag_as_the_sum_over_all_paths_says(outputs, tmp_path):
    model = tagger()
    export(
        model, tmp_path / "edge", outputs=outputs, labels=TAGS,
        crf="transitions=crf/transitions,start=crf/start",
    )  # fmt: skip
    crf = model.get_layer("crf")
    ids = np.array([[1, 2, 3, 4], [0, 5, 0, 6], [7, 0, 0, 0]])
    emissions = np.asarray(model(ids))
    transitions, start = np.asarray(crf.transitions), np.asarray(crf.start)
    for backend in ("onnx", "litert"):
        loaded = bilstm_runtime.load(tmp_path / "edge", backend=backend)
        paths, _ = best_paths(loaded.predict(ids), chain_of(loaded.spec.decoding[0]), ids != 0)
        for row, tags in enumerate(loaded.tag(ids)):
            own = emissions[row][ids[row] != 0]
            scores = {
                path: start[path[0]]
                + sum(own[step, tag] for step, tag in enumerate(path))
                + sum(transitions[pair] for pair in itertools.pairwise(path))
                for path in itertools.product(range(3), repeat=len(own))
            }
            best = max(scores, key=scores.__getitem__)
            assert [one.tag for one in tags] == [TAGS[tag] for tag in best]
            assert paths[row][paths[row] != MASKED].tolist() == list(best)
    assert bilstm_runtime.check(tmp_path / "edge").passed


@pytest.mark.slow
def test_a_wrong_transition_fails_the_check(tmp_path):
    export(
        tagger(), tmp_path / "edge", formats="onnx", labels=TAGS, crf="transitions=crf/transitions"
    )
    manifest = tmp_path / "edge" / "manifest.json"
    loaded = bilstm_runtime.load(tmp_path / "edge")
    wrong = str(loaded.spec.decoding[0].crf.transitions[0][1])
    text = manifest.read_text()
    assert wrong in text
    manifest.write_text(text.replace(wrong, "90.5"))
    report = bilstm_runtime.check(tmp_path / "edge")
    assert not report.passed
    assert "for 'crf' is wrong" in report.checks[0].reason
