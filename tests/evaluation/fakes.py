"""Descriptions and models without a file, a backend or TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bilstm_runtime.predictor import Predictor, RecordingSession
from bilstm_runtime.preprocessing_spec import TextPreprocessing
from bilstm_runtime.spec import (
    Axis,
    InputSpec,
    ModelSpec,
    OutputSpec,
    StateSpec,
)

BATCH = Axis("batch", None)
TIME = Axis("time", None)

IDS = InputSpec("ids", "int32", (BATCH, TIME), range=(0, 9), mask_value=0)
FEATURES = InputSpec("x", "float32", (BATCH, TIME, Axis(None, 3)))


def output(*axes: Axis | int, name: str = "out", dtype: str = "float32") -> OutputSpec:
    """An output; a number is a fixed axis."""
    shaped = tuple(axis if isinstance(axis, Axis) else Axis(None, axis) for axis in axes)
    return OutputSpec(name, dtype, (BATCH, *shaped))


def model_spec(
    inputs: Sequence[InputSpec] = (IDS,),
    outputs: Sequence[OutputSpec] = (output(3),),
    *,
    padding_neutral: bool = True,
    rows_independent: bool = True,
    states: Sequence[StateSpec] = (),
    preprocessing: Sequence[TextPreprocessing] = (),
) -> ModelSpec:
    return ModelSpec(
        name="fake",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        states=tuple(states),
        output_structure="single" if len(outputs) == 1 else "dict",
        padding_neutral=padding_neutral,
        rows_independent=rows_independent,
        preprocessing=tuple(preprocessing),
    )


class FunctionSession:
    """A session that computes with a function."""

    def __init__(self, function: Callable[..., list[np.ndarray]]) -> None:
        self._function = function

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._function(*arrays)


def recording(function: Callable[..., list[np.ndarray]]) -> RecordingSession:
    return RecordingSession(FunctionSession(function))


class FakeKeras:
    """As much of a `KerasModel` as evaluation needs; records its calls."""

    def __init__(self, function: Callable[..., list[np.ndarray]]) -> None:
        self._session = recording(function)

    @property
    def calls(self) -> list[list[np.ndarray]]:
        return self._session.runs

    def reference(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._session.run(arrays)


def predictor(function: Callable[..., list[np.ndarray]], spec: ModelSpec) -> Predictor:
    return Predictor(spec, FunctionSession(function), label="fake")


def one_hot(classes: Sequence[int], count: int, *, sure: float = 0.9) -> np.ndarray:
    """Probabilities of which that of these classes is the largest."""
    rest = (1 - sure) / (count - 1)
    return np.where(np.eye(count, dtype=bool)[np.asarray(classes)], sure, rest).astype(np.float32)
