"""Progress of an export: the running stage, its time, and what converters write to stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

# Called with the name of each stage when it starts.
Listener = Callable[[str], None]


class Stages:
    """Reports the running stage to a listener and measures how long each stage takes.

    Args:
        listener: Called with the name of each stage when it starts; or None.

    Attributes:
        seconds: Time spent, by stage.
    """

    def __init__(self, listener: Listener | None = None) -> None:
        self._listener = listener
        self.seconds: dict[str, float] = {}

    def report(self, text: str) -> None:
        """Report progress within a stage."""
        if self._listener is not None:
            self._listener(text)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Run the body as the stage of this name."""
        self.report(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + elapsed, 3)


class Countdown:
    """Reports how much of a long task is done, and about how long the rest takes.

    Args:
        report: Receives a line, at most every five seconds; or None.
        task: The task in words, such as ``"calling Keras for its outputs"``.
        total: The number of parts.
        parts: The name of the parts, such as ``"probes"``.
    """

    _SECONDS_BETWEEN_REPORTS = 5.0

    def __init__(self, report: Listener | None, task: str, total: int, parts: str) -> None:
        self._report = report
        self._task = task
        self._total = total
        self._parts = parts
        self._done = 0
        self._start = self._last = time.perf_counter()

    def advance(self, count: int = 1) -> None:
        """Note that parts of the task are done."""
        self._done += count
        now = time.perf_counter()
        if self._report is None or now - self._last < self._SECONDS_BETWEEN_REPORTS:
            return
        self._last = now
        left = (now - self._start) / self._done * (self._total - self._done)
        self._report(
            f"{self._task}: {self._done} of {self._total} {self._parts}, about {left:.0f} s left"
        )


@contextlib.contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """Capture what the process writes to file descriptor 2.

    TensorFlow's C++ code writes there directly, below Python's ``sys.stderr``.

    Yields:
        A function that returns what was written so far.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:

        def read() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        os.dup2(file.fileno(), 2)
        try:
            yield read
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
