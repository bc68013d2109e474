"""Export trained Keras BiLSTM models to ONNX and TFLite, exactly."""

from bilstm_exporter.api import export
from bilstm_exporter.errors import ExportError, ParityError
from bilstm_exporter.options import ExportOptions

__all__ = ["ExportError", "ExportOptions", "ParityError", "export"]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from bilstm_runtime.device import package_version  # noqa: PLC0415 - quicker without

        return package_version("bilstm-edge")
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
