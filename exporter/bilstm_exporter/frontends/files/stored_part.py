"""Copies the stored weights of a part of a model.

The native format numbers the layers of a class in the order of the model, and HDF5 files list all
layers. A part that read such a file as it is would get the weights of other layers.
"""

from __future__ import annotations

import shutil
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
from keras.src.utils.naming import to_snake_case

from bilstm_exporter.errors import ModelFileError
from bilstm_exporter.frontends.files.known_objects import python_name

_WEIGHTS = "model.weights.h5"
_OPERATIONS = ("keras.src.ops.", "keras.ops.")


def weights_of_part(
    path: Path, config: Any, layers: Sequence[tuple[str, str]], folder: Path
) -> Path:
    """Write the weights of some layers to a file that their model can load.

    Args:
        path: A ``.keras`` file, or an HDF5 file of a whole model or of weights.
        config: The configuration of the whole model, which is functional or sequential.
        layers: Name and class of each layer of the part, in the order of the part.
        folder: Where the file is written.

    Raises:
        ModelFileError: The file has another form.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if _WEIGHTS not in archive.namelist():
                raise _other_form(path)
            with archive.open(_WEIGHTS) as source, (folder / _WEIGHTS).open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
        return _part_of(folder / _WEIGHTS, path, config, layers, folder)
    return _part_of(path, path, config, layers, folder)


def _part_of(
    weights: Path, path: Path, config: Any, layers: Sequence[tuple[str, str]], folder: Path
) -> Path:
    with h5py.File(weights, "r") as whole:
        if "layers" in whole:
            copy = folder / "part.weights.h5"
            stored = dict(_groups(_layers_of(config)))
            with h5py.File(copy, "w") as part:
                for name in whole.keys() - {"layers", "optimizer"}:
                    whole.copy(name, part)
                group = part.create_group("layers")
                for name, own in _groups(layers):
                    if stored.get(name) in whole["layers"]:
                        whole.copy(whole["layers"][stored[name]], group, name=own)
            return copy
        source = whole.get("model_weights", whole)
        if not any(name.startswith("layer_names") for name in source.attrs):
            raise _other_form(path)
        copy = folder / "part.h5"
        with h5py.File(copy, "w") as part:
            for name in {"keras_version", "backend"} & set(source.attrs):
                part.attrs[name] = source.attrs[name]
            names = [name for name, _ in layers if name in source]
            part.attrs["layer_names"] = [name.encode() for name in names]
            for name in names:
                source.copy(name, part)
        return copy


def _groups(layers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield each layer's name and that of its group: its class, with a number if it recurs."""
    used: Counter[str] = Counter()
    for name, class_name in layers:
        group = to_snake_case(python_name(class_name))
        yield name, f"{group}_{used[group]}" if used[group] else group
        used[group] += 1


def _layers_of(config: Any) -> Iterator[tuple[str, str]]:
    """Yield name and class of each layer of a model; its operations are none."""
    for one in config["config"]["layers"]:
        if not str(one.get("module") or "").startswith(_OPERATIONS):
            yield str(one.get("name") or one["config"]["name"]), one["class_name"]


def _other_form(path: Path) -> ModelFileError:
    message = (
        f"{path} stores its weights in a form from which --outputs cannot take a part: read the "
        f"whole model, with --trust-code or --custom-objects"
    )
    return ModelFileError(message)
