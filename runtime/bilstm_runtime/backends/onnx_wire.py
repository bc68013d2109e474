"""Checks the protobuf encoding of an ONNX file before onnxruntime parses it.

An ONNX tensor can refer to data outside the file. A check for such references is worth something
only if it reads the file as onnxruntime does. Parsers of protobuf differ where an encoding is not
the shortest one: a key above 2**32 is cut to 32 bits by C++, for example, so another field number
is seen. So this walk accepts one encoding only: the shortest varints, the fields that onnx.proto
defines, and the wire types it gives them. Whatever else a file holds is an error.
"""

from __future__ import annotations

from typing import Final

_VARINT: Final = 0
_FIXED_64: Final = 1
_BYTES: Final = 2
_FIXED_32: Final = 5

_MAX_DEPTH: Final = 64
"""Limit for nested messages (protobuf's own limit is 100)."""

_MAX_VARINT: Final = 10
"""The number of bytes of the longest varint."""

# The fields of onnx.proto by message. Those of `_MESSAGES` hold other messages of this table;
# `_SKIPPED` are strings, bytes and messages without tensors; the others are numbers, which may be
# packed where they are repeated.
_MESSAGES: Final[dict[str, dict[int, str]]] = {
    "Model": {7: "Graph", 20: "Training"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}  # fmt: skip
_SKIPPED: Final[dict[str, tuple[int, ...]]] = {
    "Model": (2, 3, 4, 6, 8, 14, 26),
    "Training": (3, 4),
    "Graph": (2, 10, 11, 12, 13, 14, 16),
    "Node": (1, 2, 3, 4, 6, 7, 8, 9, 10),
    "Attribute": (1, 4, 9, 13, 14, 15, 21),
    "SparseTensor": (),
    "Tensor": (3, 6, 8, 9, 12, 16),
}
_NUMBERS: Final[dict[str, dict[int, tuple[int, ...]]]] = {
    "Model": {1: (_VARINT,), 5: (_VARINT,)},
    "Training": {},
    "Graph": {},
    "Node": {},
    "Attribute": {
        2: (_FIXED_32,), 3: (_VARINT,), 7: (_FIXED_32, _BYTES), 8: (_VARINT, _BYTES),
        20: (_VARINT,),
    },
    "SparseTensor": {3: (_VARINT, _BYTES)},
    "Tensor": {
        1: (_VARINT, _BYTES), 2: (_VARINT,), 4: (_FIXED_32, _BYTES), 5: (_VARINT, _BYTES),
        7: (_VARINT, _BYTES), 10: (_FIXED_64, _BYTES), 11: (_VARINT, _BYTES),
    },
}  # fmt: skip
_FUNCTIONS: Final = 25
"""The functions of a model, which no exported file has: each call of one is replaced by its nodes,
so a few that call each other twice become any number of nodes."""

_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14

_Keys = dict[int, "str | None"]

_KEYS: Final[dict[str, _Keys]] = {
    message: {
        **{number << 3 | _BYTES: child for number, child in _MESSAGES[message].items()},
        **{number << 3 | _BYTES: None for number in _SKIPPED[message]},
        **{n << 3 | wire: None for n, wires in _NUMBERS[message].items() for wire in wires},
    }
    for message in _MESSAGES
}
"""By message, the keys (field number and wire type) that it may hold, with the message inside."""


class ExternalDataError(ValueError):
    """A tensor refers to data outside of the file."""


def check_encoding(content: bytes) -> None:
    """Check that an ONNX file is encoded canonically and refers to no other file.

    Args:
        content: The file.

    Raises:
        ExternalDataError: A tensor refers to data outside of the file.
        ValueError: The bytes are not an ONNX file in canonical protobuf.
    """
    messages = [(0, len(content), "Model", 0)]
    while messages:
        position, end, kind, depth = messages.pop()
        if depth > _MAX_DEPTH:
            problem = "its graphs nest too deeply"
            raise ValueError(problem)
        inner = _check_message(content, position, end, kind)
        messages += [(start, stop, child, depth + 1) for start, stop, child in inner]


def _check_message(
    content: bytes, position: int, end: int, message: str
) -> list[tuple[int, int, str]]:
    """Check the fields of one message; returns start, end and kind of the messages in it."""
    keys = _KEYS[message]
    inner = []
    while position < end:
        key, position = _varint(content, position, end)
        if key not in keys:
            position = _zero_location(content, position, end, message, key)
            continue
        wire = key & 7
        if wire == _BYTES:
            size, position = _varint(content, position, end)
            child = keys[key]
            if child is not None:
                inner.append((position, min(position + size, end), child))
            position += size
        elif wire == _VARINT:
            _, position = _varint(content, position, end)
        else:
            position += 4 if wire == _FIXED_32 else 8
    if position > end:
        problem = "it is truncated"
        raise ValueError(problem)
    return inner


def _zero_location(content: bytes, position: int, end: int, message: str, key: int) -> int:
    """Skip a data location of zero, which is inside the file; refuses any other unknown field."""
    number = key >> 3
    if message == "Tensor" and number in (_EXTERNAL_DATA, _DATA_LOCATION):
        if key == _DATA_LOCATION << 3 and position < end and content[position] == 0:
            return position + 1
        problem = "a tensor refers to data outside of the file"
        raise ExternalDataError(problem)
    if message == "Model" and number == _FUNCTIONS:
        problem = "it holds functions, which a bundle never has"
        raise ValueError(problem)
    problem = (
        f"a message {message} holds the field {number} with the wire type {key & 7}, which "
        "onnx.proto does not define"
    )
    raise ValueError(problem)


def _varint(content: bytes, position: int, end: int) -> tuple[int, int]:
    """Read a varint of the shortest form; returns it and the position after it."""
    if position < end and content[position] < 0x80:  # nearly all of them
        return content[position], position + 1
    result = 0
    for index in range(_MAX_VARINT):
        if position >= end:
            break
        byte = content[position]
        position += 1
        result |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if (index and not byte) or result >= 2**64:
                problem = "a number in it is not encoded in the shortest form"
                raise ValueError(problem)
            return result, position
    else:
        problem = "a number in it is longer than 64 bits"
        raise ValueError(problem)
    problem = "it is truncated"
    raise ValueError(problem)
