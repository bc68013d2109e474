"""Every recurrence as one form of loop over builtin operators.

The input projection of all steps is one FULLY_CONNECTED outside the loops, which
XNNPACK runs. Time is then walked in chunks: an outer loop cuts a chunk out of the
inputs and puts its outputs back, an inner loop advances a few steps an iteration,
a last loop takes what is left of a chunk one step at a time. (LiteRT copies every
variable of a WHILE at every iteration, so one loop over the whole sequence would
cost the square of its length.) Nothing outlives an invoke, no cell is clipped, and
any mask, initial state or cell is carried exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

# No public name; the converter turns it into the builtin DYNAMIC_UPDATE_SLICE,
# where tensor_scatter_nd_update becomes eight operators over the whole buffer.
from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_dynamic_update_slice

from bilstm_exporter import gates
from bilstm_exporter.recurrence import Cell, Recurrence, RecurrenceResult, StepCell, zeros_width

# One step an iteration spends its time in the loop itself; many make XNNPACK keep as many packed
# copies of the recurrent kernel, which then fall out of the cache. Measured with
# benchmarks/loop_shapes.py where a core has 2 MiB of L2, T=100, times faster than 5 steps:
#   float32, 128 units (256 KiB a copy): 1 step 0.77, 2 steps 0.98, 3 steps 1.01, 8 steps 0.66
#   float32, 256 units (1 MiB):          1 step 1.98, 2 steps 1.47, 3 steps 1.08, 8 steps 0.98
#   int8, 128 units (64 KiB):            1 step 0.56, 2 steps 0.75, 3 steps 0.90, 8 steps 1.00
#   int8, 256 units (256 KiB):           1 step 0.77, 2 steps 1.03, 3 steps 1.10, 8 steps 0.74
STEPS_PER_ITERATION = 5
COPIES_BYTES = 1 << 20
STEPS_PER_CHUNK = 100


def steps_per_iteration(cell: Cell, weight_bytes: int) -> int:
    """How many steps an iteration takes: as many as keep the copies of the kernel in the cache.

    Args:
        cell: The cell; one of an unknown kind takes the most.
        weight_bytes: Of one number of its kernel, as it is computed with.
    """
    if isinstance(cell, StepCell):
        return STEPS_PER_ITERATION
    # The last loop, of single steps, has a copy too.
    copies = COPIES_BYTES // (cell.recurrent_kernel.size * weight_bytes)
    return max(1, min(STEPS_PER_ITERATION, copies - 1))


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
    steps = steps_per_iteration(recurrence.cell, weight_bytes)
    return _Walk(recurrence, sequences, initial_state, mask, steps).run()


class _Walk:
    """One recurrence walked over time.

    The carry is the list of states, then, where that is not the first state, the
    output of the step processed before. Steps are counted in the order they are
    processed; buffers are in the order of time.
    """

    def __init__(
        self,
        recurrence: Recurrence,
        sequences: Any,
        initial_state: Sequence[Any],
        mask: Any,
        steps: int,
    ) -> None:
        self.recurrence = recurrence
        self.steps = steps
        self.cell = recurrence.cell
        self.masked = mask is not None
        self.inputs = [self._projected(_time_major(sequences))]
        if self.masked:
            self.inputs.append(_time_major(mask))
        self.batch = sequences.shape[0] or tf.shape(sequences)[0]
        self.time = sequences.shape[1] or tf.shape(sequences)[1]

        states = [
            self._zeros([zeros_width(self.cell)]) if state is None else state
            for state in initial_state
        ]
        output_shape = self._output_shape(states)
        self.output_is_state = recurrence.output_is_state(
            masked=self.masked, starts_at_zeros=initial_state[0] is None
        )
        self.carry = states if self.output_is_state else [*states, self._zeros(output_shape)]
        self.output_shape = output_shape

    def run(self) -> RecurrenceResult:
        """Walk all steps."""
        if isinstance(self.time, int) and self.time <= self.steps:
            carry, outputs = self._advance(self.inputs, self.carry, self.time)
        else:
            carry, outputs = self._chunks()
        sequences = self.recurrence.return_sequences
        return RecurrenceResult(
            last_output=carry[0] if self.output_is_state else carry[-1],
            outputs=_time_major(outputs) if sequences else None,
            states=carry[: self.cell.state_count],
        )

    def _chunks(self) -> tuple[list[Any], Any]:
        """The outer loop: cut a chunk out of the inputs, put its outputs back."""

        def chunk(position: Any, carry: list[Any], buffer: Any) -> tuple[Any, list[Any], Any]:
            size = tf.minimum(STEPS_PER_CHUNK, self.time - position)
            start = self._start(self.time, position, size)
            inputs = [_slice(tensor, start, size) for tensor in self.inputs]
            carry, outputs = self._steps(inputs, carry, size)
            return position + size, carry, self._put(buffer, outputs, start)

        _, carry, buffer = self._loop(chunk, self.time, self.carry, self._buffer(self.time))
        return carry, buffer

    def _steps(self, inputs: list[Any], carry: list[Any], time: Any) -> tuple[list[Any], Any]:
        """The inner loops over ``time`` steps: several an iteration, then the rest one by one."""
        position, buffer = tf.constant(0), self._buffer(time)
        for steps in dict.fromkeys((self.steps, 1)):

            def advance(
                position: Any, carry: list[Any], buffer: Any, steps: int = steps
            ) -> tuple[Any, list[Any], Any]:
                start = self._start(time, position, steps)
                block = [_slice(tensor, start, steps) for tensor in inputs]
                carry, outputs = self._advance(block, carry, steps)
                return position + steps, carry, self._put(buffer, outputs, start)

            end = time - time % steps
            position, carry, buffer = self._loop(advance, end, carry, buffer, position)
        return carry, buffer

    def _advance(self, block: list[Any], carry: list[Any], steps: int) -> tuple[list[Any], Any]:
        """Advance a fixed number of steps, written out one after the other."""
        inputs = tf.unstack(block[0], num=steps)
        masks = tf.unstack(block[1], num=steps) if self.masked else [None] * steps
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

    def _loop(
        self, body: Any, end: Any, carry: list[Any], buffer: Any, position: Any = 0
    ) -> tuple[Any, list[Any], Any]:
        """Run ``body(position, carry, buffer)`` while the position is before the end."""

        def flat_body(position: Any, *variables: Any) -> list[Any]:
            carry, buffer = list(variables[: len(self.carry)]), variables[len(self.carry) :]
            position, carry, new = body(position, carry, buffer[0] if buffer else None)
            results = [position, *carry, *([new] if buffer else [])]
            # A batch that only the states fix, as in a stateful model, is lost in the step.
            for result, shape in zip(results, shapes, strict=True):
                result.set_shape(shape)
            return results

        variables = [position, *carry, *([] if buffer is None else [buffer])]
        shapes = [tf.TensorShape(getattr(variable, "shape", [])) for variable in variables]
        results = tf.while_loop(
            lambda position, *_: position < end, flat_body, variables, shape_invariants=shapes
        )
        rest = list(results[1:])
        return results[0], rest[: len(carry)], rest[-1] if buffer is not None else None

    def _start(self, time: Any, position: Any, steps: Any) -> Any:
        """Where in time the next ``steps`` steps begin."""
        return time - position - steps if self.recurrence.go_backwards else position

    def _put(self, buffer: Any, block: Any, start: Any) -> Any:
        if buffer is None:
            return None
        indices = tf.stack([start, *[0] * (len(buffer.shape) - 1)])
        return xla_dynamic_update_slice(buffer, block, indices)

    def _buffer(self, time: Any) -> Any:
        """Room for the outputs ``[time, batch, ...]``, or None where nobody wants them."""
        if not self.recurrence.return_sequences:
            return None
        return self._zeros(self.output_shape, time)

    def _zeros(self, shape: Sequence[int], time: Any = None) -> Any:
        leading = [self.batch] if time is None else [time, self.batch]
        return tf.zeros([*leading, *shape])

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
        output, _ = self.cell.step(self.inputs[0][0], states)
        return list(output.shape[1:])


def _time_major(tensor: Any) -> Any:
    """Swap batch and time."""
    return tf.transpose(tensor, [1, 0, *range(2, len(tensor.shape))])


def _slice(tensor: Any, start: Any, size: Any) -> Any:
    """``size`` steps of a ``[time, batch, ...]`` tensor."""
    # Features by number: a convolution in a step must know them. The batch never: LiteRT would
    # plan the body of a loop that is too short to run at its static shapes, and refuse it.
    rest = [-1, *(-1 if length is None else length for length in tensor.shape[2:])]
    part = tf.slice(tensor, [start, *[0] * len(rest)], [size, *rest])
    if isinstance(size, int):
        part = tf.ensure_shape(part, [size, *tensor.shape[1:]])
    return part


def _select(mask: Any, valid: Any, masked: Any) -> Any:
    """Choose row by row; ``mask`` is ``[batch] bool``."""
    while len(mask.shape) < len(valid.shape):
        mask = tf.expand_dims(mask, -1)
    return tf.where(mask, valid, masked)
