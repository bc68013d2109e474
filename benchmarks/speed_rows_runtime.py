"""Rows of `speed.py`: `predict`, and how latency grows with time and batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import bilstm_runtime
from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.model import Model, choose
from speed_lab import VALID_WORDS, Kind, Lab, Valid, features, ragged, sentences
from speed_measuring import Array, Bar, Case, Measured, Runner, Workload, race
from speed_registry import row
from speed_runners import litert_runner, onnx_runner

OPEN = {"onnx": onnx_runner, "tflite": litert_runner}
BACKEND_NAMES = {"onnx": "onnx", "tflite": "litert"}

RAGGED_COUNT = 256
RAGGED_UNITS = (64, 128)
RAGGED_BAR = Bar(1.5)
TOGETHER = 16
"""Sequences that run together in one way of padding all: what `predict` does with a list."""

LENGTHS = (400, 1600)
LENGTH_UNITS = 64
LENGTH_BAR = Bar(4.4, at_most=True)

BATCHES = (1, 16)
BATCH_UNITS = 128
BATCH_BAR = Bar(9, at_most=True)

OVERHEAD_UNITS = (16, 64)
OVERHEAD_BAR = Bar(25, at_most=True)


@row("ragged", f"predict on a list of {RAGGED_COUNT} sequences of 10 to 100 steps, masked")
def ragged_lists(lab: Lab) -> Iterator[Case]:
    """Against padding all to 100 steps, in one run and 16 at a time; padding is not counted."""
    for format_name, backend in BACKEND_NAMES.items():
        for units in RAGGED_UNITS:
            for size, words in ((None, "in one run"), (TOGETHER, f"{TOGETHER} at a time")):
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


def _growth_in_time(lab: Lab, format_name: str, kind: Kind, valid: Valid) -> Measured:
    file = lab.file(kind, LENGTH_UNITS, format_name)
    contestants = []
    for steps in LENGTHS:
        # A runner a length: LiteRT plans its memory anew at each new shape.
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
    """How many times as long the larger batch takes."""
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
    """Microseconds more, the median over the rounds of the differences."""
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
    # One session for both: of two, one may happen to lie better in memory.
    session = backend.open(bundle.read(artifact), artifact, bundle.manifest.spec, 1)
    loaded = Model(bundle.manifest.spec, session, backend, artifact)
    work = features(units) if kind == "plain" else sentences(units, "full")
    contestants = [
        Runner("predict", loaded.predict).on(work),
        Runner("bare", BARE[format_name](session)).on(work),
    ]
    timing = race(contestants, lab.rounds)
    return Measured(timing.excess_us("predict", "bare"), timing.details(), timing.note())


def _bare_onnx(session: Any) -> Callable[[Array], Array]:
    """The onnxruntime session inside, with the user's part of the work only."""
    run = session._run  # noqa: SLF001 - what the row is about
    (name,) = session._inputs  # noqa: SLF001
    return lambda inputs: run(None, {name: inputs})[0]


def _bare_litert(session: Any) -> Callable[[Array], Array]:
    """The LiteRT interpreter inside, its memory planned already."""
    interpreter = session._planned._interpreter  # noqa: SLF001 - what the row is about
    (taken,), (given,) = session._inputs, session._outputs  # noqa: SLF001

    def run(inputs: Array) -> Array:
        interpreter.set_tensor(taken, inputs)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(given))

    return run


BARE = {"onnx": _bare_onnx, "tflite": _bare_litert}
