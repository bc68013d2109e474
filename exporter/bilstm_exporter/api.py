"""The door to the exporter, light enough to import without TensorFlow."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from bilstm_exporter.options import ExportOptions

if TYPE_CHECKING:
    from bilstm_exporter.progress import Listener
    from bilstm_exporter.report import ExportReport


def export(
    model: Any,
    out: str | os.PathLike[str] | None = None,
    *,
    progress: Listener | None = None,
    **options: Any,
) -> ExportReport:
    """Export a trained Keras model to a bundle that runs without TensorFlow.

    Args:
        model: A Keras model, or the path of a saved one.
        out: The bundle's folder; by default ``<model>-edge`` in the current folder.
        progress: Called with the name of each stage as it begins.
        **options: The attributes of :class:`bilstm_exporter.options.ExportOptions`.

    Returns:
        What was written, and what the checks against Keras found.

    Raises:
        ExportError: Each cause has its class in :mod:`bilstm_exporter.errors`. Nothing
            is written then.

    Example:
        >>> report = export("model.keras", overwrite=True)  # doctest: +SKIP
        >>> report.artifacts[0].parity.max_abs_error  # doctest: +SKIP
        2.4e-07
    """
    checked = ExportOptions(**options)
    from bilstm_exporter.pipeline import run_export  # noqa: PLC0415 - loads TensorFlow

    return run_export(model, out, checked, progress)
