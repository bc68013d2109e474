"""Rows of `speed.py`: the TFLite artifacts against the stock conversions and against ONNX."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from speed_lab import Lab, features, model
from speed_measuring import Bar, Case, Contestant, Measured, race_reopened
from speed_registry import row
from speed_runners import bound_of, fused_tflite, litert_runner, onnx_runner, static_tflite

FUSED_BARS = {
    "float32": {64: Bar(1.6), 128: Bar(2.1), 256: Bar(2.1)},
    "int8": {64: Bar(1.6), 128: Bar(2.5), 256: Bar(2.5)},
}
STATIC_BAR = Bar(1.0)
ONNX_BARS = {"float32": Bar(1.9, at_most=True), "int8": Bar(2.1, at_most=True)}
INT8_BARS = {64: Bar(1.2), 128: Bar(1.7), 256: Bar(1.7)}
CONVERSIONS = {"fused": fused_tflite, "static": static_tflite}
SHAPES = {True: "shapes fixed", False: "shapes free"}
FASTER = "times faster"


@row("fused", "TFLite, batch 1 and T=100 fixed, against the stock conversions")
def fused(lab: Lab) -> Iterator[Case]:
    """The fused LSTM that Keras 2 gets, and Keras 3's model as a function of a static shape.

    The fused operator carries its state into the next invoke; resetting it, without which its
    second answer is wrong, is not counted against it.
    """
    for recipe, bars in FUSED_BARS.items():
        for units, bar in bars.items():
            for peer, held in (("fused", bar), ("static", STATIC_BAR)):
                name = f"{recipe}, {units} units, against {peer}"
                yield Case(name, FASTER, held, partial(_stock, lab, units, recipe, peer))


def _stock(lab: Lab, units: int, recipe: str, peer: str) -> Measured:
    theirs = CONVERSIONS[peer](model("plain", units), units, recipe)
    file = lab.file("plain", units, "tflite", recipe=recipe, fixed=True)
    work, bound = features(units), bound_of(recipe)

    def open_all() -> list[Contestant]:
        ours = litert_runner(file, "ours", bound=bound)
        stock = litert_runner(theirs, peer, bound=bound, keeps=peer == "fused")
        return [ours.on(work), stock.on(work)]

    timing = race_reopened(open_all, lab.rounds)
    return Measured(timing.ratio(peer, "ours"), timing.details(), timing.note())


@row("tflite-onnx", "TFLite against ONNX, same recipe, batch 1, T=100")
def tflite_onnx(lab: Lab) -> Iterator[Case]:
    """How many times as long TFLite takes."""
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
    for units, bar in INT8_BARS.items():
        for fixed, words in SHAPES.items():
            measure = partial(_int8, lab, units, fixed=fixed)
            yield Case(f"{units} units, {words}", FASTER, bar, measure)


def _int8(lab: Lab, units: int, *, fixed: bool) -> Measured:
    work = features(units)
    files = {
        recipe: lab.file("plain", units, "tflite", recipe=recipe, fixed=fixed)
        for recipe in ("float32", "int8")
    }

    def open_all() -> list[Contestant]:
        return [
            litert_runner(file, recipe, bound=bound_of(recipe)).on(work)
            for recipe, file in files.items()
        ]

    timing = race_reopened(open_all, lab.rounds)
    return Measured(timing.ratio("float32", "int8"), timing.details(), timing.note())
