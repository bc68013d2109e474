"""Models x formats x batches x lengths x paddings: the artifact reproduces Keras's outputs.

The exporter compares before it writes. This compares once more, with inputs, calls and a
comparison that share nothing with the exporter's: it finds errors that a fault in those would hide.
"""

import numpy as np
import pytest

import bilstm_runtime
from parity.conftest import selected
from zoo import call, load_all, make_inputs
from zoo.case import PADDINGS

ABSOLUTE, RELATIVE = 1e-5, 1e-4
BATCHES_AND_LENGTHS = [(1, 1), (2, 7), (7, 5), (1, 26), (3, 13)]


def error(output, reference, where):
    """What is wrong with an output, or ""; the tolerance as the README promises it."""
    if (output.shape, output.dtype) != (reference.shape, reference.dtype):
        return f"{where}: {output.dtype} {output.shape}, not {reference.dtype} {reference.shape}"
    if reference.dtype.kind != "f":
        return "" if np.array_equal(output, reference) else f"{where}: other integers"
    if np.allclose(output, reference, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True):
        return ""
    return f"{where}: off by up to {np.abs(output - reference).max():.3g}"


def cases(name, model):
    """Inputs of every batch, length and padding, with Keras's outputs."""
    case = load_all()[name]
    masked = case.tags & {"mask", "explicit-mask"}
    groups = {}
    for batch, length in BATCHES_AND_LENGTHS:
        for paddings in [[kind] for kind in PADDINGS] + [PADDINGS] if masked else [None]:
            if length >= case.min_time:
                rng = np.random.default_rng(batch * 100 + length)
                inputs = make_inputs(case, model, rng, batch, length, paddings)
                where = f"batch {batch}, length {length}, padding {paddings}"
                groups.setdefault((batch, length), []).append((where, inputs))
    calls = [[inputs for _, inputs in group] for group in groups.values()]
    return [
        (where, inputs, outputs)
        for group, found in zip(groups.values(), references(model, calls), strict=True)
        for (where, inputs), outputs in zip(group, found, strict=True)
    ]


def references(model, groups):
    """Keras's outputs for groups of calls, the calls of a group alike in their shapes.

    Keras's eager loop over time costs the same for one row as for fifty: a group is one call with
    all rows. In one group the first and the last call are made alone as well; where that gives
    other outputs, rows depend on each other, and every call is made alone.
    """
    if all(size is None for size in _batches(model)):
        found = [_call_as_one(model, calls) for calls in groups]
        witness = max(range(len(groups)), key=lambda i: len(groups[i][0][0]))
        if all(found) and all(
            _same(found[witness][i], call(model, groups[witness][i])) for i in (0, -1)
        ):
            return found
    return [[call(model, inputs) for inputs in calls] for calls in groups]


def _call_as_one(model, calls):
    """The outputs of every call; None where an output has no rows."""
    together = call(model, [np.concatenate(arrays) for arrays in zip(*calls, strict=True)])
    rows = sum(len(inputs[0]) for inputs in calls)
    if any(output.ndim == 0 or len(output) != rows for output in together):
        return None
    parts = [np.split(output, len(calls)) for output in together]
    return [list(outputs) for outputs in zip(*parts, strict=True)]


def _batches(model):
    return [tensor.shape[0] for tensor in getattr(model, "inputs", None) or []]


def _same(outputs, others):
    """Up to roundings, which another number of rows changes: a twentieth of the tolerance."""
    return all(
        one.shape == other.shape
        and np.allclose(one, other, rtol=RELATIVE / 20, atol=ABSOLUTE / 20, equal_nan=True)
        for one, other in zip(outputs, others, strict=True)
    )


# Keras divides by zero for a row that is all padding; the runtime reports the NaN.
@pytest.mark.filterwarnings("ignore:output .* has NaN:RuntimeWarning")
@pytest.mark.parametrize("name", selected())
def test_parity(exported, name):
    model, bundle = exported(name)
    replayed = cases(name, model)
    assert replayed
    for outputs in zip(*(outputs for _, _, outputs in replayed), strict=True):
        assert any(output.any() for output in outputs)  # else the comparison shows nothing
        assert len({output.tobytes() for output in outputs}) > 1
    wrong = []
    for backend in ("onnx", "litert"):
        runtime = bilstm_runtime.load(bundle, backend=backend)
        # The second pass, in reverse order, detects state left by the first one.
        for where, inputs, expected in replayed + replayed[::-1]:
            outputs = _flat(runtime.predict(inputs if len(inputs) > 1 else inputs[0]))
            for spec, output, reference in zip(runtime.outputs, outputs, expected, strict=True):
                wrong.append(error(output, reference, f"{spec.name} of {backend} at {where}"))
    assert not any(wrong), "\n".join(filter(None, wrong))


def _flat(outputs):
    if isinstance(outputs, dict):
        return [outputs[name] for name in sorted(outputs)]
    return outputs if isinstance(outputs, list) else [outputs]


# --- the comparison of this file can fail


@pytest.mark.parametrize("reference", [0.0, 1.0, -300.0])
def test_the_comparison_fails_beyond_the_tolerance(reference):
    wanted = np.full(3, reference)
    bound = 1e-5 + 1e-4 * abs(reference)
    assert not error(wanted + np.array([0, bound * 0.99, 0]), wanted, "y")
    assert error(wanted + np.array([0, bound * 1.01, 0]), wanted, "y").startswith("y: off by")


@pytest.mark.parametrize(
    ("output", "reference"),
    [
        (np.zeros(2, "float32"), np.zeros((2, 1), "float32")),
        (np.zeros(2, "float64"), np.zeros(2, "float32")),
        (np.array([0, np.nan]), np.zeros(2)),
        (np.zeros(2), np.array([0, np.nan])),
        (np.array([3]), np.array([4])),
    ],
)
def test_the_comparison_fails_for_other_kinds(output, reference):
    assert error(output, reference, "y")


def test_calls_of_rows_that_depend_on_each_other_are_made_alone():
    import keras

    x = keras.Input((3,))
    mixed = keras.layers.Lambda(lambda t: t - keras.ops.mean(t, axis=0, keepdims=True))(x)
    model = keras.Model(x, mixed)
    rng = np.random.default_rng(0)
    calls = [[rng.normal(size=(2, 3)).astype("float32")] for _ in range(3)]
    for (found,), inputs in zip(references(model, [calls])[0], calls, strict=True):
        np.testing.assert_array_equal(found, call(model, inputs)[0])
