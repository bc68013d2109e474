"""The command export-bilstm."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Sequence

# Nothing heavy is imported before an interrupt can be reported.
from bilstm_runtime.cli.interrupts import Interrupts

# The packages that the extra "export" installs.
_NEEDED = ("tensorflow", "keras", "tf2onnx", "onnx", "onnx_ir", "h5py", "rich")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    interrupts = Interrupts(silent=True)
    interrupts.outcome = "nothing was written"
    code = 0
    with interrupts.recorded():
        try:
            code = _run(argv, interrupts)
        except BaseException:
            if not interrupts.number:  # an interrupted import may raise any error
                raise
    if interrupts.number:
        code = interrupts.report("export-bilstm")
    if argv is None and "tensorflow" in sys.modules:  # this process is the command
        # At a normal exit, TensorFlow takes a second to release its objects, and those that an
        # interrupt left half-finished report their destruction.
        with contextlib.suppress(OSError):  # a closed pipe; the normal exit reports it
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def _run(argv: Sequence[str] | None, interrupts: Interrupts) -> int:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"export-bilstm: error: exporting needs {', '.join(missing)}, which the runtime alone "
            f'does not install: pip install "bilstm-edge[export]"\n'
        )
        return 3
    from bilstm_exporter.cli.export import run_guarded  # noqa: PLC0415 - needs rich

    return run_guarded(argv, interrupts)
