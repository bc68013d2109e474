"""The command bench-bilstm: how fast a bundle is on this device, and how sure that is."""

from __future__ import annotations

import argparse
import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bilstm_bench.benchmark import SECTIONS, Options, run_benchmark
from bilstm_bench.plan import Choice, parse_counts
from bilstm_bench.progress import Progress
from bilstm_bench.report import html_page, markdown, print_text
from bilstm_bench.results import to_json
from bilstm_bench.tuning_file import write_aside
from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.cli.exit_codes import EXIT_CODES_HELP, ExitCode, run_guarded
from bilstm_runtime.errors import DataFileError, OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_bench.results import Result

PROG = "bench-bilstm"
_MOST_RUNS = 1_000_000
_MOST_MINUTES = 60 * 24 * 365


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with code 2 where it is wrong."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Measure a bundle on this device: every model file on every installed "
        "backend, in turns, with a confidence interval.",
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="the bundle folder")
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--lengths", metavar="N,N", help="steps of the sequences (default: 10,50,200, or the fixed)"
    )
    what.add_argument(
        "--batches", metavar="N,N", help="sequences in one call (default: 1, or the fixed one)"
    )
    what.add_argument(
        "--threads", metavar="N,N", help="threads (default: 1,2,4, as far as there are cores)"
    )
    what.add_argument(
        "--backend",
        action="append",
        choices=list(BACKENDS),
        help="only this backend; may be given more than once (default: all)",
    )
    what.add_argument(
        "--recipes", metavar="NAME,NAME", help="only these recipes, such as float32 (default: all)"
    )
    what.add_argument(
        "--padding",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="the share of the steps, at the end, that is padding (default: 0)",
    )
    what.add_argument(
        "--only",
        metavar="LIST",
        help=f"only these of {','.join(SECTIONS)}; with --soak none of them unless named "
        "(default: all)",
    )
    what.add_argument(
        "--against",
        metavar="MODEL",
        help="a Keras model to time in the same rounds (needs the exporter)",
    )
    what.add_argument(
        "--custom-objects",
        action="append",
        default=[],
        metavar="MODULE[:NAME]",
        help="the Keras model's own layers, as for export-bilstm",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--rounds", type=int, default=60, metavar="N", help="rounds at most (default: 60)"
    )
    how.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="begin no round later than this, once there are six (default: 60)",
    )
    how.add_argument(
        "--cold-runs",
        type=int,
        default=5,
        metavar="N",
        help="fresh processes for each file (default: 5)",
    )
    how.add_argument(
        "--seed", type=int, default=0, metavar="N", help="for inputs and order (default: 0)"
    )
    more = parser.add_argument_group("more")
    more.add_argument(
        "--tune",
        action="store_true",
        help="store beside the bundle what is fastest here; load() uses it from then on",
    )
    more.add_argument(
        "--soak",
        type=float,
        metavar="MINUTES",
        help="run random lengths for so long in all, and say how memory and latency grow",
    )
    more.add_argument(
        "--output", metavar="FILE", help="write the soak's samples there while it runs (jsonl)"
    )
    form = parser.add_argument_group("output")
    one = form.add_mutually_exclusive_group()
    one.add_argument("--json", action="store_true", help="print JSON instead of tables")
    one.add_argument("--markdown", action="store_true", help="print Markdown instead")
    form.add_argument("--html", metavar="FILE", help="also write one page with tables and plots")
    form.add_argument("--quiet", action="store_true", help="no progress on stderr")
    form.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Measure and print.

    Returns:
        The exit code.

    Raises:
        BilstmRuntimeError: An option is impossible, or nothing can be measured.
    """
    options = _options(args)
    page = None if args.html is None else Path(args.html)
    if page is not None and not page.resolve().parent.is_dir():
        msg = f"--html {page}: there is no folder {page.resolve().parent}; make it first"
        raise DataFileError(msg)
    bundle = open_bundle(args.bundle)
    result = run_benchmark(bundle, args.bundle, options, Progress(quiet=args.quiet))
    if not result.is_empty or result.cases or result.starts or result.profiles:
        _print(result, args)
    if page is not None and not result.is_empty:
        _write_page(page, result, quiet=args.quiet)
    if result.interrupted:
        sys.stdout.flush()
        what = "nothing was measured yet" if result.is_empty else "this is what there is"
        sys.stderr.write(f"{PROG}: interrupted; {what}\n")
        return ExitCode.INTERRUPTED
    if result.failure:
        sys.stdout.flush()
        sys.stderr.write(f"{PROG}: error: {result.failure}\n")
        return ExitCode.USAGE
    if result.is_empty:
        sys.stderr.write(f"{PROG}: error: nothing could be measured\n")
        return ExitCode.BUNDLE
    return ExitCode.OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = parse_args(argv)
    return run_guarded(PROG, partial(run, args), debug=args.debug)


def _options(args: argparse.Namespace) -> Options:
    counts = {
        name: None if text is None else parse_counts(f"--{name}", text)
        for name, text in (
            ("lengths", args.lengths),
            ("batches", args.batches),
            ("threads", args.threads),
        )
    }
    for name, value, low, high in (
        ("--rounds", args.rounds, 1, _MOST_RUNS),
        ("--cold-runs", args.cold_runs, 0, _MOST_RUNS),
        ("--seconds", args.seconds, 0, math.inf),
        ("--seed", args.seed, 0, 2**63),
        ("--soak", 1 if args.soak is None else args.soak, 1e-4, _MOST_MINUTES),
    ):
        if not low <= value <= high:
            msg = f"{name} {value}: expected a number from {low:g} to {high:g}"
            raise OptionError(msg)
    if args.output is not None and args.soak is None:
        msg = "--output takes the samples of a soak; give --soak MINUTES too"
        raise OptionError(msg)
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
    if only is None:
        return (("latency",) if compares else ()) if soaks else SECTIONS
    names = _words(only)
    unknown = [name for name in names if name not in SECTIONS]
    if unknown or not names:
        msg = f"--only {only}: expected some of {', '.join(SECTIONS)}, separated by commas"
        raise OptionError(msg)
    return names


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _print(result: Result, args: argparse.Namespace) -> None:
    if args.json:
        sys.stdout.write(json.dumps(to_json(result), indent=2, allow_nan=False) + "\n")
    elif args.markdown:
        sys.stdout.write(markdown(result))
    else:
        print_text(result)


def _write_page(page: Path, result: Result, *, quiet: bool) -> None:
    text, missing = html_page(result)
    try:
        write_aside(page, text)
    except OSError as error:
        msg = f"{page} cannot be written: {error.strerror or error}"
        raise DataFileError(msg) from error
    if not quiet and missing:
        sys.stderr.write(f"{PROG}: {missing}\n")


if __name__ == "__main__":
    sys.exit(main())
