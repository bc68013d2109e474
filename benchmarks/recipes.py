"""Measures the effect of each recipe on size, outputs and speed, with the targets of this project.

Three models trained on real data (see real_data.py), a BiLSTM of 4 million parameters, and plain
BiLSTMs of 64 to 512 units for the speed. Outputs are evaluated on held-out examples against Keras.
Latencies are medians of runs with one thread, float and int8 in turns within one process.

    python benchmarks/recipes.py [--cache DIR] [--json FILE] [--rows real large speed search]

Prints tables, which mark the figures that miss their targets. No time is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speed import ENVIRONMENT

os.environ.update(ENVIRONMENT)

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from bilstm_exporter import export
from bilstm_exporter.errors import ExportError
from bilstm_exporter.report import ArtifactReport, ExportReport
from real_data import TASKS, prepare
from speed_measuring import Finding
from speed_rows import onnx_int8, tflite_int8
from speed_runners import STEPS, Lab

FORMATS = ("onnx", "tflite")
SIZE_BARS = {"int8": 3.8, "int4": 6.5}
DROP_BARS = {"float16": 0.3, "int8": 0.3, "int8-full": 1.0}
UNCHANGED_BARS = {"float16": 99.95, "int8": 99.5}
Row = dict[str, Any]


def large_model() -> keras.Model:
    """Two BiLSTM layers of 352 units over 64 features: 4.1 million parameters."""
    keras.utils.set_random_seed(0)
    return _bilstm(64, 352)


def _bilstm(features: int, units: int) -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((None, features), name="x"),
            layers.Bidirectional(layers.LSTM(units, return_sequences=True)),
            layers.Bidirectional(layers.LSTM(units, return_sequences=True)),
        ]
    )


def ruined_model() -> keras.Model:
    """Make a classifier with a layer that int8 ruins: one unit's weights dwarf all others."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((None, 12), name="x"),
            layers.Bidirectional(layers.LSTM(48), name="recurrence"),
            layers.Dense(96, activation="tanh", name="fine"),
            layers.Dense(96, name="ruinous"),
            layers.Dense(6, activation="softmax", name="label"),
        ]
    )
    kernel, bias = model.get_layer("ruinous").get_weights()
    kernel[0] = 12.0  # its input is constant, and the bias subtracts it again
    fine_kernel, fine_bias = model.get_layer("fine").get_weights()
    fine_kernel[:, 0], fine_bias[0] = 0.0, 20.0
    model.get_layer("fine").set_weights([fine_kernel, fine_bias])
    model.get_layer("ruinous").set_weights([kernel, bias - 12.0])
    head, head_bias = model.get_layer("label").get_weights()
    model.get_layer("label").set_weights([head * 3, head_bias])
    return model


def real_rows(cache: Path, scratch: Path) -> Iterator[Row]:
    """Measure size and outputs of every recipe on every real model."""
    for name, task in TASKS.items():
        model_file, data_file = prepare(name, cache)
        with np.load(data_file) as arrays:
            data = {key: arrays[key] for key in arrays}
        report = export(
            model_file,
            scratch / name,
            recipes="float32,float16,int8,int4",
            data=(data[task.input], data["y"]),
        )
        yield from _evaluated_rows(name, report)
        fixed = export(
            model_file,
            scratch / f"{name}-fixed",
            formats="tflite",
            recipes="float32,int8-full",
            batch=1,
            time=data[task.input].shape[1],
            data=(data[task.input], data["y"]),
        )
        yield from (row for row in _evaluated_rows(name, fixed) if row["recipe"] == "int8-full")
        for format_name in FORMATS:
            searched = export(
                model_file,
                scratch / f"{name}-{format_name}-search",
                formats=format_name,
                recipes="float32,float16,int8,int4",
                data=(data[task.input], data["y"]),
                max_drop=1.0,
            )
            row = list(_evaluated_rows(name, searched))[-1]
            smaller = report.artifacts[0].bytes / row["bytes"]
            reason = searched.searches[format_name].reason
            yield {**row, "recipe": "search 1%", "times smaller": smaller, "reason": reason}


def _evaluated_rows(name: str, report: ExportReport) -> Iterator[Row]:
    float_bytes = {a.format: a.bytes for a in report.artifacts if a.recipe == "float32"}
    for artifact in report.artifacts:
        evaluated = artifact.verdict.outputs[0]
        yield {
            "model": name,
            "format": artifact.format,
            "recipe": artifact.recipe,
            "bytes": artifact.bytes,
            "times smaller": float_bytes[artifact.format] / artifact.bytes,
            "metric": evaluated.metric,
            "keras": evaluated.keras,
            "artifact": evaluated.value,
            "drop": evaluated.drop,
            "unchanged": evaluated.decisions_unchanged,
        }


def large_rows(scratch: Path) -> Iterator[Row]:
    """Measure the size of the large model, and its error on the probes."""
    report = export(large_model(), scratch / "large", recipes="float32,float16,int8,int4")
    float_bytes = {a.format: a.bytes for a in report.artifacts if a.recipe == "float32"}
    for artifact in report.artifacts:
        yield {
            "model": "4 M parameters",
            "format": artifact.format,
            "recipe": artifact.recipe,
            "bytes": artifact.bytes,
            "times smaller": float_bytes[artifact.format] / artifact.bytes,
            "relative error on probes": _relative(artifact),
        }


def _relative(artifact: ArtifactReport) -> float | None:
    return getattr(artifact.parity, "relative_error", None)


def speed_rows(scratch: Path, rounds: int) -> Iterator[Row]:
    """Measure the latency of int8 against float32: the cases of `speed.py`."""
    lab = Lab(scratch, rounds, processes=1)
    for name, cases in (("onnx", onnx_int8), ("tflite", tflite_int8)):
        for case in cases(lab):
            finding = Finding(name, case, case.measure())
            figure = finding.measured.figure
            yield {
                "format": name,
                "case": case.name,
                "times faster": figure.value,
                "95 % interval": f"{figure.low:.3g} to {figure.high:.3g}",
                "bar": case.bar.value,
                "verdict": finding.verdict,
                "latencies": finding.measured.note,
            }


def search_rows(scratch: Path) -> Iterator[Row]:
    """Check that a search finds the one layer of a model that int8 ruins."""
    x = np.random.default_rng(0).normal(0, 1, (400, 20, 12)).astype(np.float32)
    for format_name in FORMATS:
        row: Row = {"format": format_name}
        try:
            report = export(
                ruined_model(),
                scratch / f"ruined-{format_name}",
                formats=format_name,
                recipes="float32,float16,int8",
                data=x,
                max_drop=0.5,
            )
        except ExportError as error:
            yield {**row, "found": False, "reason": str(error)}
            continue
        found = report.searches[format_name]
        plain = next((c.drop for c in found.candidates if c.recipe == "int8"), None)
        kept = sorted({layer for item in found.kept for layer in item.layers})
        yield {
            **row,
            "drop of int8": plain,
            "drop of the mix": found.recommended.drop if found.recommended else None,
            "kept higher": ", ".join(kept),
            "found": found.recommended is not None and "ruinous" in kept,
            "reason": found.reason,
        }


def verdicts(row: Row) -> str:
    """Describe the targets that a row meets or misses."""
    recipe, found = row["recipe"], []

    def bar(name: str, limit: float | None, *, at_most: bool = False) -> None:
        value = row.get(name)
        if limit is None or value is None:
            return
        met = value <= limit if at_most else value >= limit
        sign = "<=" if at_most else ">="
        found.append(f"{name} {sign} {limit:g}: {'met' if met else 'MISSED'}")

    bar("times smaller", SIZE_BARS.get(recipe))
    bar("drop", DROP_BARS.get(recipe, 1.0 if recipe == "search 1%" else None), at_most=True)
    bar("unchanged", UNCHANGED_BARS.get(recipe))
    return "; ".join(found)


def show(console: Console, title: str, rows: list[Row], hidden: tuple[str, ...] = ()) -> None:
    """Print rows as a table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns = [name for name in columns if name not in hidden]
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run the benchmark and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="where trained models are kept")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument(
        "--rounds", type=int, default=30, help="rounds of the speed rows (default: 30)"
    )
    kinds = ("real", "large", "speed", "search")
    parser.add_argument("--rows", nargs="+", choices=kinds, default=list(kinds))
    arguments = parser.parse_args()
    console = Console(width=200)
    found: dict[str, Any] = {"machine": platform.platform(), "processor": _processor()}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        cache = arguments.cache or scratch / "cache"
        if "speed" in arguments.rows:  # first, before anything else heats the machine
            found["speed"] = list(speed_rows(scratch, arguments.rounds))
            show(console, f"int8 against float32, {STEPS} steps, one thread", found["speed"])
        for kind, rows in (
            ("real", lambda: real_rows(cache, scratch)),
            ("large", lambda: large_rows(scratch)),
        ):
            if kind in arguments.rows:
                found[kind] = [{**row, "bars": verdicts(row)} for row in rows()]
                show(console, kind, found[kind], hidden=("reason",))
        if "search" in arguments.rows:
            found["search"] = list(search_rows(scratch))
            show(console, "a model that int8 of one layer ruins", found["search"])
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


if __name__ == "__main__":
    main()
