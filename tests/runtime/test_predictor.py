"""`Predictor` on sessions without a file or a backend, and `RecordingSession`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from bilstm_runtime.errors import BackendRunError, InputError
from bilstm_runtime.predictor import Predictor, RecordingSession
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec, StateSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

B, T = Axis("batch", None), Axis("time", None)
X = InputSpec("x", "float32", (B, T))
Y, Z = OutputSpec("y", "float32", (B, T)), OutputSpec("z", "float32", (B,))
STATES = (StateSpec("count", "float32", (Axis("batch", 1),)),)


class Twice:
    """Returns twice its input and its sum over time."""

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [2 * arrays[0], arrays[0].sum(axis=1)]


class Counting:
    """Adds its state to its input, and one to its state."""

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        x, count = arrays
        return [x + count[:, None], count + 1]


def predictor(structure: str = "list") -> Predictor:
    spec = ModelSpec("m", (X,), (Y, Z), output_structure=structure, rows_independent=True)
    return Predictor(spec, Twice(), label="twice")


def test_outputs_have_the_structure_of_the_model() -> None:
    x = np.ones((2, 3), np.float32)
    (y, z), by_name = predictor().predict(x), predictor("dict").predict(x)
    assert (y == 2).all() and z.tolist() == [3, 3]
    assert list(by_name) == ["y", "z"] and (by_name["z"] == z).all()
    single = Predictor(ModelSpec("m", (X,), (Y,)), Negative(), label="one")
    assert (single.predict(x) == -1).all()


class Negative:
    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [-arrays[0]]


def test_attributes_are_those_of_the_spec() -> None:
    model = predictor("dict")
    assert (model.inputs, model.outputs) == (model.spec.inputs, model.spec.outputs)
    assert (model.output_structure, model.is_stateful) == ("dict", False)
    assert repr(model) == "<Predictor 'm' of twice>"


@pytest.mark.parametrize("structure", ["list", "dict"])
def test_run_case_returns_arrays_in_order(structure: str) -> None:
    x = np.ones((1, 4), np.float32)
    outputs = predictor(structure).run_case([x])
    assert [output.shape for output in outputs] == [(1, 4), (1,)]
    single = Predictor(ModelSpec("m", (X,), (Y,)), Negative(), label="one")
    assert [output.tolist() for output in single.run_case([x])] == [(-x).tolist()]


def test_states_are_kept_until_reset_and_run_case_resets() -> None:
    axes = (Axis("batch", 1), T)
    spec = ModelSpec("m", (InputSpec("x", "float32", axes),), (OutputSpec("y", "float32", axes),), STATES)  # fmt: skip  # noqa: E501
    model = Predictor(spec, Counting(), label="counting")
    x = np.zeros((1, 2), np.float32)
    assert model.is_stateful
    assert [float(model.predict(x)[0, 0]) for _ in range(3)] == [0, 1, 2]
    assert float(model.run_case([x])[0][0, 0]) == 0
    assert float(model.predict(x)[0, 0]) == 1
    model.reset()
    assert float(model.predict(x)[0, 0]) == 0


def test_messages_name_the_label() -> None:
    class Wrong:
        def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [arrays[0][:, :1]]

    model = Predictor(ModelSpec("m", (X,), (Y,)), Wrong(), label="my file")
    with pytest.raises(BackendRunError, match=r"my file returned 'y' with the shape \[2, 1\]"):
        model.predict(np.ones((2, 3), np.float32))


def test_run_case_refuses_what_predict_refuses() -> None:
    with pytest.raises(InputError, match="not finite"):
        predictor().run_case([np.full((1, 2), np.nan, np.float32)])


def test_recording_keeps_copies_of_what_the_session_is_given() -> None:
    session = RecordingSession(Twice())
    spec = ModelSpec("m", (X,), (Y, Z), output_structure="list", rows_independent=True)
    model = Predictor(spec, session, label="recorded")
    x = np.ones((1, 2), np.float32)
    model.predict(x)
    x[:] = 7
    model.predict([[1.0], [1.0, 2.0]])
    assert [[array.tolist() for array in run] for run in session.runs] == [
        [[[1.0, 1.0]]],
        [[[1.0, 2.0]]],
        [[[1.0]]],
    ]


def test_recording_sees_the_states() -> None:
    axes = (Axis("batch", 1), T)
    session = RecordingSession(Counting())
    inputs, outputs = (InputSpec("x", "float32", axes),), (OutputSpec("y", "float32", axes),)
    model = Predictor(ModelSpec("m", inputs, outputs, STATES), session, label="recorded")
    for _ in range(2):
        model.predict(np.zeros((1, 2), np.float32))
    assert [run[1].tolist() for run in session.runs] == [[0.0], [1.0]]
