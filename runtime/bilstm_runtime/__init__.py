"""Run a bilstm-edge bundle with numpy and one of onnxruntime or ai-edge-litert."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bilstm_runtime.checking import CheckReport, check
    from bilstm_runtime.errors import (
        BackendMissingError,
        BilstmRuntimeError,
        BundleError,
        BundleVersionError,
        InputError,
    )
    from bilstm_runtime.model import Model, load

__all__ = ["BackendMissingError", "BilstmRuntimeError", "BundleError", "BundleVersionError",
           "CheckReport", "InputError", "Model", "check", "load"]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that a command can report an interrupt."""
    if name == "__version__":
        return import_module("bilstm_runtime.device").package_version("bilstm-edge")
    module = {"CheckReport": "checking", "check": "checking", "Model": "model", "load": "model"}
    if name in __all__:
        return getattr(import_module(f"bilstm_runtime.{module.get(name, 'errors')}"), name)
    found = None if name.startswith("_") else find_spec(f"bilstm_runtime.{name}")
    if found is not None:
        return import_module(found.name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
