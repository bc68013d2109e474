"""The Python interface of the exporter, light enough to import without TensorFlow."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from bilstm_exporter.options import ExportOptions, ExportSettings

if TYPE_CHECKING:
    from bilstm_exporter.progress import Listener
    from bilstm_exporter.report import ExportReport

    if sys.version_info >= (3, 11):
        from typing import Unpack
    else:
        from typing_extensions import Unpack


def export(
    model: Any,
    out: str | os.PathLike[str] | None = None,
    *,
    progress: Listener | None = None,
    **options: Unpack[ExportSettings],
) -> ExportReport:
    """Export a trained Keras model to a bundle that runs without TensorFlow.

    Args:
        model: A Keras model, or the path of a saved one; None with ``builder``.
        out: The bundle's folder; by default ``<model>-edge`` in the current folder.
        progress: Called with the name of each stage when it starts.
        **options: The attributes of `bilstm_exporter.ExportOptions`.

    Returns:
        The files written, and the results of their comparison with Keras.

    Raises:
        ExportError: The export failed and nothing was written. `bilstm_exporter.errors` has a
            class for each cause.

    Example:
        >>> report = export("model.keras", overwrite=True)  # doctest: +SKIP
        >>> report.artifacts[0].parity.max_abs_error  # doctest: +SKIP
        2.4e-07
    """
    export_options = ExportOptions(**options)
    from bilstm_exporter.pipeline import run_export  # noqa: PLC0415 - loads TensorFlow
    from bilstm_exporter.report import FailedExport  # noqa: PLC0415 - the same

    outcome = run_export(model, out, export_options, progress)
    if isinstance(outcome, FailedExport):
        raise outcome.error
    return outcome
