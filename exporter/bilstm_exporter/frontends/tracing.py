"""What tracing leaves to do, whichever library was traced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bilstm_exporter.errors import UnsupportedModelError, plain_text
from bilstm_exporter.ir.markers import UnknownReadError
from bilstm_exporter.keras_model import layer_of_node

# Not PyFuncStateless, which marks a recurrence on its way to ONNX.
_PYTHON = frozenset({"EagerPyFunc", "PyFunc"})


def off_by_one_rounding(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The float32 values next to these, up or down at random; others as they are."""
    if values.dtype != np.float32:
        return values
    towards = np.where(rng.integers(2, size=values.shape), np.float32(np.inf), -np.float32(np.inf))
    return np.asarray(np.nextafter(values, towards, dtype=np.float32))


def untraceable(error: Exception, written_with: str) -> UnsupportedModelError:
    """Say that a model runs but cannot be traced, and how a layer must be written."""
    if isinstance(error, UnknownReadError):
        message = (
            f"layer {error.layer!r}: its cell reads {error.tensor}, which is neither an input of "
            f"the step nor a weight; pass it to the cell as a state or as part of its inputs"
        )
        return UnsupportedModelError(message, layers=(error.layer,))
    lines = [line.strip() for line in plain_text(error).splitlines() if line.strip()]
    return UnsupportedModelError(
        f"the model runs eagerly but cannot be traced into a graph: {' '.join(lines[:2])[:400]}. "
        f"A layer that looks at the values of its inputs, or computes with numpy, must be "
        f"written with {written_with}"
    )


def refuse_python(function: Any, layers: Sequence[tuple[str, str]]) -> None:
    """Refuse a graph that calls back into Python: it only looks like one that can be exported.

    Args:
        function: A ``tf.ConcreteFunction``.
        layers: Name and class of every layer, to say whose call it is.

    Raises:
        UnsupportedModelError: It calls Python.
    """
    for operation in function.graph.get_operations():
        if operation.type in _PYTHON:
            layer = layer_of_node(operation.name, [name for name, _ in layers])
            where = f"layer {layer!r}" if layer else f"the node {operation.name}"
            message = (
                f"{where} computes in Python (tf.numpy_function or tf.py_function, "
                f"{operation.type}), which no artifact can do; write it with keras.ops or "
                f"TensorFlow operations, or compute it before the model"
            )
            raise UnsupportedModelError(message)


def unique_names(names: Iterable[str]) -> tuple[str, ...]:
    """Number the names that stand twice."""
    unique: list[str] = []
    for name in names:
        suffix = sum(other == name or other.startswith(f"{name}_") for other in unique)
        candidate = name
        while candidate in unique:
            candidate = f"{name}_{suffix}"
            suffix += 1
        unique.append(candidate)
    return tuple(unique)
