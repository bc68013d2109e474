"""The user's data as the arrays that a model file is calibrated with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bilstm_exporter.errors import DataError
from bilstm_exporter.evaluation.dataset import PROBES, Dataset
from bilstm_exporter.evaluation.predictions import KerasSession, ask
from bilstm_runtime.predictor import Predictor
from bilstm_runtime.spec import ModelSpec
from bilstm_runtime.values import AnyArray

if TYPE_CHECKING:  # it loads TensorFlow
    from bilstm_exporter.keras_model import KerasModel

FEWEST, MOST = 16, 128
"""Examples: fewer leave the ranges of the activations to chance, more hardly move them."""


class _Recorder:
    """Keras's answers, and what it was asked (a ``Session``)."""

    def __init__(self, source: KerasModel) -> None:
        self._session = KerasSession(source)
        self.runs: list[list[AnyArray]] = []

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        self.runs.append([array.copy() for array in arrays])
        return self._session.run(arrays)


def calibration_runs(
    source: KerasModel, manifest: ModelSpec, dataset: Dataset, *, most: int = MOST
) -> list[list[AnyArray]]:
    """The first examples as the runtime would give them to a model file.

    Args:
        source: The model; it answers too, so that a stateful model's states are what they become.
        manifest: Whose fixed axes the examples are padded to.
        dataset: The examples.
        most: Examples used at most.

    Returns:
        For each run one array an input of the file (and a state of a stateful model), in the
        order of the manifest.

    Raises:
        DataError: There are too few examples, or none of the user's own.
    """
    if dataset.origin == PROBES:
        message = "int8-full finds the ranges of the activations in your data; give it with --data"
        raise DataError(message)
    if dataset.count < FEWEST:
        message = (
            f"{dataset.origin}: {dataset.count} examples are too few to calibrate with; give at "
            f"least {FEWEST}, of every kind the device will see"
        )
        raise DataError(message)
    count = min(dataset.count, max(most, dataset.together or 1))
    count -= count % (dataset.together or 1)
    first = replace(dataset, inputs=dataset.part(slice(count)), labels={}, count=count)
    recorder = _Recorder(source)
    ask(Predictor(manifest, recorder, label="Keras"), first)
    return recorder.runs
