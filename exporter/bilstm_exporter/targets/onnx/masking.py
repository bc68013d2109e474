"""Arbitrary masks without a loop: move valid steps to the front, then restore their order.

ONNX's recurrent operators support only right padding (``sequence_lens``); Keras's masks are
arbitrary. A masked step changes no state. So moving a row's valid steps to the front, in order,
gives the same states, and the sequences can be truncated to the largest number of valid steps. The
outputs are then gathered back: a valid step gets its own output, a masked step gets zeros or the
output of the previously processed step. Between two recurrences with the same mask the valid steps
stay in front.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bilstm_exporter.targets.onnx.builder import Builder

# Operators that process each step independently, such as the merge modes of Bidirectional.
_STEPWISE = frozenset({"Add", "Mul", "Div", "Concat"})
# Above every count of steps, and exact in float32, in which some runtimes sort.
_LAST_KEY = np.int32(2**24)


@dataclass(frozen=True)
class Compaction:
    """A mask and its counts of valid steps.

    Attributes:
        mask: ``[batch, time] bool``.
        valid: ``[batch, time] int32``, 1 for a valid step.
        count: ``[batch, time] int32``, the number of valid steps up to this one.
        total: ``[batch] int32``, the number of valid steps of each row.
        lengths: Like ``total``, but at least 1: onnxruntime gives rows of length 0 no state, so
            they run one step whose output is discarded.
        longest: ``[1] int64``, the number of steps to run: the maximum of ``lengths``, or the
            time of the mask.
    """

    mask: ir.Value
    valid: ir.Value
    count: ir.Value
    total: ir.Value
    lengths: ir.Value
    longest: ir.Value


def compaction(build: Builder, mask: ir.Value, *, keep_time: bool = False) -> Compaction:
    """Count the valid steps of a mask ``[batch, time] bool``.

    Args:
        build: The builder.
        mask: The mask.
        keep_time: Whether to run as many steps as the mask has, so that every shape follows from
            the shapes of the inputs.
    """
    valid = build.op("Cast", mask, to=ir.DataType.INT32)
    count = build.op("CumSum", valid, build.constant(1))
    total = build.op("ReduceSum", valid, build.constant([1]), keepdims=0)
    lengths = build.op("Max", total, build.constant(1, "int32"))
    if keep_time:
        longest = build.op(
            "Slice", build.op("Shape", mask), build.constant([1]), build.constant([2])
        )
    else:
        longest = build.op("Cast", build.reduce_max(lengths, 0), to=ir.DataType.INT64)
    return Compaction(mask, valid, count, total, lengths, longest)


class StepOrder:
    """Moves steps to the front and back, and caches values whose valid steps are in front."""

    def __init__(self) -> None:
        self._in_front: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def move_valid_first(self, build: Builder, plan: Compaction, sequences: ir.Value) -> ir.Value:
        """Convert ``[batch, time, features]`` to ``[longest, batch, features]``, valid first."""
        known = self._find_in_front(build, plan.mask, sequences)
        if known is not None:
            return known
        _, order = _valid_first(build, plan)
        index = build.op("Unsqueeze", order, build.constant([2]))
        compact = build.op("GatherND", sequences, index, batch_dims=1)
        return build.op("Transpose", compact, perm=[1, 0, 2])

    def restore_order(
        self,
        build: Builder,
        plan: Compaction,
        outputs: ir.Value,
        *,
        go_backwards: bool,
        zero_output_for_mask: bool,
    ) -> ir.Value:
        """Convert ``[longest, batch, units]``, valid first, back to ``[batch, time, units]``."""
        one = build.constant(1, "int32")
        if go_backwards:
            # The index of the next valid step is the number of valid steps before this one.
            position = build.op("Sub", plan.count, plan.valid)
            total = build.op("Unsqueeze", plan.total, build.constant([1]))
            nothing_before = build.op("GreaterOrEqual", position, total)
            longest = build.op("Cast", plan.longest, to=ir.DataType.INT32)
            position = build.op("Min", position, build.op("Sub", longest, one))
        else:
            position = build.op("Sub", plan.count, one)
            nothing_before = build.op("Less", position, build.constant(0, "int32"))
            position = build.op("Max", position, build.constant(0, "int32"))
        zero = build.op("Not", plan.mask) if zero_output_for_mask else nothing_before
        placed = build.op(
            "Where",
            build.op("Unsqueeze", zero, build.constant([2])),
            build.constant(0.0, "float32"),
            _gathered(build, outputs, position),
        )
        self._in_front[placed] = (plan.mask, outputs)
        return placed

    def _find_in_front(self, build: Builder, mask: ir.Value, value: ir.Value) -> ir.Value | None:
        """The same value with its valid steps in front, if it derives from such values only.

        Its masked steps differ; the next recurrence skips them.
        """
        if value in self._in_front:
            source_mask, in_front = self._in_front[value]
            return in_front if source_mask is mask else None
        node = value.producer()
        if node is None or node.op_type not in _STEPWISE or value.const_value is not None:
            return None
        if node.op_type == "Concat" and node.attributes["axis"].as_int() not in (-1, 2):
            return None
        inputs = [
            operand
            if operand.const_value is not None and operand.const_value.size == 1
            else self._find_in_front(build, mask, operand)
            for operand in node.inputs
            if operand is not None
        ]
        if any(operand is None for operand in inputs):
            return None
        attributes = {"axis": 2} if node.op_type == "Concat" else {}
        return build.op(node.op_type, *inputs, **attributes)


def mark_ended(build: Builder, plan: Compaction, steps: ir.Value) -> ir.Value:
    """Append a feature to steps ``[longest, batch, features]``: 1 after a row's valid steps, or 0.

    The valid steps are in front.
    """
    key, _ = _valid_first(build, plan)
    ended = build.op("Equal", build.op("Transpose", key, perm=[1, 0]), build.constant(0, "int32"))
    column = build.op("Unsqueeze", ended, build.constant([2]))
    return build.op("Concat", steps, build.op("Cast", column, to=ir.DataType.FLOAT), axis=2)


def _valid_first(build: Builder, plan: Compaction) -> tuple[ir.Value, ir.Value]:
    """Sort the steps, valid ones first: keys, 0 for a masked step, and indices, in time order.

    Both are ``[batch, longest]``.
    """
    # No two keys of valid steps are equal: runtimes differ in how TopK orders equal elements.
    key = build.op("Mul", plan.valid, build.op("Sub", build.constant(_LAST_KEY), plan.count))
    keys, order = build.ops("TopK", 2, key, plan.longest, axis=1, largest=1, sorted=1)
    return keys, order


def reverse_valid(
    build: Builder, plan: Compaction, steps: ir.Value, *, forward_only: bool
) -> ir.Value:
    """Reverse the valid steps of each row; they are in front, ``[longest, batch, features]``.

    Steps after the valid ones have any values.

    Args:
        build: The builder.
        plan: The mask's counts.
        steps: The steps.
        forward_only: Use no ReverseSequence, which the runtimes of this form lack too.
    """
    if not forward_only:
        lengths = build.op("Cast", plan.lengths, to=ir.DataType.INT64)
        return build.op("ReverseSequence", steps, lengths, time_axis=0, batch_axis=1)
    last = build.op(
        "Unsqueeze", build.op("Sub", plan.lengths, build.constant(1, "int32")), build.constant([1])
    )
    longest = build.op("Squeeze", build.op("Cast", plan.longest, to=ir.DataType.INT32))
    here = build.op("Range", build.constant(0, "int32"), longest, build.constant(1, "int32"))
    position = build.op("Max", build.op("Sub", last, here), build.constant(0, "int32"))
    return build.op("Transpose", _gathered(build, steps, position), perm=[1, 0, 2])


def last_valid(build: Builder, plan: Compaction, outputs: ir.Value) -> ir.Value:
    """Return the last valid step of each row of ``[longest, batch, units]``: ``[batch, units]``."""
    lengths = build.op("Cast", plan.lengths, to=ir.DataType.INT64)
    last = build.op("Sub", lengths, build.constant(1))
    index = build.op("Unsqueeze", last, build.constant([1]))
    return build.op("GatherND", build.op("Transpose", outputs, perm=[1, 0, 2]), index, batch_dims=1)


def _gathered(build: Builder, steps: ir.Value, position: ir.Value) -> ir.Value:
    """Gather steps ``[longest, batch, features]`` at ``[batch, n]``: ``[batch, n, features]``."""
    index = build.op("Unsqueeze", position, build.constant([2]))
    return build.op(
        "GatherND",
        build.op("Transpose", steps, perm=[1, 0, 2]),
        build.op("Cast", index, to=ir.DataType.INT64),
        batch_dims=1,
    )


def replace_empty_rows(
    build: Builder, plan: Compaction, value: ir.Value, empty: ir.Value | None
) -> ir.Value:
    """Replace rows of ``value`` ``[batch, units]`` without a valid step by ``empty`` or zeros."""
    is_empty = build.op("Equal", plan.total, build.constant(0, "int32"))
    return build.op(
        "Where",
        build.op("Unsqueeze", is_empty, build.constant([1])),
        build.constant(0.0, "float32") if empty is None else empty,
        value,
    )
