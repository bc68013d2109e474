"""The classes and functions of a library that the configuration of an untrusted file may use.

A configuration names classes and functions at any depth, by name, by module, or by both. Keras
resolves them among all that it exports, which includes functions that read and write files, load
other models or change settings, and imports the modules that are named. Every name is therefore
checked after it is resolved and before it is called: it must be a kind of object that a model is
made of, or a function of tensors.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from bilstm_exporter.errors import ModelFileError, UntrustedCodeError
from bilstm_exporter.frontends.files.known_objects import package_of
from bilstm_exporter.frontends.patching import replaced

# Modules that define functions of tensors, relative to the package of the library.
_FUNCTION_MODULES = (
    "src.activations", "src.constraints", "src.initializers", "src.layers.merging", "src.losses",
    "src.metrics", "src.ops", "src.quantizers", "src.random", "src.regularizers",
)  # fmt: skip
# In those modules: they resolve a name themselves.
_RESOLVERS = frozenset({"deserialize", "deserialize_keras_object", "get", "serialize"})
# Layers that load the files or run the code that their configuration holds.
_REFUSED_CLASSES = frozenset({"FlaxLayer", "JaxLayer", "TFSMLayer", "TorchModuleWrapper"})
# Settings by which a metric creates a list of thresholds or a square of classes.
_COUNTS, _COUNTS_LIMIT = ("num_classes", "num_thresholds"), 2**13
# Packages by the makers of Keras, in which it looks for layers. Their other classes may read files.
_LAYERS_OF_OTHERS = ("keras_cv.src.layers", "keras_hub.src.layers", "keras_nlp.src.layers")


@dataclass(frozen=True)
class Library:
    """A Keras, and where it resolves names.

    Attributes:
        keras: ``keras`` or ``tf_keras``.
        bases: The base classes of the objects that a model is made of.
        serialization: Its module with ``_retrieve_class_or_fn``.
        legacy: Its module with ``deserialize_keras_object`` for HDF5 files and SavedModels.
        registration: Its module with ``get_registered_object``.
        code: Its module with ``func_load``.
        lookup: The base class of its layers with a vocabulary.
        packages: The packages of which a configuration may name modules.
        exported: Returns what the library exports under a full name, or None.
        allows: Whether another class or function of a package is allowed.
        stand_ins: Classes that are used in place of others of the library.
    """

    keras: Any
    bases: tuple[type, ...]
    serialization: Any
    legacy: Any
    registration: Any
    code: Any
    lookup: Any
    packages: frozenset[str]
    exported: Callable[[str], Any]
    allows: Callable[[Any], bool] = field(default=lambda _value: False)
    stand_ins: Mapping[Any, type] = field(default_factory=dict)


@contextlib.contextmanager
def only_allowed_objects(library: Library) -> Iterator[None]:
    """Refuse every other class and function that a file names while it is loaded in this context.

    Custom objects of the user and registered ones are allowed.

    Raises:
        UntrustedCodeError: The file names another class or function, or holds code.
    """
    resolve, deserialize = (
        library.serialization._retrieve_class_or_fn,  # noqa: SLF001 - where all names are resolved
        library.legacy.deserialize_keras_object,
    )
    set_vocabulary = library.lookup.set_vocabulary

    def checked_resolve(  # noqa: PLR0913, PLR0917 - the arguments are those of Keras
        name: Any,
        registered_name: Any,
        module: Any,
        obj_type: str,
        full_config: Any,
        custom_objects: Any = None,
    ) -> Any:
        key = name if obj_type == "function" else registered_name
        own = library.registration.get_registered_object(key, custom_objects)
        if own is not None:
            return own
        if module and not _may_name(module, library):
            message = f"Could not locate {obj_type} '{name}'"
            raise TypeError(message)
        _checked(library.exported(f"{module}.{name}"), f"{module}.{name}", library)
        found = resolve(name, registered_name, module, obj_type, full_config, custom_objects)
        if any(found is one for one in (custom_objects or {}).values()):
            return found
        found = _checked(found, f"{module}.{name}", library)
        _check_counts(found, full_config, library)
        return library.stand_ins.get(found, found)

    def checked_deserialize(
        identifier: Any, module_objects: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        if isinstance(identifier, Mapping) and module_objects:
            found = module_objects.get(str(identifier.get("class_name")))
            _check_counts(found, identifier, library)
        return deserialize(identifier, _Checked(module_objects or {}, library), *args, **kwargs)

    def set_given_vocabulary(layer: Any, vocabulary: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(vocabulary, str):
            refuse(f"reads the file {vocabulary!r} for the vocabulary of the layer {layer.name!r}")
        return set_vocabulary(layer, vocabulary, *args, **kwargs)

    def load_function(*_args: Any, **_kwargs: Any) -> NoReturn:
        refuse("contains Python code")

    with replaced(
        {
            (library.serialization, "_retrieve_class_or_fn"): checked_resolve,
            (library.legacy, "deserialize_keras_object"): checked_deserialize,
            (library.code, "func_load"): load_function,
            (library.lookup, "set_vocabulary"): set_given_vocabulary,
        }
    ):
        yield


def refuse(problem: str) -> NoReturn:
    """Raise the error for what a file does while it is loaded.

    Args:
        problem: What the file does, after "the file".
    """
    message = (
        f"the file {problem} while it is loaded, which could do anything. If you trust its "
        f"source, export it with --trust-code"
    )
    raise UntrustedCodeError(message)


def keras3_library() -> Library:
    """Return where Keras 3 resolves names."""
    import keras  # noqa: PLC0415 - only its own files need it
    from keras.src.layers.preprocessing.index_lookup import IndexLookup  # noqa: PLC0415
    from keras.src.legacy.saving import serialization  # noqa: PLC0415
    from keras.src.ops.operation import Operation  # noqa: PLC0415

    from bilstm_exporter.frontends.files.linear_policies import (  # noqa: PLC0415
        LinearDTypePolicyMap,
    )

    return Library(
        keras=keras,
        bases=(*base_classes(keras), Operation, keras.Quantizer, keras.random.SeedGenerator,
               keras.quantizers.QuantizationConfig, keras.DTypePolicy,
               keras.dtype_policies.DTypePolicyMap),
        serialization=keras.src.saving.serialization_lib,
        legacy=serialization,
        registration=keras.src.saving.object_registration,
        code=keras.src.utils.python_utils,
        lookup=IndexLookup,
        packages=frozenset({"keras", "keras_cv", "keras_hub", "keras_nlp", "builtins"}),
        exported=keras.src.api_export.get_symbol_from_name,
        allows=lambda value: isinstance(value, type)
        and issubclass(value, keras.layers.Layer)
        and _is_within(value.__module__, _LAYERS_OF_OTHERS),
        stand_ins={keras.dtype_policies.DTypePolicyMap: LinearDTypePolicyMap},
    )  # fmt: skip


def base_classes(keras: Any) -> tuple[type, ...]:
    """Return the base classes of the objects that a model is made of, in both generations."""
    return (
        keras.layers.Layer,
        keras.initializers.Initializer,
        keras.regularizers.Regularizer,
        keras.constraints.Constraint,
        keras.losses.Loss,
        keras.metrics.Metric,
        keras.optimizers.Optimizer,
        keras.optimizers.schedules.LearningRateSchedule,
    )


class _Checked(Mapping[str, Any]):
    """The objects among which a name is looked up; the one that is found is checked."""

    def __init__(self, objects: Mapping[str, Any], library: Library) -> None:
        self._objects = objects
        self._library = library
        # No layer takes a function that merges tensors, such as `dot`, but Keras would put it in
        # place of a setting of the same name, such as the score mode of an Attention layer.
        layers = library.keras.layers
        self._merging = {
            layers.add, layers.average, layers.concatenate, layers.dot, layers.maximum,
            layers.minimum, layers.multiply, layers.subtract,
        }  # fmt: skip

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        return _checked(self._objects[name], name, self._library)

    def __iter__(self) -> Iterator[str]:
        return filter(self.__contains__, self._objects)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or name not in self._objects:
            return False
        value = self._objects[name]
        return not (inspect.isfunction(value) and value in self._merging)


def _may_name(module: Any, library: Library) -> bool:
    """Whether Keras may look for a name in a module, without importing one that it does not use."""
    package = package_of(module)
    if not isinstance(module, str) or package not in library.packages:
        return False
    return package in {"keras", "tf_keras", "builtins"} or (
        module in sys.modules or _is_within(module, _LAYERS_OF_OTHERS)
    )


def _is_within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _checked(value: Any, name: str, library: Library) -> Any:
    """Return what a name resolves to.

    Raises:
        UntrustedCodeError: A model may not be made of it.
    """
    if value is None or _is_allowed(value, library) or library.allows(value):
        return value
    refuse(f"uses {name!r}, which is neither a layer nor a function of tensors,")


def _check_counts(value: Any, config: Any, library: Library) -> None:
    """Raise for a metric, which training alone needs, with a setting that would fill memory."""
    if not (isinstance(value, type) and issubclass(value, library.keras.metrics.Metric)):
        return
    settings = config.get("config") if isinstance(config, Mapping) else None
    for key in _COUNTS:
        count = settings.get(key) if isinstance(settings, Mapping) else None
        if isinstance(count, (int, float)) and count > _COUNTS_LIMIT:
            message = f"the file has a {value.__name__} of {key}={count!r:.20}, which fills memory"
            raise ModelFileError(message)


def _is_allowed(value: Any, library: Library) -> bool:
    module, package = str(getattr(value, "__module__", "")), library.keras.__name__
    if package_of(module) != package:
        return False
    if isinstance(value, type):
        return issubclass(value, library.bases) and value.__name__ not in _REFUSED_CLASSES
    modules = tuple(f"{package}.{one}" for one in _FUNCTION_MODULES)
    name = getattr(value, "__name__", None)
    return callable(value) and name not in _RESOLVERS and _is_within(module, modules)
