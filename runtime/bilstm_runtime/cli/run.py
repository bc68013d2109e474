"""The command run-bilstm: runs the model on examples from a file, and writes the outputs."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

# numpy and all that needs it are imported in functions, where an interrupt is already reported.
from bilstm_runtime.cli.exit_codes import ExitCode, bundle_parser, run_guarded
from bilstm_runtime.cli.text_tables import one_line
from bilstm_runtime.errors import DataFileError, OptionError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bilstm_runtime.cli.answers import Answerer
    from bilstm_runtime.model import Model

PROG = "run-bilstm"
STDIN = "-"
_FORMATS_HELP = """\
input formats:
  jsonl  one example per line: a list of numbers (or of lists of numbers, one
         per step), or an object by input name; lines may differ in length. A
         text ("so good") if the model takes text
  csv    numbers; a first line without numbers is a header. For a model that
         takes [batch, time] or [batch, features], one example per row. For a
         model that takes [batch, time, features], ONE sequence, with one step
         per row
  npy    one array with a batch axis
  npz    arrays with a batch axis, by input name
  txt    one text per line, as it is, for a model that takes text
  wav    one recording, 16-bit or float PCM, for a model exported with a
         sampling rate; its rate and its channels must be those of the model

  If the export was given the names of classes, a line of the output is the
  answer in words: {"label": "good", "score": 0.93}, or
  {"tags": [{"token": ..., "tag": ...}, ...]}; --raw writes the numbers.
  A line that cannot be read becomes {"error": ...}, the others are answered,
  and the exit code is 2.

  Labels (y, or y_OUTPUT) in the file are ignored. Lines are answered as they
  come, unless the model takes a fixed number of examples at once.

output formats:
  jsonl  one example per line, in the order of the input
  csv    one output, one example per row (a single sequence: one step per row)
  npy    one output, as one array
  npz    arrays by output name; if lengths differ, NAME.0, NAME.1, ... by example

"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with code 2 if it is invalid."""
    from bilstm_runtime.backends import BACKENDS  # noqa: PLC0415 (see above)
    from bilstm_runtime.io.readers import READERS, TEXT_LINES  # noqa: PLC0415
    from bilstm_runtime.io.writers import WRITERS  # noqa: PLC0415

    parser = bundle_parser(
        PROG, "Run the model of a bundle on examples from a file.", formats=_FORMATS_HELP
    )
    examples = parser.add_mutually_exclusive_group(required=True)
    examples.add_argument("--input", metavar="FILE", help="examples to run; - reads stdin")
    examples.add_argument(
        "--text",
        action="append",
        metavar="TEXT",
        help="run this text, and print the answer for people; may be repeated",
    )
    parser.add_argument(
        "--input-format",
        choices=[*READERS, TEXT_LINES],
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
        "--batch-size",
        type=int,
        metavar="N",
        help="the largest number of examples that run at once (default: as many as take little "
        "memory)",
    )
    streams = parser.add_argument_group("streams", "for a bundle with stream files")
    streams.add_argument(
        "--stream",
        action="store_true",
        help="take each line of the input (jsonl, csv) or each row of an array (npy) as the next "
        "step of one sequence, and write each output as soon as its look-ahead is there",
    )
    streams.add_argument(
        "--chunk", type=int, metavar="N", help="steps at once (default: that of the export)"
    )
    streams.add_argument(
        "--lookahead",
        type=int,
        metavar="N",
        help="steps to wait for after a chunk (default: that of the export)",
    )
    parser.add_argument(
        "--window",
        type=int,
        metavar="N",
        help="cut one long recording into windows of N steps, each of which is an example; 0 cuts "
        "none (default: that of the export, and with --hop the fixed length of the model)",
    )
    parser.add_argument(
        "--hop",
        type=int,
        metavar="M",
        help="steps from one window to the next (default: that of the export, or N)",
    )
    answers = parser.add_argument_group("answers", "for a bundle that names its classes")
    answers.add_argument("--top-k", type=int, metavar="K", help="the K best labels (default: 1)")
    answers.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="the lowest score, from 0 to 1, of a class (default: the one chosen at export)",
    )
    answers.add_argument(
        "--spans", action="store_true", help="join tags such as B-PER and I-PER to spans"
    )
    answers.add_argument(
        "--beam-width",
        type=int,
        metavar="N",
        help="search for characters with N prefixes; 1 takes the best character of each step "
        "(default: the one chosen at export)",
    )
    answers.add_argument(
        "--words", metavar="FILE", help="find only these words, one per line, among characters"
    )
    answers.add_argument(
        "--raw", action="store_true", help="write the numbers of the outputs, not labels"
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
    from bilstm_runtime.io.readers import READERS, TEXT_LINES  # noqa: PLC0415
    from bilstm_runtime.io.sources import open_source  # noqa: PLC0415
    from bilstm_runtime.io.writers import WRITERS, check_format  # noqa: PLC0415
    from bilstm_runtime.model import load  # noqa: PLC0415

    if args.stream or args.chunk is not None or args.lookahead is not None:
        return _run_stream(args)
    input_format = args.input_format or _format_of(args.input, "jsonl", [*READERS, TEXT_LINES])
    output_format = _format_of(args.output, "jsonl", WRITERS)
    model = load(
        args.bundle,
        backend=args.backend,
        recipe=args.recipe,
        threads=args.threads,
        sha256=args.sha256,
    )
    answerer = _answerer(args, model, output_format)
    if answerer is None:
        check_format(output_format, model.outputs)
    is_asked, windows = _windows(args, model)
    label = {None: "--text", STDIN: "stdin"}.get(args.input, args.input)
    progress = Progress(shown=not args.quiet and sys.stderr.isatty())
    source = None if args.input is None else open_source(_no_stdin(args.input))
    is_owned = source is not None and args.input != STDIN
    owned = contextlib.closing(source) if source and is_owned else contextlib.nullcontext()
    with owned, opened_output(args.output) as file:
        write = WRITERS[output_format]
        job = PredictionJob(
            model,
            args.batch_size,
            label,
            write,
            file,
            progress,
            answerer,
            windows,
            are_recordings=is_asked,
        )
        by_line = answers_lines(model, input_format, output_format, answerer)
        if source is None:
            count = job.answer_texts(args.text)
        elif windows and input_format != TEXT_LINES and not (by_line and input_format == "jsonl"):
            count = job.answer_recording(source, input_format)
        elif by_line:
            count = job.answer_lines(source, input_format)
        else:
            count = job.answer_all(source, input_format)
    progress.clear()
    failed = f"{len(job.errors)} of {count} examples"
    return _report_end(args, f"{count} examples, {model!r}", failed, job.errors)


def _run_stream(args: argparse.Namespace) -> int:
    """Stream the steps of the input; returns the exit code."""
    from bilstm_runtime.cli.output import Progress, opened_output  # noqa: PLC0415 (see above)
    from bilstm_runtime.cli.streaming import StreamJob  # noqa: PLC0415
    from bilstm_runtime.io.readers import READERS  # noqa: PLC0415
    from bilstm_runtime.io.sources import open_source  # noqa: PLC0415
    from bilstm_runtime.model import load  # noqa: PLC0415

    if not args.stream:
        message = "--chunk and --lookahead are for streams; add --stream"
        raise OptionError(message)
    if args.input is None:
        message = "--stream reads the steps of --input; - is stdin"
        raise OptionError(message)
    _check_no_options_of_examples(args)
    input_format = args.input_format or _format_of(args.input, "jsonl", READERS)
    if _format_of(args.output, "jsonl", ["jsonl"]) != "jsonl":
        message = "--stream writes .jsonl"
        raise OptionError(message)
    options = {"backend": args.backend, "recipe": args.recipe, "threads": args.threads}
    model = load(args.bundle, **options, sha256=args.sha256)
    answerer = _answerer(args, model, "jsonl")
    for output in () if answerer is None or args.quiet else answerer.only_at_the_end:
        sys.stderr.write(
            f"{PROG}: output {output!r} is written as numbers: its text or the path of its CRF is "
            f"known at the end of a sequence only\n"
        )
    label = "stdin" if args.input == STDIN else args.input
    progress = Progress(shown=not args.quiet and sys.stderr.isatty())
    source = open_source(_no_stdin(args.input))
    owned = contextlib.nullcontext() if args.input == STDIN else contextlib.closing(source)
    with owned, opened_output(args.output) as file:
        steps = {"chunk": args.chunk, "lookahead": args.lookahead}
        job = StreamJob(model, label, file, progress, answerer=answerer, **steps)
        count = job.run(source, input_format)
    progress.clear()
    left_out = len(job.errors)
    failed = f"{left_out} steps were not taken" if left_out > 1 else "1 step was not taken"
    return _report_end(args, f"{count} steps, {model!r}", failed, job.errors)


def _check_no_options_of_examples(args: argparse.Namespace) -> None:
    """Raise `OptionError` for options that a stream has no use for."""
    for option, is_given, why in (
        ("--window", args.window is not None, "is not cut into windows"),
        ("--hop", args.hop is not None, "is not cut into windows"),
        ("--batch-size", args.batch_size is not None, "has no batches"),
        ("--spans", args.spans, "answers before the end of a span is known"),
        ("--beam-width", args.beam_width is not None, "answers before the end of a text is known"),
        ("--words", args.words is not None, "answers before the end of a text is known"),
    ):
        if is_given:
            message = f"{option}: a stream is one sequence that {why}; leave it or --stream out"
            raise OptionError(message)


def _report_end(
    args: argparse.Namespace, done: str, failed: str, errors: Sequence[str]
) -> ExitCode:
    """Write what was done to a terminal, and the first of the errors; returns the exit code."""
    if not args.quiet and sys.stderr.isatty():
        sys.stderr.write(f"{PROG}: {done}\n")
    if errors:
        sys.stderr.write(f"{PROG}: error: {failed}: {one_line(errors[0])}\n")
        return ExitCode.USAGE
    return ExitCode.OK


def _no_stdin(file: str) -> str | None:
    return None if file == STDIN else file


def _answerer(args: argparse.Namespace, model: Model, output_format: str) -> Answerer | None:
    """Return what writes answers in words; None if the outputs are written as numbers.

    Raises:
        OptionError: Options for answers in words, and there are none.
    """
    from bilstm_runtime.cli.answers import Answerer  # noqa: PLC0415 (see above)
    from bilstm_runtime.decoding.options import (  # noqa: PLC0415
        DecodingOptions,
        check_has_decoding,
    )

    options = DecodingOptions(
        top_k=args.top_k,
        threshold=args.threshold,
        spans=args.spans,
        beam_width=args.beam_width,
        scorer=None if args.words is None else _words(args.words),
    )
    if not args.raw and output_format == "jsonl" and model.spec.decoding:
        options.check(model.spec.decoding)
        return Answerer(model, options, as_text=args.text is not None and args.output is None)
    if options != DecodingOptions():
        check_has_decoding(model.spec)
        message = "--top-k, --threshold, --spans, --beam-width and --words choose answers in "
        message += "words, not numbers; leave them out, or write .jsonl without --raw"
        raise OptionError(message)
    return None


def _windows(args: argparse.Namespace, model: Model) -> tuple[bool, tuple[int, int] | None]:
    """Return whether the options ask for windows, and their steps; None if none are cut.

    Raises:
        OptionError: The options contradict each other or the model.
    """
    from bilstm_runtime.windows import window_steps  # noqa: PLC0415 (see above)

    if args.window == 0:
        if args.hop is not None:
            message = "--window 0 cuts no windows; leave --hop out"
            raise OptionError(message)
        return False, None
    is_asked = args.window is not None or args.hop is not None
    if not is_asked and model.spec.windows is None:
        return False, None
    return is_asked, window_steps(model.spec, args.window, args.hop)


def _words(file: str) -> tuple[str, ...]:
    """Read a list of words.

    Raises:
        DataFileError: The file cannot be read, or has no words.
    """
    from bilstm_runtime.io.sources import read_list  # noqa: PLC0415 (see above)

    try:
        text = read_list(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{file} is not a readable file of words, one per line, in UTF-8 ({error})"
        raise DataFileError(message) from error
    words = tuple(filter(None, map(str.strip, text.splitlines())))
    if not words:
        message = f"{file} has no words; write one per line"
        raise DataFileError(message)
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment] # called by position
        return run_guarded(PROG, partial(parse_args, argv), run)


def _show_warning(message: Warning | str, *_: object) -> None:
    """Write a warning, such as that of an output with NaN, in one line."""
    sys.stderr.write(f"{PROG}: warning: {one_line(message)}\n")


def _format_of(file: str | None, default: str, known: Collection[str]) -> str:
    """Return the format that a file name implies."""
    if file is None or file == STDIN:
        return default
    ending = Path(file).suffix.removeprefix(".").lower()
    if ending == "parquet":
        message = (
            f"{file}: Parquet is read with pandas or polars, whose frames Model.predict takes, or "
            f"by examples/score_with_dask.py"
        )
        raise DataFileError(message)
    if Path(file).is_dir():
        message = f"{file} is a folder; give a file"
        raise DataFileError(message)
    if ending not in known:
        names = ", ".join(f".{name}" for name in known)
        message = f"{file}: the name must end in one of {names}"
        raise DataFileError(message)
    return ending


if __name__ == "__main__":
    sys.exit(main())
