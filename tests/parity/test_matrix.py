"""Models x formats x batches x lengths x paddings: the artifact gives Keras's answer."""

import numpy as np
import pytest

import bilstm_runtime
from bilstm_exporter.tolerance import difference
from parity.conftest import selected
from zoo import call, load_all, make_inputs
from zoo.case import PADDINGS

BATCHES_AND_LENGTHS = [(1, 1), (2, 7), (7, 5), (1, 26), (3, 13)]


@pytest.mark.parametrize("backend", ["onnx", "litert"])
@pytest.mark.parametrize("name", selected())
def test_parity(exported, name, backend):
    case = load_all()[name]
    model, bundle = exported(name)
    runtime = bilstm_runtime.load(bundle, backend=backend)
    masked = case.tags & {"mask", "explicit-mask"}
    compared, wrong = 0, []
    questions = [
        (batch, length, paddings)
        for batch, length in BATCHES_AND_LENGTHS
        if length >= case.min_time
        for paddings in ([[kind] for kind in PADDINGS] + [PADDINGS] if masked else [None])
    ]
    # The second pass, in the opposite order, meets whatever the first one left behind.
    for batch, length, paddings in questions + questions[::-1]:
        rng = np.random.default_rng(batch * 100 + length)
        inputs = make_inputs(case, model, rng, batch, length, paddings)
        answers = _flat(runtime.predict(inputs if len(inputs) > 1 else inputs[0]))
        for spec, answer, reference in zip(
            runtime.outputs, answers, call(model, inputs), strict=True
        ):
            found = difference(answer, reference)
            compared += 1
            if found.ratio > 1:
                wrong.append(
                    f"{spec.name} at batch {batch}, length {length}, padding {paddings}: "
                    f"{found.reason or f'{found.ratio:.3g} times the tolerance'}"
                )
    assert compared
    assert not wrong, "\n".join(wrong)


def _flat(answers):
    if isinstance(answers, dict):
        return [answers[name] for name in sorted(answers)]
    return answers if isinstance(answers, list) else [answers]
