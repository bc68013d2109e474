"""Running a checked request: padding, dividing into runs, and putting the answers together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from bilstm_runtime.errors import BackendRunError, InputError, OptionError
from bilstm_runtime.grouping import plan_groups

_MOST_SHAPES: Final = 1024
"""Combinations of shapes that are remembered as right."""

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_runtime.backends.base import Session
    from bilstm_runtime.bundle.manifest import Manifest
    from bilstm_runtime.inputs import Request
    from bilstm_runtime.spec import InputSpec, OutputSpec
    from bilstm_runtime.values import AnyArray


class Runner:
    """Runs requests on one session."""

    def __init__(self, manifest: Manifest, session: Session, file: str) -> None:
        """Work out what the answers must look like.

        Args:
            manifest: The manifest.
            session: An open model.
            file: Its file, for messages.
        """
        self._manifest = manifest
        self._session = session
        self._file = file
        self._can_pad = manifest.spec.can_pad
        self._axes = list(manifest.sequence_axes)
        fixed = list(manifest.sequence_axes.values())
        self._least = np.array([axis.size or axis.min for axis in fixed], dtype=np.int64)
        self._padding = [_padding_value(spec) for spec in manifest.inputs]
        source = {
            axis.name: (i, j)
            for i, spec in enumerate(manifest.inputs)
            for j, axis in enumerate(spec.axes)
            if axis.name is not None
        }
        self._checks = [
            [(axis.size, source.get(axis.name or "")) for axis in spec.axes]
            for spec in manifest.outputs
        ]
        # Of inputs and answers, found right before: asked of every prediction, so asked quickly.
        self._right_shapes: set[tuple[tuple[int, ...], ...]] = set()

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run arrays of the right dtype and shape once, and check the shape of the answers.

        Raises:
            BackendRunError: The backend failed, or an answer has a shape the manifest rules out.
        """
        answers = self._session.run(arrays)
        shapes = tuple([array.shape for array in (*arrays, *answers)])
        if shapes not in self._right_shapes:
            self._check_shapes(arrays, answers)
            if len(self._right_shapes) < _MOST_SHAPES:
                self._right_shapes.add(shapes)
        return answers

    def _check_shapes(self, arrays: Sequence[AnyArray], answers: Sequence[AnyArray]) -> None:
        for number, (answer, checks) in enumerate(zip(answers, self._checks, strict=True)):
            shape = answer.shape
            if len(shape) != len(checks) or any(
                found != (size if source is None else arrays[source[0]].shape[source[1]])
                for found, (size, source) in zip(shape, checks, strict=True)
                if size is not None or source is not None
            ):
                spec = self._manifest.outputs[number]
                msg = (
                    f"{self._file} answered {spec.name!r} with the shape {list(shape)}, which the "
                    "manifest rules out. Run check-bilstm on the bundle, or export it again."
                )
                raise BackendRunError(msg)

    def answer(self, request: Request, batch_size: int | None) -> list[AnyArray | list[AnyArray]]:
        """Run a request of any shape.

        Args:
            request: What to run.
            batch_size: Examples in one run at most.

        Returns:
            For each output an array with a batch axis or, for a ragged request and an output
            with an axis of free size, one array an example.

        Raises:
            InputError: The rows of this model must not be divided, and would have to be.
            OptionError: The batch size does not fit the model.
            BackendRunError: The backend failed.
        """
        limit = self._limit(batch_size)
        groups = self._groups(request, limit)
        rows = self._manifest.batch.size
        alone = len(groups) == 1 and (rows is None or rows == request.count)
        if not alone and not self._manifest.rows_independent:
            if rows is not None:
                cause = f"it takes exactly {rows} examples at once"
            elif request.is_ragged:
                cause = "sequences of different lengths take several runs"
            else:
                cause = f"batch_size={batch_size} divides {request.count} examples"
            msg = (
                f"the answers of this model depend on which examples run together, and {cause}. "
                "Give examples that can run in one batch."
            )
            raise InputError(msg)
        runs = [self._run_group(request, group) for group in groups]
        if request.is_ragged:
            return self._assemble_ragged(request, groups, runs)
        return [self._assemble(request, n, [run[n] for run in runs]) for n in range(len(runs[0]))]

    def _limit(self, batch_size: int | None) -> int | None:
        rows = self._manifest.batch.size
        if batch_size is None:
            return rows
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            msg = f"batch_size is {batch_size!r}; expected a whole number from 1, or None"
            raise OptionError(msg)
        if rows is not None and batch_size != rows:
            msg = f"batch_size is {batch_size}; this model was exported for batches of {rows}"
            raise OptionError(msg)
        return batch_size

    def _groups(self, request: Request, limit: int | None) -> list[AnyArray]:
        if request.is_ragged:
            fits = limit is None or limit >= request.count
            together = fits and not self._manifest.rows_independent
            sizes = np.maximum(request.sizes, self._least)
            groups = plan_groups(sizes, pad=self._can_pad, limit=limit, together=together)
            return groups[::-1]  # the longest first: memory planned for it holds the others
        step = limit or request.count
        every = np.arange(request.count)
        return [every[start : start + step] for start in range(0, request.count, step)]

    def _run_group(self, request: Request, group: AnyArray) -> list[AnyArray]:
        """Run some examples at once; the answers are for these rows, still padded in time."""
        sizes = request.sizes[group] if request.is_ragged else request.sizes
        target = dict(
            zip(self._axes, np.maximum(sizes.max(axis=0), self._least).tolist(), strict=True)
        )
        rows = self._manifest.batch.size or len(group)
        arrays = []
        for spec, column, padding in zip(
            self._manifest.inputs, request.columns, self._padding, strict=True
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
        answers = self.run(arrays)
        return [answer[: len(group)] for answer in answers] if rows > len(group) else answers

    def _assemble(self, request: Request, output: int, parts: list[AnyArray]) -> AnyArray:
        """Join the answers of the runs of an array request to one array."""
        spec = self._manifest.outputs[output]
        own = (slice(None), *self._own_sizes(spec, request.sizes[0].tolist()))
        shapes = {part.shape[1:] for part in parts}
        if len(shapes) > 1:
            msg = (
                f"{self._file} answered {spec.name!r} with different shapes in different runs: "
                f"{sorted(shapes)}. Give a larger batch_size, or a list of single examples."
            )
            raise BackendRunError(msg)
        joined: AnyArray = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if joined.base is None and joined[own].shape == joined.shape:
            return joined
        trimmed: AnyArray = joined[own].copy()
        return trimmed

    def _assemble_ragged(
        self, request: Request, groups: list[AnyArray], runs: list[list[AnyArray]]
    ) -> list[AnyArray | list[AnyArray]]:
        """Put the answers of a ragged request back in the order given, without their padding."""
        order = np.concatenate(groups)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        sizes = request.sizes.tolist()
        answers: list[AnyArray | list[AnyArray]] = []
        for number, spec in enumerate(self._manifest.outputs):
            parts = [run[number] for run in runs]
            if any(axis.name in self._axes or axis.size is None for axis in spec.axes[1:]):
                rows = [row for part in parts for row in part]
                answers.append(
                    [
                        rows[at][self._own_sizes(spec, size)].copy()
                        for at, size in zip(place.tolist(), sizes, strict=True)
                    ]
                )
            else:
                answers.append(np.concatenate(parts)[place])
        return answers

    def _own_sizes(self, spec: OutputSpec, sizes: list[int]) -> tuple[slice, ...]:
        """What of an answer is no padding, one slice an axis after the batch."""
        own = dict(zip(self._axes, sizes, strict=True))
        return tuple(slice(own.get(axis.name or "")) for axis in spec.axes[1:])


def _padding_value(spec: InputSpec) -> float:
    """What fills the steps that are not there: the mask value, else 0, else the least allowed."""
    if spec.mask_value is not None:
        return spec.mask_value
    if spec.range is not None and not spec.range[0] <= 0 <= spec.range[1]:
        return spec.range[0]
    return 0
