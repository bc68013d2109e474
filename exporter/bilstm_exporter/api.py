"""The Python interface of the exporter, light enough to import without TensorFlow."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilstm_exporter.bundle.folder import check_creatable, check_writable, planned_folder
from bilstm_exporter.errors import MissingLibraryError, OptionError
from bilstm_exporter.evaluation.data import check_file
from bilstm_exporter.options import ExportOptions, ExportSettings
from bilstm_exporter.progress import captured_stderr

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

    If TensorFlow is not imported yet, this imports it with ``TF_CPP_MIN_LOG_LEVEL=3``, unless
    that variable is set.

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
    check_before_loading(model, out, export_options)
    _check_keras_backend()
    try:
        with _quiet_import():
            from bilstm_exporter.pipeline import run_export  # noqa: PLC0415 - loads TensorFlow
            from bilstm_exporter.report import FailedExport  # noqa: PLC0415 - the same
    except ModuleNotFoundError as error:
        message = (
            f"exporting needs {error.name}, which the runtime alone does not install: "
            f'pip install "bilstm-edge[export]"'
        )
        raise MissingLibraryError(message) from error

    _check_keras_backend()  # keras.json may name it
    outcome = run_export(model, out, export_options, progress)
    if isinstance(outcome, FailedExport):
        raise outcome.error
    return outcome


def _check_keras_backend() -> None:
    """Refuse a Keras that computes with another backend, as far as that is known.

    Raises:
        OptionError: It is not TensorFlow.
    """
    config = getattr(sys.modules.get("keras"), "config", None)
    backend = os.environ.get("KERAS_BACKEND") if config is None else config.backend()
    if backend and backend != "tensorflow":
        message = (
            f"Keras uses the backend {backend!r} in this process, and an export calls the model "
            f"with TensorFlow: save it with model.save('model.keras'), and run export-bilstm "
            f"model.keras, or export the file in a process with KERAS_BACKEND=tensorflow"
        )
        raise OptionError(message)


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Hide what TensorFlow logs about processors and graphics cards when it is imported.

    Has no effect if it is imported already, or if the user set the level of its log.
    """
    if "tensorflow" in sys.modules or "TF_CPP_MIN_LOG_LEVEL" in os.environ or sys.stderr is None:
        yield
        return
    # Only fatal errors: a missing graphics card is logged as an error. Errors of Python remain.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with captured_stderr():
        yield


def check_before_loading(
    model: Any, out: str | os.PathLike[str] | None, options: ExportOptions
) -> None:
    """Find unusable options before TensorFlow is loaded, which takes seconds.

    Args:
        model: As for `export`.
        out: As for `export`.
        options: The options.

    Raises:
        DataError: The file of examples is missing, empty or of another format.
        OutputFolderError: The folder exists already, or cannot be written.
    """
    check_file(options.data)
    folder = planned_folder(model, out, options.weights)
    if folder is None:
        check_creatable(Path("model-edge"))
    else:
        check_writable(folder, overwrite=options.overwrite)
