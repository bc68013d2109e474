"""How close a quantized artifact comes to Keras on the probes: measured, and never NaN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bilstm_exporter.errors import ParityError
from bilstm_exporter.inspection.probes import Probe
from bilstm_exporter.keras_model import TOLERANCE
from bilstm_runtime.comparison import Difference, Run, Tolerance, compare, replay

# Another processor sums in another order, which a quantized activation halfway between two
# integers turns into a whole step: check-bilstm allows a single number twice the error that was
# measured here. A wrong file shows by how far all numbers are from its recorded outputs.
_OTHER_DEVICE_FACTOR = 2.0


@dataclass(frozen=True)
class Agreement:
    """The comparison of one artifact that is not meant to be exact with Keras on all probes.

    Attributes:
        probes: How many probes were run, each of them twice.
        max_abs_error: Over all probes and float outputs.
        mean_abs_error: Over the same.
        relative_error: The root mean square of the error as a fraction of that of Keras's outputs.
        worst_probe: Where the largest error was.
        worst_output: Which output it was.
    """

    probes: int
    max_abs_error: float
    mean_abs_error: float
    relative_error: float
    worst_probe: str
    worst_output: str

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)

    @property
    def closeness(self) -> str:
        """The typical error in words."""
        return f"{self.relative_error:.2%} of outputs"

    @property
    def result(self) -> str:
        """The outcome in a word: nothing is promised that could pass."""
        return "measured"

    @property
    def tolerance(self) -> Tolerance:
        """How close the artifact must come to Keras on another device."""
        allowed = _OTHER_DEVICE_FACTOR * self.max_abs_error + TOLERANCE.absolute
        return Tolerance(absolute=allowed, relative=TOLERANCE.relative)


def measure_agreement(
    file: str, run: Run, probes: Sequence[Probe], output_names: Sequence[str]
) -> Agreement:
    """Replay the probes on one session, and measure the errors against Keras.

    Args:
        file: The artifact, for messages.
        run: Runs it once.
        probes: With Keras's outputs.
        output_names: For messages.

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
                what = "other values in the second run: something is kept between runs"
                raise _disagreement(file, name, probe.name, what)
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


def _disagreement(file: str, output: str, probe: str, what: str) -> ParityError:
    return ParityError(
        f"{file} does not reproduce Keras's outputs: output {output!r} on the probe {probe!r} has "
        f"{what}. No bundle was written; --recipes leaves this recipe out"
    )
