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

import onnx_ir as ir

from bilstm_exporter.targets.onnx.builder import Builder

# Operators that process each step independently, such as the merge modes of Bidirectional.
_STEPWISE = frozenset({"Add", "Mul", "Div", "Concat"})


@dataclass(frozen=True)
class Compaction:
    """A mask and its counts of valid steps.

    Attributes:
        mask: ``[batch, time] bool``.
        valid: ``[batch, time] int32``, 1 for a valid step.
        total: ``[batch] int32``, the number of valid steps of each row.
        lengths: Like ``total``, but at least 1: onnxruntime gives rows of length 0 no state, so
            they run one step whose output is discarded.
        longest: ``[1] int64``, the maximum of ``lengths``.
    """

    mask: ir.Value
    valid: ir.Value
    total: ir.Value
    lengths: ir.Value
    longest: ir.Value


def compaction(build: Builder, mask: ir.Value) -> Compaction:
    """Count the valid steps of a mask ``[batch, time] bool``."""
    valid = build.op("Cast", mask, to=ir.DataType.INT32)
    total = build.op("ReduceSum", valid, build.constant([1]), keepdims=0)
    lengths = build.op("Max", total, build.constant(1, "int32"))
    longest = build.reduce_max(lengths, 0)
    return Compaction(mask, valid, total, lengths, build.op("Cast", longest, to=ir.DataType.INT64))


class StepOrder:
    """Moves steps to the front and back, and caches values whose valid steps are in front."""

    def __init__(self) -> None:
        self._in_front: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def move_valid_first(self, build: Builder, plan: Compaction, sequences: ir.Value) -> ir.Value:
        """Convert ``[batch, time, features]`` to ``[longest, batch, features]``, valid first."""
        known = self._find_in_front(build, plan.mask, sequences)
        if known is not None:
            return known
        # TopK orders equal elements by index, so valid steps keep their order.
        _, order = build.ops("TopK", 2, plan.valid, plan.longest, axis=1, largest=1, sorted=1)
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
        count = build.op("CumSum", plan.valid, build.constant(1))
        if go_backwards:
            # The index of the next valid step is the number of valid steps before this one.
            position = build.op("Sub", count, plan.valid)
            total = build.op("Unsqueeze", plan.total, build.constant([1]))
            nothing_before = build.op("GreaterOrEqual", position, total)
            longest = build.op("Cast", plan.longest, to=ir.DataType.INT32)
            position = build.op("Min", position, build.op("Sub", longest, one))
        else:
            position = build.op("Sub", count, one)
            nothing_before = build.op("Less", position, build.constant(0, "int32"))
            position = build.op("Max", position, build.constant(0, "int32"))
        zero = build.op("Not", plan.mask) if zero_output_for_mask else nothing_before
        index = build.op("Unsqueeze", position, build.constant([2]))
        placed = build.op(
            "Where",
            build.op("Unsqueeze", zero, build.constant([2])),
            build.constant(0.0, "float32"),
            build.op(
                "GatherND",
                build.op("Transpose", outputs, perm=[1, 0, 2]),
                build.op("Cast", index, to=ir.DataType.INT64),
                batch_dims=1,
            ),
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
