"""Loads files that Keras 1 and 2 wrote as tf_keras models."""

from __future__ import annotations

import collections
import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import tf_keras
from google.protobuf.message import DecodeError
from tf_keras.protobuf import saved_metadata_pb2
from tf_keras.src.engine import functional
from tf_keras.src.saving.legacy import hdf5_format, model_config
from tf_keras.src.saving.legacy.saved_model import json_utils
from tf_keras.src.saving.legacy.saved_model import load as keras_loader
from tf_keras.src.saving.legacy.saved_model.constants import METRIC_IDENTIFIER

from bilstm_exporter.errors import ModelFileError, UntrustedCodeError
from bilstm_exporter.frontends.files.checkpoint_index import check_checkpoint
from bilstm_exporter.frontends.files.known_objects import KnownObjects
from bilstm_exporter.frontends.files.model_file import (
    SAVED_MODEL_FILE,
    ModelFile,
    checkpoint_files,
    with_config,
)
from bilstm_exporter.frontends.files.named_checkpoint import load_checkpoint
from bilstm_exporter.frontends.files.training_settings import own_training_settings
from bilstm_exporter.frontends.keras2.allowed_operators import refused_operators
from bilstm_exporter.frontends.keras2.legacy_config import updated_config
from bilstm_exporter.frontends.keras2.pruning import pruned_layers, without_wrappers
from bilstm_exporter.frontends.patching import replaced

_METADATA_FILE = "keras_metadata.pb"
_TEXT_FILE_TABLE = "InitializeTableFromTextFileV2"
_GRAPHS = ("Functional", "Sequential")


def load(
    file: ModelFile, custom_objects: Mapping[str, Any], known: KnownObjects, *, trust_code: bool
) -> Any:
    """Load a model; for an architecture in JSON, without its weights.

    Args:
        file: ``.h5``, ``.keras``, a SavedModel folder, or JSON; its configuration without what
            only training needs.
        custom_objects: Layers and functions that the file names, by name.
        known: What tf_keras and the user define.
        trust_code: Whether Python code inside the file may run.

    Raises:
        UntrustedCodeError: The file contains code and ``trust_code`` is False.
        ModelFileError: The file does not contain a model.
    """
    if file.kind == "saved_model":
        return _load_saved_model(file, custom_objects, known, trust_code=trust_code)
    if file.kind == "keras":
        return _load_zip(file, custom_objects, trust_code=trust_code)
    model = _built(file.config, custom_objects)
    if file.kind == "h5":
        load_weights(model, file.path)
    return model


def _built(config: Any, custom_objects: Mapping[str, Any]) -> Any:
    """Build a model from its configuration, without its weights."""
    # tf_keras has its own JSON encoding of tuples, shapes and similar values.
    decoded = json_utils.decode(json.dumps(updated_config(config, custom_objects)))
    with tf_keras.utils.custom_object_scope(dict(custom_objects)), _acyclic_graphs():
        return model_config.model_from_config(decoded, custom_objects=dict(custom_objects))


def _load_zip(file: ModelFile, custom_objects: Mapping[str, Any], *, trust_code: bool) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        # tf_keras requires the extension .keras.
        named = with_config(file, file.config, Path(folder) / "model.keras")
        with _acyclic_graphs():
            model = tf_keras.models.load_model(
                named, custom_objects=dict(custom_objects), compile=False, safe_mode=not trust_code
            )
    _apply_masks(model)
    return model


def load_weights(model: Any, path: Path) -> None:
    """Load the weights of an HDF5 file, of a whole model or of weights only.

    Args:
        model: The model.
        path: The file.

    Raises:
        ValueError: The weights do not fit the model.
    """
    with h5py.File(path, "r") as file:
        if "_layer_checkpoint_dependencies" in file or "layers" in file:  # model.weights.h5
            with tempfile.TemporaryDirectory() as folder:
                copy = shutil.copy(path, Path(folder) / "model.weights.h5")
                model.load_weights(copy)
            _apply_masks(model)
            return
        group = file.get("model_weights", file)
        with _readable(group, model) as weights:
            if _is_in_another_order(weights, model):
                hdf5_format.load_weights_from_hdf5_group_by_name(weights, model)
            else:
                hdf5_format.load_weights_from_hdf5_group(weights, model)


def _is_in_another_order(weights: Any, model: Any) -> bool:
    """Whether the file has the same layers as the model, by name, but in another order."""
    names = hdf5_format.load_attributes_from_hdf5_group
    saved = [n for n in names(weights, "layer_names") if names(weights[n], "weight_names")]
    own = [layer.name for layer in model.layers if layer.weights]
    return saved != own and sorted(saved) == sorted(own) and len(set(own)) == len(own)


def _apply_masks(model: Any) -> None:
    """Multiply the weights of pruned layers by the masks that their wrappers have read."""
    for wrapper in pruned_layers(model):
        wrapper.apply_masks()


@contextlib.contextmanager
def _readable(group: Any, model: Any) -> Iterator[Any]:
    """Yield the weights in a form that tf_keras reads.

    That is, for Keras 1, with the version "1"; and without the weights of pruning wrappers.
    """
    version = group.attrs.get("keras_version", "1")
    version = version.decode() if isinstance(version, bytes) else str(version)
    is_first = version.startswith("1.")
    pruned = [layer for layer in model.layers if pruned_layers(layer)]
    if not is_first and not pruned:
        yield group
        return
    with h5py.File("weights", "w", driver="core", backing_store=False) as memory:
        for name in group:
            group.copy(name, memory)
        for name, value in group.attrs.items():
            memory.attrs[name] = value
        if is_first:
            memory.attrs["keras_version"] = b"1"
        masks: dict[str, list[np.ndarray]] = {}
        for layer in pruned:
            masks.update(_without_wrappers(memory, layer))
        yield memory
        for wrapper in pruned_layers(model):
            wrapper.apply_masks(masks.get(wrapper.name, ()))


def _without_wrappers(weights: Any, layer: Any) -> dict[str, list[np.ndarray]]:
    """Replace the weights of a layer by its own; returns those of pruning wrappers."""
    name = layer.name
    group = weights[name]
    stored = hdf5_format.load_attributes_from_hdf5_group(group, "weight_names")
    own, others = without_wrappers(layer, stored, [group[key][()] for key in stored])
    del weights[name]
    keys = [f"{name}/{i}" for i in range(len(own))]
    for key, value in zip(keys, own, strict=True):
        weights[f"{name}/{key}"] = value
    weights.require_group(name).attrs["weight_names"] = [key.encode() for key in keys]
    return others


def _load_saved_model(
    file: ModelFile, custom_objects: Mapping[str, Any], known: KnownObjects, *, trust_code: bool
) -> Any:
    path, configs = file.path, file.config
    if not configs:
        message = (
            f"{path} is a SavedModel without a Keras model, as model.export and "
            f"tf.saved_model.save write: it holds operators, and its layers are gone. Export the "
            f".keras file of the model instead, which model.save('name.keras') writes"
        )
        raise ModelFileError(message)
    if not trust_code:
        refused = _refused_operators(path)
        if set(refused) == {_TEXT_FILE_TABLE} and configs[0]["class_name"] in _GRAPHS:
            return _load_without_graph(file, custom_objects)
        _refuse(path, refused)
    variables = path / "variables" / "variables"
    if checkpoint_files(variables):
        check_checkpoint(variables)
    inert = dict.fromkeys(own_training_settings(saved_configs(path), known), Inert)
    with _acyclic_graphs():
        model = tf_keras.models.load_model(
            path, custom_objects={**custom_objects, **inert}, compile=False
        )
    _refuse_revived(path, model)
    return model


class _WaitingNodes(collections.defaultdict[Any, Any]):
    """The calls of layers that tf_keras has not built yet, by layer.

    It takes the calls of one layer out, and puts those back whose inputs are not built. It does so
    forever if calls wait for each other, or for one that is not in the file.
    """

    _taken: tuple[Any, int] | None = None
    _stalls = 0

    def pop(self, layer: Any, *default: Any) -> Any:
        if self._taken is not None:  # the calls that were taken before have all been built
            self._stalls = 0
        calls = super().pop(layer, *default)
        self._taken = layer, len(calls)
        return calls

    def __setitem__(self, layer: Any, calls: Any) -> None:
        super().__setitem__(layer, calls)
        if self._taken is not None:
            self._stalls = self._stalls + 1 if self._taken == (layer, len(calls)) else 0
            self._taken = None
            if self._stalls > len(self):
                names = ", ".join(repr(one.name) for one in list(self)[:5])
                message = f"the inputs of layers wait for each other, or are missing: {names}"
                raise ValueError(message)


@contextlib.contextmanager
def _acyclic_graphs() -> Iterator[None]:
    """Raise an error for a graph of layers that tf_keras would wait for forever."""
    named = SimpleNamespace(**{**vars(collections), "defaultdict": _WaitingNodes})
    with replaced({(functional, "collections"): named}):
        yield


def _load_without_graph(file: ModelFile, custom_objects: Mapping[str, Any]) -> Any:
    """Build a SavedModel from its configuration, and load its checkpoint: no operator runs.

    Its operators would read the vocabularies; these are read here, from its own assets only.
    """
    root = {key: file.config[0][key] for key in ("class_name", "config")}
    config = _with_vocabularies(root, file.path / "assets")
    model = _built(config, custom_objects)
    load_checkpoint(model, file.path / "variables" / "variables")
    return model


def _with_vocabularies(config: Any, assets: Path) -> Any:
    """Return a configuration with the words of vocabularies in place of the names of their files.

    The file of a vocabulary has another path when the model is saved, but the same name.
    """
    if isinstance(config, list):
        return [_with_vocabularies(item, assets) for item in config]
    if not isinstance(config, dict):
        return config
    found = {key: _with_vocabularies(value, assets) for key, value in config.items()}
    settings = found.get("config")
    if isinstance(settings, dict) and isinstance(settings.get("vocabulary"), str):
        words: list[Any] = _words_of_asset(assets, settings["vocabulary"])
        if found.get("class_name") == "IntegerLookup":
            words = [int(word) for word in words]
        found["config"] = {**settings, "vocabulary": words}
    return found


def _words_of_asset(assets: Path, saved_as: str) -> list[str]:
    """Read a vocabulary as TensorFlow does: one word per line, without carriage returns."""
    path = assets / saved_as.replace("\\", "/").rpartition("/")[2]
    if not path.is_file() or path.resolve().parent != assets.resolve():
        message = (
            f"{assets.parent} has no file {path.name!r} in its folder assets, which holds the "
            f"vocabulary of a layer; copy or save it again"
        )
        raise ModelFileError(message)
    try:
        lines = path.read_bytes().replace(b"\r", b"").decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        message = f"{path} is not UTF-8 ({error.reason}); save the vocabulary as UTF-8"
        raise ModelFileError(message) from error
    return lines[:-1] if not lines[-1] else lines


class Inert:
    """Stands for an initializer, regularizer or constraint of the user's own, which never runs."""

    def __call__(self, *_args: Any, **_settings: Any) -> Any:
        """Do nothing."""

    @classmethod
    def from_config(cls, _config: Any) -> None:
        """Return None, which Keras takes for no initializer, regularizer or constraint."""


def saved_configs(path: Path) -> list[Any]:
    """Return the configuration of every layer and model in a SavedModel."""
    metadata = saved_metadata_pb2.SavedMetadata()
    try:
        if (path / _METADATA_FILE).is_file():
            metadata.ParseFromString((path / _METADATA_FILE).read_bytes())
            texts = [n.metadata for n in metadata.nodes if n.identifier != METRIC_IDENTIFIER]
        else:  # before TensorFlow 2.5, the metadata was in the graph
            nodes = _saved_model(path).meta_graphs[0].object_graph_def.nodes
            objects = [node.user_object for node in nodes]
            texts = [
                o.metadata for o in objects if o.metadata and o.identifier != METRIC_IDENTIFIER
            ]
        configs = [json.loads(text) for text in texts]
        return [{key: one.get(key) for key in ("name", "class_name", "config")} for one in configs]
    except (DecodeError, ValueError, OSError, AttributeError) as error:
        message = f"{path} is damaged or truncated: {error}. Copy or save it again"
        raise ModelFileError(message) from error


def saved_by(path: Path) -> str:
    """Describe the TensorFlow version that wrote a SavedModel, in a few words."""
    graphs = _saved_model(path).meta_graphs
    version = graphs[0].meta_info_def.tensorflow_version if graphs else ""
    return f"a SavedModel folder, saved by TensorFlow {version or 'of an unknown version'}"


def _saved_model(path: Path) -> Any:
    from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415 - rarely needed

    message = saved_model_pb2.SavedModel()
    message.ParseFromString((path / SAVED_MODEL_FILE).read_bytes())
    return message


def _refused_operators(path: Path) -> list[str]:
    """Return the operators of a SavedModel that may do anything but compute tensors.

    Raises:
        ModelFileError: It has no objects, as TensorFlow 1 writes, or several graphs. TensorFlow
            would run operators of the graph itself to load it.
    """
    graphs = _saved_model(path).meta_graphs
    if len(graphs) != 1 or not graphs[0].HasField("object_graph_def"):
        message = (
            f"{path} was not saved by Keras 2's model.save: it has "
            f"{f'{len(graphs)} graphs' if len(graphs) != 1 else 'no objects'}. Save the model again"
        )
        raise ModelFileError(message)
    return list(refused_operators(graphs[0]))


def _refuse(path: Path, found: Sequence[str]) -> None:
    """Raise an error if there are operators that are not allowed.

    Raises:
        UntrustedCodeError: There are.
    """
    if found:
        names = ", ".join(found[:5]) + (", ..." if found[5:] else "")
        message = (
            f"{path} contains operators that are not functions of tensors ({names}): they may "
            f"access files or run code when the model is loaded. If you trust its source, export "
            f"it with --trust-code"
        )
        raise UntrustedCodeError(message)


def _refuse_revived(path: Path, model: Any) -> None:
    """Raise an error for layers that a SavedModel restores as graphs: their class is unknown."""
    if not isinstance(model, tf_keras.Model):
        message = f"{path} holds a {type(model).__name__}, not a Keras model"
        raise ModelFileError(message)
    layers = model._flatten_layers()  # noqa: SLF001 - no public way to nested layers
    revived = [layer for layer in layers if type(layer).__module__ == keras_loader.__name__]
    unknown = [one for one in revived if not hasattr(tf_keras.layers, type(one).__name__)]
    if unknown:
        message = f"Unknown layer: '{type(unknown[0]).__name__}'"
        raise ValueError(message)
    if revived:
        named = ", ".join(f"{one.name!r} ({type(one).__name__})" for one in revived)
        message = (
            f"{path} does not hold all settings of {'layer' if len(revived) == 1 else 'layers'} "
            f"{named}; one of them may be Python code, such as activation=lambda x: ... Build the "
            f"model with a function instead: --builder my_module:build"
        )
        raise ModelFileError(message, layers=[one.name for one in revived])
