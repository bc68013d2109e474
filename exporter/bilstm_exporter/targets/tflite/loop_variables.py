"""Variables of loops that nobody reads, as the counter that TensorFlow gives every loop.

LiteRT would count on, and copy the count, at every iteration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bilstm_exporter.targets.tflite.graph_editor import operator_name


def drop_idle_variables(model: Any) -> None:
    """Take variables out of loops that nothing reads but what makes their own next value."""
    loops = [
        (subgraph, operator)
        for subgraph in model.subgraphs
        for operator in subgraph.operators
        if operator_name(model, operator) == "WHILE"
    ]
    uses = Counter(number for _, operator in loops for number in _graphs(operator))
    for subgraph, operator in loops:
        if any(uses[number] > 1 for number in _graphs(operator)):
            continue  # another loop may read what this one does not
        cond, body = (model.subgraphs[number] for number in _graphs(operator))
        for index in reversed(range(len(operator.inputs))):
            if _is_read(subgraph, operator.outputs[index]) or _is_read(cond, cond.inputs[index]):
                continue
            makers = _only_for_itself(body, index)
            if makers is None:
                continue
            body.operators = [one for one in body.operators if one not in makers]
            for owner, name in (
                (operator, "inputs"),
                (operator, "outputs"),
                (body, "inputs"),
                (body, "outputs"),
                (cond, "inputs"),
            ):
                kept = list(getattr(owner, name))
                del kept[index]
                setattr(owner, name, kept)


def _graphs(loop: Any) -> tuple[int, int]:
    """The numbers of a loop's condition and body."""
    options = loop.builtinOptions
    return options.condSubgraphIndex, options.bodySubgraphIndex


def _is_read(subgraph: Any, tensor: int) -> bool:
    readers = (operator.inputs for operator in subgraph.operators)
    return tensor in subgraph.outputs or any(tensor in inputs for inputs in readers)


def _only_for_itself(body: Any, index: int) -> Sequence[Any] | None:
    """The operators that make the next value of a variable, if they serve nothing else."""
    variable, result = body.inputs[index], body.outputs[index]
    if variable == result or list(body.outputs).count(result) > 1:
        return None  # an input of the loop, not a variable
    readers = [operator for operator in body.operators if variable in operator.inputs]
    makers = [operator for operator in body.operators if result in operator.outputs]
    alone = len(makers) == 1 and all(reader is makers[0] for reader in readers)
    if not alone or len(makers[0].outputs) > 1 or variable in body.outputs:
        return None
    if any(result in operator.inputs for operator in body.operators):
        return None
    return makers
