"""Parts of a model: the layers that the user chose as outputs, and the inputs that they need.

A functional or Sequential model is a graph of nodes, one for each call of a layer, in both
generations of Keras. What only training needs is recognized in it: inputs that meet the model's
own results in operators without weights are labels, and the results are what is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.errors import OptionError, UnsupportedModelError
from bilstm_runtime.cli.arguments import did_you_mean

# The layers that tf_keras makes of operators between layers.
_OPERATORS = frozenset({"ClassMethod", "InstanceMethod", "InstanceProperty", "SlicingOpLambda",
                        "TFOpLambda", "TensorFlowOpLayer"})  # fmt: skip


@dataclass(frozen=True)
class TrainingHead:
    """A part of a model that looks like its training loss.

    Attributes:
        labels: The names of the inputs that only it needs.
        layers: The names of the layers whose outputs it reads.
    """

    labels: tuple[str, ...]
    layers: tuple[str, ...]


def select_outputs(model: Any, names: Sequence[str], library: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the part of a model that computes the outputs of some layers.

    Args:
        model: A functional or Sequential model.
        names: The names of layers; ``"encoder/lstm"`` is the layer "lstm" in the submodel
            "encoder".
        library: ``keras`` or ``tf_keras``.

    Returns:
        The part, with the same weights, and the names of the inputs that it does not need.

    Raises:
        UnsupportedModelError: The model is not a graph of layers.
        OptionError: There is no such layer.
    """
    graph = graph_of(model)
    if graph is None:
        message = (
            f"--outputs: the model {model.name!r} is a subclass of Model, whose layers are not "
            f"connected before it is called; build a functional model of its layers, and export "
            f"that with --builder my_module:build"
        )
        raise UnsupportedModelError(message)
    tensors = [tensor for name in names for tensor in _tensors(graph, name, library)]
    needed = {id(tensor) for tensor in _ancestors(tensors)}
    structure = _input_structure(graph)
    dropped = [_input_name(t) for t in tf.nest.flatten(structure) if id(t) not in needed]
    part = library.Model(
        _kept(structure, needed), tensors[0] if len(tensors) == 1 else tensors, name=model.name
    )
    return part, tuple(dropped)


def with_outputs(model: Any, replaced: Mapping[int, Any], library: Any) -> Any:
    """Return a functional model with other outputs, in the same structure.

    Args:
        model: The model.
        replaced: By the id of an output, the tensor that takes its place.
        library: ``keras`` or ``tf_keras``.
    """
    graph = graph_of(model)
    structure = _structure(graph, "_outputs_struct", "_nested_outputs", default=graph.outputs)
    outputs = tf.nest.map_structure(lambda tensor: replaced.get(id(tensor), tensor), structure)
    return library.Model(_input_structure(graph), outputs, name=model.name)


def named_weights(model: Any) -> dict[str, np.ndarray]:
    """Return every weight of a model by the names of its layers, as ``"encoder/crf/transitions"``.

    A layer inside another that is not a model, such as the Dense layer of a CRF, is part of it.
    """
    found: dict[str, np.ndarray] = {}

    def add(layers: Any, prefix: str) -> None:
        for layer in layers:
            path = f"{prefix}{layer.name}"
            inner = getattr(layer, "layers", None)
            if isinstance(inner, (list, tuple)) and inner:
                add(inner, f"{path}/")
                continue
            for variable in layer.weights:
                name = str(getattr(variable, "path", variable.name)).partition(":")[0]
                _, _, rest = f"/{name}".partition(f"/{layer.name}/")
                found[f"{path}/{rest or name.rpartition('/')[2]}"] = np.asarray(variable)

    add(model.layers, "")
    return found


def training_head(model: Any, library: Any) -> TrainingHead | None:
    """Return the part of a model that looks like its training loss, or None.

    Inputs that never reach a layer with weights, but meet the result of one, are labels.
    """
    graph = graph_of(model)
    inputs = [] if graph is None else tf.nest.flatten(_input_structure(graph))
    if len(inputs) < 2:
        return None
    # For each tensor the inputs that it is computed from; None if a layer with weights is between.
    sources: dict[int, frozenset[str] | None] = {
        id(tensor): frozenset([_input_name(tensor)]) for tensor in inputs
    }
    weighted: set[str] = set()
    joins: list[tuple[frozenset[str], list[Any]]] = []
    for node in nodes_of(graph):
        arguments = node_inputs(node)
        if not arguments:
            continue
        found = [sources[id(tensor)] for tensor in arguments]
        pure = frozenset[str]().union(*(names for names in found if names is not None))
        results = [t for t, names in zip(arguments, found, strict=True) if names is None]
        has_weights = bool(getattr(owner_of(node), "weights", ()))
        if has_weights:
            weighted |= pure
        elif pure and results:
            joins.append((pure, results))
        for tensor in tf.nest.flatten(node.outputs):
            sources[id(tensor)] = None if has_weights or results else pure
    outputs = tf.nest.flatten(graph.outputs)
    reached = {id(tensor) for tensor in _ancestors(outputs)}
    unused = [_input_name(tensor) for tensor in inputs if id(tensor) not in reached]
    labels = [_input_name(t) for t in inputs if _input_name(t) not in weighted]
    results = [t for pure, joined in joins if pure & set(labels) for t in joined]
    if not results and unused:
        results = outputs
    layers = dict.fromkeys(
        _layer_name(tensor)
        for result in results
        for tensor in _layer_outputs(result, sources, library)
    )
    if not labels or not layers or len(labels) == len(inputs):
        return None
    return TrainingHead(tuple(labels), tuple(layers))


def _layer_outputs(
    tensor: Any, sources: dict[int, frozenset[str] | None], library: Any
) -> list[Any]:
    """Return a tensor, or, if an operator computes it, the outputs of the layers before that."""
    owner = tensor._keras_history[0]  # noqa: SLF001 - the only link to the layer
    if isinstance(owner, library.layers.Layer) and type(owner).__name__ not in _OPERATORS:
        return [tensor]
    before = [one for one in node_inputs(_node_of(tensor)) if sources[id(one)] is None]
    return [found for one in before for found in _layer_outputs(one, sources, library)] or [tensor]


def _tensors(graph: Any, path: str, library: Any) -> list[Any]:
    """Return the outputs of a layer, as tensors of a graph."""
    nodes = [node for node in nodes_of(graph) if owner_of(node).name == path]
    if nodes and not node_inputs(nodes[0]):
        message = f"--outputs: {path!r} is an input of the model; name the layer to export"
        raise OptionError(message)
    if len(nodes) > 1:
        message = (
            f"--outputs: the model calls the layer {path!r} {len(nodes)} times, so it has "
            f"{len(nodes)} outputs; name a layer after one of the calls"
        )
        raise OptionError(message)
    if nodes:
        return list(tf.nest.flatten(nodes[0].outputs))
    for node in nodes_of(graph):
        owner = owner_of(node)
        rest = path.removeprefix(f"{owner.name}/")
        inner = None if rest == path else graph_of(owner)
        if inner is not None:
            part = library.Model(
                _input_structure(inner),
                _tensors(inner, rest, library),
                name=path.replace("/", "_"),
            )
            return list(tf.nest.flatten(part(_first_argument(node))))
    raise OptionError(_no_such_layer(graph, path))


def _no_such_layer(graph: Any, path: str) -> str:
    names = [name for name in _layer_paths(graph, "") if name != path]
    last = path.rpartition("/")[2]
    alike = [name for name in names if name.rpartition("/")[2] == last]
    advice = (
        f"; did you mean {', '.join(map(repr, alike))}?"
        if alike
        else did_you_mean(path, names) or f"; its layers are {', '.join(names)}"
    )
    return f"--outputs: there is no layer {path!r} in the model{advice}"


def _layer_paths(graph: Any, prefix: str) -> Iterator[str]:
    for node in nodes_of(graph):
        if node_inputs(node):
            name = f"{prefix}{owner_of(node).name}"
            yield name
            inner = graph_of(owner_of(node))
            if inner is not None:
                yield from _layer_paths(inner, f"{name}/")


def _kept(structure: Any, needed: set[int]) -> Any:
    """Return the needed part of a structure of inputs."""
    if isinstance(structure, dict):
        return {key: tensor for key, tensor in structure.items() if id(tensor) in needed}
    kept = [tensor for tensor in tf.nest.flatten(structure) if id(tensor) in needed]
    return kept[0] if len(kept) == 1 else kept


def _ancestors(tensors: Sequence[Any]) -> list[Any]:
    """Return tensors, and those that they are computed from."""
    found: dict[int, Any] = {}
    pending = list(tensors)
    while pending:
        tensor = pending.pop()
        if id(tensor) not in found:
            found[id(tensor)] = tensor
            pending += node_inputs(_node_of(tensor))
    return list(found.values())


# --- the graph of a functional model, in both generations of Keras


def graph_of(model: Any) -> Any:
    """Return the functional model that holds the nodes of a model, or None for a subclass."""
    for candidate in (getattr(model, "_functional", None), model):
        if getattr(candidate, "_nodes_by_depth", None):
            return candidate
    return None


def nodes_of(graph: Any) -> list[Any]:
    """Return the calls of layers, in the order in which they are computed."""
    by_depth = graph._nodes_by_depth  # noqa: SLF001 - no public way to the calls
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def owner_of(node: Any) -> Any:
    """Return the layer or operation that a node calls."""
    return node.operation if hasattr(node, "operation") else node.layer


def node_inputs(node: Any) -> list[Any]:
    """Return the symbolic tensors that a call takes."""
    tensors = node.keras_inputs if hasattr(node, "keras_inputs") else node.input_tensors
    return list(tf.nest.flatten(tensors))


def _first_argument(node: Any) -> Any:
    arguments = node.arguments.args if hasattr(node, "arguments") else node.call_args
    return arguments[0]


def _node_of(tensor: Any) -> Any:
    owner, index = tensor._keras_history[:2]  # noqa: SLF001 - the only link to the call
    return owner._inbound_nodes[index]  # noqa: SLF001 - the same


def _layer_name(tensor: Any) -> str:
    return str(tensor._keras_history[0].name)  # noqa: SLF001 - the only link to the layer


def _input_name(tensor: Any) -> str:
    return _layer_name(tensor)


def _input_structure(graph: Any) -> Any:
    """Return the inputs in the structure in which the model takes them."""
    return _structure(graph, "_inputs_struct", "_nested_inputs", default=graph.inputs)


def _structure(graph: Any, *attributes: str, default: Any) -> Any:
    """Return the first of some attributes that a model has; their names differ between Kerases."""
    for attribute in attributes:
        structure = getattr(graph, attribute, None)
        if structure is not None:
            return structure
    return default
