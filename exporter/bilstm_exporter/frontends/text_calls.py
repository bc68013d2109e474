"""Finds the calls of text layers wherever a model makes them, and answers them with given ids."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import tensorflow as tf

from bilstm_exporter.errors import UnsupportedModelError
from bilstm_exporter.frontends.patching import replaced
from bilstm_exporter.frontends.text_rules import TextCall, belongs_into_manifest
from bilstm_exporter.frontends.text_steps import Change, changed_by
from bilstm_exporter.keras_model import DeclaredInput, layer_of_node

# Operators that return the strings or integers that they take.
_SAME_VALUES = frozenset({"EnsureShape", "Identity", "StopGradient"})
# Those that do for one value in each example: the batch axis has no size before the call.
_OTHER_SHAPE = frozenset({"ExpandDims", "Reshape", "Squeeze"})


@dataclass(frozen=True)
class Library:
    """What differs between the generations of Keras.

    Attributes:
        keras: ``keras`` or ``tf_keras``.
        functional: Its class of functional models.
        inputs_of: Returns the structure of a model's inputs, and these.
        new_input: Makes an input from its shape with the batch axis, its dtype and its name.
        cast: Casts a symbolic tensor to a dtype.
        call_again: Calls the layers of a graph with given tensors in place of some of its own, by
            the `id` of these; what needs no other is not called. Returns the outputs in their
            structure.
        pack: Arranges a list in a structure.
        with_inputs: Makes a model that takes given symbolic inputs of a function, and returns what
            the function returns; it stands for another model, whose layers are its own.
        trace: Traces a function of tensors into a graph.
    """

    keras: Any
    functional: Any
    inputs_of: Callable[[Any], tuple[Any, Sequence[DeclaredInput]]]
    new_input: Callable[[tuple[int | None, ...], Any, str], Any]
    cast: Callable[[Any, Any], Any]
    call_again: Callable[[Any, dict[int, Any]], Any]
    pack: Callable[[Any, list[Any]], Any]
    with_inputs: Callable[[Sequence[Any], Callable[..., Any], Any], Any]
    trace: Callable[[Callable[..., Any], Sequence[DeclaredInput], Any], Any]


@dataclass(frozen=True)
class FoundCalls:
    """The calls of text layers in a model.

    Attributes:
        inputs: The inputs of the model; those whose dtype it does not declare have the one of
            what takes them.
        calls: The calls in the order in which the model makes them, with the position of the input
            that each takes.
        is_kept: For each input, whether anything else takes it.
    """

    inputs: tuple[DeclaredInput, ...]
    calls: tuple[tuple[TextCall, int], ...]
    is_kept: tuple[bool, ...]


def find_calls(
    model: Any, structure: Any, inputs: Sequence[DeclaredInput], library: Library
) -> FoundCalls:
    """Trace a model, and find what its text layers take.

    Args:
        model: The model.
        structure: The structure of its inputs.
        inputs: The inputs.
        library: Its generation of Keras.

    Raises:
        UnsupportedModelError: A text layer takes what the model computes, or anything else takes
            text; or the model cannot be traced.
    """
    inputs = [one if one.declared else replace(one, shape=(None, *one.shape[1:])) for one in inputs]
    search = _Search(inputs, library)

    def plain_call(*tensors: Any) -> list[Any]:
        return list(tf.nest.flatten(model(library.pack(structure, list(tensors)), training=False)))

    def call(*tensors: Any) -> list[Any]:
        search.start(tensors)
        with replaced({(library.keras.layers.Layer, "__call__"): search.intercepted()}):
            outputs = model(library.pack(structure, list(tensors)), training=False)
        return [tf.identity(tensor) for tensor in tf.nest.flatten(outputs)]

    # The first call with a batch of unknown size may build a Sequential again.
    if any(one.declared or one.dtype == "string" for one in inputs):
        library.trace(plain_call, inputs, model)
    function = library.trace(call, inputs, model)
    placeholders = function.graph.inputs[: len(inputs)]
    used = _ancestors(function.outputs)
    calls = tuple(search.calls)
    dtypes = {position: one.source_dtype for one, position in calls}
    found = tuple(
        replace(one, dtype=dtypes.get(position, one.dtype)) for position, one in enumerate(inputs)
    )
    for one, placeholder in zip(found, placeholders, strict=True):
        if one.dtype == "string" and placeholder.ref() in used:
            _refuse_text(one.name, placeholder, used, model)
    is_kept = tuple(placeholder.ref() in used for placeholder in placeholders)
    return FoundCalls(found, calls, is_kept)


@contextlib.contextmanager
def answered(answers: Sequence[tuple[Any, Any]], library: Library) -> Iterator[None]:
    """Let calls of text layers return given ids, in this context.

    Args:
        answers: The layer and the ids of each call, in the order of the calls.
        library: The generation of Keras.
    """
    original = library.keras.layers.Layer.__call__
    layers = {id(layer) for layer, _ in answers}
    pending = iter(answers)

    @functools.wraps(original)
    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if id(layer) not in layers:
            return original(layer, *args, **kwargs)
        expected, ids = next(pending, (None, None))
        if expected is not layer:
            other = "one call more" if expected is None else f"in place of {expected.name!r}"
            message = (
                f"the model does not call its text layers in the same order each time: "
                f"{layer.name!r}, {other}; export the part of the model that takes ids"
            )
            raise UnsupportedModelError(message, layers=(layer.name,))
        return ids

    with replaced({(library.keras.layers.Layer, "__call__"): call}):
        yield


class _Search:
    """Collects the calls of text layers while a model is traced."""

    def __init__(self, inputs: Sequence[DeclaredInput], library: Library) -> None:
        self._inputs = inputs
        self._layers = library.keras.layers
        self._original = library.keras.layers.Layer.__call__
        self._tensors: Sequence[Any] = ()
        self.calls: list[tuple[TextCall, int]] = []

    def start(self, tensors: Sequence[Any]) -> None:
        """Begin with the placeholders of a trace."""
        self._tensors = tensors
        self.calls = []

    def intercepted(self) -> Any:
        """Return what takes the place of ``Layer.__call__``."""
        depth = 0

        @functools.wraps(self._original)
        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            if depth or not args or not self._may_be_described(layer):
                return self._original(layer, *args, **kwargs)
            depth += 1  # a TextVectorization calls a StringLookup
            try:
                return self._answer(layer, args[0], kwargs)
            finally:
                depth -= 1

        return call

    def _may_be_described(self, layer: Any) -> bool:
        kinds = ("string", "int64")
        return any(belongs_into_manifest(layer, kind, self._layers) for kind in kinds)

    def _answer(self, layer: Any, value: Any, kwargs: Any) -> Any:
        """Return a placeholder in place of what a layer returns."""
        found_input = self._input_of(value)
        if found_input is None:
            _refuse_computed(layer, value)
        position, changes = found_input
        one = self._inputs[position]
        dtype = one.dtype
        if not one.declared and not belongs_into_manifest(layer, dtype, self._layers):
            dtype = "int64" if type(layer) is self._layers.IntegerLookup else "string"
        if not belongs_into_manifest(layer, dtype, self._layers):
            _refuse_computed(layer, value)
        shape = tuple(value.shape)
        given = tf.compat.v1.placeholder(dtype, shape)
        found = self._original(layer, given, **kwargs)
        returned = tuple(found.shape), found.dtype.name
        call = TextCall(one.name, shape, dtype, layer, *returned, changes)
        self.calls.append((call, position))
        return tf.compat.v1.placeholder(found.dtype, found.shape)

    def _input_of(self, value: Any) -> tuple[int, tuple[Change, ...]] | None:
        """Return the position of the input that a tensor is, and what changes its strings."""
        known = {id(tensor): number for number, tensor in enumerate(self._tensors)}
        changes: list[Change] = []
        while isinstance(value, tf.Tensor) and id(value) not in known:
            operation = value.op
            change = changed_by(operation)
            if change is not None:
                changes.append(change[0])
                value = change[1]
                continue
            is_same = operation.type in _SAME_VALUES or (
                operation.type in _OTHER_SHAPE
                and _is_one_value(value)
                and _is_one_value(operation.inputs[0])
            )
            if not is_same:
                return None
            value = operation.inputs[0]
        position = known.get(id(value))
        return None if position is None else (position, tuple(reversed(changes)))


def _is_one_value(tensor: Any) -> bool:
    """Whether a tensor has one value for each example, by its shape."""
    return tensor.shape.rank is not None and list(tensor.shape[1:]) in ([], [1])


def _refuse_computed(layer: Any, value: Any) -> NoReturn:
    by = f" (by the operator {value.op.type})" if isinstance(value, tf.Tensor) else ""
    message = (
        f"the {type(layer).__name__} layer {layer.name!r} takes what the model computes{by}, not "
        f"an input as it is given; no format has strings. Do that before the model, or export the "
        f"part of the model that takes ids"
    )
    raise UnsupportedModelError(message, layers=(layer.name,))


def _refuse_text(name: str, placeholder: Any, used: set[Any], model: Any) -> NoReturn:
    """Raise an error for an input of text that something else than a text layer takes."""
    operations = [
        operation
        for operation in placeholder.consumers()
        if any(output.ref() in used for output in operation.outputs)
    ]
    layers = {
        layer.name: type(layer).__name__
        for layer in model._flatten_layers()  # noqa: SLF001 - no public way to nested layers
    }
    names = [layer_of_node(operation.name, layers) for operation in operations]
    found = [one for one in names if one is not None and one != model.name]
    if not found:
        message = (
            f"input {name!r} takes text, and the model {model.name!r} returns the text itself as "
            f"an output; export it without that output"
        )
        raise UnsupportedModelError(message)
    message = (
        f"input {name!r} takes text and goes to {found[0]!r}, a {layers[found[0]]} "
        f"({operations[0].type}); supported are TextVectorization, StringLookup and Hashing. "
        f"Export the part of the model that takes ids"
    )
    raise UnsupportedModelError(message, layers=found)


def _ancestors(tensors: Sequence[Any]) -> set[Any]:
    """Return tensors and all those that they are computed from, as references."""
    found: set[Any] = set()
    pending = list(tensors)
    while pending:
        tensor = pending.pop()
        if tensor.ref() not in found:
            found.add(tensor.ref())
            pending += tensor.op.inputs
    return found
