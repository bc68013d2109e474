"""Reading the graph of a traced function: its functions, and what computes a tensor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tensorflow.python.ops.control_flow_util_v2 import (
    get_func_graph,  # no public way to the graph of a function
)

Tensor = Any

WHILE_OPERATORS = frozenset({"While", "StatelessWhile"})
"""The types of a loop in a TensorFlow graph."""
IF_OPERATORS = frozenset({"If", "StatelessIf"})
CASE_OPERATORS = frozenset({"Case", "StatelessCase"})
BRANCH_OPERATORS = IF_OPERATORS | CASE_OPERATORS
"""Conditions. The first input chooses the branch: a bool, or for a case the branch's number."""
CALL_OPERATORS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_FUNCTION_ATTRIBUTES = {
    **dict.fromkeys(WHILE_OPERATORS, ("cond", "body")),
    **dict.fromkeys(CALL_OPERATORS, ("f",)),
    **dict.fromkeys(IF_OPERATORS, ("then_branch", "else_branch")),
    **dict.fromkeys(CASE_OPERATORS, ("branches",)),
}
SAME_VALUE = frozenset({"Identity", "StopGradient", "Cast", "EnsureShape"})
SAME_ELEMENT = SAME_VALUE | {"Reshape", "Squeeze", "ExpandDims"}
ELEMENTWISE = frozenset(
    {"Abs", "Add", "AddV2", "Cast", "Div", "Elu", "EnsureShape", "Erf", "Exp", "Identity", "Log",
     "Maximum", "Minimum", "Mul", "Neg", "RealDiv", "Relu", "Relu6", "Rsqrt", "SelectV2", "Selu",
     "Sigmoid", "Softplus", "Sqrt", "Square", "StopGradient", "Sub", "Tanh", "ZerosLike"}
)  # fmt: skip
"""Operators whose output has the shape to which their inputs are broadcast."""


def called_functions(operation: Any) -> list[str]:
    """The names of the functions that an operator calls.

    Those of a loop are its condition and its body; those of a condition are its branches, first
    that of true or of the number 0.
    """
    names = []
    for attribute in _FUNCTION_ATTRIBUTES.get(operation.type, ()):
        value = operation.get_attr(attribute)
        names += [one.name for one in (value if isinstance(value, list) else [value])]
    return names


def called_graphs(operation: Any, shapes: Any = None) -> list[Any]:
    """The graphs of the functions that an operator calls; see `called_functions`.

    Args:
        operation: The operator.
        shapes: The shapes of the functions' inputs; by default those of the operator.
    """
    if shapes is None:
        shapes = _input_shapes(operation)
    return [get_func_graph(operation, shapes, name) for name in called_functions(operation)]


def _input_shapes(operation: Any) -> list[Any]:
    if operation.type in WHILE_OPERATORS:
        return [tensor.shape for tensor in operation.outputs]
    inputs = operation.inputs[1:] if operation.type in BRANCH_OPERATORS else operation.inputs
    return [tensor.shape for tensor in inputs]


def before(tensor: Tensor, types: frozenset[str] = frozenset({"Identity"})) -> Tensor:
    """The tensor before operators that keep its value."""
    while tensor.op.type in types and not is_rounding(tensor.op):
        tensor = tensor.op.inputs[0]
    return tensor


def is_rounding(operation: Any) -> bool:
    """Whether an operator converts a float to another type."""
    return operation.type == "Cast" and bool(operation.inputs[0].dtype.is_floating)


def ancestors(tensors: Iterable[Tensor], known: Iterable[int]) -> tuple[set[str], set[int]]:
    """The names of the operators that compute tensors, and the ids of the known tensors read."""
    known = set(known)
    operators: set[str] = set()
    read: set[int] = set()
    waiting = list(tensors)
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in known:
            read.add(id(tensor))
        elif tensor.op.name not in operators:
            operators.add(tensor.op.name)
            waiting.extend(tensor.op.inputs)
    return operators, read


def compatible(shape: Any, other: Any) -> Any:
    """The other shape where it does not contradict the first."""
    return other if shape.is_compatible_with(other) else shape
