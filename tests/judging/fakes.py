"""Manifests and models without a file, a backend or TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bilstm_exporter.evaluation.predictions import session_model
from bilstm_runtime.bundle.manifest import Golden, Manifest, Source
from bilstm_runtime.comparison import Tolerance
from bilstm_runtime.model import Model
from bilstm_runtime.spec import Axis, InputSpec, OutputSpec, StateSpec, TextPreprocessing

BATCH = Axis("batch", None)
TIME = Axis("time", None)

IDS = InputSpec("ids", "int32", (BATCH, TIME), range=(0, 9), mask_value=0)
FEATURES = InputSpec("x", "float32", (BATCH, TIME, Axis(None, 3)))


def output(*axes: Axis | int, name: str = "out", dtype: str = "float32") -> OutputSpec:
    """An output; a number is a fixed axis."""
    shaped = tuple(axis if isinstance(axis, Axis) else Axis(None, axis) for axis in axes)
    return OutputSpec(name, dtype, (BATCH, *shaped))


def manifest(
    inputs: Sequence[InputSpec] = (IDS,),
    outputs: Sequence[OutputSpec] = (output(3),),
    *,
    padding_neutral: bool = True,
    rows_independent: bool = True,
    states: Sequence[StateSpec] = (),
    preprocessing: Sequence[TextPreprocessing] = (),
) -> Manifest:
    return Manifest(
        name="fake",
        source=Source("fake.keras", "0" * 64, "fake"),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        output_structure="single" if len(outputs) == 1 else "dict",
        padding_neutral=padding_neutral,
        rows_independent=rows_independent,
        recommended_recipe="float32",
        artifacts=(),
        golden=Golden("golden.npz", 0, "0" * 64, 0),
        tolerance=Tolerance(1e-5, 1e-4),
        states=tuple(states),
        preprocessing=tuple(preprocessing),
    )


class FakeSession:
    """Answers with a function, and remembers what it was asked."""

    def __init__(self, function: Callable[..., list[np.ndarray]]) -> None:
        self._function = function
        self.asked: list[list[np.ndarray]] = []

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.asked.append([array.copy() for array in arrays])
        return self._function(*arrays)


class FakeSource:
    """As much of a `Source` as judging needs."""

    def __init__(self, function: Callable[..., list[np.ndarray]]) -> None:
        self.session = FakeSession(function)

    def reference(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self.session.run(arrays)


def model(function: Callable[..., list[np.ndarray]], described: Manifest) -> Model:
    return session_model(FakeSession(function), described, "fake")


def one_hot(classes: Sequence[int], count: int, *, sure: float = 0.9) -> np.ndarray:
    """Probabilities that decide for these classes."""
    rest = (1 - sure) / (count - 1)
    return np.where(np.eye(count, dtype=bool)[np.asarray(classes)], sure, rest).astype(np.float32)
