"""Which libraries made a bundle."""

from __future__ import annotations

from importlib import metadata

_PACKAGES = (
    "bilstm-edge",
    "keras",
    "tf_keras",
    "tensorflow",
    "tf2onnx",
    "onnx",
    "onnxruntime",
    "ai-edge-litert",
)


def versions(source_keras: str) -> dict[str, str]:
    """The installed versions, and that of the Keras that saved the model."""
    found = {"saved by keras": source_keras}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
