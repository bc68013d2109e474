"""The stages of an export: told as they begin, timed as they end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

# Called with the name of each stage as it begins.
Listener = Callable[[str], None]


class Stages:
    """Tells a listener which stage runs, and keeps the seconds each took.

    Args:
        listener: Called with the name of each stage as it begins; or None.
    """

    def __init__(self, listener: Listener | None = None) -> None:
        self._listener = listener
        self.seconds: dict[str, float] = {}

    def tell(self, what: str) -> None:
        """Say what is going on within a stage."""
        if self._listener is not None:
            self._listener(what)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Run the body as the stage of this name."""
        self.tell(name)
        begin = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - begin
            self.seconds[name] = round(self.seconds.get(name, 0.0) + taken, 3)
