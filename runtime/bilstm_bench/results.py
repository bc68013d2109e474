"""The results of a run of `bench-bilstm`, as plain data."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bilstm_runtime.device import this_device

if TYPE_CHECKING:
    from bilstm_bench.plan import Shape, Variant
    from bilstm_bench.processes import Start
    from bilstm_bench.profiling import Profile
    from bilstm_bench.soak import Soak
    from bilstm_bench.statistics import Comparison, Interval, Latency

JSON_FORMAT: Final = "bench-bilstm"
JSON_VERSION: Final = 1
_GOVERNOR: Final = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True)
class Case:
    """The measurements of one contender on one size of input.

    Attributes:
        name: The contender: a variant of the bundle, or a peer.
        variant: The variant; None for a peer.
        shape: The size of the input.
        latency: The latency of `predict`, or of the peer; None if it was not timed.
        bare: The latency of the backend's session, without the overhead of `predict`.
        first_ms: The first call after another contender, in milliseconds.
        per_second: Sequences per second, at this batch.
        comparison: The comparison with the baseline on the same input; None for the baseline.
        difference: For a peer, the largest absolute difference from the bundle's outputs.
        failure: The reason why it was not timed, or not to the end; empty if it was.
    """

    name: str
    variant: Variant | None
    shape: Shape
    latency: Latency | None = None
    bare: Latency | None = None
    first_ms: Interval | None = None
    per_second: float | None = None
    comparison: Comparison | None = None
    difference: float | None = None
    failure: str = ""


@dataclass(frozen=True)
class FileFacts:
    """A model file, and its error against Keras, as the exporter measured it.

    Attributes:
        file: Its name.
        recipe: How its numbers are stored.
        bytes: Its size in bytes.
        max_abs_error: The largest absolute error; None if the manifest does not have it.
    """

    file: str
    recipe: str
    bytes: int
    max_abs_error: float | None


@dataclass(frozen=True)
class Settings:
    """The settings of a measurement.

    Attributes:
        rounds: The number of rounds that were started.
        warm_up: A description of the calls before the first round.
        padding: The fraction of the steps that is padding.
        seed: The random seed for inputs and order.
        baseline: The variant that all others are compared with.
    """

    rounds: int
    warm_up: str
    padding: float
    seed: int
    baseline: Variant


@dataclass(frozen=True)
class Tuned:
    """The choice of `--tune`.

    Attributes:
        variant: The variant that `load` runs from now on; None if none was chosen.
        times_faster: The speedup over the default: the geometric mean over the inputs.
        why: The reason.
        file: The path of the tuning file; empty if nothing was stored.
        left_out: One sentence for each variant that could not be chosen, with the reason.
    """

    variant: Variant | None
    times_faster: float
    why: str
    file: str = ""
    left_out: tuple[str, ...] = ()


@dataclass
class Result:
    """All results; filled during the measurement, so that an interruption keeps them.

    Attributes:
        model: The name of the model.
        bundle: The bundle's folder, as the user gave it.
        machine: A description of the device, Python and the libraries.
        files: The model files.
        settings: The settings of the latencies; None if they were not measured.
        starts: The measurements in fresh processes.
        cases: The latencies.
        profiles: The times by operator.
        tuned: The choice for this device; None without `--tune`.
        soaks: The soaks.
        notes: What was not measured, with the reason.
        interrupted: Whether the user ended the run early.
        failure: Another reason why the run ended early; empty if there is none.
    """

    model: str
    bundle: str
    machine: dict[str, str]
    files: list[FileFacts] = field(default_factory=list)
    settings: Settings | None = None
    starts: list[Start] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    profiles: list[Profile] = field(default_factory=list)
    tuned: Tuned | None = None
    soaks: list[Soak] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False
    failure: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was measured at all."""
        timed = any(case.latency is not None for case in self.cases)
        started = any(start.runs for start in self.starts)
        profiled = any(profile.runs or profile.delegated for profile in self.profiles)
        return not (timed or started or profiled or self.soaks)


def describe_machine() -> dict[str, str]:
    """Describe the device, Python and the libraries, by name."""
    device = this_device()
    found = {
        "processor": device.processor or "unknown",
        "architecture": device.machine,
        "cores": str(device.cores),
        "system": platform.platform(),
        "Python": platform.python_version(),
        "numpy": np.__version__,
        **{f"backend {name}": version for name, version in device.backends.items()},
    }
    with contextlib.suppress(OSError):
        found["frequency governor"] = _GOVERNOR.read_text(encoding="utf-8").strip()
    if hasattr(os, "getloadavg"):
        found["load before"] = f"{os.getloadavg()[0]:.2f}"
    if sys.implementation.name != "cpython":
        found["Python"] += f" ({sys.implementation.name})"
    return found


def to_json(result: Result) -> dict[str, Any]:
    """Convert the result to JSON values; NaN and infinity become null.

    Within one `version`, members may be added, but not removed or changed.
    """
    members: dict[str, Any] = _plain(dataclasses.asdict(result))
    return {"format": JSON_FORMAT, "version": JSON_VERSION, **members}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
