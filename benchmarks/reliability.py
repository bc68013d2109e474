"""Soaks, floods, kills and full disks: what an export and a bundle survive.

    python benchmarks/reliability.py                    # all, in about half an hour
    python benchmarks/reliability.py soak kills         # some
    python benchmarks/reliability.py --share 0.01       # a hundredth of every count

It prints one line for each measurement and ends with 1 if one of them fails. docs/reliability.md
has the figures. Linux only: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "examples" / "japanese_vowels.keras"
BACKENDS = ("onnx", "litert")
# Memory that a run may grow by after the first of its predictions, in bytes.
GROWTH = 5_000_000


def resident() -> int:
    """Return the memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError


def open_files() -> int:
    """Return the number of files that this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def in_child(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a function in a forked child; returns its result, or how the child ended."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.write(write, json.dumps(run()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        content = pipe.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(content) if status == 0 else {"passed": False, "status": status}


def inputs_of(model: Any, count: int) -> list[Any]:
    """Make inputs of random lengths, the longest first."""
    from bilstm_bench.plan import Shape, make_inputs

    lengths = [60, *random.Random(0).choices(range(1, 61), k=count - 1)]
    return [
        make_inputs(model.spec, Shape(1 + n % 3, length), padding=0.0, seed=n)
        for n, length in enumerate(lengths)
    ]


def soak(bundle: Path, share: float) -> None:
    """Predict 200,000 times with each backend, in a process of its own."""
    from bilstm_runtime import load

    count = int(200_000 * share)

    def run(backend: str) -> dict[str, Any]:
        model = load(bundle, backend=backend)
        inputs = inputs_of(model, 200)
        expected = [model.predict(x) for x in inputs]
        for n in range(count // 20):
            model.predict(inputs[n % len(inputs)])
        before, wrong = resident(), 0
        for n in range(count):
            answer = model.predict(inputs[n % len(inputs)])
            wrong += not np.array_equal(answer, expected[n % len(inputs)])
        growth = resident() - before
        return {"passed": not wrong and growth < GROWTH, "wrong": wrong, "growth": growth}

    for backend in BACKENDS:
        found = in_child(lambda backend=backend: run(backend))
        report(f"{count:,} predictions, {backend}", found)


def threads(bundle: Path, share: float) -> None:
    """Predict 10,000 times in each of 16 threads, with one model."""
    from bilstm_runtime import load

    count = int(10_000 * share)

    def run(backend: str) -> dict[str, Any]:
        model = load(bundle, backend=backend)
        inputs = inputs_of(model, 50)
        expected = [model.predict(x) for x in inputs]
        wrong, errors = [0] * 16, []

        def work(number: int) -> None:
            try:
                for n in range(count):
                    place = (n + 3 * number) % len(inputs)
                    answer = model.predict(inputs[place])
                    wrong[number] += not np.array_equal(answer, expected[place])
            except Exception as error:  # noqa: BLE001 (counted)
                errors.append(repr(error))

        workers = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return {"passed": not sum(wrong) and not errors, "wrong": sum(wrong), "errors": errors[:3]}

    for backend in BACKENDS:
        found = in_child(lambda backend=backend: run(backend))
        report(f"16 threads x {count:,} predictions, {backend}", found)


def arrays(_bundle: Path, share: float) -> None:
    """Predict large arrays of 30 ids a row: 100,000 rows by 64 units, 1,000,000 by 8 units.

    Memory may reach one and a half times input and output together, and a run in parts may take no
    longer than one run of the same rows.
    """
    from bilstm_runtime import load

    def make(folder: Path, units: int) -> dict[str, Any]:
        import keras

        ids = keras.Input((None,), dtype="int32")
        rows = keras.layers.Embedding(100, 16, mask_zero=True)(ids)
        rows = keras.layers.Bidirectional(keras.layers.LSTM(units))(rows)
        quiet_export(folder, keras.Model(ids, keras.layers.Dense(4)(rows)))
        return {}

    def peak_of(run: Callable[[], Any]) -> tuple[Any, int]:
        before = peak = resident()
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(run()))
        thread.start()
        while thread.is_alive():
            peak = max(peak, resident())
            thread.join(0.005)
        return results[0], peak - before

    def run(folder: Path, backend: str, count: int) -> dict[str, Any]:
        model = load(folder, backend=backend)
        ids = np.random.default_rng(0).integers(1, 99, (count, 30)).astype(np.int32)
        few = ids[: min(count, 8000)]
        model.predict(few[:64])
        output, growth = peak_of(lambda: model.predict(ids))
        seconds = [
            min(timed(lambda size=size: model.predict(few, batch_size=size)) for _ in range(3))
            for size in (None, len(few))
        ]
        allowed = (ids.nbytes + output.nbytes) // 2 + GROWTH
        return {
            "passed": growth - output.nbytes < allowed and seconds[0] < 1.05 * seconds[1],
            "input": ids.nbytes,
            "output": output.nbytes,
            "beside them": growth - output.nbytes,
            "times one run": round(seconds[0] / seconds[1], 2),
        }

    for units, rows in ((64, 100_000), (8, 1_000_000)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "model-edge"
            in_child(lambda folder=folder, units=units: make(folder, units))
            count = int(rows * share)
            for backend in BACKENDS:
                found = in_child(lambda f=folder, b=backend, c=count: run(f, b, c))
                report(f"{count:,} rows, {units} units, {backend}", found)


def timed(run: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def loads(bundle: Path, share: float) -> None:
    """Load a bundle and predict 500 times."""
    from bilstm_runtime import load

    count = max(1, int(500 * share))

    def run(backend: str) -> dict[str, Any]:
        def once() -> Any:
            with load(bundle, backend=backend) as model:
                return model.predict(inputs[0])

        inputs = inputs_of(load(bundle, backend=backend), 2)
        expected = once()
        for _ in range(20):
            once()
        before, files = resident(), open_files()
        wrong = sum(not np.array_equal(once(), expected) for _ in range(count))
        growth, opened = resident() - before, open_files() - files
        passed = not wrong and growth < GROWTH and not opened
        return {"passed": passed, "wrong": wrong, "growth": growth, "files left open": opened}

    for backend in BACKENDS:
        found = in_child(lambda backend=backend: run(backend))
        report(f"{count:,} loads, {backend}", found)


def quiet_export(folder: Path, model: Any = MODEL) -> None:
    """Export the example, or another model, with all that it prints discarded."""
    from bilstm_exporter import export

    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    export(model, folder, overwrite=True)


def digest(folder: Path) -> str:
    """Check every file of a bundle; returns the SHA-256 of its manifest."""
    from bilstm_runtime.bundle.folder import open_bundle

    bundle = open_bundle(folder)
    for artifact in bundle.manifest.artifacts:
        bundle.read(artifact)
    bundle.read(bundle.manifest.golden)
    return bundle.sha256


def kills(bundle: Path, share: float) -> None:
    """Kill 50 exports that replace a bundle, at random times."""
    count, rng = max(1, int(50 * share)), random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model-edge"
        shutil.copytree(bundle, folder)
        (folder / "notes.txt").write_text("mine")
        begin = time.monotonic()
        in_child(lambda: quiet_export(folder) or {})
        seconds = time.monotonic() - begin
        broken = finished = 0
        for _ in range(count):
            pid = os.fork()
            if not pid:
                try:
                    quiet_export(folder)
                finally:
                    os._exit(0)
            time.sleep(rng.uniform(0.2, 1.1) * seconds)
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            finished += os.WIFEXITED(status)
            try:
                digest(folder)
            except Exception:  # noqa: BLE001 (counted)
                broken += 1
        in_child(lambda: quiet_export(folder) or {})
        digest(folder)
        left = [path.name for path in Path(name).iterdir() if path != folder]
        kept = (folder / "notes.txt").read_text() == "mine"
    report(
        f"{count} killed exports",
        {
            "passed": not broken and not left and kept,
            "bundles broken": broken,
            "finished before": finished,
            "files left after the next export": left,
            "own files kept": kept,
        },
    )


def full_disk(bundle: Path, share: float) -> None:
    """Export and predict while files cannot grow: the old files stay, and the error is named."""
    from bilstm_exporter.errors import ExportError
    from bilstm_runtime.cli.run import main as run_bilstm

    del share

    def limited(size: int, run: Callable[[], Any]) -> Any:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return run()

    def attempt(folder: Path, size: int) -> dict[str, Any]:
        try:
            limited(size, lambda: quiet_export(folder))
        except ExportError as error:
            return {"error": str(error)}
        except BaseException as error:  # noqa: BLE001 (counted)
            return {"undocumented": repr(error)}
        return {"error": ""}

    wrong = []
    for size in (0, 1000, 20_000, 60_000):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "model-edge"
            shutil.copytree(bundle, folder)
            before = digest(folder)
            found = in_child(lambda folder=folder, size=size: attempt(folder, size))
            if (
                digest(folder) != before
                or not found.get("error")
                or len(list(Path(name).iterdir())) > 1
            ):
                wrong.append({"export": size, **found})
            rows, out = Path(name) / "rows.jsonl", Path(name) / "scores.jsonl"
            rows.write_text((ROOT / "examples" / "utterances.jsonl").read_text() * 300)
            out.write_text("old")
            command = [str(bundle), "--input", str(rows), "--output", str(out), "--quiet"]
            answer = in_child(
                lambda size=size, command=command: {
                    "code": limited(min(size, 20_000), lambda: run_bilstm(command))
                }
            )
            if answer.get("code") != 2 or out.read_text() != "old":
                wrong.append({"run-bilstm": size, **answer})
    report("full disk: 4 exports, 4 runs", {"passed": not wrong, "wrong": wrong})


FAILED: list[str] = []


def report(name: str, found: dict[str, Any]) -> None:
    """Print one measurement."""
    passed = found.pop("passed")
    if not passed:
        FAILED.append(name)
    figures = ", ".join(f"{key} {value}" for key, value in found.items())
    print(f"{'pass' if passed else 'FAIL'}  {name}: {figures}", flush=True)


MEASUREMENTS = {
    "soak": soak,
    "threads": threads,
    "arrays": arrays,
    "loads": loads,
    "kills": kills,
    "full_disk": full_disk,
}


def main() -> int:
    """Read the command line and measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(MEASUREMENTS)}")
    parser.add_argument("--share", type=float, default=1.0, help="the share of every count")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        bundle = Path(name) / "model-edge"
        # The parent never runs TensorFlow, so that its children can.
        in_child(lambda: quiet_export(bundle) or {})
        for one in args.names or MEASUREMENTS:
            MEASUREMENTS[one](bundle, args.share)
    return 1 if FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
