"""How the iterations of a loop use a list: each its own element, and those of iterations before.

Such a list need not be carried: its elements are what the iterations give, as in a scan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bilstm_exporter.ir.counts import static_number
from bilstm_exporter.ir.traversal import (
    BRANCH_OPERATORS,
    SAME_ELEMENT,
    before,
    called_graphs,
    is_rounding,
)

Tensor = Any
# The elements of more iterations before are not kept apart from the list.
_MAX_EARLIER = 8


@dataclass(frozen=True)
class ListUses:
    """The uses of a list to which every iteration writes the element at its own position.

    Attributes:
        index: The position, in the graph of the body.
        stride: 1 or -1: how much the position grows per iteration.
        grows: Whether writing after the end adds elements.
        reads: For each operator that reads an element, by `key_of`, the iteration that writes this
            element, counted from the current one: 0, or -1 for the one before.
        needs_old: Whether an iteration may need elements that are not written yet.
    """

    index: Tensor
    stride: int
    grows: bool
    reads: Mapping[tuple[str, str], int]
    needs_old: bool

    @property
    def earlier(self) -> int:
        """The number of iterations before the current one whose elements it reads."""
        return max([0, *(-distance for distance in self.reads.values())])


def key_of(operation: Any) -> tuple[str, str]:
    """Identify an operator of a body or of its branches."""
    return operation.graph.name, operation.name


def list_uses(
    body: Any, number: int, live: set[str], coefficient: Callable[[Tensor], int | None]
) -> ListUses | None:
    """Describe the uses of a list in the body of a loop.

    Args:
        body: The graph of the body.
        number: The loop variable.
        live: The names of the operators of the body that are needed.
        coefficient: Returns how much a number of the body grows per iteration, or None.

    Returns:
        The uses; None if an iteration uses other elements, or the list as a whole.
    """
    uses = _Uses(body, live, body.inputs[number])
    outputs = [before(tensor) for tensor in body.outputs]
    if not uses.follow(body.inputs[number], body, {}):
        return None
    if [n for n, tensor in enumerate(outputs) if id(tensor) in uses.lists] != [number]:
        return None
    index = next((own for own in map(uses.in_body, uses.writes) if own is not None), None)
    growth = None if index is None else uses.growth(index, coefficient)
    if index is None or growth not in {1, -1}:
        return None
    stride = -1 if growth == -1 else 1
    reads = {key_of(one.operation): uses.distance(index, one) for one in uses.reads}
    writes = [uses.distance(index, one) for one in uses.writes]
    if any(writes) or None in (*writes, *reads.values()):
        return None
    distances = {key: number * stride for key, number in reads.items() if number is not None}
    later = uses.is_conditional or any(distance >= 0 for distance in distances.values())
    grows = any(one.operation.get_attr(_RESIZES) for one in uses.writes)
    found = ListUses(index, stride, grows, distances, needs_old=later or bool(distances))
    is_linear = found.earlier <= _MAX_EARLIER and not (grows and (later or uses.reads_size))
    return found if is_linear else None


_WRITE, _READ, _SIZE = "TensorListSetItem", "TensorListGetItem", "TensorListLength"
_RESIZES = "resize_if_index_out_of_bounds"
_Places = Mapping[int, Tensor]
"""For each input of a branch, by its id, the tensor outside."""


@dataclass(frozen=True)
class _Use:
    operation: Any
    places: _Places


@dataclass
class _Uses:
    """What reads or writes one list.

    Attributes:
        body: The graph of the body.
        live: The names of the operators of the body that are needed.
        own: The list as the body gets it.
        lists: The ids of the tensors that are this list.
        is_conditional: Whether a branch may leave the list as it is.
        reads_size: Whether something but the place of a new element depends on its size.
    """

    body: Any
    live: set[str]
    own: Tensor
    writes: list[_Use] = field(default_factory=list)
    reads: list[_Use] = field(default_factory=list)
    lists: set[int] = field(default_factory=set)
    is_conditional: bool = False
    reads_size: bool = False

    def follow(self, tensor: Tensor, graph: Any, places: _Places) -> bool:
        """Find the uses of a list; False if it is used in another way."""
        self.lists.add(id(tensor))
        for reader in tensor.consumers():
            if graph is self.body and reader.name not in self.live:
                continue
            use = _Use(reader, places)
            if reader.type == _READ:
                self.reads.append(use)
                continue
            if reader.type == _SIZE:
                is_place = tensor is self.own and _is_place_only(reader.outputs[0])
                self.reads_size |= not is_place
                continue
            if reader.type in BRANCH_OPERATORS:
                if not self._follow_into_branches(tensor, reader, graph, places):
                    return False
                continue
            if reader.type == _WRITE:
                self.writes.append(use)
            elif reader.type != "Identity":
                return False
            if not self.follow(reader.outputs[0], graph, places):
                return False
        return True

    def _follow_into_branches(self, tensor: Tensor, branch: Any, graph: Any, places: Any) -> bool:
        operands = list(branch.inputs)[1:]
        graphs = called_graphs(branch)
        for inner in graphs:
            inner_places = dict(zip(map(id, inner.inputs), operands, strict=True))
            for place, operand in zip(inner.inputs, operands, strict=True):
                if operand is tensor and not self.follow(place, inner, {**places, **inner_places}):
                    return False
        for output, *results in zip(branch.outputs, *(one.outputs for one in graphs), strict=True):
            same = [id(before(result)) in self.lists for result in results]
            if all(same):
                self.is_conditional = True
                if not self.follow(output, graph, places):
                    return False
            elif any(same):
                return False
        return True

    def in_body(self, use: _Use) -> Tensor | None:
        """The position of a use as a tensor of the body; None if a branch computes it."""
        index = _outside(use.operation.inputs[1], use.places)
        return index if index.graph is self.body else None

    def growth(self, index: Tensor, coefficient: Callable[[Tensor], int | None]) -> int | None:
        """How much a position grows per iteration; the size by one, if each adds one element."""
        source = before(index, SAME_ELEMENT).op
        if source.type == _SIZE and source.inputs[0] is self.own:
            return None if self.is_conditional or self.reads_size else 1
        return coefficient(index)

    def distance(self, index: Tensor, use: _Use) -> int | None:
        """How far the position of a use is from an index; None if that is unknown."""
        (terms, own), (other_terms, other) = (
            _terms(index, {}),
            _terms(use.operation.inputs[1], use.places),
        )
        return other - own if terms == other_terms else None


def _is_place_only(tensor: Tensor) -> bool:
    """Whether a number is the place of elements, and nothing else."""
    for reader in tensor.consumers():
        if reader.type == _WRITE and reader.inputs[1] is tensor:
            continue
        if reader.type not in SAME_ELEMENT or not _is_place_only(reader.outputs[0]):
            return False
    return True


def _outside(tensor: Tensor, places: _Places) -> Tensor:
    """The tensor with the same value that is the farthest outside of branches."""
    while True:
        tensor = before(tensor, SAME_ELEMENT)
        if id(tensor) not in places:
            return tensor
        tensor = places[id(tensor)]


def _terms(tensor: Tensor, places: _Places) -> tuple[dict[int, int], int]:
    """Write an integer as a sum: the factor of each tensor, by its id, and a fixed number."""
    tensor = _outside(tensor, places)
    static = static_number(tensor)
    if static is not None:
        return {}, static
    operation = tensor.op
    sign = {"Add": 1, "AddV2": 1, "Sub": -1}.get(operation.type)
    if sign is None or is_rounding(operation):
        return {id(tensor): 1}, 0
    (terms, number), (others, other) = (_terms(one, places) for one in operation.inputs)
    terms = {key: terms.get(key, 0) + sign * others.get(key, 0) for key in {*terms, *others}}
    return {key: factor for key, factor in terms.items() if factor}, number + sign * other
