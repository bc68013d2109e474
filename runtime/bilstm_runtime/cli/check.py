"""The command check-bilstm: compares every model file of a bundle with its reference."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import textwrap
from functools import partial
from typing import TYPE_CHECKING, Final

# numpy and all that needs it are imported in functions, where an interrupt is already reported.
from bilstm_runtime.cli.exit_codes import ExitCode, bundle_parser, run_guarded
from bilstm_runtime.cli.text_tables import (
    NONE,
    WHOLE_WORDS,
    fitted_table,
    line_width,
    one_line,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_runtime.checking import CheckReport

PROG = "check-bilstm"
_RESULTS: Final = {True: "pass", False: "FAIL", None: "not run"}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with code 2 if it is invalid."""
    from bilstm_runtime.backends import BACKENDS  # noqa: PLC0415 (see above)

    parser = bundle_parser(
        PROG,
        "Run every model file of a bundle on the recorded cases, each twice, and "
        "compare its outputs with Keras's or, for quantized files, with those it had at export.",
    )
    parser.add_argument(
        "--backend",
        action="append",
        choices=list(BACKENDS),
        help="check this backend only; may be given more than once (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quiet", action="store_true", help="print only errors on stderr")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Check the bundle and print the report to stdout.

    Returns:
        The exit code.

    Raises:
        BilstmRuntimeError: The bundle cannot be checked.
    """
    from bilstm_runtime.checking import check  # noqa: PLC0415 (see above)

    report = check(args.bundle, backends=args.backend, sha256=args.sha256)
    sys.stdout.write((_json(report) if args.json else _table(report)) + "\n")
    if not report.ran and not any(item.passed is False for item in report.checks):
        sys.stderr.write(f"{PROG}: error: nothing could be run\n")
        missing = any(item.backend for item in report.checks)
        return ExitCode.BACKEND_MISSING if missing else ExitCode.BUNDLE
    return ExitCode.OK if report.passed else ExitCode.CHECK_FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_guarded(PROG, partial(parse_args, argv), run)


def _table(report: CheckReport) -> str:
    header = ["artifact", "backend", "cases", "against", "max error", "of tolerance", "result"]
    rows = [
        [
            item.file,
            item.backend or NONE,
            str(item.cases) if item.cases else NONE,
            item.reference,
            NONE if item.max_abs_error is None else f"{item.max_abs_error:.2g}",
            NONE if item.max_error_ratio is None else f"{item.max_error_ratio:.2g}",
            _RESULTS[item.passed],
        ]
        for item in report.checks
    ]
    width = line_width()
    lines = fitted_table(header, rows, width)
    for item in report.checks:
        if item.reason:
            backend = f" on {item.backend}" if item.backend else ""
            reason = one_line(item.reason)
            line = f"{item.file}{backend}: {_RESULTS[item.passed]}: {reason}"
            lines += [line] if width is None else textwrap.wrap(line, width, **WHOLE_WORDS)
    return "\n".join(lines)


def _json(report: CheckReport) -> str:
    """Write the report as JSON; infinity becomes null, because JSON has no infinity."""
    checks = [
        {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in dataclasses.asdict(item).items()
        }
        for item in report.checks
    ]
    return json.dumps({"name": report.name, "passed": report.passed, "checks": checks}, indent=2)


if __name__ == "__main__":
    sys.exit(main())
