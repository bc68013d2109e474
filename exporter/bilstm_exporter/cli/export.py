"""``export-bilstm``: a trained Keras model becomes a bundle for the device."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from bilstm_exporter.bundle.folder import check_writable
from bilstm_exporter.captured_output import captured_stderr
from bilstm_exporter.cli.display import (
    print_explanation,
    print_report,
    print_searches,
    progress_listener,
)
from bilstm_exporter.cli.interrupts import Interrupts
from bilstm_exporter.errors import (
    BudgetError,
    ExportError,
    OptionError,
    OutputFolderError,
    ParityError,
)
from bilstm_exporter.options import DEFAULT_OPSET, FORMATS, OPSETS, ExportOptions
from bilstm_exporter.quantization.recipes import FLOAT32, RECIPES

EXIT_CODES = {
    0: "the bundle is written, and every artifact gives Keras's answers",
    1: "an artifact does not give Keras's answer; nothing is written",
    2: "an option cannot be used",
    3: "the model cannot be read or exported",
    4: "the output folder cannot be written",
    5: "a defect of bilstm-edge",
    6: "nothing keeps within the limits; nothing is written",
    130: "interrupted",
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="export-bilstm",
        description="Export a trained Keras BiLSTM to ONNX and TFLite, checked against Keras.",
        epilog="exit codes:\n" + "\n".join(f"  {k:<4} {v}" for k, v in EXIT_CODES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    parser.add_argument("--out", metavar="DIR", help="the bundle's folder (default: MODEL-edge)")
    parser.add_argument(
        "--formats",
        default=",".join(FORMATS),
        metavar="LIST",
        help=f"which artifacts to write, separated by commas (default: {','.join(FORMATS)})",
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
        help="judge the artifacts on these examples (.npz, .npy, .csv or .jsonl; arrays named "
        "after the inputs, labels named y), and calibrate int8-full with them",
    )
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="judge by accuracy, f1, mae or rmse, or OUTPUT=NAME,... (default: as the output is)",
    )
    limits = parser.add_argument_group(
        "limits", "any of them searches all recipes, and mixes by layer, for the best that fits"
    )
    limits.add_argument("--max-drop", metavar="P", help="lose at most this by the metric: 0.5%%")
    limits.add_argument("--max-kb", metavar="N", help="at most this large a file: 800, or 1.5mb")
    limits.add_argument("--max-ms", metavar="N", help="at most this long an example here: 5")
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
        help="write nothing; say of every layer what it becomes, and what cannot be exported",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle that is there")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and library logs")
    return parser.parse_args(argv)


def run(args: argparse.Namespace, interrupts: Interrupts) -> int:
    """Export, or explain, as the arguments say; returns the exit code."""
    formats = tuple(name.strip() for name in args.formats.split(",") if name.strip())
    # Checked once before TensorFlow, which takes seconds to load.
    chosen = {
        "formats": formats,
        "recipes": args.recipes,
        "metric": args.metric,
        "max_drop": args.max_drop,
        "max_kb": args.max_kb,
        "max_ms": args.max_ms,
        "batch": args.batch,
        "time": args.time,
        "opset": args.opset,
    }
    ExportOptions(**chosen)
    if args.out is not None and not args.explain:
        check_writable(Path(args.out), overwrite=args.overwrite)
    with progress_listener(quiet=args.quiet) as shown:
        listener = interrupts.watched(shown)
        _choose_keras(args)
        listener("loading TensorFlow")
        with contextlib.nullcontext() if args.debug else captured_stderr():
            from bilstm_exporter.explain import explain  # noqa: PLC0415
            from bilstm_exporter.frontends.user_code import import_objects  # noqa: PLC0415
            from bilstm_exporter.pipeline import run_export  # noqa: PLC0415
        options = ExportOptions(
            **chosen,
            data=args.data,
            custom_objects=import_objects(args.custom_objects),
            trust_code=args.trust_code,
            weights=args.weights,
            builder=args.builder,
            overwrite=args.overwrite,
        )
        if args.explain:
            explanation = explain(args.model, options, listener)
        else:
            report = run_export(args.model, args.out, options, listener)
    if args.explain:
        print_explanation(explanation, as_json=args.json)
        return 3 if explanation.failures else 0
    if args.json or not args.quiet:
        print_report(report, as_json=args.json)
    return 0


def _choose_keras(args: argparse.Namespace) -> None:
    """Let ``tensorflow.keras`` in the user's own modules mean the Keras that reads the model.

    TensorFlow looks at it once, when it is imported.
    """
    from bilstm_exporter.frontends.model_file import is_legacy  # noqa: PLC0415 - loads h5py

    if is_legacy(args.model, args.weights) and importlib.util.find_spec("tf_keras"):
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parse_args(argv)
    # Right is what the CPU answers, with the TensorFlow backend, whatever else is here.
    os.environ.update(KERAS_BACKEND="tensorflow", CUDA_VISIBLE_DEVICES="-1")
    if not args.debug:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    interrupts = Interrupts()
    with interrupts.noted():
        return _run_told(args, interrupts)


def _run_told(args: argparse.Namespace, interrupts: Interrupts) -> int:
    """Run, and tell what ends it; returns the exit code."""
    try:
        return run(args, interrupts)
    except KeyboardInterrupt:
        return _interrupted()
    except (ExportError, MemoryError) as error:
        if interrupts.seen:
            return _interrupted()
        if args.debug:
            traceback.print_exc()
        words = " ".join(str(error).split()) or type(error).__name__
        sys.stderr.write(f"export-bilstm: error: {words}\n")
        if isinstance(error, ExportError) and error.explanation is not None:
            print_explanation(error.explanation, failed=error)
        if isinstance(error, BudgetError):
            print_searches(error.searches)
        return _exit_code(error)
    # The last line of defence for the user; everything expected is handled above.
    except Exception as error:  # noqa: BLE001
        if interrupts.seen:
            return _interrupted()
        if args.debug:
            traceback.print_exc()
        words = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        sys.stderr.write(
            f"export-bilstm: error: nothing was written; this is a defect of bilstm-edge, please "
            f"report it with what --debug prints ({words})\n"
        )
        return 5


def _interrupted() -> int:
    sys.stderr.write("export-bilstm: interrupted; nothing was written\n")
    return 130


def _exit_code(error: BaseException) -> int:
    if isinstance(error, ParityError):
        return 1
    if isinstance(error, BudgetError):
        return 6
    if isinstance(error, OptionError):
        return 2
    return 4 if isinstance(error, OutputFolderError) else 3


if __name__ == "__main__":
    sys.exit(main())
