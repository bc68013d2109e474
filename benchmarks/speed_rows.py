"""The rows of `speed.py`: their comparisons, and the target of each figure."""

from __future__ import annotations

import contextlib
import functools
import os
import pty
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np

import bilstm_runtime
from bilstm_bench.plan import Plan, Shape, Variant
from bilstm_bench.processes import MEMORY_MISSING, peak_bytes, resident_bytes, task_of
from bilstm_bench.processes import cold_start as start_bundle
from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.model import choose
from bilstm_runtime.predictor import Predictor
from speed_measuring import (
    Array,
    Bar,
    Case,
    Contestant,
    Measured,
    MissingPeerError,
    Runner,
    Workload,
    figure,
    race,
    race_reopened,
)
from speed_runners import (
    FORMS,
    STEPS,
    VALID_WORDS,
    Kind,
    Lab,
    Valid,
    bare_products,
    bound_of,
    features,
    form,
    fused_tflite,
    gemm_runners,
    litert_runner,
    model,
    onnx_runner,
    openvino_runners,
    ragged,
    reference_outputs,
    sentences,
    static_tflite,
    stock_onnx,
    torch_runners,
)

MakeCases: TypeAlias = Callable[[Lab], Iterator[Case]]


@dataclass(frozen=True)
class Row:
    """A group of cases.

    Attributes:
        name: The name for ``--only``.
        title: A description of the comparison.
        cases: Returns the cases, without building or measuring anything.
    """

    name: str
    title: str
    cases: MakeCases


ROWS: dict[str, Row] = {}
"""The rows in the order in which they are measured."""


def row(name: str, title: str) -> Callable[[MakeCases], MakeCases]:
    """Register the decorated function as a row.

    Raises:
        ValueError: The name is already registered.
    """

    def add(make_cases: MakeCases) -> MakeCases:
        if name in ROWS:
            message = f"the row {name!r} is already registered"
            raise ValueError(message)
        ROWS[name] = Row(name, title, make_cases)
        return make_cases

    return add


UNMASKED_BAR = Bar(1.0)
MASKED_BARS = {64: Bar(15), 128: Bar(10), 256: Bar(4)}
"""By units: at batch 1, with random lengths."""

PEER_UNITS = (16, 32, 64, 128, 256, 512)
CLOSE_TO_OPENVINO = 512
"""Units at which the target is within 10 % of OpenVINO."""

LIMIT_UNITS = (256, 512)
LIMIT_BAR = Bar(65)
GEMM_SIZE = 1024
LIMIT_BATCH = 16

ONNX_INT8_BARS = {64: Bar(1.5), 128: Bar(2.2), 256: Bar(2.8), 512: Bar(2.8)}
FASTER = "times faster"


@row("stock", "ONNX float against the stock export, same onnxruntime, T=100")
def stock(lab: Lab) -> Iterator[Case]:
    """Unmasked never slower; masked many times faster."""
    for units in MASKED_BARS:
        for batch in (1, 8):
            name = f"unmasked, {units} units, batch {batch}"
            yield Case(name, FASTER, UNMASKED_BAR, partial(_unmasked, lab, units, batch))
    for units, bar in MASKED_BARS.items():
        for batch in (1, 8):
            for valid, words in VALID_WORDS.items():
                has_target = batch == 1 and valid == "drawn"
                name = f"masked, {units} units, batch {batch}, {words}"
                measure = partial(_masked, lab, units, batch, valid)
                yield Case(name, FASTER, bar if has_target else None, measure)


def _unmasked(lab: Lab, units: int, batch: int) -> Measured:
    work = features(units, batch=batch)
    return _against_stock(lab, "plain", units, work)


def _masked(lab: Lab, units: int, batch: int, valid: Valid) -> Measured:
    return _against_stock(lab, "masked", units, sentences(units, valid, batch=batch))


def _against_stock(lab: Lab, kind: Kind, units: int, work: Workload) -> Measured:
    def open_all() -> list[Contestant]:
        ours = onnx_runner(lab.file(kind, units, "onnx"), "ours")
        theirs = stock_onnx(model(kind, units), work.inputs[0], lab.folder)
        return [ours.on(work), theirs.on(work)]

    timing = race_reopened(open_all, lab.rounds)
    details = timing.details() | {"input": work.about}
    return Measured(timing.ratio("stock", "ours"), details, timing.note())


@row("peers", "ONNX float in onnxruntime against PyTorch and OpenVINO, batch 1, T=100")
def peers(lab: Lab) -> Iterator[Case]:
    """Compare with the fastest form of each peer."""
    for units in PEER_UNITS:
        name = f"PyTorch, {units} units"
        yield Case(name, FASTER, Bar(1.0), partial(_against_torch, lab, units))
    for units in PEER_UNITS:
        bar = Bar(round(1 / 1.1, 3)) if units == CLOSE_TO_OPENVINO else Bar(1.0)
        name = f"OpenVINO, {units} units"
        yield Case(name, FASTER, bar, partial(_against_openvino, lab, units))


def _against_torch(lab: Lab, units: int) -> Measured:
    left_out: dict[str, str] = {}

    def open_peers() -> list[Runner]:
        runners, why = torch_runners(model("plain", units), units)
        left_out.update(why)
        return runners

    return _against(lab, units, open_peers, left_out)


def _against_openvino(lab: Lab, units: int) -> Measured:
    file = lab.file("plain", units, "onnx")
    return _against(lab, units, partial(openvino_runners, file, units), {})


def _against(
    lab: Lab, units: int, open_peers: Callable[[], list[Runner]], left_out: dict[str, str]
) -> Measured:
    file, work = lab.file("plain", units, "onnx"), features(units)

    def open_all() -> list[Contestant]:
        return [runner.on(work) for runner in (onnx_runner(file, "ours"), *open_peers())]

    timing = race_reopened(open_all, lab.rounds)
    best = timing.fastest(name for name in timing.ms if name != "ours")
    details = timing.details() | {"compared_with": best, "left_out": left_out}
    note = f"against {best}; {timing.note()}"
    if left_out:
        note += f"; not available here: {', '.join(left_out)}"
    return Measured(timing.ratio(best, "ours"), details, note)


@row("limit", "ONNX float: share of the rate of a plain float GEMM of the same run")
def limit(lab: Lab) -> Iterator[Case]:
    """Compare the rate of the LSTMs' matrix products with the rate of the fastest GEMM.

    With one sequence, the products of a recurrence have one row each, and each reads a whole
    kernel, which is much slower than a GEMM. Two more cases without a target therefore compare with
    the rate of these products alone, and with a batch, which reads each kernel once.
    """
    for units in LIMIT_UNITS:
        name = f"{units} units, batch 1"
        yield Case(name, "% of GEMM", LIMIT_BAR, partial(_of_limit, lab, units, 1))
        measure = partial(_of_own_products, lab, units)
        yield Case(f"{name}: of its own products", "% of their rate", None, measure)
        measure = partial(_of_limit, lab, units, LIMIT_BATCH)
        yield Case(f"{units} units, batch {LIMIT_BATCH}", "% of GEMM", None, measure)


def _of_limit(lab: Lab, units: int, batch: int) -> Measured:
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((GEMM_SIZE, GEMM_SIZE)).astype(np.float32) for _ in range(2))
    products = gemm_runners(left, right)
    product = left.astype(np.float64) @ right
    gemm_work = Workload([left], [product.astype(np.float32)])
    ours = onnx_runner(lab.file("plain", units, "onnx"), "ours")
    work = features(units, batch=batch)
    contestants = [ours.on(work), *(runner.on(gemm_work) for runner in products)]
    timing = race(contestants, lab.rounds)
    best = timing.fastest(runner.name for runner in products)
    ours_flop, gemm_flop = batch * lstm_flop(units), 2 * GEMM_SIZE**3
    share = figure(
        100 * (ours_flop / ms) / (gemm_flop / gemm_ms)
        for ms, gemm_ms in zip(timing.ms["ours"], timing.ms[best], strict=True)
    )
    rates = {
        "ours": ours_flop / float(np.median(timing.ms["ours"])) / 1e6,
        **{r.name: gemm_flop / float(np.median(timing.ms[r.name])) / 1e6 for r in products},
    }
    rates = {name: round(rate, 2) for name, rate in rates.items()}
    details = timing.details() | {"gflop_per_s": rates, "compared_with": best}
    return Measured(share, details, ", ".join(f"{n} {rate} GFLOP/s" for n, rate in rates.items()))


def _of_own_products(lab: Lab, units: int) -> Measured:
    """Compare the LSTMs with their own matrix products alone."""
    work = features(units)
    products, products_work = bare_products(units)
    ours = onnx_runner(lab.file("plain", units, "onnx"), "ours")
    timing = race([ours.on(work), products.on(products_work)], lab.rounds)
    share = figure(
        100 * products_ms / ms
        for ms, products_ms in zip(timing.ms["ours"], timing.ms[products.name], strict=True)
    )
    return Measured(share, timing.details(), timing.note())


def lstm_flop(units: int) -> int:
    """Count the floating-point operations of the plain model's matrix products, for one sequence.

    Two layers, two directions, four gates; the second layer reads both directions of the first.
    """
    return sum(2 * 2 * STEPS * 4 * units * (width + units) for width in (units, 2 * units))


@row("onnx-int8", "ONNX: int8 against float, batch 1, T=100")
def onnx_int8(lab: Lab) -> Iterator[Case]:
    """The recipe int8 against float32."""
    for units, bar in ONNX_INT8_BARS.items():
        yield Case(
            f"{units} units",
            FASTER,
            bar,
            partial(_int8_against_float, lab, units, "onnx", fixed=False),
        )


def _int8_against_float(lab: Lab, units: int, format_name: str, *, fixed: bool) -> Measured:
    work = features(units)
    files = {
        recipe: lab.file("plain", units, format_name, recipe=recipe, fixed=fixed)
        for recipe in ("float32", "int8")
    }

    def open_all() -> list[Contestant]:
        return [
            OPEN[format_name](file, recipe, bound=bound_of(recipe)).on(work)
            for recipe, file in files.items()
        ]

    timing = race_reopened(open_all, lab.rounds)
    return Measured(timing.ratio("float32", "int8"), timing.details(), timing.note())


FUSED_BARS = {
    "float32": {64: Bar(1.6), 128: Bar(2.1), 256: Bar(2.1)},
    "int8": {64: Bar(1.6), 128: Bar(2.5), 256: Bar(2.5)},
}
STATIC_BAR = Bar(1.0)
ONNX_BARS = {"float32": Bar(1.9, at_most=True), "int8": Bar(2.1, at_most=True)}
TFLITE_INT8_BARS = {64: Bar(1.2), 128: Bar(1.7), 256: Bar(1.7)}
CONVERSIONS = {"fused": fused_tflite, "static": static_tflite}
SHAPES = {True: "shapes fixed", False: "shapes free"}


@row("fused", "TFLite, batch 1 and T=100 fixed, against the stock conversions")
def fused(lab: Lab) -> Iterator[Case]:
    """Compare with Keras 2's fused LSTM, and with Keras 3's model as a static-shape function.

    The fused operator keeps its state for the next invoke, so it must be reset to give a correct
    second output; the reset is not timed.
    """
    for recipe, bars in FUSED_BARS.items():
        for units, bar in bars.items():
            for peer, target in (("fused", bar), ("static", STATIC_BAR)):
                name = f"{recipe}, {units} units, against {peer}"
                yield Case(name, FASTER, target, partial(_stock, lab, units, recipe, peer))


def _stock(lab: Lab, units: int, recipe: str, peer: str) -> Measured:
    theirs = CONVERSIONS[peer](model("plain", units), units, recipe)
    file = lab.file("plain", units, "tflite", recipe=recipe, fixed=True)
    work, bound = features(units), bound_of(recipe)

    def open_all() -> list[Contestant]:
        ours = litert_runner(file, "ours", bound=bound)
        stock = litert_runner(theirs, peer, bound=bound, is_stateful=peer == "fused")
        return [ours.on(work), stock.on(work)]

    timing = race_reopened(open_all, lab.rounds)
    return Measured(timing.ratio(peer, "ours"), timing.details(), timing.note())


@row("tflite-onnx", "TFLite against ONNX, same recipe, batch 1, T=100")
def tflite_onnx(lab: Lab) -> Iterator[Case]:
    """Compare the latency of TFLite with that of ONNX."""
    for recipe, bar in ONNX_BARS.items():
        for units in (128, 256):
            for fixed, words in SHAPES.items():
                name = f"{recipe}, {units} units, {words}"
                measure = partial(_against_onnx, lab, units, recipe, fixed=fixed)
                yield Case(name, "times as long", bar, measure)


def _against_onnx(lab: Lab, units: int, recipe: str, *, fixed: bool) -> Measured:
    work, bound = features(units), bound_of(recipe)
    file = partial(lab.file, "plain", units, recipe=recipe, fixed=fixed)

    def open_all() -> list[Contestant]:
        return [
            litert_runner(file("tflite"), "tflite", bound=bound).on(work),
            onnx_runner(file("onnx"), "onnx", bound=bound).on(work),
        ]

    timing = race_reopened(open_all, lab.rounds)
    return Measured(timing.ratio("tflite", "onnx"), timing.details(), timing.note())


@row("tflite-int8", "TFLite: int8 against float, batch 1, T=100")
def tflite_int8(lab: Lab) -> Iterator[Case]:
    """The recipe int8 against float32."""
    for units, bar in TFLITE_INT8_BARS.items():
        for fixed, words in SHAPES.items():
            measure = partial(_int8_against_float, lab, units, "tflite", fixed=fixed)
            yield Case(f"{units} units, {words}", FASTER, bar, measure)


OPEN = {"onnx": onnx_runner, "tflite": litert_runner}
BACKEND_NAMES = {"onnx": "onnx", "tflite": "litert"}

RAGGED_COUNT = 256
RAGGED_UNITS = (64, 128)
RAGGED_BAR = Bar(1.5)
GROUP_SIZE = 16
"""Sequences in one run of `predict` on a list."""

LENGTHS = (400, 1600)
LENGTH_UNITS = 64
LENGTH_BAR = Bar(4.4, at_most=True)
FORM_LENGTH_BAR = Bar(4.5, at_most=True)

BATCHES = (1, 16)
BATCH_UNITS = 128
BATCH_BAR = Bar(9, at_most=True)

OVERHEAD_UNITS = (16, 64)
OVERHEAD_BAR = Bar(25, at_most=True)


@row("ragged", f"predict on a list of {RAGGED_COUNT} sequences of 10 to 100 steps, masked")
def ragged_lists(lab: Lab) -> Iterator[Case]:
    """Compare with padding all to 100 steps, in one run and 16 at a time; padding is not timed."""
    for format_name, backend in BACKEND_NAMES.items():
        for units in RAGGED_UNITS:
            for size, words in ((None, "in one run"), (GROUP_SIZE, f"{GROUP_SIZE} at a time")):
                name = f"{backend}, {units} units, against padding all, {words}"
                measure = partial(_ragged, lab, format_name, units, size)
                yield Case(name, "times faster", RAGGED_BAR, measure)


def _ragged(lab: Lab, format_name: str, units: int, size: int | None) -> Measured:
    folder = lab.bundle("masked", units, format_name)
    loaded = bilstm_runtime.load(folder, backend=BACKEND_NAMES[format_name])
    sequences, padded = ragged(units, RAGGED_COUNT)
    as_list = Workload([sequences], padded.references)
    contestants = [
        Runner("list", loaded.predict).on(as_list),
        Runner("padded", partial(loaded.predict, batch_size=size)).on(padded),
    ]
    timing = race(contestants, lab.rounds)
    return Measured(timing.ratio("padded", "list"), timing.details(), timing.note())


@row("growth-time", f"growth from T={LENGTHS[0]} to T={LENGTHS[1]}, shapes free, batch 1")
def growth_in_time(lab: Lab) -> Iterator[Case]:
    """Linear growth is 4."""
    name = f"{LENGTH_UNITS} units"
    for format_name in OPEN:
        measure = partial(_growth_in_time, lab, format_name, "plain", "full")
        yield Case(f"{format_name}, unmasked, {name}", "times as long", LENGTH_BAR, measure)
        valids: tuple[Valid, ...] = ("full", "half")
        for valid in valids:
            words = {"full": "every step valid", "half": "half of the steps valid"}[valid]
            measure = partial(_growth_in_time, lab, format_name, "masked", valid)
            case = f"{format_name}, masked, {name}, {words}"
            yield Case(case, "times as long", LENGTH_BAR, measure)
    for form_name in FORMS:
        for format_name in OPEN:
            measure = partial(_growth_of_form, lab, form_name, format_name)
            yield Case(f"{format_name}, {form_name}", "times as long", FORM_LENGTH_BAR, measure)


def _growth_of_form(lab: Lab, name: str, format_name: str) -> Measured:
    """Measure the form `name`, with a tenth of the steps masked if it has a mask."""
    keras_model = form(name)
    file = lab.form_file(name, format_name)
    contestants = []
    for steps in LENGTHS:
        rng = np.random.default_rng(steps)
        inputs = rng.standard_normal((1, steps, *keras_model.input_shape[2:])).astype(np.float32)
        if "masked" in name:
            inputs[:, : steps // 10] = 0
        runner = OPEN[format_name](file, f"T={steps}")
        work = Workload([inputs], [reference_outputs(keras_model, inputs)])
        contestants.append(runner.on(work))
    timing = race(contestants, lab.rounds)
    short, long = (one.runner.name for one in contestants)
    return Measured(timing.ratio(long, short), timing.details(), timing.note())


def _growth_in_time(lab: Lab, format_name: str, kind: Kind, valid: Valid) -> Measured:
    file = lab.file(kind, LENGTH_UNITS, format_name)
    contestants = []
    for steps in LENGTHS:
        # One runner per length: LiteRT plans its memory again for each new shape.
        runner = OPEN[format_name](file, f"T={steps}")
        if kind == "plain":
            work = features(LENGTH_UNITS, steps=steps)
        else:
            work = sentences(LENGTH_UNITS, valid, steps=steps)
        contestants.append(runner.on(work))
    timing = race(contestants, lab.rounds)
    short, long = (one.runner.name for one in contestants)
    return Measured(timing.ratio(long, short), timing.details(), timing.note())


@row("growth-batch", f"growth from batch {BATCHES[0]} to {BATCHES[1]}, ONNX, T=100")
def growth_in_batch(lab: Lab) -> Iterator[Case]:
    """Compare the latency of the larger batch with that of the smaller one."""
    name = f"unmasked, {BATCH_UNITS} units"
    yield Case(name, "times as long", BATCH_BAR, partial(_growth_in_batch, lab, "plain", "full"))
    valids: tuple[Valid, ...] = ("full", "half")
    for valid in valids:
        name = f"masked, {BATCH_UNITS} units, {VALID_WORDS[valid]}"
        measure = partial(_growth_in_batch, lab, "masked", valid)
        yield Case(name, "times as long", BATCH_BAR, measure)


def _growth_in_batch(lab: Lab, kind: Kind, valid: Valid) -> Measured:
    file = lab.file(kind, BATCH_UNITS, "onnx")
    contestants = []
    for batch in BATCHES:
        runner = onnx_runner(file, f"batch {batch}")
        if kind == "plain":
            work = features(BATCH_UNITS, batch=batch)
        else:
            work = sentences(BATCH_UNITS, valid, batch=batch)
        contestants.append(runner.on(work))
    timing = race(contestants, lab.rounds)
    small, large = (one.runner.name for one in contestants)
    return Measured(timing.ratio(large, small), timing.details(), timing.note())


@row("overhead", "predict against the bare session's run, batch 1, T=100")
def overhead(lab: Lab) -> Iterator[Case]:
    """The median over the rounds of the difference in microseconds."""
    kinds: tuple[Kind, ...] = ("plain", "masked")
    for format_name, backend in BACKEND_NAMES.items():
        for kind in kinds:
            for units in OVERHEAD_UNITS:
                name = f"{backend}, {kind}, {units} units"
                measure = partial(_overhead, lab, format_name, kind, units)
                yield Case(name, "us more", OVERHEAD_BAR, measure)


def _overhead(lab: Lab, format_name: str, kind: Kind, units: int) -> Measured:
    bundle = open_bundle(lab.bundle(kind, units, format_name))
    backend, artifact = choose(bundle, BACKENDS[BACKEND_NAMES[format_name]], None)
    # One session for both: with two, one may have a better memory layout.
    session = backend.open(bundle.read(artifact), artifact, bundle.manifest.spec, 1)
    predictor = Predictor(bundle.manifest.spec, session, label=artifact.file)
    work = features(units) if kind == "plain" else sentences(units, "full")
    contestants = [
        Runner("predict", predictor.predict).on(work),
        Runner("bare", BARE[format_name](session)).on(work),
    ]
    timing = race(contestants, lab.rounds)
    return Measured(timing.excess_us("predict", "bare"), timing.details(), timing.note())


def _bare_onnx(session: Any) -> Callable[[Array], Array]:
    """Call the onnxruntime session directly, with only the required code."""
    run = session._run  # noqa: SLF001 - the overhead over it is measured
    (name,) = session._inputs  # noqa: SLF001
    return lambda inputs: run(None, {name: inputs})[0]


def _bare_litert(session: Any) -> Callable[[Array], Array]:
    """Call the LiteRT interpreter directly, with its memory planned."""
    interpreter = session._planned._interpreter  # noqa: SLF001 - the overhead over it is measured
    (taken,), (given,) = session._inputs, session._outputs  # noqa: SLF001

    def run(inputs: Array) -> Array:
        interpreter.set_tensor(taken, inputs)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(given))

    return run


BARE = {"onnx": _bare_onnx, "tflite": _bare_litert}


ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that `speed.py` sets to 1 for itself; an export uses all its cores."""

IMPORT_TENSORFLOW = "import time, tensorflow; print(time.monotonic_ns(), flush=True); input()"
COLD_UNITS = 64
COLD_BARS = {"start": Bar(15), "peak": Bar(7), "steady": Bar(7)}

EXPORT_UNITS, EXPORT_VOCABULARY = 128, 2_700
EXPORT_CORES = 2
EXPORT_BAR = Bar(25, at_most=True)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
MOVES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
"""Cursor movements, which a terminal does not show."""

SILENCE_BAR = Bar(3, at_most=True)
"""The longest time in seconds without a change of the progress display."""


@dataclass(frozen=True)
class Start:
    """One process, from its start to its first output.

    Attributes:
        ms: Milliseconds.
        peak: The maximum of its resident memory, in bytes.
        steady: Its resident memory after some predictions, in bytes.
    """

    ms: float
    peak: float
    steady: float


@row("cold-start", "process start to first output, against importing tensorflow")
def cold_start(lab: Lab) -> Iterator[Case]:
    """Measure a bundle of the masked model, with one artifact and one thread."""
    starts = functools.cache(partial(_starts, lab))
    name = f"masked, {COLD_UNITS} units"
    for format_name, backend in BACKEND_NAMES.items():
        for quantity, unit in (
            ("start", "times faster"),
            ("peak", "times less memory at the peak"),
            ("steady", "times less memory afterwards"),
        ):
            measure = partial(_cold_start, starts, format_name, quantity)
            yield Case(f"{backend}, {name}: {quantity}", unit, COLD_BARS[quantity], measure)


def _cold_start(starts: Any, format_name: str, quantity: str) -> Measured:
    ours, tensorflow = starts(format_name)
    attribute = "ms" if quantity == "start" else quantity
    scale, unit = (1, "ms") if quantity == "start" else (2**20, "MiB")
    mine = [getattr(start, attribute) / scale for start in ours]
    theirs = [getattr(start, attribute) / scale for start in tensorflow]
    note = f"ours {np.median(mine):.4g} {unit}, tensorflow {np.median(theirs):.4g} {unit}"
    details = {"unit": unit, "ours": mine, "tensorflow": theirs}
    return Measured(figure(b / a for a, b in zip(mine, theirs, strict=True)), details, note)


def _starts(lab: Lab, format_name: str) -> tuple[list[Start], list[Start]]:
    """Start processes in turn; the first of each only fills the disk cache."""
    folder = lab.bundle("masked", COLD_UNITS, format_name)
    loaded = bilstm_runtime.load(folder, backend=BACKEND_NAMES[format_name])
    Contestant(Runner("ours", loaded.predict), sentences(COLD_UNITS, "full")).check()
    ours, tensorflow = [], []
    for _ in range(lab.processes + 1):
        ours.append(_start_bundle(folder, BACKEND_NAMES[format_name]))
        tensorflow.append(_start_tensorflow())
    return ours[1:], tensorflow[1:]


def _start_bundle(folder: Path, backend: str) -> Start:
    bundle = open_bundle(folder)
    (artifact,) = bundle.manifest.artifacts
    variant = Variant(artifact.file, artifact.recipe, backend, threads=1)
    shape = Shape(STEPS, batch=1)
    plan = Plan((variant,), (shape,), padding=0.0, seed=0, notes=())
    found = start_bundle(task_of(bundle, plan, variant, shape))
    return Start(
        found["cold_ms"], _memory(found.get("peak_bytes")), _memory(found.get("steady_bytes"))
    )


def _start_tensorflow() -> Start:
    command = [sys.executable, "-c", IMPORT_TENSORFLOW]
    begin = time.monotonic_ns()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        imported = process.stdout.readline()
        steady, peak = resident_bytes(process.pid), peak_bytes(process.pid)
        process.communicate(b"\n")
    return Start((int(imported) - begin) / 1e6, _memory(peak), _memory(steady))


def _memory(value: float | None) -> float:
    if value is None:
        raise MissingPeerError(MEMORY_MISSING)
    return value


@row("export", "export-bilstm of a model of a million weights, float, both formats, checked")
def export(lab: Lab) -> Iterator[Case]:
    """Run the command in a fresh process on at most two cores; its stderr is a terminal."""
    runs = functools.cache(partial(_exports, lab))
    yield Case("from start to end", "s", EXPORT_BAR, lambda: _export(runs(), "seconds"))
    name = "longest silence of the progress display"
    yield Case(name, "s", SILENCE_BAR, lambda: _export(runs(), "silence"))
    for name, (make, bar) in EXPORTED.items():
        found = functools.cache(partial(_exports_of, lab, name, make))
        yield Case(name, "s", bar, lambda found=found: _export(found(), "seconds"))


def _basecaller() -> keras.Model:
    """Two BiGRUs over the chunks of a signal, as a published basecaller has; 0.4 M weights."""
    x = keras.Input((1000, 1))
    y = x
    for _ in range(2):
        y = keras.layers.Bidirectional(keras.layers.GRU(128, return_sequences=True))(y)
    return keras.Model(x, keras.layers.Dense(5, activation="softmax")(y))


def _diacritizer() -> keras.Model:
    """Three BiLSTMs over characters, as a published diacritizer has."""
    x = keras.Input((None,), dtype="int32")
    y = keras.layers.Embedding(120, 64, mask_zero=True)(x)
    for _ in range(3):
        lstm = keras.layers.LSTM(128, return_sequences=True, dropout=0.2)
        y = keras.layers.Bidirectional(lstm)(y)
    return keras.Model(x, keras.layers.Dense(15, activation="softmax")(y))


def _million() -> keras.Model:
    """A BiLSTM of a million weights over features, at any number of steps."""
    x = keras.Input((None, 64))
    y = keras.layers.Bidirectional(keras.layers.LSTM(324, return_sequences=True))(x)
    return keras.Model(x, keras.layers.Dense(10, activation="softmax")(y))


EXPORTED: dict[str, tuple[Callable[[], keras.Model] | None, Bar]] = {
    "two BiGRUs of 128, 1,000 fixed steps": (_basecaller, Bar(60, at_most=True)),
    "three masked BiLSTMs of 128": (_diacritizer, Bar(30, at_most=True)),
    "a BiLSTM of a million weights": (_million, Bar(10, at_most=True)),
    "examples/japanese_vowels.keras": (None, Bar(6, at_most=True)),
}
"""Models that are exported from start to end, each with its limit in seconds on two idle cores;
the last is a file of this repository."""


@dataclass(frozen=True)
class Export:
    """One run of the command.

    Attributes:
        seconds: The duration of the process.
        silence: The longest time without output to the terminal.
        shown: The last line on the terminal during that time.
        cores: The number of cores that it could use.
        weights: The number of weights of the model.
        processor: The seconds of processor time that it used, which other processes do not change.
    """

    seconds: float
    silence: float
    shown: str
    cores: int
    weights: int
    processor: float


def _export(runs: list[Export], quantity: str) -> Measured:
    values = [getattr(run, quantity) for run in runs]
    details = {"values": values, "cores": runs[0].cores, "weights": runs[0].weights}
    details["processor"] = [run.processor for run in runs]
    processor = statistics.median(details["processor"])
    note = (
        f"{runs[0].weights:,} weights, {runs[0].cores} cores, {processor:.1f} s of processor time"
    )
    if quantity == "silence":
        details["shown"] = [run.shown for run in runs]
        note = f"it displayed: {max(runs, key=lambda run: run.silence).shown or 'nothing yet'}"
    return Measured(figure(values), details, note)


def _exports(lab: Lab) -> list[Export]:
    make = functools.partial(model, "masked", EXPORT_UNITS, EXPORT_VOCABULARY)
    return _exports_of(lab, "million.keras", make)


def _exports_of(lab: Lab, name: str, make: Callable[[], keras.Model] | None) -> list[Export]:
    if make is None:
        path = Path(__file__).parents[1] / name
        weights = keras.saving.load_model(path).count_params()
    else:
        keras.utils.set_random_seed(0)
        path = lab.folder / "exported.keras"
        keras_model = make()
        keras_model.save(path)
        weights = keras_model.count_params()
    folder = lab.folder / "exported"
    return [_run_export(path, folder, weights) for _ in range(lab.processes)]


def _run_export(path: Path, folder: Path, weights: int) -> Export:
    command = [sys.executable, "-m", "bilstm_exporter.cli", str(path), "--out", str(folder)]
    command.append("--overwrite")
    environment = {k: v for k, v in os.environ.items() if k not in ONE_THREAD} | {"TERM": "xterm"}
    terminal, end = pty.openpty()
    with few_cores() as cores:
        begin = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=end, env=environment)
    os.close(end)
    last, silence, written, shown = begin, 0.0, b"", ""
    while True:
        try:
            read = os.read(terminal, 4096)
        except OSError:  # Linux, when the other end is closed
            read = b""
        now = time.monotonic()
        if now - last > silence:
            silence, shown = now - last, _on_screen(written)
        last = now
        if not read:
            break
        written = (written + read)[-4096:]
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = code = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - begin
    os.close(terminal)
    if code:
        message = f"export-bilstm ended with {code}: {_on_screen(written)}"
        raise RuntimeError(message)
    processor = usage.ru_utime + usage.ru_stime
    return Export(seconds, silence, shown, cores, weights, processor)


def _on_screen(written: bytes) -> str:
    """Return the last line that a terminal shows after these bytes."""
    text = MOVES.sub("\n", COLOURS.sub("", written.decode("utf-8", "replace")))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


@contextlib.contextmanager
def few_cores() -> Iterator[int]:
    """Limit processes that start in this context to `EXPORT_CORES` cores."""
    if not hasattr(os, "sched_setaffinity"):
        yield os.cpu_count() or 1
        return
    original = os.sched_getaffinity(0)
    few = set(sorted(original)[:EXPORT_CORES])
    os.sched_setaffinity(0, few)
    try:
        yield len(few)
    finally:
        os.sched_setaffinity(0, original)
