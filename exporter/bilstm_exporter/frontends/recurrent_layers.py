"""What Keras 2 and Keras 3 do alike around a recurrence, and how both are replaced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from bilstm_exporter.ir.recurrence import (
    Activation,
    Cell,
    GRUCell,
    Lowering,
    LSTMCell,
    Recurrence,
    SimpleRNNCell,
    StepCell,
)


@contextlib.contextmanager
def replaced(replacements: dict[tuple[Any, str], Any]) -> Iterator[None]:
    """Set attributes ``{(owner, name): value}``; put the old ones back on exit."""
    saved = {key: vars(key[0]).get(key[1]) for key in replacements}
    try:
        for (owner, name), value in replacements.items():
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name), value in saved.items():
            if value is None:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


def named_layers(layers: Iterable[Any], library: Any) -> list[tuple[str, str]]:
    """Name and class of every layer that does something itself.

    Args:
        layers: All of a model, nested ones too.
        library: ``keras`` or ``tf_keras``.
    """
    layers = list(layers)
    containers = (library.Model, library.layers.Wrapper, library.layers.InputLayer)
    cells = {id(layer.cell) for layer in layers if isinstance(layer, library.layers.RNN)}
    return [
        (layer.name, type(layer).__name__)
        for layer in layers
        if not isinstance(layer, containers) and id(layer) not in cells
    ]


def describe_gates(
    described: type[LSTMCell | GRUCell | SimpleRNNCell],
    cell: Any,
    read: Callable[[Any], Any],
    describe: Callable[[Any], Activation],
) -> Cell:
    """Describe a cell of Keras's own, whose attributes have had the same names since Keras 2.

    Args:
        described: As what.
        cell: The cell.
        read: Gives a weight as an array, and None for none.
        describe: Names an activation.
    """
    kernels = {"kernel": read(cell.kernel), "recurrent_kernel": read(cell.recurrent_kernel)}
    bias, activation = read(cell.bias), describe(cell.activation)
    if described is SimpleRNNCell:
        return SimpleRNNCell(**kernels, bias=bias, activation=activation)
    recurrent_activation = describe(cell.recurrent_activation)
    if described is LSTMCell:
        return LSTMCell(
            **kernels,
            bias=bias,
            activation=activation,
            recurrent_activation=recurrent_activation,
        )
    two_biases = bias is not None and bias.ndim == 2  # [2, 3 * units]
    return GRUCell(
        **kernels,
        bias=bias[0] if two_biases else bias,
        recurrent_bias=bias[1] if two_biases else None,
        activation=activation,
        recurrent_activation=recurrent_activation,
        reset_after=cell.reset_after,
    )


def lower_as_keras(  # noqa: PLR0913 - a layer's call and two settings
    lowering: Lowering,
    recurrence: Recurrence,
    sequences: Any,
    states: Sequence[Any],
    mask: Any,
    *,
    unroll: bool,
) -> tuple[Any, Any, list[Any]]:
    """Lower a recurrence, and give back what Keras's own loops give.

    Args:
        lowering: The target's.
        recurrence: As the layer is set.
        sequences: ``[batch, time, ...] float32``.
        states: The initial states, flat.
        mask: ``[batch, time] bool``, or None.
        unroll: Whether the layer writes its steps out.

    Returns:
        The last output, the outputs in the order they were processed (one step without
        ``return_sequences``), and the final states.
    """
    # Keras zeroes the masked outputs of an unrolled backward layer with the mask in
    # input order, not in the order it processed: the definition of right.
    crossed_zeros = (
        mask is not None and unroll and recurrence.go_backwards and recurrence.zero_output_for_mask
    )
    if crossed_zeros:
        recurrence = replace(recurrence, zero_output_for_mask=False)
    if not isinstance(recurrence.cell, StepCell):
        states = [None if _is_zeros(state) else state for state in states]
    result = lowering.lower(recurrence, sequences, states, mask)
    last_output, outputs = result.last_output, result.outputs
    if outputs is None:
        outputs = tf.expand_dims(last_output, 1)
    elif recurrence.go_backwards:
        outputs = tf.reverse(outputs, [1])
    if crossed_zeros:
        zero = tf.zeros([], outputs.dtype)
        rank = len(outputs.shape)
        outputs = tf.where(_broadcast_to_rank(mask, rank), outputs, zero)
        last_output = tf.where(_broadcast_to_rank(mask[:, 0], rank - 1), last_output, zero)
    return last_output, outputs, list(result.states)


def before_flip(tensor: Any, axis: int) -> Any:
    """The tensor before a reversal of this very axis, or None if it comes from no such thing.

    Bidirectional flips what its backward layer has just flipped.
    """
    operation = getattr(tensor, "op", None)
    if operation is not None and operation.type == "ReverseV2":
        before, axes = operation.inputs
        if list(tf.get_static_value(axes)) == [axis % len(tensor.shape)]:
            return before
    return None


def _is_zeros(tensor: Any) -> bool:
    """Whether a tensor of the graph is all zeros, as Keras's default initial states are."""
    operation = tensor.op
    if operation.type == "Fill":
        tensor = operation.inputs[1]
    value = tf.get_static_value(tensor)
    return value is not None and not value.any()


def _broadcast_to_rank(mask: Any, rank: int) -> Any:
    while len(mask.shape) < rank:
        mask = tf.expand_dims(mask, -1)
    return mask
