"""Finds the properties of a model that hold for any input, by calling it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from bilstm_exporter.inspection.candidates import ProbeKind
from bilstm_exporter.inspection.interface import (
    CALL_ERRORS,
    find_interface,
    right_padded,
    shapes_may_follow_values,
    within_lengths,
)
from bilstm_exporter.inspection.probes import Probe, ProbeSet, make_probes
from bilstm_exporter.keras_model import TOLERANCE, KerasModel, Origin
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.progress import Listener
from bilstm_runtime.comparison import compare
from bilstm_runtime.sampling import random_values
from bilstm_runtime.spec import BATCH, ModelSpec, OutputSpec, StateSpec


def inspect_model(
    model: KerasModel,
    origin: Origin,
    *,
    batch: int | None = None,
    time: int | None = None,
    report: Listener | None = None,
) -> tuple[LoadedModel, ProbeSet]:
    """Describe a model, and make its probes.

    Args:
        model: The model.
        origin: Where it came from.
        batch: Fix the batch axis at this size.
        time: Fix the time axes at this size.
        report: Receives the progress of long work, in words.

    Raises:
        OptionError: An axis cannot be fixed at the given size.
        UnsupportedModelError: The model accepts no input that was tried, or draws random numbers.
    """
    found = find_interface(model, batch=batch, time=time)
    count = len(model.inputs)
    spec = ModelSpec(
        name=model.name,
        inputs=found.inputs[:count],
        outputs=found.outputs[: len(model.output_names)],
        states=tuple(StateSpec(s.name, s.dtype, s.axes) for s in found.inputs[count:]),
        output_structure=model.output_structure,
        preprocessing=model.preprocessing,
    )
    loaded = LoadedModel(model, origin, spec, found.typical_sizes, found.graph)
    probes = make_probes(loaded, report)
    spec = replace(
        spec,
        padding_neutral=is_padding_neutral(loaded),
        # A stateful model has states for one batch size, so a batch cannot be split.
        rows_independent=not spec.states and are_rows_independent(loaded, probes.probes),
    )
    return replace(loaded, spec=spec), probes


def native_dtype_error(model: KerasModel, probes: Sequence[Probe]) -> float | None:
    """Compare the outputs in the model's own dtypes with those in float32.

    Returns:
        The largest absolute difference over the probes; None for a float32 model.
    """
    largest = None
    for probe in probes:
        declared = model.native_dtype_reference(probe.inputs)
        if declared is None:
            return None
        for own, output in zip(declared, probe.outputs, strict=True):
            if output.dtype.kind == "f" and np.isfinite(output).all():
                error = float(np.abs(own.astype(np.float64) - output).max(initial=0.0))
                largest = error if largest is None else max(largest, error)
    return largest


def are_rows_independent(loaded: LoadedModel, probes: Sequence[Probe]) -> bool:
    """Whether every output has rows, and none depends on the other rows of its batch."""
    if loaded.spec.has_value_sizes or not all(spec.has_rows for spec in loaded.spec.outputs):
        return False
    probe = max(probes, key=lambda probe: len(probe.inputs[0]), default=None)
    if probe is None or len(probe.inputs[0]) == 1:
        return True
    if shapes_may_follow_values(loaded.first_graph.function):
        ordinary = [one for one in probes if one.kind is ProbeKind.ORDINARY] or [probe]
        longest = max(ordinary, key=lambda one: (len(one.inputs[0]) > 1, one.inputs[0].size))
        return _is_row_alike_beside_longer_rows(loaded, longest.inputs)
    outputs = _beside_other_rows(loaded, probe.inputs)
    return outputs is not None and all(
        output.ndim > 0
        and output.shape[0] == len(probe.inputs[0])
        and compare(output[0], before[0], TOLERANCE).passed
        for output, before in zip(outputs, probe.outputs, strict=True)
    )


def _beside_other_rows(
    loaded: LoadedModel, inputs: Sequence[np.ndarray]
) -> list[np.ndarray] | None:
    """Return the outputs with all rows changed but the first; None if Keras refuses the others."""
    rng = np.random.default_rng(11)
    drawn = [
        random_values(spec, array.shape, rng)
        for spec, array in zip(loaded.call_inputs, inputs, strict=True)
    ]
    for others in (drawn, *within_lengths(loaded.call_inputs, drawn)):
        changed = [
            np.concatenate([own[:1], other[1:]]) for own, other in zip(inputs, others, strict=True)
        ]
        with contextlib.suppress(*CALL_ERRORS):
            return loaded.keras.reference(changed)
    return None


def _is_row_alike_beside_longer_rows(loaded: LoadedModel, inputs: Sequence[np.ndarray]) -> bool:
    """Whether a padded row has the same outputs beside longer rows and beside equal ones."""
    first = [
        np.repeat(right_padded(spec, array[:1]), len(array), axis=0)
        for spec, array in zip(loaded.call_inputs, inputs, strict=True)
    ]
    beside = [
        np.concatenate([own[:1], array[1:]]) for own, array in zip(first, inputs, strict=True)
    ]
    try:
        alone, together = loaded.keras.reference(first), loaded.keras.reference(beside)
    except CALL_ERRORS:
        return False
    return all(
        output.shape[:1] == other.shape[:1] and compare(output[0], other[0], TOLERANCE).passed
        for output, other in zip(together, alone, strict=True)
    )


def is_padding_neutral(loaded: LoadedModel) -> bool:
    """Whether steps of the mask value after a sequence change no output.

    If the model fixes the length, no shorter sequence can be compared. Then padding before and
    after the sequence must give the same output.
    """
    rng = np.random.default_rng(13)
    inputs, time_axes = loaded.call_inputs, loaded.time_axes
    timed = [len(spec.axes) > 1 and spec.axes[1].name in time_axes for spec in inputs]
    sequences = [spec for spec, has_time in zip(inputs, timed, strict=True) if has_time]
    lengths = [spec.axes[1].size or 12 for spec in sequences]
    if not lengths or min(lengths) == 1 or any(spec.mask_value is None for spec in sequences):
        return False
    fixed_by_model = any(
        declared.shape[1] is not None
        for declared, has_time in zip(loaded.keras.flat_inputs, timed, strict=False)
        if has_time
    )
    shapes = loaded.shapes({n: a.min + 11 for n, a in loaded.free_axes.items() if n != BATCH})
    short: list[np.ndarray] = []
    right: list[np.ndarray] = []
    left: list[np.ndarray] = []
    for spec, shape, has_time in zip(inputs, shapes, timed, strict=True):
        array = random_values(spec, shape, rng)
        if not has_time:
            for arrays in (short, right, left):
                arrays.append(array)
            continue
        length = max(1, shape[1] // 2)
        padding = np.full((shape[0], shape[1] - length, *shape[2:]), spec.mask_value, spec.dtype)
        short.append(array[:, :length])
        right.append(np.concatenate([short[-1], padding], axis=1))
        left.append(np.concatenate([padding, short[-1]], axis=1))
    try:
        padded = loaded.keras.reference(right)
        plain = loaded.keras.reference(left if fixed_by_model else short)
    except CALL_ERRORS:
        return False
    return all(
        compare(_without_padding(spec, long, other, time_axes), other, TOLERANCE).passed
        for spec, long, other in zip(loaded.spec.file_outputs, padded, plain, strict=True)
    )


def _without_padding(
    spec: OutputSpec | StateSpec, long: np.ndarray, other: np.ndarray, time_axes: Collection[str]
) -> np.ndarray:
    """Shorten an output whose first or second axis is time to the length of the other."""
    for position, axis in enumerate(spec.axes[:2]):
        if axis.name in time_axes:
            return long[(slice(None),) * position + (slice(other.shape[position]),)]
    return long
