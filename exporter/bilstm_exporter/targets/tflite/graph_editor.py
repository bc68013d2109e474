"""Reads and edits operators and tensors of a TFLite model in object form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if name[0] != "_"}
_TYPES: dict[type[np.generic], int] = {
    np.float32: schema.TensorType.FLOAT32,
    np.float16: schema.TensorType.FLOAT16,
    np.int32: schema.TensorType.INT32,
    np.int64: schema.TensorType.INT64,
    np.int8: schema.TensorType.INT8,
}
_MAX_OLD_CODE = 127  # larger codes are only in the newer field


def operator_name(model: Any, operator: Any) -> str:
    """The type of an operator, such as ``"FULLY_CONNECTED"``, or its custom name."""
    code = model.operatorCodes[operator.opcodeIndex]
    if code.customCode:
        return str(code.customCode.decode())
    return str(_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)])


def constant(model: Any, tensor: Any) -> np.ndarray | None:
    """The values of a float32 constant, or None for any other tensor."""
    data = model.buffers[tensor.buffer].data
    if tensor.type != schema.TensorType.FLOAT32 or data is None or not len(data):
        return None
    return np.frombuffer(bytes(data), np.float32).reshape(tensor.shape)


class GraphEditor:
    """Adds tensors and operators to one subgraph.

    Args:
        model: The model.
        subgraph: One of its subgraphs.
    """

    def __init__(self, model: Any, subgraph: Any) -> None:
        self.model = model
        self.subgraph = subgraph

    def add_constant(
        self,
        data: np.ndarray,
        shape: Sequence[int],
        *,
        kind: int | None = None,
        quantization: Any = None,
    ) -> int:
        """Add a constant tensor; ``kind`` is its TensorType if the dtype does not determine it."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(data.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        tensor = _tensor(shape, _TYPES[data.dtype.type] if kind is None else kind)
        tensor.buffer = len(self.model.buffers) - 1
        tensor.quantization = quantization
        return self._add(tensor)

    def add_like(self, tensor: Any, kind: int, *, last: int | None = None) -> int:
        """Add a computed tensor of another one's shape; ``last`` replaces its last dimension."""
        shape = [] if tensor.shape is None else list(tensor.shape)
        signature = tensor.shapeSignature
        signature = None if signature is None else list(signature)
        if last is not None:
            shape[-1] = last
            if signature:
                signature[-1] = last
        new = _tensor(shape, kind)
        new.shapeSignature = signature or None
        return self._add(new)

    def add_vector(self, size: int, kind: int) -> int:
        """Add a computed tensor ``[size]``."""
        return self._add(_tensor([size], kind))

    def insert(  # noqa: PLR0913 - the parts of an operator
        self,
        before: Any,
        code: int,
        inputs: Sequence[int],
        output: int,
        *,
        version: int,
        options: Any = None,
    ) -> Any:
        """Insert an operator before another one, or at the end if ``before`` is None."""
        operator = schema.OperatorT()
        operator.opcodeIndex = operator_code(self.model, code, version)
        operator.inputs, operator.outputs = list(inputs), [output]
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = options
        operators = self.subgraph.operators
        place = len(operators) if before is None else _position(operators, before)
        operators.insert(place, operator)
        return operator

    def _add(self, tensor: Any) -> int:
        self.subgraph.tensors.append(tensor)
        return len(self.subgraph.tensors) - 1


def operator_code(model: Any, code: int, version: int) -> int:
    """The index of a builtin operator code; added, or raised to ``version``, if needed."""
    for index, known in enumerate(model.operatorCodes):
        if max(known.builtinCode, known.deprecatedBuiltinCode) == code and not known.customCode:
            known.version = max(known.version, version)
            return index
    added = schema.OperatorCodeT()
    added.builtinCode = code
    added.deprecatedBuiltinCode = min(code, _MAX_OLD_CODE)
    added.version = version
    model.operatorCodes.append(added)
    return len(model.operatorCodes) - 1


def _tensor(shape: Sequence[int], kind: int) -> Any:
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.buffer = list(shape), kind, 0
    tensor.hasRank = True
    return tensor


def _position(operators: Sequence[Any], target: Any) -> int:
    return next(index for index, operator in enumerate(operators) if operator is target)
