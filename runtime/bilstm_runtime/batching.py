"""Runs requests: groups and pads examples, splits them into runs, and joins the outputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from bilstm_runtime.errors import BackendRunError, InputError, OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bilstm_runtime.inputs import Request
    from bilstm_runtime.spec import AnyArray, InputSpec, ModelSpec, OutputSpec

    Run = Callable[[Sequence[AnyArray]], list[AnyArray]]

Sizes: TypeAlias = npt.NDArray[np.int64]

MAX_GROUP: Final = 16
"""The maximum number of examples in one run. 16 took 10 to 20 % less time than 64 on BiLSTMs of 32
to 256 units (onnxruntime 1.32, one thread, x86-64, 200 sequences of 5 to 60 steps, 32 features)."""

MAX_PADDING: Final = 0.25
"""The maximum ratio of padding to real steps. In the same runs, and with 16 sequences of 1 to 30
steps, 0.25 was within 5 % of the best of 0, 0.1, 0.25, 0.5, 1 and 9. Without padding, 16 sequences
took 1.5 times as long; 0.5 and more were slower there too."""

_MAX_SHAPES: Final = 1024
"""The maximum number of shape combinations that are remembered as correct."""


def plan_groups(sizes: Sizes, *, pad: bool, limit: int | None, together: bool) -> list[Sizes]:
    """Split examples into groups, each of which runs as one batch.

    Args:
        sizes: `[examples, axes] int64`, the size of each example along each sequence axis.
        pad: Whether examples of different sizes may share a run.
        limit: The maximum number of examples in one group; None for `MAX_GROUP`.
        together: Put all examples that may share a run in one group, with any amount of padding.

    Returns:
        For each group `[members] int64`, the indices of its examples, shortest first.
    """
    order = np.lexsort(sizes.T[::-1]).tolist()
    max_group = len(order) if together else limit or MAX_GROUP
    rows = sizes.tolist()  # a loop over Python ints takes a tenth of the time of one over arrays
    groups: list[list[int]] = []
    widest, real = rows[order[0]], 0
    for example in order:
        size = rows[example]
        area = math.prod(size)
        if groups and len(groups[-1]) < max_group:
            wider = list(map(max, widest, size))
            if pad:
                run = math.prod(wider) * (len(groups[-1]) + 1)
                fits = together or run <= (1 + MAX_PADDING) * (real + area)
            else:
                fits = size == widest
            if fits:
                groups[-1].append(example)
                widest = wider
                real += area
                continue
        groups.append([example])
        widest, real = size, area
    return [np.array(group, dtype=np.int64) for group in groups]


class BatchRunner:
    """Runs requests on one opened model."""

    def __init__(self, spec: ModelSpec, run: Run, label: str) -> None:
        """Derive the expected shapes of the outputs.

        Args:
            spec: The model.
            run: Runs the model once; takes one array per input and returns one per output; see
                `Session.run`.
            label: The model's name in messages, such as its file name.
        """
        self._spec = spec
        self._run = run
        self._label = label
        self._can_pad = spec.can_pad
        self._axes = list(spec.sequence_axes)
        self._min_sizes = np.array(
            [axis.size or axis.min for axis in spec.sequence_axes.values()], dtype=np.int64
        )
        self._padding = [_padding_value(item) for item in spec.inputs]
        source = {
            axis.name: (i, j)
            for i, item in enumerate(spec.inputs)
            for j, axis in enumerate(item.axes)
            if axis.name is not None
        }
        self._checks = [
            [(axis.size, source.get(axis.name or "")) for axis in item.axes]
            for item in spec.outputs
        ]
        # Shapes of inputs and outputs that were correct before, for a fast check per prediction.
        self._correct_shapes: set[tuple[tuple[int, ...], ...]] = set()

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run arrays of the correct dtype and shape once, and check the shapes of the outputs.

        Raises:
            BackendRunError: The backend failed, or an output has a shape that contradicts the
                spec.
        """
        outputs = self._run(arrays)
        shapes = tuple([array.shape for array in (*arrays, *outputs)])
        if shapes not in self._correct_shapes:
            self._check_shapes(arrays, outputs)
            if len(self._correct_shapes) < _MAX_SHAPES:
                self._correct_shapes.add(shapes)
        return outputs

    def _check_shapes(self, arrays: Sequence[AnyArray], outputs: Sequence[AnyArray]) -> None:
        for spec, output, checks in zip(self._spec.outputs, outputs, self._checks, strict=True):
            shape = output.shape
            if len(shape) != len(checks) or any(
                found != (size if source is None else arrays[source[0]].shape[source[1]])
                for found, (size, source) in zip(shape, checks, strict=True)
                if size is not None or source is not None
            ):
                message = (
                    f"{self._label} returned {spec.name!r} with the shape {list(shape)}, which "
                    "contradicts the manifest. Run check-bilstm on the bundle, or export it again."
                )
                raise BackendRunError(message)

    def run_request(
        self, request: Request, batch_size: int | None
    ) -> list[AnyArray | list[AnyArray]]:
        """Run a request of any shape.

        Args:
            request: The examples.
            batch_size: The maximum number of examples in one run.

        Returns:
            For each output, an array as the model returns it or, for a ragged request and an
            output with a batch axis and an axis of free size, one array per example.

        Raises:
            InputError: The request needs several runs, but rows of this model depend on each
                other.
            OptionError: The batch size does not fit the model.
            BackendRunError: The backend failed.
        """
        limit = self._limit(batch_size)
        groups = self._groups(request, limit)
        rows = self._spec.batch.size
        is_one_run = len(groups) == 1 and (rows is None or rows == request.count)
        if not is_one_run and not self._spec.rows_independent:
            if rows is not None:
                cause = f"it takes exactly {rows} examples at once"
            elif request.is_ragged:
                cause = "sequences of different lengths take several runs"
            else:
                cause = f"batch_size={batch_size} divides {request.count} examples"
            message = (
                "the outputs of this model depend on which examples run together, and "
                f"{cause}. Give examples that can run in one batch."
            )
            raise InputError(message)
        runs = [self._run_group(request, group) for group in groups]
        if request.is_ragged:
            return self._assemble_ragged(request, groups, runs)
        return [self._assemble(request, n, [run[n] for run in runs]) for n in range(len(runs[0]))]

    def _limit(self, batch_size: int | None) -> int | None:
        rows = self._spec.batch.size
        if batch_size is None:
            return rows
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            message = f"batch_size is {batch_size!r}; expected a whole number from 1, or None"
            raise OptionError(message)
        if rows is not None and batch_size != rows:
            message = f"batch_size is {batch_size}; this model was exported for batches of {rows}"
            raise OptionError(message)
        return batch_size

    def _groups(self, request: Request, limit: int | None) -> list[AnyArray]:
        if request.is_ragged:
            fits = limit is None or limit >= request.count
            together = fits and not self._spec.rows_independent
            if together and self._can_pad:
                return [np.arange(request.count)]  # in the given order: the outputs depend on it
            sizes = np.maximum(request.sizes, self._min_sizes)
            groups = plan_groups(sizes, pad=self._can_pad, limit=limit, together=together)
            return groups[::-1]  # longest first: its planned memory is enough for the others
        step = limit or request.count
        indices = np.arange(request.count)
        return [indices[start : start + step] for start in range(0, request.count, step)]

    def _run_group(self, request: Request, group: AnyArray) -> list[AnyArray]:
        """Run some examples as one batch; the outputs have these rows, still padded in time."""
        sizes = request.sizes[group] if request.is_ragged else request.sizes
        target = dict(
            zip(self._axes, np.maximum(sizes.max(axis=0), self._min_sizes).tolist(), strict=True)
        )
        rows = self._spec.batch.size or len(group)
        arrays = []
        for spec, column, padding in zip(
            self._spec.inputs, request.columns, self._padding, strict=True
        ):
            shape = (rows, *(target.get(a.name or "", a.size or 1) for a in spec.axes[1:]))
            if not isinstance(column, list) and column.shape == shape:
                arrays.append(column)
                continue
            array = np.full(shape, padding, dtype=spec.dtype)
            if isinstance(column, list):
                for row, example in enumerate(group.tolist()):
                    values: AnyArray = column[example]
                    array[row, ...][tuple(map(slice, values.shape))] = values
            else:
                array[: len(group)][tuple(map(slice, (None, *column.shape[1:])))] = column[group]
            array[len(group) :] = array[len(group) - 1]
            arrays.append(array)
        outputs = self.run(arrays)
        return [output[: len(group)] for output in outputs] if rows > len(group) else outputs

    def _assemble(self, request: Request, output: int, parts: list[AnyArray]) -> AnyArray:
        """Concatenate one output of all runs of an array request."""
        spec = self._spec.outputs[output]
        # With an ellipsis, a scalar stays an array.
        unpadded: tuple[Any, ...] = (*self._unpadded(spec, request.sizes[0].tolist()), ...)
        shapes = {part.shape[1:] for part in parts}
        if len(shapes) > 1:
            message = (
                f"{self._label} returned {spec.name!r} with different shapes in different runs: "
                f"{sorted(shapes)}. Give a larger batch_size, or a list of single examples."
            )
            raise BackendRunError(message)
        joined: AnyArray = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if joined.base is None and joined[unpadded].shape == joined.shape:
            return joined
        trimmed: AnyArray = joined[unpadded].copy()
        return trimmed

    def _assemble_ragged(
        self, request: Request, groups: list[AnyArray], runs: list[list[AnyArray]]
    ) -> list[AnyArray | list[AnyArray]]:
        """Put the outputs of a ragged request back in the given order, without their padding."""
        order = np.concatenate(groups)
        positions = np.empty_like(order)
        positions[order] = np.arange(len(order))
        sizes = request.sizes.tolist()
        outputs: list[AnyArray | list[AnyArray]] = []
        for number, spec in enumerate(self._spec.outputs):
            parts = [run[number] for run in runs]
            if not spec.has_rows:  # of the one run
                outputs.append(parts[0])
            elif any(axis.name in self._axes or axis.size is None for axis in spec.axes[1:]):
                rows = [row for part in parts for row in part]
                outputs.append(
                    [
                        rows[position][self._unpadded(spec, size)[1:]].copy()
                        for position, size in zip(positions.tolist(), sizes, strict=True)
                    ]
                )
            else:
                outputs.append(np.concatenate(parts)[positions])
        return outputs

    def _unpadded(self, spec: OutputSpec, sizes: list[int]) -> tuple[slice, ...]:
        """Return the part of an output that is not padding, one slice per axis."""
        by_name = dict(zip(self._axes, sizes, strict=True))
        return tuple(slice(by_name.get(axis.name or "")) for axis in spec.axes)


def _padding_value(spec: InputSpec) -> float:
    """Return the padding value: the mask value, or 0 if allowed, or the lowest allowed value."""
    if spec.mask_value is not None:
        return spec.mask_value
    if spec.range is not None and not spec.range[0] <= 0 <= spec.range[1]:
        return spec.range[0]
    return 0
