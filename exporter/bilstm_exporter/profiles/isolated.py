"""Runs an artifact in a child process: a runtime that aborts must not end the export."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any, BinaryIO

from bilstm_runtime.errors import BackendRunError
from bilstm_runtime.spec import AnyArray, Artifact, ModelSpec

_SHOWN = 300
"""The number of characters of the child's last words in a message."""


class IsolatedSession:
    """An artifact that is open in a child process.

    The processes exchange pickles over pipes; neither end reads anything that a third one wrote.

    Attributes:
        arena_bytes: See `bilstm_exporter.profiles.base.WorksInArena`; None for other runtimes.
    """

    def __init__(self, opener: str, content: bytes, artifact: Artifact, spec: ModelSpec) -> None:
        """Start the process, and open the artifact in it.

        Args:
            opener: ``"module:function"``, a `bilstm_exporter.profiles.base.ArtifactOpener`.
            content: The bytes of the file.
            artifact: The file, as the manifest describes it.
            spec: The model.

        Raises:
            BackendRunError: The runtime refuses the file, or it ended the process.
        """
        self._file = artifact.file
        self.arena_bytes: int | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the session
        self._process = subprocess.Popen(  # noqa: S603 - this Python, this module
            [sys.executable, "-c", f"from {__name__} import main; main()", opener],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        self._closer = weakref.finalize(self, _end, self._process, self._errors)
        self._ask((content, artifact, spec))

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run the model once; see `bilstm_runtime.backends.Session.run`."""
        outputs: list[AnyArray] = self._ask(list(arrays))
        return outputs

    def close(self) -> None:
        """End the process."""
        self._closer()

    def _ask(self, question: Any) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            message = "the process has no pipes"
            raise ValueError(message)
        try:
            pickle.dump(question, stdin)
            stdin.flush()
            answer, problem, self.arena_bytes = pickle.load(stdout)  # noqa: S301 - from `_serve`
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            message = f"it ended its process while {self._file} was open{self._last_words()}"
            raise BackendRunError(message) from error
        if problem:
            raise BackendRunError(problem)
        return answer

    def _last_words(self) -> str:
        """Return the first line that the process wrote about its end."""
        self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines()]
        words = " ".join([line for line in lines if line][:2])[:_SHOWN]
        return f" ({words})" if words else ""


def _end(process: subprocess.Popen[bytes], errors: BinaryIO) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, errors):
        if stream is not None:
            try:
                stream.close()
            except OSError:  # what was left in the pipe of a process that has ended
                continue


def _serve(opener: str, questions: BinaryIO, answers: BinaryIO) -> None:
    """Open an artifact, then run it for each list of arrays, until the pipe ends."""
    module, _, function = opener.partition(":")
    session = None
    while True:
        try:
            question = pickle.load(questions)  # noqa: S301 - written by `IsolatedSession`
        except EOFError:
            return
        answer, problem = None, ""
        try:
            if session is None:
                session = getattr(importlib.import_module(module), function)(*question)
            else:
                answer = session.run(question)
        # A runtime may raise anything; the other process says what.
        except Exception as error:  # noqa: BLE001
            problem = " ".join(str(error).split()) or type(error).__name__
        pickle.dump((answer, problem, getattr(session, "arena_bytes", None)), answers)
        answers.flush()


def main() -> None:
    """Serve one session over the pipes of this process."""
    # The runtime may print; its output must not reach the pipe.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _serve(sys.argv[1], sys.stdin.buffer, answers)
