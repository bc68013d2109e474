"""Operators that see a few neighbouring steps: convolutions, pooling, padding, in a stream graph.

A window that reaches before the chunk reads a state with the last steps of the chunk before. One
that reaches behind it reads the look-ahead, behind which there are zeros, as behind the end of a
sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from bilstm_exporter.errors import StreamingError
from bilstm_exporter.streaming.values import Carried, Value

Tensor = Any


def time_slice(tensor: Tensor, axis: int, begin: int | None, end: int | None) -> Tensor:
    """Slice an axis by constants, so that LiteRT knows the shape before it runs."""
    if begin is None and end is None:
        return tensor
    return tensor[(*[slice(None)] * axis, slice(begin, end))]


def joined(axis: int, *parts: Tensor) -> Tensor:
    """Concatenate along an axis; Nones are left out."""
    present = [part for part in parts if part is not None]
    return present[0] if len(present) == 1 else tf.concat(present, axis)


@dataclass(frozen=True)
class Window:
    """A window that slides over time.

    Attributes:
        length: The number of steps it spans.
        stride: By how many steps it moves.
        same: Whether the sequence is padded so that its length, divided by the stride, stays.
        fill: The value of that padding.
        behind: How many of its steps come after the one that it stands for, if that is known: they
            use up padding at the end of the sequence first.
    """

    length: int
    stride: int
    same: bool
    fill: float
    behind: int = 0


def padded(  # noqa: PLR0913, PLR0917 - what padding needs
    value: Value, before: int, after: int, fill: float, carried: Carried, label: str
) -> Value:
    """Pad the start and the end of a sequence.

    Args:
        value: A value of steps.
        before: Steps before the first one.
        after: Steps behind the last one.
        fill: Their value.
        carried: The states.
        label: The layer, for the names of states.
    """
    axis = value.time_axis
    shape = list(value.chunk.shape)
    chunk, ahead = value.chunk, value.ahead
    if before:
        shape[axis] = before
        state = carried.take(f"{label}_context", shape, chunk.dtype)
        tail = state.before
        if fill:
            tail = tf.where(carried.started, tail, tf.fill(shape, tf.cast(fill, chunk.dtype)))
        chunk = tf.concat([tail, chunk], axis)
        # The next chunk starts where this one would end without the steps beyond its own.
        end = -max(value.over, 0) or None
        carried.put(state, time_slice(chunk, axis, -(before + max(value.over, 0)), end))
    if after and ahead is not None:
        shape[axis] = after
        outside = tf.fill(shape, tf.cast(fill, ahead.dtype))
        nothing = tf.zeros_like(ahead) + tf.cast(fill, ahead.dtype)
        ahead = tf.concat([carried.ahead_or(ahead, nothing), outside], axis)
    return replace(
        value,
        chunk=chunk,
        ahead=ahead,
        over=value.over + before,
        left=value.left + before,
        right=value.right + after,
        extra=value.extra + after,
    )


def slide(  # noqa: PLR0913, PLR0917 - what a window needs
    value: Value,
    window: Window,
    apply: Callable[[Tensor], Tensor],
    carried: Carried,
    layer: str,
    label: str,
) -> Value:
    """Slide a window over a sequence.

    Args:
        value: A value of steps.
        window: The window.
        apply: The operator on the whole windows in one part, without padding.
        carried: The states.
        layer: The layer, for messages.
        label: The layer, for the names of states.

    Raises:
        StreamingError: How the windows lie depends on the length of the sequence.
    """
    before, after = _same_padding(window, layer) if window.same else (0, 0)
    if window.same:
        value = padded(value, before, after, window.fill, carried, label)
    axis, step = value.time_axis, window.stride
    if step == 1:
        context = window.length - 1
        from_left = min(context - min(window.behind, value.right), value.left)
        from_right = min(context - from_left, value.right)
        over = value.over - (context - from_right)
        behind = context - from_right
        extra = value.extra - from_right
        left, right = value.left - from_left, value.right - from_right
    elif window.same:
        if (value.over - before) % step:
            message = f"{layer} pools steps that another layer has shifted; {_WHOLE}"
            raise StreamingError(message)
        from_right, behind = after, before
        over, extra, left, right = (value.over - before) // step, 0, 0, 0
        if value.extra != from_right:
            message = f"{layer} pools steps behind the end of the sequence; {_WHOLE}"
            raise StreamingError(message)
    else:
        over = (value.over - window.length + step) // step
        behind, from_right = value.over - over * step, 0
        extra = (behind + value.extra - window.length + step) // step
        left, right = 0, 0
        if behind < 0:
            message = f"{layer} skips steps between its windows; {_WHOLE}"
            raise StreamingError(message)
    ahead = value.ahead
    borrowed = None
    if from_right and ahead is not None:
        borrowed = time_slice(ahead, axis, None, from_right)
    chunk = apply(joined(axis, value.chunk, borrowed))
    if ahead is not None:
        context_steps = time_slice(value.chunk, axis, -behind, None) if behind else None
        ahead = apply(joined(axis, context_steps, ahead))
    return replace(
        value, chunk=chunk, ahead=ahead, over=over, rate=value.rate * step, left=left,
        right=right, extra=extra, reach=value.reach + from_right * value.rate,
    )  # fmt: skip


_WHOLE = "it needs the whole sequence: leave it out, or export without --streaming"


def _same_padding(window: Window, layer: str) -> tuple[int, int]:
    """Return the padding before and after a sequence, as TensorFlow's "SAME" does it.

    https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2
    """
    if window.stride == 1:
        total = window.length - 1
        return total // 2, total - total // 2
    # What completes the last window, for each rest of the length by the stride.
    totals = [max(window.length - (rest or window.stride), 0) for rest in range(window.stride)]
    before = max(totals) // 2
    if any(total // 2 != before for total in totals):
        message = (
            f"{layer} moves its window by {window.stride} steps with padding 'same', which begins "
            f"at a step that depends on the length of the sequence; use padding 'valid' or "
            f"'causal', or a window of even length that moves by 2, or export without --streaming"
        )
        raise StreamingError(message)
    return before, window.length - 1 - before
