"""Asking Keras and every artifact the same questions.

An artifact is asked one example at a time, as it is on a device: an operator that finds the range
of its input as it runs (DynamicQuantizeLSTM does) finds it over the whole batch, so that what one
example is answered depends on the others. Keras, whose rows were proven independent, is
asked for many at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bilstm_exporter.errors import DataError, plain_text
from bilstm_exporter.evaluation.dataset import Column, Dataset
from bilstm_runtime.errors import BackendRunError, InputError
from bilstm_runtime.predictor import Predictor
from bilstm_runtime.spec import ModelSpec
from bilstm_runtime.values import AnyArray

if TYPE_CHECKING:  # it loads TensorFlow
    from bilstm_exporter.keras_model import KerasModel

KERAS_ROWS = 256
"""Examples that Keras answers at once at most: its eager call takes as long for one as for many."""

_MOST_STEPS = 2**14
"""Steps in one such call: long sequences go in smaller batches, so that activations stay small."""


class KerasSession:
    """Keras's eager answers behind the interface of a backend (a ``Session``).

    Args:
        source: The model.
    """

    def __init__(self, source: KerasModel) -> None:
        self._source = source

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Answer once; see ``Session.run``."""
        try:
            answers = self._source.reference(arrays)
        except Exception as error:
            lines = plain_text(error).strip().splitlines() or [type(error).__name__]
            shapes = ", ".join(str(list(array.shape)) for array in arrays)
            message = f"Keras itself refuses inputs of shape {shapes}: {lines[0][:200]}"
            raise BackendRunError(message) from error
        return [np.asarray(answer) for answer in answers]


def keras_answers(source: KerasModel, manifest: ModelSpec, dataset: Dataset) -> dict[str, Column]:
    """Keras's own answers to all examples, padded and grouped by the runtime; see `ask`."""
    longest = max(map(_longest, dataset.inputs.values()))
    rows = max(1, min(KERAS_ROWS, _MOST_STEPS // longest))
    return ask(Predictor(manifest, KerasSession(source), label="Keras"), dataset, rows=rows)


def ask(model: Predictor, dataset: Dataset, *, rows: int = 1) -> dict[str, Column]:
    """Let a model answer all examples.

    A model whose rows or calls depend on each other is asked question by question, each time from
    its first states.

    Args:
        model: An artifact, as the runtime presents it.
        dataset: The examples.
        rows: How many run at once, where the model does not fix that.

    Returns:
        By the output's name; an array with a batch axis, or one array an example.

    Raises:
        DataError: The examples cannot be run in such batches.
        BackendRunError: The model failed.
    """
    try:
        if dataset.together is None:
            size = None if model.inputs[0].axes[0].size else rows
            return _by_name(model, model.predict(dataset.part(slice(None)), batch_size=size))
        parts = []
        for start in range(0, dataset.count, dataset.together):
            model.reset()
            part = dataset.part(slice(start, start + dataset.together))
            parts.append(_by_name(model, model.predict(part)))
        model.reset()
    except InputError as error:
        message = f"{dataset.origin}: {error}"
        raise DataError(message) from error
    return {spec.name: _joined([part[spec.name] for part in parts]) for spec in model.outputs}


def _longest(column: Column) -> int:
    """The largest size of the axis after the batch; 1 without one."""
    shapes = (
        [example.shape for example in column] if isinstance(column, list) else [column[0].shape]
    )
    return max(int(shape[0]) if shape else 1 for shape in shapes)


def _by_name(model: Predictor, answers: object) -> dict[str, Column]:
    if isinstance(answers, dict):
        return dict(answers)
    names = [spec.name for spec in model.outputs]
    if model.output_structure == "single":
        answers = [answers]
    if not isinstance(answers, list):
        message = f"{model!r} answers {type(answers).__name__}"
        raise TypeError(message)
    return dict(zip(names, answers, strict=True))


def _joined(parts: Sequence[Column]) -> Column:
    shapes = {part.shape[1:] for part in parts if not isinstance(part, list)}
    if len(shapes) == 1 and not any(isinstance(part, list) for part in parts):
        return np.concatenate(parts)
    return [row for part in parts for row in part]
