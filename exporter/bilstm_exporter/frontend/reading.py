"""From a file to a model, trusting nothing in it.

A model file is JSON and arrays; Python code in it (a Lambda) is pickled and runs only
where the user said so. What the file is, is read from its bytes, not from its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras

from bilstm_exporter.errors import (
    ModelFileError,
    OptionError,
    UnknownObjectError,
    UnsupportedModelError,
    UntrustedCodeError,
)
from bilstm_exporter.frontend.keras3 import Keras3Source
from bilstm_exporter.frontend.source import Source

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_ZIP_SIGNATURE = b"PK\x03\x04"
_CONFIG_LIMIT = 256 * 2**20
_UNKNOWN_CLASS = re.compile(
    r"(?:Could not locate (?:class|function)|Unknown (?:layer|object|[a-z ]*function):?|"
    r"Unable to resolve) '?\"?([\w>.]+)"
)


@dataclass(frozen=True)
class Origin:
    """Where a model came from.

    Attributes:
        file: The file's name, or "" for a model in memory.
        sha256: Of the file, or of nothing.
        keras_version: Of the Keras that wrote the file, or of the one that holds the model.
    """

    file: str
    sha256: str
    keras_version: str


def read(
    model: Any, *, custom_objects: Mapping[str, Any] | None = None, trust_code: bool = False
) -> tuple[Source, Origin]:
    """Read a model.

    Args:
        model: A Keras model, or the path of a ``.keras`` or Keras 3 ``.h5`` file.
        custom_objects: Layers and functions that the file names, by name.
        trust_code: Whether Python code inside the file may run.

    Raises:
        ModelFileError: The file is missing, damaged, or no model.
        UntrustedCodeError: It carries code and ``trust_code`` is False.
        UnknownObjectError: It names a class or function that nobody registered.
        UnsupportedModelError: It can be read but not exported.
    """
    if isinstance(model, keras.Model):
        source = Keras3Source(model)
        return source, Origin("", hashlib.sha256(b"").hexdigest(), keras.__version__)
    path = Path(model)
    kind, config, version = _inspect(path)
    if not trust_code:
        _refuse_code(path, config)
    if version and version.split(".")[0] != "3":
        message = (
            f"{path} was saved by Keras {version}, whose files this version does not read: "
            f"load it with the Keras that wrote it, rebuild the model in Keras 3, and export that"
        )
        raise UnsupportedModelError(message)
    loaded = _load(path, kind, custom_objects or {}, trust_code=trust_code)
    origin = Origin(path.name, _sha256(path), version or keras.__version__)
    return Keras3Source(loaded, path.stem), origin


def import_objects(specs: Sequence[str]) -> dict[str, Any]:
    """Import what ``--custom-objects module[:name]`` names.

    Args:
        specs: Modules, each with or without the name of one thing in it. A dict counts as
            custom objects by name; a module without a name gives all its classes and functions.

    Raises:
        OptionError: There is no such module or name.
    """
    found: dict[str, Any] = {}
    with _current_folder_importable():
        for spec in specs:
            module_name, _, name = spec.partition(":")
            try:
                module = importlib.import_module(module_name)
                thing = getattr(module, name) if name else None
            except (ImportError, AttributeError, ValueError) as error:
                message = (
                    f"--custom-objects {spec}: {error}. "
                    f"It takes module or module:name, importable from the current folder"
                )
                raise OptionError(message) from error
            if thing is None:
                found.update({k: v for k, v in vars(module).items() if callable(v) and k[0] != "_"})
            elif isinstance(thing, dict):
                found.update(thing)
            else:
                found[name] = thing
    return found


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _inspect(path: Path) -> tuple[str, Any, str]:
    """The kind of file, its parsed config, and the version of the Keras that wrote it."""
    if path.is_dir():
        message = f"{path} is a folder; expected a .keras or .h5 file saved by model.save"
        raise ModelFileError(message)
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}"
        raise ModelFileError(message) from error
    if start.startswith(_ZIP_SIGNATURE):
        return "keras", *_inspect_zip(path)
    if start == _HDF5_SIGNATURE:
        return "h5", *_inspect_hdf5(path)
    what = "is empty" if not start else f"starts with {start[:4]!r}"
    message = (
        f"{path} is no Keras model: it {what}, where a .keras file is a zip archive and a .h5 "
        f"file is HDF5. Save the model with model.save('name.keras')"
    )
    raise ModelFileError(message)


def _inspect_zip(path: Path) -> tuple[Any, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            if broken is not None:
                message = f"{path} is damaged: {broken} does not match its checksum"
                raise ModelFileError(message)
            config = json.loads(_member(archive, "config.json"))
            metadata = json.loads(_member(archive, "metadata.json"))
    except KeyError as error:
        message = f"{path} is a zip archive but no .keras file: it holds no {error.args[0]}"
        raise ModelFileError(message) from error
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        message = f"{path} is damaged or cut short: {error}. Copy or save it again"
        raise ModelFileError(message) from error
    return config, str(metadata.get("keras_version", "")) if isinstance(metadata, dict) else ""


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise KeyError(name) from None
    if info.file_size > _CONFIG_LIMIT:
        message = f"its {name} would unpack to {info.file_size} bytes"
        raise ValueError(message)
    return archive.read(info)


def _inspect_hdf5(path: Path) -> tuple[Any, str]:
    try:
        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
            version = file.attrs.get("keras_version", "")
    except OSError as error:
        message = f"{path} is damaged or cut short: {error}. Copy or save it again"
        raise ModelFileError(message) from error
    if config is None:
        message = (
            f"{path} holds weights but no model: build the model, load these weights into it, "
            f"and save it whole with model.save"
        )
        raise ModelFileError(message)
    try:
        parsed = json.loads(config)
    except ValueError as error:
        message = f"{path} is damaged: its model_config is not JSON ({error})"
        raise ModelFileError(message) from error
    return parsed, version.decode() if isinstance(version, bytes) else str(version)


def _refuse_code(path: Path, config: Any) -> None:
    names = sorted(set(_code_in(config, "the model")))
    if names:
        message = (
            f"{path} carries Python code in {', '.join(names)}, which could do anything when it "
            f"runs. If you trust where the file came from, export it with --trust-code"
        )
        raise UntrustedCodeError(message)


def _code_in(config: Any, where: str) -> Iterator[str]:
    """Names of the layers whose config holds pickled code, or a Lambda."""
    if isinstance(config, dict):
        inner = config.get("config")
        name = inner.get("name") if isinstance(inner, dict) else None
        here = f"layer {name!r}" if isinstance(name, str) else where
        if config.get("class_name") in {"Lambda", "__lambda__"}:
            yield here
        for value in config.values():
            yield from _code_in(value, here)
    elif isinstance(config, list):
        for value in config:
            yield from _code_in(value, where)


def _load(path: Path, kind: str, custom_objects: Mapping[str, Any], *, trust_code: bool) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        # Keras goes by the file's name.
        file = path
        if path.suffix != f".{kind}":
            file = Path(shutil.copy(path, Path(folder) / f"model.{kind}"))
        try:
            return keras.saving.load_model(
                file, custom_objects=dict(custom_objects), compile=False, safe_mode=not trust_code
            )
        except (ValueError, TypeError, KeyError, AttributeError, OSError, ImportError) as error:
            raise _explained(path, error) from error


def _explained(path: Path, error: Exception) -> Exception:
    text = str(error)
    unknown = _UNKNOWN_CLASS.search(text)
    if unknown:
        message = (
            f"{path} uses {unknown[1]!r}, which Keras does not know. If it is yours, name the "
            f"module that defines it: --custom-objects my_module (or my_module:{unknown[1]})"
        )
        return UnknownObjectError(message)
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return ModelFileError(f"{path} cannot be loaded by Keras {keras.__version__}: {first[:500]}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
        return digest.hexdigest()
