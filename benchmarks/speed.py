"""Every promise about speed, measured in one run: figure, bar, met or missed.

    python benchmarks/speed.py [--only ROW ...] [--rounds N] [--processes N] [--json FILE]

What is compared runs in turn within one process, one thread each, on the same inputs; every
answer is compared with Keras's first, and a case in which one is wrong is refused, not timed.
Each line of the table is printed as soon as it is measured; a question mark after the verdict
says that the interval reaches over the bar. Peers come with ``pip install ".[dev,benchmarks]"``;
one that is missing is said. Nothing here asserts a time: the exit code is 1 only where a case was
refused or failed. Ctrl-C ends it early; what was measured is kept. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from speed_lab import Lab
    from speed_measuring import Case
    from speed_report import Finding

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "KERAS_BACKEND": "tensorflow",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
"""Must be set before the libraries are imported."""

NAMES = (
    "stock", "peers", "limit", "onnx-int8", "fused", "tflite-onnx", "tflite-int8", "ragged",
    "growth-time", "growth-batch", "overhead", "cold-start", "export",
)  # fmt: skip
"""Of the rows, in the order in which they are measured."""


MODULES = ("speed_rows_onnx", "speed_rows_tflite", "speed_rows_runtime", "speed_rows_processes")
"""Which register them."""


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, metavar="ROW", help=f"of {', '.join(NAMES)}"
    )
    parser.add_argument("--case", default="", metavar="WORDS", help="cases whose names hold this")
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds (default: 30)")
    parser.add_argument(
        "--processes", type=int, default=5, help="fresh processes of each sort (default: 5)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    return parser.parse_args()


def measure(name: str, case: Case) -> Finding:
    """Measure a case, or say why not."""
    from speed_measuring import MissingPeerError, UnequalWorkError  # noqa: PLC0415 - see main
    from speed_report import Finding  # noqa: PLC0415

    try:
        return Finding(name, case, case.measure())
    except UnequalWorkError as error:
        return Finding(name, case, None, "refused", str(error))
    except MissingPeerError as error:
        return Finding(name, case, None, "not measured", str(error))
    # Other libraries may raise anything; the other cases are worth measuring all the same.
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Finding(name, case, None, "failed", words)


def measure_all(lab: Lab, args: argparse.Namespace) -> Iterator[Finding]:
    """Measure the cases that are asked for, one after the other."""
    from speed_registry import ROWS  # noqa: PLC0415 - see main

    for module in MODULES:
        importlib.import_module(module)
    for name in args.only or NAMES:
        for case in ROWS[name].cases(lab):
            if args.case in case.name:
                begin = time.monotonic()
                yield measure(name, case)
                sys.stderr.write(f"{name}, {case.name}: {time.monotonic() - begin:.1f} s\n")


def main() -> int:
    """Run the benchmark."""
    args = parse_args()
    os.environ.update(ENVIRONMENT)
    # Only now: they load libraries that read the environment once.
    from speed_lab import Lab  # noqa: PLC0415
    from speed_report import describe_machine, document, header  # noqa: PLC0415

    machine = describe_machine()
    findings: list[Finding] = []
    print(header(machine, args.rounds, args.processes), flush=True)
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory() as folder:
        for finding in measure_all(Lab(Path(folder), args.rounds, args.processes), args):
            print(finding.line(), flush=True)
            findings.append(finding)
            if args.json:
                found = document(machine, args.rounds, args.processes, findings)
                Path(args.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(any(finding.failure in {"refused", "failed"} for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
