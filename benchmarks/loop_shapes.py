"""Measures the choices in `targets/tflite/tiling.py`: how the TFLite loop is tiled and unrolled.

    python benchmarks/loop_shapes.py [--only WHAT ...] [--rounds N] [--json FILE]

- ``iteration``: steps per iteration of the inner loop, shapes free and fixed, T=100;
- ``chunk``: the assumed cost of a loop, which determines the steps per chunk of the outer loop;
  shapes free, at 400 and 1,600 steps;
- ``unroll``: the unrolled loop against the loop, batch and time fixed, short sequences;
- ``directions``: one loop per direction against one loop for both;
- ``form``: gates in another order, shapes fixed, T=100.

For contributors who change these constants. Every choice is exported with parts of the exporter
replaced, and verified like any other export. All choices of a case run in turns, with one thread. A
figure above 1 is faster than the current choice. No time is asserted; run it on an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from bilstm_exporter import export
from bilstm_exporter.ir.cells import LSTMCell
from bilstm_exporter.progress import captured_stderr
from bilstm_exporter.quantization.recipes import RECIPES, file_name
from bilstm_exporter.targets.tflite import loop, tiling
from speed_measuring import describe_machine, race
from speed_runners import STEPS, bound_of, features, litert_runner, model

NOW = "now"
UNITS = (64, 128, 256)
ITERATIONS = (1, 2, 3, 5, 8)
# Of CHUNK_UNITS they make chunks of 52, 100, 184 and 512 steps. Inputs are padded to whole chunks
# if time is free, so chunks far longer than the sequence would measure only the padding.
LOOP_COSTS = (1 << 17, 1 << 20, 1 << 22, 1 << 25)
CHUNK_UNITS = 64
CHUNK_LENGTHS = (400, 1600)
UNROLLED = (5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Part:
    """A part of the exporter, and its replacement.

    Attributes:
        owner: A module or class.
        name: The name of its attribute.
        value: The replacement.
    """

    owner: Any
    name: str
    value: Any


Choice: TypeAlias = tuple[Part, ...]


def iteration(steps: int) -> Choice:
    """Use this many steps per iteration; a sequence of at most this length is unrolled."""
    # Whatever the size of the cache.
    return (
        Part(tiling, "STEPS_PER_ITERATION", steps),
        Part(tiling, "COPIES_BYTES", 1 << 40),
    )


def chunk(loop_bytes: int) -> Choice:
    """Use chunks for this assumed cost of a loop; a higher cost gives longer chunks."""
    return (Part(tiling, "LOOP_BYTES", loop_bytes),)


def sigmoids_together() -> Choice:
    """Place the three sigmoid gates next to each other, so that one operator computes them."""

    def ordered(weights: Any) -> Any:
        i, f, c, o = np.split(weights, 4, axis=-1)
        return np.concatenate([i, f, o, c], axis=-1)

    def projection(cell: Any) -> tuple[Any, Any]:
        return ordered(cell.kernel), ordered(cell.bias)

    def step(cells: Sequence[Any], inputs: Any, states: Sequence[Any]) -> tuple[Any, list[Any]]:
        (hidden, carry), cell = states, cells[0]
        rows = zip(tf.split(hidden, len(cells), axis=0), cells, strict=True)
        products = [tf.matmul(row, ordered(one.recurrent_kernel)) for row, one in rows]
        gates_in = inputs + tf.concat(products, axis=0)
        opened, candidate = tf.split(gates_in, [3 * cell.units, cell.units], axis=1)
        i, f, o = tf.split(cell.recurrent_activation.function(opened), 3, axis=1)
        activation = cell.activation.function
        carry = f * carry + i * activation(candidate)
        hidden = o * activation(carry)
        return hidden, [hidden, carry]

    return (
        Part(LSTMCell, "input_projection", projection),
        Part(loop, "step_together", step),
    )


def both_ways() -> dict[str, Choice]:
    """Compare one loop per direction with one for both, at any length."""
    return {
        "one loop per direction": (Part(tiling, "MAX_UNITS_ONE_LOOP", 0),),
        "one loop for both": (Part(tiling, "ONE_LOOP_BYTES", 1 << 40),),
    }


@dataclass(frozen=True)
class Comparison:
    """Choices to compare on one input.

    Attributes:
        name: The model and its shapes.
        units: The units of the model.
        steps: The lengths of the input.
        fixed: Whether batch and time are fixed.
        choices: By name; `NOW` replaces nothing.
    """

    name: str
    units: int
    steps: Sequence[int]
    fixed: bool
    choices: Mapping[str, Choice]


def comparisons() -> dict[str, list[Comparison]]:
    """All comparisons by the names of ``--only``."""
    shapes = {False: "shapes free", True: "shapes fixed"}
    by_iteration = {f"{n} per iteration": iteration(n) for n in ITERATIONS}
    by_chunk = {f"{n >> 10} KiB per loop": chunk(n) for n in LOOP_COSTS}
    by_form = {"sigmoids together": sigmoids_together()}
    now: dict[str, Choice] = {NOW: ()}
    return {
        "iteration": [
            Comparison(f"{units} units, {words}", units, [STEPS], fixed, now | by_iteration)
            for units in UNITS
            for fixed, words in shapes.items()
        ],
        "chunk": [
            Comparison(
                f"{CHUNK_UNITS} units, shapes free",
                CHUNK_UNITS,
                CHUNK_LENGTHS,
                fixed=False,
                choices=now | by_chunk,
            )
        ],
        "unroll": [
            Comparison(
                f"{units} units, T={steps} fixed",
                units,
                [steps],
                fixed=True,
                choices=now | unrolling(steps),
            )
            for units in UNITS
            for steps in UNROLLED
        ],
        "directions": [
            Comparison(f"{units} units, {words}", units, lengths, fixed, now | both_ways())
            for units in (16, 64, 128)
            for fixed, words, lengths in (
                (True, "shapes fixed", [STEPS]),
                (False, "shapes free", [STEPS, *CHUNK_LENGTHS]),
            )
        ],
        "form": [
            Comparison(
                f"{units} units, shapes fixed", units, [STEPS], fixed=True, choices=now | by_form
            )
            for units in UNITS
        ],
    }


def unrolling(steps: int) -> dict[str, Choice]:
    """Return the alternative to the current choice for a sequence of this length."""
    if steps <= tiling.STEPS_PER_ITERATION:
        return {"loop": iteration(steps - 1)}
    return {"unrolled": iteration(steps)}


@contextlib.contextmanager
def replaced(parts: Choice) -> Iterator[None]:
    """Replace parts of the exporter in this context."""
    originals = [getattr(part.owner, part.name) for part in parts]
    try:
        for part in parts:
            setattr(part.owner, part.name, part.value)
        yield
    finally:
        for part, value in zip(parts, originals, strict=True):
            setattr(part.owner, part.name, value)


def measure(
    comparison: Comparison, recipe: str, rounds: int, folder: Path
) -> Iterator[dict[str, Any]]:
    """Export and check every choice, and time all in turns."""
    files = {}
    for number, (choice, parts) in enumerate(comparison.choices.items()):
        out = folder / f"{number}"
        shape: dict[str, Any] = (
            {"batch": 1, "time": comparison.steps[0]} if comparison.fixed else {}
        )
        with replaced(parts), captured_stderr():
            export(
                model("plain", comparison.units),
                out,
                formats=("tflite",),
                recipes=(recipe,),
                overwrite=True,
                **shape,
            )
        files[choice] = out / file_name(recipe, "tflite")
    for steps in comparison.steps:
        work = features(comparison.units, steps=steps)
        runners = [litert_runner(f, name, bound=bound_of(recipe)) for name, f in files.items()]
        timing = race([runner.on(work) for runner in runners], rounds)
        latencies = timing.details()["latency_ms"]
        for choice, file in files.items():
            yield {
                "question": comparison.name,
                "steps": steps,
                "choice": choice,
                "latency_ms": latencies[choice],
                "times_faster_than_now": asdict(timing.ratio(NOW, choice)),
                "bytes": file.stat().st_size,
            }


def line(row: Mapping[str, Any]) -> str:
    """Format a line of the Markdown table."""
    ratio = row["times_faster_than_now"]
    figures = f"{ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
    cells = (row["question"], row["steps"], row["choice"], f"{row['latency_ms']:.4g}", figures)
    return "| " + " | ".join(str(cell) for cell in (*cells, row["bytes"])) + " |"


def main() -> int:
    """Run the benchmark."""
    found = comparisons()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(found), help="(default: all)")
    parser.add_argument("--units", nargs="+", type=int, choices=(16, *UNITS), help="(default: all)")
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds (default: 30)")
    parser.add_argument(
        "--recipe", choices=[name for name in RECIPES if name in {"float32", "int8"}],
        default="float32", help="(default: float32)",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    args = parser.parse_args()
    machine = describe_machine()
    print(f"{machine['processor']}, {machine['cores']} cores, load before {machine['load']}\n")
    print("| question | steps | choice | ms | times faster than now | bytes |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only or found:
            for comparison in found[name]:
                if args.units and comparison.units not in args.units:
                    continue
                for row in measure(comparison, args.recipe, args.rounds, Path(folder)):
                    print(line(row), flush=True)
                    rows.append({"what": name, **row})
    if args.json:
        document = {
            "machine": machine,
            "threads": 1,
            "rounds": args.rounds,
            "recipe": args.recipe,
            "now": {
                "steps_per_iteration": tiling.STEPS_PER_ITERATION,
                "copies_bytes": tiling.COPIES_BYTES,
                "loop_bytes": tiling.LOOP_BYTES,
                "iteration_bytes": tiling.ITERATION_BYTES,
                "usual_steps": tiling.USUAL_STEPS,
            },
            "rows": rows,
        }
        Path(args.json).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
