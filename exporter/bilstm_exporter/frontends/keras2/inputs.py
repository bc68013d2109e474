"""The inputs of tf_keras models, with the structure in which a model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from bilstm_exporter.errors import ModelFileError
from bilstm_exporter.frontends.base_model import unique_names
from bilstm_exporter.keras_model import DeclaredInput


def inputs_of(model: Any) -> tuple[Any, tuple[DeclaredInput, ...]]:
    """Return the structure in which a model takes its inputs, and their flat specs."""
    structure = getattr(model, "_nested_inputs", None)
    if structure is not None:
        flat = tf.nest.flatten(structure)
        if not isinstance(structure, dict) and len(flat) == 1:
            structure = flat[0]
        # Without a declared shape, a Sequential has only the shape of the call that built it.
        declared = getattr(model, "_has_explicit_input_shape", True)
        specs = [
            DeclaredInput(name, tuple(tensor.shape), tensor.dtype.name, declared)
            for name, tensor in zip(_input_names(model, flat), flat, strict=True)
        ]
        return structure, tuple(specs)
    saved = model.save_spec(dynamic_batch=True)
    if saved is None:
        message = (
            f"the model {model.name!r} was never built, so its input shapes are unknown: "
            f"call it once on an example and export again"
        )
        raise ModelFileError(message)
    structure = saved[0][0]
    flat = tf.nest.flatten(structure)
    if isinstance(structure, dict):
        names = list(map(str, sorted(structure)))
    else:
        names = [f"input_{i}" for i in range(len(flat))] if len(flat) > 1 else ["input"]
    if len(names) != len(flat):  # a dict of dicts
        names = [f"input_{i}" for i in range(len(flat))]
    specs = [
        DeclaredInput(name, tuple(spec.shape), spec.dtype.name, declared=False)
        for name, spec in zip(names, flat, strict=True)
    ]
    return structure, tuple(specs)


def _input_names(model: Any, flat: Sequence[Any]) -> tuple[str, ...]:
    names = list(getattr(model, "input_names", None) or [])
    if len(names) != len(flat):
        names = [tensor.name for tensor in flat]
    return unique_names(names)
