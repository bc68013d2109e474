"""The command run-bilstm: runs the model on examples from a file, and writes the outputs."""

from __future__ import annotations

import argparse
import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.cli.exit_codes import ExitCode, bundle_parser, run_guarded
from bilstm_runtime.cli.output import Progress, opened_output
from bilstm_runtime.errors import DataFileError, InputError
from bilstm_runtime.inputs import InputReader
from bilstm_runtime.io.readers import READERS, label_keys, read_csv_lines, read_json_line
from bilstm_runtime.io.sources import line_blocks, open_source, read_all
from bilstm_runtime.io.writers import WRITERS, Table, check_format
from bilstm_runtime.model import load

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bilstm_runtime.inputs import Values
    from bilstm_runtime.io.writers import Writer
    from bilstm_runtime.model import Model

PROG = "run-bilstm"
STDIN = "-"
_FORMATS_HELP = """\
input formats:
  jsonl  one example per line: a list of numbers (or of lists of numbers, one per step), or an
         object by input name; lines may differ in length. A text ("so good") if the Keras
         model starts with a text layer
  csv    numbers without a header. For a model that takes [batch, time] or [batch, features],
         one example per row. For a model that takes [batch, time, features], ONE sequence,
         with one step per row
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
        job = _Job(model, args.batch_size, label, WRITERS[output_format], file, progress)
        if _answers_lines(model, input_format, output_format):
            count = job.answer_lines(source, input_format)
        else:
            ignored = label_keys(model.inputs, model.outputs)
            content = read_all(source, label)
            count = job.answer(READERS[input_format](content, model.inputs, label, ignored))
    progress.clear()
    if not args.quiet and sys.stderr.isatty():
        sys.stderr.write(f"{PROG}: {count} examples, {model!r}\n")
    return ExitCode.OK


def _answers_lines(model: Model, input_format: str, output_format: str) -> bool:
    """Whether each line is an example whose outputs can be written before the next is read."""
    is_free = model.spec.rows_independent and model.spec.batch.size is None
    reads = input_format == "jsonl" or (
        input_format == "csv" and [len(spec.axes) for spec in model.inputs] == [2]
    )
    writes = output_format == "jsonl" or (
        output_format == "csv" and [len(spec.axes) <= 2 for spec in model.outputs] == [True]
    )
    return is_free and not model.is_stateful and reads and writes


class _Job:
    """Predicts, and writes the outputs to a file."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        model: Model,
        batch_size: int | None,
        label: str,
        write: Writer,
        file: BinaryIO,
        progress: Progress,
    ) -> None:
        self._model = model
        self._batch_size = batch_size
        self._label = label
        self._write = write
        self._file = file
        self._progress = progress
        self._names = [spec.name for spec in model.inputs]

    def answer(self, values: Values, first: int = 0) -> int:
        """Predict and write; returns the number of examples."""
        show = self._progress if first == 0 else None
        outputs = self._model.predict(values, batch_size=self._batch_size, progress=show)
        names = [spec.name for spec in self._model.outputs]
        table = Table.of(outputs, names, self._model.output_structure, first)
        self._write(table, self._file)
        rows = [
            len(c) for c, s in zip(table.columns, self._model.outputs, strict=True) if s.has_rows
        ]
        return rows[0] if rows else 0

    def answer_lines(self, source: BinaryIO, input_format: str) -> int:
        """Answer the lines of a file as they come; returns the number of examples."""
        count = 0
        for number, lines in line_blocks(source, self._label):
            examples = self._examples(number, lines, input_format)
            if not examples:
                continue
            try:
                self.answer(self._values([example for _, example in examples]), count)
            except InputError as error:
                raise self._located(error, examples) from error
            count += len(examples)
            self._file.flush()
            self._progress(count, None)
        return count or self.answer(self._values([]))  # no examples: an error

    def _examples(
        self, number: int, lines: Sequence[str], input_format: str
    ) -> list[tuple[int, dict[str, Any]]]:
        """Return the examples of some lines, with the numbers of their lines."""
        examples: list[tuple[int, dict[str, Any]]] = []
        ignored = label_keys(self._model.inputs, self._model.outputs)
        for at, line in enumerate(lines, start=number):
            if not line.strip():
                continue
            if input_format == "jsonl":
                where = f"{self._label}, line {at}"
                examples.append((at, read_json_line(line, self._names, where, ignored)))
            else:
                rows = read_csv_lines([line], self._label, at)
                examples += [(at, {self._names[0]: row}) for row in rows]
        return examples

    def _values(self, examples: Sequence[dict[str, Any]]) -> Values:
        return {name: [example[name] for example in examples] for name in self._names}

    def _located(self, error: InputError, examples: list[tuple[int, dict[str, Any]]]) -> InputError:
        """Return an error that names the line of the first wrong example."""
        reader = InputReader(self._model.spec)
        for number, example in examples:
            try:
                reader.read(self._values([example]))
            except InputError as found:
                return type(error)(f"{self._label}, line {number}: {found}")
        return type(error)(f"{self._label}, lines from {examples[0][0]}: {error}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = parse_args(argv)
    return run_guarded(PROG, partial(run, args), debug=args.debug)


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
