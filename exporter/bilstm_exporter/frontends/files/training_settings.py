"""Removes from a configuration what only training needs, so that it loads without it.

The weights come from the file. Initializers, regularizers, constraints, losses, metrics and
optimizers of the user's own are therefore not needed, nor is the schedule of wrappers that prune
weights while a model is trained.
"""

from __future__ import annotations

from typing import Any

from bilstm_exporter.frontends.files.known_objects import KnownObjects, package_of, python_name

_KINDS = {
    "_initializer": "initializers",
    "_regularizer": "regularizers",
    "_constraint": "constraints",
}
# Wrappers of tensorflow_model_optimization, and their settings for training.
PRUNING_WRAPPERS = frozenset({"PruneLowMagnitude"})
_PRUNING_SETTINGS = frozenset({"pruning_schedule", "block_size", "block_pooling_type"})


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
        if python_name(name) in PRUNING_WRAPPERS:
            kept = {k: item for k, item in settings.items() if k not in _PRUNING_SETTINGS}
            value = {**value, "config": kept}
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
