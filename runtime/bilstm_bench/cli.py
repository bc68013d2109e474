"""The command bench-bilstm: how fast a bundle is on this device, with confidence intervals."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

# numpy and all that needs it are imported in functions, where an interrupt is already reported.
from bilstm_runtime.cli.exit_codes import ExitCode, bundle_parser, run_guarded
from bilstm_runtime.cli.text_tables import one_line
from bilstm_runtime.errors import DataFileError, OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_bench.benchmark import Options
    from bilstm_bench.results import Result
    from bilstm_runtime.cli.interrupts import Interrupts

PROG = "bench-bilstm"
_MAX_RUNS = 1_000_000
_MAX_MINUTES = 60 * 24 * 365


class ProgressLine:
    """Shows progress on stderr: one line that is rewritten on a terminal, or one per stage."""

    def __init__(
        self,
        *,
        quiet: bool,
        stream: TextIO | None = None,
        interrupts: Interrupts | None = None,
    ) -> None:
        """Write to stderr.

        Args:
            quiet: Write nothing.
            stream: Write to this stream instead.
            interrupts: The next step raises an interrupt again that a library swallowed, as an
                import of TensorFlow may.
        """
        self._interrupts = interrupts
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._terminal = not quiet and self._stream.isatty()
        self._shown = False

    def stage(self, text: str) -> None:
        """A stage begins."""
        self._raise_lost_interrupt()
        if self._terminal:
            self.step(text)
        elif not self._quiet:
            self._stream.write(f"{text} ...\n")
            self._stream.flush()

    def step(self, text: str) -> None:
        """A step within a stage begins; shown on a terminal only."""
        self._raise_lost_interrupt()
        if self._terminal:
            width = shutil.get_terminal_size().columns - 5
            self._stream.write(f"\r\x1b[K{text[:width]} ...")
            self._stream.flush()
            self._shown = True

    def _raise_lost_interrupt(self) -> None:
        if self._interrupts is not None and self._interrupts.number:
            raise KeyboardInterrupt

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with code 2 if it is wrong."""
    from bilstm_bench.benchmark import SECTIONS  # noqa: PLC0415 (see above)
    from bilstm_runtime.backends import BACKENDS  # noqa: PLC0415

    parser = bundle_parser(
        PROG,
        "Measure a bundle on this device: every model file on every installed "
        "backend, in turns, with confidence intervals.",
    )
    selection = parser.add_argument_group("what is measured")
    selection.add_argument(
        "--lengths",
        metavar="N,N",
        help="steps of the sequences (default: 10,50,200, or the fixed length)",
    )
    selection.add_argument(
        "--batches", metavar="N,N", help="sequences per call (default: 1, or the fixed batch)"
    )
    selection.add_argument(
        "--threads",
        metavar="N,N",
        help="threads (default: 1,2,4, up to the number of cores)",
    )
    selection.add_argument(
        "--backend",
        action="append",
        choices=list(BACKENDS),
        help="measure this backend; may be repeated (default: all)",
    )
    selection.add_argument(
        "--recipes",
        metavar="NAME,NAME",
        help="measure these recipes, such as float32 (default: all)",
    )
    selection.add_argument(
        "--padding",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="the share of the steps that is padding, at the end (default: 0)",
    )
    selection.add_argument(
        "--only",
        metavar="LIST",
        help=f"measure these of {','.join(SECTIONS)} (default: all; with --soak: none)",
    )
    selection.add_argument(
        "--against",
        metavar="MODEL",
        help="also time this Keras model in the same rounds (needs the exporter)",
    )
    selection.add_argument(
        "--custom-objects",
        action="append",
        default=[],
        metavar="MODULE[:NAME]",
        help="custom layers of the Keras model, as for export-bilstm",
    )
    how = parser.add_argument_group("how it is measured")
    how.add_argument(
        "--rounds", type=int, default=60, metavar="N", help="maximum number of rounds (default: 60)"
    )
    how.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="time limit for the rounds; at least 6 rounds run (default: 60)",
    )
    how.add_argument(
        "--cold-runs",
        type=int,
        default=5,
        metavar="N",
        help="fresh processes per file and backend (default: 5)",
    )
    how.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="random seed for inputs and order (default: 0)",
    )
    more = parser.add_argument_group("more measurements")
    more.add_argument(
        "--tune",
        action="store_true",
        help="store the fastest choice for this device beside the bundle; load() uses it",
    )
    more.add_argument(
        "--soak",
        type=float,
        metavar="MINUTES",
        help="run random lengths for this long in total; reports growth of memory and latency",
    )
    more.add_argument(
        "--output",
        metavar="FILE",
        help="write the samples of the soak to this file while it runs (JSON lines)",
    )
    form = parser.add_argument_group("output")
    one = form.add_mutually_exclusive_group()
    one.add_argument("--json", action="store_true", help="print JSON instead of tables")
    one.add_argument("--markdown", action="store_true", help="print Markdown instead of tables")
    form.add_argument(
        "--html", metavar="FILE", help="also write an HTML page with tables and plots"
    )
    form.add_argument("--quiet", action="store_true", help="show no progress on stderr")
    form.add_argument("--debug", action="store_true", help="print the traceback of errors")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Measure, and print the results.

    Returns:
        The exit code.

    Raises:
        BilstmRuntimeError: An option is invalid, or nothing can be measured.
    """
    from bilstm_bench.benchmark import run_benchmark  # noqa: PLC0415 (see above)
    from bilstm_bench.report import NO_PLOTS, plots_are_available  # noqa: PLC0415
    from bilstm_runtime.bundle.folder import open_bundle  # noqa: PLC0415

    options = _options(args)
    page = None if args.html is None else Path(args.html)
    if page is not None and not page.resolve().parent.is_dir():
        message = f"--html {page}: there is no folder {page.resolve().parent}; create it first"
        raise DataFileError(message)
    bundle = open_bundle(args.bundle, sha256=args.sha256)
    if page is not None and not plots_are_available() and not args.quiet:
        sys.stderr.write(f"{PROG}: {NO_PLOTS}\n")
    progress = ProgressLine(quiet=args.quiet, interrupts=args.interrupts)
    result = run_benchmark(bundle, args.bundle, options, progress)
    if not result.is_empty or result.cases or result.starts or result.profiles:
        _print(result, args)
    if page is not None and not result.is_empty:
        _write_page(page, result, quiet=args.quiet)
    if result.interrupted:
        sys.stdout.flush()
        state = "nothing was measured yet" if result.is_empty else "these are the results so far"
        sys.stderr.write(f"{PROG}: interrupted; {state}\n")
        return ExitCode.INTERRUPTED
    if result.failure:
        sys.stdout.flush()
        sys.stderr.write(f"{PROG}: error: {one_line(result.failure)}\n")
        return ExitCode.USAGE
    if result.is_empty:
        sys.stderr.write(f"{PROG}: error: nothing could be measured\n")
        return ExitCode.BUNDLE
    return ExitCode.OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_guarded(PROG, partial(parse_args, argv), run)


def _options(args: argparse.Namespace) -> Options:
    from bilstm_bench.benchmark import Options  # noqa: PLC0415 (see above)
    from bilstm_bench.plan import Choice, parse_counts  # noqa: PLC0415

    counts = {
        name: None if text is None else parse_counts(f"--{name}", text)
        for name, text in (
            ("lengths", args.lengths),
            ("batches", args.batches),
            ("threads", args.threads),
        )
    }
    for name, value, low, high in (
        ("--rounds", args.rounds, 1, _MAX_RUNS),
        ("--cold-runs", args.cold_runs, 0, _MAX_RUNS),
        ("--seconds", args.seconds, 0, math.inf),
        ("--seed", args.seed, 0, 2**63),
        ("--soak", 1 if args.soak is None else args.soak, 1e-4, _MAX_MINUTES),
    ):
        if not low <= value <= high:
            message = f"{name} {value}: expected a number from {low:g} to {high:g}"
            raise OptionError(message)
    if args.output is not None and args.soak is None:
        message = "--output is for the samples of a soak; add --soak MINUTES"
        raise OptionError(message)
    if args.soak is not None and args.tune and args.only is None:
        sections: tuple[str, ...] = ("latency",)
    else:
        sections = _sections(args.only, soaks=args.soak is not None, compares=bool(args.against))
    return Options(
        choice=Choice(
            **counts,
            backends=None if args.backend is None else tuple(args.backend),
            recipes=None if args.recipes is None else _words(args.recipes),
            padding=args.padding,
            seed=args.seed,
        ),
        sections=sections,
        rounds=args.rounds,
        seconds=args.seconds,
        cold_runs=args.cold_runs,
        against=args.against,
        custom_objects=tuple(args.custom_objects),
        tune=args.tune,
        soak_seconds=60 * (args.soak or 0),
        output=None if args.output is None else Path(args.output),
    )


def _sections(only: str | None, *, soaks: bool, compares: bool) -> tuple[str, ...]:
    from bilstm_bench.benchmark import SECTIONS  # noqa: PLC0415 (see above)

    if only is None:
        return (("latency",) if compares else ()) if soaks else SECTIONS
    names = _words(only)
    unknown = [name for name in names if name not in SECTIONS]
    if unknown or not names:
        message = f"--only {only}: expected some of {', '.join(SECTIONS)}, separated by commas"
        raise OptionError(message)
    return names


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _print(result: Result, args: argparse.Namespace) -> None:
    from bilstm_bench.report import markdown, print_text  # noqa: PLC0415 (see above)
    from bilstm_bench.results import to_json  # noqa: PLC0415

    if args.json:
        sys.stdout.write(json.dumps(to_json(result), indent=2, allow_nan=False) + "\n")
    elif args.markdown:
        sys.stdout.write(markdown(result))
    else:
        print_text(result)


def _write_page(page: Path, result: Result, *, quiet: bool) -> None:
    from bilstm_bench.report import html_page  # noqa: PLC0415 (see above)
    from bilstm_bench.tuning import write_atomically  # noqa: PLC0415

    try:
        write_atomically(page, html_page(result))
    except OSError as error:
        message = f"{page} cannot be written: {error.strerror or error}"
        raise DataFileError(message) from error
    if not quiet:
        sys.stderr.write(f"{PROG}: the page is {page}\n")


if __name__ == "__main__":
    sys.exit(main())
