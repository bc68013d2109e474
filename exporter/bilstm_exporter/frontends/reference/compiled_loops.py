"""Runs the loop of a recurrent layer as a compiled function that is proven equal to the eager loop.

In an eager call, Keras loops over the steps in Python: a step takes milliseconds. The loop alone
can be traced once per layer, over free batch and time axes, while everything around it stays
eager.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import tensorflow as tf

# A loop is proven by two calls of different shapes, each of several steps.
_PROOFS: Final = 2
_MIN_STEPS: Final = 2
# The number of steps that a proof repeats. Every further step computes the same.
_PROOF_STEPS: Final = 32


@dataclass(frozen=True)
class LoopArguments:
    """What a loop over time takes.

    Attributes:
        sequences: A tensor ``[batch, time, ...]``.
        states: Nested tensors ``[batch, ...]``, without weights.
        mask: None, or a tensor ``[batch, time, ...]``.
        weights: Tensors of fixed shapes.
    """

    sequences: Any
    states: Any
    mask: Any = None
    weights: Sequence[Any] = ()

    def flat(self) -> list[Any]:
        """Return every tensor."""
        mask = [] if self.mask is None else [self.mask]
        tensors = [self.sequences, *mask, *tf.nest.flatten(self.states), *self.weights]
        return [tf.convert_to_tensor(tensor) for tensor in tensors]

    def specs(self) -> list[Any]:
        """Return the specification of every tensor, with free batch and time axes."""
        leading = 1 + (self.mask is not None)
        free = [2] * leading + [1] * len(tf.nest.flatten(self.states)) + [0] * len(self.weights)
        return [
            tf.TensorSpec(
                [None] * min(count, len(tensor.shape)) + tensor.shape[count:], tensor.dtype
            )
            for count, tensor in zip(free, self.flat(), strict=True)
        ]

    def replaced(self, flat: Sequence[Any]) -> LoopArguments:
        """Return these arguments with other tensors in the order of ``flat``."""
        remaining = list(flat)
        sequences = remaining.pop(0)
        mask = None if self.mask is None else remaining.pop(0)
        count = len(tf.nest.flatten(self.states))
        states = tf.nest.pack_sequence_as(self.states, remaining[:count])
        return LoopArguments(sequences, states, mask, remaining[count:])

    def is_consistent(self) -> bool:
        """Whether batch and time axes have one size: a compiled loop does not check that."""
        shape = self.sequences.shape
        mask = shape if self.mask is None else self.mask.shape
        states = [tf.convert_to_tensor(state).shape[:1] for state in tf.nest.flatten(self.states)]
        return bool(mask[:2] == shape[:2] and all(batch == shape[:1] for batch in states))

    def first_steps(self, steps: int) -> LoopArguments:
        """Return the arguments of a loop over the first steps."""
        mask = None if self.mask is None else self.mask[:, :steps]
        return LoopArguments(self.sequences[:, :steps], self.states, mask, self.weights)


Loop = Callable[[LoopArguments], Any]


@dataclass
class _Compiled:
    """One loop: its function, and the shapes of the calls in which it was equal."""

    function: Any = None
    proofs: set[tuple[int, ...]] = field(default_factory=set)
    differs: bool = False


class CompiledLoops:
    """The compiled loops of one model.

    Args:
        context: Makes a context in which the model runs its loops through the given object.

    Attributes:
        seconds: The time that tracing loops and proving them has taken.
    """

    def __init__(
        self, context: Callable[[CompiledLoops], contextlib.AbstractContextManager[None]]
    ) -> None:
        self._context = context
        self.seconds = 0.0
        self._loops: dict[Hashable, _Compiled] = {}
        self._is_inside = False

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the model runs its loops through this object."""
        return self._context(self)

    def run(self, key: Hashable, loop: Loop, arguments: LoopArguments) -> Any:
        """Run a loop: compiled if that is proven equal, else eagerly.

        Args:
            key: Identifies what ``loop`` computes from its arguments.
            loop: Computes nested tensors from the arguments.
            arguments: Its arguments.

        Returns:
            What ``loop`` returns.
        """
        if self._is_inside or not tf.executing_eagerly() or not arguments.is_consistent():
            return loop(arguments)
        specs = tuple(arguments.specs())
        compiled = self._loops.setdefault((key, specs), _Compiled())
        self._is_inside = True  # an LSTM's loop may call that of its base class
        try:
            if not compiled.differs and len(compiled.proofs) < _PROOFS:
                start = time.perf_counter()
                _prove(compiled, loop, arguments)
                self.seconds += time.perf_counter() - start
            if compiled.differs or not compiled.proofs:
                return loop(arguments)
            return _called(compiled, loop, arguments)
        finally:
            self._is_inside = False


def _prove(compiled: _Compiled, loop: Loop, arguments: LoopArguments) -> None:
    """Run the first steps of a loop both ways, unless a call of this shape did so."""
    few = arguments.first_steps(_PROOF_STEPS)
    shape = tuple(few.sequences.shape)
    if shape[1] < _MIN_STEPS or shape in compiled.proofs:
        return
    wanted = tf.nest.flatten(loop(few))
    try:
        found = tf.nest.flatten(_called(compiled, loop, few))
    except Exception:  # noqa: BLE001 - a cell of the user's may raise anything while traced
        compiled.differs = True
        return
    if len(found) == len(wanted) and all(map(_has_same_bits, found, wanted)):
        compiled.proofs.add(shape)
    else:
        compiled.differs = True


def _called(compiled: _Compiled, loop: Loop, arguments: LoopArguments) -> Any:
    if compiled.function is None:
        # A function that starts with the first call would keep its tensors alive.
        places = arguments.specs()
        empty = LoopArguments(
            None,
            tf.nest.map_structure(lambda _: None, arguments.states),
            None if arguments.mask is None else (),
            [None] * len(arguments.weights),
        )

        def function(*tensors: Any) -> Any:
            return loop(empty.replaced(tensors))

        compiled.function = tf.function(function, autograph=False).get_concrete_function(*places)
    with without_graph_optimizer():
        return compiled.function(*arguments.flat())


def _has_same_bits(one: Any, other: Any) -> bool:
    first, second = np.asarray(one), np.asarray(other)
    same = first.dtype == second.dtype and first.shape == second.shape
    return same and first.tobytes() == second.tobytes()


@contextlib.contextmanager
def without_graph_optimizer() -> Iterator[None]:
    """Turn off TensorFlow's graph optimizer, whose operators may round differently."""
    options = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        restored = options.get("disable_meta_optimizer", False)
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": restored})
