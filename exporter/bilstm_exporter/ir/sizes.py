"""Where the sizes of a tensor in the body of a loop come from.

The elements of a list need space before the loop that writes them, but their size may depend on
the input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.ir.counts import static_number
from bilstm_exporter.ir.traversal import (
    BRANCH_OPERATORS,
    ELEMENTWISE,
    SAME_VALUE,
    WHILE_OPERATORS,
    before,
    called_graphs,
)

Tensor = Any
Sources = list[tuple[Tensor, int]]
"""Tensors, each with an axis. The size is the largest of theirs."""


@dataclass(frozen=True)
class WrittenItem:
    """A tensor that is written to a list.

    Attributes:
        item: The tensor.
        loops: The loops and conditions inside of the outer loop whose body has the tensor, with
            their bodies or branches, innermost first.
    """

    item: Tensor
    loops: tuple[tuple[Any, Any], ...] = ()


def written_item(handle: Tensor) -> WrittenItem | None:
    """The last tensor that is written to a list, if it is known; ``handle`` is the list."""
    while handle.op.type == "Identity":
        handle = handle.op.inputs[0]
    operation = handle.op
    if operation.type in {"TensorListSetItem", "TensorListPushBack"}:
        return WrittenItem(operation.inputs[-1])
    graphs: list[Any] = []
    if operation.type in WHILE_OPERATORS:
        graphs = called_graphs(operation)[1:]  # the body
    elif operation.type in BRANCH_OPERATORS:
        graphs = called_graphs(operation)
    for body in graphs:
        inner = written_item(body.outputs[handle.value_index])
        if inner is not None:
            return replace(inner, loops=(*inner.loops, (operation, body)))
    return None


def size_sources(tensor: Tensor, axis: int, known: set[int]) -> Sources | None:
    """The known tensors that a size of a tensor comes from.

    Args:
        tensor: The tensor.
        axis: Its axis; its size is not fixed.
        known: The ids of the known tensors.

    Returns:
        Known tensors with axes (for a list: an axis of its elements). None if it is unknown.
    """
    if id(tensor) in known:
        return [(tensor, axis)]
    if tensor.shape.rank is None:
        return None
    if tensor.op.type in ELEMENTWISE:
        return _broadcast_sources(tensor, axis, known)
    for rule in (_row_of_product, _element, _passed_through_loop, _moved, _given):
        source = rule(tensor, axis)
        if source is not None:
            return size_sources(*source, known)
    return None


def _broadcast_sources(tensor: Tensor, axis: int, known: set[int]) -> Sources | None:
    found: Sources = []
    for operand in tensor.op.inputs:
        if operand.shape.rank is None:
            return None
        own_axis = axis - tensor.shape.rank + operand.shape.rank
        if own_axis >= 0 and operand.shape[own_axis] != 1:
            sources = size_sources(operand, own_axis, known)
            if sources is None:
                return None
            found += sources
    return found or None


def _row_of_product(tensor: Tensor, axis: int) -> tuple[Tensor, int] | None:
    is_row = tensor.op.type in _KEEP_ROWS and axis < tensor.shape.rank - 1
    return (tensor.op.inputs[0], axis) if is_row else None


def _element(tensor: Tensor, axis: int) -> tuple[Tensor, int] | None:
    """For an element of a list."""
    operation = tensor.op
    return (operation.inputs[0], axis) if operation.type == "TensorListGetItem" else None


def _passed_through_loop(tensor: Tensor, axis: int) -> tuple[Tensor, int] | None:
    """For a variable of a loop whose size is the same after every iteration."""
    operation = tensor.op
    if operation.type not in WHILE_OPERATORS:
        return None
    number, (_, body) = tensor.value_index, called_graphs(operation)
    sources = size_sources(body.outputs[number], axis, set(map(id, body.inputs)))
    if sources is None or any(
        source is not body.inputs[number] or place != axis for source, place in sources
    ):
        return None
    return operation.inputs[number], axis


def _moved(tensor: Tensor, axis: int) -> tuple[Tensor, int] | None:
    """For an operator that adds, removes or reorders axes."""
    operation = tensor.op
    source = operation.inputs[0].shape.rank if operation.type in _AXES else None
    if source is None:
        return None
    kept = _AXES[operation.type](operation, source)
    return None if kept is None or kept[axis] is None else (operation.inputs[0], kept[axis])


def _given(tensor: Tensor, axis: int) -> tuple[Tensor, int] | None:
    """For an operator whose input gives the sizes, if that is a size of another tensor."""
    operation = tensor.op
    place = _SIZES.get(operation.type)
    if place is None or (operation.type == "Tile" and operation.inputs[0].shape[axis] != 1):
        return None
    return _size_at(operation.inputs[place], axis)


def _size_at(vector: Tensor, number: int) -> tuple[Tensor, int] | None:
    """The tensor and axis whose size is an element of a vector of sizes."""
    vector = before(vector, SAME_VALUE)
    operation = vector.op
    if operation.type == "Shape":
        return operation.inputs[0], number
    if operation.type == "Pack":
        return _size_of(operation.inputs[number])
    if operation.type == "ExpandDims":
        return _size_of(operation.inputs[0])
    part: tuple[Tensor, int] | None = None
    if operation.type == "ConcatV2":
        part = _part(operation.inputs[:-1], number)
    elif operation.type == "StridedSlice" and not operation.get_attr("shrink_axis_mask"):
        begin, stride = (static_number(operation.inputs[n]) for n in (1, 3))
        begin = 0 if operation.get_attr("begin_mask") else begin
        if begin is not None and begin >= 0 and stride == 1:
            part = operation.inputs[0], begin + number
    return None if part is None else _size_at(*part)


def _part(vectors: Sequence[Tensor], number: int) -> tuple[Tensor, int] | None:
    """The vector that has an element of joined vectors, and its place there."""
    for vector in vectors:
        length = vector.shape.num_elements()
        if length is None or number < length:
            return None if length is None else (vector, number)
        number -= length
    return None


def _size_of(scalar: Tensor) -> tuple[Tensor, int] | None:
    """The tensor and axis whose size a scalar is."""
    scalar = before(scalar, SAME_VALUE)
    operation = scalar.op
    if operation.type not in {"GatherV2", "StridedSlice"}:
        return None
    vector, position = operation.inputs[0], static_number(operation.inputs[1])
    length = vector.shape.num_elements()
    if position is None or length is None:
        return None
    return _size_at(vector, position % length)


# The input that gives the sizes of the result.
_SIZES = {"BroadcastTo": 1, "Fill": 0, "Reshape": 1, "Tile": 1}

# For each axis of the result, the axis of the first input that it is; None if it is none.
_Kept = list[Any]


def _constant_axes(operation: Any) -> list[int] | None:
    values = tf.get_static_value(operation.inputs[-1])
    return None if values is None else [int(value) for value in np.atleast_1d(values)]


def _added(place: int, rank: int) -> _Kept:
    return [None if n == place else n - (n > place) for n in range(rank + 1)]


def _pack(operation: Any, rank: int) -> _Kept | None:
    return _added(operation.get_attr("axis") % (rank + 1), rank)


def _expand(operation: Any, rank: int) -> _Kept | None:
    axes = _constant_axes(operation)
    return None if axes is None else _added(axes[0] % (rank + 1), rank)


def _squeeze(operation: Any, rank: int) -> _Kept | None:
    gone = {axis % rank for axis in operation.get_attr("squeeze_dims")}
    return [n for n in range(rank) if n not in gone] if gone else None


def _reduce(operation: Any, rank: int) -> _Kept | None:
    axes = _constant_axes(operation)
    if axes is None:
        return None
    gone = {axis % rank for axis in axes}
    keeps = "keep_dims" in operation.node_def.attr and operation.get_attr("keep_dims")
    return [None if n in gone else n for n in range(rank) if keeps or n not in gone]


def _concat(operation: Any, rank: int) -> _Kept | None:
    axes = _constant_axes(operation)
    return None if axes is None else [None if n == axes[0] % rank else n for n in range(rank)]


def _gather(operation: Any, rank: int) -> _Kept | None:
    axis, index_rank = static_number(operation.inputs[2]), operation.inputs[1].shape.rank
    if axis is None or index_rank is None or operation.get_attr("batch_dims"):
        return None
    axis %= rank
    return [*range(axis), *[None] * index_rank, *range(axis + 1, rank)]


def _strided_slice(operation: Any, rank: int) -> _Kept | None:
    strides = tf.get_static_value(operation.inputs[3])
    if (
        strides is None
        or operation.get_attr("ellipsis_mask")
        or operation.get_attr("new_axis_mask")
    ):
        return None
    whole = operation.get_attr("begin_mask") & operation.get_attr("end_mask")
    kept: _Kept = []
    for n, stride in enumerate(strides):
        if not operation.get_attr("shrink_axis_mask") >> n & 1:
            kept.append(n if whole >> n & 1 and stride == 1 else None)
    return [*kept, *range(len(strides), rank)]


def _transpose(operation: Any, rank: int) -> _Kept | None:
    del rank
    return _constant_axes(operation)


_AXES: dict[str, Callable[[Any, int], _Kept | None]] = {
    **dict.fromkeys(("ArgMax", "Max", "Mean", "Min", "Sum"), _reduce),
    "ConcatV2": _concat,
    "ExpandDims": _expand,
    "GatherV2": _gather,
    "Pack": _pack,
    "Squeeze": _squeeze,
    "StridedSlice": _strided_slice,
    "Transpose": _transpose,
}
_KEEP_ROWS = frozenset({"BatchMatMulV2", "BiasAdd", "LogSoftmax", "MatMul", "Softmax"})
