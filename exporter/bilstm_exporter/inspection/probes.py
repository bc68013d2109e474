"""Probes: inputs for the comparison with Keras, chosen to find errors, with Keras's outputs.

They cover several lengths from the shortest, several batch sizes, every kind of padding,
sequences that differ from their reverse, values at the ends of their range, and saturated states.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bilstm_exporter.errors import UnsupportedModelError, plain_text
from bilstm_exporter.inspection.decisions import is_possible, may_decide
from bilstm_exporter.inspection.distributions import (
    STANDARD_NORMAL,
    Distribution,
    distributions,
    is_unlimited,
)
from bilstm_exporter.inspection.interface import (
    CALL_ERRORS,
    call_within_lengths,
    shapes_may_follow_values,
)
from bilstm_exporter.keras_model import TOLERANCE, KerasModel
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.progress import Countdown, Listener
from bilstm_runtime.comparison import compare
from bilstm_runtime.sampling import limits, random_values, without_mask_value
from bilstm_runtime.spec import BATCH, InputSpec

PADDINGS = ("left", "right", "middle", "scattered", "none", "all", "one step")
# A recurrence can amplify a rounding error without limit; such a probe does not test an artifact.
# onnxruntime's and XNNPACK's tanh and sigmoid are accurate to about ten roundings, so a probe
# must leave room for twenty: a twentieth of the tolerance per rounding.
_ROUNDINGS = 20
_SEEDS = 2
# Two equal values, of which one decides, are told apart by every second seed.
_DECISION_SEEDS = 16
# Calls of each take a second or two.
_MAX_OTHER_GOLDEN = 4
_SEARCH_ROWS, _SEARCH_STEPS, _SEARCH_ROUNDS = 32, 24, 2
# A window of 400 samples at a stride of 160, as for speech, makes about one step of 50 samples.
_LONG_MINIMUM, _SAMPLES = 64, 8
# One call to the reference has at most this many values, or seven rows, as an ordinary probe has.
_MAX_CALL_VALUES = 2**20
_MIN_CALL_ROWS = 7
# A sum of products overflows from about 1e37 on, in any library.
_LARGE_VALUES = (1e5, 1e10, 1e20, 1e27, 1e30, 1e36, 3e38)
# A fraction of the tolerance: another batch size may change only roundings.
_BATCH_ROUNDING = 0.05


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


@dataclass(frozen=True)
class Probe:
    """One input and Keras's outputs for it.

    Attributes:
        kind: What it tests.
        name: The kind with its sizes, for reports.
        inputs: One array per input of the file.
        outputs: One array per output.
    """

    kind: ProbeKind
    name: str
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]

    @property
    def is_finite(self) -> bool:
        """Whether Keras's outputs are finite numbers."""
        return _finite(self.outputs)


class Alternatives(NamedTuple):
    """Other distributions of the inputs.

    Attributes:
        distributions: The distributions, from large to small values.
        make: Makes all probes of a distribution; also returns the reasons for the candidates that
            are not probes, by name.
    """

    distributions: Sequence[Distribution]
    make: Callable[[Distribution], tuple[list[Probe], dict[str, str]]]


class ProbeSet:
    """The probes of one model.

    To find badly conditioned probes takes further calls to Keras. `keep_well_conditioned` does it
    when a comparison fails.

    Args:
        model: The model.
        probes: The probes to compare with.
        left_out: The reasons for the candidates that are not probes, by name.
        largest_state: The largest ``|state|`` of a recurrence on a probe, or None without
            recurrences.
        alternatives: Probes of other distributions, in case no ordinary one can be used.

    Attributes:
        probes: The probes to compare with.
        left_out: The reasons for the candidates that are not probes, by name.
        largest_state: As in the arguments.
        large: Probes by their largest absolute value, which rises. A file must give numbers for
            them, as Keras does; their digits are not compared, for roundings of sums are larger.
    """

    def __init__(
        self,
        model: KerasModel,
        probes: Sequence[Probe],
        left_out: Mapping[str, str],
        largest_state: float | None,
        alternatives: Alternatives | None = None,
    ) -> None:
        self._model = model
        self.probes = list(probes)
        self.left_out = dict(left_out)
        self.largest_state = largest_state
        self.large: dict[float, Probe] = {}
        self._alternatives = alternatives
        self._is_filtered = False

    @property
    def values_tried(self) -> list[str]:
        """The distributions of float inputs that were tried; [] if the model takes only ids."""
        if self._alternatives is None or not self._alternatives.distributions:
            return []
        return [one.name for one in (STANDARD_NORMAL, *self._alternatives.distributions)]

    def add_examples(self, loaded: LoadedModel, examples: Sequence[Sequence[np.ndarray]]) -> None:
        """Put calls with the user's examples in front of the probes.

        Args:
            loaded: The model.
            examples: For each call, one array per input of the model.
        """
        zeros = [np.zeros([axis.size or 1 for axis in s.axes], s.dtype) for s in loaded.spec.states]
        candidates = [
            Candidate(
                ProbeKind.EXAMPLE,
                f"your data {number}, batch {len(arrays[0])}, {_lengths(loaded, arrays)}",
                [*arrays, *zeros],
            )
            for number, arrays in enumerate(examples, start=1)
        ]
        probes, left_out = _probes_of(loaded, candidates)
        self.probes = [*probes, *self.probes]
        self.left_out.update(left_out)

    def keep_well_conditioned(
        self, failed: Mapping[str, Sequence[Sequence[np.ndarray]]] | None = None
    ) -> bool:
        """Leave out probes on which rounding changes Keras's own outputs.

        The first call changes the weights by one rounding, for every probe. If that leaves out
        nothing, and in later calls, every value in the model is off by some roundings, for the
        probes that an artifact failed: that takes longer, and finds a comparison that rounding
        decides.

        If no ordinary probe is left, probes of the other distributions take their place: of the
        first, from large to small values, on which the model is well conditioned.

        Args:
            failed: For each probe that an artifact failed, by name, its outputs in every run.

        Returns:
            Whether any were left out.
        """
        before = len(self.left_out)
        if not self._is_filtered:
            self._is_filtered = True
            self.probes = self._well_conditioned(self.probes)
        if len(self.left_out) == before:
            self._leave_out_undecided(failed or {})
        if self._alternatives is not None:
            self._replace_ordinary(self._alternatives)
        return len(self.left_out) > before

    def _leave_out_undecided(self, failed: Mapping[str, Sequence[Sequence[np.ndarray]]]) -> None:
        """Leave out the failed probes, if rounding explains every output of the artifact.

        It does not if an element is wrong that rounding leaves as it is.
        """
        reasons = {}
        for probe in self.probes:
            if probe.name not in failed:
                continue
            try:
                outcomes = _outcomes(self._model, probe)
            except Exception:  # noqa: BLE001 - user code may raise anything while it is traced
                return
            sensitivity = max(_change(probe, outputs) for outputs in outcomes)
            if sensitivity <= 1 or not all(
                is_possible(outputs, [probe.outputs, *outcomes]) for outputs in failed[probe.name]
            ):
                return  # the artifact is wrong
            reasons[probe.name] = _badly_conditioned(
                sensitivity, f"every value in it is off by up to {_ROUNDINGS} roundings"
            )
        self.left_out.update(reasons)
        self.probes = [probe for probe in self.probes if probe.name not in reasons]

    def _replace_ordinary(self, alternatives: Alternatives) -> None:
        conditioned = {probe.name for probe in self.probes}
        for distribution in alternatives.distributions:
            if any(probe.kind is ProbeKind.ORDINARY for probe in self.probes):
                return
            if distribution.name in conditioned:
                probes, left_out = alternatives.make(distribution)
                self.left_out.update(left_out)
                self.probes += self._well_conditioned(probes)

    def _well_conditioned(self, probes: Sequence[Probe]) -> list[Probe]:
        kept = []
        for probe in probes:
            sensitivity = max(
                _change(probe, self._model.perturbed_reference(probe.inputs, seed))
                for seed in range(_SEEDS)
            )
            if sensitivity <= 1 / _ROUNDINGS:
                kept.append(probe)
            else:
                self.left_out[probe.name] = _badly_conditioned(
                    sensitivity, "its weights are off by one rounding"
                )
        return kept


def make_probes(loaded: LoadedModel, report: Listener | None = None) -> ProbeSet:
    """Make the probes of a model, and compute Keras's outputs for them.

    Args:
        loaded: The model.
        report: Receives the progress in words.

    Raises:
        UnsupportedModelError: The model returns different outputs for the same input.
    """
    others = distributions(loaded.keras, loaded.spec.inputs)
    saturating, largest = _saturating_candidates(loaded)
    candidates = [
        *_candidates(loaded, STANDARD_NORMAL),
        *saturating,
        *_candidates_of_others(loaded, others),
    ]
    probes, left_out = _probes_of(loaded, candidates, report)
    if probes and not _is_eager_call(loaded.keras, probes[0]):
        loaded.keras.call_eagerly()
        probes, left_out = _probes_of(loaded, candidates, report)

    def more(distribution: Distribution) -> tuple[list[Probe], dict[str, str]]:
        return _probes_of(loaded, list(_candidates(loaded, distribution)))

    made = ProbeSet(loaded.keras, probes, left_out, largest, Alternatives(others, more))
    made.large = _large_probes(loaded)
    if not any(probe.kind is ProbeKind.ORDINARY for probe in probes):
        made.keep_well_conditioned()
    return made


def _probes_of(
    loaded: LoadedModel,
    candidates: Sequence[Candidate],
    report: Listener | None = None,
) -> tuple[list[Probe], dict[str, str]]:
    """Compute Keras's outputs for candidates.

    Returns:
        The probes, and the reasons for the other candidates by name.
    """
    model = loaded.keras
    probes: list[Probe] = []
    left_out: dict[str, str] = {}
    countdown = Countdown(report, "calling Keras for its outputs", len(candidates), "probes")
    together = _call_batched(loaded, candidates, countdown)
    for index, candidate in enumerate(candidates):
        inputs = candidate.inputs
        try:
            outputs = together.get(index)
            if outputs is None:
                inputs, outputs = call_within_lengths(model, loaded.call_inputs, list(inputs))
                countdown.advance()
        except CALL_ERRORS as error:
            lines = plain_text(error).strip().splitlines() or [type(error).__name__]
            left_out[candidate.name] = f"Keras refuses it: {lines[0][:200]}"
            continue
        # Keras divides by the number of valid steps, so its output can be NaN for a row of
        # padding. Other outputs that are not finite cannot be compared.
        probe = Probe(candidate.kind, candidate.name, inputs, outputs)
        if candidate.kind.is_padded or probe.is_finite:
            probes.append(probe)
        else:
            left_out[candidate.name] = "Keras's own output is not finite"
    return probes, left_out


def _is_eager_call(model: KerasModel, probe: Probe) -> bool:
    """Whether a probe's outputs are those of an eager call, up to rounding.

    A compiled convolution or product of some shape may round differently from the eager one.

    Raises:
        UnsupportedModelError: The outputs of two eager calls with the same input differ.
    """
    first = model.eager_reference(probe.inputs)
    if _is_identical(first, probe.outputs):
        return True
    if not _is_identical(first, model.eager_reference(probe.inputs)):
        layer = model.random_layer(probe.inputs)
        message = (
            f"the model {model.name!r} returns different outputs for the same input each time, as "
            f"{'a layer' if layer is None else f'layer {layer!r}'} does that draws random numbers "
            f"in inference: no artifact can reproduce them. Make that layer respect training=False"
        )
        raise UnsupportedModelError(message, layers=() if layer is None else (layer,))
    return _nearly_equal(first, probe.outputs)


def _is_identical(outputs: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(outputs, others, strict=True))


def _change(probe: Probe, outputs: Sequence[np.ndarray]) -> float:
    """Return the largest difference of outputs from those of a probe, in tolerances."""
    pairs = zip(outputs, probe.outputs, strict=True)
    return max(compare(one, other, TOLERANCE).max_error_ratio for one, other in pairs)


def _outcomes(model: KerasModel, probe: Probe) -> list[list[np.ndarray]]:
    """Call a model whose values are all off by some roundings, each time by others."""
    return [model.rounded_reference(probe.inputs, seed) for seed in range(_DECISION_SEEDS)]


def _badly_conditioned(sensitivity: float, cause: str) -> str:
    rounded = float(f"{sensitivity:.2g}")
    amount = (
        f"moves by {rounded:,.10g} times the tolerance"
        if np.isfinite(sensitivity)
        else "becomes another integer, or is not finite,"
    )
    return f"it is badly conditioned: Keras's own output {amount} when {cause}"


def _finite(arrays: Sequence[np.ndarray]) -> bool:
    return all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f")


def _candidates_of_others(
    loaded: LoadedModel, others: Sequence[Distribution]
) -> Iterator[Candidate]:
    """Make one candidate of each distribution."""
    rng = np.random.default_rng(17)
    for distribution in others:
        shapes = _shapes(loaded, 2, 12)
        arrays = _drawn(loaded, distribution, shapes, rng)
        yield Candidate(ProbeKind.OTHER_VALUES, distribution.name, arrays)


def _large_probes(loaded: LoadedModel) -> dict[float, Probe]:
    """Make probes with ever larger values, for which Keras's outputs are numbers."""
    if not any(is_unlimited(spec) for spec in loaded.spec.inputs):
        return {}
    rng = np.random.default_rng(38)
    found: dict[float, Probe] = {}
    dtypes = [np.dtype(spec.dtype) for spec in loaded.spec.inputs]
    largest = min(float(np.finfo(dtype).max) for dtype in dtypes if dtype.kind == "f")
    for size in (size for size in _LARGE_VALUES if size <= largest):
        values = Distribution(f"up to {size:.2g}", _either(size), None)
        arrays = _drawn(loaded, values, _shapes(loaded, 2, 2), rng)
        probes, _ = _probes_of(loaded, [Candidate(ProbeKind.LARGE, values.name, arrays)])
        if probes:
            found[size] = probes[0]
    return found


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


def _candidates(loaded: LoadedModel, distribution: Distribution) -> Iterator[Candidate]:
    rng = np.random.default_rng(20240229)
    inputs = loaded.call_inputs
    suffix = "" if distribution is STANDARD_NORMAL else f", {distribution.name}"

    def ordinary(batch: int, steps: int) -> list[np.ndarray]:
        return _drawn(loaded, distribution, _shapes(loaded, batch, steps), rng)

    for batch, steps in ((1, 0), (7, 0), (2, 1), (7, 7), (1, 12), (2, 33)):
        arrays = ordinary(batch, steps)
        name = f"batch {len(arrays[0])}, {_lengths(loaded, arrays)}{suffix}"
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


def _lengths(loaded: LoadedModel, arrays: Sequence[np.ndarray]) -> str:
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


def _saturating_candidates(loaded: LoadedModel) -> tuple[list[Candidate], float | None]:
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


def golden_probes(loaded: LoadedModel, probes: Sequence[Probe]) -> list[Probe]:
    """Choose a few small probes for check-bilstm: padded in every way, saturated, rising, ordinary.

    Rounding decides none of their outputs, which could differ on another machine, if the model
    has such probes.

    For a stateful model they start from its initial states, as after loading, and do not contain
    the states.
    """
    finite = [probe for probe in probes if probe.is_finite]
    ordinary = [p for p in finite if p.kind is ProbeKind.ORDINARY and len(p.inputs[0]) == 7]
    chosen = [
        *(
            next((probe for probe in finite if probe.kind is kind), None)
            for kind in (ProbeKind.EVERY_PADDING, ProbeKind.SATURATED, ProbeKind.RISING)
        ),
        *ordinary[:1],
    ]
    golden = [probe for probe in chosen if probe is not None] or finite[:1]
    if may_decide(loaded.first_graph):
        golden = _decided(loaded.keras, golden, finite)
    return [_from_initial_states(loaded, p) for p in golden] if loaded.spec.states else golden


def _decided(model: KerasModel, chosen: Sequence[Probe], others: Sequence[Probe]) -> list[Probe]:
    """Return the probes whose outputs rounding leaves; some other one if there is none."""

    def is_decided(probe: Probe) -> bool:
        try:
            return all(_change(probe, outputs) <= 1 for outputs in _outcomes(model, probe))
        except Exception:  # noqa: BLE001 - user code may raise anything while it is traced
            return True

    kept = [probe for probe in chosen if is_decided(probe)]
    if kept:
        return kept
    rest = [probe for probe in others if not any(probe is one for one in chosen)]
    found = next((probe for probe in rest[:_MAX_OTHER_GOLDEN] if is_decided(probe)), None)
    return list(chosen) if found is None else [found]


def _from_initial_states(loaded: LoadedModel, probe: Probe) -> Probe:
    inputs, states = loaded.spec.split_inputs(probe.inputs)
    zeros = [np.zeros_like(state) for state in states]
    outputs, _ = loaded.spec.split_outputs(loaded.keras.reference([*inputs, *zeros]))
    return Probe(probe.kind, probe.name, inputs, outputs)


def _call_batched(
    loaded: LoadedModel, candidates: Sequence[Candidate], countdown: Countdown
) -> dict[int, list[np.ndarray]]:
    """Call Keras once for candidates of the same length, if rows are independent.

    Keras's eager recurrences loop in Python, so a call costs about the same for any number of
    rows. Every such call checks that rows are independent: one of its candidates, a padded one if
    there is any, is also called alone. The first ordinary candidate of each shape is always called
    alone.

    Returns:
        Outputs by the candidate's index; empty if a row depends on the others.
    """
    if loaded.spec.states or any(spec.axes[0].size is not None for spec in loaded.spec.inputs):
        return {}
    if shapes_may_follow_values(loaded.first_graph.function):
        return {}  # such as the length of the longest row
    outputs: dict[int, list[np.ndarray]] = {}
    alone = _called_alone(candidates)
    every = ProbeKind.EVERY_PADDING
    for members in _group_by_length(candidates):
        if len(set(members) - alone) < 2:
            continue
        witness = max(members, key=lambda i: (candidates[i].kind is every, i in alone, -i))
        try:
            found = _call_as_one(loaded.keras, [candidates[index].inputs for index in members])
            own = loaded.keras.reference(candidates[witness].inputs)
        except CALL_ERRORS:
            continue  # each is called alone later, which reports the error
        if found is None or not _nearly_equal(found[members.index(witness)], own):
            return {}
        outputs.update((i, one) for i, one in zip(members, found, strict=True) if i not in alone)
        outputs[witness] = own
        countdown.advance(sum(index in outputs for index in members))
    return outputs


def _called_alone(candidates: Sequence[Candidate]) -> set[int]:
    """Return the index of the first ordinary candidate of each shape."""
    first: dict[tuple[tuple[int, ...], ...], int] = {}
    for index, candidate in enumerate(candidates):
        if candidate.kind is ProbeKind.ORDINARY:
            first.setdefault(tuple(array.shape for array in candidate.inputs), index)
    return set(first.values())


def _group_by_length(candidates: Sequence[Candidate]) -> list[list[int]]:
    """Group the indices of candidates that differ only in the batch, limited to one call's size."""
    groups: dict[tuple[tuple[int, ...], ...], list[list[int]]] = {}
    for index, candidate in enumerate(candidates):
        inputs = candidate.inputs
        chunks = groups.setdefault(tuple(array.shape[1:] for array in inputs), [[]])
        rows = sum(len(candidates[member].inputs[0]) for member in chunks[-1]) + len(inputs[0])
        values = rows * sum(int(np.prod(array.shape[1:])) for array in inputs)
        if chunks[-1] and rows > _MIN_CALL_ROWS and values > _MAX_CALL_VALUES:
            chunks.append([])
        chunks[-1].append(index)
    return [members for chunks in groups.values() for members in chunks]


def _call_as_one(
    model: KerasModel, calls: Sequence[Sequence[np.ndarray]]
) -> list[list[np.ndarray]] | None:
    """Call the model once with the rows of several calls; None if the outputs have no rows."""
    ends = np.cumsum([len(arrays[0]) for arrays in calls])
    outputs = model.reference([np.concatenate(arrays) for arrays in zip(*calls, strict=True)])
    if any(output.ndim == 0 or len(output) != ends[-1] for output in outputs):
        return None
    parts = [np.split(output, ends[:-1]) for output in outputs]
    return [list(rows) for rows in zip(*parts, strict=True)]


def _nearly_equal(outputs: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    return all(
        one.shape == other.shape
        and compare(one, other, TOLERANCE).max_error_ratio <= _BATCH_ROUNDING
        for one, other in zip(outputs, others, strict=True)
    )
