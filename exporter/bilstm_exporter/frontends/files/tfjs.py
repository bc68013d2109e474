"""Models of TensorFlow.js: ``model.json`` with the topology, and files with the weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from bilstm_exporter.errors import ModelFileError
from bilstm_exporter.frontends.files.limits import check_beside

_LAYERS_FORMAT = "layers-model"


def topology(config: Any, path: Path) -> tuple[Any, str]:
    """Return the configuration and the Keras version in the ``model.json`` of a layers-model.

    Args:
        config: The parsed file.
        path: The file, for the message.

    Raises:
        ModelFileError: It is a graph-model, whose layers are gone.
    """
    model = config["modelTopology"]
    if config.get("format", _LAYERS_FORMAT) != _LAYERS_FORMAT or not isinstance(model, dict):
        message = (
            f"{path} is a TensorFlow.js {config.get('format')}: it holds operators, and the layers "
            f"that an export needs are gone. Export the Keras model that it was made of, or "
            f"convert that to TensorFlow.js with --output_format tfjs_layers_model"
        )
        raise ModelFileError(message)
    version = model.get("keras_version", "")
    inner = model.get("model_config", model)
    if isinstance(inner, str):
        inner = json.loads(inner)
    if not isinstance(inner, dict) or "class_name" not in inner:
        message = f"{path} is of TensorFlow.js but holds no layers"
        raise ModelFileError(message)
    return inner, str(version)


def read_weights(path: Path) -> list[tuple[str, np.ndarray]]:
    """Read name and value of every weight that a ``model.json`` lists, in its order.

    Raises:
        ModelFileError: A file of weights is missing or too short, or lies in another folder.
    """
    found = []
    named = set[PurePosixPath]()
    for group in json.loads(path.read_text(encoding="utf-8")).get("weightsManifest", []):
        paths = group["paths"]
        before = len(named)
        named.update(map(PurePosixPath, paths))
        if len(named) < before + len(paths):
            message = f"{path} names a file of weights twice"
            raise ModelFileError(message)
        content = b"".join(_shard(path, name) for name in paths)
        start = 0
        for entry in group["weights"]:
            stored = entry.get("quantization", {})
            dtype = _dtype(stored.get("dtype", entry["dtype"])).newbyteorder("<")
            count = int(np.prod(entry["shape"], dtype=np.int64))
            part = content[start : start + count * dtype.itemsize]
            if count < 0 or len(part) < count * dtype.itemsize:
                message = f"{path}: the files of weights end within {entry['name']!r}"
                raise ModelFileError(message)
            values = np.frombuffer(part, dtype).reshape(entry["shape"])
            start += len(part)
            if "scale" in stored:
                values = values * np.float32(stored["scale"]) + np.float32(stored["min"])
            original = stored.get("original_dtype", entry["dtype"])
            found.append((str(entry["name"]), values.astype(_dtype(original))))
    return found


def _dtype(name: Any) -> np.dtype[Any]:
    """Return a dtype of numbers, or of booleans."""
    found: np.dtype[Any] = np.dtype(name)
    if found.kind not in "biufc":
        message = f"its weights have the type {name!r:.80}"
        raise ValueError(message)
    return found


def _shard(path: Path, name: str) -> bytes:
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or "\\" in name or ":" in name:
        message = f"{path} names a file of weights in another folder: {name!r}"
        raise ModelFileError(message)
    file = path.parent / inside
    try:
        if file.is_symlink() or file.exists():
            check_beside(file, {path.parent.resolve(), path.resolve().parent})
        return file.read_bytes()
    except OSError as error:
        message = f"{path} needs the file of weights {name!r} beside it: {error.strerror or error}"
        raise ModelFileError(message) from error


def assign_weights(
    variables: Sequence[Any], names: Sequence[str], weights: Sequence[tuple[str, np.ndarray]]
) -> None:
    """Assign weights to the variables of a model: by name, or, if names differ, in order.

    Args:
        variables: The variables, layer by layer.
        names: Their names.
        weights: Name and value of each weight in the file.

    Raises:
        ValueError: The weights do not fit the variables.
    """
    values = dict(weights)
    if len(set(names)) == len(names) and set(names) == set(values):
        ordered = [values[name] for name in names]
    else:
        ordered = [value for _, value in weights]
    shapes = [tuple(variable.shape) for variable in variables]
    if [value.shape for value in ordered] != shapes:
        message = f"its weights have the shapes {[v.shape for v in ordered]}, the model's {shapes}"
        raise ValueError(message)
    for variable, value in zip(variables, ordered, strict=True):
        variable.assign(value)
