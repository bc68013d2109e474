"""Loads a model from a file, from a file and its weights, or from a function that builds it.

Files are not trusted. A model file is JSON and arrays; Python code in it (a Lambda) is pickled,
and runs only if the user allows it. The file determines which Keras reads it: for a file that
Keras 2 wrote, the reference is the output of Keras 2.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from keyword import iskeyword
from pathlib import Path
from typing import Any

import keras
from keras.src.legacy.saving.saving_utils import model_from_config
from keras.src.ops.operation import Operation

from bilstm_exporter.errors import (
    ExportError,
    MissingLibraryError,
    ModelFileError,
    OptionError,
    UnknownObjectError,
    plain_text,
)
from bilstm_exporter.frontends.files.allowed_objects import keras3_library, only_allowed_objects
from bilstm_exporter.frontends.files.known_objects import (
    KnownObjects,
    MissingObject,
    missing_objects,
    python_name,
    with_registered_names,
)
from bilstm_exporter.frontends.files.lambda_names import resolved_names
from bilstm_exporter.frontends.files.limits import limited_weights
from bilstm_exporter.frontends.files.model_file import (
    KERAS3,
    NOTHING_SHA256,
    ModelFile,
    advice_for_loss,
    checkpoint_files,
    checkpoint_prefix,
    config_layers,
    inspect,
    parsing,
    refuse_code,
    sha256,
    stored_size,
    weights_version,
    with_config,
    without_unneeded_code,
)
from bilstm_exporter.frontends.files.named_checkpoint import load_checkpoint
from bilstm_exporter.frontends.files.stored_part import weights_of_part
from bilstm_exporter.frontends.files.tfjs import assign_weights, read_weights
from bilstm_exporter.frontends.files.training_settings import without_training
from bilstm_exporter.frontends.files.user_code import build_model
from bilstm_exporter.frontends.submodel import named_weights, select_outputs, training_head
from bilstm_exporter.frontends.tracing import observed_failures
from bilstm_exporter.keras_model import KerasModel, ModelLayers, NamedLayer, Origin

# The messages of Keras 2 and 3 for an unknown class or function.
_NAME = r"(?:'([^'{]+)'|\"([^\"{]+)\"|`([^`]+)`|([\w>.]+))"
_UNKNOWN_OBJECT = (
    re.compile(rf"Could not locate (?:class|function) {_NAME}"),
    re.compile(rf"Unknown (?:layer|object|[a-z ]*function):? {_NAME}"),
    re.compile(rf"Unknown [a-z ]*function:? '?\{{.*?'config': {_NAME}"),
    re.compile(rf"Unable to resolve {_NAME}"),
    re.compile(rf"Cannot deserialize object of type {_NAME}"),
    re.compile(rf"Could not interpret [a-z ]*identifier: {_NAME}"),
)
_CLASS = re.compile(r"<class '(?:\w+\.)*(\w+)'>")
_FAILED_LAYER = re.compile(
    r"Error when deserializing class '(\w+)' using config=\{'name': '([^']*)'"
)


def read(  # noqa: PLR0913 - the options of a user are independent
    model: Any,
    *,
    weights: str | Path | None = None,
    builder: str | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    trust_code: bool = False,
    outputs: Sequence[str] = (),
) -> tuple[KerasModel, Origin]:
    """Read a model.

    Args:
        model: A Keras 3 or tf_keras model, the path of a saved one, or the path of an
            architecture in JSON; None with a builder.
        weights: A file of weights to load into the model.
        builder: ``module:function``, which builds the model.
        custom_objects: Layers and functions that the file names, by name.
        trust_code: Whether Python code inside the file may run.
        outputs: The layers whose outputs are exported; by default, the model's outputs.

    Returns:
        The model, and where it came from.

    Raises:
        ModelFileError: The file is missing, damaged, or not a model.
        UntrustedCodeError: The file contains code and ``trust_code`` is False.
        UnknownObjectError: It names a class or function that is not registered.
        UnsupportedModelError: It can be read but not exported.
        OptionError: The options contradict each other.
        MissingLibraryError: It is older than Keras 3, and tf_keras is not installed.
    """
    weights = None if weights is None else Path(weights)
    if builder is not None:
        if model is not None:
            message = f"--builder {builder} builds the model: do not give a model file too"
            raise OptionError(message)
        return _read_built(build_model(builder), f"built by {builder}", weights, outputs)
    if model is None:
        message = "no model: give a model file, or --builder module:function"
        raise OptionError(message)
    if not isinstance(model, (str, Path)):
        return _read_built(model, "a model in memory", weights, outputs)
    file = inspect(Path(model))
    return _read_file(file, weights, custom_objects or {}, outputs, trust_code=trust_code)


def _read_built(
    model: Any, why: str, weights: Path | None, outputs: Sequence[str]
) -> tuple[KerasModel, Origin]:
    """Read a model in memory, and load its weights if they are given."""
    _front_end(model)  # raises a clear error for another object
    if weights is None:
        return _source(model, None, outputs, Origin("", NOTHING_SHA256, _version_of(model), why))
    version = weights_version(weights) or _version_of(model)
    _load_weights(model, weights)
    origin = Origin(weights.name, sha256(weights), version, why)
    return _source(model, None, outputs, origin)


def _read_file(
    file: ModelFile,
    weights: Path | None,
    custom_objects: Mapping[str, Any],
    outputs: Sequence[str],
    *,
    trust_code: bool,
) -> tuple[KerasModel, Origin]:
    if file.kind == "json" and weights is None:
        message = (
            f"{file.path} is an architecture without weights: add the file that "
            f"model.save_weights wrote, --weights FILE"
        )
        raise OptionError(message)
    load = _load_keras3 if file.generation == KERAS3 else _load_keras2
    is_tfjs = file.kind == "tfjs"  # its topology is loaded as an architecture
    # Only a part of a file that has to be read as a whole, or whose weights have other names.
    can_be_part = bool(outputs) and file.kind != "saved_model" and not _is_checkpoint(weights)
    config = file.config
    if can_be_part and not trust_code:
        config = without_unneeded_code(config, outputs)

    def read_as(config: Any) -> Any:
        kind = "json" if is_tfjs or config is not file.config else file.kind
        needed = replace(file, config=config, kind=kind, weights=weights)
        return load(needed, custom_objects, trust_code=trust_code)

    model, config = _read_needed(read_as, config, outputs if can_be_part else ())
    if is_tfjs and weights is None:
        _load_tfjs_weights(model, file.path)
    version = file.version or _version_of(model)
    if weights is not None:
        weights_version(weights)  # raises a clear error for a file without weights
    stored = file.path if weights is None and file.kind in ("keras", "h5") else weights
    if config is not file.config and stored is not None:
        _load_part(model, stored, file.config)
    elif weights is not None:
        _load_weights(model, weights)
    why = file.why
    if file.kind == "saved_model":
        from bilstm_exporter.frontends.keras2.loading import saved_by  # noqa: PLC0415

        why = saved_by(file.path)
    digest = sha256(weights if file.kind == "json" and weights else file.path)
    origin = Origin(file.path.name, digest, version, why)
    return _source(model, file.path.stem, outputs, origin)


def _read_needed(
    read_as: Callable[[Any], Any], config: Any, outputs: Sequence[str]
) -> tuple[Any, Any]:
    """Read a model, or what some outputs need of it if the rest has layers that are not defined.

    Returns:
        The model, and its configuration.
    """
    try:
        return read_as(config), config
    except UnknownObjectError as error:
        part = without_unneeded_code(config, outputs, error.layers) if outputs else config
        if part is config:
            raise
    return read_as(part), part


def _load_part(model: Any, stored: Path, whole: Any) -> None:
    """Load the weights of a part of a model from the file of the whole one."""
    layers = [(layer.name, type(layer).__name__) for layer in model.layers]
    with tempfile.TemporaryDirectory() as folder:
        with parsing(stored):
            path = weights_of_part(stored, whole, layers, Path(folder))
        _load_weights(model, path)


def _is_checkpoint(weights: Path | None) -> bool:
    return weights is not None and bool(checkpoint_files(weights))


def _source(
    model: Any, name: str | None, outputs: Sequence[str], origin: Origin
) -> tuple[KerasModel, Origin]:
    """Wrap a model, or the part that computes some outputs, in the front end of its Keras."""
    front_end, library = _front_end(model)[0], _library_of(model)
    origin = replace(origin, weights=partial(named_weights, model))
    if outputs:
        named = name or model.name
        model, dropped = select_outputs(model, outputs, library)
        note = (
            f"--outputs: without {'the input' if len(dropped) == 1 else 'the inputs'} "
            f"{', '.join(map(repr, dropped))}, which the chosen outputs do not need."
        )
        return front_end(model, named), replace(origin, notes=(note,) if dropped else ())
    return front_end(model, name), replace(origin, advice=_training_advice(model, library))


def _training_advice(model: Any, library: Any) -> str:
    """Tell what to do if a model is one for training, with its loss or labels; "" if it is not."""
    head = training_head(model, library)
    if head is None:
        return ""
    one = len(head.labels) == 1
    return (
        f"If {', '.join(map(repr, head.labels))} {'is an input' if one else 'are inputs'} of the "
        f"training loss only, export the part of the model before it: --outputs "
        f"{','.join(head.layers)}"
    )


def layers_of(model: Any) -> ModelLayers | None:
    """Return what is known of a model's layers before it is loaded, or None.

    Args:
        model: See `read`.
    """
    if isinstance(model, (str, Path)):
        try:
            file = inspect(Path(model))
            with parsing(file.path):
                layers = [(layer.name, layer.kind) for layer in config_layers(file.config)]
        except ExportError:
            return None
        return ModelLayers(file.path.stem, file.why, layers) if layers else None
    try:
        _, named_layers = _front_end(model)
    except ModelFileError:
        return None
    generation = f"{'tf_keras' if _is_keras2(model) else 'keras'} {_version_of(model)}"
    return ModelLayers(model.name, generation, named_layers(model))


def _front_end(
    model: Any,
) -> tuple[Callable[[Any, str | None], KerasModel], Callable[[Any], list[NamedLayer]]]:
    """Return the class that wraps a model, and the function that lists its layers.

    Raises:
        ModelFileError: The object is not a Keras model.
    """
    if isinstance(model, keras.Model):
        from bilstm_exporter.frontends.keras3 import model as keras3  # noqa: PLC0415

        return keras3.Keras3Model, keras3.layers_of
    if _is_keras2(model):
        from bilstm_exporter.frontends.keras2 import model as keras2  # noqa: PLC0415

        return keras2.Keras2Model, keras2.layers_of
    raise ModelFileError(_no_model(model))


def _no_model(model: Any) -> str:
    return (
        f"a {type(model).__module__}.{type(model).__qualname__} is not a Keras model; expected the "
        f"path of one, a keras.Model, or a tf_keras.Model"
    )


def _is_keras2(model: Any) -> bool:
    tf_keras = sys.modules.get("tf_keras")  # imported already if the model is a tf_keras model
    return tf_keras is not None and isinstance(model, tf_keras.Model)


def _library_of(model: Any) -> Any:
    return sys.modules["tf_keras"] if _is_keras2(model) else keras


def _version_of(model: Any) -> str:
    return str(_library_of(model).__version__)


def _load_keras3(file: ModelFile, custom_objects: Mapping[str, Any], *, trust_code: bool) -> Any:
    with parsing(file.path):
        custom_objects = with_registered_names(file.config, custom_objects)
        known = KnownObjects(keras, custom_objects)
        config = without_training(file.config, known)
        if not trust_code:
            refuse_code(file.path, config)
    safe_mode = keras.src.saving.serialization_lib.SafeModeScope(safe_mode=not trust_code)
    with tempfile.TemporaryDirectory() as folder:
        path = file.path
        # Keras ignores how the model itself was compiled: that alone needs no copy.
        unchanged = isinstance(file.config, dict) and config == {
            key: value for key, value in file.config.items() if key != "compile_config"
        }
        if not unchanged and file.kind != "json":
            path = with_config(file, config, Path(folder) / f"model.{file.kind}")
        elif path.suffix != f".{file.kind}":  # Keras requires the right extension
            path = Path(shutil.copy(path, Path(folder) / f"model.{file.kind}"))
        try:
            with (
                safe_mode,
                contextlib.nullcontext() if trust_code else only_allowed_objects(keras3_library()),
                resolved_names(keras, keras.src.utils.python_utils, custom_objects),
                limited_weights(keras.layers.Layer, file.path, _stored_size(file)),
                observed_failures(keras.layers.Layer) as failed,
            ):
                if file.kind == "json" and "module" not in config:  # of an HDF5 file
                    own = {**_keras3_operations(), **custom_objects}
                    return model_from_config(config, custom_objects=own)
                if file.kind == "json":
                    return keras.models.model_from_json(
                        json.dumps(config), custom_objects=custom_objects
                    )
                operations = _keras3_operations() if file.kind == "h5" else {}
                return keras.saving.load_model(
                    path,
                    custom_objects={**operations, **custom_objects},
                    compile=False,
                    safe_mode=not trust_code,
                )
        except Exception as error:
            _raise_own(error)
            reader = f"Keras {keras.__version__}"
            raise _explained(file.path, error, reader, config, known, failed) from error


def _stored_size(file: ModelFile) -> int:
    """Return the number of bytes of weights that belong to a configuration."""
    return stored_size(file.path) + (0 if file.weights is None else stored_size(file.weights))


def _raise_own(error: BaseException) -> None:
    """Raise the error of this project that Keras has put into one of its own, if there is one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ExportError):
            raise cause
        cause = cause.__cause__ or cause.__context__


def _load_keras2(file: ModelFile, custom_objects: Mapping[str, Any], *, trust_code: bool) -> Any:
    try:
        import tf_keras  # noqa: PLC0415 - only old files need it
        from tf_keras.src.saving.serialization_lib import SafeModeScope  # noqa: PLC0415

        from bilstm_exporter.frontends.keras2 import crf_layers, loading  # noqa: PLC0415
        from bilstm_exporter.frontends.keras2.allowed_symbols import (  # noqa: PLC0415
            keras2_library,
            only_functions_of_tensors,
        )
        from bilstm_exporter.frontends.keras2.pruning import WRAPPERS  # noqa: PLC0415
    except ImportError as error:
        if error.name != "tf_keras":
            raise
        message = (
            f"{file.path} is read by Keras 2 ({file.why}), which is not installed: "
            f"pip install 'bilstm-edge[legacy]'"
        )
        raise MissingLibraryError(message) from error
    for name, custom_object in custom_objects.items():
        if isinstance(custom_object, type) and issubclass(custom_object, keras.layers.Layer):
            message = (
                f"the custom object {name!r} is a layer of Keras 3, but {file.path} is read by "
                f"Keras 2 ({file.why}): define it with tf_keras, as 'from tf_keras import layers'; "
                f"or, if its module uses tf.keras, set TF_USE_LEGACY_KERAS=1 before TensorFlow "
                f"is imported"
            )
            used_by = [layer.name for layer in config_layers(file.config) if layer.kind == name]
            raise UnknownObjectError(message, layers=used_by)
    with parsing(file.path):
        configs = loading.saved_configs(file.path) if file.kind == "saved_model" else file.config
        custom_objects = with_registered_names(configs, {**WRAPPERS, **custom_objects})
        custom_objects |= crf_layers.known_layers(configs, custom_objects)
        known = KnownObjects(tf_keras, custom_objects)
        config = crf_layers.with_units(without_training(configs, known), file.path)
        if not trust_code:
            for part in config if file.kind == "saved_model" else [config]:
                refuse_code(file.path, part)
    try:
        with (
            SafeModeScope(safe_mode=not trust_code),
            contextlib.nullcontext() if trust_code else only_functions_of_tensors(),
            contextlib.nullcontext() if trust_code else only_allowed_objects(keras2_library()),
            resolved_names(tf_keras, tf_keras.src.utils.generic_utils, custom_objects),
            limited_weights(tf_keras.layers.Layer, file.path, _stored_size(file)),
            observed_failures(tf_keras.layers.Layer) as failed,
        ):
            return loading.load(
                replace(file, config=config),
                custom_objects,
                known,
                trust_code=trust_code,
            )
    except ExportError:
        raise
    except Exception as error:
        _raise_own(error)
        reader = f"tf_keras {tf_keras.__version__}"
        raise _explained(file.path, error, reader, config, known, failed) from error


def _load_tfjs_weights(model: Any, path: Path) -> None:
    variables = [variable for layer in model.layers for variable in layer.weights]
    names = [variable.name.partition(":")[0] for variable in variables]
    try:
        assign_weights(variables, names, read_weights(path))
    except ExportError:
        raise
    except Exception as error:
        reader = f"{'tf_keras' if _is_keras2(model) else 'Keras'} {_version_of(model)}"
        raise _explained(path, error, reader) from error


def _load_weights(model: Any, path: Path) -> None:
    try:
        if checkpoint_files(path):
            load_checkpoint(model, checkpoint_prefix(path))
        elif _is_keras2(model):
            from bilstm_exporter.frontends.keras2.loading import load_weights  # noqa: PLC0415

            load_weights(model, path)
        else:
            model.load_weights(path)
    except Exception as error:
        reader = "tf_keras" if _is_keras2(model) else "Keras"
        raise _explained(path, error, f"{reader} {_version_of(model)}") from error


def _explained(  # noqa: PLR0913, PLR0917 - each argument is independent
    path: Path,
    error: Exception,
    reader: str,
    config: Any = None,
    known: KnownObjects | None = None,
    failed: Sequence[Any] = (),
) -> ExportError:
    """Convert an error that Keras raised for a file.

    What is missing is looked up in the configuration. Only the text of Keras's error contains any
    other cause; only this function parses it.

    Args:
        path: The file.
        error: The error that Keras raised.
        reader: The name and version of that Keras.
        config: The configuration in the file; None for a file of weights.
        known: The classes and functions that are defined.
        failed: The layers whose call raised the error, innermost first.
    """
    with parsing(path):
        missing = [] if known is None else missing_objects(config, known)
        layers = list(config_layers(config))
    if missing:
        return _missing_objects(path, missing, reader, config)
    text = plain_text(error).strip() or type(error).__name__
    found = (pattern.search(text) for pattern in _UNKNOWN_OBJECT)
    unknown = next((match for match in found if match is not None), None)
    if unknown is not None:
        name = python_name(unknown[unknown.lastindex or 0].rstrip("."))
        used_by = tuple(layer.name for layer in layers if name in layer.words)
        return _missing_objects(path, [MissingObject(name, "", used_by)], reader, config)
    if "marshal" in text:
        message = (
            f"{path} contains Python code of another Python version, which cannot be read. "
            f"Build the model with a function instead: --builder my_module:build --weights {path}"
        )
        return ModelFileError(message)
    coded = {layer.name: layer.kind for layer in layers if layer.has_code}
    if coded:
        # The variables of a SavedModel are a TensorFlow checkpoint.
        weights = path / "variables" / "variables" if path.is_dir() else path
        one = "a setting of layer" if len(coded) == 1 else "settings of layers"
        message = (
            f"{path} contains Python code as {one} "
            f"{', '.join(f'{name!r} ({kind})' for name, kind in coded.items())}, such as "
            f"activation=lambda x: ..., which {reader} does not read. Build the model with a "
            f"function instead: --builder my_module:build --weights {weights}"
        )
        return ModelFileError(message, layers=list(coded))
    # Keras adds a text for each level of the model; the cause is the last one.
    lines = text.rpartition("Exception encountered: ")[2].splitlines()
    if lines[0].endswith("in user code:"):  # TensorFlow's frames follow, then the error
        lines = [line.strip() for line in lines if line.strip()][-1:]
    cause = _CLASS.sub(r"\1", lines[0])[:500]
    labels = [(type(layer).__name__, layer.name) for layer in failed[:1]]
    labels = labels or _FAILED_LAYER.findall(text)
    where = "in the {} layer '{}': ".format(*labels[-1]) if labels else ""
    named = [one.name for one in layers if repr(one.name) in f"{where}{cause}"]
    message = f"{path} cannot be loaded by {reader}: {where}{cause}"
    if failed:
        message += (
            f". If the file does not record how the layer is called, such as with several "
            f"sequences, build the model with a function: --builder my_module:build --weights "
            f"{path}"
        )
    return ModelFileError(message, layers=named)


def _missing_objects(
    path: Path, missing: Sequence[MissingObject], reader: str, config: Any
) -> UnknownObjectError:
    """Make the error for all classes and functions that a file names and that are not defined."""
    named = [
        f"{one.name!r}{f' (in {_listed(one.layers)})' if one.layers else ''}" for one in missing
    ]
    flags = [
        f"--custom-objects {one.module or 'my_module'}"
        f"{f':{one.name}' if one.name.isidentifier() and not iskeyword(one.name) else ''}"
        for one in missing
    ]
    one = len(missing) == 1
    message = (
        f"{path} uses {', '.join(named)}, which {reader} does not know. If "
        f"{'it is yours, name the module that defines it' if one else 'they are yours'}"
        f"{'' if one else ', name the modules that define them'}: {' '.join(dict.fromkeys(flags))}"
    )
    layers = tuple(dict.fromkeys(layer for one in missing for layer in one.layers))
    message += advice_for_loss(config, layers, with_labels=True)
    return UnknownObjectError(message, unknown=missing[0].name, layers=layers)


def _listed(layers: Sequence[str]) -> str:
    names = ", ".join(map(repr, layers[:3]))
    return f"{'layer' if len(layers) == 1 else 'layers'} {names}{', ...' if layers[3:] else ''}"


def _keras3_operations() -> dict[str, Any]:
    """Return the operations of Keras 3 by class name, as custom objects for an HDF5 file.

    In a functional model, a function of keras.ops or the mask of an Embedding between layers is
    an operation. The native format records its module. Keras 3's HDF5 files record only the class
    name, and Keras 3 looks for it among its layers.
    """
    return {
        cls.__name__: _layer_or_operation(getattr(keras.layers, cls.__name__, None), cls)
        for cls in _subclasses(Operation)
        if cls.__module__.startswith("keras.src.ops.")
    }


def _subclasses(cls: type) -> Iterator[type]:
    subclasses: list[type] = cls.__subclasses__()
    for subclass in subclasses:
        yield subclass
        yield from _subclasses(subclass)


def _layer_or_operation(layer: Any, operation: Any) -> Any:
    """Return the operation, or a class that selects between it and a layer of the same name."""
    if layer is None:
        return operation

    class Either:
        """Selects by the configuration: only that of a layer has the key "trainable"."""

        @staticmethod
        def from_config(config: dict[str, Any]) -> Any:
            return (layer if "trainable" in config else operation).from_config(config)

    return Either
