"""Rows of `speed.py`: the ONNX artifacts against the stock export, other engines and the limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from speed_lab import STEPS, VALID_WORDS, Kind, Lab, Valid, features, model, sentences
from speed_measuring import (
    Bar,
    Case,
    Contestant,
    Measured,
    Runner,
    Workload,
    figure,
    race,
    race_reopened,
)
from speed_registry import row
from speed_runners import (
    bare_products,
    bound_of,
    gemm_runners,
    onnx_runner,
    openvino_runners,
    stock_onnx,
    torch_runners,
)

UNMASKED_BAR = Bar(1.0)
MASKED_BARS = {64: Bar(15), 128: Bar(10), 256: Bar(4)}
"""By units: at batch 1, with drawn lengths."""

PEER_UNITS = (16, 32, 64, 128, 256, 512)
NEAR_OPENVINO = 512
"""Units at which it is enough to come within 10 % of OpenVINO."""

LIMIT_UNITS = (256, 512)
LIMIT_BAR = Bar(65)
GEMM_SIZE = 1024
LIMIT_BATCH = 16

INT8_BARS = {64: Bar(1.5), 128: Bar(2.2), 256: Bar(2.8), 512: Bar(2.8)}
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
                headline = batch == 1 and valid == "drawn"
                name = f"masked, {units} units, batch {batch}, {words}"
                measure = partial(_masked, lab, units, batch, valid)
                yield Case(name, FASTER, bar if headline else None, measure)


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
    """The fastest form of each peer counts."""
    for units in PEER_UNITS:
        name = f"PyTorch, {units} units"
        yield Case(name, FASTER, Bar(1.0), partial(_against_torch, lab, units))
    for units in PEER_UNITS:
        bar = Bar(round(1 / 1.1, 3)) if units == NEAR_OPENVINO else Bar(1.0)
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
        note += f"; does not run here: {', '.join(left_out)}"
    return Measured(timing.ratio(best, "ours"), details, note)


@row("limit", "ONNX float: share of the rate of a plain float GEMM of the same run")
def limit(lab: Lab) -> Iterator[Case]:
    """What the LSTMs' matrix products alone would need at the rate of the fastest GEMM.

    One sequence leaves a recurrence only products of one row, which read all of a kernel for each
    step: no GEMM can serve. So it is also told what share of the rate of those very products is
    reached, and what a batch, which shares what is read, gives.
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
    """The LSTMs against their matrix products alone, in the shapes that they have."""
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
    """Floating-point operations of the plain model's matrix products, for one sequence.

    Two layers, two directions, four gates; the second layer reads both directions of the first.
    """
    return sum(2 * 2 * STEPS * 4 * units * (width + units) for width in (units, 2 * units))


@row("onnx-int8", "ONNX: int8 against float, batch 1, T=100")
def onnx_int8(lab: Lab) -> Iterator[Case]:
    """The recipe int8 against float32."""
    for units, bar in INT8_BARS.items():
        yield Case(f"{units} units", FASTER, bar, partial(_int8, lab, units))


def _int8(lab: Lab, units: int) -> Measured:
    work = features(units)
    files = {
        recipe: lab.file("plain", units, "onnx", recipe=recipe) for recipe in ("float32", "int8")
    }

    def open_all() -> list[Contestant]:
        return [
            onnx_runner(file, recipe, bound=bound_of(recipe)).on(work)
            for recipe, file in files.items()
        ]

    timing = race_reopened(open_all, lab.rounds)
    return Measured(timing.ratio("float32", "int8"), timing.details(), timing.note())
