"""Asking Keras and every artifact the same questions, in the same batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bilstm_exporter.errors import DataError, plain_text
from bilstm_exporter.judging.dataset import Column, Dataset
from bilstm_runtime.backends import Backend, Session
from bilstm_runtime.errors import BackendRunError, InputError
from bilstm_runtime.manifest import Artifact, Manifest
from bilstm_runtime.model import Model
from bilstm_runtime.values import AnyArray

if TYPE_CHECKING:  # it loads TensorFlow
    from bilstm_exporter.frontend.source import Source

BATCH_SIZE = 256
"""Examples in one run at most: Keras's eager answers take as long for one as for hundreds."""

_MOST_STEPS = 2**14
"""Steps in one run: long sequences run in smaller batches, so that activations stay small."""


class KerasSession:
    """Keras's eager answers behind the interface of a backend (a ``Session``).

    Args:
        source: The model.
    """

    def __init__(self, source: Source) -> None:
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


def session_model(session: Session, manifest: Manifest, name: str) -> Model:
    """A session as the runtime presents it, padding and grouping included.

    Args:
        session: Anything that answers.
        manifest: What it takes and answers.
        name: What to call it in messages.
    """

    def never(
        content: bytes, artifact: Artifact, manifest: Manifest, threads: int
    ) -> Session:  # pragma: no cover - the session is open already
        del content, artifact, manifest, threads
        return session

    backend = Backend(name, name, package="", extra="", open=never)
    artifact = Artifact(name, name, "float32", bytes=0, sha256="", inputs=(), outputs=())
    return Model(manifest, session, backend, artifact)


def keras_model(source: Source, manifest: Manifest) -> Model:
    """The Keras model as the runtime presents an artifact."""
    return session_model(KerasSession(source), manifest, "Keras")


def ask(model: Model, dataset: Dataset) -> dict[str, Column]:
    """Let a model answer all examples.

    Whoever answers, the same examples run together, padded in the same way. A model whose rows
    or calls depend on each other is asked question by question, each time from its first states.

    Args:
        model: An artifact, or `keras_model`.
        dataset: The examples.

    Returns:
        By the output's name; an array with a batch axis, or one array an example.

    Raises:
        DataError: The examples cannot be run in such batches.
        BackendRunError: The model failed.
    """
    try:
        if dataset.together is None:
            fixed = model.inputs[0].axes[0].size
            size = None if fixed else batch_size(dataset)
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


def batch_size(dataset: Dataset) -> int:
    """How many examples run at once at most."""
    longest = max(map(_longest, dataset.inputs.values()))
    return max(1, min(BATCH_SIZE, _MOST_STEPS // longest))


def _longest(column: Column) -> int:
    """The largest size of the axis after the batch; 1 without one."""
    shapes = (
        [example.shape for example in column] if isinstance(column, list) else [column[0].shape]
    )
    return max(int(shape[0]) if shape else 1 for shape in shapes)


def _by_name(model: Model, answers: object) -> dict[str, Column]:
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
