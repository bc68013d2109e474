"""Probes: inputs for the comparison with Keras, chosen to find errors, with Keras's outputs.

They cover several lengths from the shortest, several batch sizes, every kind of padding,
sequences that differ from their reverse, values at the ends of their range, and saturated states.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bilstm_exporter.errors import UnsupportedModelError, plain_text
from bilstm_exporter.inspection.interface import CALL_ERRORS
from bilstm_exporter.keras_model import TOLERANCE, KerasModel
from bilstm_exporter.loaded import LoadedModel
from bilstm_runtime.comparison import compare
from bilstm_runtime.sampling import limits, random_values, without_mask_value
from bilstm_runtime.spec import BATCH, InputSpec

PADDINGS = ("left", "right", "middle", "scattered", "none", "all", "one step")
# A recurrence can amplify a rounding error without limit; such a probe does not test an artifact.
# onnxruntime's and XNNPACK's tanh and sigmoid are accurate to about ten roundings, so a probe
# must leave room for twenty: a twentieth of the tolerance per rounding.
_MAX_SENSITIVITY = 0.05
_ROUNDING_SEEDS = 2
_SEARCH_ROWS, _SEARCH_STEPS, _SEARCH_ROUNDS = 32, 24, 2
# One call to the reference has at most this many values, or seven rows, as an ordinary probe has.
_MAX_CALL_VALUES = 2**20
_MIN_CALL_ROWS = 7
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


class ProbeSet:
    """The probes of one model.

    To find badly conditioned probes takes further calls to Keras. `keep_well_conditioned` does it
    once for all artifacts, when the first comparison fails.

    Args:
        model: The model.
        probes: The probes to compare with.
        left_out: The reasons for the candidates that are not probes, by name.
        largest_state: The largest ``|state|`` of a recurrence on a probe, or None without
            recurrences.

    Attributes:
        probes: The probes to compare with.
        left_out: The reasons for the candidates that are not probes, by name.
        largest_state: As in the arguments.
    """

    def __init__(
        self,
        model: KerasModel,
        probes: Sequence[Probe],
        left_out: Mapping[str, str],
        largest_state: float | None,
    ) -> None:
        self._model = model
        self.probes = list(probes)
        self.left_out = dict(left_out)
        self.largest_state = largest_state
        self._is_filtered = False

    def keep_well_conditioned(self) -> bool:
        """Leave out the probes on which a rounding of the weights changes Keras's own outputs.

        Returns:
            Whether any were left out; False from the second call on.
        """
        if self._is_filtered:
            return False
        self._is_filtered = True
        kept = []
        for probe in self.probes:
            sensitivity = _sensitivity(self._model, probe.inputs, probe.outputs)
            if sensitivity <= _MAX_SENSITIVITY:
                kept.append(probe)
            else:
                self.left_out[probe.name] = (
                    f"it is badly conditioned: Keras's own output moves by {sensitivity:.2g} of "
                    f"the tolerance when its weights are off by one rounding"
                )
        changed = len(kept) < len(self.probes)
        self.probes = kept
        return changed


def make_probes(loaded: LoadedModel) -> ProbeSet:
    """Make the probes of a model, and compute Keras's outputs for them.

    Raises:
        UnsupportedModelError: The model returns different outputs for the same input.
    """
    model = loaded.keras
    probes: list[Probe] = []
    left_out: dict[str, str] = {}
    saturating, largest = _saturating_candidates(loaded)
    candidates = [*_candidates(loaded), *saturating]
    together = _call_batched(loaded, candidates)
    for index, candidate in enumerate(candidates):
        try:
            outputs = together.get(index) or model.reference(candidate.inputs)
            if not probes:
                _refuse_randomness(model, candidate.inputs, outputs)
        except UnsupportedModelError:
            raise
        except CALL_ERRORS as error:
            lines = plain_text(error).strip().splitlines() or [type(error).__name__]
            left_out[candidate.name] = f"Keras refuses it: {lines[0][:200]}"
            continue
        # Keras divides by the number of valid steps, so its output can be NaN for a row of
        # padding. Other outputs that are not finite cannot be compared.
        probe = Probe(candidate.kind, candidate.name, candidate.inputs, outputs)
        if candidate.kind.is_padded or probe.is_finite:
            probes.append(probe)
        else:
            left_out[candidate.name] = "Keras's own output is not finite"
    return ProbeSet(model, probes, left_out, largest)


def _refuse_randomness(
    model: KerasModel, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
) -> None:
    """Refuse a model whose outputs differ between two calls with the same input."""
    again = model.reference(inputs)
    if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(outputs, again, strict=True)):
        layer = model.random_layer(inputs)
        message = (
            f"the model {model.name!r} returns different outputs for the same input each time, as "
            f"{'a layer' if layer is None else f'layer {layer!r}'} does that draws random numbers "
            f"in inference: no artifact can reproduce them. Make that layer respect training=False"
        )
        raise UnsupportedModelError(message, layers=() if layer is None else (layer,))


def _sensitivity(
    model: KerasModel, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
) -> float:
    """Return the change of the outputs, in tolerances, if every weight is off by one rounding."""
    perturbed = [model.perturbed_reference(inputs, seed) for seed in range(_ROUNDING_SEEDS)]
    return max(
        (
            compare(moved, output, TOLERANCE).max_error_ratio
            for found in perturbed
            for moved, output in zip(found, outputs, strict=True)
            if output.dtype.kind == "f" and np.isfinite(output).all()
        ),
        default=0.0,
    )


def _finite(arrays: Sequence[np.ndarray]) -> bool:
    return all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f")


def _candidates(loaded: LoadedModel) -> Iterator[Candidate]:
    rng = np.random.default_rng(20240229)
    inputs = loaded.call_inputs

    def ordinary(batch: int, steps: int) -> list[np.ndarray]:
        shapes = _shapes(loaded, batch, steps)
        return [random_values(s, shape, rng) for s, shape in zip(inputs, shapes, strict=True)]

    for batch, steps in ((1, 0), (7, 0), (2, 1), (7, 7), (1, 12), (2, 33)):
        arrays = ordinary(batch, steps)
        name = f"batch {len(arrays[0])}, {_lengths(loaded, arrays)}"
        yield Candidate(ProbeKind.ORDINARY, name, arrays)
    shapes = _shapes(loaded, 7, 12)
    ends = [_at_ends(s, shape, rng) for s, shape in zip(inputs, shapes, strict=True)]
    yield Candidate(ProbeKind.RANGE_ENDS, ProbeKind.RANGE_ENDS.value, ends)
    rising = [_rising(s, shape) for s, shape in zip(inputs, shapes, strict=True)]
    yield Candidate(ProbeKind.RISING, ProbeKind.RISING.value, rising)
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
        yield Candidate(kind, name, arrays)


def _shapes(loaded: LoadedModel, batch: int, extra: int) -> list[tuple[int, ...]]:
    """Return input shapes with every free axis ``extra`` steps above its minimum."""
    sizes = {BATCH: batch}
    for index, (name, axis) in enumerate(
        (name, axis) for name, axis in loaded.free_axes.items() if name != BATCH
    ):
        # Axes that may differ get different sizes.
        sizes[name] = axis.min + extra + (index if extra else 0)
    return loaded.shapes(sizes)


def _lengths(loaded: LoadedModel, arrays: Sequence[np.ndarray]) -> str:
    sizes = {
        axis.name: array.shape[position]
        for spec, array in zip(loaded.call_inputs, arrays, strict=True)
        for position, axis in enumerate(spec.axes)
        if position and axis.name
    }
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "fixed shape"


def _at_ends(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return without_mask_value(spec, rng.choice(np.array(limits(spec)), shape))


def _rising(spec: InputSpec, shape: tuple[int, ...]) -> np.ndarray:
    """Return values that rise along every row, so that a sequence differs from its reverse."""
    low, high = limits(spec)
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
    return [_from_initial_states(loaded, p) for p in golden] if loaded.spec.states else golden


def _from_initial_states(loaded: LoadedModel, probe: Probe) -> Probe:
    inputs, states = loaded.spec.split_inputs(probe.inputs)
    zeros = [np.zeros_like(state) for state in states]
    outputs, _ = loaded.spec.split_outputs(loaded.keras.reference([*inputs, *zeros]))
    return Probe(probe.kind, probe.name, inputs, outputs)


def _call_batched(
    loaded: LoadedModel, candidates: Sequence[Candidate]
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
