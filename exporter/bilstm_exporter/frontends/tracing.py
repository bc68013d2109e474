"""Traces models of Keras 2 and Keras 3 into TensorFlow graphs."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.function import Defun
from tensorflow.python.ops import ctc_ops

from bilstm_exporter.errors import ExportError, UnsupportedModelError, plain_text
from bilstm_exporter.frontends.patching import replaced
from bilstm_exporter.ir.loop_lowering import lower_loops
from bilstm_exporter.ir.loops import UnsupportedLoopError
from bilstm_exporter.ir.markers import UnknownReadError
from bilstm_exporter.ir.recurrence import Lowering
from bilstm_exporter.keras_model import DeclaredInput, layer_of_node

# Not PyFuncStateless, which marks a recurrence.
_Function: Any = type(tf.function(lambda: None))
_PYTHON = frozenset({"EagerPyFunc", "PyFunc"})
_COUNTER = itertools.count()


def _uniquely_named(*types: Any, **settings: Any) -> Any:
    """Make a decorator for a function of a graph, as `Defun`, under a name that no other has.

    TensorFlow's CTC loss names its loops by their operators; a second trace with other shapes
    would define another loop under the same name.
    """
    return Defun(*types, **{"func_name": f"traced_{next(_COUNTER)}", **settings})


_CTC_FUNCTIONS = SimpleNamespace(Defun=_uniquely_named)


def trace_function(
    call: Callable[..., Any], inputs: Sequence[DeclaredInput], model: Any, *, library: Any, ops: str
) -> Any:
    """Trace a call of a model into a graph.

    Args:
        call: Takes one tensor per input.
        inputs: Shapes and dtypes.
        model: The model that it calls.
        library: ``keras`` or ``tf_keras``.
        ops: The operations that a layer may use, for the message.

    Returns:
        A ``tf.ConcreteFunction`` of ``input_0``, ``input_1``, ...

    Raises:
        UnsupportedModelError: A layer cannot be traced; the message names it.
    """
    signature = [
        tf.TensorSpec(spec.shape, spec.dtype, name=f"input_{i}") for i, spec in enumerate(inputs)
    ]
    with (
        observed_failures(library.layers.Layer) as failed,
        replaced({(ctc_ops, "function"): _CTC_FUNCTIONS}),
        fresh_functions(),
    ):
        try:
            return tf.function(call, autograph=False).get_concrete_function(*signature)
        except ExportError:
            raise
        except UnknownReadError as error:
            raise _unknown_read(error) from error
        # A layer may be user code: if it reads the values of a tensor, or passes it to numpy, it
        # can raise any error.
        except Exception as error:
            raise _untraceable(error, [layer for layer in failed if layer is not model], ops) from (
                error
            )


@contextlib.contextmanager
def fresh_functions() -> Iterator[None]:
    """Let each call of a layer's own ``tf.function`` trace it anew, and keep no graph of it.

    Such a function remembers its graphs, also those of other contexts: a graph with this project's
    operators would be called in the next trace and in the reference.
    """
    original = _Function.__call__

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        return original(function._clone(None), *args, **kwargs)  # noqa: SLF001 - no public copy

    with replaced({(_Function, "__call__"): call}):
        yield


def random_layer(layer_class: Any, call: Callable[[], Any]) -> str | None:
    """Return the name of the first layer whose outputs differ between two equal calls of a model.

    Args:
        layer_class: The base class of layers.
        call: Calls the model.
    """
    runs = []
    for _ in range(2):
        with _observed_outputs(layer_class) as outputs:
            call()
        runs.append(outputs)
    for (layer, one), (other_layer, other) in zip(*runs, strict=False):
        if layer is not other_layer or len(one) != len(other):
            return None
        pairs = zip(one, other, strict=True)
        if not all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs):
            return str(layer.name)
    return None


@contextlib.contextmanager
def _observed_outputs(layer_class: Any) -> Iterator[list[tuple[Any, list[np.ndarray]]]]:
    """Collect each layer that is called, with its outputs; inner layers before outer ones."""
    found: list[tuple[Any, list[np.ndarray]]] = []
    original = layer_class.__call__

    @functools.wraps(original)
    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(layer, *args, **kwargs)
        tensors = [one for one in tf.nest.flatten(result) if hasattr(one, "numpy")]
        found.append((layer, [np.asarray(tensor.numpy()) for tensor in tensors]))
        return result

    with replaced({(layer_class, "__call__"): call}):
        yield found


@contextlib.contextmanager
def observed_failures(layer_class: Any) -> Iterator[list[Any]]:
    """Collect the layers whose call raises, innermost first; a call that returns clears them."""
    failed: list[Any] = []
    original = layer_class.__call__

    @functools.wraps(original)
    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            result = original(layer, *args, **kwargs)
        except Exception:
            failed.append(layer)
            raise
        failed.clear()
        return result

    with replaced({(layer_class, "__call__"): call}):
        yield failed


def _untraceable(error: Exception, failed: Sequence[Any], ops: str) -> UnsupportedModelError:
    """Make the error for a model that runs eagerly but cannot be traced."""
    lines = [line.strip() for line in plain_text(error).splitlines() if line.strip()]
    label = f"layer {failed[0].name!r} ({type(failed[0]).__name__})" if failed else "the model"
    message = (
        f"{label} runs eagerly but cannot be traced into a graph: {' '.join(lines[:2])[:400]}. "
        f"A layer that reads the values of its inputs, or computes with numpy, must be written "
        f"with {ops}"
    )
    return UnsupportedModelError(message, layers=[layer.name for layer in failed[:1]])


def _unknown_read(error: UnknownReadError) -> UnsupportedModelError:
    message = (
        f"layer {error.layer!r}: its cell reads {error.tensor}, which is neither an input of the "
        f"step nor a weight; pass it to the cell as a state or as part of its inputs"
    )
    return UnsupportedModelError(message, layers=(error.layer,))


def with_lowered_loops(function: Any, lowering: Lowering, layers: Sequence[tuple[str, str]]) -> Any:
    """Lower the loops of the layers' own code; see `lower_loops`.

    Args:
        function: A ``tf.ConcreteFunction`` without captured inputs.
        lowering: The lowering of the target.
        layers: Name and class of every layer.

    Raises:
        UnsupportedModelError: A loop cannot be exported exactly.
    """
    names = [name for name, _ in layers]
    try:
        return lower_loops(function, lowering, lambda node: layer_of_node(node, names) or "")
    except UnsupportedLoopError as error:
        raise UnsupportedModelError(
            str(error), layers=(error.layer,) if error.layer else ()
        ) from error


def refuse_python(function: Any, layers: Sequence[tuple[str, str]]) -> None:
    """Raise an error for a graph that calls Python, which no artifact can do.

    Args:
        function: A ``tf.ConcreteFunction``.
        layers: Name and class of every layer, to name the layer in the message.

    Raises:
        UnsupportedModelError: The graph calls Python.
    """
    for operation in function.graph.get_operations():
        if operation.type in _PYTHON:
            layer = layer_of_node(operation.name, [name for name, _ in layers])
            label = f"layer {layer!r}" if layer else f"the node {operation.name}"
            message = (
                f"{label} computes in Python (tf.numpy_function or tf.py_function, "
                f"{operation.type}), which no artifact can do; write it with keras.ops or "
                f"TensorFlow operations, or compute it before the model"
            )
            raise UnsupportedModelError(message, layers=() if layer is None else (layer,))
