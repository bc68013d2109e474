"""From a file, a file and its weights, or a function, to a model, trusting nothing in a file.

A model file is JSON and arrays; Python code in it (a Lambda) is pickled and runs only
where the user said so. Which Keras reads it is decided by the file: what Keras 2 wrote
means what Keras 2 computes.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from bilstm_exporter.errors import (
    ExportError,
    MissingLibraryError,
    ModelFileError,
    OptionError,
    UnknownObjectError,
)
from bilstm_exporter.frontends.keras3 import model as keras3_model
from bilstm_exporter.frontends.keras3.hdf5 import operations
from bilstm_exporter.frontends.model_file import (
    KERAS3,
    NOTHING_SHA256,
    ModelFile,
    config_layers,
    inspect,
    refuse_code,
    sha256,
    weights_version,
)
from bilstm_exporter.frontends.user_code import build_model
from bilstm_exporter.keras_model import KerasModel, ModelLayers, Origin

_UNKNOWN_CLASS = re.compile(
    r"(?:Could not locate (?:class|function)|Unknown (?:layer|object|[a-z ]*function):?|"
    r"Unable to resolve) '?\"?([\w>.]+)"
)
# What either Keras raises for a file that it does not understand.
_LOADING_ERRORS = (
    ValueError, TypeError, KeyError, AttributeError, IndexError, OSError, ImportError,
    NotImplementedError, RuntimeError,
)  # fmt: skip


def read(
    model: Any,
    *,
    weights: str | Path | None = None,
    builder: str | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    trust_code: bool = False,
) -> tuple[KerasModel, Origin]:
    """Read a model.

    Args:
        model: A Keras 3 or tf_keras model, the path of a saved one, or that of an
            architecture in JSON; None with a builder.
        weights: A file of weights to load into the model.
        builder: ``module:function``, which builds the model.
        custom_objects: Layers and functions that the file names, by name.
        trust_code: Whether Python code inside the file may run.

    Raises:
        ModelFileError: The file is missing, damaged, or no model.
        UntrustedCodeError: It carries code and ``trust_code`` is False.
        UnknownObjectError: It names a class or function that nobody registered.
        UnsupportedModelError: It can be read but not exported.
        OptionError: The options do not go together.
        MissingLibraryError: It is old, and tf_keras is not installed.
    """
    weights = None if weights is None else Path(weights)
    if builder is not None:
        if model is not None:
            message = f"--builder {builder} builds the model, so no model file goes with it"
            raise OptionError(message)
        return _read_built(build_model(builder), f"built by {builder}", weights)
    if model is None:
        message = "no model: give a model file, or --builder module:function"
        raise OptionError(message)
    if not isinstance(model, (str, Path)):
        return _read_built(model, "a model in memory", weights)
    return _read_file(inspect(Path(model)), weights, custom_objects or {}, trust_code=trust_code)


def _read_built(model: Any, why: str, weights: Path | None) -> tuple[KerasModel, Origin]:
    """A model in memory, perhaps with weights still to load."""
    source = _source(model, None)
    if weights is None:
        return source, Origin("", NOTHING_SHA256, _version_of(model), why)
    version = weights_version(weights) or _version_of(model)
    _load_weights(model, weights)
    return _source(model, None), Origin(weights.name, sha256(weights), version, why)


def _read_file(
    file: ModelFile, weights: Path | None, custom_objects: Mapping[str, Any], *, trust_code: bool
) -> tuple[KerasModel, Origin]:
    if file.kind == "json" and weights is None:
        message = (
            f"{file.path} is an architecture without weights: add the file that "
            f"model.save_weights wrote, --weights FILE"
        )
        raise OptionError(message)
    try:
        if not trust_code:
            refuse_code(file.path, file.config)
        load = _load_keras3 if file.generation == KERAS3 else _load_keras2
        model = load(file, custom_objects, trust_code=trust_code)
    except ExportError as error:
        _with_layers(error, file)
        raise
    version = file.version or _version_of(model)
    if weights is not None:
        weights_version(weights)  # says what is wrong with a file that holds none
        _load_weights(model, weights)
    why = file.why
    if file.kind == "saved_model":
        from bilstm_exporter.frontends.keras2.loading import saved_by  # noqa: PLC0415

        why = saved_by(file.path)
    digest = sha256(weights if file.kind == "json" and weights else file.path)
    return _source(model, file.path.stem), Origin(file.path.name, digest, version, why)


def _source(model: Any, name: str | None) -> KerasModel:
    """The front end of a model, whichever Keras it belongs to."""
    make: Callable[[Any, str | None], KerasModel]
    if isinstance(model, keras.Model):
        make = keras3_model.Keras3Source
    elif _is_keras2(model):
        from bilstm_exporter.frontends.keras2 import model as keras2_model  # noqa: PLC0415

        make = keras2_model.Keras2Source
    else:
        raise ModelFileError(_no_model(model))
    return make(model, name)


def _no_model(model: Any) -> str:
    return (
        f"a {type(model).__module__}.{type(model).__qualname__} is no Keras model; expected the "
        f"path of one, a keras.Model, or a tf_keras.Model"
    )


def layers_of(model: Any) -> ModelLayers | None:
    """What is known of a model's layers before it is loaded, or None.

    Args:
        model: As of `read`.
    """
    if isinstance(model, (str, Path)):
        try:
            file = inspect(Path(model))
        except ExportError:
            return None
        layers = [(layer.name, layer.kind) for layer in config_layers(file.config)]
        return ModelLayers(file.path.stem, file.why, layers) if layers else None
    if isinstance(model, keras.Model):
        named, generation = keras3_model.layers_of(model), "keras"
    elif _is_keras2(model):
        from bilstm_exporter.frontends.keras2 import model as keras2_model  # noqa: PLC0415

        named, generation = keras2_model.layers_of(model), "tf_keras"
    else:
        return None
    return ModelLayers(model.name, f"{generation} {_version_of(model)}", named)


def _with_layers(error: ExportError, file: ModelFile) -> None:
    """Add the layers that an error is about, where the file's own configuration names them."""
    if isinstance(error, UnknownObjectError) and not error.layers:
        layers = config_layers(file.config)
        error.layers = tuple(layer.name for layer in layers if error.unknown in layer.words)


def _is_keras2(model: Any) -> bool:
    tf_keras = sys.modules.get("tf_keras")  # whoever made the model has loaded it
    return tf_keras is not None and isinstance(model, tf_keras.Model)


def _version_of(model: Any) -> str:
    return str(sys.modules["tf_keras"].__version__ if _is_keras2(model) else keras.__version__)


def _load_keras3(file: ModelFile, custom_objects: Mapping[str, Any], *, trust_code: bool) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        # Keras goes by the file's name.
        path = file.path
        if path.suffix != f".{file.kind}":
            path = Path(shutil.copy(path, Path(folder) / f"model.{file.kind}"))
        try:
            if file.kind == "json":
                with keras.src.saving.serialization_lib.SafeModeScope(safe_mode=not trust_code):
                    return keras.models.model_from_json(
                        json.dumps(file.config), custom_objects=dict(custom_objects)
                    )
            known = operations() if file.kind == "h5" else {}
            return keras.saving.load_model(
                path,
                custom_objects={**known, **custom_objects},
                compile=False,
                safe_mode=not trust_code,
            )
        except _LOADING_ERRORS as error:
            raise _explained(file.path, error, f"Keras {keras.__version__}") from error


def _load_keras2(file: ModelFile, custom_objects: Mapping[str, Any], *, trust_code: bool) -> Any:
    try:
        import tf_keras  # noqa: PLC0415 - only old files need it

        from bilstm_exporter.frontends.keras2 import loading  # noqa: PLC0415
    except ImportError as error:
        if error.name != "tf_keras":
            raise
        message = (
            f"{file.path} is read by Keras 2 ({file.why}), which is not installed: "
            f"pip install 'bilstm-edge[legacy]'"
        )
        raise MissingLibraryError(message) from error
    for name, thing in custom_objects.items():
        if isinstance(thing, type) and issubclass(thing, keras.layers.Layer):
            message = (
                f"the custom object {name!r} is a layer of Keras 3, but {file.path} is read by "
                f"Keras 2 ({file.why}): define it with tf_keras, as 'from tf_keras import layers'; "
                f"or, where its module says tf.keras, set TF_USE_LEGACY_KERAS=1 before TensorFlow "
                f"is imported"
            )
            raise UnknownObjectError(message)
    try:
        return loading.load(file, custom_objects, trust_code=trust_code)
    except ExportError:
        raise
    except _LOADING_ERRORS as error:
        raise _explained(file.path, error, f"tf_keras {tf_keras.__version__}") from error


def _load_weights(model: Any, path: Path) -> None:
    try:
        if _is_keras2(model):
            from bilstm_exporter.frontends.keras2.loading import load_weights  # noqa: PLC0415

            load_weights(model, path)
        else:
            model.load_weights(path)
    except _LOADING_ERRORS as error:
        reader = "tf_keras" if _is_keras2(model) else "Keras"
        raise _explained(path, error, f"{reader} {_version_of(model)}") from error


def _explained(path: Path, error: Exception, reader: str) -> Exception:
    text = str(error)
    unknown = _UNKNOWN_CLASS.search(text)
    if unknown:
        message = (
            f"{path} uses {unknown[1]!r}, which {reader} does not know. If it is yours, name the "
            f"module that defines it: --custom-objects my_module (or my_module:{unknown[1]})"
        )
        return UnknownObjectError(message, unknown=unknown[1].rpartition(">")[2])
    if "marshal" in text:
        message = (
            f"{path} carries Python code that another Python wrote, and this one cannot read. "
            f"Build the model with a function instead: --builder my_module:build --weights {path}"
        )
        return ModelFileError(message)
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return ModelFileError(f"{path} cannot be loaded by {reader}: {first[:500]}")
