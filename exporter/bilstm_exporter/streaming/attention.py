"""Attention of steps to steps in a stream graph: to those of the chunk and its look-ahead.

The window, the chunk and the look-ahead after it, is all that a stream graph has of a sequence. So
the answer is that for the whole sequence only if the window is the whole sequence; the report
measures what is lost otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.streaming.nodes import ELEMENTWISE, Node, axes_of, constant, write
from bilstm_exporter.streaming.values import Carried, Kind, Value, unknown_axes
from bilstm_exporter.streaming.windows import joined

Tensor = Any

_PRODUCTS = frozenset({"BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"})
_REDUCTIONS = frozenset({"Sum", "Mean", "Max", "Min", "Prod"})
# Operators that keep a weight of zero zero.
_KEEP_ZEROS = frozenset({"Cast", "Identity", "Mul", "Transpose"})
_NUMBERED = frozenset({"Cumsum", "MatrixBandPart"})
_OUTSIDE = "relates every step to every other step"
# Added to the scores of steps that the look-ahead does not hold: half of the smallest float32, so
# that a mask of the model may be added too.
_NEVER = float(np.finfo(np.float32).min) / 2


def is_pair(node: Node, inputs: Sequence[Value]) -> bool:
    """Whether an operator relates steps to steps, or reads a value that does."""
    if any(value.kind is Kind.PAIRS for value in inputs):
        return True
    steps = [value for value in inputs if value.kind is Kind.STEPS]
    if len(steps) != 2 or any(value.kind is Kind.RUNNING for value in inputs):
        return False
    if node.type in ELEMENTWISE:
        return len({_from_right(value) for value in steps}) == 2
    if node.type in _PRODUCTS:
        return _matrix_axes(node, steps) == ("row", "column")
    if node.type == "Einsum":
        labels, result = _labels(node, inputs)
        return len(set(labels.values())) == 2 and set(labels.values()) <= set(result)
    return False


def convert(node: Node, inputs: Sequence[Value], carried: Carried) -> Value:
    """Write an operator for which `is_pair` is true.

    Raises:
        StreamingError: It needs more than the window.
    """
    timed = [value for value in inputs if value.kind in {Kind.STEPS, Kind.PAIRS}]
    known = {Kind.STATIC, Kind.STEPS, Kind.PAIRS}
    if (
        any(value.kind not in known or value.right or value.weights for value in inputs)
        or len({value.place for value in timed}) > 1
    ):
        node.refuse(f"{_OUTSIDE} ({node.type})")
    pairs = [value for value in inputs if value.kind is Kind.PAIRS]
    if node.type in _PRODUCTS or node.type == "Einsum":
        if len(pairs) > 1:
            node.refuse(_OUTSIDE)
        return _product(node, inputs) if pairs else _pairs(node, inputs, carried)
    if node.type in ELEMENTWISE:
        return _pairs(node, inputs, carried)
    value = inputs[0]
    rank = len(value.chunk.shape)
    steps, window = _axes_of_pairs(value.chunk)
    if node.type in _NUMBERED:
        return _numbered(node, inputs, carried)
    if node.type == "Softmax" and window == rank - 1:
        return _softmax(node, value, carried)
    if not _keeps_pairs(node, inputs, steps, window):
        node.refuse(f"{_OUTSIDE} ({node.type})")
    return _pairs(node, inputs, carried)


def _keeps_pairs(node: Node, inputs: Sequence[Value], steps: int, window: int) -> bool:
    """Whether an operator leaves both axes of time where they are, the steps first."""
    if node.type in _REDUCTIONS:
        axes = axes_of(node, inputs[1], len(inputs[0].chunk.shape))
        return not {steps, window} & set(axes)
    if node.type == "Transpose":
        order = list(constant(node, inputs[1]))
        return order.index(steps) < order.index(window)
    return node.type == "ExpandDims" or (node.type == "StridedSlice" and _adds_axes(node, inputs))


def _pairs(node: Node, inputs: Sequence[Value], carried: Carried) -> Value:
    """Write an operator whose result relates steps to the window, for both parts of the steps."""
    if node.name not in carried.attending:
        carried.attending.append(node.name)
    has_ahead = any(value.ahead is not None for value in inputs)
    results = [
        write(node, [_operand(node, n, inputs, is_ahead=is_ahead) for n in range(len(inputs))])[0]
        for is_ahead in ([False, True] if has_ahead else [False])
    ]
    if any(unknown_axes(result) != 2 for result in results):
        node.refuse(_OUTSIDE)
    source = next(value for value in inputs if value.kind in {Kind.STEPS, Kind.PAIRS})
    return replace(
        source,
        kind=Kind.PAIRS,
        chunk=results[0],
        ahead=results[1] if has_ahead else None,
        left=0,
        reach=max(value.reach for value in inputs),
        is_softmax=node.type in _KEEP_ZEROS and any(value.is_softmax for value in inputs),
    )


def filled(node: Node, shape: Value, fill: Value) -> Value:
    """Write one value for every pair of a step and a step of the window, as causal masks start."""
    known = list(node.operation.outputs[0].shape)
    # A shape that is made of the number of steps; its later axis is that of the window.
    later = max(axis for axis, size in enumerate(known) if size is None)
    sizes: list[Tensor] = []
    for part, other in ((shape.chunk, shape.ahead), (shape.ahead, shape.chunk)):
        if part is None:
            sizes.append(None)
            continue
        added = 0 if shape.of_pairs or other is None else other[later]
        found = [
            part[axis] + (added if axis == later else 0) if size is None else size
            for axis, size in enumerate(known)
        ]
        sizes.append(tf.stack([tf.cast(size, part.dtype) for size in found]))
    chunk, ahead = (None if one is None else write(node, [one, fill.chunk])[0] for one in sizes)
    return replace(shape, kind=Kind.PAIRS, chunk=chunk, ahead=ahead, of_pairs=False)


def _numbered(node: Node, inputs: Sequence[Value], carried: Carried) -> Value:
    """Write an operator that numbers the steps, as those of causal masks do, over both parts."""
    value = inputs[0]
    steps, window = _axes_of_pairs(value.chunk)
    if node.type == "MatrixBandPart" and (steps, window) != (
        window - 1,
        len(value.chunk.shape) - 1,
    ):
        node.refuse(_OUTSIDE)
    if value.ahead is None:
        return _pairs(node, inputs, carried)
    both = replace(value, chunk=joined(steps, value.chunk, value.ahead), ahead=None)
    whole = _pairs(node, [both, *inputs[1:]], carried)
    count = tf.shape(value.chunk)[steps]
    before = [slice(None)] * steps
    chunk, ahead = whole.chunk[(*before, slice(count))], whole.chunk[(*before, slice(count, None))]
    return replace(whole, chunk=chunk, ahead=ahead)


def _operand(node: Node, number: int, inputs: Sequence[Value], *, is_ahead: bool) -> Tensor:
    """Return what one part of the steps reads of an operand: the part too, or the window."""
    value = inputs[number]
    if value.kind is Kind.STEPS and _is_window(node, number, inputs):
        return window_of(value)
    return value.ahead if is_ahead and value.ahead is not None else value.chunk


def _is_window(node: Node, number: int, inputs: Sequence[Value]) -> bool:
    """Whether the time axis of an operand becomes that of the window, which is the later one."""
    if node.type in _PRODUCTS:
        return number == 1
    if node.type == "Einsum":
        labels, result = _labels(node, inputs)
        return labels[number] == max(labels.values(), key=result.index)
    places = [_from_right(one) for one in inputs if one.kind is Kind.STEPS]
    places += [
        len(one.chunk.shape) - _axes_of_pairs(one.chunk)[1]
        for one in inputs
        if one.kind is Kind.PAIRS
    ]
    return _from_right(inputs[number]) == min(places)


def _softmax(node: Node, value: Value, carried: Carried) -> Value:
    """Softmax over the window, without steps that the look-ahead does not hold."""
    if value.ahead is None:
        return replace(_pairs(node, [value], carried), is_softmax=True)
    steps, _ = _axes_of_pairs(value.chunk)
    sizes = [tf.shape(part)[steps] for part in (value.chunk, value.ahead)]
    missing = tf.where(carried.has_ahead, 0.0, _NEVER)
    added = tf.concat([tf.zeros(sizes[0]), tf.fill([sizes[1]], missing)], 0)
    masked = replace(value, chunk=value.chunk + added, ahead=value.ahead + added)
    return replace(_pairs(node, [masked], carried), is_softmax=True)


def _product(node: Node, inputs: Sequence[Value]) -> Value:
    """Sum the steps of the window by the weights of each step."""
    (pairs,) = (value for value in inputs if value.kind is Kind.PAIRS)
    steps = [value for value in inputs if value.kind is Kind.STEPS]
    if not steps or not pairs.is_softmax or not _sums_over_window(node, inputs, pairs):
        node.refuse(_OUTSIDE)
    operands = [
        [
            window_of(value) if value is steps[0] else part
            for value, part in zip(inputs, parts, strict=True)
        ]
        for parts in ([v.chunk for v in inputs], [v.ahead for v in inputs])
        if parts[0] is not None
    ]
    results = [write(node, one)[0] for one in operands]
    if any(unknown_axes(result) != 1 for result in results):
        node.refuse(_OUTSIDE)
    ahead = results[1] if len(results) > 1 else None
    return replace(pairs, kind=Kind.STEPS, chunk=results[0], ahead=ahead, is_softmax=False)


def _sums_over_window(node: Node, inputs: Sequence[Value], pairs: Value) -> bool:
    """Whether a product sums over the window, and not over the steps."""
    number = next(n for n, value in enumerate(inputs) if value is pairs)
    step_axis, window = _axes_of_pairs(pairs.chunk)
    if node.type == "Einsum":
        terms, _, result = node.operation.get_attr("equation").decode().partition("->")
        term = terms.split(",")[number]
        return "." not in terms and term[window] not in result and term[step_axis] in result
    is_turned = bool(node.operation.get_attr("adj_y" if number else "adj_x"))
    return window == len(pairs.chunk.shape) - 1 and is_turned is bool(number)


def window_of(value: Value) -> Tensor:
    """Join both parts of a sequence."""
    return joined(value.time_axis, value.chunk, value.ahead)


def _axes_of_pairs(tensor: Tensor) -> tuple[int, int]:
    first, second = (axis for axis, size in enumerate(tensor.shape) if size is None)
    return first, second


def _from_right(value: Value) -> int:
    return len(value.chunk.shape) - value.time_axis


def _matrix_axes(node: Node, inputs: Sequence[Value]) -> tuple[str, str]:
    """Say of each factor where its time axis is in the matrix that is multiplied."""
    found = []
    for value, attribute in zip(inputs, ("adj_x", "adj_y"), strict=True):
        place = _from_right(value)
        if node.operation.get_attr(attribute) and place in (1, 2):
            place = 3 - place
        found.append({1: "column", 2: "row"}.get(place, "batch"))
    return found[0], found[1]


def _labels(node: Node, inputs: Sequence[Value]) -> tuple[dict[int, str], str]:
    """Return the label of time in each operand with a time axis, and the labels of the result."""
    terms, _, result = node.operation.get_attr("equation").decode().partition("->")
    labels = {
        number: term[value.time_axis]
        for number, (term, value) in enumerate(zip(terms.split(","), inputs, strict=True))
        if value.kind is Kind.STEPS and "." not in term
    }
    return labels, result


def _adds_axes(node: Node, inputs: Sequence[Value]) -> bool:
    """Whether a slice takes all of every axis, and only adds axes of size 1."""
    masks = {
        name: int(node.operation.get_attr(f"{name}_mask"))
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    strides = constant(node, inputs[3])
    free = (masks["begin"] & masks["end"]) | masks["ellipsis"] | masks["new_axis"]
    return not masks["shrink_axis"] and all(
        free >> item & 1 and stride == 1 for item, stride in enumerate(strides)
    )
