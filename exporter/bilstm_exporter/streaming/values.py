"""The tensors of a stream graph: two parts of a sequence, and what is carried between chunks.

A stream graph computes the outputs for one chunk of a sequence. Each tensor with a time axis has
two parts: the steps of the chunk, and the steps of the look-ahead after it. Both are computed by
the same operators. What a later chunk needs of this one is a state.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

Tensor = Any


class Kind(enum.Enum):
    """What a tensor of a stream graph is."""

    STATIC = enum.auto()
    """The same in every chunk."""
    STEPS = enum.auto()
    """Has a time axis."""
    PAIRS = enum.auto()
    """Relates each step to each step of the window: the chunk and the look-ahead. Its first axis of
    unknown size is that of the steps, its second one that of the window."""
    SIZES = enum.auto()
    """Computed from shapes that contain the number of steps."""
    RUNNING = enum.auto()
    """Summarizes all steps so far, such as the last output of a recurrence, or a mean."""


class Deviation(enum.Enum):
    """What steps stand for whose mean over all steps is known at the end only."""

    FROM_MEAN = enum.auto()
    """Their differences from the mean."""
    SQUARED = enum.auto()
    """The squares of these differences, of which the mean is the variance."""


@dataclass(frozen=True)
class Weights:
    """By what the steps of a value must still be divided: weights of attention are normalized late.

    Attributes:
        divisor: The sum of all weights so far, a scalar tensor; if several softmaxes weigh the
            steps, a tensor that broadcasts to them, with size 1 for time.
        rescale: What sums of earlier chunks must be multiplied by, a tensor of the same shape; None
            for 1.
    """

    divisor: Tensor
    rescale: Tensor = None


@dataclass(frozen=True)
class Value:
    """One tensor of the model in a stream graph.

    If n is the number of steps by which the stream advances in a chunk, divided by ``rate``, then
    the first part has ``n + over`` steps and starts at the chunk's first step.

    Attributes:
        kind: What it is.
        chunk: The tensor for the chunk. Its only axis of unknown size is time.
        ahead: The tensor for the look-ahead, directly after ``chunk``; None without one.
        over: How many steps further the first part reaches than the stream advances. Negative in
            a first analysis, which shows how many more steps the inputs must have.
        rate: Input steps per step of this tensor.
        left: How many steps of padding at the start no later window has covered yet.
        right: The same for padding at the end.
        extra: How many steps longer the look-ahead is than that of the inputs.
        dilation: The distance of the steps that the next window sees, if it is not that of its
            operator: TensorFlow writes a dilated convolution between SpaceToBatchND and
            BatchToSpaceND, which a stream graph leaves out.
        reach: How many input steps after a step the windows of its value reach.
        weights: If not None, the steps must still be divided by sums over all steps.
        deviation: If not None, what the steps stand for.
        is_softmax: Of pairs, whether they are 0 for steps that the look-ahead does not hold.
        of_pairs: Of sizes, whether they are those of pairs.
    """

    kind: Kind
    chunk: Tensor
    ahead: Tensor = None
    over: int = 0
    rate: int = 1
    left: int = 0
    right: int = 0
    extra: int = 0
    reach: int = 0
    dilation: int = 1
    weights: Weights | None = None
    deviation: Deviation | None = None
    is_softmax: bool = False
    of_pairs: bool = False

    @property
    def time_axis(self) -> int:
        """The position of the time axis."""
        return list(self.chunk.shape).index(None)

    @property
    def place(self) -> tuple[int, int, int]:
        """Values of one place have the same number of steps at the same times."""
        return self.over, self.rate, self.extra


def unknown_axes(tensor: Tensor) -> int:
    """Return the number of axes of unknown size; -1 for an unknown rank."""
    if tensor.shape.rank is None:
        return -1
    return list(tensor.shape).count(None)


@dataclass
class CarriedState:
    """A state that one chunk hands to the next; it starts at zeros.

    Attributes:
        name: Its name in the artifact.
        shape: Its shape; the first axis is the batch of one sequence.
        dtype: A numpy dtype name.
        before: The tensor at the start of the chunk.
        after: The tensor at its end.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    before: Tensor
    after: Tensor = None


@dataclass
class Carried:
    """The states of a stream graph, in the order in which they are needed.

    The first trace finds their shapes; the second has them as inputs.

    Attributes:
        inputs: The tensors of the states; in a first trace there are none, and zeros replace them.
        unread: The names of states that no output depends on; they are left out.
        one_step: Whether the chunk is one step. Time still has an unknown size while the graph is
            written, so that it is found.
        has_ahead: A scalar bool tensor: whether the look-ahead holds steps of the sequence. None
            if the graph has no look-ahead.
        goes_on: A scalar bool tensor: whether the sequence goes on after the look-ahead. None if
            backward recurrences always start as at the end of the sequence.
        starts: The states with which each backward recurrence starts where the sequence goes on,
            in the order in which the recurrences are written.
        states: The states.
        attending: The layers in which steps attend to the steps of the window only.
        boundaries: The states of each backward recurrence between the look-ahead and the chunk.
    """

    inputs: Sequence[Tensor]
    has_ahead: Tensor = None
    unread: frozenset[str] = frozenset()
    one_step: bool = False
    goes_on: Tensor = None
    starts: Sequence[Sequence[np.ndarray]] = ()
    states: list[CarriedState] = field(default_factory=list)
    attending: list[str] = field(default_factory=list)
    boundaries: list[list[Tensor]] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)
    _started: Tensor = None

    def take(self, label: str, shape: Sequence[int], dtype: Any) -> CarriedState:
        """Return a new state at the start of the chunk.

        Args:
            label: What it holds, for its name.
            shape: The shape in which it is used.
            dtype: Its TensorFlow dtype, which is stored as float32 for a bool.
        """
        shape = tuple(int(size) for size in shape)
        stored = shape if shape[:1] == (1,) else (1, *shape)
        dtype = tf.as_dtype(dtype)
        kept = tf.float32 if dtype == tf.bool else dtype
        name, count = label, 1
        while name in self._names:
            count += 1
            name = f"{label}_{count}"
        self._names.add(name)
        number, is_read = len(self.states), name not in self.unread
        if is_read and number < len(self.inputs):
            before = self.inputs[number]
        else:
            before = tf.zeros(stored, kept)
        if stored != shape:
            before = tf.reshape(before, shape)
        if dtype == tf.bool:
            before = before > 0.5
        state = CarriedState(name, stored, kept.name, before)
        if is_read:
            self.states.append(state)
        return state

    def put(self, state: CarriedState, after: Tensor) -> None:
        """Set a state at the end of the chunk."""
        after = tf.cast(after, state.dtype)
        if tuple(after.shape) != state.shape:
            after = tf.reshape(after, state.shape)
        state.after = after

    @property
    def started(self) -> Tensor:
        """Whether this is not the first chunk, a scalar bool tensor."""
        if self._started is None:
            state = self.take("started", [1], tf.float32)
            self._started = tf.reshape(state.before, []) > 0.5
            self.put(state, tf.ones([1]))
        return self._started

    def after_first(self, label: str, first: Tensor, later: Callable[[Tensor], Tensor]) -> Tensor:
        """Return a value of its own in the first chunk, and one made of the previous one later.

        Args:
            label: What it is, for the name of the state that keeps it.
            first: The value in the first chunk.
            later: Makes the value of any other chunk from that of the chunk before.
        """
        state = self.take(label, first.shape, first.dtype)
        value = choose(self.started, later(state.before), first)
        self.put(state, value)
        return value

    def backward_starts(self, own: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the states of the next backward recurrence at the end of the look-ahead.

        Args:
            own: Its states at the end of the sequence; None for zeros.
        """
        if self.goes_on is None:
            return list(own)
        values = [tf.constant(value) for value in self.starts[len(self.boundaries)]]
        return [
            choose(self.goes_on, value, tf.zeros_like(value) if end is None else end)
            for value, end in zip(values, own, strict=True)
        ]

    def ahead_or(self, ahead: Tensor, otherwise: Tensor) -> Tensor:
        """Return the first tensor if there is a look-ahead, else the second one."""
        return choose(self.has_ahead, ahead, otherwise)


def choose(condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Choose between two tensors of one shape by a scalar bool tensor."""
    if one.dtype == tf.bool:
        chosen, otherwise = tf.logical_and(one, condition), tf.logical_not(condition)
        return tf.logical_or(chosen, tf.logical_and(other, otherwise))
    return tf.where(condition, one, other)


def static_number(tensor: Tensor) -> np.ndarray | None:
    """Return the value of a tensor that does not depend on any input, or None."""
    value = tf.get_static_value(tensor)
    return None if value is None else np.asarray(value)
