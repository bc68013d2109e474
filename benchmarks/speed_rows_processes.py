"""Rows of `speed.py` that start fresh processes: the cold start and the export.

Memory is VmHWM and VmRSS of the child itself: `getrusage` counts what the parent held when it
started the child, which is gigabytes here.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import bilstm_runtime
from bilstm_bench.cold_start import run_child
from speed_lab import STEPS, Lab, model, sentences
from speed_measuring import Bar, Case, Contestant, Measured, Runner, figure
from speed_registry import row

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What `speed.py` sets to 1 for itself; an export has the cores it finds."""

COLD_UNITS = 64
COLD_BARS = {"start": Bar(15), "peak": Bar(7), "steady": Bar(7)}
BACKENDS = {"onnx": "onnx", "tflite": "litert"}
IMPORT_TENSORFLOW = (
    "import time, json; import tensorflow; imported = time.monotonic_ns(); "
    "from bilstm_bench.memory import peak_bytes, resident_bytes; "
    "print(json.dumps({'imported_ns': imported, 'peak_bytes': peak_bytes(), "
    "'steady_bytes': resident_bytes()}))"
)

EXPORT_UNITS, EXPORT_VOCABULARY = 128, 2_700
EXPORT_CORES = 2
EXPORT_BAR = Bar(25, at_most=True)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
MOVES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
"""What a terminal does not show: colours, and moving the cursor to another line."""

SILENCE_BAR = Bar(3, at_most=True)
"""Seconds without a sign of life: what is meant here by a progress display throughout."""


@dataclass(frozen=True)
class Start:
    """One process, from asking the system for it to its first answer.

    Attributes:
        ms: Milliseconds.
        peak: The most it ever held, in bytes.
        steady: What it holds after some answers, in bytes.
    """

    ms: float
    peak: float
    steady: float


@row("cold-start", "process start to first answer, against importing tensorflow")
def cold_start(lab: Lab) -> Iterator[Case]:
    """A loaded bundle of the masked model, one artifact, one thread."""
    starts = functools.cache(partial(_starts, lab))
    name = f"masked, {COLD_UNITS} units"
    for format_name, backend in BACKENDS.items():
        for what, unit in (
            ("start", "times faster"),
            ("peak", "times less memory at the peak"),
            ("steady", "times less memory afterwards"),
        ):
            measure = partial(_cold_start, starts, format_name, what)
            yield Case(f"{backend}, {name}: {what}", unit, COLD_BARS[what], measure)


def _cold_start(starts: Any, format_name: str, what: str) -> Measured:
    ours, tensorflow = starts(format_name)
    attribute = "ms" if what == "start" else what
    scale, unit = (1, "ms") if what == "start" else (2**20, "MiB")
    mine = [getattr(start, attribute) / scale for start in ours]
    theirs = [getattr(start, attribute) / scale for start in tensorflow]
    note = f"ours {np.median(mine):.4g} {unit}, tensorflow {np.median(theirs):.4g} {unit}"
    details = {"unit": unit, "ours": mine, "tensorflow": theirs}
    return Measured(figure(b / a for a, b in zip(mine, theirs, strict=True)), details, note)


def _starts(lab: Lab, format_name: str) -> tuple[list[Start], list[Start]]:
    """Processes in turn; the first of each, which fills the caches of the disk, is left out."""
    folder = lab.bundle("masked", COLD_UNITS, format_name)
    loaded = bilstm_runtime.load(folder, backend=BACKENDS[format_name])
    Contestant(Runner("ours", loaded.predict), sentences(COLD_UNITS, "full")).check()
    ours, tensorflow = [], []
    for _ in range(lab.processes + 1):
        ours.append(_start_bundle(folder, BACKENDS[format_name]))
        tensorflow.append(_start_tensorflow())
    return ours[1:], tensorflow[1:]


def _start_bundle(folder: Path, backend: str) -> Start:
    task = {"task": "cold", "bundle": str(folder), "backend": backend, "recipe": "float32"}
    shape = {"threads": 1, "length": STEPS, "batch": 1, "padding": 0.0, "seed": 0}
    result, begin = run_child(task | shape)
    # The making of the input is no part of it.
    ns = result["imported_ns"] - begin + result["load_ns"] + result["first_ns"]
    return Start(ns / 1e6, result["peak_bytes"], result["steady_bytes"])


def _start_tensorflow() -> Start:
    begin = time.monotonic_ns()
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_TENSORFLOW],
        capture_output=True,
        check=True,
        cwd=Path(bilstm_runtime.__file__).parents[1],
    )
    result = json.loads(done.stdout.splitlines()[-1])
    ms = (result["imported_ns"] - begin) / 1e6
    return Start(ms, result["peak_bytes"], result["steady_bytes"])


@row("export", "export-bilstm of a model of a million weights, float, both formats, checked")
def export(lab: Lab) -> Iterator[Case]:
    """The command in a fresh process, its stderr a terminal, on at most two cores."""
    runs = functools.cache(partial(_exports, lab))
    yield Case("from start to end", "s", EXPORT_BAR, lambda: _export(runs(), "seconds"))
    name = "longest silence of the progress display"
    yield Case(name, "s", SILENCE_BAR, lambda: _export(runs(), "silence"))


@dataclass(frozen=True)
class Export:
    """One run of the command.

    Attributes:
        seconds: From asking the system for a process to its end.
        silence: The longest time in which nothing came to the terminal.
        shown: What stood there meanwhile.
        cores: That it might use.
        weights: Of the model.
    """

    seconds: float
    silence: float
    shown: str
    cores: int
    weights: int


def _export(runs: list[Export], what: str) -> Measured:
    values = [getattr(run, what) for run in runs]
    details = {"values": values, "cores": runs[0].cores, "weights": runs[0].weights}
    note = f"{runs[0].weights:,} weights, {runs[0].cores} cores"
    if what == "silence":
        details["shown"] = [run.shown for run in runs]
        note = f"it showed: {max(runs, key=lambda run: run.silence).shown or 'nothing yet'}"
    return Measured(figure(values), details, note)


def _exports(lab: Lab) -> list[Export]:
    made = model("masked", EXPORT_UNITS, EXPORT_VOCABULARY)
    path = lab.folder / "million.keras"
    made.save(path)
    weights = made.count_params()
    return [_run_export(path, lab.folder / f"million-{n}", weights) for n in range(lab.processes)]


def _run_export(path: Path, folder: Path, weights: int) -> Export:
    command = [sys.executable, "-m", "bilstm_exporter.cli", str(path), "--out", str(folder)]
    environment = {k: v for k, v in os.environ.items() if k not in ONE_THREAD} | {"TERM": "xterm"}
    terminal, end = pty.openpty()
    with few_cores() as cores:
        begin = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=end, env=environment)
    os.close(end)
    last, silence, words, shown = begin, 0.0, b"", ""
    while True:
        try:
            read = os.read(terminal, 4096)
        except OSError:  # what Linux says when the other end is closed
            read = b""
        now = time.monotonic()
        if now - last > silence:
            silence, shown = now - last, _on_screen(words)
        last = now
        if not read:
            break
        words = (words + read)[-4096:]
    code = process.wait()
    seconds = time.monotonic() - begin
    os.close(terminal)
    if code:
        message = f"export-bilstm ended with {code}: {_on_screen(words)}"
        raise RuntimeError(message)
    return Export(seconds, silence, shown, cores, weights)


def _on_screen(words: bytes) -> str:
    """The last line that a terminal shows after these bytes."""
    text = MOVES.sub("\n", COLOURS.sub("", words.decode("utf-8", "replace")))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


@contextlib.contextmanager
def few_cores() -> Iterator[int]:
    """Let what is started in here have `EXPORT_CORES` cores, where there are more."""
    if not hasattr(os, "sched_setaffinity"):
        yield os.cpu_count() or 1
        return
    before = os.sched_getaffinity(0)
    few = set(sorted(before)[:EXPORT_CORES])
    os.sched_setaffinity(0, few)
    try:
        yield len(few)
    finally:
        os.sched_setaffinity(0, before)
