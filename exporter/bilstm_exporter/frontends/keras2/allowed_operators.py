"""The operators that the graphs of an untrusted file of Keras 2 may hold.

TensorFlow runs some functions of a SavedModel while it loads it, such as those that fill tables.
An operator can read and write files, write summaries, open connections, make datasets, and call
Python or other programs. Allowed are the operators on tensors, states and tables in memory, by the
module of TensorFlow that defines them. All functions of a SavedModel are read before TensorFlow
sees it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Iterator
from typing import Any

from tensorflow.python.framework import op_def_registry

_MODULES = (
    "array_ops", "audio_ops", "bitwise_ops", "candidate_sampling_ops", "composite_tensor_ops",
    "control_flow_ops", "count_ops", "ctc_ops", "cudnn_rnn_ops", "functional_ops", "image_ops",
    "linalg_ops", "list_ops", "lookup_ops", "manip_ops", "map_ops", "math_ops", "nn_ops",
    "optional_ops", "parsing_ops", "ragged_array_ops", "ragged_conversion_ops",
    "ragged_math_ops", "random_index_shuffle_ops", "random_ops", "resource_variable_ops",
    "rnn_ops", "set_ops", "sparse_ops", "special_math_ops", "spectral_ops", "state_ops",
    "stateful_random_ops", "stateless_random_ops", "stateless_random_ops_v2", "string_ops",
    "training_ops", "uniform_quant_ops",
)  # fmt: skip
# In those modules: they read files (a constant or a distribution can lie in one), end the process,
# call another one, or wait for another thread.
_REFUSED = frozenset(
    {
        "Abort", "ConsumeMutexLock", "FixedUnigramCandidateSampler", "ImmutableConst",
        "InitializeTableFromTextFile", "InitializeTableFromTextFileV2", "MutexLock", "MutexV2",
        "RemoteCall",
    }
)  # fmt: skip
# Of modules whose other operators make queues, wait, or write logs and summaries.
_FURTHER = {
    "data_flow_ops": ("DynamicPartition", "DynamicStitch", "ParallelDynamicStitch", "Stack",
                      "TensorArray"),
    # The step of a text layer's adapt reads the next batch; no allowed operator makes a dataset.
    "dataset_ops": ("IteratorGetNext",),
    "logging_ops": ("Assert",),
}  # fmt: skip
# The ends of functions in a graph.
_INTERNAL = frozenset({"_Arg", "_Retval"})
# Operators by which a SavedModel is saved and restored. Its reader does not run them: it restores
# the variables by operators of its own.
_CHECKPOINT = frozenset({"MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename"})


@functools.cache
def _allowed() -> frozenset[str]:
    found = set(_INTERNAL)
    for module in _MODULES:
        found |= _operators(module) - _REFUSED
    for module, kinds in _FURTHER.items():
        found.update(name for name in _operators(module) if name.startswith(kinds))
    return frozenset(found)


def _operators(module: str) -> set[str]:
    defined = vars(importlib.import_module(f"tensorflow.python.ops.gen_{module}"))
    return {name for name in defined if op_def_registry.get(name) is not None}


def is_allowed_operator(name: str) -> bool:
    """Whether an operator has no effect but on tensors, states and tables in memory."""
    return name in _allowed()


def refused_operators(meta_graph: Any) -> list[str]:
    """Return the operators of a SavedModel that are not allowed, in alphabetical order.

    Args:
        meta_graph: Its MetaGraphDef: the graph with its library of functions, the objects that
            call functions, and the names of the nodes that save and restore.
    """
    graph = meta_graph.graph_def
    functions = {function.signature.name: function for function in graph.library.function}
    saving = _saving_nodes(graph, meta_graph.saver_def)
    others = [node for node in graph.node if node.name not in saving]
    named = {*_functions_of(others), *_functions_of_objects(meta_graph.object_graph_def)}
    named.update(gradient.gradient_func for gradient in graph.library.gradient)
    by_saver = _with_called(_functions_of(saving.values()), functions)
    # A function that nothing names is checked, too.
    named |= functions.keys() - by_saver
    only_saving = by_saver - _with_called(named, functions)
    found = {node.op for node in others}
    found.update(node.op for node in saving.values() if node.op not in _CHECKPOINT)
    for name, function in functions.items():
        operators = {node.op for node in function.node_def}
        found |= operators - _CHECKPOINT if name in only_saving else operators
    # A node may call a function by its name, as an operator.
    called = {name for name in found & functions.keys() if op_def_registry.get(name) is None}
    return sorted(name for name in found - called if not is_allowed_operator(name))


def _saving_nodes(graph: Any, saver: Any) -> dict[str, Any]:
    """Return the nodes that a SaverDef names, and those that these need, by name."""
    nodes = {node.name: node for node in graph.node}
    pending = [saver.filename_tensor_name, saver.save_tensor_name, saver.restore_op_name]
    found: dict[str, Any] = {}
    while pending:
        name = pending.pop().lstrip("^").partition(":")[0]
        if name in nodes and name not in found:
            found[name] = nodes[name]
            pending.extend(nodes[name].input)
    return found


def _functions_of_objects(objects: Any) -> Iterator[str]:
    """Yield the names of the functions that the objects of a SavedModel call."""
    yield from objects.concrete_functions
    for node in objects.nodes:
        yield from node.function.concrete_functions
        yield node.bare_concrete_function.concrete_function_name


def _with_called(names: Iterable[str], functions: dict[str, Any]) -> set[str]:
    """Return the functions of these names, and those that they call."""
    pending = [*names]
    found: set[str] = set()
    while pending:
        name = pending.pop()
        if name in functions and name not in found:
            found.add(name)
            pending.extend(_functions_of(functions[name].node_def))
    return found


def _functions_of(nodes: Iterable[Any]) -> Iterator[str]:
    """Yield the functions that nodes name: as their operator, or in an attribute."""
    for node in nodes:
        yield node.op
        yield from _functions_in(node.attr)


def _functions_in(attributes: Any) -> Iterator[str]:
    for value in attributes.values():
        for function in (*([value.func] if value.HasField("func") else []), *value.list.func):
            yield function.name
            yield from _functions_in(function.attr)
