"""Runs Keras and artifacts on the same examples, and makes the inputs for calibration.

An artifact runs one example per call, as on a device. An operator that computes the range of its
input at run time, such as onnxruntime's DynamicQuantizeLSTM, computes it over the whole batch, so
that the output for one example would depend on the others. Keras runs many examples per call if
its rows are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bilstm_exporter.errors import DataError, plain_text
from bilstm_exporter.evaluation.dataset import Column, Dataset
from bilstm_runtime.errors import BackendRunError, InputError
from bilstm_runtime.predictor import Predictor, RecordingSession
from bilstm_runtime.spec import ModelSpec
from bilstm_runtime.values import AnyArray

if TYPE_CHECKING:  # it loads TensorFlow
    from bilstm_exporter.keras_model import KerasModel

MAX_KERAS_ROWS = 256
"""Examples in one call of Keras: an eager call takes nearly as long for one as for many."""

MIN_CALIBRATION = 16
"""Fewer examples do not determine the ranges of the activations reliably."""

MAX_CALIBRATION = 128
"""More examples hardly change the ranges of the activations."""

_MAX_KERAS_STEPS = 2**14
"""Steps in one call of Keras: limits the memory that its activations take."""


class KerasSession:
    """An eagerly called Keras model as a ``Session`` of the runtime.

    Args:
        model: The model.
    """

    def __init__(self, model: KerasModel) -> None:
        self._model = model

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Call the model once; see ``Session.run``."""
        try:
            outputs = self._model.reference(arrays)
        except Exception as error:
            lines = plain_text(error).strip().splitlines() or [type(error).__name__]
            shapes = ", ".join(str(list(array.shape)) for array in arrays)
            message = f"Keras itself refuses inputs of shape {shapes}: {lines[0][:200]}"
            raise BackendRunError(message) from error
        return [np.asarray(output) for output in outputs]


def predict_dataset(
    predictor: Predictor, dataset: Dataset, *, batch_size: int = 1
) -> dict[str, Column]:
    """Predict for all examples.

    If the rows or calls of the model depend on each other, each call starts from zero states.

    Args:
        predictor: An artifact, or Keras.
        dataset: The examples.
        batch_size: Examples per call, unless the model fixes the batch.

    Returns:
        By the output's name, an array with a batch axis, or a list of one array per example.

    Raises:
        DataError: The examples cannot be run in such batches.
        BackendRunError: The model failed.
    """
    names = [spec.name for spec in predictor.outputs]
    try:
        if dataset.together is None:
            size = None if predictor.spec.batch.size else batch_size
            outputs = predictor.predict(dataset.part(slice(None)), batch_size=size)
            return dict(zip(names, predictor.spec.flatten_outputs(outputs), strict=True))
        parts = []
        for start in range(0, dataset.count, dataset.together):
            predictor.reset()
            outputs = predictor.predict(dataset.part(slice(start, start + dataset.together)))
            parts.append(predictor.spec.flatten_outputs(outputs))
        predictor.reset()
    except InputError as error:
        message = f"{dataset.origin}: {error}"
        raise DataError(message) from error
    return {
        name: _concatenated(of_parts)
        for name, of_parts in zip(names, zip(*parts, strict=True), strict=True)
    }


def keras_predictions(model: KerasModel, spec: ModelSpec, dataset: Dataset) -> dict[str, Column]:
    """Run Keras on all examples, padded and grouped by the runtime.

    Args:
        model: The model.
        spec: Its inputs and outputs.
        dataset: The examples.

    Returns:
        See `predict_dataset`.

    Raises:
        DataError: The examples cannot be run in such batches.
        BackendRunError: Keras raised an error.
    """
    longest = max(map(_longest, dataset.inputs.values()))
    rows = max(1, min(MAX_KERAS_ROWS, _MAX_KERAS_STEPS // longest))
    predictor = Predictor(spec, KerasSession(model), label="Keras")
    return predict_dataset(predictor, dataset, batch_size=rows)


def calibration_runs(
    model: KerasModel, spec: ModelSpec, dataset: Dataset, *, max_examples: int = MAX_CALIBRATION
) -> list[list[AnyArray]]:
    """Return the first examples as the arrays that the runtime would pass to a model file.

    Keras runs them, so that the states of a stateful model have realistic values.

    Args:
        model: The model.
        spec: Its inputs and outputs; the examples are padded to its fixed axes.
        dataset: The examples.
        max_examples: The largest number of examples to use.

    Returns:
        For each run, one array per file input, in the order of the spec.

    Raises:
        DataError: There are too few examples, or they are not the user's data.
    """
    if dataset.from_probes:
        message = "int8-full finds the ranges of the activations in your data; give it with --data"
        raise DataError(message)
    if dataset.count < MIN_CALIBRATION:
        message = (
            f"{dataset.origin}: {dataset.count} examples are too few to calibrate with; give at "
            f"least {MIN_CALIBRATION}, of every kind that the device will see"
        )
        raise DataError(message)
    count = min(dataset.count, max(max_examples, dataset.together or 1))
    count -= count % (dataset.together or 1)
    first = replace(dataset, inputs=dataset.part(slice(count)), labels={}, count=count)
    recording = RecordingSession(KerasSession(model))
    predict_dataset(Predictor(spec, recording, label="Keras"), first)
    return recording.runs


def _longest(column: Column) -> int:
    """Return the largest size of the axis after the batch; 1 without one."""
    shapes = (
        [example.shape for example in column] if isinstance(column, list) else [column[0].shape]
    )
    return max(int(shape[0]) if shape else 1 for shape in shapes)


def _concatenated(parts: Sequence[Column]) -> Column:
    shapes = {part.shape[1:] for part in parts if not isinstance(part, list)}
    if len(shapes) == 1 and not any(isinstance(part, list) for part in parts):
        return np.concatenate(parts)
    return [row for part in parts for row in part]
