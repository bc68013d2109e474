"""Finding weights that an ONNX file keeps outside itself, without the onnx package.

ONNX Runtime would follow such a reference to any path of the machine, and, in its own dialect,
to any address of its memory. A bundle has no use for them.
"""

from __future__ import annotations

from typing import Final

_VARINT: Final = 0
_FIXED_64: Final = 1
_BYTES: Final = 2
_FIXED_32: Final = 5

# Field numbers of onnx.proto3, by message: the fields that lead to tensors, and to which message.
_CHILDREN: Final[dict[str, dict[int, str]]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}  # fmt: skip
_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_MAX_DEPTH: Final = 64
"""Graphs nest this deep at most (protobuf itself stops at 100 messages)."""


def has_external_data(content: bytes) -> bool:
    """Whether any tensor of an ONNX file refers to data outside of the file.

    Args:
        content: The file.

    Raises:
        ValueError: This is not a protobuf message, or it nests too deeply.
    """
    return _scan(memoryview(content), "Model", _MAX_DEPTH)


def _scan(buffer: memoryview, kind: str, depth: int) -> bool:
    if not depth:
        message = "its graphs nest too deeply"
        raise ValueError(message)
    children = _CHILDREN[kind]
    position = 0
    while position < len(buffer):
        key, position = _varint(buffer, position)
        number, wire = key >> 3, key & 7
        value, position = _value(buffer, position, wire)
        if kind == "Tensor" and (
            number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)
        ):
            return True
        if (
            number in children
            and isinstance(value, memoryview)
            and _scan(value, children[number], depth - 1)
        ):
            return True
    return False


def _value(buffer: memoryview, position: int, wire: int) -> tuple[int | memoryview, int]:
    """The value at a position, and where the next field starts."""
    if wire == _VARINT:
        return _varint(buffer, position)
    if wire == _BYTES:
        size, position = _varint(buffer, position)
    elif wire in (_FIXED_32, _FIXED_64):
        size = 4 if wire == _FIXED_32 else 8
    else:
        message = f"it holds a protobuf field of the unknown wire type {wire}"
        raise ValueError(message)
    if position + size > len(buffer):
        message = "it is cut short"
        raise ValueError(message)
    return buffer[position : position + size], position + size


def _varint(buffer: memoryview, position: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if position >= len(buffer):
            break
        byte = buffer[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
    message = "it is cut short"
    raise ValueError(message)
