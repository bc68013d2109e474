"""Every recurrence as one form of loop over builtin operators.

The input projection of all steps is one FULLY_CONNECTED outside the loops, which
XNNPACK runs. Time is then walked in chunks: an outer loop takes a chunk of the inputs
and puts its outputs back, an inner loop advances a few steps an iteration (`cutting.py`
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
"""``(position, carry, buffer) -> (carry, buffer)``"""


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
    output of the step processed before. Positions are counted in the order in which steps
    are processed, from the first one filled in; inputs and buffers are in the order of time.
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
        projected = self._projected(_time_major(sequences))
        self.first = projected[0]
        states = [
            self._zeros([zeros_width(self.cell)]) if state is None else state
            for state in initial_state
        ]
        self.output_shape = self._output_shape(states)
        self.cut = cut(
            self.cell,
            self.time,
            weight_bytes,
            output_size=math.prod(self.output_shape) if recurrence.return_sequences else 0,
            masked=mask is not None,
            starts_at_zeros=all(state is None for state in initial_state),
        )
        self.end = self.time + self.cut.padding
        self.inputs = [self._filled(projected, self.cut.fill)]
        if mask is not None:
            self.inputs.append(self._filled(_time_major(mask), fill=False))
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
            carry, outputs = self._advance(self.inputs, self.carry, self.time)
        else:
            carry, outputs = self._chunks(*self._rest(self.carry, self._room()))
            outputs = None if outputs is None else self._without_filled(outputs)
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
        body = self._iteration(self.inputs, self.end, 1)
        return self._loop(body, first, first + self.cut.rest, 1, carry, buffer)

    def _chunks(self, carry: list[Any], buffer: Any) -> tuple[list[Any], Any]:
        """The outer loop: take a chunk of the inputs, put its outputs back."""
        chunk = self.cut.chunk
        if chunk is None:
            return self._iterations(self.inputs, self.cut.skipped, self.end, carry, buffer)

        def body(position: Any, carry: list[Any], buffer: Any) -> tuple[list[Any], Any]:
            start = self._start(self.end, position, chunk)
            inputs = [_steps(tensor, start, chunk) for tensor in self.inputs]
            part = None if buffer is None else _steps(buffer, start, chunk)
            skipped, *carry = carry
            carry, part = self._iterations(inputs, skipped, chunk, carry, part)
            return [tf.constant(0), *carry], _put(buffer, part, start)

        begin = self.cut.start
        carry = [tf.convert_to_tensor(self.cut.skipped), *carry]
        carry, buffer = self._loop(body, begin, self.end, chunk, carry, buffer)
        return carry[1:], buffer

    def _iterations(
        self, inputs: list[Any], begin: Any, end: Any, carry: list[Any], buffer: Any
    ) -> tuple[list[Any], Any]:
        """The inner loop: a block of steps an iteration."""
        body = self._iteration(inputs, end, self.cut.block)
        return self._loop(body, begin, end, self.cut.block, carry, buffer)

    def _iteration(self, inputs: list[Any], end: Any, steps: int) -> Body:
        def body(position: Any, carry: list[Any], buffer: Any) -> tuple[list[Any], Any]:
            start = self._start(end, position, steps)
            block = [_steps(tensor, start, steps) for tensor in inputs]
            carry, outputs = self._advance(block, carry, steps)
            return carry, _put(buffer, outputs, start)

        return body

    def _advance(self, block: list[Any], carry: list[Any], steps: int) -> tuple[list[Any], Any]:
        """Advance a fixed number of steps, written out one after the other."""
        masked = self.mask is not None
        inputs = tf.unstack(block[0], num=steps)
        masks = tf.unstack(block[1], num=steps) if masked else [None] * steps
        outputs: list[Any] = [None] * steps
        order = range(steps)
        for step in reversed(order) if self.recurrence.go_backwards else order:
            carry, outputs[step] = self._step(inputs[step], masks[step], carry)
        return carry, tf.stack(outputs) if self.recurrence.return_sequences else None

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
        self, body: Body, begin: Any, end: Any, step: int, carry: list[Any], buffer: Any
    ) -> tuple[list[Any], Any]:
        """Run the body at every position from ``begin`` on, ``step`` apart, before ``end``."""

        def flat_body(position: Any, *variables: Any) -> list[Any]:
            carry, buffer = list(variables[:count]), variables[count:]
            carry, new = body(position, carry, buffer[0] if buffer else None)
            results = [position + step, *carry, *([new] if buffer else [])]
            # A batch that only the states fix, as in a stateful model, is lost in the step.
            for result, shape in zip(results, shapes, strict=True):
                result.set_shape(shape)
            return results

        count = len(carry)
        variables = [tf.convert_to_tensor(begin), *carry, *([] if buffer is None else [buffer])]
        shapes = [tf.TensorShape(variable.shape) for variable in variables]
        results = tf.while_loop(
            lambda position, *_: position < end, flat_body, variables, shape_invariants=shapes
        )
        rest = list(results[1:])
        return rest[:count], rest[count] if buffer is not None else None

    def _start(self, end: Any, position: Any, steps: int) -> Any:
        """Where in time the ``steps`` steps from a position on begin."""
        return end - position - steps if self.recurrence.go_backwards else position

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
        return _zeros_like(self.inputs[0], self.output_shape, axes=2)

    def _zeros(self, shape: Sequence[int]) -> Any:
        if self.batch is not None:
            return tf.zeros([self.batch, *shape])
        return _zeros_like(self.first, shape, axes=1)

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
        output, _ = self.cell.step(self.first, states)
        return list(output.shape[1:])


def _time_major(tensor: Any) -> Any:
    """Swap batch and time."""
    return tf.transpose(tensor, [1, 0, *range(2, len(tensor.shape))])


def _steps(tensor: Any, start: Any, count: int) -> Any:
    """``count`` steps of a ``[time, batch, ...]`` tensor.

    Not a SLICE, whose shape LiteRT knows only as it runs.
    """
    return tf.gather(tensor, start + tf.range(count))


def _put(buffer: Any, block: Any, start: Any) -> Any:
    if buffer is None:
        return None
    indices = tf.stack([start, *[0] * (len(buffer.shape) - 1)])
    return xla_dynamic_update_slice(buffer, block, indices)


def _zeros_like(tensor: Any, shape: Sequence[int], axes: int) -> Any:
    """Zeros with the leading axes of a tensor, then ``shape``.

    Not by FILL where it can be helped, whose shape LiteRT knows only as it runs.
    """
    leading, rest = tensor.shape[:axes], tensor.shape[axes:]
    if leading.is_fully_defined():
        return tf.zeros([*leading, *shape])
    if len(rest) == len(shape) and all(a >= b for a, b in zip(rest, shape, strict=True)):
        return tf.zeros_like(tensor[(..., *(slice(size) for size in shape))])
    if len(rest) == len(shape) == 1:
        return tf.zeros_like(tensor[..., :1]) + tf.zeros(shape)
    return tf.zeros([*tf.unstack(tf.shape(tensor)[:axes]), *shape])


def _select(mask: Any, valid: Any, masked: Any) -> Any:
    """Choose by a bool mask of the leading axes."""
    while len(mask.shape) < len(valid.shape):
        mask = tf.expand_dims(mask, -1)
    return tf.where(mask, valid, masked)
