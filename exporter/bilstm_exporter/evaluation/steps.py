"""Finds the rows of an output to evaluate: one per example, or one per step without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bilstm_exporter.evaluation.dataset import Column, Dataset
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec
from bilstm_runtime.values import AnyArray

MAX_PARTS = 10
"""The maximum number of parts of a sequence for which errors are reported."""


@dataclass(frozen=True)
class Steps:
    """The rows of one output.

    A row has the values of one decision: for an example or, if the output has a time axis, for a
    step.

    Attributes:
        output: The output.
        per_step: Whether a row is a step.
        masks: For each example ``[steps, ...] bool``, True for a valid step; ``[] bool`` if a row
            is an example.
    """

    output: OutputSpec
    per_step: bool
    masks: Sequence[AnyArray]

    def rows(self, column: Column) -> AnyArray:
        """Return the valid rows.

        Args:
            column: Predictions, or labels of the same shape: the steps, then the values.

        Returns:
            ``[rows, values]``.
        """
        parts = [
            self.values(example)[mask] for example, mask in zip(column, self.masks, strict=True)
        ]
        return np.concatenate(parts)

    def values(self, example: AnyArray) -> AnyArray:
        """Return an example's output as ``[steps, ..., values]``, or ``[values]`` without steps."""
        return example if self.has_values_axis else np.asarray(example)[..., np.newaxis]

    @property
    def has_values_axis(self) -> bool:
        """Whether the last axis holds the values of one row."""
        axes = self.output.axes[1:]
        return len(axes) > 1 or (len(axes) == 1 and not self.per_step)

    @property
    def positions(self) -> AnyArray:
        """The relative position of each row in its sequence, in [0, 1): ``[rows] float64``."""
        return np.concatenate([_positions(mask) for mask in self.masks])

    @property
    def longest(self) -> int:
        """The number of valid steps in the longest sequence."""
        return max((int(_valid_steps(mask).sum()) for mask in self.masks), default=0)


def find_steps(output: OutputSpec, spec: ModelSpec, dataset: Dataset, predictions: Column) -> Steps:
    """Find the valid rows of an output.

    A step is padding if every masked input of its axis has the mask value there.

    Args:
        output: The output.
        spec: The inputs and outputs of the model.
        dataset: The examples.
        predictions: The output for the examples; only its shapes are used.
    """
    per_step = is_per_step(output, spec)
    axes = _step_axes(output, per_step=per_step)
    unmasked = [
        _unmasked_steps(item, dataset.inputs[item.name], axes)
        for item in spec.inputs
        if item.mask_value is not None and axes and any(a.name == axes[0].name for a in item.axes)
    ]
    masks = []
    for number, prediction in enumerate(predictions):
        shape = prediction.shape[: len(axes)]
        mask = np.ones(shape, bool)
        found = [masks_of[number] for masks_of in unmasked]
        if found and all(_broadcasts(one.shape, shape) for one in found):
            mask = np.broadcast_to(np.logical_or.reduce(found), shape)
        masks.append(mask)
    return Steps(output, per_step, masks)


def is_per_step(output: OutputSpec, spec: ModelSpec) -> bool:
    """Whether an output has a time axis: its second axis is not an axis of values."""
    axes = output.axes[1:]
    if len(axes) != 1:
        return len(axes) > 1
    return axes[0].name in spec.sequence_axes or axes[0].size is None


def _step_axes(output: OutputSpec, *, per_step: bool) -> tuple[Axis, ...]:
    axes = output.axes[1:]
    return (axes if len(axes) == 1 else axes[:-1]) if per_step else ()


def _unmasked_steps(spec: InputSpec, column: Column, axes: Sequence[Axis]) -> list[AnyArray]:
    """Return for each example which steps are not padding, with axes in the order of ``axes``."""
    own = [axis.name for axis in spec.axes[1:]]
    names = [axis.name for axis in axes]
    kept = [name for name in own if name is not None and name in names]
    dropped = tuple(i for i, name in enumerate(own) if name not in kept)
    is_nan = spec.mask_value is not None and np.isnan(spec.mask_value)
    found: list[AnyArray] = []
    for example in column:
        values = np.asarray(example)
        has_value = np.asarray(~np.isnan(values) if is_nan else values != spec.mask_value, bool)
        has_value = np.asarray(has_value.any(axis=dropped))
        order = sorted(range(len(kept)), key=lambda i: names.index(kept[i]))
        has_value = has_value.transpose(order)
        sizes = iter(has_value.shape)
        found.append(has_value.reshape([next(sizes) if name in kept else 1 for name in names]))
    return found


def _broadcasts(found: tuple[int, ...], target: tuple[int, ...]) -> bool:
    return all(a in {1, b} for a, b in zip(found, target, strict=True))


def _valid_steps(mask: AnyArray) -> AnyArray:
    """Return which steps of the first axis have a valid row, ``[steps] bool``."""
    return np.asarray(mask.reshape(len(mask), -1).any(axis=1) if mask.ndim else mask.reshape(1))


def _positions(mask: AnyArray) -> AnyArray:
    counted = _valid_steps(mask)
    count = max(1, int(counted.sum()))
    position = (np.cumsum(counted) - 1) / count
    shaped = position.reshape(-1, *[1] * (mask.ndim - 1)) if mask.ndim else position.reshape(())
    positions: AnyArray = np.broadcast_to(shaped, mask.shape)[mask]
    return positions
