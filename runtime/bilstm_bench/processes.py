"""Runs tasks in fresh processes, and measures cold starts and memory in them.

A cold start happens once per process, and memory can be attributed to a model only if nothing
else was loaded before. If a profiler crashes, only its own process ends.

A child process imports this module before it measures the loading time. Therefore modules that
`bilstm_runtime` does not import are imported within functions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import bilstm_runtime
from bilstm_runtime.errors import BilstmRuntimeError, ChildProcessFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bilstm_bench.plan import Plan, Shape, Variant
    from bilstm_runtime.bundle.folder import Bundle

    Task = Callable[[dict[str, Any]], dict[str, Any]]

COMMAND: Final = (
    "import time; started = time.monotonic_ns(); "
    "import bilstm_runtime; imported = time.monotonic_ns(); "
    "from bilstm_bench.processes import main; main(started, imported)"
)
"""The Python code of a child process; its argument is the task."""

TIME_LIMIT_S: Final = 900
MEMORY_MISSING: Final = (
    'Memory is not measured: psutil is not installed. Install it: pip install "bilstm-edge[bench]".'
)
_STEADY_RUNS: Final = 20
_ROOT: Final = Path(bilstm_runtime.__file__).resolve().parents[1]
"""The folder that contains this package. Child processes start there, because Python first looks
for modules in its working directory, and a user's folder may contain a `json.py`."""


@dataclass(frozen=True)
class Range:
    """The median, minimum and maximum of some values."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Start:
    """The measurements of one model file on one backend in fresh processes.

    Attributes:
        variant: The file, backend and number of threads.
        bytes: The size of the file.
        runs: The number of processes.
        cold_ms: From starting a process to the first output, in milliseconds.
        start_ms: The part until Python itself runs.
        import_ms: The part that imports `bilstm_runtime`, with numpy.
        load_ms: The part in `bilstm_runtime.load`, which imports the backend.
        first_ms: The part in the first `predict`.
        imported_bytes: Resident memory before loading; None if it cannot be read.
        loaded_bytes: Resident memory after loading.
        steady_bytes: Resident memory after some predictions.
        peak_bytes: The maximum of resident memory.
        failure: The reason why it could not be measured; empty if it was.
    """

    variant: Variant
    bytes: int
    runs: int = 0
    cold_ms: Range | None = None
    start_ms: Range | None = None
    import_ms: Range | None = None
    load_ms: Range | None = None
    first_ms: Range | None = None
    imported_bytes: Range | None = None
    loaded_bytes: Range | None = None
    steady_bytes: Range | None = None
    peak_bytes: Range | None = None
    failure: str = ""


@dataclass(frozen=True)
class Finished:
    """The result of a fresh process.

    Attributes:
        result: The result of the task, with `started_ns` and `imported_ns`.
        begin_ns: The monotonic time in nanoseconds at which the process was requested.
        memory: By stage of the task, the resident and the peak memory in bytes; see `stage`.
    """

    result: dict[str, Any]
    begin_ns: int
    memory: dict[str, tuple[int | None, int | None]]


@dataclass
class _Collected:
    values: dict[str, list[float]] = field(default_factory=dict)
    runs: int = 0
    failure: str = ""


def measure_starts(
    bundle: Bundle,
    plan: Plan,
    *,
    runs: int,
    into: list[Start],
    progress: Callable[[str], None],
) -> None:
    """Start processes for every file and backend in turn, `runs` times each.

    Args:
        bundle: The bundle.
        plan: The plan. Its median input is run, with its first number of threads.
        runs: Processes for each file and backend.
        into: Receives the results, including partial results if the user interrupts.
        progress: Called with a description of each step.
    """
    variants = plan.unthreaded
    collected = {variant: _Collected() for variant in variants}
    try:
        for number in range(runs):
            for variant in variants:
                found = collected[variant]
                if found.failure:
                    continue
                progress(f"cold start {number + 1} of {runs}: {variant.label}")
                try:
                    _add(found, cold_start(task_of(bundle, plan, variant, plan.middle)))
                except ChildProcessFailedError as error:
                    found.failure = str(error)
    finally:
        into += [
            _start(bundle, variant, found)
            for variant, found in collected.items()
            if found.runs or found.failure
        ]


def task_of(bundle: Bundle, plan: Plan, variant: Variant, shape: Shape) -> dict[str, Any]:
    """Return the argument of a child process, as JSON values."""
    return {
        "bundle": str(bundle.folder.resolve()),
        "sha256": bundle.sha256 or None,
        "variant": dataclasses.asdict(variant),
        "shape": dataclasses.asdict(shape),
        "padding": plan.padding,
        "seed": plan.seed,
    }


def cold_start(task: dict[str, Any]) -> dict[str, float]:
    """Load a model and predict in a fresh process; see `task_of`.

    Returns:
        The members of `Start` that end with `_ms` and `_bytes`, without memory that cannot be
        read. The times do not include making the input and reading memory.

    Raises:
        ChildProcessFailedError: The process failed.
    """
    done = run_in_fresh_process(load_and_predict, task)
    found = done.result
    loaded = found["load_ns"] + found["first_ns"]
    values: dict[str, float | None] = {
        "cold_ms": (found["imported_ns"] - done.begin_ns + loaded) / 1e6,
        "start_ms": (found["started_ns"] - done.begin_ns) / 1e6,
        "import_ms": (found["imported_ns"] - found["started_ns"]) / 1e6,
        "load_ms": found["load_ns"] / 1e6,
        "first_ms": found["first_ns"] / 1e6,
        "imported_bytes": done.memory["imported"][0],
        "loaded_bytes": done.memory["loaded"][0],
        "steady_bytes": done.memory["steady"][0],
        "peak_bytes": done.memory["steady"][1],
    }
    return {name: value for name, value in values.items() if value is not None}


def run_in_fresh_process(
    function: Task, task: dict[str, Any], *, time_limit_s: float = TIME_LIMIT_S
) -> Finished:
    """Call a function in a fresh process.

    Args:
        function: A function at the top of a module; takes and returns JSON values.
        task: Its argument.
        time_limit_s: The process is stopped after this many seconds.

    Raises:
        ChildProcessFailedError: The process crashed, did not finish in time, or raised an error.
    """
    import subprocess  # noqa: PLC0415 (see above)
    import tempfile  # noqa: PLC0415
    import threading  # noqa: PLC0415

    whole = {**task, "module": function.__module__, "function": function.__name__}
    command = [sys.executable, "-c", COMMAND, json.dumps(whole)]
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile() as errors:
        begin = time.monotonic_ns()
        try:
            process = subprocess.Popen(  # noqa: S603 (this Python, this package)
                command, stdin=pipe, stdout=pipe, stderr=errors, cwd=_ROOT
            )
        except OSError as error:
            message = f"no fresh process could be started: {error}"
            raise ChildProcessFailedError(message) from error
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(time_limit_s, stop)
        timer.start()
        try:
            with process:
                result, memory = _converse(process)
        finally:
            process.kill()
            timer.cancel()
        if late.is_set():
            message = f"the fresh process did not finish within {time_limit_s:g} s and was stopped"
            raise ChildProcessFailedError(message)
        if result is None or process.returncode:
            errors.seek(0)
            raise ChildProcessFailedError(_how_it_ended(process.returncode, errors.read()))
    if "error" in result:
        raise ChildProcessFailedError(str(result["error"]))
    return Finished(result, begin, memory)


def resident_bytes(pid: int | None = None) -> int | None:
    """Return the resident memory of a process in bytes (default: this one); None without psutil."""
    psutil = _psutil()
    if psutil is None:
        return None
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def peak_bytes(pid: int) -> int | None:
    """Return the peak resident memory of a process in bytes; None if it cannot be read.

    psutil reports it on Windows only. On macOS the process itself reads it, see `stage`. On Linux
    that would be wrong: `getrusage` of a child process starts with the peak of its parent.
    """
    psutil = _psutil()
    if psutil is None:
        return None
    with contextlib.suppress(psutil.Error, OSError, StopIteration):
        if sys.platform == "linux":
            lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
        peak: int | None = getattr(psutil.Process(pid).memory_info(), "peak_wset", None)
        return peak
    return None


def _psutil() -> Any:
    """Return the module psutil, an optional dependency; None if it is not installed."""
    try:
        return import_module("psutil")
    except ImportError:
        return None


def _converse(
    process: Any,
) -> tuple[dict[str, Any] | None, dict[str, tuple[int | None, int | None]]]:
    """Read the memory of a child at each of its stages, then its result."""
    memory: dict[str, tuple[int | None, int | None]] = {}
    for line in process.stdout:
        try:
            message = json.loads(line)
        except ValueError:
            continue  # printed by a library
        if not isinstance(message, dict):
            continue
        if "result" in message:
            return message["result"], memory
        if "stage" in message:
            peak = message.get("peak_bytes", None) or peak_bytes(process.pid)
            memory[message["stage"]] = resident_bytes(process.pid), peak
            with contextlib.suppress(OSError):  # it crashed meanwhile
                process.stdin.write(b"\n")
                process.stdin.flush()
    return None, memory


def _how_it_ended(code: int, errors: bytes) -> str:
    """Describe a process that ended without a result."""
    import signal  # noqa: PLC0415 (see above)

    lines = errors.decode("utf-8", "replace").strip().splitlines()
    last = f": {lines[-1]}" if lines else ""
    if code >= 0:
        return f"the fresh process ended with code {code} and without a result{last}"
    name = str(-code)
    with contextlib.suppress(ValueError):
        name += f" ({signal.Signals(-code).name})"
    return f"the fresh process crashed with signal {name}{last}"


def _add(found: _Collected, values: dict[str, float]) -> None:
    for name, value in values.items():
        found.values.setdefault(name, []).append(value)
    found.runs += 1


def _start(bundle: Bundle, variant: Variant, found: _Collected) -> Start:
    import statistics  # noqa: PLC0415 (see above)

    artifacts = {artifact.file: artifact for artifact in bundle.manifest.artifacts}
    ranges = {
        name: Range(statistics.median(values), min(values), max(values))
        for name, values in found.values.items()
    }
    return Start(
        variant, artifacts[variant.file].bytes, found.runs, failure=found.failure, **ranges
    )


# What runs in the child process.


def main(started: int, imported: int) -> None:
    """Run the task in the command line's only argument; print its result as one line of JSON.

    Args:
        started: The monotonic time in nanoseconds when the interpreter began.
        imported: The same when `bilstm_runtime` was imported.
    """
    task = json.loads(sys.argv[1])
    try:
        function: Task = getattr(import_module(task["module"]), task["function"])
        result = function(task)
    except (BilstmRuntimeError, OSError, MemoryError) as error:
        result = {"error": " ".join(str(error).split()) or type(error).__name__}
    result |= {"started_ns": started, "imported_ns": imported}
    _send({"result": result})


def stage(name: str) -> None:
    """Let the parent process read the memory of this one."""
    message: dict[str, Any] = {"stage": name}
    if sys.platform == "darwin":
        import resource  # noqa: PLC0415 (not on Windows)

        message["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _send(message)
    sys.stdin.readline()


def load_and_predict(task: dict[str, Any]) -> dict[str, Any]:
    """Load a model and predict for the first time.

    Args:
        task: See `task_of`.

    Returns:
        `load_ns` and `first_ns`. The stages are "imported", "loaded" and "steady".
    """
    stage("imported")
    variant = task["variant"]
    begin_load = time.monotonic_ns()
    model = bilstm_runtime.load(
        task["bundle"],
        sha256=task["sha256"],
        backend=variant["backend"],
        recipe=variant["recipe"],
        threads=variant["threads"],
    )
    load_ns = time.monotonic_ns() - begin_load
    stage("loaded")
    from bilstm_bench.plan import Shape, make_inputs  # noqa: PLC0415 (see above)

    shape = Shape(**task["shape"])
    inputs = make_inputs(model.spec, shape, padding=task["padding"], seed=task["seed"])
    begin_first = time.monotonic_ns()
    model.predict(inputs)
    first_ns = time.monotonic_ns() - begin_first
    for _ in range(_STEADY_RUNS):
        model.predict(inputs)
    stage("steady")
    return {"load_ns": load_ns, "first_ns": first_ns}


def _send(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
