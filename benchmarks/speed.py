"""Measures all speed figures of the README, with their targets.

    python benchmarks/speed.py [--only ROW ...] [--rounds N] [--processes N] [--json FILE]

Contestants run in turns within one process, with one thread each, on the same inputs. All outputs
are compared with Keras first; a case with a wrong output is refused, not timed. Each line of the
table is printed as soon as it is measured. A question mark after "met" or "missed" means that the
interval contains the target. Install the peers with ``pip install ".[dev,benchmarks]"``; a missing
one is reported. No time is asserted: the exit code is 1 only if a case was refused or failed.
Ctrl-C ends the run early, with the results so far. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
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
    from speed_measuring import Case, Finding
    from speed_runners import Lab

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "KERAS_BACKEND": "tensorflow",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
"""Set before the libraries are imported."""

NAMES = (
    "stock", "peers", "limit", "onnx-int8", "fused", "tflite-onnx", "tflite-int8", "ragged",
    "growth-time", "growth-batch", "overhead", "cold-start", "export",
)  # fmt: skip
"""The names of the rows, in the order in which they are measured."""


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, metavar="ROW", help=f"only these of {', '.join(NAMES)}"
    )
    parser.add_argument(
        "--case", default="", metavar="WORDS", help="only cases whose names contain this"
    )
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds (default: 30)")
    parser.add_argument(
        "--processes", type=int, default=5, help="fresh processes of each kind (default: 5)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    return parser.parse_args()


def measure(name: str, case: Case) -> Finding:
    """Measure a case; errors are reported in the result."""
    from speed_measuring import (  # noqa: PLC0415 - see main
        Finding,
        MissingPeerError,
        UnequalWorkError,
    )

    try:
        return Finding(name, case, case.measure())
    except UnequalWorkError as error:
        return Finding(name, case, None, "refused", str(error))
    except MissingPeerError as error:
        return Finding(name, case, None, "not measured", str(error))
    # Other libraries may raise anything; the other cases are still measured.
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Finding(name, case, None, "failed", reason)


def measure_all(lab: Lab, args: argparse.Namespace) -> Iterator[Finding]:
    """Measure the selected cases, one after the other."""
    from speed_rows import ROWS  # noqa: PLC0415 - see main

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
    # Imported here: these load libraries that read the environment once.
    from speed_measuring import describe_machine, document, header  # noqa: PLC0415
    from speed_runners import Lab  # noqa: PLC0415

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
