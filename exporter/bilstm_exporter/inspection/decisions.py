"""Where rounding decides an output: in a comparison, an ``argmax``, or a conversion to integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.ir.markers import MarkedGraph
from bilstm_exporter.keras_model import TOLERANCE

_DECIDING = frozenset(
    {"ArgMax", "ArgMin", "Ceil", "Floor", "FloorDiv", "FloorMod", "Greater", "GreaterEqual", "Less",
     "LessEqual", "Rint", "Round", "Sign", "TopKV2"}
)  # fmt: skip
_COMPARING = frozenset({"Equal", "NotEqual"})
# Random roundings partly cancel. Those of a library may all have one sign, and add up to more.
_ONE_SIGN = 10
# Whatever changes by more tolerances than this depends on a decision, not on a sum of roundings.
_DECISION = 20


def may_decide(graph: MarkedGraph) -> bool:
    """Whether a model has operators in which the rounding of floats can decide an output.

    A comparison with the inputs, such as for a mask, is exact.
    """
    steps = [marker.step.graph for marker in graph.markers.values()]
    return any(map(_has_decisions, (graph.function.graph, *steps)))


def _has_decisions(graph: Any) -> bool:
    definition = graph.as_graph_def()
    inputs = {node.name for node in definition.node if node.op == "Placeholder"}
    functions = (node for function in definition.library.function for node in function.node_def)
    # The names of the inputs of the graph mean other tensors in a function.
    return any(_decides(node, inputs) for node in definition.node) or any(
        _decides(node, set()) for node in functions
    )


def _decides(node: Any, inputs: set[str]) -> bool:
    if node.op == "Cast":
        source, result = (tf.as_dtype(node.attr[name].type) for name in ("SrcT", "DstT"))
        return bool(source.is_floating and not result.is_floating)
    if node.op not in _DECIDING | _COMPARING or not tf.as_dtype(node.attr["T"].type).is_floating:
        return False
    return node.op in _DECIDING or inputs.isdisjoint(name.split(":")[0] for name in node.input)


def is_possible(outputs: Sequence[np.ndarray], outcomes: Sequence[Sequence[np.ndarray]]) -> bool:
    """Whether outputs may be those of a model, given its outcomes under several roundings.

    Args:
        outputs: One array per output.
        outcomes: For each rounding, one array per output.

    Returns:
        False if an element differs that rounding does not change, or by much more than it does.
    """
    return all(
        _is_within(np.asarray(output), np.stack(values))
        for output, values in zip(outputs, zip(*outcomes, strict=True), strict=True)
    )


def _is_within(output: np.ndarray, values: np.ndarray) -> bool:
    if output.shape != values.shape[1:] or output.dtype != values.dtype:
        return False
    if output.dtype.kind != "f":
        return bool(((output == values[0]) | (values != values[0]).any(0)).all())
    known = np.isfinite(values).all(0)
    low, high = np.where(known, values, 0).min(0), np.where(known, values, 0).max(0)
    tolerance = TOLERANCE.absolute + TOLERANCE.relative * np.maximum(abs(low), abs(high))
    change = high - low
    margin = np.where(change > _DECISION * tolerance, change, _ONE_SIGN * change) + tolerance
    return bool((~known | ((output >= low - margin) & (output <= high + margin))).all())
