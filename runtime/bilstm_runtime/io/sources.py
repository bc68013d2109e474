"""Opens the file of examples, and reads its lines as they come."""

from __future__ import annotations

import codecs
import contextlib
import mmap
import os
import stat
import sys
import time
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from bilstm_runtime.errors import DataFileError
from bilstm_runtime.io.readers import LINE_END, split_lines

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator

    from bilstm_runtime.numpy_files import Content

_BLOCK: Final = 2**17
"""The number of bytes read at once, at most: some hundred examples."""

_WAIT_SECONDS: Final = 5.0
"""How long a named pipe may be without a writer."""

_POLL_SECONDS: Final = 0.02

_MOST_BYTES: Final = 2**28
"""The largest list of words, labels or tokens; and the most characters of a line of examples."""


def open_source(file: str | None) -> BinaryIO:
    """Open a file of examples, or stdin for None.

    Raises:
        DataFileError: It cannot be read, is a pipe without a writer, or a device such as
            /dev/zero, whose end never comes.
    """
    if file is None:
        with contextlib.suppress(OSError):  # not a file of the system
            _refuse_endless("stdin", sys.stdin.buffer, os.fstat(sys.stdin.buffer.fileno()))
        return sys.stdin.buffer
    try:
        status = os.stat(file)  # noqa: PTH116 (a str, as given)
        if stat.S_ISFIFO(status.st_mode):
            return _open_pipe(file)
        opened = open(file, "rb")  # noqa: PTH123, SIM115 (the caller closes it)
    except OSError as error:
        raise _unreadable(file, error) from error
    _refuse_endless(file, opened, status)
    return opened


def _refuse_endless(file: str, opened: BinaryIO, status: os.stat_result) -> None:
    """Raise for a device that is neither a terminal nor the empty one."""
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)) or opened.isatty():
        return
    if status.st_rdev != os.stat(os.devnull).st_rdev:  # noqa: PTH116
        if file != "stdin":
            opened.close()
        message = f"{file} is a device, whose end may never come; give a file"
        raise DataFileError(message)


def read_list(file: str | os.PathLike[str]) -> bytes:
    """Read a whole file of words, labels or tokens.

    Raises:
        DataFileError: It cannot be read, is a device, or is larger than any such list.
    """
    name = os.fspath(file)
    with contextlib.closing(open_source(name)) as source:
        try:
            content = source.read(_MOST_BYTES + 1)
        except OSError as error:
            raise _unreadable(name, error) from error
    if len(content) > _MOST_BYTES:
        message = f"{name} holds more than {_MOST_BYTES} bytes, which no such list does"
        raise DataFileError(message)
    return content


def _open_pipe(file: str) -> BinaryIO:
    """Open a pipe; without a writer, opening or reading it would wait without end."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    end = time.monotonic() + _WAIT_SECONDS
    start = b""
    while not start:
        try:
            start = os.read(descriptor, 1)
        except BlockingIOError:  # there is a writer, which has not written yet
            break
        if not start and time.monotonic() > end:
            os.close(descriptor)
            message = f"{file} is a pipe without a writer; start its writer first"
            raise DataFileError(message)
        if not start:
            time.sleep(_POLL_SECONDS)
    os.set_blocking(descriptor, True)
    source = os.fdopen(descriptor, "rb")
    return cast("BinaryIO", _Resumed(start, source)) if start else source


class _Resumed:
    """A pipe of which one byte was read already."""

    def __init__(self, start: bytes, source: BinaryIO) -> None:
        self._start = start
        self._source = source
        self.close = source.close

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes, or all."""
        start, self._start = self._start, b""
        return start + self._source.read(size if size < 0 else size - len(start))

    def read1(self, size: int) -> bytes:
        """Read what is there."""
        start, self._start = self._start, b""
        return start or cast("io.BufferedReader", self._source).read1(size)


def read_all(source: BinaryIO, label: str) -> Content:
    """Return the content of a file, mapped into memory if it is a regular one.

    Raises:
        DataFileError: It cannot be read.
    """
    try:
        try:
            return mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError, AttributeError):  # a pipe, or an empty file
            return source.read()
    except OSError as error:
        raise _unreadable(label, error) from error


def line_blocks(
    source: BinaryIO, label: str, errors: str = "strict"
) -> Iterator[tuple[int, list[str]]]:
    """Read the lines of a text file in blocks: those that have arrived, but not too many.

    Args:
        source: The file.
        label: Its name in messages.
        errors: "surrogateescape" puts a lone surrogate for each byte that is not UTF-8.

    Yields:
        The number of the first line, and the lines without their ends.

    Raises:
        DataFileError: The file cannot be read, or is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")(errors)
    # The parts of a line whose end has not come; joined once, because a line may be long.
    parts: list[str] = []
    number = 1
    is_open = True
    while is_open:
        try:
            block = cast("io.BufferedReader", source).read1(_BLOCK)
        except OSError as error:
            raise _unreadable(label, error) from error
        is_open = bool(block)
        try:
            parts.append(decoder.decode(block, final=not is_open))
        except UnicodeDecodeError as error:
            message = f"{label} is not UTF-8 text ({error}); is it another format?"
            raise DataFileError(message) from error
        if is_open and not LINE_END.search(parts[-1]) and not parts[0].endswith("\r"):
            if _BLOCK * len(parts) > _MOST_BYTES:
                message = f"{label}, line {number}: the line has no end"
                raise DataFileError(message)
            continue
        text = "".join(parts)
        # A carriage return at the end may be half of the end of a line.
        held = "\r" if is_open and text.endswith("\r") else ""
        lines = split_lines(text[: len(text) - len(held)])
        last = lines.pop()
        parts = [last + held]
        if last and not is_open:  # the last line has no end
            lines.append(last)
        if lines:
            yield number, lines
        number += len(lines)


def _unreadable(file: str, error: OSError) -> DataFileError:
    return DataFileError(f"{file} cannot be read: {error.strerror or error}")
