"""Where rounding decides an output: in a comparison, an ``argmax``, or a conversion to integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.ir.markers import MarkedGraph
from bilstm_exporter.keras_model import TOLERANCE

_DECIDING = frozenset(
    {"ArgMax", "ArgMin", "Bucketize", "Ceil", "Floor", "FloorDiv", "FloorMod", "Greater",
     "GreaterEqual", "Less", "LessEqual", "LowerBound", "Rint", "Round", "Sign", "TopKV2",
     "UpperBound"}
)  # fmt: skip
_COMPARING = frozenset({"Equal", "NotEqual"})
_DIVIDING = frozenset({"FloorDiv", "FloorMod"})  # their own quotient is rounded
# Operators whose results are exact where their operands are: they move, choose or compare values.
_EXACT = frozenset(
    {"Abs", "BroadcastTo", "Cast", "ConcatV2", "Const", "EnsureShape", "ExpandDims", "Fill",
     "GatherNd", "GatherV2", "Identity", "Max", "Maximum", "Min", "Minimum", "Neg", "OneHot",
     "OnesLike", "Pack", "Pad", "PadV2", "Relu", "Reshape", "ReverseSequence", "ReverseV2",
     "Select", "SelectV2", "Sign", "Slice", "Split", "SplitV", "Squeeze", "StopGradient",
     "StridedSlice", "Tile", "Transpose", "Unpack", "ZerosLike"}
)  # fmt: skip
# Random roundings partly cancel. Those of a library may all have one sign, and add up to more.
_ONE_SIGN = 10
# Whatever changes by more tolerances than this depends on a decision, not on a sum of roundings.
_DECISION = 20


def may_decide(graph: MarkedGraph) -> bool:
    """Whether a model has operators in which the rounding of floats can decide an output.

    What is made of the inputs without arithmetic is exact, such as a mask, or ids that are given as
    floats.
    """
    steps = (marker.step.graph for marker in graph.markers.values())
    whole = graph.function.graph
    return any(map(_decides, _inexact_nodes(whole, {"Placeholder"}))) or any(
        _decides(node) for step in steps for node in _inexact_nodes(step, set())
    )


def _inexact_nodes(graph: Any, exact_sources: set[str]) -> Iterator[Any]:
    """Yield the nodes of a graph and of its functions that round, or take rounded values.

    Args:
        graph: The graph.
        exact_sources: Types of operators without operands that are exact, beside constants.
    """
    exact_types = _EXACT | exact_sources
    exact: set[str] = set()
    for operation in graph.get_operations():
        is_exact = exact.issuperset(tensor.op.name for tensor in operation.inputs)
        if not is_exact or operation.type in _DIVIDING:
            yield operation.node_def
        # Integers and booleans change only where a node decides, which is yielded itself.
        if (is_exact and operation.type in exact_types) or _has_whole_values(operation):
            exact.add(operation.name)
    for function in graph.as_graph_def().library.function:
        yield from function.node_def


def _has_whole_values(operation: Any) -> bool:
    dtypes = [tensor.dtype for tensor in operation.outputs]
    return bool(dtypes) and all(dtype.is_integer or dtype.is_bool for dtype in dtypes)


def _decides(node: Any) -> bool:
    if node.op == "Cast":
        source, result = (tf.as_dtype(node.attr[name].type) for name in ("SrcT", "DstT"))
        return bool(source.is_floating and not result.is_floating)
    is_decision = node.op in _DECIDING or node.op in _COMPARING
    return is_decision and bool(tf.as_dtype(node.attr["T"].type).is_floating)


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
