"""Ctrl-C and SIGTERM: each ends a command by unwinding it, with one line on stderr."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_WORDS: Final = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Interrupts:
    """Records Ctrl-C and SIGTERM, even if a library swallows the exception or replaces it.

    Both raise `KeyboardInterrupt` in the main thread, so that temporary files are removed on the
    way out.

    Args:
        silent: After a signal, discard what libraries write to stderr until the command ends. The
            end of a half-finished import or trace is of no use to anyone.

    Attributes:
        number: The number of the first signal; 0 if there was none.
        silent: As in the arguments.
        outcome: What to add to the line on stderr, such as ``"nothing was written"``.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self.number = 0
        self.outcome = ""
        self.silent = silent
        self._stderr: int | None = None

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record signals in this context; has no effect outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # A process in the background may have been told to ignore them.
        handlers = {number: signal.getsignal(number) for number in _WORDS}
        # None: a handler of another language, which cannot be restored.
        numbers = [n for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)]
        if self.silent:  # now, because stderr may be captured when a signal arrives
            with contextlib.suppress(OSError):
                self._stderr = os.dup(2)
        previous = {number: signal.signal(number, self._record) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            if self._stderr is not None:
                if self.number:
                    self._end_silence(self._stderr)
                os.close(self._stderr)
                self._stderr = None

    @property
    def exit_code(self) -> int:
        """128 and the number of the signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.number or signal.SIGINT)

    @property
    def word(self) -> str:
        """``"interrupted"`` or ``"terminated"``."""
        return _WORDS[signal.Signals(self.number or signal.SIGINT)]

    def report(self, prog: str) -> int:
        """Write the line of an interrupted command to stderr; returns its exit code."""
        outcome = f"; {self.outcome}" if self.outcome else ""
        sys.stderr.write(f"{prog}: {self.word}{outcome}\n")
        return self.exit_code

    def _record(self, number: int, _frame: FrameType | None) -> None:
        if not self.number:
            self.number = number
            if self.silent:
                self._begin_silence()
        raise KeyboardInterrupt

    def _begin_silence(self) -> None:
        # Objects that are destroyed half-finished report it to Python's logging.
        logging = sys.modules.get("logging")
        if logging is not None:
            logging.disable(logging.CRITICAL)
        sys.unraisablehook = lambda _: None
        if self._stderr is not None:
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, 2)
            os.close(sink)

    def _end_silence(self, stderr: int) -> None:
        sys.unraisablehook = sys.__unraisablehook__
        logging = sys.modules.get("logging")
        if logging is not None:
            logging.disable(logging.NOTSET)
        os.dup2(stderr, 2)


BROKEN_PIPE: Final = 141
"""The exit code if the reader of stdout closes it: 128 and the number of SIGPIPE."""


def discard_stdout() -> int:
    """Discard what is left for a closed stdout; returns the exit code.

    Otherwise Python would try to write the rest of its buffer at exit.
    """
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)
    return BROKEN_PIPE


@contextlib.contextmanager
def quiet_libraries(*, quiet: bool = True) -> Iterator[None]:
    """Discard what native code writes to stderr; Python's own writes still appear.

    Args:
        quiet: Whether to do so.
    """
    try:
        descriptor = sys.stderr.fileno() if quiet else -1
    except (OSError, ValueError):
        descriptor = -1  # replaced by an object without a file
    if not quiet:
        yield
        return
    sys.stderr.flush()
    saved = os.dup(2)
    before = sys.stderr
    try:
        if descriptor == 2:
            sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=before.encoding,
                                   errors="backslashreplace")  # fmt: skip
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 2)
        os.close(sink)
        yield
    finally:
        if sys.stderr is not before and descriptor == 2:
            sys.stderr.close()
            sys.stderr = before
        os.dup2(saved, 2)
        os.close(saved)
