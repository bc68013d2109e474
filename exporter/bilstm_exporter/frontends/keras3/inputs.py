"""The inputs of Keras 3 models, with the structure in which a model takes them."""

from __future__ import annotations

from typing import Any

import keras
from keras import tree

from bilstm_exporter.errors import ModelFileError
from bilstm_exporter.keras_model import DeclaredInput


def inputs_of(model: keras.Model) -> tuple[Any, tuple[DeclaredInput, ...]]:
    """Return the structure in which a model takes its inputs, and their flat specs."""
    declared = getattr(model, "inputs", None)
    if declared:
        inner = getattr(model, "_functional", None) or model
        structure = getattr(inner, "_inputs_struct", declared)
        specs = [
            DeclaredInput(tensor.name, tuple(tensor.shape), tensor.dtype)
            for tensor in tree.flatten(structure)
        ]
        return structure, tuple(specs)
    if not model.built:
        message = (
            f"the model {model.name!r} was never built, so its input shapes are unknown: "
            f"call it once on an example, or give it a keras.Input, and export again"
        )
        raise ModelFileError(message)
    return _inputs_of_subclass(model)


def _inputs_of_subclass(model: keras.Model) -> tuple[Any, tuple[DeclaredInput, ...]]:
    """Return the inputs of a subclassed model, from the shapes of the call that built it."""
    config = model.get_build_config() or {}
    shapes = config.get("input_shape") or config.get("shapes_dict")
    if not shapes:
        message = (
            f"the subclassed model {model.name!r} does not record its input shapes: "
            f"call it once on an example, save it again, and export that file. If it was called, "
            f"its call reads values of tensors in Python (if, float(), numpy), which no file can: "
            f"write it with keras.ops"
        )
        raise ModelFileError(message)
    structure, flat = _shape_structure(shapes)
    specs = [
        DeclaredInput(
            name=name if len(flat) > 1 or name else "input",
            shape=(None, *shape[1:]),
            dtype=keras.config.floatx(),
            declared=False,
        )
        for name, shape in flat
    ]
    return structure, tuple(specs)


def _shape_structure(shapes: Any) -> tuple[Any, list[tuple[str, tuple[int | None, ...]]]]:
    """Read a tuple of sizes, a list of such tuples, or a dict of them."""
    if isinstance(shapes, dict):
        names = sorted(shapes)
        return dict.fromkeys(names, 0), [(name, tuple(shapes[name])) for name in names]
    if all(size is None or isinstance(size, int) for size in shapes):
        return 0, [("input", tuple(shapes))]
    flat = [(f"input_{i}", tuple(shape)) for i, shape in enumerate(shapes)]
    return [0] * len(flat), flat
