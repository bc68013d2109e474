"""Every helper that compares can fail, and the probes hold what they promise."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
from bilstm_exporter.verification.tolerance import TOLERANCE, difference
from keras import layers as kl

from bilstm_exporter.errors import ParityError
from bilstm_exporter.frontends.keras3.model import Keras3Model
from bilstm_exporter.inspection.probes import (
    PADDINGS,
    Probe,
    ProbeSet,
    decided,
    golden_probes,
    make_probes,
    padding_mask,
)
from bilstm_exporter.inspection.properties import independent_rows, neutral_padding
from bilstm_exporter.verification.parity import Parity, check_parity, require
from zoo import randomize

from .conftest import ask
from .models import MODELS, bilstm, floats, tokens

INF, NAN = np.inf, np.nan


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# --- difference


def test_the_tolerance_is_the_promised_one():
    assert (TOLERANCE.absolute, TOLERANCE.relative) == (1e-5, 1e-4)


@pytest.mark.parametrize("reference", [0.0, 1.0, -3.0, 1e4, 1e-7, 1e30])
@pytest.mark.parametrize("sign", [-1, 1])
def test_difference_turns_at_the_tolerance(reference, sign):
    bound = 1e-5 + 1e-4 * abs(reference)
    wanted = np.array([1.0, reference, 2.0])
    near, far = wanted.copy(), wanted.copy()
    near[1] += sign * bound * 0.999
    far[1] += sign * bound * 1.001
    assert difference(wanted, wanted).ratio == 0
    assert difference(near, wanted).ratio == pytest.approx(0.999, rel=1e-6)
    assert difference(far, wanted).ratio == pytest.approx(1.001, rel=1e-6)
    assert difference(far, wanted).absolute == pytest.approx(bound * 1.001, rel=1e-6)
    assert not difference(far, wanted).reason  # a matter of size


def test_the_relative_part_is_of_the_reference():
    """Of the answer, and a model that answers ten times too much would pass more easily."""
    assert difference(f32(0.0), f32(1.0)).ratio == pytest.approx(1 / 1.1e-4, rel=1e-6)
    assert difference(f32(1.0), f32(0.0)).ratio == pytest.approx(1e5, rel=1e-6)


@pytest.mark.parametrize(
    ("answer", "reference", "words"),
    [
        (f32(1, 2), f32(1, 2, 3), "shape (2,), where Keras gives (3,)"),
        (f32(1, 2).reshape(2, 1), f32(1, 2), "shape (2, 1), where Keras gives (2,)"),
        (f32(1)[0], f32(1), "shape (), where Keras gives (1,)"),
        (np.array([1.0]), f32(1), "dtype float64, where Keras gives float32"),
        (np.array([1], np.int64), np.array([1], np.int32), "dtype int64"),
        (f32(1, 2), f32(1, NAN), "a number, where Keras gives NaN or infinity"),
        (f32(1, NAN), f32(1, 2), "NaN or infinity, where Keras gives a number"),
        (f32(1, INF), f32(1, 2), "NaN or infinity, where Keras gives a number"),
        (f32(1, 3e38), f32(1, INF), "a number, where Keras gives NaN or infinity"),
        (f32(-INF), f32(INF), "where Keras gives NaN or infinity"),
        (f32(NAN), f32(INF), "where Keras gives NaN or infinity"),
        (f32(INF), f32(NAN), "where Keras gives NaN or infinity"),
        (f32(NAN, 1), f32(1, NAN), "where Keras gives"),
    ],
)
def test_difference_never_passes(answer, reference, words):
    found = difference(answer, reference)
    assert found.ratio == INF
    assert found.absolute == INF
    assert words in found.reason


@pytest.mark.parametrize(
    "values", [f32(), f32(1, NAN), f32(NAN, NAN), f32(INF, -INF, 0), np.array([True]), f32(1e-45)]
)
def test_difference_of_the_same_is_nothing(values):
    found = difference(values.copy(), values)
    assert (found.absolute, found.ratio, found.reason) == (0, 0, "")


def test_numbers_beside_nan_are_still_compared():
    assert difference(f32(NAN, 1.1), f32(NAN, 1.0)).ratio > 1


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (np.array([3, 4], np.int32), np.array([3, 5], np.int32)),
        (np.array([10**9 + 1], np.int64), np.array([10**9], np.int64)),
        (np.array([0], np.uint8), np.array([255], np.uint8)),
        (np.array([True]), np.array([False])),
    ],
)
def test_integers_and_booleans_must_be_equal(answer, reference):
    assert difference(answer, reference).ratio > 1
    assert difference(reference, reference).ratio == 0


# --- check_parity


def _double(inputs):
    return [inputs[0] * 2]


@pytest.fixture
def probes(rng) -> list[Probe]:
    arrays = [rng.standard_normal((batch, 4)).astype(np.float32) for batch in (1, 2, 3)]
    return [Probe(f"batch {len(a)}", [a], _double([a])) for a in arrays]


def test_parity_of_the_right_answer(probes):
    parity = check_parity(_double, probes, ["y"])
    assert parity.passed
    assert (parity.probes, parity.max_abs_error, parity.max_error_ratio) == (3, 0, 0)
    require("model.onnx", parity)


def test_parity_sees_what_a_session_keeps_between_runs(probes):
    state = np.zeros(4, np.float32)

    def leaking(inputs):
        answer = [inputs[0] * 2 + state]
        state[:] = inputs[0][-1]
        return answer

    parity = check_parity(leaking, probes, ["y"])
    assert not parity.passed


def test_parity_runs_twice_even_a_single_probe(probes):
    runs = []

    def wrong_the_second_time(inputs):
        runs.append(inputs)
        return [inputs[0] * 2 + 0.01 * (len(runs) - 1)]

    parity = check_parity(wrong_the_second_time, probes[:1], ["y"])
    assert len(runs) == 2
    assert not parity.passed


def test_parity_sees_other_rows_than_the_first(probes):
    def right_for_row_0(inputs):
        answer = inputs[0] * 2
        answer[1:] = answer[:1]
        return [answer]

    parity = check_parity(right_for_row_0, probes, ["y"])
    assert not parity.passed
    assert parity.worst_probe in ("batch 2", "batch 3")


def test_parity_sees_nan(probes):
    def nan(inputs):
        answer = inputs[0] * 2
        answer[-1, -1] = NAN
        return [answer]

    parity = check_parity(nan, probes, ["y"])
    assert not parity.passed
    assert parity.max_error_ratio == INF
    with pytest.raises(ParityError, match="NaN or infinity, where Keras gives a number"):
        require("model.onnx", parity)


def test_parity_sees_outputs_in_another_order(rng):
    a, b = (rng.standard_normal((2, 3)).astype(np.float32) for _ in range(2))
    probes = [Probe("one", [a], [a, b])]
    assert check_parity(lambda _: [a, b], probes, ["p", "q"]).passed
    assert not check_parity(lambda _: [b, a], probes, ["p", "q"]).passed


@pytest.mark.parametrize("count", [0, 2])
def test_parity_refuses_another_number_of_outputs(probes, count):
    with pytest.raises(ValueError, match="zip"):
        check_parity(lambda inputs: [inputs[0] * 2] * count, probes, ["y"])


def test_parity_names_the_worst_of_all(rng):
    """The largest error as a multiple of its tolerance, and the largest error, may be two."""
    small, large = np.zeros((2, 3), np.float32), np.full((2, 3), 1e6, np.float32)
    probes = [Probe("small", [small], [small, small]), Probe("large", [large], [small, large])]

    def run(inputs):
        if inputs[0] is large:
            return [small, large + 50]
        return [small + np.float32(2e-5), small]

    parity = check_parity(run, probes, ["p", "q"])
    assert (parity.worst_probe, parity.worst_output) == ("small", "p")
    assert parity.max_error_ratio == pytest.approx(2, rel=1e-5)
    assert parity.max_abs_error == 50
    assert parity.to_dict()["max_abs_error"] == 50


@pytest.mark.parametrize("ratio", [1.0000001, 2.0, INF])
def test_require_raises_and_names_output_probe_and_error(ratio):
    parity = Parity(9, 0.25, ratio, "left padding", "label")
    assert not parity.passed
    with pytest.raises(ParityError) as raised:
        require("model.tflite", parity)
    words = str(raised.value)
    for part in ("model.tflite", "'label'", "'left padding'", f"{ratio:.3g} times", "0.25"):
        assert part in words
    assert isinstance(raised.value, ArithmeticError)


def test_require_lets_the_tolerance_itself_pass():
    require("model.onnx", Parity(9, 1e-5, 1.0, "p", "y"))


def test_nothing_compared_is_no_pass():
    with pytest.raises(ParityError, match="could not be compared"):
        require("model.onnx", check_parity(_double, [], ["y"]))


@pytest.mark.parametrize("name", ["classifier", "lstm"])
def test_a_slightly_wrong_model_does_not_pass(asked, name):
    """Probes of one model, answered by the same model with one weight off by a thousandth."""
    found = asked(name)
    other = keras.models.clone_model(found.model)
    weights = found.model.get_weights()
    weights[-1] = weights[-1] + np.float32(1e-3)
    other.set_weights(weights)
    run = Keras3Model(other).reference
    parity = check_parity(run, found.probes.probes, found.source.flat_output_names)
    assert not parity.passed
    assert parity.max_abs_error == pytest.approx(1e-3, rel=1e-2)


# --- probes


def _by_name(probes: ProbeSet) -> dict[str, Probe]:
    named = {probe.name: probe for probe in probes.probes}
    assert len(named) == len(probes.probes)
    return named


@pytest.mark.parametrize("length", [1, 2, 7, 12])
def test_every_kind_of_padding_is_what_it_says(length, rng):
    masks = {kind: padding_mask(kind, length, rng) for kind in PADDINGS}
    assert all(mask.shape == (length,) and mask.dtype == bool for mask in masks.values())
    assert masks["none"].all()
    assert not masks["all"].any()
    assert masks["one step"].sum() == 1
    if length > 2:
        assert not masks["left"][0]
        assert masks["left"][-1]
        assert masks["right"][0]
        assert not masks["right"][-1]
        assert masks["middle"][[0, -1]].all()
        assert not masks["middle"].all()


def test_probes_hold_every_padding(asked):
    found = asked("classifier")
    probes = _by_name(found.probes)
    assert not found.probes.left_out
    (ids,) = probes["every padding in one batch"].inputs
    valid = ids != 0
    assert len(ids) == len(PADDINGS)
    left, right, middle, scattered, none, everything, one = valid
    assert not left[0]
    assert left[-1]
    assert right[0]
    assert not right[-1]
    assert middle[[0, -1]].all()
    assert not middle.all()
    assert np.abs(np.diff(scattered.astype(int))).sum() > 2
    assert none.all()
    assert not everything.any()
    assert one.sum() == 1
    for kind in PADDINGS:
        assert f"{kind} padding" in probes
    assert not probes["all padding, batch 1"].inputs[0].any()
    assert len(probes["left padding, batch 1"].inputs[0]) == 1


def test_probes_hold_batches_lengths_and_ends(asked):
    found = asked("classifier")
    probes = _by_name(found.probes)
    shapes = {probe.inputs[0].shape for probe in probes.values()}
    assert {1, 2, 7} <= {batch for batch, _ in shapes}
    assert {1, 2, 8, 13} <= {steps for _, steps in shapes}
    (ends,) = probes["ends of the range"].inputs
    assert set(np.unique(ends)) == {1, 8}  # of nine ids; 0 is padding
    (rising,) = probes["rising sequence"].inputs
    assert not np.array_equal(rising, rising[:, ::-1])
    assert all(probe.inputs[0].min() >= 0 for probe in probes.values())
    assert all(probe.inputs[0].max() <= 8 for probe in probes.values())


def test_float_probes_are_not_padded_where_nothing_masks(asked):
    probes = _by_name(asked("lstm").probes)
    assert not any("padding" in name for name in probes)
    (rising,) = probes["rising sequence"].inputs
    assert not np.allclose(rising, rising[:, ::-1])
    assert (rising.min(), rising.max()) == (-10, 10)


def test_probes_are_what_keras_answers(asked):
    found = asked("lstm")
    for probe in found.probes.probes:
        (answer,) = probe.outputs
        expected = found.model(probe.inputs[0], training=False).numpy()
        np.testing.assert_array_equal(answer, expected)


def test_probes_are_the_same_every_time(asked):
    found = asked("lstm")
    again = make_probes(found.source, found.interface)
    assert [p.name for p in again.probes] == [p.name for p in found.probes.probes]
    for one, other in zip(again.probes, found.probes.probes, strict=True):
        np.testing.assert_array_equal(one.inputs[0], other.inputs[0])


def test_the_search_saturates_cells(asked):
    found = asked("lstm")
    assert found.probes.largest_state > 10
    probe = _by_name(found.probes)["saturated states"]
    assert probe.inputs[0].shape[0] == 2
    recurrence = found.model.layers[0]
    model = keras.Sequential([keras.Input((None, 3)), kl.LSTM(3, return_state=True)])
    model.set_weights(recurrence.get_weights())
    _, _, carry = model(probe.inputs[0], training=False)
    assert np.abs(carry).max() == pytest.approx(found.probes.largest_state, rel=1e-5)


def test_without_a_recurrence_there_is_nothing_to_saturate():
    probes = ask(floats(kl.Dense(2))).probes
    assert probes.largest_state is None
    assert "saturated states" not in _by_name(probes)


def test_golden_probes_are_few_and_say_most(asked):
    for name in ("classifier", "lstm", "pooled"):
        found = asked(name)
        names = [probe.name for probe in golden_probes(found.source, found.probes.probes)]
        assert 2 <= len(names) <= 4
        assert "saturated states" in names
        assert any(part.startswith("batch 7") for part in names)
        assert ("every padding in one batch" in names) == (name != "lstm")


def test_golden_probes_have_finite_answers(asked):
    found = asked("lstm")
    probes = [
        replace(probe, outputs=[np.full_like(probe.outputs[0], NAN)]) if number else probe
        for number, probe in enumerate(found.probes.probes)
    ]
    assert [probe.name for probe in golden_probes(found.source, probes)] == [probes[0].name]


def test_a_probe_that_float32_does_not_decide_is_left_out_and_says_why():
    """A sine of a huge number: the last bit of a weight decides the answer."""
    model = floats(kl.Dense(3), kl.Rescaling(1e6), kl.Lambda(keras.ops.sin), kl.LSTM(2))
    randomize(model, 3)
    found = ask(model)
    kept = decided(found.source, found.probes)
    assert len(kept.probes) < len(found.probes.probes)
    assert {p.name for p in kept.probes} | set(kept.left_out) == {
        p.name for p in found.probes.probes
    }
    for reason in kept.left_out.values():
        assert "Keras's own answer moves by" in reason
        assert "off by one rounding" in reason


def test_probes_of_an_ordinary_model_are_decided(asked):
    found = asked("lstm")
    assert decided(found.source, found.probes).probes == found.probes.probes


def test_answers_that_overflow_are_left_out_and_say_why():
    model = floats(kl.LSTM(2), kl.Rescaling(1e30), kl.Lambda(keras.ops.exp))
    randomize(model, 3)
    found = ask(model).probes
    assert found.left_out
    assert set(found.left_out.values()) == {"Keras's own answer is not finite"}


# --- properties


@pytest.mark.parametrize(
    ("name", "neutral"),
    [("classifier", True), ("pooled", False), ("unmasked_ids", False), ("lstm", False)],
)
def test_padding_is_neutral_only_where_it_changes_nothing(asked, name, neutral):
    found = asked(name)
    assert neutral_padding(found.source, found.interface) is neutral


@pytest.mark.parametrize(
    ("layers", "neutral"),
    [
        (lambda: [bilstm(), kl.Dense(2)], True),  # steps of a masked tagger
        (lambda: [kl.LSTM(2, go_backwards=True)], True),
        (lambda: [bilstm(), kl.GlobalAveragePooling1D()], True),  # Keras's average masks
        # Zeros stand at the masked steps of a Bidirectional, the last output at those of an LSTM.
        (lambda: [bilstm(), kl.Conv1D(2, 3, padding="same")], True),
        (lambda: [kl.LSTM(2, return_sequences=True), kl.Conv1D(2, 3, padding="same")], False),
        (lambda: [bilstm(), kl.Flatten(), kl.Dense(2)], False),
    ],
    ids=["tagger", "backwards", "average", "conv", "held-conv", "flatten"],
)
@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
def test_padding_of_masked_heads(layers, neutral):
    head = layers()
    steps = 8 if any(isinstance(layer, kl.Flatten) for layer in head) else None
    model = keras.Sequential(
        [keras.Input((steps,), name="x"), kl.Embedding(9, 4, mask_zero=True), *head]
    )
    randomize(model, 5)
    found = ask(model)
    assert neutral_padding(found.source, found.interface) is neutral


class BatchMean(kl.Layer):
    """Lets every row of a batch change every other."""

    def call(self, inputs):
        return inputs - keras.ops.mean(inputs, axis=0, keepdims=True)


@pytest.mark.parametrize("name", ["classifier", "lstm", "pooled"])
def test_rows_are_independent(asked, name):
    found = asked(name)
    assert independent_rows(found.source, found.probes.probes, found.interface) is True


@pytest.mark.parametrize("place", ["before", "after"])
def test_rows_that_mix_are_told(place):
    layers = [BatchMean(), kl.LSTM(3)] if place == "before" else [kl.LSTM(3), BatchMean()]
    model = floats(*layers)
    randomize(model, 5)
    found = ask(model)
    assert independent_rows(found.source, found.probes.probes, found.interface) is False


def test_rows_that_are_merged_are_told():
    model = floats(kl.LSTM(3), kl.Lambda(lambda x: keras.ops.sum(x, axis=0)))
    randomize(model, 5)
    found = ask(model)
    assert independent_rows(found.source, found.probes.probes, found.interface) is False


@pytest.mark.parametrize(("name", "neutral"), [("classifier", True), ("pooled", False)])
def test_the_manifest_tells_the_properties(exported, name, neutral):
    done = exported(name)
    assert done.manifest["padding"] == {"neutral": neutral}
    assert done.manifest["rows_independent"] is True
    assert done.report.padding_neutral is neutral


def test_an_unmasked_twin_of_a_masked_model_is_not_neutral():
    for mask_zero in (True, False):
        model = tokens(kl.LSTM(3), mask_zero=mask_zero)
        model.set_weights(tokens(kl.LSTM(3)).get_weights())
        randomize(model, 4)
        found = ask(model)
        assert neutral_padding(found.source, found.interface) is mask_zero


def test_every_model_of_these_tests_is_trained_in_name_only():
    """Weights depend on the name alone, so that these tests check the same models every day."""
    for name, build in MODELS.items():
        one, other = build().get_weights(), build().get_weights()
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True)), name
