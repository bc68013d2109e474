"""A loop of a layer's own code, over builtin operators.

LiteRT copies every variable of a loop in every iteration. So the elements that iterations write to
a list are collected in two levels: an inner loop fills the elements of a chunk, and an outer loop
puts the chunk in its place. Both test the condition of the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from bilstm_exporter.ir.loops import Loop, LoopResult, UnsupportedLoopError, WrittenList
from bilstm_exporter.targets.tflite.tensor_ops import loop_results, write_rows

# With c steps per chunk, t steps copy about t * (c + t / c) elements: for 100 to 1,000 steps, few
# more than with the best c.
_CHUNK = 20
_MAX_ONE_LEVEL = 40
_UNBOUNDED = (
    "appends to a TensorArray without a fixed size in a loop whose number of iterations is not "
    "known before it starts; TFLite needs a limit: create the TensorArray with a size, give the "
    "loop maximum_iterations, or export with --formats onnx"
)


def lower_loop(loop: Loop) -> LoopResult:
    """Write a loop into the graph being traced; see `Lowering.lower_loop`.

    Raises:
        UnsupportedLoopError: A list grows, and no limit of its size is known.
    """
    loop = _with_separate_variables(loop)
    if not loop.lists:
        return loop.as_while()
    count, shapes = len(loop.initial), [tf.TensorShape(shape) for shape in loop.shapes]
    capacities = [_capacity(loop, one) for one in loop.lists]
    one_level = all(isinstance(size, int) and size <= _MAX_ONE_LEVEL for size in capacities)
    chunk = 0 if one_level else _CHUNK
    buffers = [
        one.start(chunk, capacity) for one, capacity in zip(loop.lists, capacities, strict=True)
    ]
    variables = [tf.constant(0), *loop.initial, *buffers]
    shapes = [tf.TensorShape([]), *shapes, *(buffer.shape for buffer in buffers)]

    def goes_on(_done: Any, *variables: Any) -> Any:
        return loop.condition(variables[:count])

    def steps(done: Any, *variables: Any) -> list[Any]:
        carried, buffers = list(variables[:count]), list(variables[count:])
        carried, items = loop.step(carried)
        buffers = [
            write_rows(buffer, tf.expand_dims(item, 0), one.first.tensor + one.stride * done)
            for one, buffer, item in zip(loop.lists, buffers, items, strict=True)
        ]
        return _shaped([done + 1, *carried, *buffers], shapes)

    def chunks(done: Any, *variables: Any) -> list[Any]:
        carried, buffers = list(variables[:count]), list(variables[count:])
        # A chunk that is filled backwards ends at its first element.
        starts = [
            one.first.tensor + one.stride * done + (chunk if one.stride > 0 else 1)
            for one in loop.lists
        ]
        parts = [
            tf.gather(buffer, start + tf.range(chunk))
            for buffer, start in zip(buffers, starts, strict=True)
        ]
        inner_shapes = [tf.TensorShape([]), *shapes[1 : count + 1], *(p.shape for p in parts)]

        def step(position: Any, *variables: Any) -> list[Any]:
            carried, items = loop.step(list(variables[:count]))
            parts = [
                write_rows(
                    part,
                    tf.expand_dims(item, 0),
                    position if one.stride > 0 else chunk - 1 - position,
                )
                for one, part, item in zip(loop.lists, variables[count:], items, strict=True)
            ]
            return _shaped([position + 1, *carried, *parts], inner_shapes)

        written, *results = tf.while_loop(
            lambda position, *variables: tf.logical_and(
                position < chunk, loop.condition(variables[:count])
            ),
            step,
            [tf.constant(0), *carried, *parts],
            shape_invariants=inner_shapes,
        )
        buffers = [
            write_rows(buffer, part, start)
            for buffer, part, start in zip(buffers, results[count:], starts, strict=True)
        ]
        return _shaped([done + written, *results[:count], *buffers], shapes)

    done, *results = tf.while_loop(
        goes_on, chunks if chunk else steps, variables, shape_invariants=shapes
    )
    lists = [
        _whole(one, buffer, chunk, capacity, done)
        for one, buffer, capacity in zip(loop.lists, results[count:], capacities, strict=True)
    ]
    return LoopResult(results[:count], lists)


def _with_separate_variables(loop: Loop) -> Loop:
    def step(tensors: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        carried, items = loop.step(tensors)
        return loop_results(carried, tensors), items

    return replace(loop, step=step)


def _shaped(tensors: Sequence[Any], shapes: Sequence[Any]) -> list[Any]:
    """The tensors with the shapes of the loop variables, as far as these are known."""
    tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
    for tensor, shape in zip(tensors, shapes, strict=True):
        tensor.set_shape(shape)
    return tensors


def _capacity(loop: Loop, one: WrittenList) -> Any:
    """The largest number of elements that a list can have, an int or a scalar tensor."""
    if not one.grows:
        return one.size.tensor if one.size.static is None else one.size.static
    if one.iterations is None or one.stride < 0:
        raise UnsupportedLoopError(loop.layer, _UNBOUNDED)
    if None not in {one.iterations.static, one.first.static, one.size.static}:
        return max(one.size.static or 0, (one.first.static or 0) + (one.iterations.static or 0))
    return tf.maximum(one.size.tensor, one.first.tensor + one.iterations.tensor)


def _whole(one: WrittenList, buffer: Any, chunk: int, capacity: Any, done: Any) -> Any:
    """The list ``[size, ...]`` in its buffer."""
    if one.grows:
        end = chunk + tf.maximum(one.size.tensor, one.first.tensor + done)
        return buffer[chunk:end]
    if not chunk:
        return buffer
    if isinstance(capacity, int):
        return buffer[chunk : chunk + capacity]
    return buffer[chunk:-chunk]
