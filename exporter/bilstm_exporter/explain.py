"""``--explain``: build and check every format of a model, and write nothing."""

from __future__ import annotations

from typing import Any

from bilstm_exporter.artifacts import build_formats
from bilstm_exporter.errors import ExportError
from bilstm_exporter.explanation import Explanation
from bilstm_exporter.inspection.description import describe
from bilstm_exporter.inspection.prepared import prepare
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.progress import Listener, Stages


def explain(model: Any, options: ExportOptions, listener: Listener | None = None) -> Explanation:
    """Say of every layer what it becomes in each format, or what refuses it.

    Raises:
        ExportError: The model cannot be read, and its file does not say which layer it is.
    """
    stages = Stages(listener)
    try:
        prepared = prepare(model, options, stages)
        manifest, _ = describe(prepared)
    except ExportError as error:
        if error.explanation is None:
            raise
        return error.explanation
    _, attempts = build_formats(prepared, manifest, options, stages)
    return attempts.explanation()
