"""Compares outputs with a reference, and replays cases; the basis of every check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from bilstm_runtime.spec import AnyArray, Tolerance

__all__ = ["EXACT", "Difference", "HasInputs", "Run", "Tolerance", "compare", "replay"]

Run: TypeAlias = Callable[[Sequence[AnyArray]], Sequence[AnyArray]]
"""Runs a model once: one array per input, one array per output."""


EXACT = Tolerance(absolute=0.0, relative=0.0)


@dataclass(frozen=True)
class Difference:
    """The difference between outputs and their references.

    Attributes:
        max_abs_error: The largest ``|output - reference|``; infinite for a mismatch.
        max_error_ratio: The largest error as a multiple of the tolerance for its value; at most 1
            passes. Infinite for a mismatch.
        mismatch: Another shape or dtype, or a number where the reference has none; or "".
        count: The number of finite floating-point values compared.
        sum_abs_error: The sum of the absolute errors of those values.
        sum_squared_error: The sum of the squared errors of those values.
        sum_squared_reference: The sum of the squared references of those values.
    """

    max_abs_error: float = 0.0
    max_error_ratio: float = 0.0
    mismatch: str = ""
    count: int = 0
    sum_abs_error: float = 0.0
    sum_squared_error: float = 0.0
    sum_squared_reference: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every value is within the tolerance."""
        return self.max_error_ratio <= 1

    @property
    def mean_abs_error(self) -> float:
        """The mean of ``|output - reference|``; 0 if nothing was compared."""
        return self.sum_abs_error / self.count if self.count else 0.0

    @property
    def rms_error(self) -> float:
        """The root mean square of the error; 0 if nothing was compared."""
        return float(np.sqrt(self.sum_squared_error / self.count)) if self.count else 0.0

    @property
    def rms_reference(self) -> float:
        """The root mean square of the references; 0 if nothing was compared."""
        return float(np.sqrt(self.sum_squared_reference / self.count)) if self.count else 0.0

    @property
    def relative_rms_error(self) -> float:
        """`rms_error` as a fraction of `rms_reference` (of 1 if that is 0)."""
        return self.rms_error / self.rms_reference if self.rms_reference else self.rms_error

    def __add__(self, other: Difference) -> Difference:
        """Combine two differences: the larger of each maximum, and the sum of each sum."""
        return Difference(
            max(self.max_abs_error, other.max_abs_error),
            max(self.max_error_ratio, other.max_error_ratio),
            self.mismatch or other.mismatch,
            self.count + other.count,
            self.sum_abs_error + other.sum_abs_error,
            self.sum_squared_error + other.sum_squared_error,
            self.sum_squared_reference + other.sum_squared_reference,
        )


def compare(output: AnyArray, reference: AnyArray, tolerance: Tolerance) -> Difference:
    """Compare one output with its reference; integers and booleans must be equal.

    Args:
        output: An array of any shape and dtype.
        reference: The expected array. Where it is NaN or infinite, the output must be the same.
        tolerance: The tolerance for floating-point values.
    """
    mismatch = _mismatch(output, reference)
    if mismatch:
        return Difference(max_abs_error=np.inf, max_error_ratio=np.inf, mismatch=mismatch)
    if reference.dtype.kind != "f":
        return _compared(output, reference, EXACT, is_float=False)
    finite = np.isfinite(reference)
    if finite.all():
        return _compared(output, reference, tolerance)
    return _compared(output[finite], reference[finite], tolerance)


def _mismatch(output: AnyArray, reference: AnyArray) -> str:
    """Describe a difference other than a numeric error; "" without one."""
    if output.shape != reference.shape:
        return f"shape {output.shape}, but the reference has {reference.shape}"
    if output.dtype != reference.dtype:
        return f"dtype {output.dtype}, but the reference has {reference.dtype}"
    if reference.dtype.kind != "f":
        return ""
    finite = np.isfinite(reference)
    if not np.array_equal(output[~finite], reference[~finite], equal_nan=True):
        return "a number, but the reference has NaN or infinity"
    if not np.isfinite(output[finite]).all():
        return "NaN or infinity, but the reference has a number"
    return ""


def _compared(
    output: AnyArray, reference: AnyArray, tolerance: Tolerance, *, is_float: bool = True
) -> Difference:
    found, expected = output.astype(np.float64), reference.astype(np.float64)
    error = np.abs(found - expected)
    bound = tolerance.absolute + tolerance.relative * np.abs(expected)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / bound)
    return Difference(
        max_abs_error=float(error.max(initial=0)),
        max_error_ratio=float(ratio.max(initial=0)),
        count=error.size if is_float else 0,
        sum_abs_error=float(error.sum()) if is_float else 0.0,
        sum_squared_error=float(np.square(error).sum()) if is_float else 0.0,
        sum_squared_reference=float(np.square(expected).sum()) if is_float else 0.0,
    )


class HasInputs(Protocol):
    """A case to replay: any object with the inputs of one run."""

    @property
    def inputs(self) -> Sequence[AnyArray]:
        """One array per input."""
        ...


def replay(
    run: Run, cases: Sequence[HasInputs]
) -> tuple[list[list[AnyArray]], list[list[AnyArray]]]:
    """Run all cases twice, the second time in reverse order.

    In the two passes, each case follows a different one. If a run leaves state for the next, the
    outputs of the passes differ.

    Args:
        run: Runs a model once.
        cases: The cases to run.

    Returns:
        The outputs of the first and of the second pass, both in the order of the cases.
    """
    first = [[np.asarray(output) for output in run(case.inputs)] for case in cases]
    second = [[np.asarray(output) for output in run(case.inputs)] for case in reversed(cases)]
    return first, second[::-1]
