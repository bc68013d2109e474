"""Export trained Keras BiLSTM models to ONNX and TFLite, exactly."""

from bilstm_exporter.api import export
from bilstm_exporter.errors import ExportError, ParityError
from bilstm_exporter.options import ExportOptions

__all__ = ["ExportError", "ExportOptions", "ParityError", "export"]
