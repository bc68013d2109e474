"""Recurrences cut out of a traced model, so that the model and one step are converted alone.

TensorFlow's converter cannot quantize a loop. So each recurrence becomes a marker operator while
the model is traced; then the tensors that a marker reads become outputs of the model, and its
results become inputs. `loop_splicing` puts the loop into the converted file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from bilstm_exporter.ir.graphs import inlined, with_captured_inputs, without_captures
from bilstm_exporter.ir.loop_lowering import Copier, lower_loops
from bilstm_exporter.ir.markers import MARKER_TYPE
from bilstm_exporter.ir.recurrence import Lowering, Recurrence
from bilstm_exporter.ir.traversal import ancestors
from bilstm_exporter.progress import captured_stderr
from bilstm_exporter.targets.tflite.tensor_ops import loop_results


class NoLoopError(Exception):
    """A recurrence cannot become a loop; the message says why."""


@dataclass(frozen=True)
class StepLoop:
    """One recurrence, as a loop over one step.

    Attributes:
        layer: The layer's name.
        steps: The number of steps.
        initial: For each state its first value, or None if the model computes it.
        step: One step ``(inputs, *states, *outside) -> [*states, output]`` as a
            ``tf.ConcreteFunction`` without captured inputs. ``outside`` are the tensors of the
            model that every step reads. The output is left out if it is the first state.
        tied_step: The same, which also returns each state of float32 before and after the step,
            concatenated. The calibrator gives all parts of a concatenation one scale.
    """

    layer: str
    steps: int
    initial: tuple[np.ndarray | None, ...]
    step: Any
    tied_step: Any


@dataclass(frozen=True)
class LoopSite:
    """Where a loop was cut out of a model.

    Attributes:
        loop: The loop.
        reads: The numbers of the model's outputs that the loop reads: the sequences
            ``[batch, time, ...]``, the initial states that are not constant, what is outside.
        results: The numbers of the model's inputs that the loop computes, by the number of a
            result of the step: all of them ``[batch, time, ...]``.
        finals: The same for the results of the last step, ``[batch, ...]``.
    """

    loop: StepLoop
    reads: tuple[int, ...]
    results: Mapping[int, int]
    finals: Mapping[int, int]


class LoopMarkers:
    """Writes markers into the graph being traced, and cuts them out of it."""

    def __init__(self) -> None:
        self._loops: dict[str, StepLoop] = {}

    def write(
        self, recurrence: Recurrence, sequences: Any, states: Sequence[Any], inner: Lowering
    ) -> tuple[list[Any], list[Any]]:
        """Write the marker of one recurrence.

        Args:
            recurrence: The recurrence; its direction and mask are the caller's.
            sequences: ``[batch, time, ...]`` in processing order; fixed shape.
            states: The initial states ``[batch, ...]``.
            inner: The lowering of loops inside of a step.

        Returns:
            The outputs and the states of all steps, ``[batch, time, ...]`` each, and the last one
            of each, ``[batch, ...]``.
        """
        step, tied_step, outside = _trace_step(recurrence, sequences, states, inner)
        initial = tuple(tf.get_static_value(state) for state in states)
        steps = int(sequences.shape[1])
        token = f"{recurrence.layer}:{len(self._loops)}"
        self._loops[token] = StepLoop(recurrence.layer, steps, initial, step, tied_step)
        given = [s for s, value in zip(states, initial, strict=True) if value is None]
        results = step.outputs
        shapes = [
            *([result.shape[0], steps, *result.shape[1:]] for result in results),
            *(result.shape for result in results),
        ]
        found = tf.raw_ops.PyFuncStateless(
            input=[sequences, *given, *outside],
            token=token,
            Tout=[result.dtype for result in results] * 2,
        )
        found = [tf.ensure_shape(one, shape) for one, shape in zip(found, shapes, strict=True)]
        count = len(states)
        every, last = (
            [part[-1 if len(results) > count else 0], *part[:count]]
            for part in (found[: len(results)], found[len(results) :])
        )
        return every, last

    def cut(self, function: Any, lowering: Lowering) -> tuple[Any, list[LoopSite]]:
        """Cut the markers out of a traced model.

        Args:
            function: A ``tf.ConcreteFunction`` without captured inputs.
            lowering: The lowering that wrote the markers into it.

        Returns:
            The model with more inputs and outputs, and the places of the loops, in an order in
            which each reads results of earlier ones only.

        Raises:
            NoLoopError: A marker is not in the graph of the model itself.
        """
        if not self._loops:
            return function, []
        graph = function.graph
        markers = [
            operation
            for operation in graph.get_operations()
            if operation.type == MARKER_TYPE and operation.get_attr("token").decode() in self._loops
        ]
        if {marker.get_attr("token").decode() for marker in markers} != set(self._loops):
            message = "it is called inside of another loop or function"
            raise NoLoopError(message)
        # An EnsureShape reads each result that is read, and has its shape.
        shaped = {
            id(tensor): reader.outputs[0]
            for marker in markers
            for tensor in marker.outputs
            for reader in tensor.consumers()
        }
        results = list(shaped.values())
        tensors = [*function.outputs, *(tensor for one in markers for tensor in one.inputs)]
        _, read = ancestors(tensors, map(id, (*function.inputs, *results)))
        wanted = [tensor for tensor in results if id(tensor) in read]
        inputs = [*function.inputs, *wanted]

        def call(*given: Any) -> list[Any]:
            known = dict(zip(map(id, inputs), given, strict=True))
            copier = Copier(lowering, lambda _node: "")
            return [tf.identity(one) for one in copier.copy(graph, known, tensors)]

        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in inputs]
        numbers = {id(tensor): number for number, tensor in enumerate(inputs)}
        sites, place = [], len(function.outputs)
        for marker in markers:
            loop = self._loops[marker.get_attr("token").decode()]
            found = [numbers.get(id(shaped.get(id(tensor)))) for tensor in marker.outputs]
            half = len(found) // 2
            every, last = (
                {slot: number for slot, number in enumerate(part) if number is not None}
                for part in (found[:half], found[half:])
            )
            reads = tuple(range(place, place + len(marker.inputs)))
            place += len(marker.inputs)
            sites.append(LoopSite(loop, reads, every, last))
        return _traced(call, specs), sites


def _trace_step(
    recurrence: Recurrence, sequences: Any, states: Sequence[Any], inner: Lowering
) -> tuple[Any, Any, list[Any]]:
    """Trace one step; returns `StepLoop.step`, `StepLoop.tied_step` and what is outside."""
    cell = recurrence.cell

    def step(inputs: Any, *states: Any) -> list[Any]:
        output, new = cell.step_gates(cell.project_gates(inputs), list(states))
        results = loop_results(new, states)
        if output is not new[0]:
            results.append(output)
        return [tf.identity(tensor) for tensor in results]

    inputs = tf.TensorSpec([sequences.shape[0], *sequences.shape[2:]], sequences.dtype)
    signature = [inputs, *(tf.TensorSpec(state.shape, state.dtype) for state in states)]
    function = tf.function(step, autograph=False).get_concrete_function(*signature)
    if any(tensor.dtype == tf.resource for tensor in function.captured_inputs):
        function = without_captures(function)  # a variable that Keras does not track
    function, captured = with_captured_inputs(function)
    function = lower_loops(function, inner, lambda _node: recurrence.layer)
    values = [*[None] * len(signature), *map(tf.get_static_value, captured)]
    outside = [
        one for one, value in zip(captured, values[len(signature) :], strict=True)
        if value is None
    ]  # fmt: skip

    def plain(*tensors: Any) -> list[Any]:
        rest = iter(tensors)
        given = [next(rest) if value is None else tf.constant(value) for value in values]
        return inlined(function, given)

    def tied(*tensors: Any) -> list[Any]:
        results = plain(*tensors)
        pairs = zip(tensors[1:], results[: len(states)], strict=False)
        return [
            *results,
            *(tf.concat(pair, -1) for pair in pairs if pair[0].dtype == tf.float32),
        ]

    kinds = [*signature, *(tf.TensorSpec(one.shape, one.dtype) for one in outside)]
    return _traced(plain, kinds), _traced(tied, kinds), outside


def _traced(call: Any, specs: Sequence[Any]) -> Any:
    """Trace a function of ``input_0``, ... that returns ``output_0000``, ... for the converter."""
    signature = [
        tf.TensorSpec(spec.shape, spec.dtype, name=f"input_{i}") for i, spec in enumerate(specs)
    ]

    def named(*tensors: Any) -> dict[str, Any]:
        return {f"output_{i:04}": tensor for i, tensor in enumerate(call(*tensors))}

    with tf.init_scope():
        return tf.function(named, autograph=False).get_concrete_function(*signature)


class _Runner:
    """Runs a converted float32 model."""

    def __init__(self, content: bytes) -> None:
        with captured_stderr():  # LiteRT prints a line when it starts
            self._interpreter = Interpreter(model_content=content, num_threads=1)
            self._interpreter.allocate_tensors()
        runner = self._interpreter.get_signature_runner()
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        self._inputs = [inputs[name]["index"] for name in sorted(inputs, key=_number)]
        self._outputs = [outputs[name]["index"] for name in sorted(outputs, key=_number)]
        self._shapes = [(i["shape"], i["dtype"]) for _, i in sorted(inputs.items(), key=_of)]

    def padded(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The arrays, and zeros for the inputs that follow."""
        return [*arrays, *(np.zeros(*spec) for spec in self._shapes[len(arrays) :])]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs, in their order."""
        self._interpreter.reset_all_variables()
        for index, array in zip(self._inputs, arrays, strict=True):
            self._interpreter.set_tensor(index, array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def _number(name: str) -> int:
    return int(name.rpartition("_")[2])


def _of(item: tuple[str, Any]) -> int:
    return _number(item[0])


def trajectories(
    sites: Sequence[LoopSite],
    model: bytes,
    steps: Sequence[bytes],
    examples: Sequence[Sequence[np.ndarray]],
) -> tuple[list[list[np.ndarray]], list[list[list[np.ndarray]]]]:
    """Run the loops on examples, step by step.

    Args:
        sites: The places of the loops.
        model: The model without its loops, a float32 file.
        steps: The step of each loop.
        examples: The inputs of the model itself.

    Returns:
        For each example all inputs of the model without its loops, and for each loop the inputs
        of every step.
    """
    if not sites:
        return [list(example) for example in examples], []
    runner, step_runners = _Runner(model), [_Runner(step) for step in steps]
    inputs: list[list[np.ndarray]] = []
    calls: list[list[list[np.ndarray]]] = [[] for _ in sites]
    for example in examples:
        values = runner.padded(example)
        for site, step, seen in zip(sites, step_runners, calls, strict=True):
            found = runner.run(values)
            every = list(_steps(site, [found[number] for number in site.reads], step, seen))
            for slot, number in site.results.items():
                values[number] = np.stack([results[slot] for results in every], 1)
            for slot, number in site.finals.items():
                values[number] = every[-1][slot]
        inputs.append(values)
    return inputs, calls


def _steps(
    site: LoopSite, reads: Sequence[np.ndarray], step: _Runner, seen: list[list[np.ndarray]]
) -> Iterator[list[np.ndarray]]:
    sequences, *rest = reads
    values = iter(rest)
    states = [next(values) if value is None else value for value in site.loop.initial]
    outside = list(values)
    for position in range(site.loop.steps):
        call = [np.ascontiguousarray(sequences[:, position]), *states, *outside]
        seen.append(call)
        results = step.run(call)
        states = results[: len(states)]
        yield results
