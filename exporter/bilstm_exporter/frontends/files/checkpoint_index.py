"""Checks the index of a TensorFlow checkpoint before TensorFlow reads it.

The index is a table of keys and protocol buffers: for each tensor its dtype, its shape and its
place in the data files. TensorFlow ends the process for some shapes, and takes memory for any
shape and any length of a string before it looks whether the data are there.
"""

from __future__ import annotations

import glob
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import tensor_bundle_pb2

_FOOTER, _MAGIC = 48, 0xDB4775248B80FB57
_TRAILER = 5  # of a block: its compression, of which TensorFlow uses none, and its checksum
_SIZE_LIMIT = 2**25  # of the index; a tensor takes some hundred bytes
_KEY_LIMIT = 2**12
_ENTRIES_LIMIT = 2**17
_STRINGS_LIMIT = 2**22  # words of vocabularies
_RANK_LIMIT = 254


def check_checkpoint(prefix: Path) -> None:
    """Compare what the index of a checkpoint claims with what its files hold.

    Args:
        prefix: The checkpoint's prefix, as ``model.ckpt``.

    Raises:
        ValueError: The index is damaged, or claims more than the data files hold.
    """
    index = prefix.with_name(f"{prefix.name}.index")
    size = index.stat().st_size
    if size > _SIZE_LIMIT:
        message = f"its index has {size} bytes, more than any checkpoint"
        raise ValueError(message)
    entries = _entries(index.read_bytes())
    first, value = next(entries, (b"-", b""))
    if first:
        message = "its index has no header"
        raise ValueError(message)
    header = _parsed(tensor_bundle_pb2.BundleHeaderProto, value)
    shards = {path.name: path for path in prefix.parent.glob(f"{glob.escape(prefix.name)}.data-*")}
    strings = 0
    for key, value in entries:
        name = key.decode(errors="replace")
        try:
            entry = _parsed(tensor_bundle_pb2.BundleEntryProto, value)
            number = f"{entry.shard_id:05d}-of-{header.num_shards:05d}"
            count = _check_entry(entry, shards, f"{prefix.name}.data-{number}")
        except (ValueError, OSError) as error:
            message = f"its tensor {name!r:.200} is damaged: {error}"
            raise ValueError(message) from error
        strings += count if entry.dtype == tf.string.as_datatype_enum else 0
        if strings > _STRINGS_LIMIT:
            message = f"it holds more than {_STRINGS_LIMIT} strings"
            raise ValueError(message)


def _check_entry(entry: Any, shards: Mapping[str, Path], file: str) -> int:
    """Check the shape of a tensor, and that its values are there; returns their number.

    Args:
        entry: What the index says of it.
        shards: The data files, by name.
        file: The name of the data file that it lies in.
    """
    try:
        dtype = tf.dtypes.as_dtype(entry.dtype)
    except TypeError as error:
        message = f"its dtype is {entry.dtype}"
        raise ValueError(message) from error
    is_text = dtype == tf.string
    if not dtype.is_numpy_compatible or dtype != dtype.base_dtype:  # objects, references
        message = f"it holds {dtype.name} values, where weights are numbers"
        raise ValueError(message)
    shape: list[int] = [axis.size for axis in entry.shape.dim]
    if entry.shape.unknown_rank or len(shape) > _RANK_LIMIT or any(size < 0 for size in shape):
        message = f"its shape is {shape!r:.100}"
        raise ValueError(message)
    count = math.prod(shape)
    if entry.slices:  # the values of a variable in parts are those of other entries
        _check_slices(entry.slices, shape)
        stored = sum(path.stat().st_size for path in shards.values())
        if count * dtype.size > stored:
            message = f"it claims {count} values, and the files hold {stored} bytes"
            raise ValueError(message)
        return count
    if file not in shards:
        message = f"there is no file {file}"
        raise ValueError(message)
    stored = shards[file].stat().st_size
    if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > stored:
        message = f"it lies at {entry.offset} to {entry.offset + entry.size} of {stored} bytes"
        raise ValueError(message)
    if is_text:
        with shards[file].open("rb") as opened:
            opened.seek(entry.offset)
            _check_lengths(opened.read(entry.size), count)
    elif count * dtype.size != entry.size:
        message = f"it claims {count} values of {dtype.name}, and has {entry.size} bytes"
        raise ValueError(message)
    return count


def _check_slices(slices: Sequence[Any], shape: Sequence[int]) -> None:
    for one in slices:
        extents = [(extent.start, extent.length) for extent in one.extent]
        if len(extents) != len(shape) or any(
            min(start, length) < 0 or start + length > size
            for (start, length), size in zip(extents, shape, strict=True)
        ):
            message = f"a part of it is {extents!r:.100} of {list(shape)!r:.100}"
            raise ValueError(message)


def _check_lengths(content: bytes, count: int) -> None:
    """Check the lengths of strings, which stand before a checksum and the strings."""
    if count > min(len(content), _STRINGS_LIMIT):
        message = f"it claims {count} strings, and has {len(content)} bytes"
        raise ValueError(message)
    place = total = 0
    for _ in range(count):
        length, place = _varint(content, place)
        total += length
    if place + 4 + total != len(content):
        message = f"its strings have {total} bytes, and {len(content) - place - 4} are there"
        raise ValueError(message)


def _entries(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a table, in its order; raises `ValueError`."""
    footer = content[-_FOOTER:]
    if len(content) < _FOOTER or struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        message = "its index is not one of TensorFlow"
        raise ValueError(message)
    _, place = _handle(footer, 0)
    index, _ = _handle(footer, place)
    left = iter(range(_ENTRIES_LIMIT))  # of all blocks
    end = 0
    for _, value in _block(content, index, left):
        (start, size), _ = _handle(value, 0)
        if start < end:
            message = "its index has blocks that overlap"
            raise ValueError(message)
        end = start + size
        yield from _block(content, (start, size), left)


def _block(
    content: bytes, handle: tuple[int, int], left: Iterator[int]
) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a block, which share the beginnings of keys.

    Args:
        content: The table.
        handle: Where the block begins, and its size.
        left: Yields once for each entry that may still be read.
    """
    start, size = handle
    if start + size + _TRAILER > len(content) - _FOOTER or size < 4:
        message = f"its index names bytes {start} to {start + size} of {len(content)}"
        raise ValueError(message)
    block = content[start : start + size]
    if content[start + size]:
        message = "its index is compressed, which TensorFlow never does"
        raise ValueError(message)
    (restarts,) = struct.unpack("<I", block[-4:])
    end = size - 4 - 4 * restarts
    if end < 0:
        message = f"its index claims {restarts} places in {size} bytes"
        raise ValueError(message)
    whole, key, place = {0}, b"", 0
    while place < end:
        if next(left, None) is None:
            message = f"its index has more than {_ENTRIES_LIMIT} entries"
            raise ValueError(message)
        begin = place
        (shared, own, length), place = _numbers(block, place, 3)
        if not shared:
            whole.add(begin)
        if shared > len(key) or shared + own > _KEY_LIMIT or place + own + length > end:
            message = "a key in its index does not end"
            raise ValueError(message)
        key = key[:shared] + block[place : place + own]
        place += own
        yield key, block[place : place + length]
        place += length
    # TensorFlow starts to read at these places too: it must find the same entries.
    if restarts > len(whole) or not whole.issuperset(struct.unpack(f"<{restarts}I", block[end:-4])):
        message = "its index has entries within entries"
        raise ValueError(message)


def _handle(content: bytes, place: int) -> tuple[tuple[int, int], int]:
    (start, size), place = _numbers(content, place, 2)
    return (start, size), place


def _numbers(content: bytes, place: int, count: int) -> tuple[list[int], int]:
    found = []
    for _ in range(count):
        number, place = _varint(content, place)
        found.append(number)
    return found, place


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """Read a number of seven bits a byte; returns it and the next place."""
    number = 0
    for shift in range(0, 35, 7):
        if place >= len(content):
            break
        byte = content[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128 and (byte or not shift):  # in the shortest form
            return number, place
    message = "a number does not end"
    raise ValueError(message)


def _parsed(kind: Any, content: bytes) -> Any:
    """Parse a protocol buffer in the form in which TensorFlow writes it.

    Other forms may be read differently by its C++ code.
    """
    message: Any = kind()
    try:
        message.ParseFromString(content)
    except Exception as error:  # the error of protobuf has no public name in all versions
        problem = "its protocol buffer is damaged"
        raise ValueError(problem) from error
    if message.SerializeToString(deterministic=True) != content:
        problem = "its protocol buffer has a form that TensorFlow never writes"
        raise ValueError(problem)
    return message
