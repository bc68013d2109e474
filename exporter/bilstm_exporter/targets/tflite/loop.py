"""Every recurrence as a loop over builtin operators.

The input projection of all steps is one FULLY_CONNECTED outside the loops, run by XNNPACK. Time is
then processed in chunks: an inner loop advances a few steps per iteration and fills the outputs of
a chunk; an outer loop writes them to the output buffer. `tiling.py` chooses the sizes. All shapes
follow from the input shapes, not from values. So LiteRT plans memory once per input shape, not
during an invoke. No state is kept between invokes, no cell state is clipped, and any mask, initial
state or cell is computed exactly.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from bilstm_exporter.ir.cells import step_together
from bilstm_exporter.ir.recurrence import Recurrence, RecurrenceResult
from bilstm_exporter.targets.tflite.tensor_ops import (
    leading_elements,
    limited_gates,
    limited_sigmoids,
    loop_results,
    reverse_time,
    select,
    time_major,
    write_rows,
)
from bilstm_exporter.targets.tflite.tiling import tile_time

Body = Callable[[Any, list[Any], Any], tuple[list[Any], Any]]
"""``(start, carry, buffer) -> (carry, buffer)``"""


def lower(  # noqa: PLR0913 - a Lowering, and how it is written
    recurrence: Recurrence,
    sequences: Any,
    initial_state: Sequence[Any],
    mask: Any,
    weight_bytes: int = 4,
    *,
    unrolled: bool = False,
    usual_steps: int | None = None,
) -> RecurrenceResult:
    """Write a recurrence into the graph being traced (a ``Lowering``).

    ``weight_bytes`` is the size of one element of its kernel in the computation. With
    ``unrolled``, a fixed number of steps needs no loop. ``usual_steps`` is as for `tile_time`.
    """
    alone = _TimeLoop(
        [recurrence],
        sequences,
        initial_state,
        mask,
        weight_bytes,
        unrolled=unrolled,
        usual_steps=usual_steps,
    )
    (result,) = alone.run()
    return result


def lower_both(  # noqa: PLR0913 - two recurrences
    forward: Recurrence,
    backward: Recurrence,
    sequences: Any,
    mask: Any,
    weight_bytes: int = 4,
    *,
    unrolled: bool = False,
    usual_steps: int | None = None,
) -> tuple[RecurrenceResult, RecurrenceResult]:
    """Write two recurrences that differ in weights and direction only, as one loop.

    Both start at zeros, and neither has a StepCell. For the other arguments see `lower`.
    """
    states = [None] * forward.cell.state_count
    pair = [forward, backward]
    both = _TimeLoop(
        pair, sequences, states, mask, weight_bytes, unrolled=unrolled, usual_steps=usual_steps
    )
    first, second = both.run()
    return first, second


class _TimeLoop:
    """The loop over time of one recurrence, or of two with opposite directions.

    The carry is the list of states, followed by the previous output if that is not the first state.
    Inputs and buffers are in time order for both directions. Two recurrences run as one forward
    recurrence with twice the batch size. The second half of the batch holds the inputs and outputs
    of the second recurrence in reversed time.
    """

    def __init__(  # noqa: PLR0913 - two recurrences, and how they are written
        self,
        recurrences: Sequence[Recurrence],
        sequences: Any,
        initial_state: Sequence[Any],
        mask: Any,
        weight_bytes: int,
        *,
        unrolled: bool,
        usual_steps: int | None,
    ) -> None:
        self.cells = [recurrence.cell for recurrence in recurrences]
        self.recurrence, self.cell = recurrences[0], recurrences[0].cell
        # Of two recurrences, the inputs of the second are reversed in time instead.
        self.goes_backwards = len(recurrences) == 1 and self.recurrence.go_backwards
        self.batch, self.time = sequences.shape[:2]
        if self.time is None:
            self.time = tf.shape(sequences)[1]
        products = [cell.largest_product for cell in self.cells]
        # States that the caller gives may be of any size.
        starts_at_zeros = all(state is None for state in initial_state)
        self.saturates = starts_at_zeros and all(product is not None for product in products)
        projected = [
            cell.project(steps) if product is None else limited_gates(cell.project(steps), product)
            for cell, steps, product in zip(
                self.cells, self._per_direction(sequences), products, strict=True
            )
        ]
        self.projected = projected[0]
        self.masks = [None] * len(self.cells) if mask is None else self._per_direction(mask)
        states = [
            self._zeros([self.cell.zeros_width]) if state is None else state
            for state in initial_state
        ]
        self.output = self.cell.output_spec(self.projected, states)
        output_size = math.prod(self.output.shape) if recurrences[0].return_sequences else 0
        self.tiling = tile_time(
            self.cell,
            self.time,
            weight_bytes,
            input_size=math.prod(self.projected.shape[2:]),
            output_size=output_size,
            masked=mask is not None,
            starts_at_zeros=starts_at_zeros,
            one_sequence=self.batch == 1,
            directions=len(self.cells),
            unrolled=unrolled,
            usual_steps=usual_steps,
        )
        # A row of the inputs and buffers is one step, or all steps of an iteration.
        self.joined = self.tiling.joined
        self.row = self.tiling.block if self.joined else 1
        self.length = self._row_count(self.time + self.tiling.padding)
        rows = [self._as_rows(self._pad(part, self.tiling.fill)) for part in projected]
        self.inputs = [self._join_batch(rows)]
        if mask is not None:
            steps = self._pad(self._join_batch(self.masks), fill=False)
            if self.cell.units is not None:
                steps = tf.expand_dims(steps, -1)
            if self.joined:  # along the batch, because no operator splits booleans
                steps = tf.reshape(steps, [self.length, self.row, len(self.cells), 1])
            self.inputs.append(steps)
        # Gated cells need not carry the output if masked steps output zeros: the zeros are
        # written once, after the loops.
        self.zeroed = (
            mask is not None
            and self.recurrence.zero_output_for_mask
            and self.cell.units is not None
        )
        self.output_is_state = self.zeroed or self.recurrence.output_is_state(
            masked=mask is not None, starts_at_zeros=initial_state[0] is None
        )
        self.carry = states if self.output_is_state else [*states, self._output_zeros()]

    def run(self) -> list[RecurrenceResult]:
        """Run all steps; returns one result per recurrence."""
        if isinstance(self.time, int) and self.tiling.block == self.time:
            steps = [tf.unstack(tensor) for tensor in self.inputs]
            carry, outputs = self._advance([self._ordered(part) for part in steps], self.carry)
            parts = self._split_batch(outputs, axis=1)
        else:
            carry, outputs = self._chunks(*self._remainder(self.carry, self._output_buffer()))
            parts = [
                None if rows is None else self._remove_padding(self._as_steps(rows))
                for rows in self._split_batch(outputs, axis=1)
            ]
        lasts = self._split_batch(carry[0] if self.output_is_state else carry[-1], axis=0)
        states = [self._split_batch(state, axis=0) for state in carry[: self.cell.state_count]]
        results = map(self._result, lasts, parts, self.masks, zip(*states, strict=True))
        first, *second = results
        return [first, *(replace(one, outputs=reverse_time(one.outputs)) for one in second)]

    def _result(self, last_output: Any, outputs: Any, mask: Any, states: Any) -> RecurrenceResult:
        if self.zeroed:
            last_output = select(mask[0 if self.goes_backwards else -1], last_output, 0.0)
            outputs = None if outputs is None else select(mask, outputs, 0.0)
        outputs = None if outputs is None else time_major(outputs)
        return RecurrenceResult(last_output, outputs, list(states))

    def _per_direction(self, tensor: Any) -> list[Any]:
        """Convert ``[batch, time, ...]`` to ``[time, batch, ...]`` for each recurrence."""
        steps = time_major(tensor)
        return [steps] if len(self.cells) == 1 else [steps, tf.reverse(steps, [0])]

    def _join_batch(self, parts: Sequence[Any], axis: int = 1) -> Any:
        """Concatenate the tensors of both recurrences along the batch."""
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis)

    def _split_batch(self, tensor: Any, axis: int) -> list[Any]:
        """The inverse of `_join_batch`; None becomes one None per recurrence."""
        count = len(self.cells)
        if tensor is None or count == 1:
            return [tensor] * count
        return list(tf.split(tensor, count, axis))

    def _remainder(self, carry: list[Any], buffer: Any) -> tuple[list[Any], Any]:
        """Process the steps that do not fill an iteration one by one."""
        if isinstance(self.tiling.rest, int):
            return carry, buffer
        first = self.tiling.padding
        return self._iterations(first, first + self.tiling.rest, self.length, 0, 1, carry, buffer)

    def _chunks(self, carry: list[Any], buffer: Any) -> tuple[list[Any], Any]:
        """The outer loop: process one chunk per iteration and write its outputs to the buffer."""
        length = self.length
        block, skipped = (
            self._row_count(self.tiling.block),
            self._row_count(self.tiling.skipped),
        )
        if self.tiling.chunk is None:
            return self._iterations(skipped, length, length, 0, block, carry, buffer)
        chunk, begin = self._row_count(self.tiling.chunk), self._row_count(self.tiling.start)

        def body(start: Any, carry: list[Any], buffer: Any) -> tuple[list[Any], Any]:
            first, *carry = carry
            part = tf.gather(buffer, start + tf.range(chunk))
            carry, part = self._iterations(first, chunk, chunk, start, block, carry, part)
            return [tf.constant(0), *carry], write_rows(buffer, part, start)

        carry = [tf.convert_to_tensor(skipped), *carry]
        carry, buffer = self._loop(body, begin, length, length, chunk, carry, buffer)
        return carry[1:], buffer

    def _iterations(  # noqa: PLR0913, PLR0917 - the parts of a loop
        self, begin: Any, end: Any, length: Any, offset: Any, rows: int, carry: Any, buffer: Any
    ) -> tuple[list[Any], Any]:
        """The inner loop: process ``rows`` rows per iteration.

        Args:
            begin: Position of the first row, in processing order.
            end: Position after the last row.
            length: Number of rows of the buffer.
            offset: Position of the buffer's first row in the inputs.
            rows: Rows per iteration.
            carry: The carry before the first row.
            buffer: The output buffer, or None.
        """
        # In processing order, the loop bodies of both directions differ only in constants, and the
        # file can share their tables.
        places = offset
        if not self.joined:
            places = tf.constant(self._ordered(list(range(rows)))) + offset

        def body(start: Any, carry: list[Any], buffer: Any) -> tuple[list[Any], Any]:
            # GATHER, because LiteRT knows the output shape of SLICE only at run time.
            where = start if isinstance(places, int) else start + places
            block = [self._steps_of(tf.gather(tensor, where)) for tensor in self.inputs]
            carry, outputs = self._advance(block, carry)
            return carry, write_rows(buffer, outputs, start)

        return self._loop(body, begin, end, length, rows, carry, buffer)

    def _advance(self, block: list[list[Any]], carry: list[Any]) -> tuple[list[Any], Any]:
        """Advance a few unrolled steps.

        Args:
            block: The steps of every input, in processing order.
            carry: The carry before the first step.

        Returns:
            The carry after the last step, and the outputs ``[rows, batch, ...]`` with
            ``return_sequences``, else None.
        """
        outputs = []
        for inputs, *mask in zip(*block, strict=True):
            carry, output = self._step(inputs, mask[0] if mask else None, carry)
            outputs.append(output)
        if not self.recurrence.return_sequences:
            return carry, None
        outputs = self._ordered(outputs)
        return carry, tf.stack([tf.concat(outputs, axis=-1)] if self.joined else outputs)

    def _steps_of(self, rows: Any) -> list[Any]:
        """The steps ``[batch, ...]`` of an iteration, in processing order."""
        if not self.joined:
            return list(tf.unstack(rows))  # gathered in processing order
        is_mask = rows.dtype == tf.bool
        return self._ordered(tf.unstack(rows) if is_mask else tf.split(rows, self.row, axis=-1))

    def _row_count(self, steps: Any) -> Any:
        """Convert a number of steps to a number of rows."""
        return steps // self.row if self.joined else steps

    def _as_rows(self, steps: Any) -> Any:
        """Convert ``[time, batch, size]`` to ``[rows, batch, row * size]``."""
        if not self.joined:
            return steps
        return tf.reshape(steps, [self.length, self.batch, self.row * steps.shape[-1]])

    def _as_steps(self, rows: Any) -> Any:
        """The inverse of `_as_rows`."""
        if not self.joined:
            return rows
        return tf.reshape(rows, [self.length * self.row, self.batch, rows.shape[-1] // self.row])

    def _ordered(self, steps: list[Any]) -> list[Any]:
        """Convert time order to processing order, or back."""
        return steps[::-1] if self.goes_backwards else steps

    def _step(self, inputs: Any, mask: Any, carry: list[Any]) -> tuple[list[Any], Any]:
        states = carry[: self.cell.state_count]
        with limited_sigmoids() if self.saturates else contextlib.nullcontext():
            output, new_states = step_together(self.cells, inputs, states)
        if mask is None:
            return (new_states if self.output_is_state else [*new_states, output]), output
        states = [select(mask, new, old) for new, old in zip(new_states, states, strict=True)]
        if self.output_is_state:
            return states, states[0]
        before = tf.zeros_like(output) if self.recurrence.zero_output_for_mask else carry[-1]
        output = select(mask, output, before)
        return [*states, output], output

    def _loop(  # noqa: PLR0913, PLR0917 - the parts of a loop
        self, body: Body, begin: Any, end: Any, length: Any, rows: int, carry: Any, buffer: Any
    ) -> tuple[list[Any], Any]:
        """Run the body for ``rows`` rows per iteration, from position ``begin`` to ``end``.

        The body receives the index of its first row in time order, of ``length`` rows.
        """
        if self.goes_backwards:
            first, stride = self._subtract(length, rows) - begin, -rows
            last = 0 if end is length else length - end
        else:
            first, last, stride = begin, self._subtract(end, rows), rows

        def goes_on(start: Any, *_: Any) -> Any:
            return start >= last if self.goes_backwards else start <= last

        def flat_body(start: Any, *variables: Any) -> list[Any]:
            carry, buffer = list(variables[:count]), variables[count:]
            carry, new = body(start, carry, buffer[0] if buffer else None)
            results = [start + stride, *carry, *([new] if buffer else [])]
            results = loop_results(results, [start, *variables])
            # The step loses a batch size that only the states define, as in a stateful model.
            for result, shape in zip(results, shapes, strict=True):
                result.set_shape(shape)
            return results

        count = len(carry)
        variables = [tf.convert_to_tensor(first), *carry, *([] if buffer is None else [buffer])]
        shapes = [tf.TensorShape(variable.shape) for variable in variables]
        results = tf.while_loop(goes_on, flat_body, variables, shape_invariants=shapes)
        rest = list(results[1:])
        return rest[:count], rest[count] if buffer is not None else None

    def _subtract(self, length: Any, rows: int) -> Any:
        """``length - rows``; without an operator if that is the original time."""
        if isinstance(length, int):
            return length - rows
        is_time = length is self.length and rows == self.tiling.padding
        return self.time if is_time else length - rows

    def _pad(self, tensor: Any, fill: Any) -> Any:
        """Pad ``[time, batch, ...]`` before the step that is processed first."""
        if not self.tiling.padding:
            return tensor
        count = self.tiling.padding
        where = [0, count] if self.goes_backwards else [count, 0]
        paddings = [where, *[[0, 0]] * (len(tensor.shape) - 1)]
        return tf.pad(tensor, paddings, constant_values=fill)

    def _remove_padding(self, outputs: Any) -> Any:
        if not self.tiling.padding:
            return outputs
        count = self.tiling.padding
        return outputs[:-count] if self.goes_backwards else outputs[count:]

    def _output_buffer(self) -> Any:
        """A buffer ``[rows, batch, ...]`` for the outputs; None without ``return_sequences``."""
        if not self.recurrence.return_sequences:
            return None
        # Every step is written before it is read, so the initial values do not matter. LiteRT
        # knows the output shape of FILL only at run time; zeros of fixed shape would be stored.
        rows = self.inputs[0]
        shape, dtype = [self.row * size for size in self.output.shape], self.output.dtype
        elements = leading_elements(rows, shape)
        if elements is not None:
            return tf.cast(elements, dtype)
        time, batch = (tf.shape(rows)[axis] for axis in range(2))
        return tf.zeros([rows.shape[0] or time, rows.shape[1] or batch, *shape], dtype)

    def _output_zeros(self) -> Any:
        """Zeros ``[whole batch, ...]`` like the output of a step."""
        return tf.cast(self._zeros(list(self.output.shape)), self.output.dtype)

    def _zeros(self, shape: Sequence[int]) -> Any:
        """Zeros ``[whole batch, *shape]``."""
        count = len(self.cells)
        if self.batch is not None:
            return tf.zeros([count * self.batch, *shape])
        return self._join_batch([self._free_zeros(shape)] * count, axis=0)

    def _free_zeros(self, shape: Sequence[int]) -> Any:
        """Zeros ``[batch, *shape]``, if possible without FILL; see `_output_buffer`."""
        part = leading_elements(self.projected, shape, 0)
        if part is not None:
            return tf.zeros_like(part)
        if len(self.projected.shape) == 3 and len(shape) == 1:
            return tf.zeros_like(self.projected[0, :, :1]) + tf.zeros(shape)
        return tf.zeros([tf.shape(self.projected)[1], *shape])
