"""Lowers the recurrent layers of tf_keras, the last Keras 2, while a model is traced.

Every recurrent layer of Keras 2 calls ``backend.rnn``. LSTM and GRU call it through
``standard_lstm`` and ``standard_gru`` in eager mode, and through a function that selects a
backend in a graph. `lowered_recurrences` makes the graph use the eager functions, and replaces
``backend.rnn`` by a target's lowering. It also wraps ``Bidirectional.call``, to lower both
directions in one call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow.python.eager.context import eager_mode
from tensorflow.python.ops.resource_variable_ops import BaseResourceVariable, ResourceVariable
from tf_keras.src import backend
from tf_keras.src.engine import base_layer_utils
from tf_keras.src.layers.rnn import gru, gru_v1, lstm, lstm_v1, simple_rnn

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

_OWN_CELLS: dict[Any, type[GatedCell]] = {
    lstm.LSTMCell: LSTMCell,
    lstm_v1.LSTMCell: LSTMCell,
    gru.GRUCell: GRUCell,
    gru_v1.GRUCell: GRUCell,
    simple_rnn.SimpleRNNCell: SimpleRNNCell,
}
_OWN_LAYERS = (
    tf_keras.layers.RNN,
    tf_keras.layers.SimpleRNN,
    lstm.LSTM,
    lstm_v1.LSTM,
    gru.GRU,
    gru_v1.GRU,
)
_OWN_MODULES = "tf_keras.src.layers.rnn."
# Functions of Keras 2 whose name has another meaning in Keras 3, with a distinct name.
_ONLY_IN_KERAS2 = {"hard_sigmoid": "hard_sigmoid_keras2"}


def check_contract() -> None:
    """Check that the installed tf_keras has the functions that are replaced here.

    Raises:
        KerasContractError: Some are missing; the message lists them.
    """
    required = {
        lstm: ("standard_lstm", "lstm_with_backend_selection"),
        gru: ("standard_gru", "gru_with_backend_selection"),
        backend: ("rnn", "reverse"),
        base_layer_utils: ("call_context",),
        ResourceVariable: ("assign",),
        BaseResourceVariable: ("_read_variable_op", "sparse_read", "gather_nd"),
    }
    missing = [
        f"{owner.__name__} has no {name}"
        for owner, names in required.items()
        for name in names
        if not hasattr(owner, name)
    ]
    if missing:
        message = (
            f"tf_keras {tf_keras.__version__} runs its recurrent layers differently from the "
            f"supported versions ({'; '.join(missing)}). Install a version that bilstm-edge "
            f"requires (pip install 'bilstm-edge[legacy]'), or a newer bilstm-edge"
        )
        raise KerasContractError(message)


@contextlib.contextmanager
def lowered_recurrences(lowering: Lowering) -> Iterator[None]:
    """Send every recurrence that tf_keras runs in this context to ``lowering``."""
    layers = RecurrentLayers(lowering)
    own_rnn = backend.rnn

    def rnn(step_function: Any, inputs: Any, initial_states: Any, *args: Any, **kwargs: Any) -> Any:
        loop = _Loop(step_function, inputs, initial_states, *args, **kwargs)
        layer = base_layer_utils.call_context().layer
        try:
            if describe_cell(layer, step_function) is None and not _is_recurrence(loop):
                return own_rnn(step_function, inputs, initial_states, *args, **kwargs)
            last_output, outputs, states = layers.lower(layer, _described_call(layer, loop))
        except UnknownReadError:
            # The loop that tf_keras writes is lowered after the trace, as any other loop.
            return own_rnn(step_function, inputs, initial_states, *args, **kwargs)
        if loop.time_major:
            outputs = _swap_batch_and_time(outputs)
        initial = tf.nest.flatten(initial_states)
        states = [
            tf.cast(state, first.dtype)
            for state, first in zip(states[: len(initial)], initial, strict=True)
        ]
        return last_output, outputs, tf.nest.pack_sequence_as(initial_states, states)

    original = tf_keras.layers.Bidirectional.call

    # tf_keras inspects the signature of a call method.
    def bidirectional_call(  # noqa: PLR0913, PLR0917 - the signature of tf_keras
        layer: Any,
        inputs: Any,
        training: Any = None,
        mask: Any = None,
        initial_state: Any = None,
        constants: Any = None,
    ) -> Any:
        def backward(forward: LayerCall) -> LayerCall | None:
            if constants is not None:
                return None
            return _backward_call(layer, inputs, initial_state, forward)

        with layers.calling_bidirectional(layer, backward):
            return original(layer, inputs, training, mask, initial_state, constants)

    # Inactive dropout would still draw its masks and add random operators to the graph.
    no_mask = dict.fromkeys(
        [(cls, "get_dropout_mask_for_cell") for cls in (lstm.LSTM, gru.GRU)], lambda *_, **__: None
    )
    with replaced(
        {
            (lstm, "lstm_with_backend_selection"): lstm.standard_lstm,
            (gru, "gru_with_backend_selection"): gru.standard_gru,
            (backend, "rnn"): rnn,
            (tf_keras.backend, "rnn"): rnn,
            (tf_keras.layers.Bidirectional, "call"): bidirectional_call,
            **no_mask,
        }
    ):
        yield


@dataclass(frozen=True)
class _Loop:
    """The arguments of ``backend.rnn``."""

    step_function: Callable[..., Any]
    inputs: Any
    initial_states: Any
    go_backwards: bool = False
    mask: Any = None
    constants: Any = None
    unroll: bool = False
    input_length: Any = None
    time_major: bool = False
    zero_output_for_mask: bool = False
    return_all_outputs: bool = True


def _is_recurrence(loop: _Loop) -> bool:
    """Whether a loop can be described: one sequence, and no integers."""
    if tf.nest.is_nested(loop.inputs):
        return False
    tensors = [loop.inputs, *tf.nest.flatten(loop.initial_states), *(loop.constants or [])]
    return all(tf.convert_to_tensor(tensor).dtype.is_floating for tensor in tensors)


def _described_call(layer: Any, loop: _Loop) -> LayerCall:
    """Describe a call of ``backend.rnn``."""
    name = getattr(layer, "name", "") or "recurrence"
    sequences, mask = loop.inputs, loop.mask
    constants = list(loop.constants or [])
    states = [*map(tf.convert_to_tensor, tf.nest.flatten(loop.initial_states)), *constants]
    _require_float32(name, layer, [sequences, *states])
    dtypes = (sequences.dtype, [state.dtype for state in states])
    sequences, *states = [tf.cast(tensor, tf.float32) for tensor in (sequences, *states)]
    if mask is not None:
        mask = tf.cast(mask, tf.bool)
        if len(mask.shape) == 3:
            mask = tf.squeeze(mask, -1)
    if loop.time_major:
        sequences = _swap_batch_and_time(sequences)
        mask = None if mask is None else _swap_batch_and_time(mask)
    cell = describe_cell(layer, loop.step_function) or _step_cell(loop, *dtypes)
    if not states:  # a loop without states gets one that is never read
        states = [tf.zeros([tf.shape(sequences)[0], 1])]
    recurrence = Recurrence(
        layer=name,
        cell=cell,
        go_backwards=loop.go_backwards,
        return_sequences=loop.return_all_outputs,
        zero_output_for_mask=loop.zero_output_for_mask,
    )
    given = (loop.inputs, loop.mask)
    return LayerCall(recurrence, sequences, states, mask, loop.unroll, given)


def _backward_call(
    wrapper: Any, inputs: Any, initial_state: Any, forward: LayerCall
) -> LayerCall | None:
    """Describe the call of the backward layer, as `tf_keras.layers.Bidirectional` will make it.

    Args:
        wrapper: The Bidirectional.
        inputs: Its inputs: sequences, or a list of sequences and initial states.
        initial_state: Its initial states; the second half is for the backward layer.
        forward: The call of the forward layer.

    Returns:
        The call; None if a layer or cell is not tf_keras's own, so that it may change its
        arguments, or if the two layers cannot read the same tensors.
    """
    first, layer = wrapper.forward_layer, wrapper.backward_layer
    if (
        not all(type(one) in _OWN_LAYERS and type(one.cell) in _OWN_CELLS for one in (first, layer))
        or first.go_backwards == layer.go_backwards
        or first.time_major != layer.time_major
        or first.compute_dtype != layer.compute_dtype
    ):
        return None
    cell = describe_gates(_OWN_CELLS[type(layer.cell)], layer.cell, _numpy, describe_activation)
    if isinstance(inputs, list) and len(inputs) > 1:
        initial_state = inputs[1:]
    states: Sequence[Any] = [None] * cell.state_count
    if initial_state is not None:
        states = initial_state[len(initial_state) // 2 :]
        if layer.stateful or not all(map(tf.is_tensor, states)):
            return None  # a stateful layer uses these only where its own states are zero
    elif layer.stateful:
        states = [tf.convert_to_tensor(state) for state in tf.nest.flatten(layer.states)]
    if len(states) != cell.state_count or any(
        state is not None and state.dtype.base_dtype != tf.float32 for state in states
    ):
        return None
    recurrence = Recurrence(
        layer=layer.name,
        cell=cell,
        go_backwards=layer.go_backwards,
        return_sequences=layer.return_sequences,
        zero_output_for_mask=layer.zero_output_for_mask,
    )
    return replace(forward, recurrence=recurrence, states=states, unroll=layer.unroll)


def _require_float32(name: str, layer: Any, tensors: Sequence[Any]) -> None:
    for tensor in tensors:
        # A cell of the user's own may take integers and bools.
        if tensor.dtype.is_floating and tensor.dtype.base_dtype != tf.float32:
            policy = getattr(getattr(layer, "_dtype_policy", None), "name", "")
            message = (
                f"layer {name!r} computes in {tensor.dtype.name} (dtype policy {policy!r}); only "
                f"float32 can be exported: build the model with the policy 'float32' and load "
                f"the same weights"
            )
            raise UnsupportedModelError(message, layers=(name,))


def _swap_batch_and_time(tensor: Any) -> Any:
    return tf.transpose(tensor, [1, 0, *range(2, len(tensor.shape))])


def describe_cell(layer: Any, step_function: Callable[..., Any]) -> Cell | None:
    """Describe the gates of a layer's cell, if layer and cell are tf_keras's own."""
    cell: Any = getattr(layer, "cell", None)
    is_own = getattr(step_function, "__module__", "").startswith(_OWN_MODULES)
    described = _OWN_CELLS.get(type(cell)) if is_own else None
    return describe_gates(described, cell, _numpy, describe_activation) if described else None


def _step_cell(loop: _Loop, inputs_dtype: Any, state_dtypes: Sequence[Any]) -> StepCell:
    """Make a cell of the step function; its constants become states that never change."""
    structure = loop.initial_states
    own, count = len(tf.nest.flatten(structure)), len(loop.constants or [])

    def step(inputs: Any, states: Sequence[Any]) -> tuple[Any, list[Any]]:
        states = list(states)
        nested = tf.nest.pack_sequence_as(structure, states[:own])
        constants = states[own : own + count]
        # Also if the step is traced later, outside of this trace.
        with constant_weights():
            output, new_states = loop.step_function(inputs, (*nested, *constants))
        flat = [tensor for tensor in tf.nest.flatten(new_states) if tf.is_tensor(tensor)]
        return output, [*flat, *states[own:]]

    if not state_dtypes:  # a state that is never read
        return StepCell(function=in_dtypes(step, inputs_dtype, [tf.float32]), state_count=1)
    step_in_float32 = in_dtypes(step, inputs_dtype, state_dtypes)
    return StepCell(function=step_in_float32, state_count=own + count)


def describe_activation(function: Any) -> Activation:
    """Describe an activation: by name if it is tf_keras's own, else only by its function."""
    function = tf_keras.activations.linear if function is None else function
    name = getattr(function, "__name__", "")
    known = getattr(tf_keras.activations, name, None) is function
    return Activation(_ONLY_IN_KERAS2.get(name, name) if known else None, function)


def _numpy(variable: Any) -> Any:
    if variable is None:
        return None
    with eager_mode():
        return variable.numpy()


@contextlib.contextmanager
def constant_weights(
    states: Sequence[Any] = (), values: Sequence[Any] = ()
) -> Iterator[Callable[[], list[Any]]]:
    """Make a graph read variables as constants, as both converters require.

    Args:
        states: The variables that are not constants: the states of stateful layers.
        values: Tensors of the graph: the initial values of the states.

    Yields:
        A function that returns the current values of the states.
    """
    current = {id(variable): value for variable, value in zip(states, values, strict=True)}
    original = BaseResourceVariable._read_variable_op  # noqa: SLF001 - no public hook
    assign = ResourceVariable.assign

    def read(variable: Any, *args: Any, **kwargs: Any) -> Any:
        if tf.executing_eagerly() or not hasattr(variable.handle, "numpy"):
            return original(variable, *args, **kwargs)
        value = current.get(id(variable))
        return tf.constant(_numpy(variable)) if value is None else value

    def write(variable: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        if id(variable) not in current:
            return assign(variable, value, *args, **kwargs)
        current[id(variable)] = tf.convert_to_tensor(value)
        return current[id(variable)]

    def gather(variable: Any, indices: Any, name: str | None = None) -> Any:
        return tf.gather(tf.convert_to_tensor(variable), indices, name=name)

    def gather_nd(variable: Any, indices: Any, name: str | None = None) -> Any:
        return tf.gather_nd(tf.convert_to_tensor(variable), indices, name=name)

    with replaced(
        {
            (BaseResourceVariable, "_read_variable_op"): read,
            (ResourceVariable, "assign"): write,
            (BaseResourceVariable, "sparse_read"): gather,
            (BaseResourceVariable, "gather_nd"): gather_nd,
        }
    ):
        yield lambda: [current[id(variable)] for variable in states]


@contextlib.contextmanager
def compiled_recurrences(loops: CompiledLoops) -> Iterator[None]:
    """Run every recurrence that tf_keras runs in this context through ``loops``."""
    own_rnn = backend.rnn
    # What standard_lstm and standard_gru take besides the arguments of the loop.
    initial_states, weights = ("init_h", "init_c"), ("kernel", "recurrent_kernel", "bias")

    def fused(own: Callable[..., Any]) -> Callable[..., Any]:
        def standard(**given: Any) -> Any:
            states = {name: given.pop(name) for name in initial_states if name in given}
            sequences, mask = given.pop("inputs"), given.pop("mask")
            values = [given.pop(name) for name in weights]

            def loop(arguments: LoopArguments) -> Any:
                return own(
                    inputs=arguments.sequences,
                    mask=arguments.mask,
                    **arguments.states,
                    **dict(zip(weights, arguments.weights, strict=True)),
                    **given,
                )

            arguments = LoopArguments(sequences, states, mask, values)
            if given["time_major"] or given["sequence_lengths"] is not None:
                return loop(arguments)
            return loops.run((own, *sorted(given.items())), loop, arguments)

        return standard

    def rnn(step_function: Any, inputs: Any, initial_states: Any, *args: Any, **kwargs: Any) -> Any:
        whole = _Loop(step_function, inputs, initial_states, *args, **kwargs)
        layer = base_layer_utils.call_context().layer

        def loop(arguments: LoopArguments) -> Any:
            return own_rnn(
                step_function,
                arguments.sequences,
                arguments.states,
                go_backwards=whole.go_backwards,
                mask=arguments.mask,
                zero_output_for_mask=whole.zero_output_for_mask,
                return_all_outputs=whole.return_all_outputs,
            )

        if not _may_be_compiled(whole):
            return own_rnn(step_function, inputs, initial_states, *args, **kwargs)
        options = (whole.go_backwards, whole.zero_output_for_mask, whole.return_all_outputs)
        key = (id(layer), step_function.__code__, *options)
        return loops.run(key, loop, LoopArguments(inputs, initial_states, whole.mask))

    with replaced(
        {
            (lstm, "standard_lstm"): fused(lstm.standard_lstm),
            (gru, "standard_gru"): fused(gru.standard_gru),
            (backend, "rnn"): rnn,
            (tf_keras.backend, "rnn"): rnn,
        }
    ):
        yield


def _may_be_compiled(loop: _Loop) -> bool:
    """Whether a loop depends only on its arguments and on the variables of its layer."""
    closure = getattr(loop.step_function, "__closure__", None) or ()
    captured = [tf.nest.flatten(place.cell_contents) for place in closure]
    return not (
        loop.unroll
        or loop.time_major
        or loop.constants
        or tf.nest.is_nested(loop.inputs)
        or tf.nest.is_nested(loop.mask)
        or not (loop.input_length is None or isinstance(loop.input_length, int))
        or not hasattr(loop.step_function, "__code__")
        or any(tf.is_tensor(value) for values in captured for value in values)
    )


@contextlib.contextmanager
def observed_states() -> Iterator[list[Any]]:
    """Collect the final states of every recurrence that tf_keras runs in this context."""
    observer = StateObserver()

    def observing(original: Callable[..., Any], states: slice) -> Callable[..., Any]:
        def recurrence(*args: Any, **kwargs: Any) -> Any:
            return observer.run(
                lambda: original(*args, **kwargs), lambda result: tf.nest.flatten(result[states])
            )

        return recurrence

    # standard_lstm and standard_gru return the states before the name of the kernel.
    rnn = observing(backend.rnn, slice(2, 3))
    with replaced(
        {
            (lstm, "standard_lstm"): observing(lstm.standard_lstm, slice(2, -1)),
            (gru, "standard_gru"): observing(gru.standard_gru, slice(2, -1)),
            (backend, "rnn"): rnn,
            (tf_keras.backend, "rnn"): rnn,
        }
    ):
        yield observer.states
