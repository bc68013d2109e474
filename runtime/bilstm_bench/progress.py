"""Telling on stderr what runs: one line that is rewritten on a terminal, else a line a stage."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO


class Progress:
    """Where a long run is."""

    def __init__(self, *, quiet: bool, stream: TextIO | None = None) -> None:
        """Write to stderr.

        Args:
            quiet: Write nothing.
            stream: Write there instead.
        """
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._terminal = not quiet and self._stream.isatty()
        self._shown = False

    def stage(self, text: str) -> None:
        """A stage begins."""
        if self._terminal:
            self.step(text)
        elif not self._quiet:
            self._stream.write(f"{text} ...\n")
            self._stream.flush()

    def step(self, text: str) -> None:
        """Something within a stage; shown on a terminal only."""
        if self._terminal:
            width = shutil.get_terminal_size().columns - 5
            self._stream.write(f"\r\x1b[K{text[:width]} ...")
            self._stream.flush()
            self._shown = True

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False
