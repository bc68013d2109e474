"""TensorFlow's lists of tensors, which TensorArrays become, as tensors ``[size, ...]``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.ir.counts import (
    Count,
    count_of,
    plus,
    static_count,
    static_number,
)
from bilstm_exporter.ir.list_uses import ListUses, key_of

if TYPE_CHECKING:
    from bilstm_exporter.ir.loops import GraphCopier

Tensor = Any


@dataclass(frozen=True)
class TensorList:
    """A list of tensors while a graph is copied.

    Attributes:
        dtype: The dtype of its elements.
        size: The number of elements.
        tensor: The elements, ``[size, ...]``; None if all are zeros.
        shape: What is known of the shape of an element.
        written: Elements written one by one to a list of zeros, by position.
    """

    dtype: Any
    size: Count
    tensor: Tensor | None
    shape: tf.TensorShape
    written: Mapping[int, Tensor] | None = None

    @property
    def has_elements(self) -> bool:
        """Whether something was written to it."""
        return self.tensor is not None or bool(self.written)


@dataclass(frozen=True)
class LoopElement:
    """A list in one iteration of a loop that uses it only as `ListUses` describes.

    Attributes:
        values: The list before the loop.
        uses: How the loop uses it.
        position: The position that the iteration writes.
        earlier: The elements of the iterations before, the last first.
        element: The element that is written; None if none is yet.
    """

    values: TensorList
    uses: ListUses
    position: Tensor
    earlier: Sequence[Tensor]
    element: Tensor | None = None

    @property
    def dtype(self) -> Any:
        """The dtype of the elements."""
        return self.values.dtype

    def current(self) -> Tensor:
        """The element at the position of the iteration."""
        if self.element is not None:
            return self.element
        return tf.gather(elements(self.values), self.position)

    def read_by(self, operation: Any, index: Tensor) -> Tensor:
        """The element that an operator reads."""
        distance = self.uses.reads[key_of(operation)]
        if distance < 0:
            return self.earlier[-distance - 1]
        return self.current() if not distance else tf.gather(elements(self.values), index)


def inside(value: Any) -> Any:
    """A value from outside of a loop, for its body; constants are repeated there."""
    if isinstance(value, LoopElement):
        return value
    if isinstance(value, TensorList):
        return replace(value, size=_count_inside(value.size))
    static = tf.get_static_value(value)
    return value if static is None else tf.constant(static, value.dtype)


def _count_inside(count: Count) -> Count:
    if count.static is None:
        return count
    return replace(count, tensor=tf.constant(count.static))


def from_tensor(tensor: Tensor, dtype: Any = None) -> TensorList:
    """The list of the slices of a tensor."""
    size = tensor.shape[0]
    count = static_count(size) if size is not None else count_of(tf.shape(tensor)[0])
    return TensorList(dtype or tensor.dtype, count, tensor, tensor.shape[1:])


def elements(values: TensorList, shape: Callable[[], Sequence[Any]] | None = None) -> Tensor:
    """The elements of a list as one tensor ``[size, ...]``.

    Args:
        values: The list.
        shape: Returns the shape of an element of a list of zeros; by default it must be fixed.

    Raises:
        ValueError: The shape of an element is unknown.
    """
    if values.tensor is not None:
        return values.tensor
    if values.written:
        some = next(iter(values.written.values()))
        if values.size.static is not None:
            zeros = None
            rows = []
            for position in range(values.size.static):
                row = values.written.get(position)
                if row is None:
                    zeros = tf.zeros_like(some) if zeros is None else zeros
                    row = zeros
                rows.append(row)
            return tf.stack(rows)
        base = tf.zeros(tf.concat([[values.size.tensor], tf.shape(some)], 0), values.dtype)
        base.set_shape([None, *some.shape])
        places = [[position] for position in values.written]
        return tf.tensor_scatter_nd_update(base, places, tf.stack(list(values.written.values())))
    if shape is not None:
        return tf.zeros([values.size.tensor, *shape()], values.dtype)
    if values.shape.is_fully_defined():
        return tf.zeros([values.size.tensor, *values.shape], values.dtype)
    message = "the shape of an element is unknown"
    raise ValueError(message)


def _reserve(_copier: GraphCopier, operation: Any, shape: Any, size: Any) -> dict[int, Any]:
    dtype = operation.get_attr("element_dtype")
    known = tf.TensorShape(_static_shape(shape))
    return {0: TensorList(dtype, count_of(size), None, known)}


def _empty(_copier: GraphCopier, operation: Any, shape: Any, _maximum: Any) -> dict[int, Any]:
    dtype = operation.get_attr("element_dtype")
    return {0: TensorList(dtype, static_count(0), None, tf.TensorShape(_static_shape(shape)))}


def _static_shape(shape: Any) -> list[int | None] | None:
    value = tf.get_static_value(shape)
    if value is None or np.ndim(value) == 0:
        return None
    return [None if size < 0 else int(size) for size in value]


def _from(_copier: GraphCopier, _operation: Any, tensor: Any, _shape: Any) -> dict[int, Any]:
    return {0: from_tensor(tensor)}


def _get(
    copier: GraphCopier, operation: Any, values: TensorList | LoopElement, index: Any, _s: Any
) -> dict[int, Any]:
    if isinstance(values, LoopElement):
        return {0: values.read_by(operation, index)}
    static = static_number(index)
    if values.tensor is None and static is not None and static in (values.written or {}):
        return {0: (values.written or {})[static]}
    tensor = _elements(copier, operation, values)
    if values.size.static == 1:
        return {0: tf.squeeze(tensor, 0)}
    return {0: tf.gather(tensor, index)}


def _set(
    copier: GraphCopier, operation: Any, values: TensorList | LoopElement, index: Any, item: Any
) -> dict[int, Any]:
    if isinstance(values, LoopElement):
        return {0: replace(values, element=item)}
    grows = operation.get_attr("resize_if_index_out_of_bounds")
    static = static_number(index)
    if values.size.static == 1 and not grows:
        return {0: replace(values, tensor=tf.expand_dims(item, 0), written=None)}
    if values.tensor is None and static is not None:
        size = values.size
        if grows and size.static is not None:
            size = static_count(max(size.static, static + 1))
        if not grows or size.static is not None:
            written = {**(values.written or {}), static: item}
            return {0: replace(values, size=size, written=written, shape=item.shape)}
    try:
        tensor = elements(values, lambda: sizes_of(item))
    except ValueError as error:  # pragma: no cover - the item has a known rank
        raise copier.error(operation.name, UNKNOWN_ELEMENT) from error
    size = values.size
    if grows:
        missing = tf.maximum(index + 1 - size.tensor, 0)
        tensor = tf.pad(tensor, [[0, missing], *[[0, 0]] * (len(tensor.shape) - 1)])
        size = count_of(size.tensor + missing)
    tensor = tf.tensor_scatter_nd_update(tensor, tf.reshape(index, [1, 1]), tf.expand_dims(item, 0))
    return {0: replace(values, size=size, tensor=tensor, written=None, shape=item.shape)}


UNKNOWN_ELEMENT = (
    "fills a TensorArray whose elements have a shape that is not known before the loop: give the "
    "TensorArray an element_shape, or write its first element before the loop"
)


def sizes_of(tensor: Tensor) -> list[Any]:
    """The sizes of a tensor, as ints where they are fixed, else as scalar tensors."""
    dynamic = None if tensor.shape.is_fully_defined() else tf.shape(tensor)
    return [
        dynamic[axis] if size is None and dynamic is not None else size
        for axis, size in enumerate(tensor.shape)
    ]


def _elements(copier: GraphCopier, operation: Any, values: TensorList) -> Tensor:
    try:
        return elements(values)
    except ValueError as error:
        raise copier.error(operation.name, UNKNOWN_ELEMENT) from error


def _stack(copier: GraphCopier, operation: Any, values: TensorList, _shape: Any) -> dict[int, Any]:
    return {0: _elements(copier, operation, values)}


def _length(
    _copier: GraphCopier, _operation: Any, values: TensorList | LoopElement
) -> dict[int, Any]:
    outside = values.values if isinstance(values, LoopElement) else values
    return {0: outside.size.tensor}


def _gather(
    copier: GraphCopier, operation: Any, values: TensorList, indices: Any, _shape: Any
) -> dict[int, Any]:
    return {0: tf.gather(_elements(copier, operation, values), indices)}


def _push(_copier: GraphCopier, _operation: Any, values: TensorList, item: Any) -> dict[int, Any]:
    row = tf.expand_dims(item, 0)
    tensor = row if values.size.static == 0 else tf.concat([elements(values), row], 0)
    size = plus(values.size, 1)
    return {0: replace(values, size=size, tensor=tensor, written=None, shape=item.shape)}


def _scatter(
    _copier: GraphCopier, operation: Any, values: Any, tensor: Any, indices: Any, *_rest: Any
) -> dict[int, Any]:
    if not isinstance(values, TensorList):  # TensorListScatterV2: tensor, indices, shape, size
        tensor, indices, size = values, tensor, _rest[0]
        count = static_count(0) if (static_number(size) or 0) < 0 else count_of(size)
        values = TensorList(operation.get_attr("element_dtype"), count, None, tensor.shape[1:])
    old = elements(values, lambda: sizes_of(tensor)[1:])
    new = tf.tensor_scatter_nd_update(old, tf.expand_dims(indices, 1), tensor)
    return {0: replace(values, tensor=new, written=None)}


def _concat(
    copier: GraphCopier, operation: Any, values: TensorList, _shape: Any, _leading: Any
) -> dict[int, Any]:
    tensor = _elements(copier, operation, values)
    size, length, *rest = sizes_of(tensor)
    return {
        0: tf.reshape(tensor, [size * length, *rest]),
        1: tf.cast(tf.fill([size], length), tf.int64),
    }


def _split(
    copier: GraphCopier, operation: Any, tensor: Any, _shape: Any, lengths: Any
) -> dict[int, Any]:
    static = tf.get_static_value(lengths)
    if static is None or len(set(static.tolist())) != 1:
        raise copier.error(
            operation.name,
            "splits a tensor into a TensorArray of parts of different sizes, which no format "
            "supports: pad the parts to one size",
        )
    parts = tf.reshape(tensor, [len(static), int(static[0]), *sizes_of(tensor)[1:]])
    return {0: from_tensor(parts)}


def _resize(_copier: GraphCopier, _operation: Any, values: TensorList, size: Any) -> dict[int, Any]:
    count = count_of(size)
    if values.tensor is None and not values.written:
        return {0: replace(values, size=count)}
    tensor = elements(values)
    missing = tf.maximum(count.tensor - values.size.tensor, 0)
    tensor = tf.pad(tensor, [[0, missing], *[[0, 0]] * (len(tensor.shape) - 1)])
    return {0: replace(values, size=count, tensor=tensor[: count.tensor], written=None)}


def _same(_copier: GraphCopier, _operation: Any, values: TensorList) -> dict[int, Any]:
    return {0: values}


LIST_OPERATORS: dict[str, Callable[..., dict[int, Any]]] = {
    "EmptyTensorList": _empty,
    "Identity": _same,
    "StopGradient": _same,
    "TensorListConcatV2": _concat,
    "TensorListFromTensor": _from,
    "TensorListGather": _gather,
    "TensorListGetItem": _get,
    "TensorListLength": _length,
    "TensorListPushBack": _push,
    "TensorListReserve": _reserve,
    "TensorListResize": _resize,
    "TensorListScatterIntoExistingList": _scatter,
    "TensorListScatterV2": _scatter,
    "TensorListSetItem": _set,
    "TensorListSplit": _split,
    "TensorListStack": _stack,
}
