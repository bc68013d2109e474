"""The command export-bilstm."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

# The packages that the extra "export" installs.
_NEEDED = ("tensorflow", "keras", "tf2onnx", "onnx", "onnx_ir", "h5py", "rich")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"export-bilstm: error: exporting needs {', '.join(missing)}, which the runtime alone "
            f'does not install: pip install "bilstm-edge[export]"\n'
        )
        return 3
    from bilstm_exporter.cli.export import main as export_main  # noqa: PLC0415 - needs rich

    return export_main(argv)
