"""What a stream costs, beside the two ways to do without one.

    OPENBLAS_NUM_THREADS=1 python benchmarks/streaming.py [--units 128] [--rounds 30]

Prints one table per format. All rows of a table are timed in turn, round by round, in one process
and on one thread, in CPU time, so that other load on the machine matters little and hits all alike.
Figures are medians; ratios are medians of the ratios within a round.

- "whole file" runs the ordinary file once over the whole recording, divided by its steps.
- "stream" is `Model.stream(chunk=40, lookahead=20)`.
- "sliding window" runs the ordinary file over the last 60 steps for every new chunk of 40.
- "rerun" runs the ordinary file over all steps so far for every new chunk of 40.
- "one step" is a stream of a unidirectional layer at chunk 1, against the products of its matrices
  in numpy on one thread, as OPENBLAS_NUM_THREADS says: `x @ kernel` and `h @ recurrent_kernel`.
- "1,000,000 steps" is by how much resident memory grows while `predict` computes so many, beside
  the arrays of input and output (Linux only).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

import bilstm_runtime
import bilstm_runtime.streams
from bilstm_exporter import export

CHUNK, AHEAD, STEPS, FEATURES = 40, 20, 400, 64
LIMIT_CHUNK, LIMIT_STEP, LIMIT_MB = 1.6, 3.0, 5.0
MILLION = 1_000_000


def tagger(units: int, depth: int, features: int = FEATURES) -> keras.Model:
    """BiLSTMs of sequences."""
    layers = [
        keras.layers.Bidirectional(keras.layers.LSTM(units, return_sequences=True))
        for _ in range(depth)
    ]
    return keras.Sequential(
        [keras.Input((None, features), name="x"), *layers, keras.layers.Dense(8, name="tags")]
    )


def one_direction(units: int) -> keras.Model:
    """One LSTM that returns sequences."""
    lstm = keras.layers.LSTM(units, return_sequences=True)
    return keras.Sequential([keras.Input((None, units), name="x"), lstm])


def seconds(function: Callable[[], object], repeat: int = 1) -> float:
    """The CPU time of one call."""
    start = time.process_time()
    for _ in range(repeat):
        function()
    return (time.process_time() - start) / repeat


def timed_in_turn(functions: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call each function once per round; each returns a time per step."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 2):
        for name, function in functions.items():
            value = function()
            if number >= 2:  # the first rounds warm up
                found[name].append(value)
    return found


def ratio(times: dict[str, list[float]], name: str, base: str) -> float:
    """The median of the ratios within each round."""
    return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))


def compare_chunks(folder: Path, backend: str, rounds: int) -> float:
    """Print what 40 steps cost; returns the ratio of the stream to the whole file."""
    model = bilstm_runtime.load(folder, backend=backend)
    x = np.random.default_rng(0).normal(size=(STEPS, FEATURES)).astype(np.float32)
    stream = model.stream(chunk=CHUNK, lookahead=AHEAD)
    stream.feed(x[:AHEAD])

    def chunks() -> float:
        return seconds(lambda: stream.feed(x)) / STEPS

    def whole() -> float:
        return seconds(lambda: model.predict(x[None])) / STEPS

    def sliding() -> float:
        return seconds(lambda: model.predict(x[None, : CHUNK + AHEAD]), 4) / CHUNK

    def rerun() -> float:
        return seconds(lambda: model.predict(x[None])) / CHUNK

    times = timed_in_turn(
        {"whole file": whole, "stream": chunks, "sliding window": sliding, "rerun": rerun}, rounds
    )
    for name, values in times.items():
        found = ratio(times, name, "whole file")
        print(f"  {name:<16} {1e6 * statistics.median(values):9.1f} us/step   {found:6.2f} x")
    return ratio(times, "stream", "whole file")


def compare_steps(folder: Path, backend: str, model: keras.Model, rounds: int) -> float:
    """Print what one step costs; returns the ratio to the products of its matrices."""
    stream = bilstm_runtime.load(folder, backend=backend).stream(chunk=1)
    kernel, recurrent, _ = (np.asarray(weight) for weight in model.get_weights())
    x = np.random.default_rng(0).normal(size=(1, kernel.shape[0])).astype(np.float32)
    h = np.zeros((1, recurrent.shape[0]), np.float32)

    def step() -> float:
        return seconds(lambda: stream.feed(x), 50)

    def products() -> float:
        return seconds(lambda: (x @ kernel, h @ recurrent), 50)

    times = timed_in_turn({"one step": step, "its products": products}, rounds)
    for name, values in times.items():
        found = ratio(times, name, "its products")
        print(f"  {name:<16} {1e6 * statistics.median(values):9.1f} us        {found:6.2f} x")
    return ratio(times, "one step", "its products")


def resident() -> int:
    """The resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def compare_memory(folder: Path, backend: str) -> float:
    """Print by how much memory grows in MB while a million steps are predicted."""
    model = bilstm_runtime.load(folder, backend=backend)
    x = np.random.default_rng(0).normal(size=(1, MILLION, 8)).astype(np.float32)
    model.predict(x[:, : 2 * bilstm_runtime.streams.LONG])
    sizes, is_running = [resident()], True

    def watch() -> None:
        while is_running:
            sizes.append(resident())
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    output = model.predict(x)
    is_running = False
    thread.join()
    found = (max(sizes) - sizes[0] - np.asarray(output).nbytes) / 1e6
    print(f"  resident memory grew by {found:.1f} MB")
    return found


def main() -> None:
    """Export the models, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for depth in (1, 2):
            path = Path(folder) / f"tagger{depth}"
            export(tagger(options.units, depth), path, streaming=True)
            for backend in ("onnx", "litert"):
                print(f"{depth} BiLSTM of {options.units} units, {backend}, {CHUNK} steps at once")
                found = compare_chunks(path, backend, options.rounds)
                print(f"  bar {LIMIT_CHUNK}: {'met' if found <= LIMIT_CHUNK else 'MISSED'}")
        model = one_direction(options.units)
        path = Path(folder) / "one"
        export(model, path, streaming=True, chunk=1)
        for backend in ("onnx", "litert"):
            print(f"1 LSTM of {options.units} units, {backend}, one step at once")
            found = compare_steps(path, backend, model, options.rounds)
            print(f"  bar {LIMIT_STEP}: {'met' if found <= LIMIT_STEP else 'MISSED'}")
        if not Path("/proc/self/statm").exists():
            return
        path = Path(folder) / "small"
        export(tagger(8, 1, 8), path, streaming=True)
        for backend in ("onnx", "litert"):
            print(f"1 BiLSTM of 8 units, {backend}, 1,000,000 steps")
            found = compare_memory(path, backend)
            print(f"  bar {LIMIT_MB}: {'met' if found <= LIMIT_MB else 'MISSED'}")


if __name__ == "__main__":
    main()
