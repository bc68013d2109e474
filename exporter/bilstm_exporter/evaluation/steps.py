"""Which numbers of an output count: every example's, or every step's that is no padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bilstm_exporter.evaluation.dataset import Column, Dataset
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec
from bilstm_runtime.values import AnyArray

TENTHS = 10


@dataclass(frozen=True)
class Steps:
    """How the answers of one output are taken apart.

    A row is what is decided at once: an example or, where the output follows time, a step.

    Attributes:
        output: The output.
        per_step: Whether a row is a step.
        masks: For each example which of its steps count, ``[steps, ...] bool`` (``[] bool``
            without steps).
    """

    output: OutputSpec
    per_step: bool
    masks: Sequence[AnyArray]

    def rows(self, column: Column) -> AnyArray:
        """The rows that count.

        Args:
            column: Answers, or labels made of the same shape: the steps, then the values.

        Returns:
            ``[rows, values]``.
        """
        parts = [
            self.values(example)[mask] for example, mask in zip(column, self.masks, strict=True)
        ]
        return np.concatenate(parts)

    def values(self, example: AnyArray) -> AnyArray:
        """One example's answer as ``[steps, ..., values]``, or ``[values]`` without steps."""
        return example if self.has_values_axis else np.asarray(example)[..., np.newaxis]

    @property
    def has_values_axis(self) -> bool:
        """Whether the last axis holds the values of one row."""
        axes = self.output.axes[1:]
        return len(axes) > 1 or (len(axes) == 1 and not self.per_step)

    @property
    def places(self) -> AnyArray:
        """Where in its sequence each row is, from 0 to below 1, ``[rows] float64``."""
        return np.concatenate([_places(mask) for mask in self.masks])

    @property
    def longest(self) -> int:
        """Steps that count, of the longest sequence."""
        return max((int(_moments(mask).sum()) for mask in self.masks), default=0)


def find_steps(output: OutputSpec, manifest: ModelSpec, dataset: Dataset, answers: Column) -> Steps:
    """Find the rows of an output that count.

    A step is padding where every masked input of its axis holds the mask value there.

    Args:
        output: The output.
        manifest: Names its axes, and the mask values.
        dataset: What was asked.
        answers: To that, of any model: only the shapes matter.
    """
    per_step = is_per_step(output, manifest)
    axes = _step_axes(output, per_step=per_step)
    valid = [
        _valid(spec, dataset.inputs[spec.name], axes)
        for spec in manifest.inputs
        if spec.mask_value is not None and axes and any(a.name == axes[0].name for a in spec.axes)
    ]
    masks = []
    for number, answer in enumerate(answers):
        shape = answer.shape[: len(axes)]
        mask = np.ones(shape, bool)
        found = [masks_of[number] for masks_of in valid]
        if found and all(_fits(one.shape, shape) for one in found):
            mask = np.broadcast_to(np.logical_or.reduce(found), shape)
        masks.append(mask)
    return Steps(output, per_step, masks)


def is_per_step(output: OutputSpec, manifest: ModelSpec) -> bool:
    """Whether an output follows time: its second axis is no axis of values."""
    axes = output.axes[1:]
    if len(axes) != 1:
        return len(axes) > 1
    return axes[0].name in manifest.sequence_axes or axes[0].size is None


def _step_axes(output: OutputSpec, *, per_step: bool) -> tuple[Axis, ...]:
    axes = output.axes[1:]
    return (axes if len(axes) == 1 else axes[:-1]) if per_step else ()


def _valid(spec: InputSpec, column: Column, axes: Sequence[Axis]) -> list[AnyArray]:
    """Which steps of each example hold anything but the mask value, in the order of ``axes``."""
    own = [axis.name for axis in spec.axes[1:]]
    wanted = [axis.name for axis in axes]
    kept = [name for name in own if name is not None and name in wanted]
    dropped = tuple(i for i, name in enumerate(own) if name not in kept)
    is_nan = spec.mask_value is not None and np.isnan(spec.mask_value)
    found: list[AnyArray] = []
    for example in column:
        values = np.asarray(example)
        holds = np.asarray(~np.isnan(values) if is_nan else values != spec.mask_value, bool)
        holds = np.asarray(holds.any(axis=dropped))
        order = sorted(range(len(kept)), key=lambda i: wanted.index(kept[i]))
        holds = holds.transpose(order)
        sizes = iter(holds.shape)
        found.append(holds.reshape([next(sizes) if name in kept else 1 for name in wanted]))
    return found


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return all(a in {1, b} for a, b in zip(found, wanted, strict=True))


def _moments(mask: AnyArray) -> AnyArray:
    """Which steps of the first axis count, ``[steps] bool``."""
    return np.asarray(mask.reshape(len(mask), -1).any(axis=1) if mask.ndim else mask.reshape(1))


def _places(mask: AnyArray) -> AnyArray:
    moments = _moments(mask)
    count = max(1, int(moments.sum()))
    place = (np.cumsum(moments) - 1) / count
    shaped = place.reshape(-1, *[1] * (mask.ndim - 1)) if mask.ndim else place.reshape(())
    taken: AnyArray = np.broadcast_to(shaped, mask.shape)[mask]
    return taken
