"""Positions of steps: numbers from the start of the sequence, and rows of tables by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from bilstm_exporter.streaming.nodes import Node
from bilstm_exporter.streaming.values import Carried, Kind, Value, static_number
from bilstm_exporter.streaming.windows import time_slice

Tensor = Any

_COPIES = frozenset({"Cast", "Identity"})


def numbered(node: Node, inputs: Sequence[Value], carried: Carried) -> Value:
    """Write a range over all steps: the numbers from the start of the stream.

    Raises:
        StreamingError: It does not count each step from 0.
    """
    start, step = static_number(inputs[0].chunk), static_number(inputs[-1].chunk)
    is_plain = node.type == "Range" and start == 0 and step == 1
    if not is_plain or not _is_length(node.operation.inputs[1]):
        node.refuse("numbers the steps of the sequence, other than 0, 1, 2, ...")
    return _positions(node, inputs[1], node.operation.outputs[0].dtype, carried)


def rows_of(node: Node, inputs: Sequence[Value], carried: Carried) -> Value:
    """Return the rows of a table for the steps of each part, where a slice takes the first ones.

    Raises:
        StreamingError: The slice does not begin with the first row, or not one row for each step.
    """
    table, begin, end = inputs[:3]
    begins = static_number(begin.chunk)
    ends = [_element(node.operation.inputs[2], n) for n in range(int(end.chunk.shape[0]))]
    items = [n for n, one in enumerate(ends) if one is not None and _is_length(one)]
    if begins is None or len(items) != 1:
        node.refuse("takes parts of a table that depend on the length of the sequence")
    (item,) = items
    axis = item
    if node.type == "StridedSlice":
        masks = {
            name: int(node.operation.get_attr(f"{name}_mask"))
            for name in ("begin", "ellipsis", "new_axis")
        }
        is_first = bool(masks["begin"] >> item & 1) or begins[item] == 0
        is_first = is_first and not masks["ellipsis"]
        axis -= (masks["new_axis"] & ((1 << item) - 1)).bit_count()
    else:
        is_first = begins[item] == 0
    if not is_first:
        node.refuse("takes parts of a table that depend on the length of the sequence")
    lengths = replace(
        end, chunk=end.chunk[item], ahead=None if end.ahead is None else end.ahead[item]
    )
    numbers = _positions(node, lengths, tf.int32, carried)
    parts = [
        None if part is None else tf.gather(table.chunk, part, axis=axis)
        for part in (numbers.chunk, numbers.ahead)
    ]
    return replace(numbers, chunk=parts[0], ahead=parts[1])


def _positions(node: Node, sizes: Value, dtype: Any, carried: Carried) -> Value:
    """Return the position of each step, ``[steps]``."""
    state = carried.take(f"{node.label}_position", [1], tf.int32)
    chunk = tf.range(tf.cast(sizes.chunk, tf.int32)) + state.before
    carried.put(state, time_slice(chunk, 0, -1, None) + 1 - max(sizes.over, 0))
    ahead = None
    if sizes.ahead is not None:
        ahead = tf.range(tf.cast(sizes.ahead, tf.int32)) + time_slice(chunk, 0, -1, None) + 1
        ahead = tf.cast(ahead, dtype)
    return replace(sizes, kind=Kind.STEPS, chunk=tf.cast(chunk, dtype), ahead=ahead)


def _element(vector: Tensor, number: int) -> Tensor | None:
    """Return the tensor that is one element of a vector; None if it is not made of tensors."""
    operation = vector.op
    if operation.type == "Pack":
        return operation.inputs[number]
    if operation.type == "GatherV2":
        order = tf.get_static_value(operation.inputs[1])
        return None if order is None else _element(operation.inputs[0], int(order[number]))
    return None


def _is_length(tensor: Tensor) -> bool:
    """Whether a tensor is the size of an axis of unknown size, by itself."""
    operation = tensor.op
    while operation.type in _COPIES:
        operation = operation.inputs[0].op
    if operation.type != "StridedSlice":
        return False
    return str(operation.inputs[0].op.type) == "Shape"
