"""Every recurrence as one form of loop over builtin operators.

The input projection of all steps is one FULLY_CONNECTED outside the loops, which
XNNPACK runs. Time is then processed in chunks: an inner loop advances a few steps per
iteration and fills the outputs of a chunk, an outer one puts them in their place (`tiling.py`
decides how many). All shapes follow from those of the input, none from a value, so LiteRT
plans its memory once for each input shape, and not within an invoke. Nothing outlives an
invoke, no cell is clipped, and any mask, initial state or cell is carried exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from bilstm_exporter.ir.cells import step_together
from bilstm_exporter.ir.recurrence import Recurrence, RecurrenceResult
from bilstm_exporter.targets.tflite.tensor_ops import (
    part_of,
    put,
    reversed_in_time,
    select,
    time_major,
)
from bilstm_exporter.targets.tflite.tiling import tile_time

Body = Callable[[Any, list[Any], Any], tuple[list[Any], Any]]
"""``(start, carry, buffer) -> (carry, buffer)``"""


def lower(
    recurrence: Recurrence,
    sequences: Any,
    initial_state: Sequence[Any],
    mask: Any,
    weight_bytes: int = 4,
) -> RecurrenceResult:
    """Write a recurrence into the graph being traced (a ``Lowering``).

    ``weight_bytes`` is the size of one number of its kernel, as it is computed with.
    """
    (result,) = _TimeLoop([recurrence], sequences, initial_state, mask, weight_bytes).run()
    return result


def lower_both(
    forward: Recurrence, backward: Recurrence, sequences: Any, mask: Any, weight_bytes: int = 4
) -> tuple[RecurrenceResult, RecurrenceResult]:
    """Write two recurrences that differ in weights and direction only, as one loop.

    Both start at zeros, and neither has a StepCell. The other arguments are as of `lower`.
    """
    states = [None] * forward.cell.state_count
    both = _TimeLoop([forward, backward], sequences, states, mask, weight_bytes)
    first, second = both.run()
    return first, second


class _TimeLoop:
    """One recurrence run over time, or two at once from either end.

    The carry is the list of states, then, where that is not the first state, the
    output of the step processed before. Inputs and buffers are in the order of time, whatever
    the direction. Two recurrences are one that goes forward, with a batch of twice the size: its
    second half is what the second recurrence reads and writes, in the opposite order of time.
    """

    def __init__(
        self,
        recurrences: Sequence[Recurrence],
        sequences: Any,
        initial_state: Sequence[Any],
        mask: Any,
        weight_bytes: int,
    ) -> None:
        self.cells = [recurrence.cell for recurrence in recurrences]
        self.recurrence, self.cell = recurrences[0], recurrences[0].cell
        # Of two recurrences the second is reversed_in_time around.
        self.goes_backwards = len(recurrences) == 1 and self.recurrence.go_backwards
        self.batch, self.time = sequences.shape[:2]
        if self.time is None:
            self.time = tf.shape(sequences)[1]
        projected = [
            cell.project(steps)
            for cell, steps in zip(self.cells, self._from_each_end(sequences), strict=True)
        ]
        self.projected = projected[0]
        self.masks = [None] * len(self.cells) if mask is None else self._from_each_end(mask)
        states = [
            self._zeros([self.cell.zeros_width]) if state is None else state
            for state in initial_state
        ]
        self.output_shape = self.cell.output_shape(self.projected, states)
        output_size = math.prod(self.output_shape) if recurrences[0].return_sequences else 0
        self.tiling = tile_time(
            self.cell,
            self.time,
            weight_bytes,
            input_size=math.prod(self.projected.shape[2:]),
            output_size=output_size,
            masked=mask is not None,
            starts_at_zeros=all(state is None for state in initial_state),
            one_sequence=self.batch == 1,
            directions=len(self.cells),
        )
        # A row of the inputs and of the buffers is a step, or the steps of an iteration.
        self.joined = self.tiling.joined
        self.row = self.tiling.block if self.joined else 1
        self.length = self._in_rows(self.time + self.tiling.padding)
        rows = [self._as_rows(self._filled(part, self.tiling.fill)) for part in projected]
        self.inputs = [self._together(rows)]
        if mask is not None:
            steps = self._filled(self._together(self.masks), fill=False)
            if self.cell.units is not None:
                steps = tf.expand_dims(steps, -1)
            if self.joined:  # one below the other, since nothing splits booleans
                steps = tf.reshape(steps, [self.length, self.row, len(self.cells), 1])
            self.inputs.append(steps)
        # Keras's own cells need not carry the output too where masked steps give zeros: those
        # are set once, after the loops.
        self.zeroed = (
            mask is not None
            and self.recurrence.zero_output_for_mask
            and self.cell.units is not None
        )
        self.output_is_state = self.zeroed or self.recurrence.output_is_state(
            masked=mask is not None, starts_at_zeros=initial_state[0] is None
        )
        self.carry = states if self.output_is_state else [*states, self._zeros(self.output_shape)]

    def run(self) -> list[RecurrenceResult]:
        """Run all steps; a result for each recurrence."""
        if isinstance(self.time, int) and self.tiling.block == self.time:
            steps = [tf.unstack(tensor) for tensor in self.inputs]
            carry, outputs = self._advance([self._ordered(part) for part in steps], self.carry)
            parts = self._apart(outputs, axis=1)
        else:
            carry, outputs = self._chunks(*self._rest(self.carry, self._room()))
            parts = [
                None if rows is None else self._without_filled(self._as_steps(rows))
                for rows in self._apart(outputs, axis=1)
            ]
        lasts = self._apart(carry[0] if self.output_is_state else carry[-1], axis=0)
        states = [self._apart(state, axis=0) for state in carry[: self.cell.state_count]]
        results = map(self._result, lasts, parts, self.masks, zip(*states, strict=True))
        first, *second = results
        return [first, *(replace(one, outputs=reversed_in_time(one.outputs)) for one in second)]

    def _result(self, last_output: Any, outputs: Any, mask: Any, states: Any) -> RecurrenceResult:
        if self.zeroed:
            last_output = select(mask[0 if self.goes_backwards else -1], last_output, 0.0)
            outputs = None if outputs is None else select(mask, outputs, 0.0)
        outputs = None if outputs is None else time_major(outputs)
        return RecurrenceResult(last_output, outputs, list(states))

    def _from_each_end(self, tensor: Any) -> list[Any]:
        """``[batch, time, ...]`` as ``[time, batch, ...]`` for each recurrence."""
        steps = time_major(tensor)
        return [steps] if len(self.cells) == 1 else [steps, tf.reverse(steps, [0])]

    def _together(self, parts: Sequence[Any], axis: int = 1) -> Any:
        """What each recurrence has, one below the other along the batch."""
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis)

    def _apart(self, tensor: Any, axis: int) -> list[Any]:
        """The reverse; nothing for each where there is nothing."""
        count = len(self.cells)
        if tensor is None or count == 1:
            return [tensor] * count
        return list(tf.split(tensor, count, axis))

    def _rest(self, carry: list[Any], buffer: Any) -> tuple[list[Any], Any]:
        """Steps that fill no iteration, one by one."""
        if isinstance(self.tiling.rest, int):
            return carry, buffer
        first = self.tiling.padding
        return self._iterations(first, first + self.tiling.rest, self.length, 0, 1, carry, buffer)

    def _chunks(self, carry: list[Any], buffer: Any) -> tuple[list[Any], Any]:
        """The outer loop: make room for a chunk of outputs, and put them in their place."""
        length = self.length
        block, skipped = self._in_rows(self.tiling.block), self._in_rows(self.tiling.skipped)
        if self.tiling.chunk is None:
            return self._iterations(skipped, length, length, 0, block, carry, buffer)
        chunk, begin = self._in_rows(self.tiling.chunk), self._in_rows(self.tiling.start)

        def body(start: Any, carry: list[Any], buffer: Any) -> tuple[list[Any], Any]:
            first, *carry = carry
            part = tf.gather(buffer, start + tf.range(chunk))
            carry, part = self._iterations(first, chunk, chunk, start, block, carry, part)
            return [tf.constant(0), *carry], put(buffer, part, start)

        carry = [tf.convert_to_tensor(skipped), *carry]
        carry, buffer = self._loop(body, begin, length, length, chunk, carry, buffer)
        return carry[1:], buffer

    def _iterations(  # noqa: PLR0913, PLR0917 - where, of what, and with what
        self, begin: Any, end: Any, length: Any, offset: Any, rows: int, carry: Any, buffer: Any
    ) -> tuple[list[Any], Any]:
        """The inner loop: ``rows`` rows an iteration.

        Args:
            begin: The position of the first row, counted as they are processed.
            end: That after the last.
            length: Rows of the buffer, of which those are some.
            offset: Where the buffer's first row stands among the inputs.
            rows: An iteration.
            carry: What a step hands on.
            buffer: For the outputs, or None.
        """
        # In the order in which they are processed: the bodies of both directions are then the same
        # but for their constants, and the file holds what they have in common once.
        places = offset
        if not self.joined:
            places = tf.constant(self._ordered(list(range(rows)))) + offset

        def body(start: Any, carry: list[Any], buffer: Any) -> tuple[list[Any], Any]:
            # Not by SLICE, whose shape LiteRT knows only as it runs.
            where = start if isinstance(places, int) else start + places
            block = [self._steps_of(tf.gather(tensor, where)) for tensor in self.inputs]
            carry, outputs = self._advance(block, carry)
            return carry, put(buffer, outputs, start)

        return self._loop(body, begin, end, length, rows, carry, buffer)

    def _advance(self, block: list[list[Any]], carry: list[Any]) -> tuple[list[Any], Any]:
        """Advance a few unrolled steps.

        Args:
            block: The steps of every input, in the order in which they are processed.
            carry: What a step hands on.

        Returns:
            The carry after them, and their outputs ``[rows, batch, ...]`` if they are wanted.
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
        """The steps ``[batch, ...]`` of an iteration, in the order in which they are processed."""
        if not self.joined:
            return list(tf.unstack(rows))  # gathered in that order
        is_mask = rows.dtype == tf.bool
        return self._ordered(tf.unstack(rows) if is_mask else tf.split(rows, self.row, axis=-1))

    def _in_rows(self, steps: Any) -> Any:
        """How many rows some steps are."""
        return steps // self.row if self.joined else steps

    def _as_rows(self, steps: Any) -> Any:
        """``[time, batch, size]`` as ``[rows, batch, row * size]``."""
        if not self.joined:
            return steps
        return tf.reshape(steps, [self.length, self.batch, self.row * steps.shape[-1]])

    def _as_steps(self, rows: Any) -> Any:
        """The reverse."""
        if not self.joined:
            return rows
        return tf.reshape(rows, [self.length * self.row, self.batch, rows.shape[-1] // self.row])

    def _ordered(self, steps: list[Any]) -> list[Any]:
        """From the order of time to that in which steps are processed, or back."""
        return steps[::-1] if self.goes_backwards else steps

    def _step(self, inputs: Any, mask: Any, carry: list[Any]) -> tuple[list[Any], Any]:
        states = carry[: self.cell.state_count]
        output, new_states = step_together(self.cells, inputs, states)
        if mask is None:
            return (new_states if self.output_is_state else [*new_states, output]), output
        states = [select(mask, new, old) for new, old in zip(new_states, states, strict=True)]
        if self.output_is_state:
            return states, states[0]
        before = tf.zeros_like(output) if self.recurrence.zero_output_for_mask else carry[-1]
        output = select(mask, output, before)
        return [*states, output], output

    def _loop(  # noqa: PLR0913, PLR0917 - what a loop is
        self, body: Body, begin: Any, end: Any, length: Any, rows: int, carry: Any, buffer: Any
    ) -> tuple[list[Any], Any]:
        """Run the body on ``rows`` rows at a time, from position ``begin`` to ``end``.

        The body gets their start among ``length`` rows.
        """
        if self.goes_backwards:
            first, stride = self._less(length, rows) - begin, -rows
            last = 0 if end is length else length - end
        else:
            first, last, stride = begin, self._less(end, rows), rows

        def goes_on(start: Any, *_: Any) -> Any:
            return start >= last if self.goes_backwards else start <= last

        def flat_body(start: Any, *variables: Any) -> list[Any]:
            carry, buffer = list(variables[:count]), variables[count:]
            carry, new = body(start, carry, buffer[0] if buffer else None)
            results = [start + stride, *carry, *([new] if buffer else [])]
            # A batch that only the states fix, as in a stateful model, is lost in the step.
            for result, shape in zip(results, shapes, strict=True):
                result.set_shape(shape)
            return results

        count = len(carry)
        variables = [tf.convert_to_tensor(first), *carry, *([] if buffer is None else [buffer])]
        shapes = [tf.TensorShape(variable.shape) for variable in variables]
        results = tf.while_loop(goes_on, flat_body, variables, shape_invariants=shapes)
        rest = list(results[1:])
        return rest[:count], rest[count] if buffer is not None else None

    def _less(self, length: Any, rows: int) -> Any:
        """``length - rows``, without an operator where that is the time there was."""
        if isinstance(length, int):
            return length - rows
        is_time = length is self.length and rows == self.tiling.padding
        return self.time if is_time else length - rows

    def _filled(self, tensor: Any, fill: Any) -> Any:
        """``[time, batch, ...]`` with steps filled in before the one that is processed first."""
        if not self.tiling.padding:
            return tensor
        count = self.tiling.padding
        where = [0, count] if self.goes_backwards else [count, 0]
        paddings = [where, *[[0, 0]] * (len(tensor.shape) - 1)]
        return tf.pad(tensor, paddings, constant_values=fill)

    def _without_filled(self, outputs: Any) -> Any:
        if not self.tiling.padding:
            return outputs
        count = self.tiling.padding
        return outputs[:-count] if self.goes_backwards else outputs[count:]

    def _room(self) -> Any:
        """A buffer ``[time, batch, ...]`` for the outputs, or None where nobody wants them."""
        if not self.recurrence.return_sequences:
            return None
        # Every step that counts is written before it is read, so any numbers will do. FILL has a
        # shape that LiteRT knows only as it runs, and zeros of a fixed shape would be stored.
        rows = self.inputs[0]
        shape = [self.row * size for size in self.output_shape]
        part = part_of(rows, shape)
        if part is not None:
            return part
        time, batch = (tf.shape(rows)[axis] for axis in range(2))
        return tf.zeros([rows.shape[0] or time, rows.shape[1] or batch, *shape])

    def _zeros(self, shape: Sequence[int]) -> Any:
        """Zeros ``[whole batch, *shape]``."""
        count = len(self.cells)
        if self.batch is not None:
            return tf.zeros([count * self.batch, *shape])
        return self._together([self._free_zeros(shape)] * count, axis=0)

    def _free_zeros(self, shape: Sequence[int]) -> Any:
        """Zeros ``[batch, *shape]``; if it can be, not by FILL, for the same reason as above."""
        part = part_of(self.projected, shape, 0)
        if part is not None:
            return tf.zeros_like(part)
        if len(self.projected.shape) == 3 and len(shape) == 1:
            return tf.zeros_like(self.projected[0, :, :1]) + tf.zeros(shape)
        return tf.zeros([tf.shape(self.projected)[1], *shape])
