"""onnxruntime, the default for ONNX files."""

from bilstm_exporter.profiles.base import Profile
from bilstm_exporter.profiles.registry import register

register(Profile("onnxruntime", "onnxruntime", "onnx", "1.32", backend="onnx"))
