"""Runs requests: groups and pads examples, splits them into runs, and joins the outputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from bilstm_runtime.errors import BackendRunError, InputError, OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bilstm_runtime.inputs import Request
    from bilstm_runtime.spec import AnyArray, InputSpec, ModelSpec, OutputSpec

    Run = Callable[[Sequence[AnyArray]], list[AnyArray]]
    RowBytes = Callable[[Sequence[tuple[int, ...]]], int]
    Progress = Callable[[int, int], object]

Sizes: TypeAlias = npt.NDArray[np.int64]
Group: TypeAlias = "slice | Sizes"
"""The examples of one run: consecutive rows of arrays, or the indices of ragged examples."""

MAX_GROUP: Final = 16
"""The maximum number of examples in one run. 16 took 10 to 20 % less time than 64 on BiLSTMs of 32
to 256 units (onnxruntime 1.32, one thread, x86-64, 200 sequences of 5 to 60 steps, 32 features)."""

MAX_PADDING: Final = 0.25
"""The maximum ratio of padding to real steps. In the same runs, and with 16 sequences of 1 to 30
steps, 0.25 was within 5 % of the best of 0, 0.1, 0.25, 0.5, 1 and 9. Without padding, 16 sequences
took 1.5 times as long; 0.5 and more were slower there too."""

MAX_RUN_STEPS: Final = 8192
"""An array with at most this many steps (rows by timesteps) runs at once, unless a batch size is
given."""

CHUNK_STEPS: Final = 2048
"""The maximum number of steps in each run of a larger array, unless `MAX_GROUP` rows have more. A
run of 2048 steps of a BiLSTM with 64 units takes milliseconds, of which the call itself is a small
part, and in onnxruntime about 6 MB of memory."""

CHUNK_BYTES: Final = 2**21
"""The maximum size of all tensors of such a run, where the backend knows it, with the same
exception. LiteRT takes two to four times as much memory. BiLSTMs of 8, 64 and 256 units took 0.4 to
1.0 times as long as in one run of all rows with 5 and 30 steps, and 1.0 to 1.3 times with 200 steps
(LiteRT 2.3, one thread, x86-64)."""

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

    def __init__(
        self, spec: ModelSpec, run: Run, label: str, row_bytes: RowBytes | None = None
    ) -> None:
        """Derive the expected shapes of the outputs.

        Args:
            spec: The model.
            run: Runs the model once; takes one array per input and returns one per output; see
                `Session.run`.
            label: The model's name in messages, such as its file name.
            row_bytes: The memory of each row of a run; see `SizedSession.row_bytes`.
        """
        self._spec = spec
        self._run = run
        self._row_bytes = row_bytes
        self._label = label
        self._can_pad = spec.can_pad
        self._axes = list(spec.sequence_axes)
        self._min_sizes = np.array(
            [axis.size or axis.min for axis in spec.sequence_axes.values()], dtype=np.int64
        )
        self._padding = [_padding_value(item) for item in spec.inputs]
        self._dtypes = [np.dtype(item.dtype) for item in spec.inputs]
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

    def is_one_run(self, arrays: Sequence[AnyArray]) -> bool:
        """Whether arrays of the correct shapes run at once by default."""
        rows = self._spec.batch.size
        if rows is not None:
            return rows == len(arrays[0])
        return not self._spec.rows_independent or len(arrays[0]) <= _rows(MAX_RUN_STEPS, arrays)

    def run_request(
        self, request: Request, batch_size: int | None, progress: Progress | None = None
    ) -> list[AnyArray | list[AnyArray]]:
        """Run a request of any shape.

        Args:
            request: The examples.
            batch_size: The maximum number of examples in one run.
            progress: Called after each run with the number of examples so far, and of all.

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
        try:
            return self._run_groups(request, groups, progress)
        except _ShapesDifferError as error:
            if limit is None and not request.is_ragged:  # several runs were our own choice
                return self._run_groups(request, [slice(0, request.count)], progress)
            message = (
                f"{self._label} returned {error.output!r} with different shapes in different "
                f"runs: {error.shapes}. Give a larger batch_size, or a list of single examples."
            )
            raise BackendRunError(message) from error

    def _run_groups(
        self, request: Request, groups: Sequence[Group], progress: Progress | None
    ) -> list[AnyArray | list[AnyArray]]:
        """Run all groups, and put the rows of each output in the given order."""
        outputs = [_Collected(request, spec, self._axes) for spec in self._spec.outputs]
        is_single = len(groups) == 1 and not request.is_ragged
        done = 0
        for group in groups:
            found = self._run_group(request, group)
            for output, rows in zip(outputs, found, strict=True):
                output.add(group, rows, is_all=is_single)
            done += (
                len(range(*group.indices(request.count)))
                if isinstance(group, slice)
                else len(group)
            )
            if progress is not None:
                progress(done, request.count)
        return [output.values for output in outputs]

    def _chunk(self, request: Request) -> int:
        """Return the number of rows in each run of an array request without a batch size."""
        columns = cast("list[AnyArray]", request.columns)
        if not self._spec.rows_independent or request.count <= _rows(MAX_RUN_STEPS, columns):
            return request.count
        row = (
            0
            if self._row_bytes is None
            else self._row_bytes(self._shapes(request.sizes, MAX_GROUP))
        )
        return max(MAX_GROUP, min(_rows(CHUNK_STEPS, columns), CHUNK_BYTES // max(row, 1)))

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

    def _groups(self, request: Request, limit: int | None) -> Sequence[Group]:
        if not request.is_ragged:
            step = limit or self._chunk(request)
            return [slice(n, n + step) for n in range(0, request.count, step)]
        fits = limit is None or limit >= request.count
        together = fits and not self._spec.rows_independent
        if together and self._can_pad:
            return [np.arange(request.count)]  # in the given order: the outputs depend on it
        sizes = np.maximum(request.sizes, self._min_sizes)
        groups = plan_groups(sizes, pad=self._can_pad, limit=limit, together=together)
        return groups[::-1]  # longest first: its planned memory is enough for the others

    def _shapes(self, sizes: Sizes, rows: int) -> list[tuple[int, ...]]:
        """Return the shape of each input in a run of examples of these sizes."""
        target = dict(
            zip(self._axes, np.maximum(sizes.max(axis=0), self._min_sizes).tolist(), strict=True)
        )
        return [
            (rows, *(target.get(axis.name or "", axis.size or 1) for axis in item.axes[1:]))
            for item in self._spec.inputs
        ]

    def _run_group(self, request: Request, group: Group) -> list[AnyArray]:
        """Run some examples as one batch; the outputs have these rows, still padded in time."""
        if isinstance(group, slice):
            sizes, count = request.sizes, len(range(*group.indices(request.count)))
        else:
            sizes, count = request.sizes[group], len(group)
        rows = self._spec.batch.size or count
        arrays = []
        for shape, dtype, column, padding in zip(
            self._shapes(sizes, rows), self._dtypes, request.columns, self._padding, strict=True
        ):
            is_all = count == request.count
            part = None if isinstance(column, list) else column if is_all else column[group]
            if part is not None and part.shape == shape and part.dtype == dtype:
                arrays.append(np.ascontiguousarray(part))
                continue
            array = np.full(shape, padding, dtype=dtype)
            if part is None:
                for row, example in enumerate(cast("Sizes", group).tolist()):
                    values: AnyArray = column[example]
                    array[row, ...][tuple(map(slice, values.shape))] = values
            else:
                array[:count][tuple(map(slice, (None, *part.shape[1:])))] = part
            array[count:] = array[count - 1]
            arrays.append(array)
        outputs = self.run(arrays)
        return [output[:count] for output in outputs] if rows > count else outputs


class _ShapesDifferError(Exception):
    """An output has different shapes in different runs.

    Attributes:
        output: Its name.
        shapes: The shapes of one row.
    """

    def __init__(self, output: str, shapes: list[tuple[int, ...]]) -> None:
        super().__init__(output)
        self.output = output
        self.shapes = shapes


class _Collected:
    """The rows of one output, collected run by run.

    Attributes:
        values: The rows, without padding and in the order of the request: an array with a batch
            axis or, for a ragged request and an output with an axis of free size, a list. An
            output without a batch axis is as the one run returned it.
    """

    values: Any

    def __init__(self, request: Request, spec: OutputSpec, axes: Sequence[str]) -> None:
        self._spec = spec
        self._axes = axes
        self._count = request.count
        self._sizes = request.sizes.tolist()
        self._is_ragged = request.is_ragged
        self._is_list = (
            request.is_ragged
            and spec.has_rows
            and any(axis.name in axes or axis.size is None for axis in spec.axes[1:])
        )
        self.values = [None] * request.count if self._is_list else None

    def add(self, group: Group, rows: AnyArray, *, is_all: bool) -> None:
        """Add the rows of one run; raises `_ShapesDifferError`."""
        if self._is_list:
            for example, row in zip(cast("Sizes", group).tolist(), rows, strict=True):
                self.values[example] = row[self._unpadded(self._sizes[example])[1:]].copy()
            return
        whole = rows
        if not self._is_ragged:
            # With an ellipsis, a scalar stays an array.
            rows = rows[(*self._unpadded(self._sizes[0]), ...)]
        if not self._spec.has_rows:
            self.values = rows
            return
        if is_all:
            is_owned = whole.base is None and whole.shape == rows.shape
            self.values = whole if is_owned else rows.copy()
            return
        if self.values is None:
            self.values = np.empty((self._count, *rows.shape[1:]), rows.dtype)
        if self.values.shape[1:] != rows.shape[1:]:
            raise _ShapesDifferError(
                self._spec.name, sorted({self.values.shape[1:], rows.shape[1:]})
            )
        self.values[group] = rows

    def _unpadded(self, sizes: list[int]) -> tuple[Any, ...]:
        """Return the part of an output that is not padding, one slice per axis."""
        by_name = dict(zip(self._axes, sizes, strict=True))
        return tuple(slice(by_name.get(axis.name or "")) for axis in self._spec.axes)


def _rows(steps: int, arrays: Sequence[AnyArray]) -> int:
    """Return the number of rows that have so many steps together; the second axis is time."""
    longest = max([array.shape[1] for array in arrays if array.ndim > 1], default=1)
    return steps // longest


def _padding_value(spec: InputSpec) -> float:
    """Return the padding value: the mask value, or 0 if allowed, or the lowest allowed value."""
    if spec.mask_value is not None:
        return spec.mask_value
    if spec.range is not None and not spec.range[0] <= 0 <= spec.range[1]:
        return spec.range[0]
    return 0
