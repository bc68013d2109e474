"""onnxruntime-web, which runs ONNX files in a browser."""

from bilstm_exporter.profiles.base import Profile
from bilstm_exporter.profiles.registry import register

# The default build for WebAssembly has every operator of onnxruntime for the CPU, those of
# com.microsoft too: onnxruntime-web 1.30 in Chromium and Node gave the outputs of onnxruntime.
register(Profile("web", "onnxruntime-web", "onnx", "1.30"))
