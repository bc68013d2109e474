"""What runs in a fresh process and prints JSON.

A cold start can be measured only once in a process, and memory only where nothing else was
loaded before. And a profiler that crashes takes only this process with it.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import bilstm_runtime

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND: Final = (
    "import time; started = time.monotonic_ns(); "
    "import bilstm_runtime; imported = time.monotonic_ns(); "
    "from bilstm_bench.child import main; main(started, imported)"
)
"""What Python is asked to run; the task is its argument."""

_STEADY_RUNS = 20


def cold(task: dict[str, Any]) -> dict[str, Any]:
    """Load a model and answer for the first time.

    Args:
        task: `bundle`, `file`, `backend`, `recipe`, `threads`, `length`, `batch`, `padding`,
            `seed`.

    Returns:
        `load_ns` and `first_ns`, and the resident bytes after each step: `imported_bytes`,
        `loaded_bytes`, `steady_bytes`, `peak_bytes` (null where the system does not tell).
    """
    from bilstm_bench.memory import peak_bytes, resident_bytes  # noqa: PLC0415

    imported_bytes = resident_bytes()
    begin_load = time.monotonic_ns()
    model = bilstm_runtime.load(
        task["bundle"], backend=task["backend"], recipe=task["recipe"], threads=task["threads"]
    )
    loaded = time.monotonic_ns()
    loaded_bytes = resident_bytes()
    inputs = _inputs(task)
    begin_answer = time.monotonic_ns()
    model.predict(inputs)
    first = time.monotonic_ns() - begin_answer
    for _ in range(_STEADY_RUNS):
        model.predict(inputs)
    return {
        "load_ns": loaded - begin_load,
        "first_ns": first,
        "imported_bytes": imported_bytes,
        "loaded_bytes": loaded_bytes,
        "steady_bytes": resident_bytes(),
        "peak_bytes": peak_bytes(),
    }


def profile(task: dict[str, Any]) -> dict[str, Any]:
    """Profile one model file; see `bilstm_bench.profiling`."""
    from bilstm_bench.profiling import profile_here  # noqa: PLC0415

    return profile_here(task)


def _inputs(task: dict[str, Any]) -> Any:
    from bilstm_bench.plan import Shape  # noqa: PLC0415
    from bilstm_bench.random_inputs import make_inputs  # noqa: PLC0415
    from bilstm_runtime.bundle.folder import open_bundle  # noqa: PLC0415

    shape = Shape(task["length"], task["batch"])
    manifest = open_bundle(task["bundle"]).manifest
    return make_inputs(manifest, shape, padding=task["padding"], seed=task["seed"])


TASKS: Final[dict[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "cold": cold,
    "profile": profile,
}


def main(started: int, imported: int) -> None:
    """Do the task that the only argument describes, and print its result as one line of JSON.

    Args:
        started: The monotonic time in nanoseconds when the interpreter began.
        imported: The same when `bilstm_runtime` was imported.
    """
    task = json.loads(sys.argv[1])
    try:
        result = TASKS[task["task"]](task)
    except (bilstm_runtime.BilstmRuntimeError, OSError, MemoryError) as error:
        result = {"error": " ".join(str(error).split()) or type(error).__name__}
    result |= {"started_ns": started, "imported_ns": imported}
    sys.stdout.write(json.dumps(result) + "\n")
