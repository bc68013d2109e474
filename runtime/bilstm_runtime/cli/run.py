"""The command run-bilstm: runs the model on examples from a file, and writes the outputs."""

from __future__ import annotations

import argparse
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
_CHUNK = 2**15
"""Bytes per write to stdout. The JSON is ASCII, so it may be split anywhere."""

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
    from bilstm_runtime.io.readers import READERS  # noqa: PLC0415 (see above)
    from bilstm_runtime.io.writers import WRITERS, Table  # noqa: PLC0415
    from bilstm_runtime.model import load  # noqa: PLC0415

    input_format = args.input_format or _format_of(args.input, "jsonl", READERS)
    output_format = _format_of(args.output, "jsonl", WRITERS)
    model = load(args.bundle, backend=args.backend, recipe=args.recipe, threads=args.threads)
    label = "stdin" if args.input == STDIN else args.input
    values = READERS[input_format](_read(args.input), model.inputs, label)
    names = [spec.name for spec in model.outputs]
    table = Table.of(model.predict(values), names, model.output_structure)
    content = WRITERS[output_format](table)
    if not args.quiet and sys.stderr.isatty():
        sys.stderr.write(f"{PROG}: {len(table.columns[0])} examples, {model!r}\n")
    _write(args.output, content)
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


def _read(file: str) -> bytes:
    if file == STDIN:
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror or error}"
        raise DataFileError(message) from error


def _write(file: str | None, content: bytes) -> None:
    if file is None:
        # In chunks: under PYTHONUNBUFFERED, one long write that the reader interrupts would look
        # like a complete one.
        for start in range(0, len(content), _CHUNK):
            sys.stdout.write(content[start : start + _CHUNK].decode())
        return
    try:
        Path(file).write_bytes(content)
    except OSError as error:
        message = f"{file} cannot be written: {error.strerror or error}"
        raise DataFileError(message) from error


if __name__ == "__main__":
    sys.exit(main())
