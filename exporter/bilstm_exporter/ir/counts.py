"""Numbers that are known before a loop starts, such as its length; fixed, or by the input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.ir.traversal import SAME_ELEMENT, SAME_VALUE, before, is_rounding

Tensor = Any


@dataclass(frozen=True)
class Count:
    """A number that is known before a loop starts.

    Attributes:
        tensor: The number as an ``int32`` scalar tensor.
        key: Equal for two numbers that are certainly equal: the number if it is fixed, else
            another number's key and the difference.
        static: The number, or None if it depends on the input.
    """

    tensor: Tensor
    key: Any
    static: int | None

    @property
    def is_size(self) -> bool:
        """Whether it is a size of a tensor, which is never negative."""
        return self.static is None and self.key[1] == 0 and isinstance(self.key[0], tuple)


def count_of(tensor: Tensor) -> Count:
    """Describe an integer scalar of the current graph."""
    static = static_number(tensor)
    if static is not None:
        return static_count(static)
    base, offset = _base_and_offset(tensor)
    return Count(tf.cast(tensor, tf.int32), (_key(base), offset), None)


def static_count(value: int) -> Count:
    """Describe a fixed number."""
    return Count(tf.constant(value, tf.int32), value, value)


def plus(count: Count, number: int) -> Count:
    """Add a fixed number."""
    if not number:
        return count
    if count.static is not None:
        return static_count(count.static + number)
    base, offset = count.key
    return Count(count.tensor + number, (base, offset + number), None)


def static_number(tensor: Tensor) -> int | None:
    """The value of an integer scalar; None if it depends on the input."""
    value = tf.get_static_value(tensor)
    if not tensor.dtype.is_integer:
        return None
    if value is not None:
        return int(np.asarray(value).reshape(-1)[0]) if np.size(value) == 1 else None
    operation = tensor.op
    if operation.type in SAME_ELEMENT and not is_rounding(operation):
        return static_number(operation.inputs[0])
    if operation.type in {"StridedSlice", "GatherV2"}:
        return _static_element(operation)
    if operation.type in _ARITHMETIC:
        operands = [static_number(operand) for operand in operation.inputs]
        if None not in operands:
            return int(_ARITHMETIC[operation.type](*operands))
    return None


def _static_element(operation: Any) -> int | None:
    """The value of one element of a vector, such as a fixed size of a tensor."""
    index = static_number(operation.inputs[1])
    if operation.type == "StridedSlice" and operation.get_attr("begin_mask") & 1:
        index = 0
    vector = before(operation.inputs[0], SAME_VALUE)
    values = tf.get_static_value(vector)
    if vector.op.type == "Shape" and vector.op.inputs[0].shape.rank is not None:
        values = vector.op.inputs[0].shape.as_list()
    if index is None or values is None or np.ndim(values) != 1:
        return None
    if operation.outputs[0].shape.num_elements() != 1 or not -len(values) <= index < len(values):
        return None
    value = values[index]
    return None if value is None else int(value)


_ARITHMETIC: dict[str, Callable[..., int]] = {
    "Add": lambda a, b: a + b,
    "AddV2": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Neg": lambda a: -a,
    "Maximum": max,
    "Minimum": min,
}


def _base_and_offset(tensor: Tensor) -> tuple[Tensor, int]:
    """Split an integer into another tensor and a fixed offset."""
    offset = 0
    while True:
        operation = tensor.op
        if operation.type in SAME_ELEMENT and not is_rounding(operation):
            tensor = operation.inputs[0]
            continue
        if operation.type in {"Add", "AddV2", "Sub"}:
            first, second = (static_number(operand) for operand in operation.inputs)
            if second is not None:
                offset += -second if operation.type == "Sub" else second
                tensor = operation.inputs[0]
                continue
            if first is not None and operation.type != "Sub":
                offset += first
                tensor = operation.inputs[1]
                continue
        return tensor, offset


def _key(tensor: Tensor) -> Any:
    """A key that is equal for two tensors that are certainly the same number."""
    tensor = before(tensor, SAME_ELEMENT)
    operation = tensor.op
    if operation.type == "StridedSlice":
        where = [static_number(operand) for operand in operation.inputs[1:]]
        source = before(operation.inputs[0], SAME_VALUE)
        if source.op.type == "Shape" and None not in where:
            return ("size", id(before(source.op.inputs[0])), *where)
    if operation.type == "GatherV2":
        where = [static_number(operand) for operand in operation.inputs[1:]]
        source = before(operation.inputs[0], SAME_VALUE)
        if source.op.type == "Shape" and None not in where:
            start = where[0] or 0
            return ("size", id(before(source.op.inputs[0])), start, start + 1, 1)
    return id(tensor)
