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
from typing import TYPE_CHECKING, Final, NoReturn, cast

from bilstm_runtime.backends.base import SizedSession, StateSession
from bilstm_runtime.errors import ModelClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bilstm_runtime.backends.base import Session, StateRun
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
        return (self._session or self.opened()).run(arrays)

    def opened(self) -> Session:
        """Return the session of this process; raises the errors of opening it."""
        with self._lock:
            if self._session is None:
                with _OPENING:
                    self._session = self._open()
            return self._session

    def is_open(self, session: Session) -> bool:
        """Whether this is the session that runs now."""
        return self._session is session

    def carry(self, count: int) -> StateRun | None:
        """Return runs that keep the states; see `StateSession.carry`."""
        session = self.opened()
        run = session.carry(count) if isinstance(session, StateSession) else None
        return None if run is None else _ForkSafeRun(self, session, run, count)

    def row_bytes(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Return the bytes of a run for each row; see `SizedSession.row_bytes`."""
        session = self.opened()
        return session.row_bytes(shapes) if isinstance(session, SizedSession) else 0

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


class _ForkSafeRun:
    """Runs that keep their states, which a child process goes on with; see `StateRun`."""

    def __init__(self, owner: ForkSafeSession, session: Session, run: StateRun, count: int) -> None:
        self._owner, self._session, self._run, self._count = owner, session, run, count

    @property
    def states(self) -> list[AnyArray]:
        """See `StateRun.states`."""
        return self._run.states

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run the model once; raises the errors of opening it, too, in a child process."""
        if not self._owner.is_open(self._session):
            self._move()
        return self._run.run(arrays)

    def _move(self) -> None:
        """Go on with the session of this process."""
        session = cast("StateSession", self._owner.opened())
        run = cast("StateRun", session.carry(self._count))  # the file has the same fixed shapes
        for place, state in zip(run.states, self._run.states, strict=True):
            place[...] = state
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._run))  # never freed; see above
        self._session, self._run = session, run


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
