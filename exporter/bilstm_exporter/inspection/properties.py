"""What holds for a model whatever the inputs: asked of Keras, told to the runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bilstm_exporter.inspection.interface import BATCH, REFUSALS, TIME, Interface
from bilstm_exporter.inspection.probes import Probe
from bilstm_exporter.keras_model import Source
from bilstm_exporter.verification.tolerance import difference
from bilstm_runtime.sampling import random_values
from bilstm_runtime.spec import OutputSpec


def declared_difference(source: Source, probes: Sequence[Probe]) -> float | None:
    """How far the model's own dtypes take it from its answers in float32, at most.

    Returns:
        The largest absolute difference over the probes; None if the model is float32 itself.
    """
    largest = None
    for probe in probes:
        declared = source.declared_reference(probe.inputs)
        if declared is None:
            return None
        for own, output in zip(declared, probe.outputs, strict=True):
            if output.dtype.kind == "f" and np.isfinite(output).all():
                error = float(np.abs(own.astype(np.float64) - output).max(initial=0.0))
                largest = error if largest is None else max(largest, error)
    return largest


def independent_rows(source: Source, probes: Sequence[Probe], interface: Interface) -> bool:
    """Whether other rows of a batch leave a row's answer alone."""
    probe = max(probes, key=lambda probe: len(probe.inputs[0]), default=None)
    if probe is None or len(probe.inputs[0]) == 1:
        return True
    rng = np.random.default_rng(11)
    changed = []
    for spec, array in zip(interface.inputs, probe.inputs, strict=True):
        other = random_values(spec, array.shape, rng)
        other[0] = array[0]
        changed.append(other)
    answers = source.reference(changed)
    return all(
        answer.ndim > 0
        and answer.shape[0] == len(probe.inputs[0])
        and difference(answer[0], output[0]).ratio <= 1
        for answer, output in zip(answers, probe.outputs, strict=True)
    )


def neutral_padding(source: Source, interface: Interface) -> bool:
    """Whether steps of the mask value after a sequence change no answer to it.

    Where the model itself fixes the length there is nothing shorter to compare with;
    then padding before and after the sequence must give the same answer.
    """
    rng = np.random.default_rng(13)
    timed = [
        len(spec.axes) > 1 and spec.axes[1].name is not None and spec.axes[1].name.startswith(TIME)
        for spec in interface.inputs
    ]
    masked = [spec.mask_value is not None for spec in interface.inputs]
    lengths = [
        spec.axes[1].size or 12 for spec, has in zip(interface.inputs, timed, strict=True) if has
    ]
    if (
        not lengths
        or not all(m for m, t in zip(masked, timed, strict=True) if t)
        or min(lengths) == 1
    ):
        return False
    fixed_by_model = any(
        spec.shape[1] is not None for spec, has in zip(source.inputs, timed, strict=True) if has
    )
    shapes = interface.shapes({n: a.min + 11 for n, a in interface.free_axes.items() if n != BATCH})
    short: list[np.ndarray] = []
    right: list[np.ndarray] = []
    left: list[np.ndarray] = []
    for spec, shape, has_time in zip(interface.inputs, shapes, timed, strict=True):
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
        padded = source.reference(right)
        plain = source.reference(left if fixed_by_model else short)
    except REFUSALS:
        return False
    return all(
        difference(_trimmed(spec, long, len_like), len_like).ratio <= 1
        for spec, long, len_like in zip(interface.outputs, padded, plain, strict=True)
    )


def _trimmed(spec: OutputSpec, long: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Cut an output that follows time to the length of the other."""
    if len(spec.axes) > 1 and (spec.axes[1].name or "").startswith(TIME):
        return long[:, : like.shape[1]]
    return long
