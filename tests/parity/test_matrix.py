"""Models x formats x batches x lengths x paddings: the artifact gives Keras's answer."""

from functools import lru_cache

import numpy as np
import pytest
from bilstm_exporter.verification.tolerance import difference

import bilstm_runtime
from parity.conftest import selected
from zoo import call, load_all, make_inputs
from zoo.case import PADDINGS

BATCHES_AND_LENGTHS = [(1, 1), (2, 7), (7, 5), (1, 26), (3, 13)]


@lru_cache(maxsize=1)  # both backends of a case come one after the other
def _questions(name, model):
    """Inputs of every batch, length and padding, with Keras's answers."""
    case = load_all()[name]
    masked = case.tags & {"mask", "explicit-mask"}
    asked = []
    for batch, length in BATCHES_AND_LENGTHS:
        for paddings in [[kind] for kind in PADDINGS] + [PADDINGS] if masked else [None]:
            if length >= case.min_time:
                rng = np.random.default_rng(batch * 100 + length)
                inputs = make_inputs(case, model, rng, batch, length, paddings)
                where = f"batch {batch}, length {length}, padding {paddings}"
                asked.append((where, inputs, call(model, inputs)))
    return asked


@pytest.mark.parametrize("backend", ["onnx", "litert"])
@pytest.mark.parametrize("name", selected())
def test_parity(exported, name, backend):
    model, bundle = exported(name)
    runtime = bilstm_runtime.load(bundle, backend=backend)
    questions = _questions(name, model)
    wrong = []
    # The second pass, in the opposite order, meets whatever the first one left behind.
    for where, inputs, references in questions + questions[::-1]:
        answers = _flat(runtime.predict(inputs if len(inputs) > 1 else inputs[0]))
        for spec, answer, reference in zip(runtime.outputs, answers, references, strict=True):
            found = difference(answer, reference)
            if found.ratio > 1:
                what = found.reason or f"{found.ratio:.3g} times the tolerance"
                wrong.append(f"{spec.name} at {where}: {what}")
    assert questions
    assert not wrong, "\n".join(wrong)


def _flat(answers):
    if isinstance(answers, dict):
        return [answers[name] for name in sorted(answers)]
    return answers if isinstance(answers, list) else [answers]
