"""What `speed.py` says: a Markdown table, line by line as cases end, and JSON."""

from __future__ import annotations

import dataclasses
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from bilstm_runtime.device import this_device
from speed_measuring import Case, Measured, describe_method

PACKAGES = (
    "numpy", "keras", "tensorflow", "tf_keras", "tf2onnx", "onnx", "onnxruntime",
    "ai-edge-litert", "torch", "openvino",
)  # fmt: skip
HEADINGS = ("row", "case", "figure", "95 % interval", "bar", "verdict", "notes")


@dataclass(frozen=True)
class Finding:
    """What came of a case.

    Attributes:
        row: The name of its row.
        case: It.
        measured: What measuring gave; None where that failed.
        failure: ``"refused"``, ``"not measured"`` or ``"failed"``, where there is no figure.
        reason: Why.
    """

    row: str
    case: Case
    measured: Measured | None
    failure: str = ""
    reason: str = ""

    @property
    def verdict(self) -> str:
        """Met, missed or told; with a question mark where the interval reaches over the bar."""
        if self.measured is None:
            return self.failure
        bar, figure = self.case.bar, self.measured.figure
        if bar is None:
            return "told"
        met = bar.admits(figure.value)
        sure = bar.admits(figure.low) == bar.admits(figure.high) == met
        return ("met" if met else "missed") + ("" if sure else "?")

    def line(self) -> str:
        """A line of the Markdown table."""
        bar = "" if self.case.bar is None else str(self.case.bar)
        if self.measured is None:
            cells = [self.row, self.case.name, "", "", bar, self.verdict, self.reason]
        else:
            figure = self.measured.figure
            value = f"{figure.value:.3g} {self.case.unit}"
            interval = f"{figure.low:.3g} to {figure.high:.3g}"
            note = self.measured.note
            cells = [self.row, self.case.name, value, interval, bar, self.verdict, note]
        return _cells(cells)

    def to_dict(self) -> dict[str, Any]:
        """For the JSON."""
        bar = self.case.bar
        found: dict[str, Any] = {
            "row": self.row,
            "case": self.case.name,
            "unit": self.case.unit,
            "bar": None if bar is None else {"value": bar.value, "at_most": bar.at_most},
            "verdict": self.verdict,
        }
        if self.measured is None:
            return found | {"reason": self.reason}
        return found | {
            "figure": dataclasses.asdict(self.measured.figure),
            "details": self.measured.details,
        }


def describe_machine() -> dict[str, Any]:
    """What it was measured on."""
    device = this_device()
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "processor": device.processor,
        "architecture": device.machine,
        "cores": device.cores,
        "system": platform.platform(),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": versions,
    }


def header(machine: dict[str, Any], rounds: int, processes: int) -> str:
    """What stands above the table, and its headings."""
    found = [f"{n} {v or 'missing'}" for n, v in machine["versions"].items()]
    versions = ", ".join([f"Python {machine['python']}", *found])
    load = "unknown" if machine["load"] is None else machine["load"][0]
    rule = _cells(["---"] * len(HEADINGS))
    return (
        f"{machine['processor']} ({machine['architecture']}), {machine['cores']} cores, load "
        f"before the run {load}; {versions}. One thread unless said; {rounds} interleaved rounds, "
        f"{processes} fresh processes; medians of the ratios within rounds.\n\n"
        f"{_cells(HEADINGS)}\n{rule}"
    )


def document(
    machine: dict[str, Any], rounds: int, processes: int, findings: list[Finding]
) -> dict[str, Any]:
    """All of it, for the JSON."""
    return {
        "machine": machine,
        "threads": 1,
        "rounds": rounds,
        "processes": processes,
        "method": describe_method(),
        "findings": [finding.to_dict() for finding in findings],
    }


def _cells(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
