"""A format-independent graph in which every recurrence is one marker operator.

The graph around the markers can be analysed, and a target can replace the markers by its own
operators. A marker is a stateless TensorFlow operator with a token; it is never run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from bilstm_exporter.ir.graphs import with_captured_inputs, without_captures
from bilstm_exporter.ir.loop_lowering import lower_loops
from bilstm_exporter.ir.loops import Loop, LoopResult
from bilstm_exporter.ir.recurrence import Lowering, Recurrence, RecurrenceResult

MARKER_TYPE = "PyFuncStateless"
"""The type of a marker in a TensorFlow graph."""


class UnknownReadError(ValueError):
    """The step of a cell reads a tensor that is neither an input, a state nor a weight.

    Attributes:
        layer: The layer's name.
        tensor: The tensor's name.
    """

    # Keras wraps an exception raised inside a layer's call unless it has this attribute.
    _keras_call_info_injected = True

    def __init__(self, layer: str, tensor: str) -> None:
        self.layer, self.tensor = layer, tensor
        super().__init__(f"layer {layer!r} reads {tensor}")


@dataclass(frozen=True)
class Marker:
    """One recurrence of a traced model.

    Inputs of the marker: the sequences, the mask if there is one, the initial states that are not
    None. Outputs: the last output, the outputs of all steps (in input order, only with
    ``return_sequences``), the final states.

    Attributes:
        recurrence: The recurrence it replaces.
        has_state: For each state, whether an initial value is among the inputs.
        has_mask: Whether a mask is among the inputs.
        step: One step ``(inputs, *states) -> [output, *states]`` as a ``tf.ConcreteFunction``
            without captured inputs. A target without an operator for the cell writes this step. It
            is traced with the model, while the front end's replacements are active.
        steps: The number of steps; None if it may be any.
        shapes: The shapes of the outputs; None for an axis of any size.
    """

    recurrence: Recurrence
    has_state: tuple[bool, ...]
    has_mask: bool
    step: Any
    steps: int | None
    shapes: tuple[tuple[int | None, ...], ...]


@dataclass(frozen=True)
class LoopMarker:
    """One loop of a layer's own code in a traced model.

    Inputs of the marker: whether to run the first iteration (a scalar bool), the carried tensors,
    the tensors from outside of the loop that an iteration reads. Outputs: the carried tensors,
    then for each list the elements in the order of the iterations, ``[iterations, ...]``.

    Attributes:
        layer: The name of the layer, or "".
        carried: The number of carried tensors.
        collected: The number of lists.
        step: One iteration ``(*carried, *outside) -> [goes on, *carried, *elements]`` as a
            ``tf.ConcreteFunction`` without captured inputs.
    """

    layer: str
    carried: int
    collected: int
    step: Any


@dataclass(frozen=True)
class MarkedGraph:
    """A traced model whose recurrences and loops are markers.

    Attributes:
        function: A ``tf.ConcreteFunction``.
        markers: The markers by token; a marker may also occur in the step of another one.
    """

    function: Any
    markers: Mapping[str, Marker | LoopMarker]

    def has_shapes(self, shapes: Sequence[Sequence[int | None]]) -> bool:
        """Whether the graph was traced with inputs of these shapes."""
        traced = [tuple(tensor.shape) for tensor in self.function.inputs]
        return traced == [tuple(shape) for shape in shapes]


class MarkerLowering(Lowering):
    """Writes a marker for every recurrence.

    Attributes:
        markers: The markers by token, in call order.
    """

    def __init__(self) -> None:
        self.markers: dict[str, Marker | LoopMarker] = {}

    def lower(
        self, recurrence: Recurrence, sequences: Any, initial_state: Sequence[Any], mask: Any
    ) -> RecurrenceResult:
        """Write a marker into the graph being traced; see `Lowering.lower`."""
        batch, time = sequences.shape[0], sequences.shape[1]
        step = _trace_step(recurrence, sequences, initial_state)
        step = lower_loops(step, self, lambda _node: recurrence.layer)
        output, *states = step.structured_outputs
        token = f"{recurrence.layer}:{len(self.markers)}"
        shapes, dtypes = [(batch, *output.shape[1:])], [output.dtype]
        if recurrence.return_sequences:
            shapes.append((batch, time, *output.shape[1:]))
            dtypes.append(output.dtype)
        shapes.extend((batch, *state.shape[1:]) for state in states)
        dtypes.extend(state.dtype for state in states)
        self.markers[token] = Marker(
            recurrence=recurrence,
            has_state=tuple(state is not None for state in initial_state),
            has_mask=mask is not None,
            step=step,
            steps=time,
            shapes=tuple(shapes),
        )
        inputs = [sequences, *([mask] if mask is not None else [])]
        inputs.extend(state for state in initial_state if state is not None)
        results = tf.raw_ops.PyFuncStateless(input=inputs, token=token, Tout=dtypes)
        # EnsureShape keeps the shapes in a GraphDef.
        last_output, *rest = [
            tf.ensure_shape(tensor, shape) for tensor, shape in zip(results, shapes, strict=True)
        ]
        outputs = rest.pop(0) if recurrence.return_sequences else None
        return RecurrenceResult(last_output=last_output, outputs=outputs, states=rest)

    def lower_loop(self, loop: Loop) -> LoopResult:
        """Write a marker for a loop of a layer's own code; see `Lowering.lower_loop`."""
        count = len(loop.initial)

        def iteration(*carried: Any) -> list[Any]:
            new, items = loop.step(carried)
            return [tf.identity(loop.condition(new)), *new, *items]

        signature = [
            tf.TensorSpec(shape, tensor.dtype, name=f"step_{i}")
            for i, (shape, tensor) in enumerate(zip(loop.shapes, loop.initial, strict=True))
        ]
        function = tf.function(iteration, autograph=False).get_concrete_function(*signature)
        step, outside = with_captured_inputs(function)
        token = f"{loop.layer or 'loop'}:{len(self.markers)}"
        self.markers[token] = LoopMarker(loop.layer, count, len(loop.lists), step)
        _, *outputs = function.outputs
        results = tf.raw_ops.PyFuncStateless(
            input=[loop.condition(loop.initial), *loop.initial, *outside],
            token=token,
            Tout=[tensor.dtype for tensor in outputs],
        )
        shapes = [*loop.shapes, *(tf.TensorShape([None, *t.shape]) for t in outputs[count:])]
        results = [
            tf.ensure_shape(tensor, shape) for tensor, shape in zip(results, shapes, strict=True)
        ]
        lists = [
            one.placed(written) for one, written in zip(loop.lists, results[count:], strict=True)
        ]
        return LoopResult(results[:count], lists)


def mark_recurrences(trace: Callable[[Lowering], Any]) -> MarkedGraph:
    """Trace a model with a marker for every recurrence.

    Args:
        trace: Function that traces the model with a lowering.
    """
    lowering = MarkerLowering()
    function = trace(lowering)
    return MarkedGraph(function, lowering.markers)


def _trace_step(recurrence: Recurrence, sequences: Any, initial_state: Sequence[Any]) -> Any:
    """Trace one step of a recurrence; the weights it reads become constants.

    Args:
        recurrence: The recurrence.
        sequences: ``[batch, time, ...]``; see `Lowering.lower`.
        initial_state: ``[batch, ...]`` each, or None for zeros; a StepCell needs all of them.

    Returns:
        A ``tf.ConcreteFunction`` ``(inputs, *states) -> [output, *states]``.

    Raises:
        UnknownReadError: The step reads another tensor.
    """
    cell = recurrence.cell
    state_shapes = [state.shape for state in initial_state if state is not None]
    shapes = cell.step_shapes(sequences.shape, state_shapes)

    def step(inputs: Any, *states: Any) -> list[Any]:
        output, new_states = cell.step(inputs, states)
        # Identities are needed if an output is also a state, or a state also an input.
        return [tf.identity(tensor) for tensor in (output, *new_states)]

    signature = [
        tf.TensorSpec(shape, tf.float32, name=f"step_{i}") for i, shape in enumerate(shapes)
    ]
    function = tf.function(step, autograph=False).get_concrete_function(*signature)
    try:
        return without_captures(function)
    except ValueError as error:
        raise UnknownReadError(recurrence.layer, str(error)) from error
