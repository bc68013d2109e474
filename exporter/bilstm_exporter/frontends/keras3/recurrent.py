"""Lowers the recurrent layers of Keras 3 while a model is traced.

Every recurrent layer of Keras calls ``RNN.inner_loop`` (or the override in LSTM, GRU and
ConvLSTM) in every use: in a Sequential, nested, subclassed, inside Bidirectional, with masks, with
initial states. `lowered_recurrences` replaces that method by a target's lowering and restores it
on exit. It also wraps ``Bidirectional.call``, to lower both directions in one call.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from bilstm_exporter.errors import KerasContractError, UnsupportedModelError
from bilstm_exporter.frontends.patching import replaced
from bilstm_exporter.frontends.recurrent_layers import (
    LayerCall,
    RecurrentLayers,
    StateObserver,
    describe_gates,
    in_dtypes,
)
from bilstm_exporter.frontends.reference.compiled_loops import CompiledLoops, LoopArguments
from bilstm_exporter.ir.cells import (
    Activation,
    Cell,
    GatedCell,
    GRUCell,
    LSTMCell,
    SimpleRNNCell,
    StepCell,
)
from bilstm_exporter.ir.markers import UnknownReadError
from bilstm_exporter.ir.recurrence import Lowering, Recurrence

_RECURRENT_CLASSES = (keras.layers.RNN, keras.layers.LSTM, keras.layers.GRU)
_OWN_LAYERS = (keras.layers.RNN, keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN)
_OWN_CELLS: dict[Any, type[GatedCell]] = {
    keras.layers.LSTMCell: LSTMCell,
    keras.layers.GRUCell: GRUCell,
    keras.layers.SimpleRNNCell: SimpleRNNCell,
}
_FUSED_GATES = ("_can_attempt_fused_lstm", "_can_attempt_fused_gru")
_INNER_LOOP = ["self", "sequences", "initial_state", "mask", "training"]


def check_contract() -> None:
    """Check that the installed Keras has the expected methods, which are replaced here.

    Raises:
        KerasContractError: Some differ; the message lists them.
    """
    differences = []
    for cls in _RECURRENT_CLASSES:
        method = vars(cls).get("inner_loop")
        if method is None:
            differences.append(f"{cls.__name__} has no inner_loop of its own")
        elif list(inspect.signature(method).parameters) != _INNER_LOOP:
            found = ", ".join(inspect.signature(method).parameters)
            differences.append(f"{cls.__name__}.inner_loop takes ({found})")
    if not hasattr(keras.layers.RNN, "_maybe_config_dropout_masks"):
        differences.append("RNN has no _maybe_config_dropout_masks")
    # Since 3.15, Keras can bypass inner_loop with a fused call; find such calls under new names.
    unknown = [
        name
        for name in vars(keras.layers.Bidirectional)
        if "fused" in name and name.startswith("_can") and name not in _FUSED_GATES
    ]
    differences.extend(
        f"Bidirectional has an unknown bypass of inner_loop, {name}" for name in unknown
    )
    if differences:
        message = (
            f"Keras {keras.__version__} runs its recurrent layers differently from the supported "
            f"versions ({'; '.join(differences)}). Install a version of Keras that bilstm-edge "
            f"requires, or a newer bilstm-edge"
        )
        raise KerasContractError(message)


@contextlib.contextmanager
def lowered_recurrences(lowering: Lowering) -> Iterator[None]:
    """Send every recurrence that Keras runs in this context to ``lowering``."""
    layers = RecurrentLayers(lowering)

    def lowered(own_loop: Callable[..., Any]) -> Callable[..., Any]:
        def inner_loop(
            layer: Any, sequences: Any, initial_state: Any, mask: Any, training: Any = None
        ) -> tuple[Any, Any, Any]:
            del training  # always inference
            call = _described_call(layer, sequences, initial_state, mask)
            try:
                last_output, outputs, states = layers.lower(layer, call)
            except UnknownReadError:
                # The loop that Keras writes is lowered after the trace, as any other loop.
                return own_loop(layer, sequences, initial_state, mask, training=False)  # type: ignore[no-any-return]
            return last_output, outputs, tree.pack_sequence_as(initial_state, states)

        return inner_loop

    original = keras.layers.Bidirectional.call

    @functools.wraps(original)  # Keras inspects the signature of a call method
    def bidirectional_call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(original).bind(layer, *args, **kwargs)
        states = bound.arguments.get("initial_state")
        with layers.calling_bidirectional(layer, lambda call: _backward_call(layer, states, call)):
            return original(layer, *args, **kwargs)

    replacements: dict[tuple[type, str], Callable[..., Any]] = {
        (cls, "inner_loop"): lowered(vars(cls)["inner_loop"]) for cls in _RECURRENT_CLASSES
    }
    replacements[keras.layers.Bidirectional, "call"] = bidirectional_call
    # Bidirectional would bypass inner_loop with a fused call of its own.
    for gate in _FUSED_GATES:
        if hasattr(keras.layers.Bidirectional, gate):
            replacements[keras.layers.Bidirectional, gate] = lambda *_args, **_kwargs: False
    # Inactive dropout would still draw its masks and add random operators to the graph.
    replacements[keras.layers.RNN, "_maybe_config_dropout_masks"] = lambda *_args: None
    with replaced(replacements):
        yield


def _described_call(layer: Any, sequences: Any, initial_state: Any, mask: Any) -> LayerCall:
    """Describe a call of ``layer.inner_loop``."""
    dtype = tf.as_dtype(layer.compute_dtype)
    if dtype != tf.float32:
        message = (
            f"layer {layer.name!r} computes in {dtype.name} (dtype policy "
            f"{layer.dtype_policy.name!r}); only float32 can be exported: build the model with "
            f"the policy 'float32' and load the same weights"
        )
        raise UnsupportedModelError(message, layers=(layer.name,))
    # The states of a stateful layer are variables.
    states = [tf.convert_to_tensor(state) for state in tree.flatten(initial_state)]
    mask = tree.flatten(mask)[0] if mask is not None else None
    return LayerCall(
        recurrence=_recurrence(layer, describe_cell(layer, initial_state, sequences.dtype)),
        # Keras casts integers and bools where a cell multiplies them with its kernel.
        sequences=tf.cast(sequences, tf.float32),
        states=states,
        mask=None if mask is None else tf.cast(mask, tf.bool),
        unroll=layer.unroll,
        given=(sequences, mask),
    )


def _recurrence(layer: Any, cell: Cell) -> Recurrence:
    return Recurrence(
        layer=layer.name,
        cell=cell,
        go_backwards=layer.go_backwards,
        return_sequences=layer.return_sequences,
        zero_output_for_mask=layer.zero_output_for_mask,
    )


def _backward_call(wrapper: Any, initial_state: Any, forward: LayerCall) -> LayerCall | None:
    """Describe the call of the backward layer, as `keras.layers.Bidirectional` will make it.

    Args:
        wrapper: The Bidirectional.
        initial_state: Its initial states; the second half is for the backward layer.
        forward: The call of the forward layer.

    Returns:
        The call; None if a layer or cell is not Keras's own, so that it may change its arguments,
        or if the two layers cannot read the same tensors.
    """
    first, layer = wrapper.forward_layer, wrapper.backward_layer
    if (
        not all(type(one) in _OWN_LAYERS and type(one.cell) in _OWN_CELLS for one in (first, layer))
        or first.go_backwards == layer.go_backwards
        or first.compute_dtype != layer.compute_dtype
        or first.variable_dtype != layer.variable_dtype
    ):
        return None
    cell = describe_cell(layer, None)
    states: Sequence[Any] = [None] * cell.state_count
    if initial_state is not None:
        states = initial_state[len(initial_state) // 2 :]
        if not all(tf.is_tensor(state) and state.dtype == tf.float32 for state in states):
            return None
    elif layer.stateful:
        states = [tf.convert_to_tensor(state) for state in tree.flatten(layer.states)]
    if len(states) != cell.state_count:
        return None
    recurrence = _recurrence(layer, cell)
    return replace(forward, recurrence=recurrence, states=states, unroll=layer.unroll)


def describe_cell(layer: Any, initial_state: Any, dtype: Any = tf.float32) -> Cell:
    """Describe the cell of a Keras 3 layer: by its gates if it is Keras's own, else as a step.

    Args:
        layer: The layer.
        initial_state: Its initial states, in the structure that the cell takes.
        dtype: The dtype of the sequences.
    """
    cell = layer.cell
    described = _OWN_CELLS.get(type(cell))
    if described is not None:
        return describe_gates(described, cell, _numpy, describe_activation)
    count = len(tree.flatten(initial_state))
    step = in_dtypes(_step_function(cell, initial_state), dtype, [tf.float32] * count)
    return StepCell(function=step, state_count=count)


def _step_function(cell: Any, structure: Any) -> Callable[[Any, list[Any]], tuple[Any, list[Any]]]:
    kwargs = {"training": False} if getattr(cell, "_call_has_training_arg", False) else {}

    def step(inputs: Any, states: Sequence[Any]) -> tuple[Any, list[Any]]:
        nested = tree.pack_sequence_as(structure, list(states))
        output, new_states = cell(inputs, nested, **kwargs)
        return output, tree.flatten(new_states)

    return step


def describe_activation(function: Any) -> Activation:
    """Describe an activation: by name if it is Keras's own, else only by its function."""
    function = keras.activations.linear if function is None else function
    name = getattr(function, "__name__", "")
    known = getattr(keras.activations, name, None) is function
    return Activation(name=name if known else None, function=function)


def _numpy(weight: Any) -> Any:
    if weight is None:
        return None
    return tf.get_static_value(tf.convert_to_tensor(weight))


@contextlib.contextmanager
def compiled_recurrences(loops: CompiledLoops) -> Iterator[None]:
    """Run every recurrence that Keras runs in this context through ``loops``."""

    def compiled(cls: type, own_loop: Callable[..., Any]) -> Callable[..., Any]:
        def inner_loop(
            layer: Any, sequences: Any, initial_state: Any, mask: Any, training: Any = None
        ) -> Any:
            def loop(arguments: LoopArguments) -> Any:
                given = (arguments.sequences, arguments.states, arguments.mask)
                return own_loop(layer, *given, training=training)

            if layer.unroll or training or tf.nest.is_nested(sequences):
                return own_loop(layer, sequences, initial_state, mask, training=training)
            states = tree.map_structure(keras.ops.convert_to_tensor, initial_state)
            mask = tree.flatten(mask)[0] if mask is not None else None
            key = (id(layer), cls, layer.compute_dtype)
            return loops.run(key, loop, LoopArguments(sequences, states, mask))

        return inner_loop

    with replaced(
        {(cls, "inner_loop"): compiled(cls, vars(cls)["inner_loop"]) for cls in _RECURRENT_CLASSES}
    ):
        yield


@contextlib.contextmanager
def observed_states() -> Iterator[list[Any]]:
    """Collect the final states of every recurrence that Keras runs in this context."""
    observer = StateObserver()

    def observing(original: Callable[..., Any]) -> Callable[..., Any]:
        def inner_loop(layer: Any, *args: Any, **kwargs: Any) -> Any:
            return observer.run(
                lambda: original(layer, *args, **kwargs), lambda result: tree.flatten(result[2])
            )

        return inner_loop

    with replaced(
        {(cls, "inner_loop"): observing(vars(cls)["inner_loop"]) for cls in _RECURRENT_CLASSES}
    ):
        yield observer.states
