"""The ends of float32: what a file is given, and what it may answer.

Keras takes numbers below 1.2e-38, which float32 holds with fewer digits, for zeros. The backends
do not, and would see a step of such numbers as valid where Keras sees one of padding.
"""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm_runtime.backends import SizedSession, StateSession
from bilstm_runtime.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bilstm_runtime.backends import Session, StateRun
    from bilstm_runtime.spec import AnyArray, Artifact, ModelSpec

_SMALLEST_NORMAL = np.finfo(np.float32).smallest_normal


class LimitedSession:
    """A `Session` that refuses inputs beyond what a file was tested for, and reports NaN."""

    def __init__(self, session: Session, spec: ModelSpec, artifact: Artifact) -> None:
        """Forward all runs to this session.

        Args:
            session: The open file.
            spec: The description of the model.
            artifact: The entry of the file in the manifest.
        """
        self._session = session
        self._file, self._limit = artifact.file, artifact.largest_input
        floats = [n for n, item in enumerate(spec.inputs) if np.dtype(item.dtype).kind == "f"]
        self._floats = [(n, spec.inputs[n].name) for n in floats]
        self._masked = [n for n in floats if spec.inputs[n].mask_value == 0]
        self._outputs = [
            (n, item.name)
            for n, item in enumerate(spec.outputs)
            if np.dtype(item.dtype).kind == "f"
        ]
        self._has_warned = False

    def run(self, arrays: Sequence[AnyArray]) -> list[Any]:
        """Run the file once; see `Session.run`.

        Raises:
            InputError: A value is larger than the file was tested for.
        """
        return self.limited(self._session.run, arrays)

    def limited(
        self, run: Callable[[Sequence[AnyArray]], list[Any]], arrays: Sequence[AnyArray]
    ) -> list[Any]:
        """Run the file once with a function that does.

        Raises:
            InputError: A value is larger than the file was tested for.
        """
        if self._limit is not None:
            self._check(arrays, self._limit)
        if self._masked:
            arrays = [
                _without_denormals(array) if n in self._masked else array
                for n, array in enumerate(arrays)
            ]
        outputs = run(arrays)
        if not self._has_warned:
            self._remark(outputs)
        return outputs

    def carry(self, count: int) -> StateRun | None:
        """Return runs that keep the states; see `StateSession.carry`."""
        session = self._session
        run = session.carry(count) if isinstance(session, StateSession) else None
        return None if run is None else _LimitedRun(self, run)

    def row_bytes(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Return the bytes of a run for each row; see `SizedSession.row_bytes`."""
        session = self._session
        return session.row_bytes(shapes) if isinstance(session, SizedSession) else 0

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Do not report NaN in this context, where outputs are compared with their references."""
        before, self._has_warned = self._has_warned, True
        try:
            yield
        finally:
            self._has_warned = before

    def _check(self, arrays: Sequence[AnyArray], limit: float) -> None:
        for n, name in self._floats:
            largest = float(np.abs(arrays[n]).max(initial=0))
            if largest > limit:
                message = (
                    f"input {name!r} has the value {largest:.3g}, but {self._file} gives numbers "
                    f"only up to {limit:.3g}, as was measured at export: scale the values, or use "
                    f"the other format of this bundle"
                )
                raise InputError(message)

    def _remark(self, outputs: Sequence[AnyArray]) -> None:
        for n, name in self._outputs:
            values = outputs[n]
            if math.isnan(np.vdot(values, values)):  # see `has_nan`; a step takes microseconds
                self._has_warned = True
                message = (
                    f"output {name!r} of {self._file} has NaN, though no input has: Keras divides "
                    f"by zero there too, as for a row without valid steps, or a number was too "
                    f"large for float32. This is reported once for a model or a stream"
                )
                warnings.warn(message, RuntimeWarning, stacklevel=2)
                return


class _LimitedRun:
    """Runs that keep their states, within the limits of a session; see `StateRun`."""

    def __init__(self, session: LimitedSession, run: StateRun) -> None:
        self._run = run
        self.run = functools.partial(session.limited, run.run)
        """Run the file once; see `LimitedSession.run`."""

    @property
    def states(self) -> list[AnyArray]:
        """See `StateRun.states`."""
        return self._run.states


def _without_denormals(array: AnyArray) -> AnyArray:
    small = np.abs(array) < _SMALLEST_NORMAL
    return np.where(small, array.dtype.type(0), array) if small.any() else array
