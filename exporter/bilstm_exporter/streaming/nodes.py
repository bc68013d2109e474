"""The operators of a model, as they are written into a stream graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from tensorflow.python.framework import op_def_registry

from bilstm_exporter.errors import StreamingError
from bilstm_exporter.ir.operator_forms import write_operator
from bilstm_exporter.streaming.values import Value, static_number

Tensor = Any

# Operators whose result at one place depends on their operands at this place only.
ELEMENTWISE = frozenset(
    """
    Abs Acos Acosh Add AddN AddV2 Asin Asinh Atan Atan2 Atanh BiasAdd BitwiseAnd BitwiseOr
    BitwiseXor Bucketize Cast Ceil CheckNumerics ClipByValue Cos Cosh Digamma Div DivNoNan Elu
    EnsureShape Equal Erf Erfc Erfinv Exp Expm1 Floor FloorDiv FloorMod Greater GreaterEqual
    Identity Inv Invert IsFinite IsInf IsNan LeakyRelu Less LessEqual Lgamma Log Log1p LogicalAnd
    LogicalNot LogicalOr Maximum Minimum Mod Mul MulNoNan Neg NextAfter NotEqual OnesLike Pow
    PreventGradient RealDiv Reciprocal Relu Relu6 Rint Round Rsqrt Select SelectV2 Selu Sigmoid
    Sign Sin Sinh Snapshot Softplus Softsign Sqrt Square SquaredDifference StopGradient Sub Tan Tanh
    TruncateDiv TruncateMod Xdivy Xlog1py Xlogy ZerosLike
    """.split()  # noqa: SIM905 - a list of this length is shorter as text
)
_WHOLE = (
    "which needs the whole sequence at once, so the model cannot be streamed; leave the layer out, "
    "replace it by a recurrence, a convolution or pooling over the sequence, or export without "
    "--streaming"
)


@dataclass(frozen=True)
class Node:
    """One operator of the model.

    Attributes:
        operation: The TensorFlow operation.
        layer: Its layer in words, for messages.
        label: Its layer's name, for the names of states.
        name: Its layer's name, or "".
    """

    operation: Any
    layer: str
    label: str
    name: str

    @property
    def type(self) -> str:
        """The type of operator."""
        return str(self.operation.type)

    def refuse_weights(self) -> NoReturn:
        """Raise the error that this operator reads the weights of attention themselves."""
        self.refuse(
            "reads weights that are normalized over all steps, other than in a sum of steps"
        )

    def refuse(self, what: str, advice: str = _WHOLE) -> NoReturn:
        """Raise the error that this operator cannot be streamed."""
        message = f"{self.layer} {what}, {advice}"
        raise StreamingError(message, layers=(self.name,) if self.name else ())


def write(node: Node, tensors: Sequence[Tensor], **changed: Any) -> list[Tensor]:
    """Write an operator with other inputs, and with some other attributes."""
    definition = op_def_registry.get(node.type)
    arguments: dict[str, Any] = {}
    inferred = set()
    rest = list(tensors)
    for argument in definition.input_arg:
        inferred |= {argument.type_attr, argument.number_attr, argument.type_list_attr}
        if argument.number_attr:
            count = node.operation.get_attr(argument.number_attr)
        elif argument.type_list_attr:
            count = len(node.operation.get_attr(argument.type_list_attr))
        else:
            arguments[argument.name] = rest.pop(0)
            continue
        arguments[argument.name], rest = rest[:count], rest[count:]
    for attribute in definition.attr:
        if attribute.name not in inferred:
            arguments[attribute.name] = node.operation.get_attr(attribute.name)
    arguments.update(changed)
    result = write_operator(node.type, **arguments)
    return list(result) if isinstance(result, list | tuple) else [result]


def both(node: Node, inputs: Sequence[Value], **changed: Any) -> list[tuple[Tensor, Tensor]]:
    """Write an operator for the chunk and for the look-ahead.

    Returns:
        For each output, its two parts; None for the second without a look-ahead.
    """
    chunk = write(node, [value.chunk for value in inputs], **changed)
    if all(value.ahead is None for value in inputs):
        return [(tensor, None) for tensor in chunk]
    parts = [value.chunk if value.ahead is None else value.ahead for value in inputs]
    return list(zip(chunk, write(node, parts, **changed), strict=True))


def constant(node: Node, value: Value) -> np.ndarray:
    """Return the value of an operand that is a setting.

    Raises:
        StreamingError: It depends on the sequence.
    """
    found = static_number(value.chunk)
    if found is None:
        node.refuse("reads its settings from the sequence")
    return found


def axes_of(node: Node, value: Value, rank: int) -> list[int]:
    """Return the axes that an operand names, from 0 on."""
    return [int(axis) % rank for axis in np.atleast_1d(constant(node, value))]
