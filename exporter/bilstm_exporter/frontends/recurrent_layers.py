"""What recurrent layers of Keras 2 and Keras 3 have in common.

A front end describes each call of a recurrent layer as a `LayerCall`. `RecurrentLayers` lowers
it, and returns the same tensors as Keras's own loops.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_type_hints

import tensorflow as tf

from bilstm_exporter.ir.cells import Activation, GatedCell
from bilstm_exporter.ir.recurrence import Bidirectional, Lowering, Recurrence, RecurrenceResult

LoopOutputs = tuple[Any, Any, list[Any]]
"""The return value of Keras's loops: last output, outputs in processing order, final states."""


@dataclass(frozen=True)
class LayerCall:
    """One call of a recurrent layer.

    Attributes:
        recurrence: The recurrence, with the layer's settings.
        sequences: ``[batch, time, ...] float32``.
        states: The initial states, flat; None for zeros that are not in the graph yet.
        mask: ``[batch, time] bool``, or None.
        unroll: Whether the layer unrolls its loop over time.
        given: Sequences and mask as Keras passed them to the layer, before any cast.
    """

    recurrence: Recurrence
    sequences: Any
    states: Sequence[Any]
    mask: Any
    unroll: bool
    given: tuple[Any, Any]

    @property
    def _zeros_in_input_order(self) -> bool:
        """Whether Keras zeroes outputs with a mask in the opposite order.

        For an unrolled backward layer, Keras applies the mask in input order to outputs in
        processing order. Keras's output is the reference.
        """
        recurrence = self.recurrence
        return bool(
            self.mask is not None
            and self.unroll
            and recurrence.go_backwards
            and recurrence.zero_output_for_mask
        )

    def to_lower(self) -> Recurrence:
        """Return the recurrence for the target; `finish` completes its result."""
        if self._zeros_in_input_order:
            return replace(self.recurrence, zero_output_for_mask=False)
        return self.recurrence

    def initial_state(self) -> list[Any]:
        """Return the initial states for the target: None for zeros, except for a StepCell."""
        if self.recurrence.cell.units is None:
            return list(self.states)
        return [None if _is_zeros(state) else state for state in self.states]

    def finish(self, result: RecurrenceResult) -> LoopOutputs:
        """Convert the result of a target to the return value of Keras's own loops."""
        last_output, outputs = result.last_output, result.outputs
        if outputs is None:
            outputs = tf.expand_dims(last_output, 1)
        elif self.recurrence.go_backwards:
            outputs = tf.reverse(outputs, [1])
        if self._zeros_in_input_order:
            zero = tf.zeros([], outputs.dtype)
            rank = len(outputs.shape)
            outputs = tf.where(_broadcast_to_rank(self.mask, rank), outputs, zero)
            last_mask = _broadcast_to_rank(self.mask[:, 0], rank - 1)
            last_output = tf.where(last_mask, last_output, zero)
        return last_output, outputs, list(result.states)

    def reads_the_same(self, other: LayerCall) -> bool:
        """Whether two calls read the same tensors: sequences, mask and initial states."""
        return (
            all(one is two for one, two in zip(self.given, other.given, strict=True))
            and len(self.states) == len(other.states)
            and all(map(_are_equal_states, self.states, other.states))
        )


@dataclass
class _BidirectionalCall:
    """A running call of a bidirectional layer.

    Attributes:
        layer: Keras's layer.
        describe_backward: Describes the call of the backward layer that will follow the call of
            the forward layer; returns None if the two cannot be lowered together.
        backward: The backward call that was lowered with the forward one, and its result, until
            Keras calls the backward layer.
    """

    layer: Any
    describe_backward: Callable[[LayerCall], LayerCall | None]
    backward: tuple[LayerCall, RecurrenceResult] | None = None


class RecurrentLayers:
    """Lowers the recurrent layers that Keras calls while a model is traced.

    Keras calls the forward layer of a bidirectional layer, then its backward layer. The target
    gets both at the first call. The result of the backward layer is kept until Keras calls it.

    Args:
        lowering: The lowering of the target.
    """

    def __init__(self, lowering: Lowering) -> None:
        self._lowering = lowering
        self._calls: list[_BidirectionalCall] = []

    @contextlib.contextmanager
    def calling_bidirectional(
        self, layer: Any, describe_backward: Callable[[LayerCall], LayerCall | None]
    ) -> Iterator[None]:
        """Register the call of a bidirectional layer for its duration; see `_BidirectionalCall`."""
        self._calls.append(_BidirectionalCall(layer, describe_backward))
        try:
            yield
        finally:
            self._calls.pop()

    def lower(self, layer: Any, call: LayerCall) -> LoopOutputs:
        """Lower one call of a layer; returns the same as Keras's own loop."""
        outer = self._calls[-1] if self._calls else None
        if outer is not None and layer is outer.layer.backward_layer and outer.backward is not None:
            (described, result), outer.backward = outer.backward, None
            if described.reads_the_same(call):
                return call.finish(result)
        elif outer is not None and layer is outer.layer.forward_layer:
            backward = outer.describe_backward(call)
            if backward is not None:
                return self._lower_both(outer, call, backward)
        result = self._lowering.lower(
            call.to_lower(), call.sequences, call.initial_state(), call.mask
        )
        return call.finish(result)

    def _lower_both(
        self, outer: _BidirectionalCall, forward: LayerCall, backward: LayerCall
    ) -> LoopOutputs:
        pair = Bidirectional(outer.layer.name, forward.to_lower(), backward.to_lower())
        states = forward.initial_state(), backward.initial_state()
        first, second = self._lowering.lower_bidirectional(
            pair, forward.sequences, states, forward.mask
        )
        outer.backward = (backward, second)
        return forward.finish(first)


def in_dtypes(
    step: Callable[[Any, list[Any]], tuple[Any, list[Any]]], inputs: Any, states: Sequence[Any]
) -> Callable[[Any, list[Any]], tuple[Any, list[Any]]]:
    """Give the step of a cell its tensors in their own dtypes; a recurrence has them in float32.

    A float32 holds every bool, and every integer up to 2 ** 24.

    Args:
        step: A step ``(inputs, states) -> (output, new states)``.
        inputs: The dtype of the sequences.
        states: The dtypes of the states.
    """
    if all(dtype == tf.float32 for dtype in (inputs, *states)):
        return step

    def in_float32(sequences: Any, values: list[Any]) -> tuple[Any, list[Any]]:
        own = [tf.cast(value, dtype) for value, dtype in zip(values, states, strict=True)]
        output, new_states = step(tf.cast(sequences, inputs), own)
        return tf.cast(output, tf.float32), [tf.cast(state, tf.float32) for state in new_states]

    return in_float32


def describe_gates(
    described: type[GatedCell],
    cell: Any,
    read: Callable[[Any], Any],
    describe: Callable[[Any], Activation],
) -> GatedCell:
    """Describe a cell whose attributes have the names of the description's fields.

    Args:
        described: The class of the description, a dataclass.
        cell: The cell, of Keras 2 or 3.
        read: Returns a weight as an array, and None for None.
        describe: Describes an activation.
    """
    types = get_type_hints(described)
    values: dict[str, Any] = {}
    for field in fields(described):  # type: ignore[arg-type] # every concrete cell is a dataclass
        value = getattr(cell, field.name, None)
        if types[field.name] is Activation:
            values[field.name] = describe(value)
        else:
            values[field.name] = value if types[field.name] is bool else read(value)
    bias = values["bias"]
    if bias is not None and bias.ndim == 2:  # [2, gates * units]: input and recurrent bias
        values["bias"], values["recurrent_bias"] = bias
    return described(**values)


def _is_zeros(tensor: Any) -> bool:
    """Whether an initial state is all zeros, as Keras's default; None means zeros."""
    if tensor is None:
        return True
    operation = getattr(tensor, "op", None)  # an eager tensor has none
    if operation is not None and operation.type == "Fill":
        tensor = operation.inputs[1]
    value = tf.get_static_value(tensor)
    return value is not None and not value.any()


def _are_equal_states(one: Any, other: Any) -> bool:
    """Whether two initial states are both zeros or the same tensor."""
    if one is None or other is None:
        return _is_zeros(one) and _is_zeros(other)
    return _before_identities(one) is _before_identities(other)


def _before_identities(tensor: Any) -> Any:
    operation = getattr(tensor, "op", None)
    while operation is not None and operation.type == "Identity":
        (tensor,) = operation.inputs
        operation = tensor.op
    return tensor


def _broadcast_to_rank(mask: Any, rank: int) -> Any:
    while len(mask.shape) < rank:
        mask = tf.expand_dims(mask, -1)
    return mask


class StateObserver:
    """Collects the final states of recurrences, without those of recurrences inside them.

    Attributes:
        states: The states so far.
    """

    def __init__(self) -> None:
        self.states: list[Any] = []
        self._is_inside = False

    def run(self, recurrence: Callable[[], Any], states_of: Callable[[Any], list[Any]]) -> Any:
        """Run a recurrence and collect its states.

        Args:
            recurrence: Runs it.
            states_of: Returns the states in what ``recurrence`` returns.

        Returns:
            What ``recurrence`` returns.
        """
        if self._is_inside:
            return recurrence()
        self._is_inside = True
        try:
            result = recurrence()
        finally:
            self._is_inside = False
        self.states += states_of(result)
        return result
