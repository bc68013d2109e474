"""What a traced graph tells about the values an input may take.

Embeddings bound the ids, comparisons with a constant make masks. Both are read off
the graph, so it does not matter which layer, or whose code, wrote them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

# Operators that move values about without changing them.
_MOVES = frozenset(
    {
        "Cast", "EnsureShape", "ExpandDims", "Identity", "Reshape", "ReverseV2", "Slice", "Squeeze",
        "StridedSlice", "Transpose",
    }
)  # fmt: skip
_LOOKUPS = frozenset({"GatherV2", "ResourceGather"})
_COMPARISONS = frozenset({"NotEqual", "Equal", "Greater"})


@dataclass(frozen=True)
class InputFacts:
    """What is known of one input.

    Attributes:
        vocabulary: How many ids the smallest table looked up with it holds, or None.
        mask_value: The value that marks padding, or None.
    """

    vocabulary: int | None = None
    mask_value: float | None = None

    @property
    def is_ids(self) -> bool:
        """Whether the values are ids of a table."""
        return self.vocabulary is not None


def input_facts(function: Any) -> list[InputFacts]:
    """Read the facts of every input of a traced function, in its order."""
    names = [tensor.op.name for tensor in function.inputs]
    vocabularies: dict[str, int] = {}
    mask_values: dict[str, float] = {}
    for operation in function.graph.get_operations():
        if operation.type in _LOOKUPS:
            source = _moved_from(operation.inputs[1])
            size = operation.inputs[0].shape[0] if operation.inputs[0].shape.rank else None
            if source in names and size is not None:
                vocabularies[source] = min(size, vocabularies.get(source, size))
        elif operation.type in _COMPARISONS:
            for value, other in (operation.inputs, reversed(operation.inputs)):
                source, constant = _moved_from(value), tf.get_static_value(other)
                if source in names and constant is not None and constant.size == 1:
                    mask_values.setdefault(source, constant.item())
    return [InputFacts(vocabularies.get(name), mask_values.get(name)) for name in names]


def _moved_from(tensor: Any) -> str:
    """The placeholder whose values a tensor holds, only moved; "" if it is none's."""
    while tensor.op.type in _MOVES:
        tensor = tensor.op.inputs[0]
    return str(tensor.op.name) if tensor.op.type == "Placeholder" else ""
