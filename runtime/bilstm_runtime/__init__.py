"""Run a bilstm-edge bundle with numpy and one of onnxruntime or ai-edge-litert."""

from bilstm_runtime.check import CheckReport, check
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


def __getattr__(name: str) -> str:
    if name == "__version__":
        from bilstm_runtime.device import package_version  # noqa: PLC0415 (quicker without)

        return package_version("bilstm-edge")
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
