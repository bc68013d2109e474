"""Measures the error of a quantized artifact against Keras on the probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bilstm_exporter.errors import ParityError
from bilstm_exporter.inspection.probes import Probe
from bilstm_exporter.keras_model import TOLERANCE
from bilstm_runtime.comparison import Difference, Run, Tolerance, compare, replay

# Another processor sums in another order. For a quantized activation halfway between two
# integers, that changes the result by a whole step. check-bilstm therefore allows each number
# twice the error measured here, and finds a wrong file by the error over all recorded outputs.
_OTHER_DEVICE_FACTOR = 2.0


@dataclass(frozen=True)
class Agreement:
    """The comparison of one quantized artifact with Keras on all probes.

    Attributes:
        probes: The number of probes, each of which was run twice.
        max_abs_error: The largest absolute error over all probes and float outputs.
        mean_abs_error: The mean absolute error over the same values.
        relative_error: The root mean square error as a fraction of the root mean square of
            Keras's outputs.
        worst_probe: The probe with the largest error.
        worst_output: The output with the largest error.
    """

    probes: int
    max_abs_error: float
    mean_abs_error: float
    relative_error: float
    worst_probe: str
    worst_output: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for the manifest."""
        return asdict(self)

    @property
    def closeness(self) -> str:
        """The typical error in words."""
        return f"{self.relative_error:.2%} of outputs"

    @property
    def result(self) -> str:
        """The outcome in a word; there is no tolerance to pass."""
        return "measured"

    @property
    def tolerance(self) -> Tolerance:
        """The tolerance for the comparison with Keras on another device."""
        allowed = _OTHER_DEVICE_FACTOR * self.max_abs_error + TOLERANCE.absolute
        return Tolerance(absolute=allowed, relative=TOLERANCE.relative)


def measure_agreement(
    file: str, run: Run, probes: Sequence[Probe], output_names: Sequence[str]
) -> Agreement:
    """Replay the probes on one session, and measure the errors against Keras.

    Args:
        file: The artifact's file name, for messages.
        run: Runs the artifact once.
        probes: The probes, with Keras's outputs.
        output_names: The names of the outputs, for messages.

    Raises:
        ParityError: An output has another shape or dtype than Keras's, is not a number where
            Keras's is one, or differs between the two runs.
    """
    first, second = replay(run, probes)
    total = Difference()
    worst = (-1.0, "", "")
    for probe, outputs, again in zip(probes, first, second, strict=True):
        for name, output, repeated, reference in zip(
            output_names, outputs, again, probe.outputs, strict=True
        ):
            found = compare(output, reference, TOLERANCE)
            if found.mismatch:
                raise _disagreement(file, name, probe.name, found.mismatch)
            if not np.array_equal(output, repeated, equal_nan=output.dtype.kind == "f"):
                problem = "other values in the second run: something is kept between runs"
                raise _disagreement(file, name, probe.name, problem)
            if reference.dtype.kind == "f":
                total += found
                worst = max(worst, (found.max_abs_error, probe.name, name))
    return Agreement(
        probes=len(probes),
        max_abs_error=max(worst[0], 0.0),
        mean_abs_error=total.mean_abs_error,
        relative_error=total.relative_rms_error,
        worst_probe=worst[1],
        worst_output=worst[2],
    )


def _disagreement(file: str, output: str, probe: str, problem: str) -> ParityError:
    return ParityError(
        f"{file} does not reproduce Keras's outputs: output {output!r} on the probe {probe!r} has "
        f"{problem}. No bundle was written; --recipes leaves this recipe out"
    )
