"""Export trained Keras BiLSTM models to ONNX and TFLite, exactly."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bilstm_exporter.api import export
    from bilstm_exporter.errors import ExportError, ParityError
    from bilstm_exporter.options import ExportOptions

__all__ = ["ExportError", "ExportOptions", "ParityError", "export"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that the command can report an interrupt."""
    if name == "__version__":
        return import_module("bilstm_runtime.device").package_version("bilstm-edge")
    if name in __all__:
        module = {"export": "api", "ExportOptions": "options"}.get(name, "errors")
        return getattr(import_module(f"bilstm_exporter.{module}"), name)
    found = None if name.startswith("_") else find_spec(f"bilstm_exporter.{name}")
    if found is not None:
        return import_module(found.name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
