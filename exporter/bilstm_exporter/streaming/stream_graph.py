"""Writes a traced model as the step of a stream: a chunk, its look-ahead, and states."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.errors import StreamingError
from bilstm_exporter.ir.graphs import inlined, without_captures
from bilstm_exporter.ir.markers import MARKER_TYPE, LoopMarker, MarkedGraph, MarkerLowering
from bilstm_exporter.ir.recurrence import Lowering
from bilstm_exporter.keras_model import layer_of_node
from bilstm_exporter.streaming import recurrences
from bilstm_exporter.streaming.nodes import Node
from bilstm_exporter.streaming.rules import convert
from bilstm_exporter.streaming.values import (
    Carried,
    CarriedState,
    Kind,
    Value,
)

Tensor = Any


@dataclass(frozen=True)
class StreamInput:
    """One input of the model, in a stream.

    Attributes:
        shape: Its shape; None for time, and 1 for the batch.
        dtype: A numpy dtype name.
        has_time: Whether its second axis is time. If not, its values hold for the whole stream.
        is_state: Whether it is the state of a stateful model, which starts a stream at zeros.
    """

    shape: tuple[int | None, ...]
    dtype: str
    has_time: bool
    is_state: bool = False


@dataclass(frozen=True)
class StreamOutput:
    """One output of the model, in a stream.

    Attributes:
        is_sequence: Whether it has one entry for each step; if not, it is a running answer.
        rate: Input steps per entry.
        over: How many entries it has beyond the steps by which the stream advances.
    """

    is_sequence: bool
    rate: int = 1
    over: int = 0


@dataclass(frozen=True)
class StreamLayout:
    """What a stream graph needs and returns.

    Attributes:
        states: The states, in the order of inputs and outputs.
        unread: The names of states that no output depends on, which the graph leaves out.
        outputs: The outputs of the model.
        overlap: How many steps a chunk has beyond those by which the stream advances.
        unit: Chunk and look-ahead are multiples of this number of steps.
        has_ahead: Whether any output depends on the look-ahead.
        right_context: How many steps of look-ahead the windows of convolutions and pooling reach.
        backward: The shapes of the states of each backward recurrence that starts at the end of the
            look-ahead.
        attending: The layers in which steps attend to those of the chunk and its look-ahead only.
        one_step: Whether a chunk is one step.
    """

    states: tuple[CarriedState, ...]
    unread: frozenset[str]
    outputs: tuple[StreamOutput, ...]
    overlap: int
    unit: int
    has_ahead: bool
    right_context: int
    backward: tuple[tuple[tuple[int, ...], ...], ...]
    attending: tuple[str, ...] = ()
    one_step: bool = False

    @property
    def has_backward(self) -> bool:
        """Whether a backward recurrence starts at the end of the look-ahead."""
        return bool(self.backward)


class StreamGraph:
    """Writes one model as the step of a stream, with any lowering.

    Args:
        graph: The model, traced with markers for one sequence (batch 1) of any length.
        inputs: Its inputs.
        output_count: The number of its outputs, without states.
        layers: Name and class of every layer.
        one_step: Whether a chunk is one step, if the model allows that.

    Raises:
        StreamingError: The model needs the whole sequence; the message names the layer.
    """

    def __init__(
        self,
        graph: MarkedGraph,
        inputs: Sequence[StreamInput],
        output_count: int,
        layers: Sequence[tuple[str, str]],
        *,
        one_step: bool = False,
    ) -> None:
        self._graph = graph
        self._one_step = one_step
        self._inputs = list(inputs)
        self._output_count = output_count
        self._layers = dict(layers)
        self._is_known = False
        self.layout = self._find_layout()
        self._is_known = True

    def trace(
        self,
        lowering: Lowering,
        starts: Sequence[Sequence[np.ndarray]] | None = None,
        *,
        returns_boundaries: bool = False,
    ) -> Any:
        """Trace the stream graph.

        Args:
            lowering: Writes the recurrences.
            starts: The states with which each backward recurrence starts where the sequence goes
                on, in the order of `StreamLayout.backward`; None for those at its end.
            returns_boundaries: Whether the states of the backward recurrences between look-ahead
                and chunk are outputs too.

        Returns:
            A ``tf.ConcreteFunction``. Inputs: those of the model (of a chunk, or of the stream);
            with a look-ahead, the inputs with time once more and whether they count, ``[1, 1]
            float32``; with `starts`, whether the sequence goes on after them, ``[1, 1] float32``;
            the states. Outputs: those of the model, the boundaries, the states.
        """
        layout = self.layout
        function, _ = self._traced(
            lowering, layout.overlap, layout.states, layout.unread, has_ahead=layout.has_ahead,
            starts=starts, returns_boundaries=returns_boundaries,
        )  # fmt: skip
        return self._at_one_step(function) if layout.one_step else function

    def _at_one_step(self, function: Any) -> Any:
        """Trace the graph again with chunks of one step, so that no shape in it is unknown."""
        signature = [
            tf.TensorSpec([size or 1 for size in tensor.shape], tensor.dtype, name=f"input_{i}")
            for i, tensor in enumerate(function.inputs)
        ]
        names = list(function.structured_outputs)

        def call(*tensors: Tensor) -> dict[str, Tensor]:
            results = [tf.identity(tensor) for tensor in inlined(function, tensors)]
            return dict(zip(names, results, strict=True))

        return tf.function(call, autograph=False).get_concrete_function(*signature)

    def _whole(self, overlap: int, *, has_ahead: bool) -> tuple[Any, _Written]:
        """Trace with all states as inputs, then without those that no output depends on."""
        lowering = MarkerLowering()
        _, first = self._traced(lowering, overlap, (), has_ahead=has_ahead)
        states = first.carried.states
        function, whole = self._traced(lowering, overlap, states, has_ahead=has_ahead)
        unread = _unread_states(function, whole)
        if not unread:
            return function, whole
        kept = [state for state in whole.carried.states if state.name not in unread]
        return self._traced(lowering, overlap, kept, unread, has_ahead=has_ahead)

    def _find_layout(self) -> StreamLayout:
        # Without overlap first: what is then missing at the start of a chunk is the overlap.
        _, first = self._traced(MarkerLowering(), 0, (), has_ahead=True)
        overlap = max([-value.over * value.rate for value in first.steps], default=0)
        unit = math.lcm(*(value.rate for value in first.steps))
        overlap = -(-max(overlap, 0) // unit) * unit
        function, whole = self._whole(overlap, has_ahead=True)
        if any(value.over < 0 for value in whole.steps):
            message = (
                "convolutions or pooling shift the steps of this model so that no chunk of it can "
                "be computed alone; export without --streaming"
            )
            raise StreamingError(message)
        read = _read_inputs(function)
        timed = sum(one.has_time for one in self._inputs)
        begin = sum(not one.is_state for one in self._inputs)
        has_ahead = any(number in read for number in range(begin, begin + timed))
        if not has_ahead:
            _, whole = self._whole(overlap, has_ahead=False)
        return StreamLayout(
            states=tuple(whole.carried.states),
            outputs=tuple(self._output(number, one) for number, one in enumerate(whole.outputs)),
            overlap=overlap,
            unit=unit,
            unread=whole.carried.unread,
            has_ahead=has_ahead,
            right_context=whole.right_context if has_ahead else 0,
            backward=tuple(
                tuple(tuple(state.shape) for state in states) for states in whole.carried.boundaries
            ),
            attending=tuple(whole.carried.attending),
            one_step=self._one_step and not has_ahead and not overlap and unit == 1,
        )

    def _output(self, number: int, value: Value) -> StreamOutput:
        if value.kind is Kind.STEPS:
            if value.deviation is not None:
                message = (
                    f"output {number} holds differences from the mean over all steps, which is "
                    f"known at the end only; leave the output out (--outputs), or export without "
                    f"--streaming"
                )
                raise StreamingError(message)
            if value.weights is not None:
                message = (
                    f"output {number} holds weights that are normalized over all steps, which are "
                    f"known at the end only; leave the output out (--outputs), or export without "
                    f"--streaming"
                )
                raise StreamingError(message)
            if value.right:
                message = (
                    f"output {number} has steps that were added behind the end of the sequence, "
                    f"which a stream does not know; export without --streaming"
                )
                raise StreamingError(message)
            if value.time_axis != 1:
                message = (
                    f"output {number} has time as its axis {value.time_axis}; a stream returns "
                    f"outputs [batch, time, ...]: export without --streaming"
                )
                raise StreamingError(message)
            return StreamOutput(is_sequence=True, rate=value.rate, over=value.over)
        if value.kind is Kind.PAIRS:
            message = (
                f"output {number} relates every step to every other step, which a stream cannot "
                f"return; leave the output out (--outputs), or export without --streaming"
            )
            raise StreamingError(message)
        if value.kind is Kind.SIZES:
            message = (
                f"output {number} is computed from the length of the sequence, which a stream does "
                f"not know; export without --streaming"
            )
            raise StreamingError(message)
        return StreamOutput(is_sequence=False)

    def _traced(  # noqa: PLR0913 - what differs between the traces
        self,
        lowering: Lowering,
        overlap: int,
        states: Sequence[CarriedState],
        unread: frozenset[str] = frozenset(),
        *,
        has_ahead: bool,
        starts: Sequence[Sequence[np.ndarray]] | None = None,
        returns_boundaries: bool = False,
    ) -> tuple[Any, _Written]:
        written: list[_Written] = []
        one_step = self._is_known and self.layout.one_step
        own = [one for one in self._inputs if not one.is_state]
        ahead = [one for one in own if one.has_time] if has_ahead else []
        shapes = [*((one.shape, one.dtype) for one in (*own, *ahead))]
        if has_ahead:
            shapes.append(((1, 1), "float32"))
        if starts is not None:
            shapes.append(((1, 1), "float32"))
        shapes += [(state.shape, state.dtype) for state in states]
        signature = [
            tf.TensorSpec(shape, dtype, name=f"input_{i}")
            for i, (shape, dtype) in enumerate(shapes)
        ]

        def call(*tensors: Tensor) -> dict[str, Tensor]:
            rest = iter(tensors)
            chunks = [next(rest) for _ in own]
            aheads = iter([next(rest) for _ in ahead])
            flag = tf.reshape(next(rest), []) > 0.5 if has_ahead else None
            goes_on = None if starts is None else tf.reshape(next(rest), []) > 0.5
            carried = Carried(
                list(rest), flag, unread, one_step=one_step, goes_on=goes_on, starts=starts or ()
            )
            values = []
            given = iter(chunks)
            for one in self._inputs:
                if one.is_state:
                    sizes = [size or 1 for size in one.shape]
                    values.append(Value(Kind.STATIC, tf.zeros(sizes, one.dtype)))
                elif one.has_time:
                    later = next(aheads) if has_ahead else None
                    values.append(Value(Kind.STEPS, next(given), later, over=overlap))
                else:
                    values.append(Value(Kind.STATIC, next(given)))
            writer = _Writer(self._graph.markers, self._layers, lowering, carried)
            found = writer.write(self._graph.function, values, self._output_count)
            written.append(found)
            results = [value.chunk for value in found.outputs]
            if returns_boundaries:
                results += [state for states in carried.boundaries for state in states]
            results += [state.after for state in carried.states]
            return {f"output_{i:04}": tf.identity(one) for i, one in enumerate(results)}

        function = tf.function(call, autograph=False).get_concrete_function(*signature)
        return without_captures(function), written[-1]


@dataclass
class _Written:
    """A stream graph that was written."""

    outputs: list[Value]
    steps: list[Value]
    carried: Carried
    right_context: int


class _Writer:
    """Writes the operators of a model one after the other."""

    def __init__(
        self,
        markers: Mapping[str, Any],
        layers: Mapping[str, str],
        lowering: Lowering,
        carried: Carried,
    ) -> None:
        self._markers, self._layers = markers, layers
        self._lowering, self._carried = lowering, carried
        self._values: dict[str, Value] = {}

    def write(self, function: Any, inputs: Sequence[Value], output_count: int) -> _Written:
        """Write a whole graph."""
        for tensor, value in zip(function.inputs, inputs, strict=True):
            self._values[tensor.name] = value
        places = {tensor.op for tensor in function.inputs}
        wanted = _needed(function.outputs[:output_count])
        for operation in function.graph.get_operations():
            if operation in places or operation not in wanted:
                continue
            results = self._write_operation(operation)
            for tensor, value in zip(operation.outputs, results, strict=True):
                self._values[tensor.name] = value
        outputs = [self._values[tensor.name] for tensor in function.outputs[:output_count]]
        steps = [value for value in self._values.values() if value.kind is Kind.STEPS]
        reach = max([value.reach for value in steps], default=0)
        return _Written(outputs, steps, self._carried, reach)

    def _write_operation(self, operation: Any) -> list[Value]:
        name = layer_of_node(operation.name, self._layers)
        kind = "" if name is None else f" ({self._layers[name]})"
        layer = "the model" if name is None else f"layer {name!r}{kind}"
        node = Node(operation, layer, _plain(name or "model"), name or "")
        scope = operation.name.rpartition("/")[0]
        with tf.name_scope(f"{scope}/" if scope else ""):
            if operation.type == "Const":
                value = tf.constant(tf.get_static_value(operation.outputs[0]))
                return [Value(Kind.STATIC, value)]
            inputs = [self._values[tensor.name] for tensor in operation.inputs]
            if operation.type == MARKER_TYPE:
                return self._write_marker(node, inputs)
            if any(attr.HasField("func") for attr in operation.node_def.attr.values()):
                what = f"has control flow of its own ({operation.type})"
                node.refuse(what, "which cannot be streamed; export without --streaming")
            try:
                return convert(node, inputs, self._carried)
            except (ValueError, TypeError, IndexError, tf.errors.OpError) as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                what = f"cannot be computed for a part of the sequence ({lines[0][:150]})"
                node.refuse(what)

    def _write_marker(self, node: Node, inputs: Sequence[Value]) -> list[Value]:
        marker = self._markers[node.operation.get_attr("token").decode()]
        if any(value.weights is not None for value in inputs):
            node.refuse_weights()
        if any(value.deviation is not None for value in inputs):
            node.refuse("reads differences from the mean over all steps")
        if any(value.kind is Kind.PAIRS for value in inputs):
            node.refuse("runs over relations of every step to every other step")
        if isinstance(marker, LoopMarker):
            what = "runs a loop of its own over the sequence"
            node.refuse(what, "which cannot be streamed; export without --streaming")
        name = marker.recurrence.layer
        kind = self._layers.get(name)
        layer = f"layer {name!r}" + (f" ({kind})" if kind else "")
        call = recurrences.read_call(marker, inputs, layer, _plain(name))
        return recurrences.stream(call, self._lowering, self._carried)


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in name)


def _needed(outputs: Sequence[Tensor]) -> set[Any]:
    """Return the operators that these tensors depend on."""
    needed: set[Any] = set()
    pending = [tensor.op for tensor in outputs]
    while pending:
        operation = pending.pop()
        if operation not in needed:
            needed.add(operation)
            pending += [tensor.op for tensor in operation.inputs]
    return needed


def _unread_states(function: Any, written: _Written) -> frozenset[str]:
    """Return the names of the states that no output depends on, in this or a later chunk."""
    states = written.carried.states
    count = len(function.outputs) - len(states)
    inputs = function.inputs[len(function.inputs) - len(states) :]
    read: set[int] = set()
    while True:
        sources = [*function.outputs[:count], *(function.outputs[count + i] for i in read)]
        needed = _needed(sources)
        found = {i for i, tensor in enumerate(inputs) if tensor.op in needed}
        if found <= read:
            return frozenset(state.name for i, state in enumerate(states) if i not in read)
        read |= found


def _read_inputs(function: Any) -> set[int]:
    """Return the numbers of the inputs that any output depends on."""
    needed = _needed(function.outputs)
    return {number for number, tensor in enumerate(function.inputs) if tensor.op in needed}
