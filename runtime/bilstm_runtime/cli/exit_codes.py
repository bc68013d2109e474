"""How the commands end: exit codes, and errors in one line."""

from __future__ import annotations

import enum
import os
import sys
import traceback
from typing import TYPE_CHECKING, Final

from bilstm_runtime.errors import (
    BackendMissingError,
    BackendRunError,
    BilstmRuntimeError,
    BundleError,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class ExitCode(enum.IntEnum):
    """What the commands return."""

    OK = 0
    CHECK_FAILED = 1
    USAGE = 2
    BUNDLE = 3
    BACKEND_MISSING = 4
    INTERRUPTED = 130
    BROKEN_PIPE = 141


EXIT_CODES_HELP: Final = """\
exit codes:
  0    all is well
  1    check failed: a model file does not give Keras's answers (check-bilstm only)
  2    wrong usage, or input that the model does not take
  3    the bundle is missing, damaged, too new, or its model fails
  4    no installed backend can run the bundle
  130  interrupted
  141  whoever read the output stopped reading
"""


def run_guarded(prog: str, action: Callable[[], int], *, debug: bool) -> int:
    """Run a command, and tell errors raised on purpose in one line on stderr.

    Args:
        prog: The name of the command.
        action: What it does; returns its exit code.
        debug: Print the traceback too.

    Returns:
        The exit code, see `ExitCode`.
    """
    try:
        code = action()
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer must not be written again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE
    except KeyboardInterrupt:
        sys.stderr.write(f"{prog}: interrupted\n")
        return ExitCode.INTERRUPTED
    except (BilstmRuntimeError, OSError, MemoryError) as error:
        if debug:
            traceback.print_exc()
        words = " ".join(str(error).split()) or type(error).__name__
        sys.stderr.write(f"{prog}: error: {words}\n")
        return _code(error)
    return code


def _code(error: Exception) -> ExitCode:
    if isinstance(error, BackendMissingError):
        return ExitCode.BACKEND_MISSING
    if isinstance(error, (BundleError, BackendRunError)):
        return ExitCode.BUNDLE
    return ExitCode.USAGE
