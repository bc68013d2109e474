"""How near an answer must come to Keras's, said once, and the one way to compare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bilstm_runtime.comparison import Tolerance, compare

# float32 keeps 24 bits, 6e-8 of a value. A few hundred steps of sums over some hundred
# units, in another order than Keras's, lose up to three decimal digits of that; what is
# wrong by more than this is not rounding. docs/numerics.md has the measurements.
TOLERANCE = Tolerance(absolute=1e-5, relative=1e-4)
_EXACT = Tolerance(absolute=0.0, relative=0.0)


@dataclass(frozen=True)
class Difference:
    """How far an answer is from the reference.

    Attributes:
        absolute: The largest ``|answer - reference|``.
        ratio: The largest error as a multiple of what the tolerance allows there;
            at most 1 passes. Infinite for another shape or dtype, or where only one is a number.
        reason: What is wrong if it is not a matter of size, else "".
    """

    absolute: float
    ratio: float
    reason: str = ""


def difference(
    answer: np.ndarray, reference: np.ndarray, tolerance: Tolerance = TOLERANCE
) -> Difference:
    """Compare one output; integers and booleans must be equal."""
    if answer.shape != reference.shape:
        return _never(f"shape {answer.shape}, where Keras gives {reference.shape}")
    if answer.dtype != reference.dtype:
        return _never(f"dtype {answer.dtype}, where Keras gives {reference.dtype}")
    if reference.dtype.kind != "f":
        found = compare(answer, reference, _EXACT)
        return Difference(found.max_abs_error, found.max_error_ratio)
    finite = np.isfinite(reference)
    if not np.array_equal(answer[~finite], reference[~finite], equal_nan=True):
        return _never("a number, where Keras gives NaN or infinity")
    if not np.isfinite(answer[finite]).all():
        return _never("NaN or infinity, where Keras gives a number")
    found = compare(answer[finite], reference[finite], tolerance)
    return Difference(found.max_abs_error, found.max_error_ratio)


def _never(reason: str) -> Difference:
    return Difference(np.inf, np.inf, reason)
