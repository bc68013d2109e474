"""Candidates: inputs that may become probes, each made to find one kind of error.

They cover several lengths from the shortest, several batch sizes, every kind of padding,
sequences that differ from their reverse, values at the ends of their range, and saturated states.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bilstm_exporter.inspection.distributions import STANDARD_NORMAL, Distribution, is_unlimited
from bilstm_exporter.inspection.interface import CALL_ERRORS
from bilstm_exporter.loaded import LoadedModel
from bilstm_runtime.sampling import limits, random_values, without_mask_value
from bilstm_runtime.spec import BATCH, InputSpec

PADDINGS = ("left", "right", "middle", "scattered", "none", "all", "one step")
_SEARCH_ROWS, _SEARCH_STEPS, _SEARCH_ROUNDS = 32, 24, 2
# A window of 400 samples at a stride of 160, as for speech, makes about one step of 50 samples.
_LONG_MINIMUM, _SAMPLES = 64, 8
# A sum of products overflows from about 1e37 on, in any library.
_LARGE_VALUES = (1e5, 1e10, 1e20, 1e27, 1e30, 1e36, 3e38)


class ProbeKind(enum.Enum):
    """What a probe tests."""

    ORDINARY = "ordinary values"
    RANGE_ENDS = "ends of the range"
    RISING = "rising sequence"
    PADDING = "one kind of padding"
    EVERY_PADDING = "every padding in one batch"
    SATURATED = "saturated states"
    OTHER_VALUES = "values of another scale or kind"
    EXAMPLE = "examples of the user's data"
    LARGE = "ends of float32"

    @property
    def is_padded(self) -> bool:
        """Whether rows may hold only padding, for which Keras's output can be NaN."""
        return self in (ProbeKind.PADDING, ProbeKind.EVERY_PADDING)


@dataclass(frozen=True)
class Candidate:
    """An input that may become a probe.

    Attributes:
        kind: What it tests.
        name: The kind with its sizes, for reports.
        inputs: One array per input of the file.
    """

    kind: ProbeKind
    name: str
    inputs: list[np.ndarray]


def make_candidates(loaded: LoadedModel, distribution: Distribution) -> Iterator[Candidate]:
    """Make the candidates of every length, batch and padding from one distribution of floats."""
    rng = np.random.default_rng(20240229)
    inputs = loaded.call_inputs
    suffix = "" if distribution is STANDARD_NORMAL else f", {distribution.name}"

    def ordinary(batch: int, steps: int) -> list[np.ndarray]:
        return _drawn(loaded, distribution, _shapes(loaded, batch, steps), rng)

    for batch, steps in ((1, 0), (7, 0), (2, 1), (7, 7), (1, 12), (2, 33)):
        arrays = ordinary(batch, steps)
        name = f"batch {len(arrays[0])}, {lengths_of(loaded, arrays)}{suffix}"
        yield Candidate(ProbeKind.ORDINARY, name, arrays)
    shapes = _shapes(loaded, 7, 12)
    if distribution.limits is not None:
        ends = [
            _at_ends(s, shape, distribution.limits, rng)
            for s, shape in zip(inputs, shapes, strict=True)
        ]
        yield Candidate(ProbeKind.RANGE_ENDS, f"{ProbeKind.RANGE_ENDS.value}{suffix}", ends)
        rising = [
            _rising(s, shape, distribution.limits) for s, shape in zip(inputs, shapes, strict=True)
        ]
        yield Candidate(ProbeKind.RISING, f"{ProbeKind.RISING.value}{suffix}", rising)
    if not any(_can_be_padded(spec) for spec in inputs):
        return
    single, every = ProbeKind.PADDING, ProbeKind.EVERY_PADDING
    for kind, name, batch, steps, paddings in (
        *((single, f"{padding} padding", 2, 7, (padding,)) for padding in PADDINGS),
        (every, every.value, 7, 12, PADDINGS),
        (single, "left padding, batch 1", 1, 12, ("left",)),
        (single, "all padding, batch 1", 1, 7, ("all",)),
    ):
        arrays = [
            _padded(spec, array, paddings, rng)
            for spec, array in zip(inputs, ordinary(batch, steps), strict=True)
        ]
        yield Candidate(kind, f"{name}{suffix}", arrays)


def candidates_of_others(
    loaded: LoadedModel, others: Sequence[Distribution]
) -> Iterator[Candidate]:
    """Make one candidate of each distribution."""
    rng = np.random.default_rng(17)
    for distribution in others:
        shapes = _shapes(loaded, 2, 12)
        arrays = _drawn(loaded, distribution, shapes, rng)
        yield Candidate(ProbeKind.OTHER_VALUES, distribution.name, arrays)


def large_candidates(loaded: LoadedModel) -> Iterator[tuple[float, Candidate]]:
    """Make candidates with ever larger values, each with the largest; none for limited inputs."""
    if not any(is_unlimited(spec) for spec in loaded.spec.inputs):
        return
    rng = np.random.default_rng(38)
    dtypes = [np.dtype(spec.dtype) for spec in loaded.spec.inputs]
    largest = min(float(np.finfo(dtype).max) for dtype in dtypes if dtype.kind == "f")
    for size in (size for size in _LARGE_VALUES if size <= largest):
        values = Distribution(f"up to {size:.2g}", _either(size), None)
        arrays = _drawn(loaded, values, _shapes(loaded, 2, 2), rng)
        yield size, Candidate(ProbeKind.LARGE, values.name, arrays)


def saturating_candidates(loaded: LoadedModel) -> tuple[list[Candidate], float | None]:
    """Search for inputs with large states: constant sequences, then mutations of the best.

    Returns:
        The candidate and its largest ``|state|``; ``[]`` and None without recurrences.
    """
    rng = np.random.default_rng(7)
    inputs = loaded.call_inputs
    shapes = _shapes(loaded, _SEARCH_ROWS, _SEARCH_STEPS)
    rows = shapes[0][0]
    best: list[np.ndarray] | None = None
    largest = 0.0
    for _ in range(_SEARCH_ROUNDS):
        if best is None:
            pairs = zip(inputs, shapes, strict=True)
            candidate = [_constant_rows(spec, shape, rng) for spec, shape in pairs]
        else:
            candidate = [_mutated(s, a, rng) for s, a in zip(inputs, best, strict=True)]
        try:
            states = loaded.keras.final_states(candidate)
        except CALL_ERRORS:
            return [], None
        reach = _largest_states(states, rows)
        if reach is None:
            return [], None
        winner = int(reach.argmax())
        if best is None or reach[winner] > largest:
            largest = float(reach[winner])
            best = [np.repeat(array[winner : winner + 1], rows, axis=0) for array in candidate]
    if best is None:
        return [], None
    sizes = _shapes(loaded, 2, _SEARCH_STEPS)
    arrays = [a[: s[0]] for a, s in zip(best, sizes, strict=True)]
    return [Candidate(ProbeKind.SATURATED, ProbeKind.SATURATED.value, arrays)], largest


def _either(size: float) -> Callable[[tuple[int, ...], np.random.Generator], np.ndarray]:
    return lambda shape, rng: rng.choice([-size, size], shape)


def _drawn(
    loaded: LoadedModel,
    distribution: Distribution,
    shapes: Sequence[tuple[int, ...]],
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Draw the inputs from a distribution, and the states from the standard normal."""
    count = len(loaded.spec.inputs)
    return [
        (distribution if index < count else STANDARD_NORMAL).draw(spec, shape, rng)
        for index, (spec, shape) in enumerate(zip(loaded.call_inputs, shapes, strict=True))
    ]


def _shapes(loaded: LoadedModel, batch: int, extra: int) -> list[tuple[int, ...]]:
    """Return input shapes with every free axis ``extra`` steps above its minimum.

    An axis with a long minimum is that of samples, which a window and a stride make into steps.
    """
    sizes = {BATCH: batch}
    for index, (name, axis) in enumerate(
        (name, axis) for name, axis in loaded.free_axes.items() if name != BATCH
    ):
        # Axes that may differ get different sizes.
        samples = max(1, axis.min // _SAMPLES) if axis.min > _LONG_MINIMUM else 1
        sizes[name] = axis.min + (extra + (index if extra else 0)) * samples
    return loaded.shapes(sizes)


def lengths_of(loaded: LoadedModel, arrays: Sequence[np.ndarray]) -> str:
    """Return the sizes of the named axes of inputs, without the batch, for the name of a probe."""
    sizes = {
        axis.name: array.shape[position]
        for spec, array in zip(loaded.call_inputs, arrays, strict=True)
        for position, axis in enumerate(spec.axes)
        if position and axis.name
    }
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "fixed shape"


def _limits_within(spec: InputSpec, float_limits: tuple[float, float]) -> tuple[float, float]:
    return float_limits if is_unlimited(spec) else limits(spec)


def _at_ends(
    spec: InputSpec,
    shape: tuple[int, ...],
    float_limits: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    ends = np.array(_limits_within(spec, float_limits))
    return without_mask_value(spec, rng.choice(ends, shape))


def _rising(
    spec: InputSpec, shape: tuple[int, ...], float_limits: tuple[float, float]
) -> np.ndarray:
    """Return values that rise along every row, so that a sequence differs from its reverse."""
    low, high = _limits_within(spec, float_limits)
    count = int(np.prod(shape[1:]))
    values = np.linspace(low, high, count).reshape(1, *shape[1:])
    return without_mask_value(
        spec, np.broadcast_to(values if spec.range is None else np.round(values), shape)
    )


def _can_be_padded(spec: InputSpec) -> bool:
    return len(spec.axes) > 1 and (spec.mask_value is not None or spec.dtype == "bool")


def padding_mask(kind: str, length: int, rng: np.random.Generator) -> np.ndarray:
    """Make the mask of a sequence with one kind of padding.

    Returns:
        ``[length] bool``, True for a valid step.
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
    """Pad the rows of an input, each with the next kind; pad words of characters likewise."""
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


def _largest_states(states: Sequence[np.ndarray], rows: int) -> np.ndarray | None:
    """Return the largest finite ``|state|`` of each row, or None without states of that batch."""
    values = [
        np.nan_to_num(np.abs(state).reshape(rows, -1).max(axis=1), posinf=0.0)
        for state in states
        if state.shape[0] == rows and state.size
    ]
    return np.max(values, axis=0) if values else None


def _constant_rows(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Make rows that repeat one random step, at growing scales."""
    if len(shape) < (3 if np.dtype(spec.dtype).kind == "f" else 2):  # no time axis
        return random_values(spec, shape, rng)
    step = random_values(spec, (shape[0], 1, *shape[2:]), rng)
    if np.dtype(spec.dtype).kind == "f" and spec.range is None:
        scale = np.geomspace(0.5, limits(spec)[1] / 2, shape[0])
        step = step * scale.reshape(-1, *[1] * (step.ndim - 1))
        step = without_mask_value(spec, np.clip(step, *limits(spec)))
    return np.ascontiguousarray(np.broadcast_to(step, shape))


def _mutated(spec: InputSpec, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change some features, or some ids, of every row except the first."""
    replacement = _constant_rows(spec, array.shape, rng)
    change = rng.random((array.shape[0], 1, *array.shape[2:])) < 0.3  # a third
    change[0] = False
    if array.ndim == 1 or change.ndim != array.ndim:
        return array
    return np.where(change, replacement, array)
