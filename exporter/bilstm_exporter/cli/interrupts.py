"""Ctrl-C, also where a library turns it into another error or into nothing.

TensorFlow calls Python while it traces; what is raised there need not come out as it went in.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from bilstm_exporter.progress import Listener


class Interrupts:
    """Notes an interrupt.

    Attributes:
        seen: Whether there was one.
    """

    def __init__(self) -> None:
        self.seen = False

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Note what comes within; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def watched(self, listener: Listener | None) -> Listener:
        """A listener that ends the work at the next stage after an interrupt was lost."""

        def tell(name: str) -> None:
            if self.seen:
                raise KeyboardInterrupt
            if listener is not None:
                listener(name)

        return tell

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        signal.default_int_handler(number, frame)
