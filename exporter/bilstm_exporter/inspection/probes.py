"""Probes: inputs for the comparison with Keras, chosen to find errors, with Keras's outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bilstm_exporter.errors import UnsupportedModelError, plain_text
from bilstm_exporter.inspection.candidates import (
    Candidate,
    ProbeKind,
    candidates_of_others,
    large_candidates,
    lengths_of,
    make_candidates,
    saturating_candidates,
)
from bilstm_exporter.inspection.decisions import is_possible, may_decide
from bilstm_exporter.inspection.distributions import (
    STANDARD_NORMAL,
    Distribution,
    distributions,
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

# A recurrence can amplify a rounding error without limit; such a probe does not test an artifact.
# onnxruntime's and XNNPACK's tanh and sigmoid are accurate to about ten roundings, so a probe
# must leave room for twenty: a twentieth of the tolerance per rounding.
_ROUNDINGS = 20
_SEEDS = 2
# Every second seed makes two equal values differ, of which a comparison chooses one.
_DECISION_SEEDS = 16
# Calls of each take a second or two.
_MAX_OTHER_GOLDEN = 4
# One call to the reference has at most this many values, or seven rows, as an ordinary probe has.
_MAX_CALL_VALUES = 2**20
_MIN_CALL_ROWS = 7
# A fraction of the tolerance: another batch size may change only roundings.
_BATCH_ROUNDING = 0.05


@dataclass(frozen=True)
class Probe(Candidate):
    """One input and Keras's outputs for it.

    Attributes:
        outputs: One array per output.
    """

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
                f"your data {number}, batch {len(arrays[0])}, {lengths_of(loaded, arrays)}",
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
            self._leave_out_rounded(failed or {})
        if self._alternatives is not None:
            self._replace_ordinary(self._alternatives)
        return len(self.left_out) > before

    def _leave_out_rounded(self, failed: Mapping[str, Sequence[Sequence[np.ndarray]]]) -> None:
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
    saturating, largest = saturating_candidates(loaded)
    candidates = [
        *make_candidates(loaded, STANDARD_NORMAL),
        *saturating,
        *candidates_of_others(loaded, others),
    ]
    probes, left_out = _probes_of(loaded, candidates, report)
    if probes and not _is_eager_call(loaded.keras, probes[0]):
        loaded.keras.call_eagerly()
        probes, left_out = _probes_of(loaded, candidates, report)

    def more(distribution: Distribution) -> tuple[list[Probe], dict[str, str]]:
        return _probes_of(loaded, list(make_candidates(loaded, distribution)))

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
    try:
        first = model.eager_reference(probe.inputs)
    except CALL_ERRORS:
        return False  # only a compiled call succeeds
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
    """Return the largest difference of outputs from those of a probe, in tolerances.

    A probe of a stream has no outputs that are states.
    """
    pairs = zip(outputs, probe.outputs, strict=False)
    return max(compare(one, other, TOLERANCE).max_error_ratio for one, other in pairs)


def _outcomes(model: KerasModel, probe: Probe) -> list[list[np.ndarray]]:
    """Call a model whose values are all off by some roundings, each time by others."""
    count = len(probe.outputs)
    return [model.rounded_reference(probe.inputs, seed)[:count] for seed in range(_DECISION_SEEDS)]


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


def _large_probes(loaded: LoadedModel) -> dict[float, Probe]:
    """Make probes with ever larger values, for which Keras's outputs are numbers."""
    found: dict[float, Probe] = {}
    for size, candidate in large_candidates(loaded):
        probes, _ = _probes_of(loaded, [candidate])
        if probes:
            found[size] = probes[0]
    return found


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
        golden = _unaffected_by_rounding(loaded.keras, golden, finite)
    return [_from_initial_states(loaded, p) for p in golden] if loaded.spec.states else golden


def _unaffected_by_rounding(
    model: KerasModel, chosen: Sequence[Probe], others: Sequence[Probe]
) -> list[Probe]:
    """Return the chosen probes whose outputs rounding does not change, or else another one."""

    def is_unaffected(probe: Probe) -> bool:
        try:
            return all(_change(probe, outputs) <= 1 for outputs in _outcomes(model, probe))
        except Exception:  # noqa: BLE001 - user code may raise anything while it is traced
            return True

    kept = [probe for probe in chosen if is_unaffected(probe)]
    if kept:
        return kept
    rest = [probe for probe in others if not any(probe is one for one in chosen)]
    found = next((probe for probe in rest[:_MAX_OTHER_GOLDEN] if is_unaffected(probe)), None)
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
