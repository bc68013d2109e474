"""Which classes and functions a configuration may name, and which of them are missing.

A configuration names its classes and functions; a user gives his own as custom objects. Nothing
here imports, builds or calls what a configuration names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bilstm_exporter.frontends.files.model_file import LAMBDA

Config = dict[str, Any]

# The modules of Keras whose classes and functions a configuration may name.
_MODULES = ("layers", "models", "activations", "initializers", "regularizers", "constraints",
            "losses", "metrics", "optimizers")  # fmt: skip
# Classes that Keras writes and that are in none of those modules.
_INTERNAL = frozenset(
    {"AddLoss", "AddMetric", "ClassMethod", "DTypePolicy", "DTypePolicyMap", "Functional",
     "InstanceMethod", "InstanceProperty", "Policy", "SlicingOpLambda", "TFOpLambda",
     "TensorFlowOpLayer", "TensorShape"}
)  # fmt: skip
# The settings that hold layers, in models and wrappers; those that hold cells; and those with
# neither.
_INNER_LAYERS = ("layers", "layer", "forward_layer", "backward_layer")
_CELLS = ("cell", "cells")
_ACTIVATIONS = ("activation", "recurrent_activation")
_NO_OBJECTS = ("inbound_nodes", "compile_config", "build_config")
_PACKAGES = frozenset({"keras", "tf_keras", "tensorflow", "builtins"})


@dataclass(frozen=True)
class MissingObject:
    """A class or function that a configuration names and that is not defined.

    Attributes:
        name: Its name in Python, without the package that it is registered under.
        module: The module that the file records for it, or "".
        layers: The names of the layers that use it.
    """

    name: str
    module: str
    layers: tuple[str, ...]


class KnownObjects:
    """The classes and functions that a Keras resolves without further files.

    Args:
        library: ``keras`` or ``tf_keras``.
        custom_objects: The user's own, by name.
    """

    def __init__(self, library: Any, custom_objects: Mapping[str, Any]) -> None:
        self._library = library
        self._custom = custom_objects

    def has_own(self, *names: str | None) -> bool:
        """Whether one of these names is a custom object, or is registered with Keras."""
        return any(
            name is not None
            and (
                name in self._custom or self._library.utils.get_registered_object(name) is not None
            )
            for name in names
        )

    def has_layer(self, name: str) -> bool:
        """Whether Keras has a layer or a model of this class."""
        modules = (self._library.layers, self._library.models)
        return name in _INTERNAL or any(hasattr(module, name) for module in modules)

    def has_builtin(self, name: str) -> bool:
        """Whether Keras has a class or function of this name, or a module of it."""
        return name in _INTERNAL or any(
            hasattr(getattr(self._library, module), name) for module in _MODULES
        )

    def is_builtin(self, value: Any, kind: str) -> bool:
        """Whether a setting is an object of Keras's own.

        Args:
            value: A name, a serialized object, or another value, which names no object.
            kind: The module of Keras that would define it, such as ``"initializers"``.
        """
        if isinstance(value, str):
            return hasattr(getattr(self._library, kind), value)
        if not isinstance(value, dict) or not isinstance(value.get("class_name"), str):
            return True
        name, module = value["class_name"], value.get("module")
        if name == "function":
            name = value.get("config")
        if not isinstance(name, str) or package_of(module) not in _PACKAGES:
            return False
        return hasattr(getattr(self._library, kind), name)


def package_of(module: Any) -> str:
    """Return the package of the module that a configuration records; "builtins" for none."""
    return module.partition(".")[0] if isinstance(module, str) else "builtins"


def python_name(registered: str) -> str:
    """Return the Python name of a class or function that is registered as ``package>name``."""
    return registered.rpartition(">")[2]


def with_registered_names(config: Any, custom_objects: Mapping[str, Any]) -> dict[str, Any]:
    """Add the names under which a configuration registers custom objects.

    A file names a class by the package that it was registered in, as ``"weather>FeedBack"``; the
    user gives ``my_module:FeedBack``.
    """
    found = dict(custom_objects)
    for item in _serialized(config):
        for registered in (item.get("registered_name"), item["class_name"], item.get("config")):
            if not isinstance(registered, str) or registered in found:
                continue
            for name in (python_name(registered), item["class_name"]):
                if name in custom_objects and (">" in registered or name == item["class_name"]):
                    found[registered] = custom_objects[name]
                    break
    return found


def _serialized(config: Any) -> Iterator[Config]:
    """Yield every serialized object in a configuration."""
    if isinstance(config, list):
        for item in config:
            yield from _serialized(item)
    elif isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            yield config
        for value in config.values():
            yield from _serialized(value)


def missing_objects(config: Any, known: KnownObjects) -> list[MissingObject]:
    """Return the classes and functions that a configuration names and that are not defined.

    Args:
        config: The configuration of a model, or a list of configurations.
        known: What is defined.
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for name, module, layer in _missing(config, known, None):
        module_of_first, layers = found.setdefault(name, (module, []))
        if layer is not None and layer not in layers:
            layers.append(layer)
        if not module_of_first:
            found[name] = (module, layers)
    return [MissingObject(name, module, tuple(layers)) for name, (module, layers) in found.items()]


def _missing(
    value: Any, known: KnownObjects, layer: str | None, *, is_layer: bool = True
) -> Iterator[tuple[str, str, str | None]]:
    """Yield name, module and layer of what is missing.

    Args:
        value: A configuration, or a part of one.
        known: What is defined.
        layer: The name of the layer around it.
        is_layer: Whether the value stands where Keras expects layers.
    """
    if isinstance(value, list):
        for item in value:
            yield from _missing(item, known, layer, is_layer=is_layer)
    if not isinstance(value, dict):
        return
    name, settings = value.get("class_name"), value.get("config")
    is_object = isinstance(name, str) and not name.startswith("__")
    if is_object and is_layer and isinstance(settings, dict):
        layer = str(settings.get("name") or value.get("name") or layer)
    missing = _missing_name(value, name, known, is_layer=is_layer) if is_object else None
    if missing is not None:
        module = value.get("module")
        is_own = package_of(module) not in _PACKAGES | {"__main__"}
        yield python_name(missing), str(module) if is_own else "", layer
    for key, item in value.items():
        if key in _ACTIVATIONS and isinstance(item, str):
            is_known = known.has_own(item) or known.has_builtin(item) or item == LAMBDA
            found = [] if is_known else [item]
            yield from ((python_name(one), "", layer) for one in found)
        elif key in _CELLS:  # they belong to the layer around them
            yield from ((found, module, layer) for found, module, _ in _missing(item, known, layer))
        elif key not in _NO_OBJECTS:
            # The configuration of an old Sequential model is the list of its layers.
            inner = key in _INNER_LAYERS or (key == "config" and isinstance(item, list))
            yield from _missing(item, known, layer, is_layer=inner)


def _missing_name(value: Config, name: Any, known: KnownObjects, *, is_layer: bool) -> str | None:
    """Return the name of a serialized object if it is not defined."""
    settings, registered = value.get("config"), value.get("registered_name")
    if name == "function":
        if not isinstance(settings, str) or known.has_own(settings, registered):
            return None
        builtin = package_of(value.get("module")) in _PACKAGES and known.has_builtin(settings)
        return None if builtin else settings
    if known.has_own(name, registered):
        return None
    if "module" in value:
        return None if package_of(value["module"]) in _PACKAGES - {"builtins"} else name
    # The settings of a user's own layer may be anything.
    builtin = known.has_layer(name) if is_layer else known.has_builtin(name)
    return None if builtin else name
