"""Any mask, without a loop: valid steps first, then back to where they were.

ONNX's recurrent operators know only right padding (``sequence_lens``), Keras's
masks are arbitrary. A masked step changes no state, so a row's valid steps, moved
to the front in their order, give the same states as in their places. The outputs
are then gathered back: a valid step takes its own, a masked step takes zeros or
repeats the output of the step processed before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bilstm_exporter.onnx.builder import Builder


@dataclass(frozen=True)
class Compaction:
    """The int64 and bool tensors that describe a mask.

    Attributes:
        mask: ``[batch, time] bool``.
        valid: ``[batch, time]``, 1 where a step counts.
        count: ``[batch, time]``, valid steps at or before each step.
        total: ``[batch, 1]``, valid steps of each row.
        lengths: ``[batch] int32``, the same but at least 1: onnxruntime gives rows of
            length 0 no state at all, so they run one step that is thrown away.
        batch: Scalar in a vector.
        time: Scalar in a vector.
        rows: ``[batch]``, 0, 1, ...
    """

    mask: ir.Value
    valid: ir.Value
    count: ir.Value
    total: ir.Value
    lengths: ir.Value
    batch: ir.Value
    time: ir.Value
    rows: ir.Value


def compaction(build: Builder, mask: ir.Value) -> Compaction:
    """Count the valid steps of a mask ``[batch, time] bool``."""
    shape = build.op("Shape", mask)
    batch = build.op("Slice", shape, build.constant([0]), build.constant([1]))
    time = build.op("Slice", shape, build.constant([1]), build.constant([2]))
    valid = build.op("Cast", mask, to=ir.DataType.INT64)
    total = build.op("ReduceSum", valid, build.constant([1]), keepdims=1)
    at_least_one = build.op("Max", total, build.constant([1]))
    return Compaction(
        mask=mask,
        valid=valid,
        count=build.op("CumSum", valid, build.constant(1)),
        total=total,
        lengths=build.op(
            "Cast", build.op("Squeeze", at_least_one, build.constant([1])), to=ir.DataType.INT32
        ),
        batch=batch,
        time=time,
        rows=build.op("Range", build.constant(0), build.op("Squeeze", batch), build.constant(1)),
    )


def valid_steps_first(
    build: Builder, plan: Compaction, sequences: ir.Value, features: int
) -> ir.Value:
    """Bring ``[batch, time, features]`` to ``[time, batch, features]``, valid steps first."""
    # Descending keys: valid steps keep their order and come before the others.
    steps = build.op("Range", build.constant(0), build.op("Squeeze", plan.time), build.constant(1))
    keys = build.op("Sub", build.op("Mul", plan.valid, plan.time), steps)
    _, order = build.ops("TopK", 2, keys, plan.time, axis=1, largest=1, sorted=1)
    first = build.op("Mul", plan.rows, plan.time)
    index = build.op("Add", build.op("Transpose", order, perm=[1, 0]), first)
    flat = build.op("Reshape", sequences, build.constant([-1, features]))
    return build.op("Gather", flat, index, axis=0)


def steps_back_in_place(  # noqa: PLR0913 - a mask's outputs depend on all of these
    build: Builder,
    plan: Compaction,
    outputs: ir.Value,
    units: int,
    *,
    go_backwards: bool,
    zero_output_for_mask: bool,
) -> ir.Value:
    """Bring ``[time, 1, batch, units]``, valid steps first, back to ``[batch, time, units]``."""
    one = build.constant(1)
    if go_backwards:
        # A masked step repeats the next valid one: as many valid steps lie before it.
        position = build.op("Sub", plan.count, plan.valid)
        nothing_before = build.op("GreaterOrEqual", position, plan.total)
        position = build.op("Min", position, build.op("Sub", plan.time, one))
    else:
        position = build.op("Sub", plan.count, one)
        nothing_before = build.op("Less", position, build.constant(0))
        position = build.op("Max", position, build.constant(0))
    zero = build.op("Not", plan.mask) if zero_output_for_mask else nothing_before
    rows = build.op("Unsqueeze", plan.rows, build.constant([1]))
    index = build.op("Add", build.op("Mul", position, plan.batch), rows)
    flat = build.op("Reshape", outputs, build.constant([-1, units]))
    return build.op(
        "Where",
        build.op("Unsqueeze", zero, build.constant([2])),
        build.constant(0.0, "float32"),
        build.op("Gather", flat, index, axis=0),
    )


def keep_where_empty(
    build: Builder, plan: Compaction, value: ir.Value, empty: ir.Value | None
) -> ir.Value:
    """``value`` ``[batch, units]``, but ``empty`` (zeros if None) in rows without a valid step."""
    is_empty = build.op("Equal", plan.total, build.constant(0))
    return build.op(
        "Where", is_empty, build.constant(0.0, "float32") if empty is None else empty, value
    )
