"""For which shapes the memory of a LiteRT interpreter is planned, and when a new one is needed.

All parts of a file that XNNPACK runs share a workspace. When that has to grow, the parts that have
run are set up again, with pointers of before; where such a pointer into memory that was given back
happens to be where a copy (of a split, of a concatenation) goes to, XNNPACK takes the copy for done
and leaves it out of the next run (`initialize_workspace_values` and `setup_unary_elementwise_nc` of
XNNPACK, as in LiteRT 2.3). Up to one in a hundred changes of shape gave a wrong answer so.

An interpreter planned for the largest shapes before its first run has a workspace that never grows.
Where LiteRT knows a shape only as it runs, as in attention, nothing can be planned for, and every
change of shape takes a new interpreter.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Shapes: TypeAlias = list[tuple[int, ...]]
"""One an input."""

ERRORS: Final = (RuntimeError, ValueError, TypeError)
"""What an interpreter raises."""

MOST_ROOM: Final = 2
"""Times as many numbers as the larger of two inputs, for which memory is planned at most."""


class PlannedInterpreter:
    """One interpreter at a time, whose workspace never grows after its first run."""

    def __init__(
        self, create: Callable[[], Any], inputs: Sequence[int], outputs: Sequence[int]
    ) -> None:
        """Nothing is created yet.

        Args:
            create: Creates an interpreter.
            inputs: Tensor indices, in the order of the shapes.
            outputs: Tensor indices.
        """
        self._create = create
        self._inputs = inputs
        self._outputs = outputs
        self._interpreter: Any = None
        self._shapes: Shapes | None = None
        self._largest: Shapes = []
        self._is_planned_whole = False
        self._has_run = False

    def prepare(self, shapes: Shapes) -> Any:
        """The interpreter, ready for inputs of these shapes; raises `ERRORS`."""
        if shapes != self._shapes:
            self._shapes = None
            has_room = self._is_planned_whole and _hold(self._largest, shapes)
            if not self._has_run or not has_room:
                self._make_room(shapes)
            self._plan(shapes)
        return self._interpreter

    def invoke(self) -> None:
        """Run what is prepared."""
        self._has_run = True
        self._interpreter.invoke()

    def drop(self) -> None:
        """Give the interpreter up: a new one is prepared next."""
        self._interpreter = self._shapes = None
        self._has_run = False

    def _make_room(self, shapes: Shapes) -> None:
        """Plan an interpreter that has not run for these shapes and for those of before."""
        if self._has_run:
            self.drop()  # its memory first
        self._largest = _together(self._largest, shapes) if self._is_planned_whole else shapes
        try:
            self._plan(self._largest)
        except ERRORS:
            # Not every model takes the longest of every axis at once.
            self.drop()
            self._largest = shapes
            self._plan(shapes)
        self._is_planned_whole = self._are_outputs_planned()

    def _are_outputs_planned(self) -> bool:
        """Whether LiteRT has given memory to all outputs, which it does last, before any run."""
        try:
            for index in self._outputs:
                self._interpreter.get_tensor(index)
        except ValueError:
            return False
        return True

    def _plan(self, shapes: Shapes) -> None:
        if shapes == self._shapes:
            return
        if self._interpreter is None:
            self._interpreter = self._create()
        for index, shape in zip(self._inputs, shapes, strict=True):
            self._interpreter.resize_tensor_input(index, shape)
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def _hold(largest: Shapes, shapes: Shapes) -> bool:
    """Whether no axis is longer than that of the largest shapes."""
    return all(
        size <= most
        for shape, limits in zip(shapes, largest, strict=True)
        for size, most in zip(shape, limits, strict=True)
    )


def _together(before: Shapes, shapes: Shapes) -> Shapes:
    """The smallest shapes that hold both; those asked for where that is far more than either."""
    pairs = list(zip(before, shapes, strict=True))
    both = [tuple(map(max, one, other)) for one, other in pairs]
    most = max(_numbers(before), _numbers(shapes))
    return both if _numbers(both) <= MOST_ROOM * most else shapes


def _numbers(shapes: Shapes) -> int:
    return sum(map(math.prod, shapes))
