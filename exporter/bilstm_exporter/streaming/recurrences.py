"""Recurrences in a stream graph.

A forward recurrence starts the chunk from the states that the chunk before ended with, and hands
its own on: the states after the steps by which the stream advances. A backward recurrence starts
at the end of the look-ahead from its initial states, or from states that are typical of data where
the sequence goes on, and hands nothing on (latency-controlled BLSTM,
https://arxiv.org/abs/1510.08983).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from bilstm_exporter.errors import StreamingError
from bilstm_exporter.ir.cells import StepCell
from bilstm_exporter.ir.graphs import inlined
from bilstm_exporter.ir.markers import MARKER_TYPE, Marker
from bilstm_exporter.ir.recurrence import Lowering, Recurrence, RecurrenceResult
from bilstm_exporter.streaming.values import Carried, Kind, Value, choose
from bilstm_exporter.streaming.windows import joined, time_slice

Tensor = Any


@dataclass(frozen=True)
class Call:
    """One recurrence of the model and its inputs.

    Attributes:
        recurrence: The recurrence.
        sequences: Its sequences.
        mask: Its mask, or None.
        states: For each state an initial value, or None for zeros.
        layer: The layer, for messages.
        label: The layer, for the names of states.
    """

    recurrence: Recurrence
    sequences: Value
    mask: Value | None
    states: Sequence[Value | None]
    layer: str
    label: str


def read_call(marker: Marker, inputs: Sequence[Value], layer: str, label: str) -> Call:
    """Read the inputs of a marker by role; see `Marker`.

    Raises:
        StreamingError: The step of the cell contains a recurrence of its own.
    """
    recurrence = marker.recurrence
    if isinstance(recurrence.cell, StepCell):
        step = marker.step
        if any(node.type == MARKER_TYPE for node in step.graph.get_operations()):
            message = (
                f"{layer} runs a recurrence or a loop in each step, which cannot be streamed; "
                f"export without --streaming"
            )
            raise StreamingError(message)

        def traced_step(inputs: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
            output, *new_states = inlined(step, [inputs, *states])
            return output, new_states

        cell = StepCell(traced_step, recurrence.cell.state_count)
        recurrence = replace(recurrence, cell=cell)
    rest = iter(inputs)
    sequences = next(rest)
    mask = next(rest) if marker.has_mask else None
    states = [next(rest) if given else None for given in marker.has_state]
    return Call(recurrence, sequences, mask, states, layer, label)


def stream(call: Call, lowering: Lowering, carried: Carried) -> list[Value]:
    """Write a recurrence over the parts of a chunk.

    Returns:
        The outputs of its marker: last output, outputs with ``return_sequences``, states.

    Raises:
        StreamingError: It needs more than one chunk and its look-ahead.
    """
    kind = call.sequences.kind
    others = [value for value in (call.mask, *call.states) if value is not None]
    if kind is not Kind.STEPS:
        if any(value.kind is Kind.STEPS for value in others):
            raise _unstreamable(call, "has a mask or states with a time axis, but no sequence")
        running = any(value.kind is Kind.RUNNING for value in (call.sequences, *others))
        result = _lower(call, lowering, call.sequences.chunk, _chunk(call.mask), _starts(call))
        return _values(call, result, Kind.RUNNING if running else kind)
    if call.sequences.right:
        raise _unstreamable(call, "reads steps that were added behind the end of the sequence")
    if call.sequences.time_axis == 0:
        return _in_each_step(call, lowering)
    if call.sequences.time_axis != 1:
        raise _unstreamable(call, "runs over another axis than time")
    if any(value.kind is Kind.STEPS for value in call.states if value is not None):
        raise _unstreamable(call, "has initial states with a time axis")
    if call.mask is not None and (
        call.mask.kind is not Kind.STEPS or call.mask.place != call.sequences.place
    ):
        raise _unstreamable(call, "has a mask for other steps than its sequence")
    return (_Backward if call.recurrence.go_backwards else _Forward)(call, lowering, carried).run()


class _Parts:
    """What forward and backward recurrences have in common."""

    def __init__(self, call: Call, lowering: Lowering, carried: Carried) -> None:
        self.call, self.lowering, self.carried = call, lowering, carried
        self.recurrence = call.recurrence
        self.ahead = call.sequences.ahead
        # A masked step repeats the output before it, which may be one of another part.
        self.repeats = call.mask is not None and not call.recurrence.zero_output_for_mask

    def lower(
        self, steps: Tensor, mask: Tensor, starts: Sequence[Tensor], before: Tensor | None
    ) -> RecurrenceResult:
        """Write the recurrence over one part.

        Args:
            steps: The steps.
            mask: Their mask, or None.
            starts: The initial states, or None for zeros.
            before: The output of the step processed before, ``[1, ...]``; None for zeros.
        """
        result = self._result(steps, mask, starts)
        if not self.repeats or before is None:
            return result
        valid = tf.cast(mask, tf.int32)
        count = tf.cumsum(valid, axis=1, reverse=self.recurrence.go_backwards)
        rank = len(result.last_output.shape)
        any_valid = _broadcast(tf.reduce_any(mask, axis=1), rank)
        last = tf.where(any_valid, result.last_output, before)
        outputs = result.outputs
        if outputs is not None:
            outputs = tf.where(_broadcast(count > 0, rank + 1), outputs, tf.expand_dims(before, 1))
        return RecurrenceResult(last, outputs, result.states)

    def _result(self, steps: Tensor, mask: Tensor, starts: Sequence[Tensor]) -> RecurrenceResult:
        if not self.carried.one_step:
            return _lower(self.call, self.lowering, steps, mask, starts)
        one = tf.reshape(steps, [1, 1, *steps.shape[2:]])
        one_mask = None if mask is None else tf.reshape(mask, [1, 1])
        result = _lower(self.call, self.lowering, one, one_mask, starts)
        outputs = result.outputs
        if outputs is not None:  # with an unknown size of time again
            outputs = outputs[:, : tf.shape(steps)[1]]
        return RecurrenceResult(result.last_output, outputs, result.states)

    def values(self, last: Tensor, outputs: Tensor, ahead: Tensor, states: Any) -> list[Value]:
        """Return the outputs of the marker."""
        found = [Value(Kind.RUNNING, last)]
        if self.recurrence.return_sequences:
            found.append(replace(self.call.sequences, chunk=outputs, ahead=ahead, left=0, right=0))
        return [*found, *(Value(Kind.RUNNING, state) for state in states)]


class _Forward(_Parts):
    def run(self) -> list[Value]:
        call, over = self.call, self.call.sequences.over
        steps, mask = call.sequences.chunk, _chunk(call.mask)
        states = [
            self.carried.take(f"{call.label}_state_{number}", spec.shape, spec.dtype)
            for number, spec in enumerate(self._state_specs())
        ]
        starts = [
            state.before
            if initial is None
            else choose(self.carried.started, state.before, initial.chunk)
            for state, initial in zip(states, call.states, strict=True)
        ]
        kept = before = None
        if self.repeats:
            spec = self._output_spec()
            kept = self.carried.take(f"{call.label}_output", [1, *spec.shape], spec.dtype)
            before = kept.before
        end = -over if over > 0 else None
        result = self.lower(
            time_slice(steps, 1, None, end), _sliced(mask, None, end), starts, before
        )
        for state, after in zip(states, result.states, strict=True):
            self.carried.put(state, after)
        if kept is not None:
            self.carried.put(kept, result.last_output)
        parts = [result]
        if over > 0:
            more = time_slice(steps, 1, -over, None)
            parts.append(self._continued(result, more, _sliced(mask, -over, None)))
        ahead = None
        if self.ahead is not None and self.recurrence.return_sequences:
            ahead_mask = None if call.mask is None else call.mask.ahead
            ahead = self._continued(parts[-1], self.ahead, ahead_mask).outputs
        outputs = None
        if self.recurrence.return_sequences:
            outputs = joined(1, *(part.outputs for part in parts))
        return self.values(parts[-1].last_output, outputs, ahead, parts[-1].states)

    def _continued(self, before: RecurrenceResult, steps: Tensor, mask: Tensor) -> RecurrenceResult:
        return self.lower(steps, mask, before.states, before.last_output)

    def _state_specs(self) -> list[tf.TensorSpec]:
        cell = self.recurrence.cell
        if cell.units is not None:
            return [tf.TensorSpec([1, cell.zeros_width], tf.float32)] * cell.state_count
        starts = (state.chunk for state in self.call.states if state is not None)
        return [tf.TensorSpec(start.shape, start.dtype) for start in starts]

    def _output_spec(self) -> tf.TensorSpec:
        cell = self.recurrence.cell
        if cell.units is not None:
            return tf.TensorSpec([cell.units], tf.float32)
        steps = tf.transpose(self.call.sequences.chunk, _time_first(self.call.sequences.chunk))
        starts = [state.chunk for state in self.call.states if state is not None]
        return cell.output_spec(steps, starts)


class _Backward(_Parts):
    def run(self) -> list[Value]:
        call = self.call
        starts = _starts(call)
        ahead = before = None
        if self.ahead is not None:
            starts = self.carried.backward_starts(starts)
            ahead_mask = None if call.mask is None else call.mask.ahead
            behind = self.lower(self.ahead, ahead_mask, starts, None)
            ahead = behind.outputs
            self.carried.boundaries.append(behind.states)
            starts = [
                self.carried.ahead_or(state, tf.zeros_like(state) if start is None else start)
                for state, start in zip(behind.states, starts, strict=True)
            ]
            if self.repeats:
                last = behind.last_output
                before = self.carried.ahead_or(last, tf.zeros_like(last))
        result = self.lower(call.sequences.chunk, _chunk(call.mask), starts, before)
        # The last output is that of the first step of the sequence, which is in the first chunk.
        last = self._first("output", result.last_output)
        states = [self._first(f"state_{n}", state) for n, state in enumerate(result.states)]
        return self.values(last, result.outputs, ahead, states)

    def _first(self, what: str, value: Tensor) -> Tensor:
        return self.carried.after_first(f"{self.call.label}_first_{what}", value, lambda old: old)


def _in_each_step(call: Call, lowering: Lowering) -> list[Value]:
    """Write a recurrence over another axis, once for each step of time, as TimeDistributed does."""
    inputs = [call.sequences, *([] if call.mask is None else [call.mask])]
    for value in (*inputs[1:], *call.states):
        if value is not None and (
            value.kind is Kind.RUNNING
            or (value.kind is Kind.STEPS and (value.time_axis, value.place) != (0, inputs[0].place))
        ):
            raise _unstreamable(call, "reads tensors of other steps")
    has_ahead = call.sequences.ahead is not None
    results = []
    for ahead in [False, True] if has_ahead else [False]:
        parts = [None if v is None else (v.ahead if ahead and v.ahead is not None else v.chunk)
                 for v in (call.sequences, call.mask, *call.states)]  # fmt: skip
        result = _lower(call, lowering, parts[0], parts[1], parts[2:])
        outputs = [result.outputs] if call.recurrence.return_sequences else []
        results.append([result.last_output, *outputs, *result.states])
    tails = results[1] if has_ahead else [None] * len(results[0])
    return [
        replace(call.sequences, chunk=chunk, ahead=ahead, left=0, right=0)
        for chunk, ahead in zip(results[0], tails, strict=True)
    ]


def _lower(
    call: Call, lowering: Lowering, steps: Tensor, mask: Tensor, starts: Sequence[Tensor]
) -> RecurrenceResult:
    return lowering.lower(call.recurrence, steps, starts, mask)


def _values(call: Call, result: RecurrenceResult, kind: Kind) -> list[Value]:
    outputs = [result.outputs] if call.recurrence.return_sequences else []
    return [Value(kind, one) for one in (result.last_output, *outputs, *result.states)]


def _starts(call: Call) -> list[Tensor]:
    return [None if state is None else state.chunk for state in call.states]


def _chunk(value: Value | None) -> Tensor:
    return None if value is None else value.chunk


def _sliced(mask: Tensor, begin: int | None, end: int | None) -> Tensor:
    return None if mask is None else time_slice(mask, 1, begin, end)


def _broadcast(mask: Tensor, rank: int) -> Tensor:
    while len(mask.shape) < rank:
        mask = tf.expand_dims(mask, -1)
    return mask


def _time_first(tensor: Tensor) -> list[int]:
    return [1, 0, *range(2, len(tensor.shape))]


def _unstreamable(call: Call, what: str) -> StreamingError:
    message = f"{call.layer} {what}, so it cannot be streamed; export without --streaming"
    return StreamingError(message, layers=(call.recurrence.layer,))
