"""Removes from a configuration what only training needs, so that it loads without it.

The weights come from the file. Initializers, regularizers, constraints, losses, metrics and
optimizers of the user's own are therefore not needed, nor are the wrappers that prune weights
while a model is trained.
"""

from __future__ import annotations

from typing import Any

from bilstm_exporter.frontends.known_objects import Config, KnownObjects, package_of, python_name

_KINDS = {
    "_initializer": "initializers",
    "_regularizer": "regularizers",
    "_constraint": "constraints",
}
# Wrappers of tensorflow_model_optimization that compute what the layer inside them computes. Their
# setting "layer" holds it.
_PRUNING_WRAPPERS = frozenset({"PruneLowMagnitude"})
_INPUT_SHAPES = ("batch_input_shape", "batch_shape")


def without_training(config: Any, known: KnownObjects) -> Any:
    """Return a configuration without the settings that only training needs.

    Args:
        config: The configuration of a model; it is not changed.
        known: What Keras and the user define.
    """
    return _without_training(config, known, is_own=False)


def own_training_settings(config: Any, known: KnownObjects) -> set[str]:
    """Return the names of initializers and the like of a configuration that are not Keras's.

    Args:
        config: The configuration of a model, or a list of configurations.
        known: What Keras and the user define.
    """
    if isinstance(config, list):
        return set[str]().union(*(own_training_settings(item, known) for item in config))
    found: set[str] = set()
    for key, value in config.items() if isinstance(config, dict) else ():
        kinds = [kind for ending, kind in _KINDS.items() if key.endswith(ending)]
        if kinds and not known.is_builtin(value, kinds[0]):
            found.add(_name(value))
        elif not kinds:
            found |= own_training_settings(value, known)
    return found


def _without_training(value: Any, known: KnownObjects, *, is_own: bool) -> Any:
    if isinstance(value, list):
        return [_without_training(item, known, is_own=is_own) for item in value]
    if not isinstance(value, dict):
        return value
    name, settings = value.get("class_name"), value.get("config")
    if isinstance(name, str) and isinstance(settings, dict):
        if is_pruning_wrapper(value, known):
            return _without_training(_unwrapped(value), known, is_own=is_own)
        value = {key: item for key, item in value.items() if key != "compile_config"}
        is_own = known.has_own(name, value.get("registered_name")) or not (
            known.has_layer(name) or package_of(value.get("module")) == "keras"
        )
    return {key: _setting(key, item, known, is_own=is_own) for key, item in value.items()}


def _setting(key: str, value: Any, known: KnownObjects, *, is_own: bool) -> Any:
    """Return a setting; for an initializer and the like of the user's own, one of Keras's."""
    for ending, kind in _KINDS.items():
        if key.endswith(ending):
            if known.is_builtin(value, kind) or (is_own and _is_given(value, known)):
                return value
            return "zeros" if kind == "initializers" else None
    return _without_training(value, known, is_own=is_own)


def _is_given(value: Any, known: KnownObjects) -> bool:
    """Whether the user defines an object, which only a layer of his own may need."""
    registered = value.get("registered_name") if isinstance(value, dict) else None
    return known.has_own(_name(value), registered)


def _name(value: Any) -> str:
    """Return the name of a serialized class or function."""
    if isinstance(value, str):
        return value
    name = value.get("config") if value["class_name"] == "function" else value["class_name"]
    return name if isinstance(name, str) else str(value["class_name"])


def is_pruning_wrapper(layer: Config, known: KnownObjects) -> bool:
    """Whether a layer's configuration is a wrapper that prunes the layer inside it."""
    registered = layer.get("registered_name")
    return (
        python_name(layer["class_name"]) in _PRUNING_WRAPPERS
        and not known.has_own(layer["class_name"], registered)
        and isinstance(layer["config"].get("layer"), dict)
        and isinstance(layer["config"]["layer"].get("config"), dict)
    )


def _unwrapped(wrapper: Config) -> Config:
    """Return the layer inside a wrapper, under the name and at the place of the wrapper."""
    settings, inner = wrapper["config"], wrapper["config"]["layer"]
    shapes = {key: settings[key] for key in _INPUT_SHAPES if settings.get(key) is not None}
    named = {"name": settings["name"]} if "name" in settings else {}
    place = {key: wrapper[key] for key in ("name", "inbound_nodes") if key in wrapper}
    return {**inner, **place, "config": {**shapes, **inner["config"], **named}}


def pruned_layers(config: Any, known: KnownObjects) -> frozenset[str]:
    """Return the names of the layers of a model that stand in pruning wrappers."""
    settings = config.get("config") if isinstance(config, dict) else None
    layers = settings.get("layers", []) if isinstance(settings, dict) else settings
    return frozenset(
        str(layer["config"].get("name"))
        for layer in (layers if isinstance(layers, list) else [])
        if isinstance(layer, dict)
        and isinstance(layer.get("class_name"), str)
        and isinstance(layer.get("config"), dict)
        and is_pruning_wrapper(layer, known)
    )
