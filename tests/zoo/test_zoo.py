"""Tests of the zoo itself: the properties that the exporter's tests rely on.

`ZOO_ALL=1` checks every case at three shapes; by default every eighth is checked at one. The
matrix of `tests/parity` checks the outputs of its models too.
"""

import os

import keras
import numpy as np
import pytest

from . import CASES, call, load_all, make_inputs
from .case import PADDINGS, add_case, keep_steps

load_all()
STEP = 1 if os.environ.get("ZOO_ALL") else 8
SAMPLE = [CASES[name] for name in sorted(CASES)[::STEP]]
KNOWN_TAGS = {
    "activation",
    "attention",
    "bidirectional",
    "cell",
    "char",
    "conv-lstm",
    "custom-activation",
    "custom-layer",
    "explicit-mask",
    "fallback",
    "float-input",
    "gru",
    "id-input",
    "image",
    "beyond-lstm",
    "lstm",
    "lstm-in-time-distributed",
    "mask",
    "merge",
    "multi-input",
    "multi-output",
    "nan-when-all-padded",
    "nested",
    "no-recurrence",
    "ops",
    "own-cell",
    "policy",
    "shared",
    "simple-rnn",
    "stateful",
    "states",
    "static-batch",
    "static-time",
    "subclassed",
    "suite",
    "typed-input",
}


def _inputs(case, model, seed, batch, time):
    return make_inputs(case, model, np.random.default_rng(seed), batch, max(time, case.min_time))


def test_names_are_unique_and_kebab_case():
    assert all(name == case.name for name, case in CASES.items())
    assert all(name == name.lower() and "_" not in name and " " not in name for name in CASES)
    taken = next(iter(CASES))
    with pytest.raises(ValueError, match=taken):
        add_case(taken, lambda: None)


def test_tags_are_known():
    assert set().union(*(case.tags for case in CASES.values())) <= KNOWN_TAGS


def test_every_family_is_there():
    assert len(CASES) >= 220
    for tag in ("mask", "fallback", "nested", "shared", "subclassed", "gru", "states", "stateful"):
        assert sum(tag in case.tags for case in CASES.values()) >= 5, tag


def test_padding_kinds():
    rng = np.random.default_rng(0)
    for time in (1, 2, 5):
        keep = dict(zip(PADDINGS, keep_steps(rng, len(PADDINGS), time), strict=True))
        assert keep["none"].all()
        assert not keep["all"].any()
        assert not keep["left"][0]
        assert not keep["right"][-1]
    with pytest.raises(ValueError, match="diagonal"):
        keep_steps(rng, 1, 3, ["diagonal"])


def test_masked_inputs_are_padded():
    ids, floats = CASES["masked-bilstm-classifier"], CASES["masking-minus-one"]
    (tokens,) = _inputs(ids, ids.build(), 0, 12, 6)
    assert (tokens == 0).all(axis=1).any()
    assert (tokens != 0).all(axis=1).any()
    assert (tokens[:, 0] == 0).any()
    assert (tokens[:, -1] == 0).any()
    (x,) = _inputs(floats, floats.build(), 0, 12, 6)
    assert (x == -1).all(axis=2).any()


def test_weights_depend_on_the_name_alone():
    case = CASES["masked-bilstm-stacked-classifier"]
    first, second = case.build(), case.build()
    for a, b in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.abs(a).min() > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: case.name)
def test_case(case, tmp_path):
    model = case.build()
    finite = "nan-when-all-padded" not in case.tags
    shapes = ((7, 5),) if STEP > 1 else ((1, 1), (2, 7), (7, 5))
    for batch, time in shapes:
        inputs = _inputs(case, model, batch, batch, time)
        outputs = call(model, inputs)
        for output in outputs:
            assert output.size > 0
            assert np.any(output)
            assert not finite or np.isfinite(output.astype("float64")).all()
    others = call(model, _inputs(case, model, 99, batch, time))
    for output, other in zip(outputs, others, strict=True):
        assert not np.array_equal(output, other, equal_nan=True)
    if case.saveable and "stateful" not in case.tags:
        path = tmp_path / "x.keras"
        model.save(path)
        outputs = call(model, inputs)
        for output, loaded in zip(
            outputs, call(keras.models.load_model(path), inputs), strict=True
        ):
            np.testing.assert_allclose(output, loaded, rtol=1e-5, atol=1e-6)
