"""Stateful models: states go from one prediction to the next, as in Keras, until a reset."""

import numpy as np
import pytest

import bilstm_runtime
from bilstm_exporter.frontends.loading import read
from parity.conftest import models
from zoo import call, load_all, make_inputs

STATEFUL = ["stateful-bilstm", "stateful-gru", "stateful-lstm-masked", "stateful-cell"]


def _reset(model):
    for layer in model._flatten_layers():
        if getattr(layer, "stateful", False) and hasattr(layer, "reset_states"):
            layer.reset_states()


@pytest.mark.parametrize("backend", ["onnx", "litert"])
@pytest.mark.parametrize("name", models(STATEFUL))
@pytest.mark.slow
def test_carries_its_states(exported, name, backend):
    case = load_all()[name]
    model, bundle = exported(name)
    runtime = bilstm_runtime.load(bundle, backend=backend)
    assert runtime.is_stateful
    batches = [make_inputs(case, model, np.random.default_rng(n), 2, 5) for n in range(3)]
    _reset(model)
    for inputs in batches:
        np.testing.assert_allclose(
            runtime.predict(inputs[0]), call(model, inputs)[0], atol=1e-5, rtol=1e-4
        )
    continued = runtime.predict(batches[0][0])
    runtime.reset()
    fresh = runtime.predict(batches[0][0])
    assert np.abs(continued - fresh).max() > 1e-3
    _reset(model)
    np.testing.assert_allclose(fresh, call(model, batches[0])[0], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_export_leaves_the_models_own_states_alone(exported):
    case = load_all()["stateful-gru"]
    model = case.build()
    inputs = make_inputs(case, model, np.random.default_rng(0), 2, 5)
    call(model, inputs)
    states = [v.numpy() for layer in model.layers for v in getattr(layer, "states", None) or []]
    source, _ = read(model)
    zeros = [np.zeros([n or 2 for n in spec.shape], spec.dtype) for spec in source.flat_inputs[1:]]
    source.reference([inputs[0], *zeros])
    after = [v.numpy() for layer in model.layers for v in getattr(layer, "states", None) or []]
    assert states
    assert all(np.array_equal(a, b) for a, b in zip(states, after, strict=True))


@pytest.mark.slow
def test_a_batch_of_another_size_is_refused(exported):
    _, bundle = exported("stateful-gru")
    runtime = bilstm_runtime.load(bundle)
    with pytest.raises(bilstm_runtime.InputError):
        runtime.predict(np.zeros((5, 4, runtime.inputs[0].axes[2].size), "float32"))
