"""The description of a loop that a model's own code runs, independent of Keras and of the target.

`bilstm_exporter.ir.loop_lowering` finds such loops in a traced graph and describes each as a
`Loop`. A target writes it with its own operators (`Lowering.lower_loop`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf

from bilstm_exporter.ir.counts import Count

Tensor = Any


class UnsupportedLoopError(ValueError):
    """A loop has no exact form in a format.

    Args:
        layer: The layer that runs the loop, or "".
        reason: What was found, and what to do.
    """

    # Keras wraps an exception raised inside a layer's call unless it has this attribute.
    _keras_call_info_injected = True

    def __init__(self, layer: str, reason: str) -> None:
        self.layer, self.reason = layer, reason
        super().__init__(f"layer {layer!r} {reason}" if layer else f"a layer of the model {reason}")


@dataclass(frozen=True)
class WrittenList:
    """A list of tensors of equal shape to which each iteration of a loop writes one element.

    Iteration ``i`` writes position ``first + stride * i``.

    Attributes:
        dtype: The dtype of the elements.
        first: The position that the first iteration writes.
        stride: 1 or -1.
        size: The number of elements before the loop.
        grows: Whether the loop may write after the last element, which adds elements.
        before: The elements before the loop, ``[size, ...]``; None if all are zeros.
        iterations: An upper bound of the number of iterations, or None if none is known.
        filled: Whether the loop certainly writes every position once.
        element_shape: Returns the shape of an element; a size is an int or a scalar tensor. It may
            add operators to the graph.
        known_shape: The same, if that needs no iteration; else None.
    """

    dtype: Any
    first: Count
    stride: int
    size: Count
    grows: bool
    before: Tensor | None
    iterations: Count | None
    filled: bool
    element_shape: Callable[[], Sequence[Any]]
    known_shape: Callable[[], Sequence[Any] | None]

    def start(self, extra: int, capacity: Any) -> Tensor:
        """Return the elements before the loop, ``[extra + capacity + extra, ...]``."""
        if self.before is not None:
            missing = capacity - self.size.tensor if self.grows else 0
            rank = len(self.before.shape) - 1
            if not extra and not self.grows:
                return self.before
            return tf.pad(self.before, [[extra, missing + extra], *[[0, 0]] * rank])
        return tf.zeros([capacity + 2 * extra, *self.element_shape()], self.dtype)

    def placed(self, written: Tensor) -> Tensor:
        """Return the list after the loop, ``[size, ...]``.

        Args:
            written: The elements that the loop wrote, ``[iterations, ...]``, in its order.
        """
        if self.filled:
            written = self._with_sizes(written)
            return written if self.stride > 0 else tf.reverse(written, [0])
        if self.grows and self.size.static == 0 and self.first.static == 0 and self.stride > 0:
            return written
        count = tf.shape(written)[0]
        positions = self.first.tensor + self.stride * tf.range(count)
        capacity = self.size.tensor
        if self.grows:
            capacity = tf.maximum(capacity, self.first.tensor + count)
        start = self.start(0, capacity)
        if not written.shape[1:].is_fully_defined():
            written = tf.reshape(written, tf.concat([[count], tf.shape(start)[1:]], 0))
        return tf.tensor_scatter_nd_update(start, tf.expand_dims(positions, 1), written)

    def _with_sizes(self, written: Tensor) -> Tensor:
        """Give elements their sizes.

        Without an iteration, onnxruntime takes 0 for every size that is not fixed.
        """
        if self.size.static or written.shape[1:].is_fully_defined():
            return written
        shape = self.known_shape()
        if shape is None:
            return written
        sized = tf.reshape(written, [tf.shape(written)[0], *shape])
        sized.set_shape(written.shape)
        return sized


@dataclass(frozen=True)
class Loop:
    """A loop with carried tensors, and lists to which it writes one element per iteration.

    Attributes:
        layer: The name of the layer that runs it, or "".
        initial: The carried tensors before the first iteration.
        shapes: The shapes that the carried tensors have in every iteration.
        condition: Given the carried tensors, returns a scalar bool: whether to go on. It adds its
            operators to the current graph, and reads tensors from outside of the loop by capture.
        step: Given the carried tensors, returns the new ones and an element of each list; see
            ``condition``.
        lists: The lists.
        iterations: The number of iterations, if it is certain before the loop starts.
    """

    layer: str
    initial: Sequence[Tensor]
    shapes: Sequence[Any]
    condition: Callable[[Sequence[Tensor]], Tensor]
    step: Callable[[Sequence[Tensor]], tuple[list[Tensor], list[Tensor]]]
    lists: Sequence[WrittenList]
    iterations: Count | None

    def as_while(self) -> LoopResult:
        """Write a loop without lists as a loop of TensorFlow."""

        def step(*carried: Tensor) -> list[Tensor]:
            new, _ = self.step(carried)
            for tensor, shape in zip(new, self.shapes, strict=True):
                tensor.set_shape(shape)
            return new

        results = tf.while_loop(
            lambda *carried: self.condition(carried),
            step,
            list(self.initial),
            shape_invariants=[tf.TensorShape(shape) for shape in self.shapes],
        )
        return LoopResult(list(results), [])


@dataclass(frozen=True)
class LoopResult:
    """The outputs of a lowered loop.

    Attributes:
        carried: The carried tensors after the last iteration.
        lists: The elements of each list, ``[size, ...]``.
    """

    carried: list[Tensor]
    lists: list[Tensor]


class GraphCopier(Protocol):
    """Copies graphs into the current graph, without lists and with lowered loops."""

    def copy(self, graph: Any, known: dict[int, Any], outputs: Sequence[Any]) -> list[Any]:
        """Copy what computes ``outputs``; ``known`` has the copies of the inputs by their id."""
        ...

    def error(self, node: str, reason: str) -> UnsupportedLoopError:
        """Make an error about the layer of a node."""
        ...

    def layer_of(self, node: str) -> str:
        """Return the layer of a node, or ""."""
        ...

    def lower(self, loop: Loop) -> LoopResult:
        """Lower a loop."""
        ...
