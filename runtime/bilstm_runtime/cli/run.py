"""The command run-bilstm: runs the model on examples from a file, and writes the outputs."""

from __future__ import annotations

import argparse
import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

# numpy and all that needs it are imported in functions, where an interrupt is already reported.
from bilstm_runtime.cli.exit_codes import ExitCode, bundle_parser, run_guarded
from bilstm_runtime.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


PROG = "run-bilstm"
STDIN = "-"
_FORMATS_HELP = """\
input formats:
  jsonl  one example per line: a list of numbers (or of lists of numbers, one per step), or an
         object by input name; lines may differ in length. A text ("so good") if the Keras
         model starts with a text layer
  csv    numbers; a first line without numbers is a header. For a model that takes
         [batch, time] or [batch, features], one example per row. For a model that takes
         [batch, time, features], ONE sequence, with one step per row
  npy    one array with a batch axis
  npz    arrays with a batch axis, by input name

  Labels (y, or y_OUTPUT) in a jsonl or npz file are ignored. Lines are answered as they come,
  unless the model takes a fixed number of examples at once.

output formats:
  jsonl  one example per line, in the order of the input
  csv    one output, one example per row (a single sequence: one step per row)
  npy    one output, as one array
  npz    arrays by output name; if lengths differ, NAME.0, NAME.1, ... by example

"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with code 2 if it is invalid."""
    from bilstm_runtime.backends import BACKENDS  # noqa: PLC0415 (see above)
    from bilstm_runtime.io.readers import READERS  # noqa: PLC0415
    from bilstm_runtime.io.writers import WRITERS  # noqa: PLC0415

    parser = bundle_parser(
        PROG, "Run the model of a bundle on examples from a file.", formats=_FORMATS_HELP
    )
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="examples to run; - reads stdin"
    )
    parser.add_argument(
        "--input-format",
        choices=list(READERS),
        help="format of the examples (default: by the file's name; jsonl for stdin)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="where to write the outputs, replacing a file that exists; the name ends in "
        + ", ".join(f".{name}" for name in WRITERS)
        + " (default: stdout, as jsonl)",
    )
    parser.add_argument(
        "--backend",
        choices=list(BACKENDS),
        help="the backend that runs the model (default: the first of this list that is installed)",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="which of the model files, such as float32 (default: the one recommended at export)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads the backend may use (default: 1)"
    )
    parser.add_argument(
        "--sha256",
        metavar="HEX",
        help="run only the bundle whose manifest has this SHA-256, as export-bilstm prints it",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="the largest number of examples that run at once (default: as many as take little "
        "memory)",
    )
    parser.add_argument("--quiet", action="store_true", help="print only errors on stderr")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Read the examples, predict, and write the outputs.

    Returns:
        The exit code.

    Raises:
        BilstmRuntimeError: One of these steps failed.
    """
    from bilstm_runtime.cli.job import PredictionJob, answers_lines  # noqa: PLC0415 (see above)
    from bilstm_runtime.cli.output import Progress, opened_output  # noqa: PLC0415
    from bilstm_runtime.io.readers import READERS, label_keys  # noqa: PLC0415
    from bilstm_runtime.io.sources import open_source, read_all  # noqa: PLC0415
    from bilstm_runtime.io.writers import WRITERS, check_format  # noqa: PLC0415
    from bilstm_runtime.model import load  # noqa: PLC0415

    input_format = args.input_format or _format_of(args.input, "jsonl", READERS)
    output_format = _format_of(args.output, "jsonl", WRITERS)
    model = load(
        args.bundle,
        backend=args.backend,
        recipe=args.recipe,
        threads=args.threads,
        sha256=args.sha256,
    )
    check_format(output_format, model.outputs)
    label = "stdin" if args.input == STDIN else args.input
    progress = Progress(shown=not args.quiet and sys.stderr.isatty())
    source = open_source(None if args.input == STDIN else args.input)
    owned = contextlib.nullcontext() if args.input == STDIN else contextlib.closing(source)
    with owned, opened_output(args.output) as file:
        job = PredictionJob(model, args.batch_size, label, WRITERS[output_format], file, progress)
        if answers_lines(model, input_format, output_format):
            count = job.answer_lines(source, input_format)
        else:
            ignored = label_keys(model.inputs, model.outputs)
            content = read_all(source, label)
            count = job.answer(READERS[input_format](content, model.inputs, label, ignored))
    progress.clear()
    if not args.quiet and sys.stderr.isatty():
        sys.stderr.write(f"{PROG}: {count} examples, {model!r}\n")
    return ExitCode.OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_guarded(PROG, partial(parse_args, argv), run)


def _format_of(file: str | None, default: str, known: Collection[str]) -> str:
    """Return the format that a file name implies."""
    if file is None or file == STDIN:
        return default
    ending = Path(file).suffix.removeprefix(".").lower()
    if ending not in known:
        names = ", ".join(f".{name}" for name in known)
        message = f"{file}: the name must end in one of {names}"
        raise DataFileError(message)
    return ending


if __name__ == "__main__":
    sys.exit(main())
