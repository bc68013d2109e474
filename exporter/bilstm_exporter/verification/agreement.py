"""How near a quantized artifact stays to Keras on the probes: measured, and never NaN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from bilstm_exporter.errors import ParityError
from bilstm_exporter.inspection.probes import Probe
from bilstm_exporter.verification.parity import Run
from bilstm_exporter.verification.tolerance import TOLERANCE, difference
from bilstm_runtime.comparison import Tolerance

# Another processor sums in another order, which a quantized activation next to the middle
# between two integers turns into a whole step: check-bilstm allows a single number twice what was
# measured here. What tells a wrong file is how far all numbers are from its own answers.
_ELSEWHERE = 2.0


@dataclass(frozen=True)
class Agreement:
    """The outcome of all probes on an artifact that is not meant to be exact.

    Attributes:
        probes: How many probes were run, each of them twice.
        max_abs_error: Over all probes and float outputs.
        mean_abs_error: The same on average.
        relative_error: Root mean square of the error over that of Keras's answers.
        worst_probe: Where the largest error was.
        worst_output: Which output it was.
    """

    probes: int
    max_abs_error: float
    mean_abs_error: float
    relative_error: float
    worst_probe: str
    worst_output: str

    def to_dict(self) -> dict[str, object]:
        """For the manifest."""
        return asdict(self)

    @property
    def nearness(self) -> str:
        """How near it comes, in words."""
        return f"{self.relative_error:.2%} of answers"

    @property
    def verdict(self) -> str:
        """What the checks say, in a word: nothing is promised that could pass."""
        return "measured"

    @property
    def tolerance(self) -> Tolerance:
        """How near the artifact comes to Keras on another device."""
        allowed = _ELSEWHERE * self.max_abs_error + TOLERANCE.absolute
        return Tolerance(absolute=allowed, relative=TOLERANCE.relative)


def measure_agreement(
    file: str, run: Run, probes: Sequence[Probe], output_names: Sequence[str]
) -> Agreement:
    """Run every probe twice on one session, the second time in the opposite order.

    Args:
        file: The artifact, for messages.
        run: Runs it once.
        probes: With Keras's answers.
        output_names: For messages.

    Raises:
        ParityError: An answer has another shape or dtype than Keras's, is no number where
            Keras's is one, or is another the second time.
    """
    errors: list[np.ndarray] = []
    references: list[np.ndarray] = []
    worst = (-1.0, "", "")
    first: list[list[np.ndarray]] = []
    for probe in probes:
        answers = [np.asarray(answer) for answer in run(probe.inputs)]
        first.append(answers)
        for name, answer, reference in zip(output_names, answers, probe.outputs, strict=True):
            reason = difference(answer, reference).reason
            if reason:
                _refuse(file, name, probe.name, reason)
            if reference.dtype.kind != "f":
                continue
            finite = np.isfinite(reference)
            error = np.abs(answer[finite].astype(np.float64) - reference[finite])
            errors.append(error)
            references.append(reference[finite].astype(np.float64))
            worst = max(worst, (float(error.max(initial=0)), probe.name, name))
    for probe, before in zip(reversed(probes), reversed(first), strict=True):
        for name, answer, old in zip(output_names, run(probe.inputs), before, strict=True):
            if not np.array_equal(answer, old, equal_nan=old.dtype.kind == "f"):
                reason = "another answer the second time: something is kept between runs"
                _refuse(file, name, probe.name, reason)
    error, reference = _joined(errors), _joined(references)
    scale = float(np.sqrt(np.mean(np.square(reference)))) if reference.size else 0.0
    root = float(np.sqrt(np.mean(np.square(error)))) if error.size else 0.0
    return Agreement(
        probes=len(probes),
        max_abs_error=max(worst[0], 0.0),
        mean_abs_error=float(error.mean()) if error.size else 0.0,
        relative_error=root / scale if scale else root,
        worst_probe=worst[1],
        worst_output=worst[2],
    )


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays]) if arrays else np.zeros(0)


def _refuse(file: str, output: str, probe: str, reason: str) -> None:
    message = (
        f"{file} does not give Keras's answer: output {output!r} on the probe {probe!r} has "
        f"{reason}. No bundle was written; --recipes leaves this recipe out"
    )
    raise ParityError(message)
