"""The shapes for which LiteRT plans memory, and when an interpreter is replaced."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bilstm_runtime.backends.litert import LitertSession, _output
from bilstm_runtime.errors import BackendRunError

RUN = "run"
SMALLEST = (1, 1)


class Interpreter:
    """Records what is done with it, and returns its input."""

    array = np.zeros(SMALLEST)

    def __init__(self, done, *, max_numbers, is_planned_whole, failures):
        self.done, self.max_numbers, self.failures = done, max_numbers, failures
        self.is_planned_whole = is_planned_whole

    def resize_tensor_input(self, _, shape):
        self.shape = shape

    def allocate_tensors(self):
        if np.prod(self.shape) > self.max_numbers:
            message = f"no {self.shape}"
            raise RuntimeError(message)
        self.done.append(self.shape)

    def set_tensor(self, _, array):
        self.array = array

    def invoke(self):
        self.done.append(RUN)
        if self.failures:
            raise self.failures.pop()

    def get_tensor(self, _):
        if not self.is_planned_whole and RUN not in self.done:
            message = "Tensor data is null."
            raise ValueError(message)
        return self.array


class Planned:
    """A session, and what it does with each of its interpreters."""

    def __init__(self, *, max_numbers=1000, is_planned_whole=True):
        self.done = []
        self.failures = []
        artifact = SimpleNamespace(reset_between_runs=False, file="model.tflite")

        def create():
            self.done.append([])
            return Interpreter(
                self.done[-1],
                max_numbers=max_numbers,
                is_planned_whole=is_planned_whole,
                failures=self.failures,
            )

        self.session = LitertSession(create, artifact, [0], [0], ([None], [None]))
        self.session.prepare([SMALLEST])

    def run(self, *shapes):
        for shape in shapes:
            (output,) = self.session.run([np.zeros(shape, np.float32)])
            assert output.shape == shape


class Described(Interpreter):
    """Has a constant of one MB, and numbers and flags for each element of its input."""

    def get_tensor_details(self):
        constant = {"shape": [1000, 250], "shape_signature": [1000, 250], "dtype": np.float32}
        flags = {"shape": self.shape, "shape_signature": [-1, -1], "dtype": np.bool_}
        return [constant, flags, flags | {"dtype": np.float32}]


def test_the_bytes_of_a_row_are_those_of_the_tensors_that_grow_with_the_batch():
    artifact = SimpleNamespace(reset_between_runs=False, file="model.tflite")

    def create():
        return Described([], max_numbers=1000, is_planned_whole=True, failures=[])

    session = LitertSession(create, artifact, [0], [0], ([None], [None]))
    assert session.row_bytes([(16, 30)]) == 30 * (4 + 1)
    with pytest.raises(BackendRunError, match="inputs of shape"):
        session.row_bytes([(16, 100)])


CASES = {
    "smaller ones need no other": (
        [(1, 9), (1, 9), (1, 4), (1, 9)],
        [[SMALLEST, (1, 9), RUN, RUN, (1, 4), RUN, (1, 9), RUN]],
    ),
    "larger ones do": (
        [(1, 9), (1, 12), (1, 9)],
        [[SMALLEST, (1, 9), RUN], [(1, 12), RUN, (1, 9), RUN]],
    ),
    "the new one has room for those of before": (
        [(2, 6), (3, 5), (2, 6)],
        [[SMALLEST, (2, 6), RUN], [(3, 6), (3, 5), RUN, (2, 6), RUN]],
    ),
    "but not for far more": (
        [(1, 20), (20, 1), (1, 20)],
        [[SMALLEST, (1, 20), RUN], [(20, 1), RUN], [(1, 20), RUN]],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_changes_of_shape(name):
    shapes, done = CASES[name]
    planned = Planned()
    planned.run(*shapes)
    assert planned.done == done


def test_shapes_that_do_not_go_together():
    planned = Planned(max_numbers=15)
    planned.run((3, 5), (4, 2), (2, 4))
    assert planned.done[1:] == [[], [(4, 2), RUN], [], [(2, 4), RUN]]


def test_shapes_that_are_known_only_as_it_runs():
    planned = Planned(is_planned_whole=False)
    planned.run((1, 9), (1, 9), (1, 4))
    assert planned.done == [[SMALLEST, (1, 9), RUN, RUN], [(1, 4), RUN]]


def test_one_that_failed_is_replaced():
    planned = Planned()
    planned.run((2, 3))
    planned.failures.append(RuntimeError("overheated"))
    with pytest.raises(BackendRunError, match="overheated"):
        planned.run((2, 3))
    planned.run((2, 2))
    assert planned.done == [[SMALLEST, (2, 3), RUN, RUN], [(2, 3), (2, 2), RUN]]


def test_shapes_that_cannot_be_planned():
    planned = Planned(max_numbers=15)
    with pytest.raises(BackendRunError, match="no \\(4, 4\\)"):
        planned.run((4, 4))
    planned.run((2, 2))


class WithoutElements:
    """LiteRT's interpreter refuses to return an empty tensor."""

    def __init__(self, shape):
        self.shape = shape

    def get_tensor(self, _):
        message = "Invalid tensor size."
        raise ValueError(message)

    def get_output_details(self):
        return [{"index": 7, "shape": np.array(self.shape), "dtype": np.int64}]


def test_an_output_may_be_empty():
    """As the texts of recordings in which nothing was said."""
    found = _output(WithoutElements((2, 0)), 7)
    assert found.shape == (2, 0)
    assert found.dtype == np.int64
    with pytest.raises(ValueError, match="Invalid tensor size"):
        _output(WithoutElements((2, 3)), 7)
