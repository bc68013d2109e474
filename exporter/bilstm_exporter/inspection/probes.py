"""Inputs chosen to find what ordinary inputs do not, with Keras's answers to them.

Every length from the shortest, several batches, every padding that the model's masks
can meet, sequences that differ when reversed, values at the ends of their range, and
cells driven as far as the model lets them go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bilstm_exporter.errors import UnsupportedModelError, plain_text
from bilstm_exporter.inspection.interface import BATCH, REFUSALS, Interface
from bilstm_exporter.inspection.reference_calls import EVERY_PADDING, ORDINARY, answers_together
from bilstm_exporter.keras_model import Source
from bilstm_exporter.verification.tolerance import difference
from bilstm_runtime.sampling import limits, random_values, without_mask_value
from bilstm_runtime.spec import InputSpec

PADDINGS = ("left", "right", "middle", "scattered", "none", "all", "one step")
# A model whose states feed on themselves can multiply a rounding without end; such a probe
# tells nothing of an artifact. onnxruntime's and XNNPACK's tanh and sigmoid are good to about
# ten roundings, so a probe must leave room for twenty.
_LARGEST_MOVE = 0.05
_ROUNDING_SEEDS = 2
_SEARCH_ROWS, _SEARCH_STEPS, _SEARCH_ROUNDS = 32, 24, 2


@dataclass(frozen=True)
class Probe:
    """One input and what Keras answers.

    Attributes:
        name: What it is about.
        inputs: One array an input of the model.
        outputs: One array an output.
    """

    name: str
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]


@dataclass(frozen=True)
class ProbeSet:
    """The probes of one model.

    Attributes:
        probes: Those that Keras answers with finite numbers.
        left_out: Names of those it does not, with its reason.
        largest_state: The largest value in a cell's state that a probe reaches, or None
            without recurrences.
    """

    probes: list[Probe]
    left_out: dict[str, str]
    largest_state: float | None


def make_probes(source: Source, interface: Interface) -> ProbeSet:
    """Make the probes of a model and let it answer them."""
    probes: list[Probe] = []
    left_out: dict[str, str] = {}
    saturating, largest = _saturating(source, interface)
    candidates = [*_candidates(interface), *saturating]
    together = answers_together(source, interface, candidates)
    for index, (name, inputs) in enumerate(candidates):
        try:
            outputs = together[index] if index in together else source.reference(inputs)
            if not probes:
                _refuse_randomness(source, inputs, outputs)
        except UnsupportedModelError:
            raise
        except REFUSALS as error:
            lines = plain_text(error).strip().splitlines() or [type(error).__name__]
            left_out[name] = f"Keras refuses it: {lines[0][:200]}"
            continue
        # Keras divides by the steps that count: without one, NaN is its answer. Anywhere else
        # a model that overflows tells nothing.
        if "padding" in name or _finite(outputs):
            probes.append(Probe(name, inputs, outputs))
        else:
            left_out[name] = "Keras's own answer is not finite"
    return ProbeSet(probes, left_out, largest)


def _refuse_randomness(
    source: Source, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
) -> None:
    """Refuse a model that answers the same question differently."""
    again = source.reference(inputs)
    if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(outputs, again, strict=True)):
        message = (
            f"the model {source.name!r} answers the same input differently each time, as a layer "
            f"does that draws random numbers in inference: no artifact can give its answers. "
            f"Make that layer respect training=False"
        )
        raise UnsupportedModelError(message)


def decided(source: Source, probes: ProbeSet) -> ProbeSet:
    """Leave out the probes that float32 does not decide, whatever an artifact answers.

    Args:
        source: The model.
        probes: Its probes.

    Returns:
        Those on which Keras's own answer holds still when its weights are off by one rounding.
    """
    kept, left_out = [], dict(probes.left_out)
    for probe in probes.probes:
        moves = _moves(source, probe.inputs, probe.outputs)
        if moves <= _LARGEST_MOVE:
            kept.append(probe)
        else:
            left_out[probe.name] = (
                f"Keras's own answer moves by {moves:.2g} of the tolerance when its weights are "
                f"off by one rounding; float32 does not decide it"
            )
    return ProbeSet(kept, left_out, probes.largest_state)


def _moves(source: Source, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> float:
    """How far, in tolerances, the answer moves when every weight is off by one rounding."""
    shifted = [source.rounded_reference(inputs, seed) for seed in range(_ROUNDING_SEEDS)]
    return max(
        (
            difference(moved, output).ratio
            for answer in shifted
            for moved, output in zip(answer, outputs, strict=True)
            if output.dtype.kind == "f" and np.isfinite(output).all()
        ),
        default=0.0,
    )


def _finite(arrays: Sequence[np.ndarray]) -> bool:
    return all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f")


def _candidates(interface: Interface) -> Iterator[tuple[str, list[np.ndarray]]]:
    rng = np.random.default_rng(20240229)
    inputs = interface.inputs

    def ordinary(batch: int, steps: int) -> list[np.ndarray]:
        shapes = _shapes(interface, batch, steps)
        return [random_values(s, shape, rng) for s, shape in zip(inputs, shapes, strict=True)]

    for batch, steps in ((1, 0), (7, 0), (2, 1), (7, 7), (1, 12), (2, 33)):
        arrays = ordinary(batch, steps)
        yield f"{ORDINARY} {len(arrays[0])}, {_lengths(interface, arrays)}", arrays
    shapes = _shapes(interface, 7, 12)
    yield (
        "ends of the range",
        [_at_ends(s, shape, rng) for s, shape in zip(inputs, shapes, strict=True)],
    )
    yield "rising sequence", [_rising(s, shape) for s, shape in zip(inputs, shapes, strict=True)]
    if any(_can_be_padded(spec) for spec in inputs):
        for name, batch, steps, kinds in (
            *((f"{kind} padding", 2, 7, (kind,)) for kind in PADDINGS),
            (EVERY_PADDING, 7, 12, PADDINGS),
            ("left padding, batch 1", 1, 12, ("left",)),
            ("all padding, batch 1", 1, 7, ("all",)),
        ):
            arrays = ordinary(batch, steps)
            yield (
                name,
                [
                    _padded(spec, array, kinds, rng)
                    for spec, array in zip(inputs, arrays, strict=True)
                ],
            )


def _shapes(interface: Interface, batch: int, extra: int) -> list[tuple[int, ...]]:
    """Input shapes with every free axis ``extra`` steps above its minimum."""
    sizes = {BATCH: batch}
    for index, (name, axis) in enumerate(
        (name, axis) for name, axis in interface.free_axes.items() if name != BATCH
    ):
        # Axes that need not be equal are given different sizes.
        sizes[name] = axis.min + extra + (index if extra else 0)
    return interface.shapes(sizes)


def _lengths(interface: Interface, arrays: Sequence[np.ndarray]) -> str:
    sizes = {
        axis.name: array.shape[position]
        for spec, array in zip(interface.inputs, arrays, strict=True)
        for position, axis in enumerate(spec.axes)
        if position and axis.name
    }
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "fixed shape"


def _at_ends(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return without_mask_value(spec, rng.choice(np.array(limits(spec)), shape))


def _rising(spec: InputSpec, shape: tuple[int, ...]) -> np.ndarray:
    """Values that rise along every row, so that a sequence is never its own reverse."""
    low, high = limits(spec)
    count = int(np.prod(shape[1:]))
    values = np.linspace(low, high, count).reshape(1, *shape[1:])
    return without_mask_value(
        spec, np.broadcast_to(values if spec.range is None else np.round(values), shape)
    )


def _can_be_padded(spec: InputSpec) -> bool:
    return len(spec.axes) > 1 and (spec.mask_value is not None or spec.dtype == "bool")


def padding_mask(kind: str, length: int, rng: np.random.Generator) -> np.ndarray:
    """Which of ``length`` steps count, for one kind of padding.

    Returns:
        ``[length] bool``, True where a step counts.
    """
    mask = np.ones(length, bool)
    third = max(1, length // 3)
    if kind == "left":
        mask[: length - third] = False
    elif kind == "right":
        mask[third:] = False
    elif kind == "middle":
        mask[third : max(third + 1, length - third)] = False
    elif kind == "scattered":
        mask = rng.random(length) < 0.5  # a fair coin
    elif kind == "all":
        mask[:] = False
    elif kind == "one step":
        mask[:] = False
        mask[length // 2] = True
    return mask


def _padded(
    spec: InputSpec, array: np.ndarray, kinds: Sequence[str], rng: np.random.Generator
) -> np.ndarray:
    """Pad rows of an input in turn; where words hold characters, the characters too."""
    if not _can_be_padded(spec):
        return array
    value = False if spec.dtype == "bool" else spec.mask_value
    array = array.copy()
    if spec.dtype == "bool":
        array[:] = True
    for row in range(len(array)):
        kind = kinds[row % len(kinds)]
        array[row, ~padding_mask(kind, array.shape[1], rng)] = value
        if array.ndim == 3 and np.dtype(spec.dtype).kind in "iu":  # words of ids
            for word in range(array.shape[1]):
                inner = kinds[(row + word) % len(kinds)]
                array[row, word, ~padding_mask(inner, array.shape[2], rng)] = value
    return array


def _saturating(
    source: Source, interface: Interface
) -> tuple[list[tuple[str, list[np.ndarray]]], float | None]:
    """Search for inputs that drive the states far: constant steps, then mutations of the best."""
    rng = np.random.default_rng(7)
    shapes = _shapes(interface, _SEARCH_ROWS, _SEARCH_STEPS)
    rows = shapes[0][0]
    best: list[np.ndarray] | None = None
    largest = 0.0
    for _ in range(_SEARCH_ROUNDS):
        if best is None:
            pairs = zip(interface.inputs, shapes, strict=True)
            candidate = [_constant_rows(spec, shape, rng) for spec, shape in pairs]
        else:
            candidate = [_mutated(s, a, rng) for s, a in zip(interface.inputs, best, strict=True)]
        try:
            states = source.final_states(candidate)
        except REFUSALS:
            return [], None
        reach = _reach(states, rows)
        if reach is None:
            return [], None
        winner = int(reach.argmax())
        if best is None or reach[winner] > largest:
            largest = float(reach[winner])
            best = [np.repeat(array[winner : winner + 1], rows, axis=0) for array in candidate]
    if best is None:
        return [], None
    sizes = _shapes(interface, 2, _SEARCH_STEPS)
    return [("saturated states", [a[: s[0]] for a, s in zip(best, sizes, strict=True)])], largest


def _reach(states: Sequence[np.ndarray], rows: int) -> np.ndarray | None:
    """The largest finite ``|state|`` of every row, or None without states of that batch."""
    values = [
        np.nan_to_num(np.abs(state).reshape(rows, -1).max(axis=1), posinf=0.0)
        for state in states
        if state.shape[0] == rows and state.size
    ]
    return np.max(values, axis=0) if values else None


def _constant_rows(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A row repeats one step, each row another, at growing scales."""
    if len(shape) < (3 if np.dtype(spec.dtype).kind == "f" else 2):  # no time axis
        return random_values(spec, shape, rng)
    step = random_values(spec, (shape[0], 1, *shape[2:]), rng)
    if np.dtype(spec.dtype).kind == "f" and spec.range is None:
        scale = np.geomspace(0.5, limits(spec)[1] / 2, shape[0])
        step = step * scale.reshape(-1, *[1] * (step.ndim - 1))
        step = without_mask_value(spec, np.clip(step, *limits(spec)))
    return np.ascontiguousarray(np.broadcast_to(step, shape))


def _mutated(spec: InputSpec, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change some features, or some ids, of every row but the first."""
    fresh = _constant_rows(spec, array.shape, rng)
    change = rng.random((array.shape[0], 1, *array.shape[2:])) < 0.3  # a third
    change[0] = False
    if array.ndim == 1 or change.ndim != array.ndim:
        return array
    return np.where(change, fresh, array)


def golden_probes(source: Source, probes: Sequence[Probe]) -> list[Probe]:
    """A few small probes that say most: padded in every way, saturated, rising.

    A stateful model answers them from its first states, as it does when it was just loaded;
    its states are left out.
    """
    wanted = ("every padding", "saturated", "rising", "batch 7")
    finite = [probe for probe in probes if _finite(probe.outputs)]
    chosen = [next((p for p in finite if p.name.startswith(name)), None) for name in wanted]
    golden = [probe for probe in chosen if probe is not None] or finite[:1]
    return [_from_first_states(source, p) for p in golden] if source.state_count else golden


def _from_first_states(source: Source, probe: Probe) -> Probe:
    own = probe.inputs[: -source.state_count]
    zeros = [np.zeros_like(state) for state in probe.inputs[-source.state_count :]]
    answers = source.reference([*own, *zeros])
    return Probe(probe.name, own, answers[: -source.state_count])
