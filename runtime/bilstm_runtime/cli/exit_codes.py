"""What the commands share: exit codes, signals and errors in one line, and `--version`."""

from __future__ import annotations

import argparse
import enum
import sys
import traceback
from typing import TYPE_CHECKING, Any, Final

from bilstm_runtime.cli.arguments import CommandParser
from bilstm_runtime.cli.interrupts import (
    BROKEN_PIPE,
    Interrupts,
    discard_stdout,
    quiet_libraries,
)
from bilstm_runtime.cli.text_tables import one_line
from bilstm_runtime.errors import (
    BackendMissingError,
    BackendRunError,
    BilstmRuntimeError,
    BundleError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class ExitCode(enum.IntEnum):
    """The exit codes of the commands."""

    OK = 0
    CHECK_FAILED = 1
    USAGE = 2
    BUNDLE = 3
    BACKEND_MISSING = 4
    INTERRUPTED = 130
    BROKEN_PIPE = BROKEN_PIPE
    TERMINATED = 143


EXIT_CODES_HELP: Final = """\
exit codes:
  0    success
  1    a model file does not agree with its reference (check-bilstm only)
  2    wrong usage, or input that the model does not accept
  3    the bundle is missing, damaged, too new, or its model fails
  4    no installed backend can run the bundle
  130  interrupted
  141  the reader of the output closed the pipe
  143  terminated (SIGTERM)
"""


def bundle_parser(prog: str, description: str, *, formats: str = "") -> argparse.ArgumentParser:
    """A parser with the arguments of every command: the bundle, `--sha256` and `--version`.

    Args:
        prog: The name of the command.
        description: What it does, for the help.
        formats: Text between the options and the exit codes in the help.
    """
    parser = CommandParser(prog=prog, description=description, epilog=formats + EXIT_CODES_HELP)
    parser.add_argument("bundle", metavar="BUNDLE", help="the bundle folder")
    parser.add_argument(
        "--sha256",
        metavar="HEX",
        help="open only the bundle whose manifest has this SHA-256, as export-bilstm prints it",
    )
    parser.add_argument("--version", action=_VersionAction)
    return parser


def run_guarded(
    prog: str, parse: Callable[[], argparse.Namespace], run: Callable[[argparse.Namespace], int]
) -> int:
    """Run a command, and report signals and errors raised on purpose in one line on stderr.

    Args:
        prog: The name of the command.
        parse: Parses the command line. The result has ``debug``, to print tracebacks too, and
            ``quiet``, to discard what libraries write to stderr.
        run: Runs the command, and returns its exit code. Its argument also has ``interrupts``, to
            notice a signal whose exception a library swallowed.

    Returns:
        The exit code, see `ExitCode`.
    """
    interrupts = Interrupts()
    with interrupts.recorded():
        code = _run_reported(prog, parse, run, interrupts)
    return interrupts.exit_code if interrupts.number else code


def _run_reported(
    prog: str,
    parse: Callable[[], argparse.Namespace],
    run: Callable[[argparse.Namespace], int],
    interrupts: Interrupts,
) -> int:
    debug = False
    try:
        args = parse()
        debug = args.debug
        args.interrupts = interrupts
        with quiet_libraries(quiet=args.quiet and not debug):
            code = run(args)
            sys.stdout.flush()
    except BrokenPipeError:
        return discard_stdout()
    except KeyboardInterrupt:
        return interrupts.report(prog)
    # An interrupted library may raise any error.
    except Exception as error:
        if interrupts.number:
            return interrupts.report(prog)
        if not isinstance(error, (BilstmRuntimeError, OSError, MemoryError)):
            raise
        if debug:
            traceback.print_exc()
        message = one_line(error) or type(error).__name__
        sys.stderr.write(f"{prog}: error: {message}\n")
        return _code(error)
    return code


class _VersionAction(argparse.Action):
    """Prints the version and exits; the look-up takes milliseconds, so it is done only here."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        """Take no argument."""
        super().__init__(
            option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="print the version",
            **options,
        )  # fmt: skip

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print and exit with code 0."""
        from bilstm_runtime.device import package_version  # noqa: PLC0415 (see above)

        sys.stdout.write(f"{parser.prog} {package_version('bilstm-edge')}\n")
        parser.exit()


def _code(error: Exception) -> ExitCode:
    if isinstance(error, BackendMissingError):
        return ExitCode.BACKEND_MISSING
    if isinstance(error, (BundleError, BackendRunError)):
        return ExitCode.BUNDLE
    return ExitCode.USAGE
