"""Where run-bilstm writes: the output file or stdout, and the progress on a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from bilstm_runtime.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK: Final = 2**15
"""Bytes per write to stdout. The JSON is ASCII, so it may be split anywhere."""

_FIRST_SECONDS, _EVERY_SECONDS = 1.0, 0.1
"""When the progress is shown first, and how often then."""


class _Stdout:
    """Writes bytes of ASCII to stdout."""

    def write(self, content: bytes) -> None:
        # In chunks: under PYTHONUNBUFFERED, one long write that the reader interrupts would look
        # like a complete one.
        for start in range(0, len(content), _CHUNK):
            sys.stdout.write(content[start : start + _CHUNK].decode())

    def flush(self) -> None:
        sys.stdout.flush()


@contextlib.contextmanager
def opened_output(file: str | None) -> Iterator[BinaryIO]:
    """A file for the outputs, which takes the place of an existing one at the end.

    Args:
        file: Its name; None for stdout.

    Raises:
        DataFileError: It cannot be written.
    """
    if file is None:
        yield cast("BinaryIO", _Stdout())
        return
    path = Path(file)
    temporary: str | None = None
    try:
        stream, temporary = _create(path)
        with stream:
            yield stream
        if temporary is not None:
            Path(temporary).replace(path)
            temporary = None
    except OSError as error:
        if isinstance(error, DataFileError):
            raise
        message = f"{file} cannot be written: {error.strerror or error}"
        raise DataFileError(message) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def _create(path: Path) -> tuple[BinaryIO, str | None]:
    """Open a temporary file beside an output file, or a device or link itself."""
    is_file = path.is_file() and not path.is_symlink()
    if (path.exists() or path.is_symlink()) and not is_file:
        return path.open("wb"), None
    if is_file and not os.access(path, os.W_OK):
        return path.open("wb"), None  # raises
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    except PermissionError:
        return path.open("wb"), None
    mask = os.umask(0)
    os.umask(mask)
    mode = path.stat().st_mode & 0o777 if is_file else 0o666 & ~mask
    Path(temporary).chmod(mode)
    return os.fdopen(descriptor, "wb"), temporary


class Progress:
    """Shows on stderr how many examples are done, if that takes more than a second."""

    def __init__(self, *, shown: bool) -> None:
        """Start the clock.

        Args:
            shown: Whether anything is written at all.
        """
        self._shown = shown
        self._next = time.monotonic() + _FIRST_SECONDS
        self._width = 0

    def __call__(self, done: int, count: int | None) -> None:
        """Show the number of examples so far, and of all if it is known."""
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + _EVERY_SECONDS
        text = f"{done:,} examples" if count is None else f"{done:,} of {count:,} examples"
        sys.stderr.write(f"\r{text}".ljust(self._width))
        sys.stderr.flush()
        self._width = max(self._width, len(text) + 1)

    def clear(self) -> None:
        """Remove the line."""
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
