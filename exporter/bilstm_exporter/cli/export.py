"""``export-bilstm``: exports a trained Keras model to a bundle for the device."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import fields, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from bilstm_exporter.api import check_before_loading
from bilstm_exporter.cli.delay_page import check_delay_page, write_delay_page
from bilstm_exporter.cli.display import (
    print_explanation,
    print_report,
    print_searches,
    progress_listener,
)
from bilstm_exporter.errors import ExportError, OptionError
from bilstm_exporter.evaluation.data import check_file
from bilstm_exporter.evaluation.reasons import NO_DATA
from bilstm_exporter.evaluation.selection import parse_budget
from bilstm_exporter.options import DEFAULT_OPSET, OPSETS, ExportOptions
from bilstm_exporter.profiles import PROFILES
from bilstm_exporter.progress import Listener, captured_stderr
from bilstm_exporter.quantization.recipes import FLOAT32, RECIPES
from bilstm_exporter.targets.registry import default_formats
from bilstm_runtime.cli.arguments import CommandParser
from bilstm_runtime.cli.interrupts import Interrupts, discard_stdout
from bilstm_runtime.cli.text_tables import one_line
from bilstm_runtime.preprocessing_spec import SIDES

if TYPE_CHECKING:
    from bilstm_exporter.report import FailedExport

EXIT_CODES = {
    0: "the bundle is written, and every artifact reproduces Keras's outputs",
    1: "an artifact differs from Keras; nothing is written",
    2: "an option cannot be used",
    3: "the model cannot be read or exported",
    4: "the output folder cannot be written",
    5: "an internal error in bilstm-edge",
    6: "no artifact is within the limits; nothing is written",
    130: "interrupted",
    141: "the reader of the output closed it",
    143: "terminated (SIGTERM)",
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = CommandParser(
        prog="export-bilstm",
        description="Export a trained Keras BiLSTM to ONNX and TFLite, checked against Keras.",
        epilog="exit codes:\n" + "\n".join(f"  {k:<4} {v}" for k, v in EXIT_CODES.items()),
    )
    parser.add_argument(
        "model",
        nargs="?",
        help="a .keras or .h5 file or SavedModel folder of any Keras, or, with --weights, "
        "an architecture in JSON",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="load these weights, for a JSON model or a builder"
    )
    parser.add_argument(
        "--builder",
        metavar="MODULE:FUNCTION",
        help="call this function for the model, instead of reading a file",
    )
    parser.add_argument(
        "--outputs",
        metavar="LAYER[,LAYER]",
        help="export the part of the model that computes the outputs of these layers, as "
        "softmax, or encoder/lstm for a layer of a submodel (default: the model's outputs)",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="the name of each class, for answers in words on the device: one name per line, or "
        "JSON (a list, lists by output, or names by class number)",
    )
    parser.add_argument(
        "--crf",
        metavar="ITEMS",
        help="decode an output with the weights of a CRF: transitions=LAYER[/WEIGHT] and, "
        "separated by commas, any of start=LAYER/WEIGHT, end=LAYER/WEIGHT and constrain",
    )
    parser.add_argument(
        "--ctc",
        metavar="ITEMS",
        help="decode an output of characters, named by --labels, and blanks: blank=last or "
        "blank=0, and ,beam=N for a beam search",
    )
    parser.add_argument(
        "--sample-rate",
        type=int,
        metavar="N",
        help="the model takes sound of N samples per second: run-bilstm then takes .wav files "
        "(default: that of a MelSpectrogram layer)",
    )
    parser.add_argument(
        "--window",
        type=int,
        metavar="N",
        help="on the device, cut a recording that is longer into windows of N steps, each of which "
        "is an example (default with --hop: the fixed length of the model)",
    )
    parser.add_argument(
        "--hop", type=int, metavar="M", help="steps from one window to the next (default: N)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="the lowest score of a class, from 0 to 1, for one value between two classes and for "
        "classes that are not exclusive (default: 0.5)",
    )
    parser.add_argument(
        "--tokenizer",
        action="append",
        metavar="[INPUT=]FILE",
        help="how text becomes the ids that the model takes: tokenizer.json, the to_json() of "
        "Keras's Tokenizer, JSON of ids by token, or one token per line; repeat it for several "
        "inputs",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="the number of ids of a text (default: that of the model, or as many as there are)",
    )
    for side, change in (("padding", "added"), ("truncating", "removed")):
        parser.add_argument(
            f"--{side}",
            choices=SIDES,
            help=f"the side on which ids are {change}, as in Keras's pad_sequences (default: pre, "
            "or that of tokenizer.json)",
        )
    parser.add_argument("--out", metavar="DIR", help="the bundle's folder (default: MODEL-edge)")
    parser.add_argument(
        "--formats",
        default=",".join(default_formats()),
        metavar="LIST",
        help="which artifacts to write, separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--target",
        metavar="NAME[,NAME]",
        help="write for these runtimes, and run or check every artifact for each: "
        f"{', '.join(PROFILES)} (default: those of the formats)",
    )
    parser.add_argument(
        "--recipes",
        default=FLOAT32,
        metavar="LIST",
        help=f"how numbers are stored, separated by commas, or all: {', '.join(RECIPES)} "
        f"(default: {FLOAT32})",
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="evaluate the artifacts on these examples (.npz, .npy, .csv or .jsonl; arrays named "
        "after the inputs, labels named y), and calibrate int8-full with them",
    )
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="with --data: accuracy, f1, mae or rmse, or OUTPUT=NAME,... (default: chosen from the "
        "outputs and labels)",
    )
    limits = parser.add_argument_group(
        "limits", "any of them starts a search for the best recipe, or mix by layer, that fits"
    )
    limits.add_argument("--max-drop", metavar="P", help="the largest loss by the metric: 0.5%%")
    limits.add_argument("--max-kb", metavar="N", help="the largest file: 800, or 1.5mb")
    limits.add_argument("--max-ms", metavar="N", help="the longest time per example here: 5")
    streams = parser.add_argument_group(
        "streams", "files that compute a sequence of any length chunk by chunk"
    )
    streams.add_argument(
        "--streaming",
        action="store_true",
        help="write stream files too, and report the agreement with whole sequences by delay",
    )
    streams.add_argument(
        "--chunk", type=int, metavar="N", help="steps that a stream computes at once (default: 40)"
    )
    streams.add_argument(
        "--lookahead",
        type=int,
        metavar="N",
        help="steps after a chunk that its outputs may depend on (default: 20, or the fewest "
        "within --max-drop)",
    )
    streams.add_argument(
        "--html", metavar="FILE", help="write the agreement by delay as a page with curves"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="fix the batch axis (default: free)")
    parser.add_argument("--time", type=int, metavar="N", help="fix the time axes (default: free)")
    parser.add_argument(
        "--opset",
        type=int,
        default=DEFAULT_OPSET,
        metavar="N",
        help=f"ONNX opset, {OPSETS.start} to {OPSETS.stop - 1} (default: {DEFAULT_OPSET})",
    )
    parser.add_argument(
        "--custom-objects",
        action="append",
        default=[],
        metavar="MODULE[:NAME]",
        help="your own layers and functions, importable from the current folder; may be repeated",
    )
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="let Python code inside the model file run (Lambda layers); only if you trust it",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="write nothing; show how each layer is written, and what cannot be exported",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and library logs")
    parser.add_argument(
        "--version", action="version", version=f"export-bilstm {metadata.version('bilstm-edge')}"
    )
    return parser.parse_args(argv)


def run(args: argparse.Namespace, interrupts: Interrupts) -> int:
    """Export or explain the model; returns the exit code."""
    options = _options(args)  # before TensorFlow, which takes seconds to load
    _check_before_loading(args, options)
    with progress_listener(quiet=args.quiet) as shown:
        listener = _watched(shown, interrupts)
        _choose_keras(args)
        listener("loading TensorFlow")
        with contextlib.nullcontext() if args.debug else captured_stderr():
            from bilstm_exporter.frontends.files.user_code import import_objects  # noqa: PLC0415
            from bilstm_exporter.pipeline import explain, run_export  # noqa: PLC0415
            from bilstm_exporter.report import FailedExport  # noqa: PLC0415
        options = replace(options, custom_objects=import_objects(args.custom_objects))
        if args.explain:
            explanation = explain(args.model, options, listener)
        else:
            report = run_export(args.model, args.out, options, listener)
            if not isinstance(report, FailedExport):
                interrupts.outcome = f"{report.bundle} is written"
    if args.explain:
        print_explanation(explanation, as_json=args.json)
        return 3 if explanation.failures else 0
    if isinstance(report, FailedExport):
        return _failed(report, interrupts, debug=args.debug)
    if args.json or not args.quiet:
        print_report(report, as_json=args.json)
    if args.html and report.streaming is not None:
        write_delay_page(args.html, report.model, report.streaming)
        if not args.quiet:
            sys.stderr.write(f"export-bilstm: the page is {args.html}\n")
    return 0


def _check_before_loading(args: argparse.Namespace, options: ExportOptions) -> None:
    """Find what cannot be used, and say what is missing, before TensorFlow is loaded."""
    if args.html and not args.streaming:
        message = "html: it shows the delays of streams; add --streaming"
        raise OptionError(message)
    if args.explain:
        check_file(options.data)
    else:
        check_before_loading(args.model, args.out, options)
    limits = parse_budget(options.max_drop, options.max_kb, options.max_ms)
    if not (limits.is_unlimited or args.data or args.quiet or args.explain):
        sys.stderr.write(f"{NO_DATA}\n")
    missing = check_delay_page(args.html) if args.html else None
    if missing and not args.quiet:
        sys.stderr.write(f"export-bilstm: {missing}\n")


def _options(args: argparse.Namespace) -> ExportOptions:
    names = (field.name for field in fields(ExportOptions))
    given = {name: getattr(args, name) for name in names if name != "custom_objects"}
    if args.tokenizer is not None:
        given["tokenizer"] = [one if "=" in one else Path(one) for one in args.tokenizer]
    return ExportOptions(**given)


def _failed(failed: FailedExport, interrupts: Interrupts, *, debug: bool) -> int:
    """Report an export that wrote nothing; returns the exit code."""
    if interrupts.number:
        return interrupts.exit_code
    if debug:
        traceback.print_exception(failed.error)
    code = _report_error(failed.error)
    if failed.explanation is not None:
        print_explanation(failed.explanation, failed=failed.error)
    print_searches(failed.searches)
    return code


def _report_error(error: ExportError | MemoryError) -> int:
    message = one_line(error) or type(error).__name__
    sys.stderr.write(f"export-bilstm: error: {message}\n")
    return error.exit_code if isinstance(error, ExportError) else ExportError.exit_code


def _choose_keras(args: argparse.Namespace) -> None:
    """Make ``tensorflow.keras`` in the user's modules the Keras that reads the model.

    TensorFlow reads the environment variable once, at import.
    """
    from bilstm_exporter.frontends.files.model_file import is_legacy  # noqa: PLC0415 - loads h5py

    if is_legacy(args.model, args.weights) and importlib.util.find_spec("tf_keras"):
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    interrupts = Interrupts(silent=True)
    with interrupts.recorded():
        code = run_guarded(argv, interrupts)
    return interrupts.report("export-bilstm") if interrupts.number else code


def run_guarded(argv: Sequence[str] | None, interrupts: Interrupts) -> int:
    """Run, and report any error in one line.

    Args:
        argv: The command line.
        interrupts: Records signals. After one, the caller reports it, with ``outcome``.

    Returns:
        The exit code.
    """
    interrupts.outcome = "nothing was written"
    args = parse_args(argv)
    # The reference is always computed on the CPU with the TensorFlow backend.
    os.environ.update(KERAS_BACKEND="tensorflow", CUDA_VISIBLE_DEVICES="-1")
    if args.debug:
        interrupts.silent = False
    else:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        return _run_for_reader(args, interrupts)
    except KeyboardInterrupt:
        interrupts.number = interrupts.number or signal.SIGINT
    except (ExportError, MemoryError) as error:
        if not interrupts.number:
            if args.debug:
                traceback.print_exc()
            return _report_error(error)
    # Expected errors are handled above; the user must not see a traceback of any other.
    except Exception as error:  # noqa: BLE001
        if not interrupts.number:
            if args.debug:
                traceback.print_exc()
            message = one_line(f"{type(error).__name__}: {error}")[:500]
            sys.stderr.write(
                f"export-bilstm: error: nothing was written; this is an internal error in "
                f"bilstm-edge, please report it with the output of --debug ({message})\n"
            )
            return 5
    if args.debug:
        traceback.print_exc()
    return interrupts.exit_code


def _run_for_reader(args: argparse.Namespace, interrupts: Interrupts) -> int:
    """Run; end quietly if the reader of the output closes it."""
    try:
        code = run(args, interrupts)
        sys.stdout.flush()
    except BrokenPipeError:
        return discard_stdout()
    return code


def _watched(listener: Listener | None, interrupts: Interrupts) -> Listener:
    """Wrap a listener: after an interrupt that was lost, the next stage raises it again.

    TensorFlow calls Python while it traces, and may replace or drop an exception raised there.
    """

    def listen(name: str) -> None:
        if interrupts.number:
            raise KeyboardInterrupt
        if listener is not None:
            listener(name)

    return listen
