"""Finds the loops that a model's own code runs in a traced graph, and lowers them.

Whatever a layer calls (``tf.scan``, ``tf.while_loop``, ``keras.ops.fori_loop``, a Python loop over
``tf.range``), TensorFlow traces a ``While`` operator, and a TensorArray becomes a list of tensors
in a variant. No format has such lists. `lower_loops` copies a graph; each list becomes a tensor
``[size, ...]``, and each loop is described as a `Loop` for the target. A list to which a loop
writes one element per iteration, at positions that follow each other, is collected in linear
time, also if an iteration reads this element or those of the iterations before (`list_uses`).
Any other list that a loop writes is one of its carried tensors.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from bilstm_exporter.ir.loops import Loop, LoopResult, UnsupportedLoopError
from bilstm_exporter.ir.tensor_lists import (
    LIST_OPERATORS,
    LoopElement,
    TensorList,
    elements,
    from_tensor,
    inside,
)
from bilstm_exporter.ir.traversal import (
    BRANCH_OPERATORS,
    CALL_OPERATORS,
    CASE_OPERATORS,
    WHILE_OPERATORS,
    ancestors,
    called_functions,
    called_graphs,
    compatible,
)
from bilstm_exporter.ir.while_loops import WhileLoop

if TYPE_CHECKING:
    from bilstm_exporter.ir.recurrence import Lowering

Tensor = Any

# Attributes that belong to the graph from which an operator is copied.
_NOT_COPIED = frozenset({"_class", "_output_shapes"})


def lower_loops(function: Any, lowering: Lowering, layer_of: Callable[[str], str]) -> Any:
    """Lower every loop of a traced function that is not one of the lowering's own.

    Args:
        function: A ``tf.ConcreteFunction`` without captured inputs.
        lowering: The lowering of the target.
        layer_of: Returns the name of the layer that a node belongs to, given its name; or "".

    Returns:
        The same function; if it has no loops to lower, the same object.

    Raises:
        UnsupportedLoopError: The target has no exact form for a loop.
    """
    if not _is_to_lower(function.graph, lowering):
        return function
    copier = Copier(lowering, layer_of)

    def call(*tensors: Any) -> Any:
        known = dict(zip(map(id, function.inputs), tensors, strict=True))
        results = copier.copy(function.graph, known, function.outputs)
        results = [tf.identity(result) for result in results]
        for result, output in zip(results, function.outputs, strict=True):
            result.set_shape(output.shape)
        return tf.nest.pack_sequence_as(function.structured_outputs, results)

    signature = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name=tensor.op.name) for tensor in function.inputs
    ]
    with tf.init_scope():
        return tf.function(call, autograph=False).get_concrete_function(*signature)


def _is_to_lower(graph: Any, lowering: Lowering) -> bool:
    """Whether a graph has lists, or loops that the lowering did not write."""
    return any(_needs_lowering(operation, lowering) for operation in graph.get_operations())


def _needs_lowering(operation: Any, lowering: Lowering) -> bool:
    is_own = any(name in lowering.own_functions for name in called_functions(operation))
    if is_own and operation.type in CALL_OPERATORS:
        return False
    if operation.type in CASE_OPERATORS or (operation.type in WHILE_OPERATORS and not is_own):
        return True
    return _has_lists(operation) or any(
        # A loop inside of an own one is also own, or has no lists.
        _contains_lists(graph) if is_own else _is_to_lower(graph, lowering)
        for graph in called_graphs(operation)
    )


def _has_lists(operation: Any) -> bool:
    return any(tensor.dtype == tf.variant for tensor in (*operation.inputs, *operation.outputs))


def _contains_lists(graph: Any) -> bool:
    return any(
        _has_lists(operation) or any(map(_contains_lists, called_graphs(operation)))
        for operation in graph.get_operations()
    )


class Copier:
    """Copies graphs into the current graph without lists, and with lowered loops.

    Args:
        lowering: The lowering of the target.
        layer_of: Returns the name of a node's layer, or "".
    """

    def __init__(self, lowering: Lowering, layer_of: Callable[[str], str]) -> None:
        self._lowering, self._layer_of = lowering, layer_of

    def copy(self, graph: Any, known: dict[int, Any], outputs: Sequence[Tensor]) -> list[Any]:
        """Copy what computes ``outputs``.

        Args:
            graph: The graph of the outputs.
            known: The copies, tensors or lists, of the graph's inputs, by the id of each.
            outputs: Tensors of the graph.

        Returns:
            The copies of the outputs.
        """
        values = dict(known)
        operators, _ = ancestors(outputs, values)
        for operation in graph.get_operations():
            if operation.name in operators and not all(
                id(output) in values for output in operation.outputs
            ):
                read = {
                    number
                    for number, output in enumerate(operation.outputs)
                    if any(reader.name in operators for reader in output.consumers())
                    or any(output is one for one in outputs)
                }
                self._copy_operation(operation, values, read)
        return [values[id(output)] for output in outputs]

    def _copy_operation(self, operation: Any, values: dict[int, Any], read: set[int]) -> None:
        inputs = [values[id(tensor)] for tensor in operation.inputs]
        lists = _has_lists(operation)
        if operation.type in WHILE_OPERATORS and _needs_lowering(operation, self._lowering):
            scope = operation.name.rpartition("/")[0]
            with tf.name_scope(f"{scope}/") if scope else contextlib.nullcontext():
                results = WhileLoop(self, operation, inputs, read).lower()
        elif operation.type in CALL_OPERATORS and _needs_lowering(operation, self._lowering):
            (inner,) = called_graphs(operation)
            known = dict(zip(map(id, inner.inputs), inputs, strict=True))
            wanted = [inner.outputs[number] for number in sorted(read)]
            results = dict(zip(sorted(read), self.copy(inner, known, wanted), strict=True))
        elif operation.type in BRANCH_OPERATORS and _needs_lowering(operation, self._lowering):
            results = self._branch(operation, inputs, read)
        elif lists and operation.type in LIST_OPERATORS:
            results = LIST_OPERATORS[operation.type](self, operation, *inputs)
        elif lists:
            raise self.error(
                operation.name,
                f"uses a TensorArray in a way that no format supports ({operation.type}): write "
                f"the result as a tensor, or collect it with keras.ops.scan",
            )
        else:
            results = _copied(operation, inputs)
        for number, result in results.items():
            output = operation.outputs[number]
            if tf.is_tensor(result):
                result.set_shape(compatible(result.shape, output.shape))
            values[id(output)] = result

    def _branch(self, operation: Any, inputs: list[Any], read: set[int]) -> dict[int, Any]:
        """Copy a condition whose branches have loops or lists, or a case."""
        wanted = sorted(read)
        choice, *given = inputs
        sizes: list[Any] = [None] * len(wanted)

        def branch(graph: Any) -> Callable[[], list[Tensor]]:
            def call() -> list[Tensor]:
                known = dict(zip(map(id, graph.inputs), map(inside, given), strict=True))
                results = self.copy(graph, known, [graph.outputs[number] for number in wanted])
                tensors = []
                for place, result in enumerate(results):
                    if isinstance(result, LoopElement):
                        sizes[place] = result
                        tensors.append(tf.identity(result.current()))
                    elif isinstance(result, TensorList):
                        if result.tensor is None and result.written is None:
                            raise self.error(
                                operation.name,
                                "writes the first element of a TensorArray inside a condition: "
                                "write it in every iteration, and select its value with "
                                "keras.ops.where",
                            )
                        sizes[place] = result
                        tensors.append(elements(result))
                    else:
                        tensors.append(tf.identity(result))
                return tensors

            return call

        branches = [branch(graph) for graph in called_graphs(operation)]
        if operation.type in CASE_OPERATORS:
            results = _chosen(choice, branches)
        else:
            results = tf.cond(choice, *branches)
        values: dict[int, Any] = {}
        for number, result, made in zip(wanted, results, sizes, strict=True):
            if isinstance(made, LoopElement):
                values[number] = replace(made, element=result)
            else:
                values[number] = result if made is None else from_tensor(result, made.dtype)
        return values

    def error(self, node: str, reason: str) -> UnsupportedLoopError:
        """Make an error about the layer of a node."""
        return UnsupportedLoopError(self._layer_of(node), reason)

    def layer_of(self, node: str) -> str:
        """Return the layer of a node, or ""."""
        return self._layer_of(node)

    def lower(self, loop: Loop) -> LoopResult:
        """Lower a loop."""
        return self._lowering.lower_loop(loop)


def _chosen(choice: Tensor, branches: Sequence[Callable[[], list[Tensor]]]) -> list[Tensor]:
    """Write a case as conditions in each other; the last branch also takes every other number."""
    result = branches[-1]
    for number, branch in reversed(list(enumerate(branches[:-1]))):
        result = functools.partial(tf.cond, tf.equal(choice, number), branch, result)
    return result()


def _copied(operation: Any, inputs: Sequence[Tensor]) -> dict[int, Tensor]:
    """Copy one operator into the current graph."""
    graph = tf.compat.v1.get_default_graph()
    for name in called_functions(operation):
        _copy_functions(operation.graph, name, graph)
    # The type of an operator may be the name of a function, as in tf.nn.ctc_loss.
    _copy_functions(operation.graph, operation.type, graph)
    copy = graph._create_op_internal(  # noqa: SLF001 - no public way to copy an operator
        operation.type,
        list(inputs),
        [output.dtype for output in operation.outputs],
        name=operation.name,
        attrs={
            key: value for key, value in operation.node_def.attr.items() if key not in _NOT_COPIED
        },
        op_def=operation.op_def,
    )
    return dict(enumerate(copy.outputs))


def _copy_functions(source: Any, name: str, target: Any) -> None:
    """Make a function, and those that it calls, known to another graph."""
    while source is not None:
        function = source._get_function(name)  # noqa: SLF001 - no public way
        if function is not None:
            break
        source = getattr(source, "outer_graph", None)
    else:
        return
    if target._is_function(name):  # noqa: SLF001
        return
    target._add_function_recursive(function)  # noqa: SLF001
    for node in function.cached_definition.node_def:
        _copy_functions(source, node.op, target)
        for attribute in node.attr.values():
            if attribute.HasField("func"):
                _copy_functions(source, attribute.func.name, target)
