"""How each TensorFlow operator is written into a stream graph.

An operator that computes each step from the same step is written once for each part of the
sequence. Windows and sums over time have rules of their own. Everything else is refused: it needs
the whole sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import tensor_util

from bilstm_exporter.streaming import attention, positions, reductions, weights
from bilstm_exporter.streaming.nodes import ELEMENTWISE, Node, axes_of, both, constant, write
from bilstm_exporter.streaming.values import (
    Carried,
    Deviation,
    Kind,
    Value,
    Weights,
    static_number,
    unknown_axes,
)
from bilstm_exporter.streaming.windows import Window, padded, slide, time_slice

Tensor = Any

# Operators that are linear in a value of steps, so that its `Weights` may be applied behind them.
_LINEAR = frozenset(
    """
    BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum ExpandDims Identity MatMul Mean Mul Neg Reshape
    Snapshot Squeeze StopGradient StridedSlice Sum Tile Transpose
    """.split()  # noqa: SIM905 - as above
)
_SHAPED = frozenset({"BroadcastTo", "Fill", "Reshape", "Tile"})
_LAST_AXIS = frozenset({"Softmax", "LogSoftmax", "TopKV2", "InTopKV2"})
_SUMMARY = (
    "combines each step with a summary of the whole sequence (a mean, a maximum, attention or a "
    "last output)"
)
# The values of operands up to which an operator on constants is computed at once.
_MAX_SETTINGS = 64


def convert(node: Node, inputs: Sequence[Value], carried: Carried) -> list[Value]:
    """Write one operator into the stream graph; returns its outputs.

    Raises:
        StreamingError: It needs the whole sequence.
    """
    if node.type == "IdentityN":  # of a function with a gradient of its own, such as silu
        return list(inputs)
    kinds = {value.kind for value in inputs}
    if kinds <= {Kind.STATIC}:
        return [Value(Kind.STATIC, tensor) for tensor in _folded(node, [v.chunk for v in inputs])]
    if node.type in {"Shape", "ShapeN", "Size"}:
        return _sizes(node, inputs)
    if kinds & {Kind.STEPS, Kind.PAIRS}:
        return _convert_steps(node, inputs, carried)
    if Kind.RUNNING in kinds:
        if Kind.SIZES in kinds and node.type not in _SHAPED | {"StridedSlice", "Slice"}:
            node.refuse("computes with the length of the sequence")
        return [Value(Kind.RUNNING, tensor) for tensor in write(node, [v.chunk for v in inputs])]
    return _convert_sizes(node, inputs, carried)


def _folded(node: Node, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Write an operator, as a constant if it computes settings, such as axes or repeats."""
    values = [static_number(tensor) for tensor in tensors]
    known = [value for value in values if value is not None and value.dtype.kind in "ib"]
    if not values or len(known) < len(values) or sum(value.size for value in known) > _MAX_SETTINGS:
        return write(node, tensors)
    with tf.Graph().as_default() as graph:
        results = write(node, [tf.constant(value) for value in known])
        with tf.compat.v1.Session(graph=graph) as session:
            found = session.run(results)
    return [tf.constant(result) for result in found]


def _convert_steps(node: Node, inputs: Sequence[Value], carried: Carried) -> list[Value]:
    if any(value.deviation is not None for value in inputs):
        return [_of_deviations(node, inputs, carried)]
    if attention.is_pair(node, inputs):
        return [attention.convert(node, inputs, carried)]
    weighted = [value for value in inputs if value.weights is not None]
    if len(weighted) > 1 or (weighted and node.type not in _LINEAR):
        node.refuse_weights()
    if any(value.kind is Kind.RUNNING for value in inputs):
        deviation = _deviation(node, inputs[0])
        if deviation is not None:
            return [replace(inputs[0], deviation=deviation)]
        return [_divided(node, inputs)]
    if node.type in ELEMENTWISE and any(value.kind is Kind.SIZES for value in inputs):
        node.refuse("computes with the length of the sequence")
    rule = _RULES.get(node.type)
    if rule is None and node.type not in ELEMENTWISE:
        node.refuse(f"uses the operator {node.type} on the sequence")
    results = stepwise(node, inputs) if rule is None else rule(node, inputs, carried)
    if not weighted:
        return results
    return [
        replace(one, weights=weights.behind(node, inputs, one.chunk))
        if one.kind is Kind.STEPS
        else one
        for one in results
    ]


def _divided(node: Node, inputs: Sequence[Value]) -> Value:
    """Divide steps by numbers that summarize all steps, later; see `Weights`."""
    steps, total = inputs[0], inputs[-1].chunk
    rank = len(steps.chunk.shape)
    sizes = [1] * (rank - len(total.shape)) + list(total.shape)
    if (
        node.type not in {"Div", "RealDiv"}
        or steps.kind is not Kind.STEPS
        or steps.weights is not None
        or len(sizes) > rank
        or sizes[steps.time_axis] != 1
    ):
        node.refuse(_SUMMARY)
    return replace(
        steps, weights=Weights(tf.reshape(total, [] if math.prod(sizes) == 1 else sizes))
    )


def _deviation(node: Node, value: Value) -> Deviation | None:
    """Return what an operator makes of steps by subtracting their mean over time; None if none."""
    if node.type not in {"Sub", "SquaredDifference"} or value.kind is not Kind.STEPS:
        return None
    steps, mean = node.operation.inputs
    source = mean.op
    while source.type in {"Identity", "StopGradient"}:
        source = source.inputs[0].op
    if source.type != "Mean" or source.inputs[0].name != steps.name or value.weights or value.right:
        return None
    axes, rank = tf.get_static_value(source.inputs[1]), len(value.chunk.shape)
    if axes is None or [int(axis) % rank for axis in np.atleast_1d(axes)] != [value.time_axis]:
        return None
    if not source.get_attr("keep_dims"):
        return None
    return Deviation.FROM_MEAN if node.type == "Sub" else Deviation.SQUARED


def _of_deviations(node: Node, inputs: Sequence[Value], carried: Carried) -> Value:
    """Convert what may be done with deviations: the mean of their squares is the variance."""
    value = inputs[0]
    if node.type in {"Identity", "StopGradient"}:
        return value
    if node.type == "Square" and value.deviation is Deviation.FROM_MEAN:
        return replace(value, deviation=Deviation.SQUARED)
    is_mean = node.type == "Mean" and value.deviation is Deviation.SQUARED
    if not is_mean or axes_of(node, inputs[1], len(value.chunk.shape)) != [value.time_axis]:
        node.refuse(_SUMMARY)
    keep = bool(node.operation.get_attr("keep_dims"))
    return Value(Kind.RUNNING, reductions.variance(value, carried, node.label, keep=keep))


def _sizes(node: Node, inputs: Sequence[Value]) -> list[Value]:
    """Convert the operators that read shapes."""
    source = next(value for value in inputs if value.kind is not Kind.STATIC)
    if source.kind is Kind.RUNNING or unknown_axes(source.chunk) == 0:
        return [Value(Kind.STATIC, tensor) for tensor in write(node, [v.chunk for v in inputs])]
    return [
        replace(
            source,
            kind=Kind.SIZES,
            chunk=chunk,
            ahead=ahead,
            weights=None,
            deviation=None,
            is_softmax=False,
            of_pairs=source.kind is Kind.PAIRS,
        )
        for chunk, ahead in both(node, inputs)
    ]


def _convert_sizes(node: Node, inputs: Sequence[Value], carried: Carried) -> list[Value]:
    """Convert an operator on sizes: a part of a shape, or a tensor of that shape."""
    source = next(value for value in inputs if value.kind is Kind.SIZES)
    known = _known_size(node)
    if known is not None:
        return [Value(Kind.STATIC, tf.constant(known, node.operation.outputs[0].dtype))]
    if node.type in {"Range", "LinSpace"}:
        return [positions.numbered(node, inputs, carried)]
    if node.type in {"Slice", "StridedSlice"} and inputs[0].kind is Kind.STATIC:
        inputs = [positions.rows_of(node, inputs, carried), *inputs[1:]]
    if node.type == "Fill" and unknown_axes(node.operation.outputs[0]) == 2:
        return [attention.filled(node, inputs[0], inputs[1])]
    found = []
    for chunk, ahead in both(node, inputs):
        if unknown_axes(chunk) == 0:
            value = static_number(chunk)
            kind = Kind.SIZES if value is None else Kind.STATIC
            if kind is Kind.SIZES and node.type in _SHAPED and node.type != "Reshape":
                kind = Kind.STATIC
            found.append(replace(source, kind=kind, chunk=chunk, ahead=ahead))
        elif node.type == "Fill" and node.operation.inputs[0].op.type == "Shape":  # as ones_like
            kind = Kind.STEPS if unknown_axes(chunk) == 1 else Kind.PAIRS
            found.append(replace(source, kind=kind, chunk=chunk, ahead=ahead))
        else:
            if unknown_axes(chunk) != 1:
                node.refuse("relates every step to every other step")
            found.append(replace(source, kind=Kind.STEPS, chunk=chunk, ahead=ahead))
    return found


def _known_size(node: Node) -> np.ndarray | None:
    """Return the sizes that ``shape(x)[i]`` reads, if they are not those of time."""
    operation = node.operation
    if operation.type != "StridedSlice" or operation.inputs[0].op.type != "Shape":
        return None
    sizes = operation.inputs[0].op.inputs[0].shape
    begin, end, strides = (tf.get_static_value(tensor) for tensor in operation.inputs[1:])
    if sizes.rank is None or any(part is None or len(part) != 1 for part in (begin, end, strides)):
        return None
    first = None if operation.get_attr("begin_mask") else int(begin[0])
    last = None if operation.get_attr("end_mask") else int(end[0])
    if operation.get_attr("shrink_axis_mask"):
        size = sizes[first or 0]
        return None if size is None else np.asarray(size)
    part = list(sizes)[first : last : int(strides[0])]
    return None if None in part else np.asarray(part)


def stepwise(node: Node, inputs: Sequence[Value], **changed: Any) -> list[Value]:
    """Convert an operator whose result at one step depends on its operands at this step only."""
    steps = [value for value in inputs if value.kind is Kind.STEPS]
    first = steps[0]
    if any(value.place != first.place for value in steps):
        node.refuse("combines tensors of different steps")
    places = (
        {len(v.chunk.shape) - v.time_axis for v in steps} if node.type in ELEMENTWISE else set()
    )
    if len(places) > 1:
        node.refuse("relates every step to every other step")
    left, right = min(value.left for value in steps), min(value.right for value in steps)
    reach = max(value.reach for value in steps)
    source = replace(first, left=left, right=right, reach=reach, weights=None)
    return [_of_steps(node, source, chunk, ahead) for chunk, ahead in both(node, inputs, **changed)]


def _of_steps(node: Node, source: Value, chunk: Tensor, ahead: Tensor) -> Value:
    if unknown_axes(chunk) != 1:
        node.refuse("relates every step to every other step")
    return replace(source, kind=Kind.STEPS, chunk=chunk, ahead=ahead)


def _reduce(node: Node, inputs: Sequence[Value], carried: Carried) -> list[Value]:
    """Sums, means, extremes: of each step, or of all steps so far."""
    value = inputs[0]
    axes = axes_of(node, inputs[1], len(value.chunk.shape))
    if value.time_axis not in axes:
        return stepwise(node, inputs)
    if node.type not in reductions.SUPPORTED:
        node.refuse(f"uses the operator {node.type} over all steps")
    if value.right:
        node.refuse("sums up steps that were added behind the end of the sequence")
    keep = bool(node.operation.get_attr("keep_dims"))
    result = reductions.reduced(node.type, value, axes, carried, node.label, keep=keep)
    return [Value(Kind.RUNNING, result)]


def _reshape(node: Node, inputs: Sequence[Value], _carried: Carried) -> list[Value]:
    """Convert a reshape, in which time must stay an axis of its own, or only trade with the next.

    It may make several steps of each step, as upsampling does behind pooling, or one step of
    several.
    """
    shape = _shape_with_time(inputs[0].chunk, inputs[1].chunk)
    if shape is not None:
        inputs = [inputs[0], Value(Kind.STATIC, tf.constant(shape))]
    (value,) = stepwise(node, inputs)
    before, after = _around_time(inputs[0].chunk)
    found, rest = _around_time(value.chunk)
    if (before, after) == (found, rest):
        return [value]
    if before != found or (after % rest and rest % after) or value.left or value.right:
        node.refuse("merges the steps of the sequence with another axis (Flatten, Reshape)")
    if after > rest:
        more = after // rest
        if value.rate % more:
            what = "(UpSampling1D, Flatten, Reshape), more than the input has"
            node.refuse(f"makes {more} steps of each step {what}")
        over, extra = value.over * more, value.extra * more
        return [replace(value, rate=value.rate // more, over=over, extra=extra)]
    fewer = rest // after
    if value.over % fewer or value.extra % fewer:
        node.refuse(f"merges {fewer} steps that another layer has shifted into one")
    over, extra = value.over // fewer, value.extra // fewer
    return [replace(value, rate=value.rate * fewer, over=over, extra=extra)]


def _shape_with_time(tensor: Tensor, shape: Tensor) -> list[int] | None:
    """Return the shape of a reshape as numbers, with -1 for the size that is that of time.

    Models give the size of time and leave that of the batch to TensorFlow, ``(-1, shape(x)[1],
    ...)``; only the other way around is every other size known.
    """
    sizes = tensor_util.constant_value(shape, partial=True)
    if sizes is None or list(sizes).count(None) != 1:
        return None
    known = math.prod(int(size) for size in sizes if size not in (None, -1))
    before, after = _around_time(tensor)
    if not known or before * after % known:
        return None
    rest = before * after // known
    return [-1 if size is None else rest if size == -1 else int(size) for size in sizes]


def _around_time(tensor: Tensor) -> tuple[int, int]:
    sizes = list(tensor.shape)
    axis = sizes.index(None)
    return math.prod(sizes[:axis]), math.prod(sizes[axis + 1 :])


def _matmul(node: Node, inputs: Sequence[Value], carried: Carried) -> list[Value]:
    first, second = (value.kind is Kind.STEPS for value in inputs)
    names = ("transpose_a", "transpose_b") if node.type == "MatMul" else ("adj_x", "adj_y")
    turned = [bool(node.operation.get_attr(name)) for name in names]
    ranks = [len(value.chunk.shape) for value in inputs]
    summed = (ranks[0] - (2 if turned[0] else 1), ranks[1] - (1 if turned[1] else 2))
    if first and second and all(
        value.time_axis == axis for value, axis in zip(inputs, summed, strict=True)
    ):  # fmt: skip
        return [_summed_products(node, inputs, carried)]
    for has_steps, value, axis in zip((first, second), inputs, summed, strict=True):
        if has_steps and value.time_axis == axis:
            node.refuse("sums products over all steps, as attention does")
    if first and second:
        aligned = {rank - value.time_axis for rank, value in zip(ranks, inputs, strict=True)}
        if len(aligned) > 1 or min(aligned) <= 2:
            node.refuse("relates every step to every other step, as attention does")
    return stepwise(node, inputs)


def _summed_products(node: Node, inputs: Sequence[Value], carried: Carried) -> Value:
    """Sum products of two tensors of steps over time, as the weighted mean of attention does."""
    if inputs[0].place != inputs[1].place or any(value.right for value in inputs):
        node.refuse("combines tensors of different steps")
    parts = [
        write(node, tensors)[0]
        for tensors in zip(*(reductions.pieces(value) for value in inputs), strict=True)
    ]
    of_sum = weights.behind(node, inputs, parts[0])
    return Value(Kind.RUNNING, reductions.summed(parts, carried, node.label, of_sum))


def _einsum(node: Node, inputs: Sequence[Value], carried: Carried) -> list[Value]:
    equation = node.operation.get_attr("equation").decode()
    terms, _, result = equation.partition("->")
    if "." in equation:
        node.refuse("uses an einsum with an ellipsis on the sequence")
    labels = {
        term[value.time_axis]
        for term, value in zip(terms.split(","), inputs, strict=True)
        if value.kind is Kind.STEPS
    }
    steps = [value for value in inputs if value.kind is Kind.STEPS]
    if len(steps) == 2 and len(labels) == 1 and not labels <= set(result):
        return [_summed_products(node, inputs, carried)]
    if len(labels) > 1 or not labels <= set(result):
        node.refuse("relates every step to every other step, as attention does")
    return stepwise(node, inputs)


def _last_axis(node: Node, inputs: Sequence[Value], carried: Carried) -> list[Value]:
    value = inputs[0]
    if value.time_axis != len(value.chunk.shape) - 1:
        return stepwise(node, inputs)
    if node.type != "Softmax":
        node.refuse(f"computes {node.type} over all steps")
    if value.right:
        node.refuse("computes Softmax over steps that were added behind the end of the sequence")
    return [reductions.softmax_over_time(value, carried, node.label)]


def _along_axis(position: int, data: int = 0) -> Callable[..., list[Value]]:
    """Return a rule for operators along an axis that is an input, which must not be time."""

    def rule(node: Node, inputs: Sequence[Value], _carried: Carried) -> list[Value]:
        values = inputs[data:] if data else inputs
        source = next(value for value in values if value.kind is Kind.STEPS)
        axes = axes_of(node, inputs[position], len(source.chunk.shape))
        if source.time_axis in axes:
            node.refuse(f"uses the operator {node.type} along the axis of time")
        return stepwise(node, inputs)

    return rule


def _along_attribute(node: Node, inputs: Sequence[Value], _carried: Carried) -> list[Value]:
    """Pack and Unpack, along an axis that is an attribute."""
    source = next(value for value in inputs if value.kind is Kind.STEPS)
    rank = len(source.chunk.shape)
    axis = int(node.operation.get_attr("axis"))
    if node.type == "Unpack" and axis % rank == source.time_axis:
        node.refuse("takes the steps of the sequence apart")
    return stepwise(node, inputs)


def _squeeze(node: Node, inputs: Sequence[Value], _carried: Carried) -> list[Value]:
    if not node.operation.get_attr("squeeze_dims"):
        node.refuse("removes every axis of size 1, which time may have")
    return stepwise(node, inputs)


def _tile(node: Node, inputs: Sequence[Value], _carried: Carried) -> list[Value]:
    repeats = constant(node, inputs[1])
    if repeats[inputs[0].time_axis] != 1:
        node.refuse("repeats the steps of the sequence")
    return stepwise(node, inputs)


def _gather(node: Node, inputs: Sequence[Value], carried: Carried) -> list[Value]:
    params, indices, axis = inputs
    if params.kind is not Kind.STEPS:
        return stepwise(node, inputs)
    rank = len(params.chunk.shape)
    (along,) = axes_of(node, axis, rank)
    if along != params.time_axis:
        batched = int(node.operation.get_attr("batch_dims"))
        if indices.kind is Kind.STEPS and batched <= params.time_axis:
            node.refuse("looks up steps of the sequence")
        return stepwise(node, inputs)
    wanted = static_number(indices.chunk)
    if wanted is None or wanted.ndim or int(wanted) not in (0, -1):
        node.refuse("picks steps of the sequence by their position")
    return [_one_step(node, params, int(wanted), carried)]


def _one_step(node: Node, value: Value, position: int, carried: Carried) -> Value:
    """Return the first or the last step so far, without the axis of time."""
    if value.weights is not None:
        node.refuse_weights()
    axis = value.time_axis
    step = tf.squeeze(time_slice(value.chunk, axis, position, None if position else 1), [axis])
    if position == 0:
        step = carried.after_first(f"{node.label}_first", step, lambda old: old)
    return Value(Kind.RUNNING, step)


def _strided_slice(node: Node, inputs: Sequence[Value], carried: Carried) -> list[Value]:
    """Slices of other axes; along time, only the first or the last step."""
    value = inputs[0]
    begin, end, strides = (_numbers(one) for one in inputs[1:])
    masks = {
        name: int(node.operation.get_attr(f"{name}_mask"))
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    count = int(inputs[1].chunk.shape[0])
    item = _item_of_axis(masks, count, len(value.chunk.shape), value.time_axis)
    if item is None or _is_whole(masks, item, begin, end, strides):
        return stepwise(node, inputs)
    first = None if begin is None or masks["begin"] >> item & 1 else int(begin[item])
    last = None if end is None or masks["end"] >> item & 1 else int(end[item])
    step = 1 if strides is None else int(strides[item])
    shrinks = bool(masks["shrink_axis"] >> item & 1)
    only_last = first == -1 and step == 1 and (shrinks or masks["end"] >> item & 1)
    only_first = first in (0, None) and step == 1 and (
        (shrinks and first == 0) or (not shrinks and last == 1)
    )  # fmt: skip
    is_cropped = not shrinks and step == 1 and (first or 0) >= 0 and (last is None or last < 0)
    if begin is not None and end is not None and is_cropped and not only_last:
        whole = {f"{name}_mask": masks[name] | 1 << item for name in ("begin", "end")}
        (cropped,) = stepwise(node, inputs, **whole)
        return [_cropped(node, cropped, first or 0, -(last or 0), carried)]
    if begin is None or not (only_last or only_first):
        node.refuse("picks steps of the sequence by their position")
    one = _one_step(node, value, -1 if only_last else 0, carried)
    # The rest of the slice applies to a sequence of this one step.
    sequence = tf.expand_dims(one.chunk, value.time_axis)
    start = begin.copy()
    start[item] = 0
    stop = end.copy() if end is not None else start + 1
    stop[item] = 1
    operands = [sequence, *(tf.constant(part) for part in (start, stop))]
    result = write(node, [*operands, inputs[3].chunk])
    return [Value(Kind.RUNNING, tensor) for tensor in result]


def _cropped(node: Node, value: Value, before: int, after: int, carried: Carried) -> Value:
    """Leave out the first and the last steps: a window that returns one of its steps."""
    axis = value.time_axis
    window = Window(before + after + 1, 1, same=False, fill=0.0, behind=after)

    def apply(tensor: Tensor) -> Tensor:
        return time_slice(tensor, axis, before or None, -after or None)

    return slide(value, window, apply, carried, node.layer, node.label)


def _numbers(value: Value) -> np.ndarray | None:
    return static_number(value.chunk)


def _item_of_axis(masks: dict[str, int], count: int, rank: int, axis: int) -> int | None:
    """Return the item of a slice that stands for an axis; None if none does."""
    new = sum(masks["new_axis"] >> i & 1 for i in range(count) if not masks["ellipsis"] >> i & 1)
    position = 0
    for item in range(count):
        if masks["ellipsis"] >> item & 1:
            covered = rank - (count - 1 - new)
            if position <= axis < position + covered:
                return None
            position += covered
        elif masks["new_axis"] >> item & 1:
            continue
        else:
            if position == axis:
                return item
            position += 1
    return None


def _is_whole(masks: dict[str, int], item: int, begin: Any, end: Any, strides: Any) -> bool:
    """Whether an item of a slice takes all steps in order."""
    if masks["shrink_axis"] >> item & 1 or strides is None or int(strides[item]) != 1:
        return False
    starts = masks["begin"] >> item & 1 or (begin is not None and int(begin[item]) == 0)
    ends = masks["end"] >> item & 1 or (
        end is not None and int(end[item]) == np.iinfo(end.dtype).max
    )
    return bool(starts and ends)


def _slice(node: Node, inputs: Sequence[Value], carried: Carried) -> list[Value]:
    value, axis = inputs[0], inputs[0].time_axis
    begin, size = constant(node, inputs[1]).copy(), constant(node, inputs[2])
    before = int(begin[axis])
    if size[axis] != -1:
        node.refuse("picks steps of the sequence by their position")
    begin[axis] = 0
    (whole,) = stepwise(node, [value, Value(Kind.STATIC, tf.constant(begin)), inputs[2]])
    return [_cropped(node, whole, before, 0, carried) if before else whole]


def _cumulative(node: Node, inputs: Sequence[Value], carried: Carried) -> list[Value]:
    """Sums of all steps so far."""
    value = inputs[0]
    axis = value.time_axis
    if axes_of(node, inputs[1], len(value.chunk.shape)) != [axis]:
        return stepwise(node, inputs)
    if any(node.operation.get_attr(name) for name in ("exclusive", "reverse")):
        return _along_axis(1)(node, inputs, carried)
    (chunk,) = write(node, [value.chunk, inputs[1].chunk])
    shape = [size or 1 for size in value.chunk.shape]
    state = carried.take(f"{node.label}_sum", shape, chunk.dtype)
    chunk += state.before
    over = max(value.over, 0)
    carried.put(state, time_slice(chunk, axis, -1 - over, -over or None))
    ahead = None
    if value.ahead is not None:
        (ahead,) = write(node, [value.ahead, inputs[1].chunk])
        ahead += time_slice(chunk, axis, -1, None)
    return [replace(value, chunk=chunk, ahead=ahead)]


def _pad(node: Node, inputs: Sequence[Value], carried: Carried) -> list[Value]:
    """Pad time by states, and the other axes by the operator itself."""
    value = inputs[0]
    pads = constant(node, inputs[1]).copy()
    before, after = (int(n) for n in pads[value.time_axis])
    fill = 0.0
    if node.type == "PadV2":
        fill = float(constant(node, inputs[2]))
    pads[value.time_axis] = 0
    if pads.any():
        operands = [value, Value(Kind.STATIC, tf.constant(pads)), *inputs[2:]]
        (value,) = stepwise(node, operands)
    if not before and not after:
        return [value]
    if node.type == "MirrorPad":
        node.refuse("repeats steps at the ends of the sequence")
    return [padded(value, before, after, fill, carried, node.label)]


def _convolution(node: Node, inputs: Sequence[Value], carried: Carried) -> list[Value]:
    """Convolutions over one or two axes; the kernel is ``[..., height, width, in, out]``."""
    value, kernel = inputs
    if kernel.kind is not Kind.STATIC:
        node.refuse("convolves with a kernel computed from the sequence")
    sizes = list(kernel.chunk.shape)
    dilations = [int(n) for n in node.operation.get_attr("dilations")]
    dilations[value.time_axis] *= value.dilation
    spatial = len(value.chunk.shape) - 2
    lengths = [(sizes[i] - 1) * dilations[i + 1] + 1 for i in range(spatial)]
    found = _windowed(node, value, [1, *lengths, 1], 0.0, [kernel], carried, dilations=dilations)
    return [replace(one, dilation=1) for one in found]


def _space_to_batch(node: Node, inputs: Sequence[Value], carried: Carried) -> list[Value]:
    """Leave the steps where they are, for the convolution that follows; see `Value.dilation`."""
    value = inputs[0]
    blocks = [int(n) for n in constant(node, inputs[1])]
    paddings = _paddings_of_blocks(node.operation.inputs[2].op, len(blocks))
    if value.time_axis != 1 or len(blocks) != 1 or paddings is None:
        node.refuse("uses the operator SpaceToBatchND on the sequence")
    before, after = (int(n) for n in paddings[0])
    value = replace(value, dilation=value.dilation * blocks[0])
    if before or after:
        value = padded(value, before, after, 0.0, carried, node.label)
    return [value]


def _paddings_of_blocks(operation: Any, blocks: int) -> np.ndarray | None:
    """Find the padding of a dilated convolution, apart from what completes the last block.

    https://www.tensorflow.org/api_docs/python/tf/required_space_to_batch_paddings
    """
    found: dict[str, np.ndarray] = {}
    pending, seen = [operation], set()
    while pending:
        one = pending.pop()
        if one.name in seen:
            continue
        seen.add(one.name)
        if one.type == "Const":
            value = tf.get_static_value(one.outputs[0])
            if value is not None and value.shape == (blocks, 2):
                found[one.name] = value
        elif one.type != "Shape":
            pending += [tensor.op for tensor in one.inputs]
    return next(iter(found.values())) if len(found) == 1 else None


def _batch_to_space(node: Node, inputs: Sequence[Value], _carried: Carried) -> list[Value]:
    del node
    return [inputs[0]]


def _pooling(node: Node, inputs: Sequence[Value], carried: Carried) -> list[Value]:
    value = inputs[0]
    lengths = [int(n) for n in node.operation.get_attr("ksize")]
    axis = value.time_axis
    is_average = node.type in {"AvgPool", "AvgPool3D"}
    padding = node.operation.get_attr("padding")
    if lengths[axis] == 1 and int(node.operation.get_attr("strides")[axis]) == 1:
        return stepwise(node, inputs)
    if not is_average:
        return _windowed(node, value, lengths, float(np.finfo(np.float32).min), [], carried)
    (found,) = _windowed(node, value, lengths, 0.0, [], carried)
    if padding != b"SAME":
        return [found]
    # The mean leaves out what is not in the sequence: divide by the share that is.
    ones = [None if one is None else tf.ones_like(one) for one in (value.chunk, value.ahead)]
    known = replace(value, chunk=ones[0], ahead=ones[1])
    (share,) = _windowed(node, known, lengths, 0.0, [], carried)
    ahead = None if found.ahead is None else _mean_of_known(found.ahead, share.ahead)
    return [replace(found, chunk=_mean_of_known(found.chunk, share.chunk), ahead=ahead)]


def _mean_of_known(mean: Tensor, share: Tensor) -> Tensor:
    return tf.math.divide_no_nan(mean, share)


def _windowed(  # noqa: PLR0913, PLR0917 - what a window needs
    node: Node,
    value: Value,
    lengths: Sequence[int],
    fill: float,
    others: Sequence[Value],
    carried: Carried,
    **changed: Any,
) -> list[Value]:
    data_format = node.operation.get_attr("data_format")
    if data_format not in (b"NHWC", b"NDHWC"):
        node.refuse("keeps its channels first", "which --streaming does not support")
    axis = value.time_axis
    if axis == 0:
        return stepwise(node, [value, *others], **changed)
    if axis == len(value.chunk.shape) - 1:
        node.refuse("takes time as its channels")
    strides = [int(n) for n in node.operation.get_attr("strides")]
    padding = node.operation.get_attr("padding")
    if padding == b"EXPLICIT":
        node.refuse("has explicit padding", "which --streaming does not support")
    if padding == b"SAME":
        value = _pad_other_axes(value, lengths, strides, fill)
    window = Window(lengths[axis], strides[axis], padding == b"SAME", fill)

    def apply(tensor: Tensor) -> Tensor:
        kernel = [one.chunk for one in others]
        (result,) = write(node, [tensor, *kernel], padding=b"VALID", **changed)
        return result

    return [slide(value, window, apply, carried, node.layer, node.label)]


def _pad_other_axes(
    value: Value, lengths: Sequence[int], strides: Sequence[int], fill: float
) -> Value:
    """Pad the axes other than time as "SAME" does."""
    pads = []
    for axis, size in enumerate(value.chunk.shape):
        total = 0
        if axis != value.time_axis and size is not None:
            count = -(-size // strides[axis])
            total = max((count - 1) * strides[axis] + lengths[axis] - size, 0)
        pads.append([total // 2, total - total // 2])
    if not np.any(pads):
        return value
    ahead = None if value.ahead is None else tf.pad(value.ahead, pads, constant_values=fill)
    return replace(value, chunk=tf.pad(value.chunk, pads, constant_values=fill), ahead=ahead)


def _reverse(node: Node, inputs: Sequence[Value], _carried: Carried) -> list[Value]:
    if inputs[0].time_axis in axes_of(node, inputs[1], len(inputs[0].chunk.shape)):
        advice = (
            "which starts at the end of the sequence; return_sequences=True with "
            "go_backwards=True cannot be streamed outside of Bidirectional: export without "
            "--streaming"
        )
        node.refuse("reverses the steps of the sequence", advice)
    return stepwise(node, inputs)


def _stepwise(node: Node, inputs: Sequence[Value], _carried: Carried) -> list[Value]:
    return stepwise(node, inputs)


def _arg_reduce(node: Node, inputs: Sequence[Value], _carried: Carried) -> list[Value]:
    return _along_axis(1)(node, inputs, _carried)


_Rule = Callable[[Node, Sequence[Value], Carried], list[Value]]
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("Sum", "Mean", "Max", "Min", "Any", "All", "Prod"), _reduce),
    **dict.fromkeys(("EuclideanNorm",), _reduce),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg_reduce),
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _matmul),
    **dict.fromkeys(_LAST_AXIS, _last_axis),
    **dict.fromkeys(("Cumprod", "ReverseSequence"), _along_axis(1)),
    "Cumsum": _cumulative,
    **dict.fromkeys(("Conv2D", "Conv3D", "DepthwiseConv2dNative"), _convolution),
    **dict.fromkeys(("MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D"), _pooling),
    **dict.fromkeys(("Pad", "PadV2", "MirrorPad"), _pad),
    **dict.fromkeys(("Pack", "Unpack"), _along_attribute),
    "ConcatV2": _along_axis(-1),
    "BatchToSpaceND": _batch_to_space,
    "BroadcastTo": _stepwise,
    "Einsum": _einsum,
    "ExpandDims": _stepwise,
    "GatherV2": _gather,
    "OneHot": _stepwise,
    "Reshape": _reshape,
    "ReverseV2": _reverse,
    "Slice": _slice,
    "SpaceToBatchND": _space_to_batch,
    "Split": _along_axis(0, data=1),
    "SplitV": _along_axis(2),
    "Squeeze": _squeeze,
    "StridedSlice": _strided_slice,
    "Tile": _tile,
    "Transpose": _stepwise,
}
