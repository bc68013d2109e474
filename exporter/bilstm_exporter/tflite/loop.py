"""Every recurrence as one form of loop over builtin operators.

The input projection of all steps is one FULLY_CONNECTED outside the loops, which
XNNPACK runs. Time is then walked in chunks: an inner loop advances a few steps an
iteration and fills the outputs of a chunk, an outer one puts them in their place (`cutting.py`
says how many). All shapes follow from those of the input, none from a value, so LiteRT
plans its memory once for each input shape, and not within an invoke. Nothing outlives an
invoke, no cell is clipped, and any mask, initial state or cell is carried exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

# No public name; the converter turns it into the builtin DYNAMIC_UPDATE_SLICE,
# where tensor_scatter_nd_update becomes eight operators over the whole buffer.
from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_dynamic_update_slice

from bilstm_exporter import gates
from bilstm_exporter.recurrence import Recurrence, RecurrenceResult, StepCell, zeros_width
from bilstm_exporter.tflite.cutting import cut

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
    return _Walk(recurrence, sequences, initial_state, mask, weight_bytes).run()


class _Walk:
    """One recurrence walked over time.

    The carry is the list of states, then, where that is not the first state, the
    output of the step processed before. Inputs and buffers are in the order of time, whatever
    the direction.
    """

    def __init__(
        self,
        recurrence: Recurrence,
        sequences: Any,
        initial_state: Sequence[Any],
        mask: Any,
        weight_bytes: int,
    ) -> None:
        self.recurrence = recurrence
        self.cell = recurrence.cell
        self.mask = mask
        self.batch, self.time = sequences.shape[:2]
        if self.time is None:
            self.time = tf.shape(sequences)[1]
        self.projected = projected = self._projected(_time_major(sequences))
        states = [
            self._zeros([zeros_width(self.cell)]) if state is None else state
            for state in initial_state
        ]
        self.output_shape = self._output_shape(states)
        self.cut = cut(
            self.cell,
            self.time,
            weight_bytes,
            input_size=math.prod(projected.shape[2:]),
            output_size=math.prod(self.output_shape) if recurrence.return_sequences else 0,
            masked=mask is not None,
            starts_at_zeros=all(state is None for state in initial_state),
            one_sequence=self.batch == 1,
        )
        # A row of the inputs and of the buffers is a step, or the steps of an iteration.
        self.joined = self.cut.joined
        self.row = self.cut.block if self.joined else 1
        self.length = self._in_rows(self.time + self.cut.padding)
        self.inputs = [self._as_rows(self._filled(projected, self.cut.fill))]
        if mask is not None:
            steps = self._filled(_time_major(mask), fill=False)
            if not isinstance(self.cell, StepCell):
                steps = tf.expand_dims(steps, -1)
            if self.joined:  # one below the other, since nothing splits booleans
                steps = tf.reshape(steps, [self.length, self.row, self.batch, 1])
            self.inputs.append(steps)
        # Keras's own cells need not carry the output too where masked steps give zeros: those
        # are set once, after the loops.
        self.zeroed = (
            mask is not None
            and recurrence.zero_output_for_mask
            and not isinstance(self.cell, StepCell)
        )
        self.output_is_state = self.zeroed or recurrence.output_is_state(
            masked=mask is not None, starts_at_zeros=initial_state[0] is None
        )
        self.carry = states if self.output_is_state else [*states, self._zeros(self.output_shape)]

    def run(self) -> RecurrenceResult:
        """Walk all steps."""
        if isinstance(self.time, int) and self.cut.block == self.time:
            steps = [tf.unstack(tensor) for tensor in self.inputs]
            carry, outputs = self._advance([self._ordered(part) for part in steps], self.carry)
        else:
            carry, outputs = self._chunks(*self._rest(self.carry, self._room()))
            outputs = None if outputs is None else self._without_filled(self._as_steps(outputs))
        last_output = carry[0] if self.output_is_state else carry[-1]
        if self.zeroed:
            last = 0 if self.recurrence.go_backwards else -1
            last_output = _select(self.mask[:, last], last_output, 0.0)
            outputs = None if outputs is None else _select(_time_major(self.mask), outputs, 0.0)
        return RecurrenceResult(
            last_output=last_output,
            outputs=None if outputs is None else _time_major(outputs),
            states=carry[: self.cell.state_count],
        )

    def _rest(self, carry: list[Any], buffer: Any) -> tuple[list[Any], Any]:
        """Steps that fill no iteration, one by one."""
        if isinstance(self.cut.rest, int):
            return carry, buffer
        first = self.cut.padding
        return self._iterations(first, first + self.cut.rest, self.length, 0, 1, carry, buffer)

    def _chunks(self, carry: list[Any], buffer: Any) -> tuple[list[Any], Any]:
        """The outer loop: make room for a chunk of outputs, and put them in their place."""
        length = self.length
        block, skipped = self._in_rows(self.cut.block), self._in_rows(self.cut.skipped)
        if self.cut.chunk is None:
            return self._iterations(skipped, length, length, 0, block, carry, buffer)
        chunk, begin = self._in_rows(self.cut.chunk), self._in_rows(self.cut.start)

        def body(start: Any, carry: list[Any], buffer: Any) -> tuple[list[Any], Any]:
            first, *carry = carry
            part = tf.gather(buffer, start + tf.range(chunk))
            carry, part = self._iterations(first, chunk, chunk, start, block, carry, part)
            return [tf.constant(0), *carry], _put(buffer, part, start)

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
            return carry, _put(buffer, outputs, start)

        return self._loop(body, begin, end, length, rows, carry, buffer)

    def _advance(self, block: list[list[Any]], carry: list[Any]) -> tuple[list[Any], Any]:
        """Advance a few steps, written out one after the other.

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
        return steps[::-1] if self.recurrence.go_backwards else steps

    def _step(self, inputs: Any, mask: Any, carry: list[Any]) -> tuple[list[Any], Any]:
        states = carry[: self.cell.state_count]
        output, new_states = gates.step(self.cell, inputs, states)
        if mask is None:
            return (new_states if self.output_is_state else [*new_states, output]), output
        states = [_select(mask, new, old) for new, old in zip(new_states, states, strict=True)]
        if self.output_is_state:
            return states, states[0]
        before = tf.zeros_like(output) if self.recurrence.zero_output_for_mask else carry[-1]
        output = _select(mask, output, before)
        return [*states, output], output

    def _loop(  # noqa: PLR0913, PLR0917 - what a loop is
        self, body: Body, begin: Any, end: Any, length: Any, rows: int, carry: Any, buffer: Any
    ) -> tuple[list[Any], Any]:
        """Run the body on ``rows`` rows at a time, from position ``begin`` to ``end``.

        It is told where in time, among ``length`` rows, they start.
        """
        if self.recurrence.go_backwards:
            first, stride = self._less(length, rows) - begin, -rows
            last = 0 if end is length else length - end
        else:
            first, last, stride = begin, self._less(end, rows), rows

        def goes_on(start: Any, *_: Any) -> Any:
            return start >= last if self.recurrence.go_backwards else start <= last

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
        is_time = length is self.length and rows == self.cut.padding
        return self.time if is_time else length - rows

    def _filled(self, tensor: Any, fill: Any) -> Any:
        """``[time, batch, ...]`` with steps filled in before the one that is processed first."""
        if not self.cut.padding:
            return tensor
        count = self.cut.padding
        where = [0, count] if self.recurrence.go_backwards else [count, 0]
        paddings = [where, *[[0, 0]] * (len(tensor.shape) - 1)]
        return tf.pad(tensor, paddings, constant_values=fill)

    def _without_filled(self, outputs: Any) -> Any:
        if not self.cut.padding:
            return outputs
        count = self.cut.padding
        return outputs[:-count] if self.recurrence.go_backwards else outputs[count:]

    def _room(self) -> Any:
        """A buffer ``[time, batch, ...]`` for the outputs, or None where nobody wants them."""
        if not self.recurrence.return_sequences:
            return None
        # Every step that counts is written before it is read, so any numbers will do. FILL has a
        # shape that LiteRT knows only as it runs, and zeros of a fixed shape would be stored.
        rows = self.inputs[0]
        shape = [self.row * size for size in self.output_shape]
        part = _part(rows, shape)
        if part is not None:
            return part
        time, batch = (tf.shape(rows)[axis] for axis in range(2))
        return tf.zeros([rows.shape[0] or time, self.batch or batch, *shape])

    def _zeros(self, shape: Sequence[int]) -> Any:
        """Zeros ``[batch, *shape]``; if it can be, not by FILL, for the same reason as above."""
        if self.batch is not None:
            return tf.zeros([self.batch, *shape])
        part = _part(self.projected, shape, 0)
        if part is not None:
            return tf.zeros_like(part)
        if len(self.projected.shape) == 3 and len(shape) == 1:
            return tf.zeros_like(self.projected[0, :, :1]) + tf.zeros(shape)
        return tf.zeros([tf.shape(self.projected)[1], *shape])

    def _projected(self, steps: Any) -> Any:
        projection = gates.input_projection(self.cell)
        if projection is None:
            return steps
        kernel, bias = projection
        projected = tf.matmul(steps, kernel)
        return projected if bias is None else projected + bias

    def _output_shape(self, states: list[Any]) -> list[int]:
        if not isinstance(self.cell, StepCell):
            return [self.cell.units]
        output, _ = self.cell.step(self.projected[0], states)
        return list(output.shape[1:])


def _time_major(tensor: Any) -> Any:
    """Swap batch and time."""
    return tf.transpose(tensor, [1, 0, *range(2, len(tensor.shape))])


def _put(buffer: Any, block: Any, start: Any) -> Any:
    if buffer is None:
        return None
    indices = tf.stack([start, *[0] * (len(buffer.shape) - 1)])
    return xla_dynamic_update_slice(buffer, block, indices)


def _part(steps: Any, shape: Sequence[int], index: Any = slice(None)) -> Any:
    """The first numbers ``[time, batch, *shape]`` of ``[time, batch, ...]``, or None if too few."""
    sizes = list(steps.shape[2:])
    if len(sizes) != len(shape) or not all(
        size is not None and size >= wanted for size, wanted in zip(sizes, shape, strict=True)
    ):
        return None
    return steps[(index, slice(None), *(slice(size) for size in shape))]


def _select(mask: Any, valid: Any, masked: Any) -> Any:
    """Choose by a bool mask of the leading axes."""
    while len(mask.shape) < len(valid.shape):
        mask = tf.expand_dims(mask, -1)
    return tf.where(mask, valid, masked)
