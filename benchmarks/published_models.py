"""Exports published model files in both formats, and compares them with Keras.

The arguments are files or folders. An architecture in JSON takes its weights as
``ARCHITECTURE=WEIGHTS``; in a folder they are found next to it by name. Every model is exported,
then compared again, independently of the export's own checks: with two batches, two lengths and
every kind of masked padding, twice, in both backends. The reference is the model that tf_keras or
Keras loads or, if neither can, the one that the exporter loads.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.errors import ExportError
from bilstm_exporter.frontends.files.model_file import KERAS3, inspect
from bilstm_exporter.frontends.files.user_code import import_objects
from bilstm_exporter.frontends.loading import read
from bilstm_exporter.inspection.candidates import PADDINGS, ProbeKind, padding_mask
from bilstm_exporter.inspection.probes import Probe, ProbeSet
from bilstm_exporter.keras_model import TOLERANCE, KerasModel
from bilstm_exporter.progress import captured_stderr
from bilstm_runtime.comparison import Difference, compare, replay
from bilstm_runtime.sampling import random_values

ENDINGS = {".h5", ".hdf5", ".keras", ".json"}
BATCHES = (1, 3)
# Steps above the shortest length.
EXTRA_STEPS = (6, 13)
Reference = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


@dataclass(frozen=True)
class Outcome:
    """The result for one model.

    Attributes:
        model: Its file.
        generation: The Keras that read it, and why.
        outcome: "agrees", "DIFFERS", or the error.
        reference: The library that loaded the model to compare with.
        max_abs_error: The largest absolute error over both backends, all inputs and outputs; None
            if nothing ran.
        share: The largest error as a fraction of the tolerance.
        left_out: The number of badly conditioned inputs.
        seconds: The duration of the export.
    """

    model: str
    generation: str
    outcome: str
    reference: str = ""
    max_abs_error: float | None = None
    share: float | None = None
    left_out: int = 0
    seconds: float | None = None


def found_models(paths: Sequence[str]) -> Iterator[tuple[Path, Path | None]]:
    """Find model files, each with its file of weights if it is an architecture."""
    for text in paths:
        name, _, weights = text.partition("=")
        path = Path(name)
        if not path.is_dir():
            yield path, Path(weights) if weights else None
            continue
        for file in sorted(p for p in path.rglob("*") if p.suffix in ENDINGS and p.is_file()):
            if file.suffix == ".json":
                beside = _weights_beside(file)
                if beside is not None:
                    yield file, beside
            elif not (h5py.is_hdf5(file) and _holds_weights_only(file)):
                yield file, None


def _weights_beside(architecture: Path) -> Path | None:
    stem = architecture.stem
    for word in ("architecture", "arch", "model"):
        names = {stem, stem.replace(word, "weights"), stem.replace(f"{word}_", "")}
        for name in sorted(names | {stem.replace(word, "model_weights")}):
            for ending in (".h5", ".hdf5"):
                file = architecture.with_name(name + ending)
                if file.is_file() and _holds_weights_only(file):
                    return file
    return None


def _holds_weights_only(file: Path) -> bool:
    with h5py.File(file, "r") as content:
        return "model_config" not in content.attrs


def own_reference(
    file: Path, weights: Path | None, options: dict[str, Any]
) -> tuple[str, Reference]:
    """Load the model with tf_keras or Keras, without the exporter."""
    import keras  # noqa: PLC0415 - heavy
    import tensorflow as tf  # noqa: PLC0415
    import tf_keras  # noqa: PLC0415

    library = keras if inspect(file).generation == KERAS3 else tf_keras
    objects = dict(options["custom_objects"])
    if weights is None:
        model = library.models.load_model(file, custom_objects=objects, compile=False)
    else:
        model = library.models.model_from_json(file.read_text("utf-8"), custom_objects=objects)
        model.load_weights(weights)
    stateful = any(getattr(layer, "stateful", False) for layer in model.layers)
    single = len(model.inputs) == 1

    def reference(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        if stateful:
            model.reset_states()
        tensors = [tf.constant(array) for array in arrays]
        outputs = model(tensors[0] if single else tensors, training=False)
        return [np.asarray(output) for output in tf.nest.flatten(outputs)]

    return f"{library.__name__} {library.__version__}", reference


def exporters_reference(source: KerasModel) -> Reference:
    """Load the model with the exporter, if its own library does not load or run it."""
    states = source.states
    zeros = [np.zeros([size or 1 for size in s.shape], s.dtype) for s in states]
    count = len(source.flat_output_names) - source.state_count
    return lambda arrays: source.reference([*arrays, *zeros])[:count]


def inputs(model: bilstm_runtime.Model) -> Iterator[list[np.ndarray]]:
    """Yield inputs for a bundle: two batches, two lengths, every padding in turn."""
    rng = np.random.default_rng(0)
    for batch in BATCHES:
        for extra in EXTRA_STEPS:
            for kind in PADDINGS:
                arrays = []
                for spec in model.inputs:
                    shape = tuple(
                        axis.size or (batch if place == 0 else axis.min + extra)
                        for place, axis in enumerate(spec.axes)
                    )
                    array = random_values(spec, shape, rng)
                    if spec.mask_value is not None and array.ndim > 1:
                        for row in array:
                            row[~padding_mask(kind, len(row), rng)] = spec.mask_value
                    arrays.append(array)
                yield arrays
                if all(spec.mask_value is None for spec in model.inputs):
                    break


@dataclass(frozen=True)
class Case:
    """Make one set of inputs, one array per input."""

    inputs: list[np.ndarray]


def compare_bundle(
    bundle: Path, reference: Reference, source: KerasModel
) -> tuple[Difference, int]:
    """Compare a bundle with its reference in both backends, each case twice.

    Returns:
        The total difference, and the number of cases left out because they are badly
        conditioned: one rounding of the weights changes Keras's own output (docs/numerics.md).
    """
    total = Difference()
    left_out: set[int] = set()
    for backend in ("onnx", "litert"):
        with captured_stderr():  # LiteRT prints a greeting
            model = bilstm_runtime.load(bundle, backend=backend)
        cases = [Case(arrays) for arrays in inputs(model)]
        expected = [reference(case.inputs) for case in cases]
        for outputs in replay(model.run_case, cases):
            for index, case in enumerate(cases):
                pairs = zip(outputs[index], expected[index], strict=True)
                found = sum((compare(*pair, TOLERANCE) for pair in pairs), Difference())
                if found.passed or _is_well_conditioned(source, case.inputs, expected[index]):
                    total += found
                else:
                    left_out.add(index)
    return total, len(left_out)


def _is_well_conditioned(
    source: KerasModel, arrays: list[np.ndarray], outputs: list[np.ndarray]
) -> bool:
    if source.state_count:
        return True  # not known
    probe = Probe(ProbeKind.ORDINARY, "input", arrays, outputs)
    return not ProbeSet(source, [probe], {}, None).keep_well_conditioned()


def run(file: Path, weights: Path | None, options: dict[str, Any]) -> Outcome:
    """Export one model and compare it."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = export(file, Path(folder) / "bundle", weights=weights, **options)
        except ExportError as error:
            return Outcome(str(file), "", f"{type(error).__name__}: {error}")
        seconds = round(time.perf_counter() - begin, 1)
        source, _ = read(file, weights=weights, **options)
        try:
            name, reference = own_reference(file, weights, options)
            with captured_stderr():
                model = bilstm_runtime.load(report.bundle)
            reference(next(inputs(model)))
        # The library may fail for any reason, such as an old option or a layer that needs a GPU.
        # Its outputs are compared outside of this block.
        except Exception:  # noqa: BLE001
            name, reference = "the exporter", exporters_reference(source)
        found, left_out = compare_bundle(report.bundle, reference, source)
    share = found.max_error_ratio
    verdict = "agrees" if share <= 1 else "DIFFERS"
    return Outcome(
        str(file), report.generation, verdict, name, found.max_abs_error, share, left_out, seconds
    )


def main() -> int:
    """Run the benchmark; returns 1 if a model is refused or differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="PATH", help="files, FILE=WEIGHTS, or folders")
    parser.add_argument("--custom-objects", action="append", default=[], metavar="MODULE[:NAME]")
    parser.add_argument("--trust-code", action="store_true", help="let code in the files run")
    parser.add_argument("--json", metavar="FILE", help="write the outcomes to FILE")
    args = parser.parse_args()
    options = {
        "custom_objects": import_objects(args.custom_objects),
        "trust_code": args.trust_code,
    }
    outcomes = []
    for file, weights in found_models(args.models):
        outcomes.append(run(file, weights, options))
        print(f"{file}: {outcomes[-1].outcome}", file=sys.stderr, flush=True)
        if args.json:  # as it goes: a run over many models takes hours
            plain = [asdict(item) for item in outcomes]
            Path(args.json).write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    table = Table(title="Published models against their Keras")
    for heading in (
        "model",
        "read by",
        "outcome",
        "reference",
        "max error",
        "tolerance used",
        "left out",
        "s",
    ):
        table.add_column(heading, overflow="fold")
    for item in outcomes:
        error = "" if item.max_abs_error is None else f"{item.max_abs_error:.1e}"
        share = "" if item.share is None else f"{item.share:.1%}"
        words = (item.model, item.generation, item.outcome, item.reference)
        table.add_row(
            *map(escape, words), error, share, str(item.left_out or ""), str(item.seconds or "")
        )
    Console().print(table)
    return 0 if all(item.outcome == "agrees" for item in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
