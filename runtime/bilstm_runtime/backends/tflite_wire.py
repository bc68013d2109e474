"""Checks the indices in a TFLite file before LiteRT follows them.

LiteRT verifies that a file is a flatbuffer and that its tensors have buffers, but not that every
other index exists: a signature of a subgraph that is not there, or a subgraph whose output is
tensor -1, ends the process. A file may also name other files that hold its buffers; those are
refused, as for ONNX.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIELDS: Final = 16
"""The number of fields that are read of any table, at most."""

_TRUNCATED: Final = "it is truncated"
_BAD_OFFSET: Final = "an offset in it is negative or not aligned"

_EXTERNAL: Final = (8, 9)
"""The fields `external_buffer_groups` and `external_buffers` of a model."""

_OPTIONAL_INPUTS: Final = frozenset({3, 4, 9, 16, 27, 35, 44, 46, 52, 67, 132, 141})
"""The builtin operators with optional inputs, -1 for none: convolutions, FULLY_CONNECTED, SVDF and
recurrences."""

_CALLS: Final = {118: (92, (0, 1)), 119: (93, (0, 1)), 129: (103, (0,))}
"""IF, WHILE and CALL_ONCE: the type of their options, and its fields that hold indices of
subgraphs. LiteRT takes options that are missing, or of another type, for zeros."""

_OTHER_CALLS: Final = frozenset({173, 174, 190, 198, 199, 200, 206})
"""The operators of StableHLO with subgraphs, which no exported file has."""

_MAX_PREPARED: Final = 2**15
"""How often subgraphs are prepared, at most; a loop of an exported file prepares two."""


class ExternalBuffersError(ValueError):
    """The file names other files that hold its buffers."""


class _Content:
    """A flatbuffer, read in place: a struct call for every number would take as long as LiteRT.

    Reading outside of it raises `IndexError` or `ValueError`.
    """

    def __init__(self, content: bytes) -> None:
        if sys.byteorder != "little":
            problem = "it is little-endian, and this processor is not"
            raise ValueError(problem)
        view = memoryview(content)
        self._bytes, self._size = view.cast("b"), len(content)
        self._shorts = view[: len(content) & ~1].cast("H")
        self._words = view[: len(content) & ~3].cast("i")
        self._vtables: dict[int, tuple[int, ...]] = {}
        self._elements = 0

    def root(self) -> int:
        """Return the position of the root table."""
        return self.number(0)

    def fields(self, table: int) -> tuple[int, ...]:
        """Return the offsets of the fields of a table, 0 for those that it does not have."""
        vtable = table - self.number(table)
        found = self._vtables.get(vtable)  # tables of one kind share their vtable
        if found is None:
            if vtable < 0 or vtable & 1:
                raise ValueError(_BAD_OFFSET)
            first = vtable // 2
            count = max(0, self._shorts[first] // 2 - 2)
            offsets = self._shorts[first + 2 : first + 2 + count].tolist()
            if len(offsets) < count:
                raise ValueError(_TRUNCATED)
            found = self._vtables[vtable] = (*offsets, *(0,) * (_FIELDS - count))
        return found

    def number(self, at: int) -> int:
        """Return the 32-bit number at a position."""
        if at < 0 or at & 3:
            raise ValueError(_BAD_OFFSET)
        return self._words[at >> 2]

    def field(self, table: int, field: int) -> int:
        """Return a 32-bit number of a table."""
        offset = self.fields(table)[field]
        return self.number(table + offset) if offset else 0

    def small_field(self, table: int, field: int) -> int:
        """Return an 8-bit number of a table."""
        offset = self.fields(table)[field]
        return self._bytes[table + offset] if offset else 0

    def inner(self, table: int, field: int) -> int | None:
        """Return the table in a field of a table."""
        offset = self.fields(table)[field]
        return table + offset + self.number(table + offset) if offset else None

    def vector(self, table: int, offset: int) -> list[int]:
        """Return the vector of 32-bit numbers in the field with this offset."""
        if not offset:
            return []
        at = table + offset
        if at & 3:
            raise ValueError(_BAD_OFFSET)
        first = (at + self._words[at >> 2]) >> 2
        if first < 0:
            raise ValueError(_BAD_OFFSET)
        count = self._words[first]
        self._elements += count
        # Vectors do not overlap in a file that a converter wrote.
        if count < 0 or self._elements > self._size:
            raise ValueError(_TRUNCATED)
        found = self._words[first + 1 : first + 1 + count].tolist()
        if len(found) < count:
            raise ValueError(_TRUNCATED)
        return found

    def integers(self, table: int, field: int) -> list[int]:
        """Return a vector of 32-bit numbers."""
        return self.vector(table, self.fields(table)[field])

    def tables(self, table: int, field: int) -> list[int]:
        """Return the positions of the tables in a vector."""
        offset = self.fields(table)[field]
        if not offset:
            return []
        at = table + offset
        start = at + self.number(at) + 4
        offsets = self.vector(table, offset)
        return [start + 4 * index + offset for index, offset in enumerate(offsets)]


def check_indices(content: bytes) -> None:
    """Check that the indices in a TFLite file exist, and that it refers to no other file.

    Args:
        content: The file.

    Raises:
        ExternalBuffersError: The file names other files that hold its buffers.
        ValueError: An index does not exist, or the bytes are not a TFLite file.
    """
    try:
        _check_model(_Content(content))
    except IndexError as error:
        raise ValueError(_TRUNCATED) from error


def _check_model(content: _Content) -> None:
    model = content.root()
    if any(content.fields(model)[number] for number in _EXTERNAL):
        problem = "it names files that hold its buffers"
        raise ExternalBuffersError(problem)
    codes = [
        max(content.small_field(code, 0), content.field(code, 3))
        for code in content.tables(model, 1)
    ]
    graphs = content.tables(model, 2)
    counts, calls = [], []
    for graph in graphs:
        positions = content.tables(graph, 0)
        tensors = len(positions)
        counts.append(tensors)
        for side in (1, 2):
            _check(content.integers(graph, side), tensors, "tensor")
        calls.append(_check_operators(content, graph, tensors, codes))
        variables = {n for n, tensor in enumerate(positions) if content.small_field(tensor, 5)}
        if variables:
            _check_variables(content, graph, variables)
    for callees in calls:
        _check(callees, len(graphs), "subgraph")
    _check_order(calls)
    for signature in content.tables(model, 7):
        called = content.field(signature, 4)
        _check([called], len(graphs), "subgraph")
        for side in (0, 1):
            items = content.tables(signature, side)
            _check([content.field(item, 1) for item in items], counts[called], "tensor")


def _check_operators(content: _Content, graph: int, tensors: int, codes: list[int]) -> list[int]:
    """Check the indices of the operators of a subgraph; returns the subgraphs that they call."""
    calls = []
    for operator in content.tables(graph, 3):
        fields = content.fields(operator)
        index = content.number(operator + fields[0]) if fields[0] else 0
        if not 0 <= index < len(codes):
            _check([index], len(codes), "operator")
        kind = codes[index]
        used = content.vector(operator, fields[1])
        if kind in _OPTIONAL_INPUTS:
            used = [number for number in used if number != -1]
        used += content.vector(operator, fields[2])
        if used and not (min(used) >= 0 and max(used) < tensors):
            _check(used, tensors, "tensor")
        if fields[8]:
            _check([n for n in content.vector(operator, fields[8]) if n != -1], tensors, "tensor")
        if kind in _CALLS:
            options_type, indices = _CALLS[kind]
            options = content.inner(operator, 4)
            if options is None or content.small_field(operator, 3) != options_type:
                calls += [0] * len(indices)
            else:
                calls += [content.field(options, field) for field in indices]
        elif kind in _OTHER_CALLS:
            problem = f"it holds the operator {kind} of StableHLO, which a bundle never has"
            raise ValueError(problem)
    return calls


def _check_variables(content: _Content, graph: int, variables: set[int]) -> None:
    """Check that no operator has a variable as its output, for which LiteRT takes no memory."""
    written = [*content.integers(graph, 1), *content.integers(graph, 2)]
    for operator in content.tables(graph, 3):
        written += content.integers(operator, 2)
    found = variables.intersection(written)
    if found:
        problem = f"it marks tensor {min(found)} as a variable, which an operator writes"
        raise ValueError(problem)


def _check_order(calls: list[list[int]]) -> None:
    """Check that no subgraph calls itself, and that LiteRT prepares each a few times only.

    It prepares a subgraph again for every operator that calls it, so 30 that call the next one
    twice take hours.
    """
    callers: list[list[int]] = [[] for _ in calls]
    for graph, callees in enumerate(calls):
        for callee in callees:
            callers[callee].append(graph)
    waiting = list(map(len, calls))
    ready = [graph for graph, count in enumerate(waiting) if not count]
    counts = [0] * len(calls)
    for graph in ready:
        counts[graph] = 1 + sum(counts[callee] for callee in calls[graph])
        if counts[graph] > _MAX_PREPARED:
            problem = "its subgraphs call each other too often"
            raise ValueError(problem)
        for caller in callers[graph]:
            waiting[caller] -= 1
            if not waiting[caller]:
                ready.append(caller)
    if len(ready) < len(calls):
        problem = "a subgraph in it calls itself"
        raise ValueError(problem)


def _check(indices: Sequence[int], count: int, kind: str) -> None:
    for index in indices:
        if not 0 <= index < count:
            problem = f"it refers to {kind} {index}, and has {count}"
            raise ValueError(problem)
