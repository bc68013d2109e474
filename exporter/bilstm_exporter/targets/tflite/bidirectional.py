"""The lowering of the TFLite target: recurrences as loops, if possible one for both directions.

A front end passes a bidirectional layer as a pair. Two separate layers of opposite directions
arrive one by one, and the first is lowered alone. If the second processes the same sequence in the
opposite direction, both are lowered again as one loop, and the consumers of the first result are
redirected to the new one. The first loop is then unused, and the converter removes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from bilstm_exporter.errors import UnsupportedModelError
from bilstm_exporter.ir.cells import Cell
from bilstm_exporter.ir.loops import Loop, LoopResult
from bilstm_exporter.ir.recurrence import Bidirectional, Lowering, Recurrence, RecurrenceResult
from bilstm_exporter.ir.traversal import WHILE_OPERATORS
from bilstm_exporter.targets.base import RecurrenceForm
from bilstm_exporter.targets.tflite import loop, own_loop
from bilstm_exporter.targets.tflite.tiling import MAX_STEPS_WITHOUT_LOOPS, fits_one_loop


@dataclass(frozen=True)
class _Single:
    """A recurrence lowered alone; its Identity results can be redirected to a joint loop."""

    recurrence: Recurrence
    sequences: Any
    mask: Any
    result: RecurrenceResult


class LoopLowering(Lowering):
    """Writes recurrences as loops; both directions share one loop if it fits the caches.

    Args:
        weight_bytes: Size of one element of a kernel in the computation.
        unrolled: Whether the file may have no loops.
        usual_steps: The number of steps of most runs; see `tile_time`.

    Attributes:
        cells: The cell of each recurrence, in call order.
        forms: How each recurrence was written.
    """

    def __init__(
        self, weight_bytes: int, *, unrolled: bool = False, usual_steps: int | None = None
    ) -> None:
        self.cells: list[Cell] = []
        self.forms: list[RecurrenceForm] = []
        self._weight_bytes = weight_bytes
        self._unrolled, self._usual_steps = unrolled, usual_steps
        self._waiting: list[_Single] = []

    def lower(
        self, recurrence: Recurrence, sequences: Any, initial_state: Sequence[Any], mask: Any
    ) -> RecurrenceResult:
        """Write one recurrence, or rewrite it and an earlier one together; see `Lowering.lower`."""
        with self._writing():
            return self._lower(recurrence, sequences, initial_state, mask)

    def _lower(
        self, recurrence: Recurrence, sequences: Any, initial_state: Sequence[Any], mask: Any
    ) -> RecurrenceResult:
        self._report(recurrence, sequences)
        if not self._fits_one_loop(recurrence, sequences, initial_state):
            return self._lower_alone(recurrence, sequences, initial_state, mask)
        for other in self._waiting:
            if (
                other.sequences is sequences
                and _is_same_mask(other.mask, mask)
                and _differ_in_weights_and_direction_only(other.recurrence, recurrence)
            ):
                self._waiting.remove(other)
                first, second = self._lower_both(other.recurrence, recurrence, sequences, mask)
                for identity, tensor in zip(_tensors(other.result), _tensors(first), strict=True):
                    _replace_input(identity, tensor)
                return second
        result = self._lower_alone(recurrence, sequences, initial_state, mask)
        replaceable = RecurrenceResult(
            tf.identity(result.last_output),
            None if result.outputs is None else tf.identity(result.outputs),
            [tf.identity(state) for state in result.states],
        )
        self._waiting.append(_Single(recurrence, sequences, mask, replaceable))
        return replaceable

    def lower_bidirectional(
        self,
        pair: Bidirectional,
        sequences: Any,
        initial_states: tuple[Sequence[Any], Sequence[Any]],
        mask: Any,
    ) -> tuple[RecurrenceResult, RecurrenceResult]:
        """Write both directions as one loop if possible; see `Lowering.lower_bidirectional`."""
        if not (
            all(
                self._fits_one_loop(recurrence, sequences, states)
                for recurrence, states in zip(
                    (pair.forward, pair.backward), initial_states, strict=True
                )
            )
            and _differ_in_weights_and_direction_only(pair.forward, pair.backward)
        ):
            return super().lower_bidirectional(pair, sequences, initial_states, mask)
        self._report(pair.forward, sequences)
        self._report(pair.backward, sequences)
        with self._writing():
            return self._lower_both(pair.forward, pair.backward, sequences, mask)

    def lower_loop(self, loop: Loop) -> LoopResult:
        """Write a loop of a layer's own code; see `Lowering.lower_loop`."""
        self.forms.append(RecurrenceForm(loop.layer, "loop"))
        return own_loop.lower_loop(loop)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Remember the loops that are added to the current graph."""
        graph = tf.compat.v1.get_default_graph()
        before = len(graph.get_operations())
        yield
        added = graph.get_operations()[before:]
        self.own_functions |= {
            operation.get_attr("body").name
            for operation in added
            if operation.type in WHILE_OPERATORS
        }

    def _report(self, recurrence: Recurrence, sequences: Any) -> None:
        self.cells.append(recurrence.cell)
        self.forms.append(
            RecurrenceForm(recurrence.layer, "unrolled" if self._unrolled else "loop")
        )
        time = sequences.shape[1]
        if self._unrolled and time > MAX_STEPS_WITHOUT_LOOPS:
            message = (
                f"the layer {recurrence.layer!r} is unrolled, because a runtime of --target takes "
                f"no loops, for at most {MAX_STEPS_WITHOUT_LOOPS} steps, and it has {time}. Choose "
                f"a shorter --time"
            )
            raise UnsupportedModelError(message, layers=[recurrence.layer])

    def _lower_alone(
        self, recurrence: Recurrence, sequences: Any, initial_state: Sequence[Any], mask: Any
    ) -> RecurrenceResult:
        return loop.lower(
            recurrence,
            sequences,
            initial_state,
            mask,
            self._weight_bytes,
            unrolled=self._unrolled,
            usual_steps=self._usual_steps,
        )

    def _fits_one_loop(
        self, recurrence: Recurrence, sequences: Any, initial_state: Sequence[Any]
    ) -> bool:
        return all(state is None for state in initial_state) and fits_one_loop(
            recurrence.cell,
            sequences.shape[1],
            self._weight_bytes,
            return_sequences=recurrence.return_sequences,
        )

    def _lower_both(
        self, one: Recurrence, other: Recurrence, sequences: Any, mask: Any
    ) -> tuple[RecurrenceResult, RecurrenceResult]:
        """Write two recurrences of opposite directions, in either order, as one loop."""
        forward, backward = sorted((one, other), key=lambda single: single.go_backwards)
        first, second = loop.lower_both(
            forward,
            backward,
            sequences,
            mask,
            self._weight_bytes,
            unrolled=self._unrolled,
            usual_steps=self._usual_steps,
        )
        return (first, second) if forward is one else (second, first)


def _tensors(result: RecurrenceResult) -> list[Any]:
    outputs = [] if result.outputs is None else [result.outputs]
    return [result.last_output, *outputs, *result.states]


def _replace_input(identity: Any, tensor: Any) -> None:
    """Replace the input of an Identity.

    This creates no cycle: both recurrences depend only on their weights, the sequence and the mask,
    which precede them in the graph.
    """
    tensor.set_shape(identity.shape)
    identity.op._update_input(0, tensor)  # noqa: SLF001 - TensorFlow's while_v2 does the same


def _is_same_mask(one: Any, other: Any) -> bool:
    """Whether two masks are the same tensor, or casts of it to the same type."""
    if one is None or other is None or one is other:
        return one is other
    casts = all(mask.op.type == "Cast" for mask in (one, other))
    return casts and one.dtype == other.dtype and one.op.inputs[0] is other.op.inputs[0]


def _differ_in_weights_and_direction_only(one: Recurrence, other: Recurrence) -> bool:
    return (
        one.go_backwards != other.go_backwards
        and one.return_sequences == other.return_sequences
        and one.zero_output_for_mask == other.zero_output_for_mask
        and one.cell.differs_in_weights_only(other.cell)
    )
