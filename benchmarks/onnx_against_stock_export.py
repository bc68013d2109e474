"""Latency of ``model.onnx`` against what ``model.export(format="onnx")`` makes.

A masked text classifier (vocabulary 5,000, embedding 64, two BiLSTM layers of 64 units,
100 steps, batch 1) in the same onnxruntime, one thread, the two sessions in turn within
one run. Both must give Keras's answer, or nothing is timed. Sentences of several lengths
are padded to 100 steps: the stock export computes every step, ours only those that count.

Prints a table; ``--json FILE`` writes the figures. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import keras
import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from bilstm_exporter import export
from bilstm_exporter.verification.tolerance import difference

VOCABULARY, EMBEDDING, UNITS, STEPS = 5_000, 64, 64, 100
BAR = 15.0


def build_model(cell: str) -> keras.Model:
    """The masked classifier, with random weights; ``cell`` is LSTM or GRU."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    recurrent = {"LSTM": layers.LSTM, "GRU": layers.GRU}[cell]
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="tokens"),
            layers.Embedding(VOCABULARY, EMBEDDING, mask_zero=True),
            layers.Bidirectional(recurrent(UNITS, return_sequences=True)),
            layers.Bidirectional(recurrent(UNITS)),
            layers.Dense(2, activation="softmax", name="label"),
        ]
    )


def open_session(path: Path) -> ort.InferenceSession:
    """Open a model with one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options)


def time_interleaved(
    sessions: dict[str, ort.InferenceSession], inputs: np.ndarray, rounds: int
) -> dict[str, list[float]]:
    """Latencies in ms, one run of each session a round."""
    latencies_ms: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, session in sessions.items():
            feed = {session.get_inputs()[0].name: inputs}
            begin = time.perf_counter()
            session.run(None, feed)
            latencies_ms[name].append((time.perf_counter() - begin) * 1e3)
    return latencies_ms


def measure(rounds: int, cell: str) -> dict[str, object]:
    """Export both ways, compare with Keras, time."""
    model = build_model(cell)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        ours = export(model, Path(folder) / "bundle").bundle / "model.onnx"
        stock = Path(folder) / "stock.onnx"
        model(np.ones((1, STEPS), "int32"))
        model.export(stock, format="onnx", verbose=False)
        sessions = {"stock": open_session(stock), "ours": open_session(ours)}
        nodes = {
            "stock": len(onnx.load(stock).graph.node),
            "ours": len(onnx.load(ours).graph.node),
        }
    rows = []
    for valid in (STEPS, 75, 50, 25):
        inputs = rng.integers(1, VOCABULARY, (1, STEPS)).astype("int32")
        inputs[:, valid:] = 0
        reference = keras.ops.convert_to_numpy(model(inputs, training=False))
        for name, session in sessions.items():
            answer = session.run(None, {session.get_inputs()[0].name: inputs})[0]
            if difference(answer, reference).ratio > 1:
                message = f"{name} does not give Keras's answer; nothing is timed"
                raise RuntimeError(message)
        time_interleaved(sessions, inputs, 10)  # warm-up
        latencies_ms = time_interleaved(sessions, inputs, rounds)
        ratios = np.array(latencies_ms["stock"]) / np.array(latencies_ms["ours"])
        rows.append(
            {
                "valid_steps": valid,
                **{f"{name}_ms": round(median(v), 4) for name, v in latencies_ms.items()},
                "ratio": round(float(np.median(ratios)), 2),
                "ratio_quartiles": [round(float(q), 2) for q in np.percentile(ratios, [25, 75])],
            }
        )
    return {
        "model": (
            f"vocabulary {VOCABULARY}, embedding {EMBEDDING}, 2 Bi{cell} of {UNITS}, T={STEPS}"
        ),
        "machine": _machine(),
        "nodes": nodes,
        "versions": {"onnxruntime": ort.__version__, "keras": keras.__version__},
        "threads": 1,
        "rounds": rounds,
        "bar": BAR,
        "rows": rows,
    }


def _machine() -> str:
    """The processor's name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200, help="timed rounds (default: 200)")
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--cell", choices=["LSTM", "GRU"], default="LSTM", help="(default: LSTM)")
    args = parser.parse_args()
    result = measure(args.rounds, args.cell)
    table = Table(title=f"{result['model']}, batch 1, one thread, interleaved")
    for heading in ("valid steps of 100", "stock ms", "ours ms", "times faster", f"bar {BAR:g}x"):
        table.add_column(heading, justify="right")
    for row in result["rows"]:
        low, high = row["ratio_quartiles"]
        table.add_row(
            str(row["valid_steps"]),
            f"{row['stock_ms']:.3f}",
            f"{row['ours_ms']:.3f}",
            f"{row['ratio']:.1f} ({low:.1f} to {high:.1f})",
            "met" if row["ratio"] >= BAR else "missed",
        )
    console = Console()
    console.print(table)
    console.print(f"{result['machine']}; nodes: {result['nodes']}")
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
