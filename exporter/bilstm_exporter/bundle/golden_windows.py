"""Makes the golden recording of a bundle, from steps to windows, Keras's outputs and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bilstm_exporter.evaluation.predictions import KerasSession
from bilstm_exporter.inspection.probes import Probe
from bilstm_exporter.loaded import LoadedModel
from bilstm_runtime.bundle.golden_windows import WindowCase, places, window_answers
from bilstm_runtime.errors import BilstmRuntimeError
from bilstm_runtime.predictor import Predictor
from bilstm_runtime.windows import sliding_windows

_WINDOWS = 3
# Numbers in a recording of several windows, some hundred kB of JSON.
_MAX_VALUES = 2**16


def window_cases(loaded: LoadedModel, golden: Sequence[Probe]) -> list[WindowCase]:
    """Return a recording with what it becomes; none for a model without windows.

    Args:
        loaded: The model.
        golden: Calls of the model. A recording has their values, for which the model was checked.
    """
    spec = loaded.spec
    rule = spec.windows
    if rule is None:
        return []
    predictor = Predictor(spec, KerasSession(loaded.keras), label="Keras")
    for probe in golden:
        rows = probe.inputs[0]
        steps = rows.reshape(-1, *rows.shape[2:])
        # The last steps do not fill a window.
        count = rule.window + (_WINDOWS - 1) * rule.hop + rule.hop // 2
        if count * steps[0].size > _MAX_VALUES:
            count = rule.window
        recording = _plain(np.resize(steps, (count, *steps.shape[1:])))
        try:
            windows, starts = sliding_windows(recording, spec, None, None)
            outputs = spec.flatten_outputs(predictor.predict(windows))
            where = places(starts, rule.window)
            answers = {
                item.output: window_answers(predictor.answers(windows, outputs, item), where)
                for item in spec.decoding
            }
        except BilstmRuntimeError:  # such as an example that is all padding
            continue
        if all(isinstance(one, np.ndarray) and np.isfinite(one).all() for one in outputs):
            return [WindowCase(recording, where, [one.tolist() for one in outputs], answers)]
    return []


def _plain(array: np.ndarray) -> Any:
    """Return an array as nested lists, floats with as few digits as tell them apart."""
    return (array.astype(str).astype(float) if array.dtype.kind == "f" else array).tolist()
