"""Probes have the promised properties and Keras's outputs for each example alone."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers as kl

from bilstm_exporter.frontends.loading import read
from bilstm_exporter.inspection.candidates import PADDINGS, Candidate, ProbeKind, padding_mask
from bilstm_exporter.inspection.distributions import distributions
from bilstm_exporter.inspection.probes import (
    Probe,
    ProbeSet,
    _call_batched,
    golden_probes,
    make_probes,
)
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.progress import Countdown
from exporter.conftest import inspect
from exporter.models import MODELS, floats
from zoo import randomize

NAN = np.nan


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


@pytest.mark.slow
def test_probes_hold_every_padding(inspected):
    found = inspected("classifier")
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


def test_probes_hold_batches_lengths_and_ends(inspected):
    found = inspected("classifier")
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


def test_float_probes_are_not_padded_where_nothing_masks(inspected):
    probes = _by_name(inspected("lstm").probes)
    assert not any("padding" in name for name in probes)
    (rising,) = probes["rising sequence"].inputs
    assert not np.allclose(rising, rising[:, ::-1])
    assert (rising.min(), rising.max()) == (-10, 10)


def test_the_outputs_of_probes_are_keras_s(inspected):
    found = inspected("lstm")
    for probe in found.probes.probes:
        (output,) = probe.outputs
        expected = found.model(probe.inputs[0], training=False).numpy()
        # Several probes may be rows of one call; a batch of another size changes roundings.
        np.testing.assert_allclose(output, expected, rtol=1e-6, atol=1e-7)


def test_probes_are_the_same_every_time(inspected):
    found = inspected("lstm")
    again = make_probes(found.loaded)
    assert [p.name for p in again.probes] == [p.name for p in found.probes.probes]
    for one, other in zip(again.probes, found.probes.probes, strict=True):
        np.testing.assert_array_equal(one.inputs[0], other.inputs[0])


def test_the_search_saturates_cells(inspected):
    found = inspected("lstm")
    assert found.probes.largest_state > 10
    probe = _by_name(found.probes)["saturated states"]
    assert probe.inputs[0].shape[0] == 2
    recurrence = found.model.layers[0]
    model = keras.Sequential([keras.Input((None, 3)), kl.LSTM(3, return_state=True)])
    model.set_weights(recurrence.get_weights())
    _, _, carry = model(probe.inputs[0], training=False)
    assert np.abs(carry).max() == pytest.approx(found.probes.largest_state, rel=1e-5)


def test_without_a_recurrence_there_is_nothing_to_saturate():
    probes = inspect(floats(kl.Dense(2))).probes
    assert probes.largest_state is None
    assert "saturated states" not in _by_name(probes)


@pytest.mark.slow
def test_golden_probes_are_few_and_of_every_kind(inspected):
    for name in ("classifier", "lstm", "pooled"):
        found = inspected(name)
        names = [probe.name for probe in golden_probes(found.loaded, found.probes.probes)]
        assert 2 <= len(names) <= 4
        assert "saturated states" in names
        assert any(part.startswith("batch 7") for part in names)
        assert ("every padding in one batch" in names) == (name != "lstm")


def test_golden_probes_have_finite_outputs(inspected):
    found = inspected("lstm")
    probes = [
        replace(probe, outputs=[np.full_like(probe.outputs[0], NAN)]) if number else probe
        for number, probe in enumerate(found.probes.probes)
    ]
    assert [probe.name for probe in golden_probes(found.loaded, probes)] == [probes[0].name]


def badly_conditioned() -> keras.Model:
    """A sine of huge numbers: the last bit of a weight decides its outputs."""
    model = floats(kl.Dense(3), kl.Rescaling(1e6), kl.Lambda(keras.ops.sin), kl.LSTM(2))
    randomize(model, 3)
    return model


@pytest.mark.slow
def test_a_badly_conditioned_probe_is_left_out_with_the_reason():
    probes = inspect(badly_conditioned()).probes
    before = [probe.name for probe in probes.probes]
    assert probes.keep_well_conditioned()
    kept = [probe.name for probe in probes.probes]
    assert len(kept) < len(before)
    assert {*kept, *probes.left_out} == set(before)
    for reason in probes.left_out.values():
        assert "badly conditioned: Keras's own output moves by" in reason
        assert "off by one rounding" in reason


@pytest.mark.slow
def test_conditioning_is_settled_once():
    found = inspect(badly_conditioned())
    model = CountingModel(found.model)
    probes = ProbeSet(model, found.probes.probes, {}, None)
    assert probes.keep_well_conditioned()
    left_out, perturbed = dict(probes.left_out), model.perturbed
    assert perturbed == 2 * len(found.probes.probes)
    assert not probes.keep_well_conditioned()
    assert (probes.left_out, model.perturbed) == (left_out, perturbed)


def test_probes_of_an_ordinary_model_are_well_conditioned(inspected):
    found = inspected("lstm")
    probes = ProbeSet(found.loaded.keras, found.probes.probes, {}, None)
    assert not probes.keep_well_conditioned()
    assert probes.probes == found.probes.probes
    assert not probes.left_out


def test_probes_whose_outputs_overflow_are_left_out_with_the_reason():
    model = floats(kl.LSTM(2), kl.Rescaling(1e30), kl.Lambda(keras.ops.exp))
    randomize(model, 3)
    found = inspect(model).probes
    assert found.left_out
    assert set(found.left_out.values()) == {"Keras's own output is not finite"}


def test_the_weights_of_models_depend_on_the_name_alone():
    """So that these tests check the same models every day."""
    for name, build in MODELS.items():
        one, other = build().get_weights(), build().get_weights()
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True)), name


# --- several probes in one call of Keras


class CountingModel:
    """A model that notes the shapes of every call."""

    def __init__(self, model: keras.Model) -> None:
        self._model = read(model)[0]
        self.calls: list[list[tuple[int, ...]]] = []
        self.perturbed = 0

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def reference(self, inputs):
        self.calls.append([array.shape for array in inputs])
        return self._model.reference(inputs)

    def perturbed_reference(self, inputs, seed):
        self.perturbed += 1
        return self._model.perturbed_reference(inputs, seed)


class Mixing(kl.Layer):
    """Lets every row see the others."""

    def call(self, x):
        return x + keras.ops.mean(x, axis=0, keepdims=True)


class MixingPadded(kl.Layer):
    """Lets rows see how many steps of the others are padding."""

    def call(self, x):
        steps = keras.ops.cast(keras.ops.any(keras.ops.not_equal(x, 0), axis=-1), "float32")
        return x * keras.ops.mean(steps)


def masked(*layers: kl.Layer) -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((None, 3)), kl.Masking(), *layers])


def counting(model: keras.Model) -> tuple[CountingModel, LoadedModel]:
    """A model whose calls are counted from now on, and its description."""
    counted = CountingModel(model)
    loaded = replace(inspect(model).loaded, keras=counted)
    return counted, loaded


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(
            lambda: masked(kl.Bidirectional(kl.LSTM(4, return_sequences=True)), kl.GRU(3)),
            marks=pytest.mark.slow,
        ),
        lambda: floats(kl.LSTM(4), shape=(6, 3)),
    ],
    ids=["masked", "fixed time"],
)
def test_a_common_call_gives_every_probe_the_outputs_of_its_own(build):
    model, loaded = counting(build())
    probes = make_probes(loaded).probes
    assert len(model.calls) < len(probes) - 2
    for probe in probes:
        for found, wanted in zip(probe.outputs, model.reference(probe.inputs), strict=True):
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [Mixing, MixingPadded])
def test_rows_that_depend_on_others_are_called_alone(layer):
    model, loaded = counting(masked(layer(), kl.LSTM(4)))
    for probe in make_probes(loaded).probes:
        for found, wanted in zip(probe.outputs, model.reference(probe.inputs), strict=True):
            np.testing.assert_array_equal(found, wanted, err_msg=probe.name)


def call_batched(loaded: LoadedModel, candidates: list[Candidate]) -> dict[int, list[np.ndarray]]:
    return _call_batched(loaded, candidates, Countdown(None, "calling", len(candidates), "probes"))


def candidates(rng, *sizes: tuple[ProbeKind, int, int], features: int = 3) -> list[Candidate]:
    return [
        Candidate(kind, kind.value, [rng.normal(size=(rows, steps, features)).astype(np.float32)])
        for kind, rows, steps in sizes
    ]


ORDINARY, ENDS, EVERY = ProbeKind.ORDINARY, ProbeKind.RANGE_ENDS, ProbeKind.EVERY_PADDING


@pytest.mark.slow
def test_the_first_ordinary_probe_of_a_shape_is_called_alone(rng):
    model, loaded = counting(masked(kl.LSTM(4)))
    sizes = ((ORDINARY, 2, 5), (ORDINARY, 2, 5), (ENDS, 7, 5), (EVERY, 7, 5))
    outputs = call_batched(loaded, candidates(rng, *sizes))
    assert sorted(outputs) == [1, 2, 3]
    assert model.calls == [[(18, 5, 3)], [(7, 5, 3)]]


def test_a_call_stays_small(rng):
    model, loaded = counting(floats(kl.Dense(2), shape=(2**17,)))
    wide = [
        Candidate(ENDS, name, [rng.normal(size=(4, 2**17)).astype(np.float32)]) for name in "abcd"
    ]
    assert sorted(call_batched(loaded, wide)) == [0, 1, 2, 3]
    assert max(shape[0] for (shape,) in model.calls) == 8


def test_a_fixed_batch_is_called_alone(rng):
    x = keras.Input(batch_shape=(2, None, 3))
    _, loaded = counting(keras.Model(x, kl.LSTM(4)(x)))
    assert call_batched(loaded, candidates(rng, *[(ENDS, 2, 5)] * 3)) == {}


def test_what_keras_refuses_is_called_alone(rng):
    _, loaded = counting(floats(kl.LSTM(2)))
    assert call_batched(loaded, candidates(rng, *[(ENDS, 2, 5)] * 3, features=4)) == {}


# --- values of other scales and kinds


class LogOfSpectrum(kl.Layer):
    """NaN for negative values."""

    def call(self, x):
        return keras.ops.log(x + 1e-3)


class AwayFromOneHot(kl.Layer):
    """Amplifies the last bit unless every value is 0 or 1."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        is_between = keras.ops.cast((x != 0) & (x != 1), "float32")
        return x + is_between * keras.ops.sin(1e6 * self.factor * x)


def kinds(probes: ProbeSet) -> set[ProbeKind]:
    return {probe.kind for probe in probes.probes}


def one_hot_model() -> keras.Model:
    keras.utils.set_random_seed(3)
    return floats(AwayFromOneHot(), kl.LSTM(3), shape=(6, 4))


@pytest.mark.slow
def test_ordinary_probes_are_drawn_again_where_the_model_is_well_conditioned():
    probes = inspect(one_hot_model()).probes
    assert probes.keep_well_conditioned()
    ordinary = [probe for probe in probes.probes if probe.kind is ProbeKind.ORDINARY]
    assert len(ordinary) >= 3
    for probe in ordinary:
        assert set(np.unique(probe.inputs[0])) <= {0, 1}
    assert "standard normal" in probes.values_tried


@pytest.mark.slow
def test_a_logarithm_is_probed_with_positive_values():
    probes = inspect(floats(LogOfSpectrum(), kl.Bidirectional(kl.LSTM(3)))).probes
    ordinary = [probe for probe in probes.probes if probe.kind is ProbeKind.ORDINARY]
    assert ordinary
    assert all(probe.inputs[0].min() >= 0 for probe in ordinary)
    assert ProbeKind.RISING in kinds(probes)


def test_statistics_and_kernels_suggest_values(rng):
    normalization = kl.Normalization(axis=-1)
    normalization.adapt(rng.normal([500, -3], [40, 2], size=(200, 2)))
    found = inspect(floats(normalization, kl.LSTM(3), shape=(None, 2)))
    drawn = {d.name: d for d in distributions(found.loaded.keras, found.loaded.spec.inputs)}
    (name,) = (name for name in drawn if "mean and variance" in name)
    values = drawn[name].draw(found.loaded.spec.inputs[0], (200, 5, 2), rng)
    np.testing.assert_allclose(values.mean(axis=(0, 1)), np.ravel(normalization.mean), rtol=0.1)
    assert any("from the kernel of 'lstm" in name for name in drawn)
    other = replace(found.loaded.spec.inputs[0], axes=found.loaded.spec.inputs[0].axes[:1])
    assert drawn[name].draw(other, (200, 1), rng).shape == (200, 1)


def test_ids_have_no_other_distributions(inspected):
    found = inspected("classifier")
    assert distributions(found.loaded.keras, found.loaded.spec.inputs) == []
    assert found.probes.values_tried == []


def test_examples_come_first(rng):
    found = inspect(floats(kl.LSTM(3), shape=(6, 4)))
    example = rng.random((2, 6, 4)).astype(np.float32)
    found.probes.add_examples(found.loaded, [[example]])
    first = found.probes.probes[0]
    assert (first.kind, first.name) == (ProbeKind.EXAMPLE, "your data 1, batch 2, time 6")
    np.testing.assert_array_equal(first.inputs[0], example)
