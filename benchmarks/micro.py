"""The metric of int8-full against float32 on test data, in LiteRT and in TFLite Micro.

    python benchmarks/micro.py [--cache DIR] [--models NAME...] [--examples N]

The models are the shipped ones (see example_data.py) and those of real_data.py, which are trained
on the first run. Each is exported with ``--target tflite-micro`` and its test part as data, and
every example runs in both interpreters, one per call. Prints a Markdown table: sizes, arenas and
metrics, and the largest loss against float32. It needs the package tflite-micro; that one loads in
a process of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")

import numpy as np

from bilstm_exporter import export
from bilstm_exporter.evaluation.data import read_data
from bilstm_exporter.evaluation.dataset import Dataset
from bilstm_exporter.evaluation.evaluator import Evaluator
from bilstm_exporter.evaluation.predictions import predict_dataset
from bilstm_exporter.profiles import PROFILES
from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.predictor import Predictor
from example_data import EXAMPLES, write_addresses, write_japanese_vowels, write_language
from real_data import TASKS, prepare

MICRO = "tflite-micro"
STEPS: Mapping[str, int | None] = {
    "japanese_vowels": 29,
    "language": None,  # its text layer fixes them
    "addresses": 20,
    "vowels": 29,
    "languages": 20,
    "hyphens": 20,
}
HEADER = (
    "| model | examples | float32 file | arena | int8-full file | arena | float32 in LiteRT "
    "| in TFLM | int8-full in LiteRT | in TFLM |"
)
RECIPES = ("float32", "int8-full")


@dataclass(frozen=True)
class Row:
    """The figures of one model; sizes in bytes, metrics in percent.

    Attributes:
        model: Its name.
        examples: The number of examples.
        sizes: Of the float32 and the int8-full file.
        arenas: Of the same, as TFLite Micro measured them.
        metrics: By recipe, in LiteRT and in TFLite Micro.
    """

    model: str
    examples: int
    sizes: Sequence[int]
    arenas: Sequence[int]
    metrics: Mapping[str, Sequence[float]]

    @property
    def drop(self) -> float:
        """The largest loss of int8-full against float32, in points."""
        return max(self.metrics["float32"]) - min(self.metrics["int8-full"])

    def __str__(self) -> str:
        """The row of the table."""
        sizes = [_kib(size) for pair in zip(self.sizes, self.arenas, strict=True) for size in pair]
        metrics = [f"{one:.2f} %" for recipe in RECIPES for one in self.metrics[recipe]]
        return f"| {' | '.join([f'`{self.model}`', str(self.examples), *sizes, *metrics])} |"


def _kib(size: int) -> str:
    return f"{size / 1024:.3g} KiB" if size < 1 << 20 else f"{size / (1 << 20):.2f} MiB"


def model_and_data(name: str, cache: Path) -> tuple[Path, Path]:
    """Return the files of a model and of its test part; those that are not there are made."""
    if name in TASKS:
        return prepare(name, cache)
    data = cache / f"{name}.{'jsonl' if name == 'language' else 'npz'}"
    if not data.exists():
        cache.mkdir(parents=True, exist_ok=True)
        write = {
            "addresses": write_addresses,
            "japanese_vowels": write_japanese_vowels,
            "language": write_language,
        }
        write[name](cache)
    return EXAMPLES / f"{name}.keras", data


def measured(name: str, cache: Path, folder: Path, examples: int) -> Row:
    """Export a model, and run its test part in both interpreters."""
    model, file = model_and_data(name, cache)
    options: dict[str, Any] = {} if STEPS[name] is None else {"time": STEPS[name]}
    if name == "addresses":
        from crf import CRF  # noqa: PLC0415 - in examples/

        options |= {"custom_objects": {"CRF": CRF}, "crf": "transitions=crf"}
        options["labels"] = EXAMPLES / "addresses_tags.txt"
    export(model, folder / name, target=MICRO, data=file, **options)
    manifest = open_bundle(folder / name).manifest
    spec = manifest.spec
    dataset = read_data(file, spec, max_examples=examples)
    metrics: dict[str, list[float]] = {}
    for artifact in manifest.artifacts:
        content = (folder / name / artifact.file).read_bytes()
        metrics[artifact.recipe] = []
        for session in (
            BACKENDS["litert"].open(content, artifact, spec, threads=1),
            PROFILES[MICRO].verifier.open(content, artifact, spec),
        ):
            predictor = Predictor(spec, session, label=artifact.file)
            metrics[artifact.recipe].append(metric(predictor, dataset))
    by_recipe = {artifact.recipe: artifact for artifact in manifest.artifacts}
    files = [by_recipe[recipe] for recipe in RECIPES]
    arenas = [one.runtimes[0].arena_bytes for one in files]
    return Row(name, dataset.count, [one.bytes for one in files], arenas, metrics)


def metric(predictor: Predictor, dataset: Dataset) -> float:
    """Return the share of right decisions, in percent: of a CRF's best path, if there is one."""
    spec = predictor.spec
    predictions = predict_dataset(predictor, dataset)
    (labels,) = dataset.labels.values()
    if spec.decoding and spec.decoding[0].kind == "tags":
        names = spec.decoding[0].labels
        found = predictor.tag(dataset.part(slice(None)))
        right = [
            names[label] == tag.tag
            for row, tags in zip(labels, found, strict=True)
            # Padding has the label -1; tags are those of the steps before it.
            for label, tag in zip(row[row >= 0], tags, strict=True)
        ]
        return 100 * float(np.mean(right))
    (one,) = Evaluator(spec, dataset, predictions).evaluate(predictions).outputs
    return one.value


def main() -> None:
    """Measure, and print the table; the exit code is 1 if a model loses more than a point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, help="keep the trained models and the data here")
    parser.add_argument("--models", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--examples", type=int, default=10_000, help="at most; drawn evenly")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = []
        print(HEADER, f"|{'---|' * HEADER.count(' | ')}---|", sep="\n")
        for name in options.models:
            rows.append(measured(name, options.cache or folder, folder, options.examples))
            print(rows[-1], flush=True)
    worst = max(rows, key=lambda row: row.drop)
    print(f"\nThe largest loss is {worst.drop:.2f} points, of {worst.model}.")
    sys.exit(worst.drop > 1)


if __name__ == "__main__":
    main()
