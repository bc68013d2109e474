"""Whether an artifact gives Keras's answer, and by how much it misses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bilstm_exporter.errors import ParityError
from bilstm_exporter.inspection.probes import Probe
from bilstm_exporter.verification.tolerance import difference

Run = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Parity:
    """The outcome of all probes on one artifact.

    Attributes:
        probes: How many probes were run, each of them twice.
        max_abs_error: Over all probes and outputs.
        max_error_ratio: The same as a multiple of the tolerance.
        worst_probe: Where that was.
        worst_output: Which output it was.
        reason: What is wrong if it is not a matter of size.
    """

    probes: int
    max_abs_error: float
    max_error_ratio: float
    worst_probe: str
    worst_output: str
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether every answer is within the tolerance."""
        return self.max_error_ratio <= 1

    @property
    def nearness(self) -> str:
        """How near it comes, in words."""
        return f"{self.max_error_ratio:.1%} of tolerance"

    @property
    def verdict(self) -> str:
        """What the checks say, in a word."""
        return "pass" if self.passed else "FAIL"

    def to_dict(self) -> dict[str, object]:
        """For the manifest."""
        return {
            "probes": self.probes,
            "max_abs_error": self.max_abs_error,
            "max_error_ratio": self.max_error_ratio,
            "worst_probe": self.worst_probe,
            "worst_output": self.worst_output,
        }


def check_parity(run: Run, probes: Sequence[Probe], output_names: Sequence[str]) -> Parity:
    """Run every probe twice on one session, the second time in the opposite order.

    What one run leaves behind for the next, as a state that is not reset, shows there.

    Args:
        run: Runs the artifact once.
        probes: With Keras's answers.
        output_names: For the report.
    """
    worst = Parity(len(probes), 0.0, -1.0, "", "")
    largest = 0.0
    for probe in (*probes, *reversed(probes)):
        answers = run(probe.inputs)
        for name, answer, reference in zip(output_names, answers, probe.outputs, strict=True):
            found = difference(np.asarray(answer), reference)
            largest = max(largest, found.absolute)
            if found.ratio > worst.max_error_ratio:
                worst = Parity(len(probes), largest, found.ratio, probe.name, name, found.reason)
    return Parity(
        worst.probes,
        largest,
        worst.max_error_ratio,
        worst.worst_probe,
        worst.worst_output,
        worst.reason,
    )


def require(file: str, parity: Parity) -> None:
    """Raise if an artifact does not give Keras's answer.

    Raises:
        ParityError: Naming the output, the probe and the error.
    """
    if parity.passed and parity.probes:
        return
    if not parity.probes:
        message = (
            f"{file} could not be compared with Keras: on every probe Keras's own answer is "
            f"undecided or not finite, as in a model that was never trained or that diverges"
        )
        raise ParityError(message)
    what = parity.reason or (
        f"an error {parity.max_error_ratio:.3g} times the tolerance "
        f"(largest absolute error {parity.max_abs_error:.3g})"
    )
    message = (
        f"{file} does not give Keras's answer: output {parity.worst_output!r} on the probe "
        f"{parity.worst_probe!r} has {what}. No bundle was written. Please report the model's "
        f"layers; --formats leaves this format out"
    )
    raise ParityError(message)
