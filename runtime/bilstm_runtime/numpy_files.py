"""Reads .npy and .npz content that has not been checked.

The parsers behind `numpy.load` (zipfile, zlib, ast, tokenize and numpy itself) raise many classes
of exceptions for damaged content, and inflate whatever an archive claims. Here, every failure is a
`NumpyFileError`, and the sizes in the headers are compared with the content before memory is taken.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import zipfile
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator
    from typing import TypeAlias

    from bilstm_runtime.spec import AnyArray

    Content: TypeAlias = bytes | mmap.mmap | memoryview

_HEADERS: Final = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}
_MAX_HEADER: Final = 2**14
"""More than the header of any array that numpy writes for plain numbers."""
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The methods that numpy writes. Others inflate without a limit."""

_DEFAULT_MEMORY: Final = 2**33


class NumpyFileError(ValueError):
    """The content is not a .npy or .npz file that can be read.

    Attributes:
        has_objects: Whether the reason is an array of Python objects.
    """

    def __init__(self, message: str, *, has_objects: bool = False) -> None:
        """Set the message and the flag."""
        super().__init__(message)
        self.has_objects = has_objects


@contextlib.contextmanager
def _boundary() -> Iterator[None]:
    """Raise whatever the parsers raise as a `NumpyFileError`."""
    try:
        yield
    except NumpyFileError:
        raise
    except Exception as error:
        reason = f"{error!s:.200}" or type(error).__name__
        raise NumpyFileError(reason) from error


def is_archive(content: Content) -> bool:
    """Whether the content begins like a .npz file."""
    return bytes(content[:4]) in (b"PK\x03\x04", b"PK\x05\x06")


def read_npy(content: Content) -> AnyArray:
    """Return the array of a .npy file, which shares the memory of the content.

    Raises:
        NumpyFileError: It cannot be read.
    """
    with _boundary(), memoryview(content) as view:
        file = io.BytesIO(view[:_MAX_HEADER])
        shape, is_fortran, dtype = _read_header(file, len(view))
        offset = file.tell()
        flat = np.frombuffer(content, dtype, count=math.prod(shape), offset=offset)
        array = flat.reshape(shape, order="F" if is_fortran else "C")
        return array if array.flags.aligned else array.copy()


def _read_header(file: io.BytesIO, size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of a .npy file of this size, up to the first value."""
    version = read_magic(file)
    read = _HEADERS.get(version)
    if read is None:
        message = f"version {version[0]}.{version[1]} of the .npy format is not read"
        raise NumpyFileError(message)
    shape, is_fortran, dtype = read(file)
    if dtype.hasobject:
        message = "Object arrays cannot be loaded: it holds Python objects"
        raise NumpyFileError(message, has_objects=True)
    if dtype.names is not None or dtype.subdtype is not None or not dtype.itemsize:
        message = f"it holds values of the type {dtype!s:.80}"
        raise NumpyFileError(message)
    if any(length < 0 for length in shape):
        message = f"its shape is {shape}"
        raise NumpyFileError(message)
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > size - file.tell():
        message = f"it holds {size - file.tell()} bytes, but its shape {shape} takes {claimed}"
        raise NumpyFileError(message)
    return shape, is_fortran, dtype


class Archive:
    """The arrays of a .npz file.

    Attributes:
        names: The names of the arrays, each once.
    """

    names: list[str]

    def __init__(self, content: Content, limit: int | None = None) -> None:
        """Read the directory of the file.

        Args:
            content: The file.
            limit: The largest number of bytes that is unpacked; by default, the memory of the
                machine.

        Raises:
            NumpyFileError: It cannot be read, or would unpack to more.
        """
        self._limit = _memory() if limit is None else limit
        with _boundary():
            self._file = zipfile.ZipFile(io.BufferedReader(_View(content)))
            members = self._file.infolist()
            self._members = {member.filename.removesuffix(".npy"): member for member in members}
            if len(self._members) < len(members):
                message = "it holds two arrays of one name"
                raise NumpyFileError(message)
        self.names = list(self._members)
        self._check_total(self.names)

    def read(self, names: list[str]) -> dict[str, AnyArray]:
        """Return arrays by name; raises `NumpyFileError`."""
        with _boundary():
            return {name: self._read(name) for name in names}

    def check_types(self) -> None:
        """Read the headers of all arrays; raises `NumpyFileError` for Python objects and others."""
        with _boundary():
            for name in self.names:
                self._start(name)

    def _check_total(self, names: list[str]) -> None:
        size = sum(self._members[name].file_size for name in names)
        if size > self._limit:
            message = f"it unpacks to {size} bytes; at most {self._limit} are read"
            raise NumpyFileError(message)

    def _read(self, name: str) -> AnyArray:
        start = self._start(name)
        member = self._members[name]
        if len(start) == member.file_size:
            return read_npy(start)
        with self._file.open(member) as stream:
            return read_npy(stream.read(member.file_size))

    def _start(self, name: str) -> bytes:
        """Return the first bytes of a member, after a check of its header."""
        member = self._members.get(name)
        if member is None:
            message = f"it holds no array {name!r}"
            raise NumpyFileError(message)
        if member.compress_type not in _METHODS:
            message = f"{name!r} is compressed by the method {member.compress_type}"
            raise NumpyFileError(message)
        with self._file.open(member) as stream:
            start = stream.read(min(_MAX_HEADER, member.file_size))
        _read_header(io.BytesIO(start), member.file_size)
        return start


class _View(io.RawIOBase):
    """A file over bytes or a mapped file, without a copy."""

    def __init__(self, content: Content) -> None:
        super().__init__()
        self._content = content
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self._content)}
        self._position = max(0, start[whence] + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        part = self._content[self._position : self._position + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)


def _memory() -> int:
    """Return the size of this machine's memory in bytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return _DEFAULT_MEMORY
