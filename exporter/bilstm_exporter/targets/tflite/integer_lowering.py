"""Recurrences in forms that TensorFlow's calibrator can convert to integers.

The calibrator supports one recurrence, the fused LSTM. Any other becomes a marker, in whose place
`loop_splicing` puts a loop, or is unrolled. All forms need a fixed batch size and number of steps.
None has a mask; `ValidSteps` applies it outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.errors import UnsupportedModelError
from bilstm_exporter.ir.cells import LSTMCell
from bilstm_exporter.ir.loops import Loop, LoopResult, UnsupportedLoopError
from bilstm_exporter.ir.recurrence import Lowering, Recurrence, RecurrenceResult
from bilstm_exporter.targets.base import RecurrenceForm
from bilstm_exporter.targets.tflite.step_loops import LoopMarkers
from bilstm_exporter.targets.tflite.tensor_ops import ValidSteps
from bilstm_exporter.targets.tflite.tiling import MAX_STEPS_WITHOUT_LOOPS

FUSED = "UNIDIRECTIONAL_SEQUENCE_LSTM"
LOOP = "loop"
# A loop needs some operators around its step.
MIN_STEPS_OF_LOOPS = 3
NESTED = "it is inside of a step"


class IntegerLowering(Lowering):
    """Writes every recurrence as the fused LSTM, as a marker of a loop, or unrolled.

    Args:
        read_carries: The recurrences, counted from 0, whose final cell state something reads.
        why_unrolled: Why the file has no loops, or "".

    Attributes:
        forms: The form of each recurrence, in call order.
        markers: The markers of the loops.
    """

    def __init__(self, read_carries: frozenset[int], why_unrolled: str = "") -> None:
        self.forms: list[RecurrenceForm] = []
        self.markers = LoopMarkers()
        self._read_carries = read_carries
        self._why_unrolled = why_unrolled

    def lower(
        self, recurrence: Recurrence, sequences: Any, initial_state: Sequence[Any], mask: Any
    ) -> RecurrenceResult:
        """Write one recurrence; see `Lowering.lower`.

        Raises:
            UnsupportedModelError: It has to be unrolled and has more steps than
                `MAX_STEPS_WITHOUT_LOOPS`.
        """
        number = len(self.forms)
        reason = _why_not_fused(recurrence, initial_state)
        if not reason and number in self._read_carries:
            reason = "its final cell state is read, which the fused LSTM does not return"
        time = int(sequences.shape[1])
        rolled = bool(reason) and not self._why_unrolled and time >= MIN_STEPS_OF_LOOPS
        form = FUSED if not reason else LOOP if rolled else "unrolled"
        told = [reason, self._why_unrolled if form == "unrolled" else ""]
        reason = "; ".join(filter(None, told))
        self.forms.append(RecurrenceForm(recurrence.layer, form, reason))
        if form == "unrolled" and time > MAX_STEPS_WITHOUT_LOOPS:
            message = (
                f"int8-full: the layer {recurrence.layer!r} ({reason}) is unrolled, for "
                f"at most {MAX_STEPS_WITHOUT_LOOPS} steps, and --time is {time}. Choose a shorter "
                f"--time, or the recipe int8"
            )
            raise UnsupportedModelError(message)
        if recurrence.go_backwards:
            sequences = tf.reverse(sequences, axis=[1])
            mask = None if mask is None else tf.reverse(mask, axis=[1])
        first = _first_states(recurrence, sequences, initial_state)
        valid = None if mask is None else ValidSteps(mask)
        steps = sequences if valid is None else valid.to_front(sequences)
        if rolled:
            (outputs, *states), (last_output, *final) = self.markers.write(
                recurrence, steps, first, IntegerLowering(frozenset(), NESTED)
            )
        elif reason:
            outputs, states = _unrolled(recurrence, steps, first)
        else:
            outputs = self._fused(recurrence.cell, steps, str(number))
            states = [outputs]
        if not rolled:
            final = [state[:, time - 1] for state in states]
            last_output = outputs[:, time - 1]
        if valid is not None:
            outputs = valid.back(outputs, zeros=recurrence.zero_output_for_mask)
            final = [valid.final(a, b) for a, b in zip(first, states, strict=False)]
            last_output = outputs[:, time - 1]
        if not reason:
            # The fused LSTM returns no cell state; NaN makes a wrong read of it visible.
            final.append(tf.constant(np.full(first[1].shape, np.nan, np.float32)))
        if recurrence.go_backwards:
            outputs = tf.reverse(outputs, axis=[1])
        return RecurrenceResult(
            last_output=last_output,
            outputs=outputs if recurrence.return_sequences else None,
            states=final,
        )

    def lower_loop(self, loop: Loop) -> LoopResult:
        """Unroll a loop of a layer's own code; see `Lowering.lower_loop`.

        Raises:
            UnsupportedLoopError: It has too many iterations, or their number depends on values.
        """
        count = None if loop.iterations is None else loop.iterations.static
        if count is None or count > MAX_STEPS_WITHOUT_LOOPS:
            reason = (
                "runs a loop of its own, whose number of iterations depends on values; int8-full "
                "unrolls loops: choose the recipe int8"
                if count is None
                else f"runs a loop of its own of {count} iterations; int8-full unrolls at most "
                f"{MAX_STEPS_WITHOUT_LOOPS}: choose a shorter --time, or the recipe int8"
            )
            raise UnsupportedLoopError(loop.layer, reason)
        self.forms.append(RecurrenceForm(loop.layer, "unrolled", "a loop in the layer's own code"))
        carried, steps = list(loop.initial), []
        for _ in range(count):
            carried, items = loop.step(carried)
            steps.append(items)
        lists = [
            one.placed(tf.stack(items)) if count else one.start(0, one.size.tensor)
            for one, items in zip(
                loop.lists, zip(*steps, strict=True) if count else loop.lists, strict=True
            )
        ]
        return LoopResult(carried, lists)

    def _fused(self, cell: Any, steps: Any, number: str) -> Any:
        outputs = _fused(cell, steps, number)
        self.own_functions |= {outputs.op.get_attr("f").name}
        return outputs


def _why_not_fused(recurrence: Recurrence, initial_state: Sequence[Any]) -> str:
    cell = recurrence.cell
    if not isinstance(cell, LSTMCell):
        return f"{cell.kind}: TFLite has no integer operator for it"
    names = (cell.activation.name, cell.recurrent_activation.name)
    if names != ("tanh", "sigmoid"):
        return f"activations {names[0]} and {names[1]}; the fused LSTM has tanh and sigmoid"
    if any(state is not None for state in initial_state):
        return "an initial state, which the fused LSTM does not support"
    return ""


def _first_states(
    recurrence: Recurrence, sequences: Any, initial_state: Sequence[Any]
) -> list[Any]:
    return [
        tf.zeros([sequences.shape[0], recurrence.cell.zeros_width]) if state is None else state
        for state in initial_state
    ]


def _unrolled(recurrence: Recurrence, sequences: Any, states: list[Any]) -> tuple[Any, list[Any]]:
    """Unroll all steps; outputs and states ``[batch, time, ...]``."""
    cell = recurrence.cell
    inputs = cell.project_gates(sequences)
    outputs, all_states = [], []
    for position in range(int(sequences.shape[1])):
        output, states = cell.step_gates([part[:, position] for part in inputs], states)
        outputs.append(output)
        all_states.append(states)
    stacked = [tf.stack(state, axis=1) for state in zip(*all_states, strict=True)]
    return tf.stack(outputs, axis=1), stacked


def _fused(cell: Any, sequences: Any, number: str) -> Any:
    """Outputs ``[batch, time, units]`` of a function that becomes the fused LSTM."""
    batch, time, units = sequences.shape[0], int(sequences.shape[1]), cell.units

    def lstm(  # noqa: PLR0913, PLR0917 - the signature the converter expects
        inputs: Any, hidden: Any, carry: Any, kernel: Any, recurrent_kernel: Any, bias: Any
    ) -> Any:
        # Only the signature matters: the converter replaces the body by its operator.
        def step(position: Any, hidden: Any, carry: Any, outputs: Any) -> Any:
            products = tf.matmul(inputs[:, position], kernel) + tf.matmul(hidden, recurrent_kernel)
            i, f, candidate, o = tf.split(products + bias, 4, axis=1)
            carry = tf.sigmoid(f) * carry + tf.sigmoid(i) * tf.tanh(candidate)
            hidden = tf.sigmoid(o) * tf.tanh(carry)
            return position + 1, hidden, carry, outputs.write(position, hidden)

        results = tf.while_loop(
            lambda position, *_: position < time,
            step,
            [tf.constant(0), hidden, carry, tf.TensorArray(tf.float32, time)],
        )
        outputs = tf.transpose(results[3].stack(), [1, 0, 2])
        return results[1], outputs, results[1], results[2], tf.constant(1.0)

    function = tf.function(
        lstm,
        autograph=False,
        experimental_attributes={
            "api_implements": f"lstm_{number}",
            "api_preferred_device": "CPU",
            "time_major": False,
            "go_backwards": False,
        },
    )
    bias = np.zeros(4 * units, np.float32) if cell.bias is None else cell.bias
    zeros = tf.zeros([batch, units])
    weights = (tf.constant(array) for array in (cell.kernel, cell.recurrent_kernel, bias))
    return function(sequences, zeros, zeros, *weights)[1]
