"""Checks that an exact artifact reproduces Keras's outputs, and measures its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bilstm_exporter.errors import ParityError
from bilstm_exporter.inspection.probes import Probe, ProbeSet
from bilstm_exporter.keras_model import TOLERANCE
from bilstm_runtime.comparison import Run, compare, replay
from bilstm_runtime.sampling import FLOAT_ENDS


@dataclass(frozen=True)
class Parity:
    """The comparison of one artifact with Keras on all probes.

    Attributes:
        probes: The number of probes, each of which was run twice.
        max_abs_error: The largest absolute error over all probes and outputs.
        max_error_ratio: The largest error as a multiple of the tolerance.
        worst_probe: The probe with the largest ratio.
        worst_output: The output with the largest ratio.
        reason: The mismatch, such as another shape, if it is not a numeric error.
        failures: For each probe with an output outside of the tolerance, by name, the artifact's
            outputs in the runs that failed.
    """

    probes: int
    max_abs_error: float = 0.0
    max_error_ratio: float = -1.0
    worst_probe: str = ""
    worst_output: str = ""
    reason: str = ""
    failures: Mapping[str, Sequence[Sequence[np.ndarray]]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def passed(self) -> bool:
        """Whether every output is within the tolerance."""
        return self.max_error_ratio <= 1

    @property
    def closeness(self) -> str:
        """The largest error in words."""
        return f"{self.max_error_ratio:.1%} of tolerance"

    @property
    def result(self) -> str:
        """The outcome in a word."""
        return "pass" if self.passed else "FAIL"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for the manifest."""
        return {
            "probes": self.probes,
            "max_abs_error": self.max_abs_error,
            "max_error_ratio": self.max_error_ratio,
            "worst_probe": self.worst_probe,
            "worst_output": self.worst_output,
        }


def measure_parity(run: Run, probes: Sequence[Probe], output_names: Sequence[str]) -> Parity:
    """Replay the probes on one session, and compare every output with Keras's.

    Args:
        run: Runs the artifact once.
        probes: The probes, with Keras's outputs.
        output_names: The names of the outputs, for the report.
    """
    first, second = replay(run, probes)
    largest = 0.0
    worst = Parity(len(probes))
    failed: dict[str, list[Sequence[np.ndarray]]] = {}
    for probe, outputs in zip((*probes, *probes), (*first, *second), strict=True):
        passed = True
        for name, output, reference in zip(output_names, outputs, probe.outputs, strict=True):
            found = compare(output, reference, TOLERANCE)
            largest = max(largest, found.max_abs_error)
            passed &= found.passed
            if found.max_error_ratio > worst.max_error_ratio:
                ratio, reason = found.max_error_ratio, found.mismatch
                worst = Parity(len(probes), largest, ratio, probe.name, name, reason)
        if not passed:
            failed.setdefault(probe.name, []).append(outputs)
    return replace(worst, max_abs_error=largest, failures=failed)


def conditioned_parity(run: Run, probes: ProbeSet, output_names: Sequence[str]) -> Parity:
    """Measure parity, and leave out badly conditioned probes as long as an output differs.

    Args:
        run: Runs the artifact once.
        probes: The probes; those that are left out stay so for other artifacts.
        output_names: The names of the outputs, for the report.

    Returns:
        The last comparison. It may have no probes left: `require_parity` raises then.
    """
    parity = measure_parity(run, probes.probes, output_names)
    while not parity.passed and probes.keep_well_conditioned(parity.failures):
        parity = measure_parity(run, probes.probes, output_names)
    return parity


def largest_input(run: Run, large: Mapping[float, Probe]) -> float | None:
    """Find the largest value of float inputs for which an artifact gives numbers, as Keras does.

    Args:
        run: Runs the artifact once.
        large: Probes by their largest absolute value, which rises.

    Returns:
        The largest value that was tested before the first output that is NaN or infinite; None if
        there is none.
    """
    tested = FLOAT_ENDS[1]
    for value, probe in large.items():
        for output, reference in zip(run(probe.inputs), probe.outputs, strict=True):
            array = np.asarray(output)
            if reference.dtype.kind == "f" and not np.isfinite(array).all():
                return tested
        tested = value
    return None


def require_parity(file: str, parity: Parity, values_tried: Sequence[str] = ()) -> None:
    """Raise if an artifact does not reproduce Keras's outputs.

    Args:
        file: The artifact's file name.
        parity: The comparison.
        values_tried: The distributions of the inputs that were tried, for the message.

    Raises:
        ParityError: The outputs differ, or no probe could be compared.
    """
    if parity.passed and parity.probes:
        return
    if not parity.probes:
        tried = f" Values tried: {', '.join(values_tried)}." if values_tried else ""
        message = (
            f"{file} could not be compared with Keras: on every probe Keras's own output is badly "
            f"conditioned or not finite, as in a model that was never trained or that diverges."
            f"{tried} Give examples of real inputs with --data; they are then probes too"
        )
        raise ParityError(message)
    problem = parity.reason or (
        f"an error {parity.max_error_ratio:.3g} times the tolerance "
        f"(largest absolute error {parity.max_abs_error:.3g})"
    )
    message = (
        f"{file} does not reproduce Keras's outputs: output {parity.worst_output!r} on the probe "
        f"{parity.worst_probe!r} has {problem}. No bundle was written. Please report the model's "
        f"layers; --formats leaves this format out"
    )
    raise ParityError(message)
