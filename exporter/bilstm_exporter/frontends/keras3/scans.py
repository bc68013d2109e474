"""``keras.ops.scan`` and ``associative_scan`` for any length of the scanned axis.

Keras traces a scan of several tensors for a fixed length only. For an associative scan, it writes
the levels of its recursion for a fixed length. For a free one it calls the combining function in 48
nested branches, or fails. Here, a loop over the levels combines the same pairs, so that the results
round as in Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Tensor = Any


def scan_of_several(original: Any) -> Any:
    """Make ``keras.ops.scan`` read the elements of several tensors by their position."""

    def scan(  # noqa: PLR0913, PLR0917 - Keras's signature
        f: Callable[[Any, Any], Any],
        init: Any,
        xs: Any = None,
        length: int | None = None,
        reverse: bool = False,  # noqa: FBT001, FBT002
        unroll: Any = 1,
    ) -> Any:
        flat = [tf.convert_to_tensor(x) for x in tf.nest.flatten(xs)] if xs is not None else []
        if len(flat) < 2 or flat[0].shape[0] is not None:
            return original(f, init, xs, length, reverse, unroll)

        def step(carry: Any, position: Tensor) -> Any:
            elements = [tf.gather(x, position) for x in flat]
            return f(carry, tf.nest.pack_sequence_as(xs, elements))

        positions = tf.range(tf.shape(flat[0])[0])
        return original(step, init, positions, length, reverse, unroll)

    return scan


def associative_scan(
    f: Callable[[Any, Any], Any],
    elems: Any,
    reverse: bool = False,  # noqa: FBT001, FBT002 - Keras's signature
    axis: int = 0,
) -> Any:
    """Combine the elements up to each position of an axis.

    Args:
        f: Combines two structures like ``elems``; positions along the axis are independent.
        elems: Nested tensors with equal sizes of the axis.
        reverse: Whether to combine the elements from each position on, last first.
        axis: The axis.

    Returns:
        Tensors like ``elems``.
    """
    values = [tf.convert_to_tensor(tensor) for tensor in tf.nest.flatten(elems)]
    axes = [axis % len(tensor.shape) for tensor in values]

    def reversed_(values: Sequence[Tensor]) -> list[Tensor]:
        if not reverse:
            return list(values)
        return [tf.reverse(value, [own]) for value, own in zip(values, axes, strict=True)]

    def combined(values: Sequence[Tensor], first: Any, distance: Any) -> list[Tensor]:
        """Combine every second position, counted in ``distance``, with the one before it."""
        size = tf.shape(values[0])[axes[0]]
        positions = tf.range(first, size, 2 * distance)
        before, own = (
            tf.nest.pack_sequence_as(
                elems,
                [tf.gather(value, rows, axis=n) for value, n in zip(values, axes, strict=True)],
            )
            for rows in (positions - distance, positions)
        )
        # For every position, its place among those positions.
        offsets = tf.range(size) - first
        places = tf.maximum(offsets // (2 * distance), 0)
        chosen = tf.logical_and(offsets >= 0, offsets % (2 * distance) == 0)
        results = zip(values, tf.nest.flatten(f(before, own)), axes, strict=True)
        return [
            tf.where(
                tf.reshape(chosen, [-1, *[1] * (len(value.shape) - n - 1)]),
                tf.gather(result, places, axis=n),
                value,
            )
            for value, result, n in results
        ]

    results = reversed_(_prefixes(reversed_(values), axes[0], combined))
    for result, tensor in zip(results, values, strict=True):
        result.set_shape(tensor.shape)
    return tf.nest.pack_sequence_as(elems, results)


def _prefixes(
    values: list[Tensor], axis: int, combined: Callable[..., list[Tensor]]
) -> list[Tensor]:
    """Combine the elements up to each position, as a tree of pairs.

    First, the last position of every block of 2, 4, 8, ... gets the combination of its block. Then,
    for ever smaller blocks, the middle of every block but the first gets that of all elements up to
    it.

    Args:
        values: The elements.
        axis: The axis of the first tensor.
        combined: Given tensors, the first position and the distance, combines every second
            position with the one before it.
    """

    def up(distance: Any, *values: Tensor) -> list[Tensor]:
        return [2 * distance, *combined(values, 2 * distance - 1, distance)]

    def down(distance: Any, *values: Tensor) -> list[Tensor]:
        return [distance // 2, *combined(values, 3 * distance - 1, distance)]

    size = values[0].shape[axis]
    if size is not None:
        largest = 2 ** size.bit_length() // 4
        distance = 1
        while distance <= largest:
            distance, *values = up(distance, *values)
        distance = largest if 3 * largest <= size else largest // 2
        while distance:
            distance, *values = down(distance, *values)
        return values
    shapes = [tf.TensorShape([]), *(value.shape for value in values)]
    count = tf.shape(values[0])[axis]
    after, *values = tf.while_loop(
        lambda distance, *_: 2 * distance <= count,
        up,
        [tf.constant(1), *values],
        shape_invariants=shapes,
    )
    # With the largest distance, the middle of a second block is beyond the end if that is short.
    largest = after // 2
    first = tf.where(3 * largest <= count, largest, largest // 2)
    _, *values = tf.while_loop(
        lambda distance, *_: distance >= 1, down, [first, *values], shape_invariants=shapes
    )
    return values
