"""Splits models that take text after their text layers.

The artifacts take ids. The manifest describes how text becomes ids, for any runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from bilstm_exporter.errors import UnsupportedModelError
from bilstm_exporter.frontends.operators.lookups import refuse_lookup
from bilstm_exporter.frontends.submodel import graph_of, node_inputs, nodes_of, owner_of
from bilstm_exporter.frontends.text_calls import Library, answered, find_calls
from bilstm_exporter.frontends.text_rules import (
    TextCall,
    belongs_into_manifest,
    called_shape,
    check_ids,
    described,
)
from bilstm_exporter.keras_model import DeclaredInput
from bilstm_runtime.preprocessing_spec import TextPreprocessing


@dataclass(frozen=True)
class ModelAfterText:
    """What is left of a model without its text layers.

    Attributes:
        model: It takes ids in the place of text.
        preprocessing: How text becomes ids; empty for a model without text.
        layers: The layers that `preprocessing` describes.
    """

    model: Any
    preprocessing: tuple[TextPreprocessing, ...] = ()
    layers: tuple[Any, ...] = ()


@dataclass(frozen=True)
class NewInput:
    """An input of the model after the text layers.

    Attributes:
        name: Its name.
        shape: Its shape with the batch axis.
        dtype: Its dtype.
        call: The call whose ids it holds; None for an input of the whole model.
        position: The position of that input, or of the input that the call takes.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    call: TextCall | None
    position: int

    @property
    def file_dtype(self) -> str:
        """Ids are int32, which every runtime takes; the layers take them as int64, as in Keras."""
        return "int32" if self.call is not None and self.dtype == "int64" else self.dtype


def split_off_text(model: Any, library: Library) -> ModelAfterText:
    """Split a model after its text layers.

    Args:
        model: The model; neither it nor its layers are changed.
        library: Its generation of Keras.

    Returns:
        What is left of it, and the preprocessing that makes its ids. The model itself if it has
        no text.

    Raises:
        UnsupportedModelError: A text layer, or its position, cannot be described exactly.
        ParityError: The runtime's ids differ from a layer's.
    """
    if not _may_take_text(model, library):
        return ModelAfterText(model)
    clear_table_initializers()
    graph = _plain_graph(model, library)
    found = None if graph is None else _direct_calls(graph, library)
    if found is not None and graph is not None:
        if not found:
            _refuse_tables(model, (), library)
            return ModelAfterText(model)
        return _without_nodes(model, graph, found, library)
    return _without_calls(model, library)


def _may_take_text(model: Any, library: Library) -> bool:
    """Whether a model has an input of strings, or a layer that the manifest may describe."""
    declared = getattr(graph_of(model) or model, "inputs", None) or []
    if any(tf.as_dtype(tensor.dtype) == tf.string for tensor in tf.nest.flatten(declared)):
        return True
    kinds = library.keras.layers
    tables = (kinds.TextVectorization, kinds.StringLookup, kinds.IntegerLookup, kinds.Hashing)
    layers = model._flatten_layers()  # noqa: SLF001 - no public way to nested layers
    return any(isinstance(layer, tables) for layer in layers)


def _plain_graph(model: Any, library: Library) -> Any:
    """Return the graph of a model whose call does what its graph says, or None."""
    graph = graph_of(model)
    calls = (library.functional.call, library.keras.Sequential.call)
    return graph if isinstance(graph, library.functional) and type(model).call in calls else None


# --- text layers directly after the inputs of a functional model


@dataclass(frozen=True)
class _NodeCall:
    """A call of a text layer: a node of a graph, and the position of the input that it takes."""

    call: TextCall
    output: Any
    position: int


def _direct_calls(graph: Any, library: Library) -> list[_NodeCall] | None:
    """Return the calls of text layers on inputs; None if text goes anywhere else."""
    positions = {id(tensor): number for number, tensor in enumerate(graph.inputs)}
    texts = {id(t) for t in graph.inputs if tf.as_dtype(t.dtype) == tf.string}
    found = []
    for node in nodes_of(graph):
        arguments = node_inputs(node)
        layer = owner_of(node)
        if not arguments:
            continue
        tensor = arguments[0]
        dtype = tf.as_dtype(tensor.dtype).name
        is_described = belongs_into_manifest(layer, dtype, library.keras.layers)
        if not is_described and any(id(one) in texts for one in arguments):
            return None
        if is_described and (len(arguments) > 1 or id(tensor) not in positions):
            return None
        if is_described:
            output = tf.nest.flatten(node.outputs)[0]
            call = TextCall(
                _name(tensor),
                tuple(tensor.shape),
                dtype,
                layer,
                tuple(output.shape),
                tf.as_dtype(output.dtype).name,
            )
            found.append(_NodeCall(call, output, positions[id(tensor)]))
        elif _has_text_layers(layer, library):
            return None
    return found if found or not texts else None


def _has_text_layers(layer: Any, library: Library) -> bool:
    """Whether a nested model has layers with strings inside."""
    inner = getattr(layer, "_flatten_layers", None)
    kinds = library.keras.layers
    tables = (kinds.TextVectorization, kinds.StringLookup, kinds.Hashing)
    return inner is not None and any(
        isinstance(one, tables) and not getattr(one, "invert", False) for one in inner()
    )


def _name(tensor: Any) -> str:
    return str(tensor.name)


def _without_nodes(
    model: Any, graph: Any, found: Sequence[_NodeCall], library: Library
) -> ModelAfterText:
    """Call the same layers on new inputs, with ids in place of text.

    keras.Model(intermediate tensors, outputs) would renumber the inputs of the original model,
    which then could not be saved.
    """
    outputs = {id(tensor) for tensor in tf.nest.flatten(graph.outputs)}
    layers = tuple({id(one.call.layer): one.call.layer for one in found}.values())
    made = {id(one.output) for one in found}
    kept = set()
    for node in nodes_of(graph):
        if not any(id(tensor) in made for tensor in tf.nest.flatten(node.outputs)):
            kept |= {id(tensor) for tensor in node_inputs(node)}
    for position, tensor in enumerate(graph.inputs):
        if id(tensor) in outputs and tf.as_dtype(tensor.dtype) == tf.string:
            calls = [one.call for one in found if one.position == position]
            _refuse_returned(_name(tensor), model, calls)
    declared = [
        DeclaredInput(_name(one), tuple(one.shape), tf.as_dtype(one.dtype).name)
        for one in graph.inputs
    ]
    is_kept = [id(tensor) in kept | outputs for tensor in graph.inputs]
    pairs = [(one.call, one.position) for one in found]
    new, entries = _new_inputs(declared, is_kept, pairs, library)
    inputs, given, ids = _symbolic(new, library)
    replaced = {id(one.output): ids[one.call.key] for one in found}
    replaced |= {
        id(graph.inputs[one.position]): value
        for one, value in zip(new, given, strict=True)
        if one.call is None
    }
    inner = library.keras.Model(inputs, library.call_again(graph, replaced), name=model.name)
    _refuse_tables(inner, (), library)
    return ModelAfterText(inner, entries, layers)


def _refuse_returned(name: str, model: Any, calls: Sequence[TextCall]) -> None:
    message = (
        f"input {name!r} takes text, and the model {model.name!r} returns the text itself as an "
        f"output; export it without that output"
    )
    raise UnsupportedModelError(message, layers=[call.layer.name for call in calls])


def _symbolic(
    new: Sequence[NewInput], library: Library
) -> tuple[list[Any], list[Any], dict[tuple[str, int], Any]]:
    """Make the new inputs; return them, what the layers take in their place, and ids by call."""
    inputs = [library.new_input(one.shape, one.file_dtype, one.name) for one in new]
    given = [
        tensor if one.file_dtype == one.dtype else library.cast(tensor, one.dtype)
        for one, tensor in zip(new, inputs, strict=True)
    ]
    pairs = zip(new, given, strict=True)
    return inputs, given, {one.call.key: ids for one, ids in pairs if one.call is not None}


def _new_inputs(
    declared: Sequence[DeclaredInput],
    is_kept: Sequence[bool],
    calls: Sequence[tuple[TextCall, int]],
    library: Library,
) -> tuple[list[NewInput], tuple[TextPreprocessing, ...]]:
    """Return the inputs after the text layers, and what the manifest says of those with ids.

    Args:
        declared: The inputs of the whole model.
        is_kept: Which of them anything else takes than the calls.
        calls: The calls, with the position of the input of each.
        library: The generation of Keras.
    """
    new, entries = [], []
    for position, one in enumerate(declared):
        unique = {call.key: call for call, at in calls if at == position}
        if is_kept[position] or not unique:
            new.append(NewInput(one.name, one.shape, one.dtype, None, position))
        for call in unique.values():
            rule = described(call, library.keras.layers)
            shape = call.shape if rule.output_mode == "int" else called_shape(call, rule)
            check_ids(call, rule)
            is_alone = len(unique) == 1 and not is_kept[position] and rule.integers is None
            name = one.name if is_alone else f"{one.name}_{call.layer.name}"
            taken = {*(other.name for other in new), *(other.name for other in declared)}
            while not is_alone and name in taken:
                name = f"{name}_"
            new.append(NewInput(name, shape, call.dtype, call, position))
            entries.append(replace(rule, input=name, source=None if is_alone else one.name))
    return new, tuple(entries)


# --- text layers anywhere else: in nested models, and in the code of a subclass


def _without_calls(model: Any, library: Library) -> ModelAfterText:
    """Make a model that calls the whole model, in which the text layers return given ids.

    A trace finds the calls of the text layers, in the order in which the model makes them.
    """
    structure, declared = library.inputs_of(model)
    found = find_calls(model, structure, declared, library)
    if not found.calls:
        _refuse_tables(model, (), library)
        return ModelAfterText(model)
    new, entries = _new_inputs(found.inputs, found.is_kept, found.calls, library)
    symbolic = [library.new_input(one.shape, one.file_dtype, one.name) for one in new]
    layers = tuple({id(call.layer): call.layer for call, _ in found.calls}.values())

    def call(*tensors: Any) -> Any:
        given = [tf.cast(t, one.dtype) for t, one in zip(tensors, new, strict=True)]
        ids = {
            one.call.key: tensor
            for one, tensor in zip(new, given, strict=True)
            if one.call is not None
        }
        whole = [
            _placeholder_value(one, given[0], traced)
            for one, traced in zip(found.inputs, declared, strict=True)
        ]
        for one, tensor in zip(new, given, strict=True):
            if one.call is None:
                whole[one.position] = tensor
        answers = [(call.layer, ids[call.key]) for call, _ in found.calls]
        with answered(answers, library):
            return model(library.pack(structure, whole), training=False)

    inner = library.with_inputs(symbolic, call, model)
    _refuse_tables(inner, layers, library)
    return ModelAfterText(inner, entries, layers)


def _placeholder_value(one: DeclaredInput, first: Any, traced: DeclaredInput) -> Any:
    """Return a value of the shape of a text input, which nothing reads."""
    sizes = [size or 1 for size in one.shape[1:]]
    empty = tf.zeros([], traced.dtype) if traced.dtype != "string" else tf.constant("")
    found = tf.fill(tf.concat([tf.shape(first)[:1], tf.constant(sizes, tf.int32)], 0), empty)
    return tf.ensure_shape(found, [first.shape[0], *sizes])


def clear_table_initializers() -> None:
    """Remove the None entries that tables created eagerly add to TensorFlow's default graph.

    Every graph traced later inherits them, and TensorFlow warns about each when it saves a graph.
    """
    entries = tf.compat.v1.get_collection_ref(tf.compat.v1.GraphKeys.TABLE_INITIALIZERS)
    entries[:] = [entry for entry in entries if entry is not None]


def _refuse_tables(model: Any, described_layers: Sequence[Any], library: Library) -> None:
    """Raise an error for layers with lookup tables inside a model: no format has such tables."""
    known = set(map(id, described_layers))
    known |= {id(getattr(layer, "_lookup_layer", None)) for layer in described_layers}
    kinds = library.keras.layers
    for layer in model._flatten_layers():  # noqa: SLF001 - no public way to nested layers
        if id(layer) in known:
            continue
        if isinstance(layer, kinds.IntegerLookup):
            refuse_lookup(layer)
        if isinstance(layer, (kinds.TextVectorization, kinds.StringLookup)):
            message = (
                f"the model {model.name!r} has the {type(layer).__name__} layer {layer.name!r} "
                f"inside, which does not take an input as it is given; supported are "
                f"TextVectorization, StringLookup and Hashing of an input of dtype 'string', and "
                f"StringLookup(invert=True) as the last layer. Export the model without it and "
                f"look up the ids before it"
            )
            raise UnsupportedModelError(message, layers=(layer.name,))
