"""Keeps sessions usable in a child process that was made with `fork`.

A fork copies one thread only. Locks that other threads held stay locked in the child, and the
threads of a backend's pool do not exist there: a run would wait for them without end. So a child
opens the file again before its first run. The copy of the parent's session is never touched again,
not even freed, because freeing it would wait for the threads too.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from typing import TYPE_CHECKING, Final, NoReturn

from bilstm_runtime.errors import ModelClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bilstm_runtime.backends.base import Session
    from bilstm_runtime.spec import AnyArray

_OPENING: Final = threading.RLock()
"""Held while a backend opens a file, and during a fork: a backend initializes itself then."""


class ForkSafeSession:
    """A session that a child process opens again; see `Session`."""

    def __init__(
        self, open_session: Callable[[], Session], reopen: Callable[[], Session] | None = None
    ) -> None:
        """Open the session.

        Args:
            open_session: Opens the file.
            reopen: Opens it in a child process; `open_session` by default.
        """
        self._open = open_session if reopen is None else reopen
        self._lock = threading.Lock()
        with _OPENING:
            self._session: Session | None = open_session()
            _SESSIONS.add(self)

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run the model once; raises the errors of opening it, too, in a child process."""
        session = self._session
        if session is None:
            with self._lock:
                if self._session is None:
                    with _OPENING:
                        self._session = self._open()
                session = self._session
        return session.run(arrays)

    def close(self) -> None:
        """Free the session once no thread runs it; every later run raises `ModelClosedError`."""
        self._open = _refuse
        self._session = None

    def abandon(self) -> None:
        """Forget the session without freeing it, for a child process."""
        self._lock = threading.Lock()
        if self._session is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
            self._session = None


def _refuse() -> NoReturn:
    message = "the model is closed; load it again"
    raise ModelClosedError(message)


_SESSIONS: Final[weakref.WeakSet[ForkSafeSession]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for session in list(_SESSIONS):
        session.abandon()
    _OPENING.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_OPENING.acquire,
        after_in_parent=_OPENING.release,
        after_in_child=_after_fork_in_child,
    )
