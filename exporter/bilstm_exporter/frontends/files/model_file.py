"""Finds the kind of a model file and the Keras that wrote it, without loading the model.

It reads the bytes of the file, not its name, and does not trust them.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import shutil
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bilstm_exporter.errors import (
    ExportError,
    ModelFileError,
    UntrustedCodeError,
    plain_text,
)
from bilstm_exporter.frontends.files import tfjs
from bilstm_exporter.frontends.files.limits import (
    check_beside,
    check_file,
    check_folder,
    check_unpacked,
    hdf5_size,
)

KERAS3, TF_KERAS = "keras3", "tf_keras"
# The last minor version of Keras 2; later versions of it are tf_keras's own.
_LAST_KERAS_2 = 15
SAVED_MODEL_FILE = "saved_model.pb"
LAMBDA = "<lambda>"  # what a SavedModel records of a function without a name
NOTHING_SHA256 = hashlib.sha256(b"").hexdigest()

# The settings in which a wrapper stores its inner layers.
_WRAPPED = ("layer", "forward_layer", "backward_layer")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_ZIP_SIGNATURE = b"PK\x03\x04"
_TFLITE_SIGNATURE = b"TFL3"
# Other formats of models, by the extension of the file; their bytes do not always tell.
_OTHER_MODELS = {
    ".mlmodel": "a Core ML model",
    ".onnx": "an ONNX model",
    ".pb": "a graph of TensorFlow",
    ".pt": "a PyTorch model",
    ".pth": "a PyTorch model",
    ".tflite": "a TFLite model",
}
_CONFIG_LIMIT = 256 * 2**20
_MEMBERS_LIMIT = 10_000  # three, and one or two for each layer of text
_OBJECTS_LIMIT = 2**19  # some 50 a layer
# Keys that one generation writes and the other does not.
_KERAS3_KEYS = frozenset({"batch_shape", "optional", "registered_name"})
_KERAS2_KEYS = frozenset({"batch_input_shape", "time_major"})
_KERAS1_KEYS = frozenset({"inner_activation", "consume_less", "nb_filter", "W_regularizer"})
# An array of numpy in a configuration, and the bytes of the largest number, a complex128.
_NUMPY_ARRAY, _ITEM_LIMIT = "__numpy__", 16
# Keras 0 stored the class name in "name", later versions in "class_name".
_KERAS0_MODELS = ("Sequential", "Graph")
# TensorFlow functions with which a config can access files, processes or Python.
_UNSAFE_FUNCTIONS = ("io.", "py_function", "numpy_function", "raw_ops.", "saved_model.", "train.",
                 "data.", "summary.", "compat.", "load_", "debugging.", "profiler.", "sysconfig.",
                 "autograph.")  # fmt: skip


@dataclass(frozen=True)
class ModelFile:
    """A file, or folder, that contains a model.

    Attributes:
        path: Its path.
        kind: ``"keras"`` (a zip archive), ``"h5"``, ``"saved_model"``, ``"json"`` or ``"tfjs"``
            (the model.json of TensorFlow.js).
        config: The model's configuration in the file; None for a SavedModel.
        version: The version of the Keras that wrote it, or "" if the file does not contain it.
        generation: The library that must read it.
        why: The reason for the generation, in a few words.
        weights: The file of weights that was given with it, if one was.
    """

    path: Path
    kind: str
    config: Any
    version: str
    generation: str
    why: str
    weights: Path | None = None


def inspect(path: Path) -> ModelFile:
    """Determine the kind and the origin of a file.

    Raises:
        ModelFileError: The file is missing, damaged, or not a model.
    """
    try:
        is_folder = path.is_dir()
    except OSError as error:  # a name that is too long
        message = f"{path} cannot be read: {error.strerror or error}"
        raise ModelFileError(message) from error
    if is_folder:
        if not (path / SAVED_MODEL_FILE).is_file():
            if (path / "model.json").is_file():
                return inspect(path / "model.json")
            if (path / "manifest.json").is_file():
                message = f"{path} is exported already: run-bilstm and check-bilstm run it"
                raise ModelFileError(message)
            message = (
                f"{path} is a folder without {SAVED_MODEL_FILE}; expected a .keras or .h5 file, "
                f"or a folder saved by Keras 2's model.save"
            )
            raise ModelFileError(message)
        check_folder(path / SAVED_MODEL_FILE)
        why = "a SavedModel folder, which Keras 3 does not read"
        return ModelFile(path, "saved_model", None, "", TF_KERAS, why)
    start = _first_bytes(path)
    with parsing(path):
        if start.startswith(_ZIP_SIGNATURE):
            kind, (config, version) = "keras", _inspect_zip(path)
        elif start == _HDF5_SIGNATURE:
            kind, (config, version) = "h5", _inspect_hdf5(path)
        elif start.lstrip()[:1] in {b"{", b"[", b'"'}:
            kind, config, version = _inspect_json(path)
        else:
            raise ModelFileError(_no_model(path, start))
        _check_names(path, config)
        generation, why = _generation(config, version)
    return ModelFile(path, kind, config, version, generation, why)


@contextlib.contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Turn whatever a parser raises for a damaged file into the error for it.

    h5py, zipfile and functions that walk a configuration raise errors of many types.

    Raises:
        ModelFileError: Something was raised in this context that is not an error of this project.
    """
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        cause = plain_text(error).strip().partition("\n")[0][:300] or type(error).__name__
        message = f"{path} is damaged or truncated: {cause}. Copy or save it again"
        raise ModelFileError(message) from error


def with_config(file: ModelFile, config: Any, copy: Path) -> Path:
    """Copy a ``.keras`` or HDF5 file with another configuration; returns the copy's path."""
    if file.kind == "h5":
        shutil.copyfile(file.path, copy)
        with h5py.File(copy, "r+") as opened:
            opened.attrs["model_config"] = json.dumps(config)
        return copy
    with zipfile.ZipFile(file.path) as archive, zipfile.ZipFile(copy, "w") as written:
        for member in archive.infolist():
            if member.filename == "config.json":
                written.writestr(member.filename, json.dumps(config))
                continue
            with archive.open(member) as source, written.open(member.filename, "w") as target:
                shutil.copyfileobj(source, target, 2**20)
    return copy


def weights_version(path: Path) -> str:
    """Return the version of the Keras that wrote a file of weights, or "" if it is not recorded.

    Raises:
        ModelFileError: The file is missing, damaged, or has no weights.
    """
    if checkpoint_files(path):
        return ""
    start = _first_bytes(path)
    if start.startswith(_ZIP_SIGNATURE):
        with parsing(path):
            return _inspect_zip(path)[1]
    if start != _HDF5_SIGNATURE:
        message = (
            f"{path} holds no weights: expected an HDF5 file, such as model.save_weights('x.h5') "
            f"or model.save writes, or a TensorFlow checkpoint, such as x.ckpt for x.ckpt.index"
        )
        raise ModelFileError(message)
    with parsing(path), _open_hdf5(path) as file:
        group = file.get("model_weights", file)
        version = file.attrs.get("keras_version") or group.attrs.get("keras_version", "")
    return _text(version)


def stored_size(path: Path) -> int:
    """Return the number of bytes of weights that a file, a folder or a checkpoint holds.

    Raises:
        ModelFileError: The file is damaged, or claims far more than it stores.
    """
    files = checkpoint_files(path)
    if path.is_dir():
        files = list(path.rglob("*"))
    if not files:
        start = _first_bytes(path)
        if start == _HDF5_SIGNATURE:
            with parsing(path), h5py.File(path, "r") as file:
                return hdf5_size(file, path, path.stat().st_size)
        if start.startswith(_ZIP_SIGNATURE):
            with parsing(path), zipfile.ZipFile(path) as archive:
                return _check_weights(archive, path)
        files = list(path.parent.iterdir())  # TensorFlow.js has the weights beside its JSON
    return sum(file.stat().st_size for file in files if file.is_file())


def checkpoint_files(path: Path) -> list[Path]:
    """Return the files of a TensorFlow checkpoint; [] if a path is not one.

    Args:
        path: The checkpoint's prefix, as ``model.ckpt``, or its index file, ``model.ckpt.index``.
    """
    prefix = checkpoint_prefix(path)
    if not prefix.with_name(f"{prefix.name}.index").is_file():
        return []
    escaped = glob.escape(prefix.name)
    found = [*prefix.parent.glob(f"{escaped}.index"), *prefix.parent.glob(f"{escaped}.data-*")]
    index = prefix.with_name(f"{prefix.name}.index")
    roots = {index.parent.resolve(), index.resolve().parent}
    for file in found:
        check_beside(file, roots)
    return sorted(found)


def checkpoint_prefix(path: Path) -> Path:
    """Return the prefix of a checkpoint from itself or from its index file."""
    return path.with_suffix("") if path.suffix == ".index" else path


def is_legacy(model: str | None, weights: str | None) -> bool:
    """Whether a model, or the weights for a builder, are older than Keras 3.

    Raises:
        ModelFileError: A file is missing, damaged, or not a model.
    """
    if model is not None:
        return inspect(Path(model)).generation == TF_KERAS
    if weights is None:
        return False
    if checkpoint_files(Path(weights)):
        return True  # Keras 3 writes HDF5
    version = weights_version(Path(weights))
    return version.split(".")[0] in {"1", "2"}


@dataclass(frozen=True)
class ConfigLayer:
    """A layer in a configuration.

    Attributes:
        name: The name of the layer.
        kind: Its class.
        words: The class and every string in its settings; names without their package.
        has_code: Whether a setting is code, such as a lambda.
    """

    name: str
    kind: str
    words: frozenset[str]
    has_code: bool


def config_layers(config: Any) -> Iterator[ConfigLayer]:
    """Yield the layers in a configuration that are not containers, in its order."""
    if isinstance(config, list):
        for item in config:
            yield from config_layers(item)
        return
    kind = config.get("class_name") if isinstance(config, dict) else None
    settings = config.get("config") if isinstance(config, dict) else None
    inside = settings
    if isinstance(settings, dict):
        inside = settings.get("layers") or [settings[k] for k in _WRAPPED if k in settings]
    if not isinstance(kind, str) or kind == "InputLayer":
        return
    if inside:
        yield from config_layers(inside)
    elif isinstance(settings, dict):
        name = str(settings.get("name") or config.get("name") or kind)
        words = frozenset(word.rpartition(">")[2] for word in (kind, *_strings(settings)))
        yield ConfigLayer(name, kind.rpartition(">")[2], words, _has_pickled_setting(settings))


def _has_pickled_setting(value: Any) -> bool:
    """Whether a setting is a function without a name.

    It is pickled, ``{"value": [code, defaults, closure]}``, or missing from a SavedModel.
    """
    if value == LAMBDA:
        return True
    if isinstance(value, dict):
        pickled = value.get("value") if len(value) == 1 else None
        if isinstance(pickled, list) and len(pickled) == 3 and isinstance(pickled[0], str):
            return True
        return any(map(_has_pickled_setting, value.values()))
    return isinstance(value, list) and any(map(_has_pickled_setting, value))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def refuse_code(path: Path, config: Any) -> None:
    """Raise an error if a configuration contains Python code.

    Raises:
        UntrustedCodeError: It contains code; the message names the layers.
    """
    places = list(dict.fromkeys(_layers_with_code(config, None)))
    if places:
        layers = sorted(name for name in places if name is not None)
        labels = ["the model"] if None in places else []
        labels += [f"layer {name!r}" for name in layers]
        message = (
            f"{path} contains Python code in {', '.join(labels)}, which could do anything when it "
            f"runs. If you trust the source of the file, export it with --trust-code"
        )
        message += advice_for_loss(config, layers)
        raise UntrustedCodeError(message, layers=layers)


def advice_for_loss(config: Any, names: Sequence[str], *, with_labels: bool = False) -> str:
    """Tell what to do if one of these layers computes the loss of a functional model.

    Args:
        config: The configuration of the model.
        names: The layers that cannot be loaded.
        with_labels: Whether only a layer is meant that reads an input too, such as labels.

    Returns:
        The end of a message; "" if none of the layers is the only output.
    """
    read, reads_input = _read_by_output(config, names)
    if not read or (with_labels and not reads_input):
        return ""
    return (
        f". If it only computes the loss of training, export the part of the model before it: "
        f"--outputs {','.join(read)}"
    )


def _read_by_output(config: Any, names: Sequence[str]) -> tuple[list[str], bool]:
    """Return what the only output of a functional model reads, if it is one of these layers.

    Returns:
        The layers, and whether it reads an input of the model too.
    """
    settings = config.get("config") if isinstance(config, dict) else None
    layers = settings.get("layers") if isinstance(settings, dict) else None
    if not isinstance(settings, dict) or not isinstance(layers, list):
        return [], False
    kinds = {_layer_name(one): one for one in layers if isinstance(one, dict)}
    last = [one for one in _strings(settings.get("output_layers")) if one in kinds]
    if len(last) != 1 or last[0] not in names:
        return [], False
    read = list(dict.fromkeys(_strings(kinds[last[0]].get("inbound_nodes"))))
    classes = {one: kinds[one].get("class_name") for one in read if one in kinds}
    found = [one for one, name in classes.items() if name not in (None, "InputLayer")]
    return found, "InputLayer" in classes.values()


def without_unneeded_code(
    config: Any, outputs: Sequence[str], unknown: Collection[str] = ()
) -> Any:
    """Remove what the chosen outputs do not need from a functional model that contains code.

    A model for training often ends in a Lambda, or in a layer of its own, that computes its loss.

    Args:
        config: The configuration of a model; it is not changed.
        outputs: The layers whose outputs are exported, as ``"softmax"`` or ``"encoder/lstm"``.
        unknown: The names of layers of classes that are not defined, which count as code.

    Returns:
        The configuration of the needed part; the same object if nothing with code is removed.
    """
    settings = config.get("config") if isinstance(config, dict) else None
    if not isinstance(settings, dict):
        return config
    layers = settings.get("layers")
    if not isinstance(layers, list) or not all(isinstance(one, dict) for one in layers):
        return config
    before = {_layer_name(one): one.get("inbound_nodes") for one in layers}
    needed: set[str] = set()
    pending = [name for name in before if any(f"{one}/".startswith(f"{name}/") for one in outputs)]
    ends = list(pending)
    is_chain = config.get("class_name") == "Sequential"
    if is_chain and ends:
        names = list(before)
        pending = names[: max(map(names.index, ends)) + 1]
    while pending:
        name = pending.pop()
        if name not in needed:
            needed.add(name)
            pending += [one for one in _strings(before[name]) if one in before]
    unneeded = [one for one in layers if _layer_name(one) not in needed]
    has_code = any(
        _layer_name(one) in unknown or any(True for _ in _layers_with_code(one, None))
        for one in unneeded
    )
    if not needed or not has_code:
        return config
    kept = [one for one in layers if _layer_name(one) in needed]
    if is_chain:
        return {**config, "config": {**settings, "layers": kept}}
    part = {
        **settings,
        "layers": kept,
        "input_layers": [
            [_layer_name(one), 0, 0]
            for one in layers
            if one.get("class_name") == "InputLayer" and _layer_name(one) in needed
        ],
        "output_layers": [[name, 0, 0] for name in ends],
    }
    return {**config, "config": part}


def _layer_name(layer: dict[str, Any]) -> str:
    settings = layer.get("config")
    inner = settings.get("name") if isinstance(settings, dict) else None
    return str(layer.get("name") or inner)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder or checkpoint with their names."""
    digest = hashlib.sha256()
    files, folder = checkpoint_files(path) or [path], path.parent
    if path.is_dir():
        files, folder = sorted(p for p in path.rglob("*") if p.is_file()), path
    for file in files:
        if files != [path]:
            digest.update(
                f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode()
            )
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _check_names(path: Path, config: Any) -> None:
    """Check that a configuration names classes by strings, and that its arrays hold numbers.

    A few strings become an array of any size, by the length that a dtype gives them.

    Raises:
        ModelFileError: One is not.
    """
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            pending += value.values()
            if {"class_name", "config"} <= value.keys():
                for key in ("class_name", "module", "registered_name"):
                    found = value.get(key)
                    if not isinstance(found, str) and (found is not None or key == "class_name"):
                        message = f"{path} is damaged: its configuration has {found!r:.80} as {key}"
                        raise ModelFileError(message)
                is_array = value["class_name"] == _NUMPY_ARRAY
                if is_array and _item_size(value["config"]) > _ITEM_LIMIT:
                    message = f"{path} holds an array of strings or records, which no layer takes"
                    raise ModelFileError(message)


def _item_size(settings: Any) -> int:
    """Return the bytes of an element of a serialized array; 0 if its dtype is none of numpy's."""
    with contextlib.suppress(Exception):  # numpy parses what the file says
        return int(np.dtype(settings["dtype"]).itemsize)
    return 0


def _first_bytes(path: Path) -> bytes:
    check_file(path)
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}"
        raise ModelFileError(message) from error


def _no_model(path: Path, start: bytes) -> str:
    if path.suffix.lower() in {".yaml", ".yml"}:
        return (
            f"{path} is YAML, which Keras has not read since 2.6, because YAML can run code: "
            f"write the architecture as JSON, with model.to_json(), and export that with --weights"
        )
    kind = (
        "a TFLite model"
        if start[4:8] == _TFLITE_SIGNATURE
        else _OTHER_MODELS.get(path.suffix.lower())
    )
    if kind is not None and start:
        if (path.parent / "manifest.json").is_file():
            return (
                f"{path} is exported already: run-bilstm and check-bilstm run its folder, "
                f"{path.parent}. To export again, give the Keras model that it was made of"
            )
        return (
            f"{path} is {kind}, which another program made of a model: the layers that an export "
            f"needs are not in it. Export the Keras model that it was made of: a .keras or .h5 "
            f"file, or a SavedModel folder; bilstm_runtime runs {path.name} only in a bundle"
        )
    problem = "is empty" if not start else f"starts with {start[:4]!r}"
    return (
        f"{path} is not a Keras model: it {problem}, but a .keras file is a zip archive, a .h5 "
        f"file is HDF5 and an architecture is JSON. Save the model with model.save('name.keras')"
    )


def _inspect_zip(path: Path) -> tuple[Any, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _MEMBERS_LIMIT:
                message = f"{path} is an archive of {len(members)} files, which no model is"
                raise ModelFileError(message)
            unpacked = sum(member.file_size for member in members)
            check_unpacked(path, unpacked, path.stat().st_size)
            broken = archive.testzip()
            if broken is not None:
                message = f"{path} is damaged: {broken} does not match its checksum"
                raise ModelFileError(message)
            _check_weights(archive, path)
            config = _config(_member(archive, "config.json"))
            metadata = json.loads(_member(archive, "metadata.json"))
    except KeyError as error:
        message = f"{path} is a zip archive but not a .keras file: it holds no {error.args[0]}"
        raise ModelFileError(message) from error
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RecursionError) as error:
        if isinstance(error, ModelFileError):
            raise
        message = f"{path} is damaged or truncated: {error}. Copy or save it again"
        raise ModelFileError(message) from error
    return config, str(metadata.get("keras_version", "")) if isinstance(metadata, dict) else ""


def _check_weights(archive: zipfile.ZipFile, path: Path) -> int:
    """Check the weights of a ``.keras`` file; returns their number of bytes."""
    name = "model.weights.h5"
    if name not in archive.namelist():
        return 0
    with archive.open(name) as member, h5py.File(member, "r") as file:
        return hdf5_size(file, path, archive.getinfo(name).file_size)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise KeyError(name) from None
    if info.file_size > _CONFIG_LIMIT:
        message = f"its {name} would unpack to {info.file_size} bytes"
        raise ValueError(message)
    return archive.read(info)


def _config(text: str | bytes) -> Any:
    """Parse a configuration.

    Raises:
        ValueError: It is not JSON, or would take minutes to walk through.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    if text.count("{") + text.count("[") > _OBJECTS_LIMIT:
        message = f"its configuration has more than {_OBJECTS_LIMIT} lists and objects"
        raise ValueError(message)
    return json.loads(text)


def _inspect_hdf5(path: Path) -> tuple[Any, str]:
    with _open_hdf5(path) as file:
        config = file.attrs.get("model_config")
        version = _text(file.attrs.get("keras_version", ""))
    if config is None:
        message = (
            f"{path} holds weights but no model. Give the architecture too: "
            f"export-bilstm model.json --weights {path.name} (from model.to_json()), or "
            f"export-bilstm --builder my_module:build_model --weights {path.name} "
            f"(a function that builds the model)"
        )
        raise ModelFileError(message)
    try:
        parsed = _config(config)
    except (ValueError, RecursionError) as error:
        message = f"{path} is damaged: its model_config is not JSON ({error})"
        raise ModelFileError(message) from error
    return parsed, version


def _open_hdf5(path: Path) -> Any:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        message = f"{path} is damaged or truncated: {error}. Copy or save it again"
        raise ModelFileError(message) from error
    try:
        hdf5_size(file, path, path.stat().st_size)
    except ModelFileError:
        file.close()
        raise
    return file


def _inspect_json(path: Path) -> tuple[str, Any, str]:
    if path.stat().st_size > _CONFIG_LIMIT:
        message = f"{path} has {path.stat().st_size} bytes, more than any architecture"
        raise ModelFileError(message)
    try:
        config = _config(path.read_text(encoding="utf-8"))
        if isinstance(config, str):  # json.dump(model.to_json(), file)
            config = _config(config)
    except (ValueError, RecursionError) as error:
        message = (
            f"{path} is not a Keras model: it is not one JSON object, as an architecture is "
            f"({error})"
        )
        raise ModelFileError(message) from error
    if isinstance(config, dict) and config.get("name") in _KERAS0_MODELS and "layers" in config:
        message = (
            f"{path} is an architecture of Keras 0, from before 2016, which no later Keras reads. "
            f"Build the model with a function instead: --builder my_module:build --weights FILE"
        )
        raise ModelFileError(message)
    if isinstance(config, dict) and "modelTopology" in config:
        return "tfjs", *tfjs.topology(config, path)
    if not isinstance(config, dict) or "class_name" not in config:
        message = f"{path} is JSON but not an architecture: expected what model.to_json() writes"
        raise ModelFileError(message)
    return "json", config, str(config.get("keras_version", ""))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _generation(config: Any, version: str) -> tuple[str, str]:
    """Return the library that must read a configuration, and the reason."""
    major, minor = (*version.split("."), "")[:2]
    if major.isdigit():
        is_own = major == "2" and minor.isdigit() and int(minor) > _LAST_KERAS_2
        saver = f"{TF_KERAS if is_own else 'Keras'} {version}"
        return KERAS3 if int(major) >= 3 else TF_KERAS, f"saved by {saver}"
    keys = set(_keys(config))
    for generation, known, name in (
        (TF_KERAS, _KERAS1_KEYS, "1"),
        (TF_KERAS, _KERAS2_KEYS, "2"),
        (KERAS3, _KERAS3_KEYS, "3"),
    ):
        found = sorted(keys & known)
        if found:
            return generation, f"no version in the file, but keys of Keras {name}: {found[0]}"
    return TF_KERAS, "no version in the file, and none of Keras 3's keys"


def _keys(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        for key, value in config.items():
            yield str(key)
            yield from _keys(value)
    elif isinstance(config, list):
        for value in config:
            yield from _keys(value)


def _is_public(name: Any) -> bool:
    """Whether an attribute of a tensor is a public one; others lead to Python's internals."""
    return isinstance(name, str) and name.isidentifier() and not name.startswith("_")


def _layers_with_code(config: Any, outer: str | None) -> Iterator[str | None]:
    """Yield the layers whose config has pickled code, or a function of `_UNSAFE_FUNCTIONS`.

    Args:
        config: The config of a model or a layer.
        outer: The name of the layer around it, or None. Yielded for code outside a named layer.
    """
    if isinstance(config, dict):
        inner = config.get("config")
        inner = inner if isinstance(inner, dict) else {}
        name = inner.get("name")
        here = name if isinstance(name, str) else outer
        function = inner.get("function")
        if (
            config.get("class_name") in {"Lambda", "__lambda__"}
            or "lambda" in {inner.get("mode_type"), inner.get("output_shape_type")}
            or (isinstance(function, str) and function.startswith(_UNSAFE_FUNCTIONS))
            or (
                config.get("class_name") in {"InstanceMethod", "InstanceProperty", "ClassMethod"}
                and not _is_public(inner.get("attr_name", inner.get("method_name")))
            )
        ):
            yield here
        for value in config.values():
            yield from _layers_with_code(value, here)
    elif isinstance(config, list):
        for value in config:
            yield from _layers_with_code(value, outer)
