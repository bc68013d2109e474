"""How latency grows with the length of the sequence, 400 to 1,600 steps.

Every form a recurrence is written in: ONNX's fused operators and its Scan, TFLite's loops;
masked and not, dynamic shapes, batch 1, one thread. Lengths are timed in turn within one
run. Linear growth is 4 times; the bar is 4.5. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import bilstm_runtime
from bilstm_exporter import export

LENGTHS = (400, 1600)
UNITS, FEATURES = 64, 16
BAR = 4.5

layers = keras.layers


@keras.saving.register_keras_serializable("benchmarks")
class MinimalGatedCell(layers.Layer):
    """A cell that no format knows: h' = f * h + (1 - f) * tanh(...)."""

    def __init__(self, units: int, **kwargs: object) -> None:
        """Keep the width."""
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make the two kernels."""
        self.gate = self.add_weight(shape=(shape[-1] + self.units, self.units), name="gate")
        self.candidate = self.add_weight(
            shape=(shape[-1] + self.units, self.units), name="candidate"
        )

    def call(self, inputs: object, states: list[object]) -> tuple[object, list[object]]:
        """One step."""
        ops = keras.ops
        hidden = states[0]
        forget = ops.sigmoid(ops.concatenate([inputs, hidden], -1) @ self.gate)
        new = ops.tanh(ops.concatenate([inputs, forget * hidden], -1) @ self.candidate)
        hidden = forget * hidden + (1 - forget) * new
        return hidden, [hidden]


def models() -> dict[str, keras.Model]:
    """One model for each form."""
    keras.utils.set_random_seed(0)

    def model(*stack: layers.Layer) -> keras.Model:
        return keras.Sequential([keras.Input((None, FEATURES), name="x"), *stack])

    def both(layer: layers.Layer) -> layers.Layer:
        return layers.Bidirectional(layer)

    sequences = {"return_sequences": True}
    return {
        "BiLSTM": model(both(layers.LSTM(UNITS, **sequences))),
        "BiLSTM, masked": model(layers.Masking(), both(layers.LSTM(UNITS, **sequences))),
        "BiGRU, masked": model(layers.Masking(), both(layers.GRU(UNITS, **sequences))),
        "BiLSTM, gelu (Scan)": model(both(layers.LSTM(UNITS, activation="gelu", **sequences))),
        "own cell, masked (Scan)": model(
            layers.Masking(), both(layers.RNN(MinimalGatedCell(UNITS), **sequences))
        ),
        "ConvLSTM1D (Scan)": keras.Sequential(
            [
                keras.Input((None, 8, 2), name="x"),
                layers.ConvLSTM1D(8, 3, padding="same", return_sequences=True),
            ]
        ),
    }


def measure(rounds: int) -> list[dict[str, object]]:
    """Latency at each length, for every model and backend."""
    rows = []
    rng = np.random.default_rng(0)
    for name, model in models().items():
        with tempfile.TemporaryDirectory() as folder:
            bundle = export(model, Path(folder) / "bundle").bundle
            for backend in ("onnx", "litert"):
                # One model a length: a new shape makes LiteRT plan its memory again.
                loaded = {n: bilstm_runtime.load(bundle, backend=backend) for n in LENGTHS}
                inputs = {}
                for n in LENGTHS:
                    shape = (1, n, *(axis.size for axis in loaded[n].inputs[0].axes[2:]))
                    inputs[n] = rng.standard_normal(shape).astype("float32")
                    if "masked" in name:
                        inputs[n][:, : n // 10] = 0
                latencies_ms: dict[int, list[float]] = {n: [] for n in LENGTHS}
                for turn in range(rounds + 3):
                    for n in LENGTHS:
                        begin = time.perf_counter()
                        loaded[n].predict(inputs[n])
                        if turn >= 3:
                            latencies_ms[n].append((time.perf_counter() - begin) * 1e3)
                short, long = (median(latencies_ms[n]) for n in LENGTHS)
                rows.append(
                    {
                        "model": name,
                        "backend": backend,
                        "ms_400": round(short, 3),
                        "ms_1600": round(long, 3),
                        "growth": round(long / short, 2),
                    }
                )
    return rows


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds (default: 30)")
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    args = parser.parse_args()
    rows = measure(args.rounds)
    table = Table(title=f"{LENGTHS[0]} to {LENGTHS[1]} steps, batch 1, one thread, interleaved")
    for heading in ("model", "backend", "400 ms", "1600 ms", "growth", f"bar {BAR:g}"):
        table.add_column(heading)
    for row in rows:
        verdict = "met" if row["growth"] <= BAR else "missed"
        table.add_row(*(str(value) for value in row.values()), verdict)
    Console(width=100).print(table)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
