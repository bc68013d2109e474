"""Describes a ``While`` operator: what it carries, its lists and the number of its iterations."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from bilstm_exporter.ir.counts import Count, count_of, plus, static_count, static_number
from bilstm_exporter.ir.list_uses import ListUses, list_uses
from bilstm_exporter.ir.loops import Loop, UnsupportedLoopError, WrittenList
from bilstm_exporter.ir.sizes import Sources, WrittenItem, size_sources, written_item
from bilstm_exporter.ir.tensor_lists import (
    UNKNOWN_ELEMENT,
    LoopElement,
    TensorList,
    elements,
    from_tensor,
    inside,
    sizes_of,
)
from bilstm_exporter.ir.traversal import (
    SAME_ELEMENT,
    ancestors,
    before,
    called_graphs,
    compatible,
)

if TYPE_CHECKING:
    from bilstm_exporter.ir.loops import GraphCopier

Tensor = Any
_SUMS = frozenset({"Add", "AddV2"})


@dataclass(frozen=True)
class _Collected:
    """A list to which every iteration writes one element.

    Attributes:
        variable: The loop variable.
        uses: The positions that an iteration reads and writes.
    """

    variable: int
    uses: ListUses


class WhileLoop:
    """One ``While`` operator of a graph that is copied.

    Args:
        copier: Copies the operators of the condition and the body.
        operation: The operator.
        inputs: The copies of its inputs.
        read: The outputs that something reads.
    """

    def __init__(
        self, copier: GraphCopier, operation: Any, inputs: Sequence[Any], read: set[int]
    ) -> None:
        self._copier, self._operation, self._read = copier, operation, read
        self._inputs = list(inputs)
        shapes = [self._input_shape(n) for n in range(len(inputs))]
        self._condition, self._body = called_graphs(operation, shapes)
        self._own = list(map(id, self._body.inputs))
        self._sources = [before(tensor) for tensor in self._body.outputs]
        self._invariant = [
            source is own for source, own in zip(self._sources, self._body.inputs, strict=True)
        ]
        self._needed = self._needed_variables()
        varying = [n for n in self._needed if not self._invariant[n]]
        self._live, _ = ancestors((self._body.outputs[n] for n in varying), self._own)
        self._steps = [self._induction_step(n) for n in range(len(inputs))]
        self._lists = {n for n in varying if isinstance(inputs[n], TensorList)}
        found = [self._describe_collected(n) for n in sorted(self._lists)]
        self._collected = [one for one in found if one is not None]
        collecting = {one.variable for one in self._collected}
        self._carried = [n for n in varying if n not in collecting]

    def lower(self) -> dict[int, Any]:
        """Lower the loop; returns the copies of the outputs that are read."""
        initial = []
        for n in self._carried:
            if n in self._lists:  # its elements need space before the loop
                self._inputs[n] = self._with_tensor(n)
            value = self._inputs[n]
            initial.append(value.tensor if n in self._lists else value)
        shapes = [
            self._loop_shape(n, tensor) for n, tensor in zip(self._carried, initial, strict=True)
        ]
        for one in self._collected:
            if one.uses.needs_old:
                self._inputs[one.variable] = self._with_tensor(one.variable)
            earlier = self._earlier(one)
            initial += earlier
            shapes += [element.shape for element in earlier]
        iterations, exact = self._iterations()
        item_shapes = functools.cache(lambda: self._item_shapes(initial, shapes))
        loop = Loop(
            layer=self._copier.layer_of(self._operation.name),
            initial=initial,
            shapes=shapes,
            condition=self._goes_on,
            step=self._step,
            lists=[
                self._written_list(
                    one,
                    iterations,
                    functools.partial(self._element_shape, place, initial, item_shapes),
                    functools.partial(self._known_shape, place, initial, item_shapes),
                    exact=exact,
                )
                for place, one in enumerate(self._collected)
            ],
            iterations=iterations if exact else None,
        )
        result = self._copier.lower(loop)
        after = {n: self._inputs[n] for n in self._read if self._invariant[n]}
        for n, tensor in zip(self._carried, result.carried, strict=False):
            after[n] = from_tensor(tensor) if n in self._lists else tensor
        for one, tensor in zip(self._collected, result.lists, strict=True):
            values = from_tensor(tensor)
            if not one.uses.grows:
                values = replace(values, size=self._inputs[one.variable].size)
            after[one.variable] = values
        return {n: value for n, value in after.items() if n in self._read}

    def _earlier(self, one: _Collected) -> list[Tensor]:
        """The elements of a list that iterations before the first one would have written."""
        if not one.uses.earlier:
            return []
        first = self._initial_count(one.uses.index, self._body).tensor
        values = self._inputs[one.variable]
        # A position outside of the list is not read: TensorFlow raises an error for it.
        last = values.size.tensor - 1
        return [
            tf.gather(
                elements(values),
                tf.clip_by_value(first - one.uses.stride * distance, 0, last),
            )
            for distance in range(1, one.uses.earlier + 1)
        ]

    def _step(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """See `Loop.step`."""
        body, count = self._body, len(self._carried)
        known, lists = self._inner(body, tensors[:count]), self._loop_elements(tensors)
        known |= {id(body.inputs[n]): value for n, value in lists.items()}
        wanted = [body.outputs[n] for n in (*self._carried, *lists)]
        results = self._copier.copy(body, known, wanted)
        written, results = results[count:], results[:count]
        items = [one.current() for one in written]
        for one, item in zip(written, items, strict=True):
            results += [item, *one.earlier][: one.uses.earlier]
        # Without an Identity, a tensor could be two outputs, or an input and an output.
        results = [
            tf.identity(elements(value) if isinstance(value, TensorList) else value)
            for value in results
        ]
        return results, [tf.identity(item) for item in items]

    def _loop_elements(self, tensors: Sequence[Tensor]) -> dict[int, LoopElement]:
        """The collected lists in one iteration, by variable.

        Args:
            tensors: The carried tensors; see `Loop.initial`.
        """
        known = self._inner(self._body, tensors[: len(self._carried)])
        rest = list(tensors[len(self._carried) :])
        found = {}
        for one in self._collected:
            earlier, rest = rest[: one.uses.earlier], rest[one.uses.earlier :]
            position = None
            if one.uses.needs_old:
                (position,) = self._copier.copy(self._body, known, [one.uses.index])
                position = tf.reshape(position, [])
            values = inside(self._inputs[one.variable])
            found[one.variable] = LoopElement(values, one.uses, position, earlier)
        return found

    def _goes_on(self, tensors: Sequence[Tensor]) -> Tensor:
        """See `Loop.condition`."""
        known = self._inner(self._condition, tensors[: len(self._carried)])
        (result,) = self._copier.copy(self._condition, known, self._condition.outputs)
        return tf.reshape(result, [])

    def _inner(self, graph: Any, tensors: Sequence[Tensor] | None) -> dict[int, Any]:
        """The copies of the inputs of the condition or the body, inside the loop.

        Args:
            graph: The condition or the body.
            tensors: The carried tensors; None for their initial values.
        """
        carried: Mapping[int, Tensor] = (
            {} if tensors is None else dict(zip(self._carried, tensors, strict=True))
        )
        known = {}
        for n in self._needed:
            value = self._inputs[n]
            if n not in carried:
                value = inside(value)
            elif n in self._lists:
                value = replace(from_tensor(carried[n]), dtype=value.dtype)
            else:
                value = carried[n]
            known[id(graph.inputs[n])] = value
        return known

    # --- the variables

    def _input_shape(self, n: int) -> Any:
        """The shape of a variable in every iteration."""
        shape = self._operation.outputs[n].shape
        attributes = self._operation.node_def.attr
        captured = (
            "_num_original_outputs" in attributes and n >= attributes["_num_original_outputs"].i
        )
        value = self._inputs[n]
        if captured and not isinstance(value, TensorList):
            return compatible(shape, value.shape)
        return shape

    def _needed_variables(self) -> list[int]:
        """The variables that the outputs or the condition depend on."""
        needed = self._read | self._read_by_condition()
        waiting = list(needed)
        while waiting:
            n = waiting.pop()
            if not self._invariant[n]:
                _, read = ancestors([self._body.outputs[n]], self._own)
                more = {self._own.index(key) for key in read} - needed
                needed |= more
                waiting.extend(more)
        return sorted(needed)

    def _read_by_condition(self) -> set[int]:
        own = list(map(id, self._condition.inputs))
        _, read = ancestors(self._condition.outputs, own)
        return {own.index(key) for key in read}

    def _loop_shape(self, n: int, tensor: Tensor) -> tf.TensorShape:
        """The shape of a carried tensor in every iteration."""
        if n not in self._lists:
            return self._operation.outputs[n].shape
        grows = any(
            operation.type in {"TensorListPushBack", "TensorListResize"}
            or (
                operation.type == "TensorListSetItem"
                and operation.get_attr("resize_if_index_out_of_bounds")
            )
            for operation in self._body.get_operations()
        )
        return tf.TensorShape([None, *tensor.shape[1:]]) if grows else tensor.shape

    # --- lists

    def _describe_collected(self, n: int) -> _Collected | None:
        """Describe a list that is collected; None if it must be carried."""
        size = self._inputs[n].size.static
        if n in self._read_by_condition():
            return None
        uses = list_uses(
            self._body, n, self._live, lambda index: self._coefficient(index, self._own)
        )
        if uses is None or (size == 0 and uses.needs_old) or (size == 1 and not uses.grows):
            return None
        return _Collected(n, uses)

    def _written_list(
        self,
        one: _Collected,
        iterations: Count | None,
        element_shape: Any,
        known_shape: Any,
        *,
        exact: bool,
    ) -> WrittenList:
        values = self._inputs[one.variable]
        first = self._initial_count(one.uses.index, self._body)
        begin = 0 if one.uses.stride > 0 else plus(values.size, -1).key
        return WrittenList(
            dtype=values.dtype,
            first=first,
            stride=one.uses.stride,
            size=values.size,
            grows=one.uses.grows,
            before=elements(values) if values.has_elements else None,
            iterations=iterations,
            filled=exact
            and iterations is not None
            and not one.uses.grows
            and iterations.key == values.size.key
            and first.key == begin,
            element_shape=element_shape,
            known_shape=known_shape,
        )

    def _item_shapes(self, initial: Sequence[Tensor], shapes: Sequence[Any]) -> list[Any]:
        """The static shapes of the collected elements."""
        signature = [
            tf.TensorSpec(shape, tensor.dtype)
            for shape, tensor in zip(shapes, initial, strict=True)
        ]
        function = tf.function(lambda *tensors: self._step(tensors)[1], autograph=False)
        return [output.shape for output in function.get_concrete_function(*signature).outputs]

    def _element_shape(self, place: int, initial: Sequence[Tensor], shapes: Any) -> Sequence[Any]:
        """See `WrittenList.element_shape`."""
        known = self._known_shape(place, initial, shapes)
        if known is not None:
            return known
        if shapes()[place].rank is None:
            raise self._error(UNKNOWN_ELEMENT)
        return sizes_of(self._step(initial)[1][place])

    def _known_shape(
        self, place: int, initial: Sequence[Tensor], shapes: Any
    ) -> Sequence[Any] | None:
        """See `WrittenList.known_shape`."""
        shape = shapes()[place]
        if shape.rank is None:
            return None
        if shape.is_fully_defined():
            return [int(size) for size in shape]
        written = written_item(self._sources[self._collected[place].variable])
        if written is not None:
            item = before(written.item)
            for n, tensor in zip(self._carried, initial, strict=False):
                if self._sources[n] is item and n not in self._lists:
                    given = sizes_of(tensor)
                    return [a if a is not None else b for a, b in zip(shape, given, strict=True)]
        return None if written is None else self._sizes(written, shape)

    def _with_tensor(self, n: int) -> TensorList:
        """A carried list with a tensor."""
        values: TensorList = self._inputs[n]

        def shape() -> Sequence[Any]:
            if values.shape.is_fully_defined():
                return [int(size) for size in values.shape]
            written = written_item(self._sources[n])
            if written is None or written.item.shape.rank is None:
                raise self._error(UNKNOWN_ELEMENT)
            sizes = self._sizes(written, written.item.shape)
            if sizes is not None:
                return sizes
            if written.loops:
                raise self._error(UNKNOWN_ELEMENT)
            known = self._inner(self._body, None)
            return sizes_of(*self._copier.copy(self._body, known, [written.item]))

        return replace(values, tensor=elements(values, shape), written=None)

    def _sizes(self, written: WrittenItem, shape: Any) -> list[Any] | None:
        """The sizes of an element, computed outside of the loop; None if one is unknown."""
        sizes = [
            self._size(written, axis) if size is None else size for axis, size in enumerate(shape)
        ]
        return None if any(size is None for size in sizes) else sizes

    def _size(self, written: WrittenItem, axis: int) -> Any:
        sources: Sources = [(written.item, axis)]
        for operation, body in (*written.loops, (None, self._body)):
            own = list(map(id, body.inputs))
            found: Sources = []
            for tensor, place in sources:
                more = size_sources(tensor, place, set(own))
                if more is None:
                    return None
                found += more
            if operation is not None:
                given = list(operation.inputs)[-len(own) :]  # without the condition of an If
                found = [(given[own.index(id(t))], place) for t, place in found]
            sources = found
        sizes = []
        for tensor, place in sources:
            value = self._inputs[self._own.index(id(tensor))]
            if not isinstance(value, TensorList):
                sizes.append(sizes_of(value)[place])
            elif value.tensor is None:
                return None
            else:
                sizes.append(sizes_of(value.tensor)[place + 1])
        # Where tensors are broadcast, the others have the size 1.
        return functools.reduce(tf.maximum, sizes)

    # --- positions and the number of iterations

    def _induction_step(self, n: int) -> int | None:
        """The number that every iteration adds to a variable; None if there is none."""
        if self._invariant[n]:
            return 0
        value = self._inputs[n]
        operation = before(self._sources[n], SAME_ELEMENT).op
        if isinstance(value, TensorList) or not value.dtype.is_integer:
            return None
        if operation.type not in {*_SUMS, "Sub"}:
            return None
        first, second = (before(operand, SAME_ELEMENT) for operand in operation.inputs)
        own = self._body.inputs[n]
        if first is own and operation.type == "Sub":
            step = self._constant(second)
            return None if step is None else -step
        if operation.type in _SUMS and (first is own or second is own):
            return self._constant(second if first is own else first)
        return None

    def _constant(self, tensor: Tensor) -> int | None:
        """The value of a number of the body that is the same in every iteration and fixed."""
        if id(tensor) not in self._own:
            return static_number(tensor)
        n = self._own.index(id(tensor))
        value = self._inputs[n]
        known = self._invariant[n] and not isinstance(value, TensorList)
        return static_number(value) if known else None

    def _coefficient(self, tensor: Tensor, own: Sequence[int]) -> int | None:
        """How much a number of the condition or the body grows per iteration; None if unknown."""
        if id(tensor) in own:
            return self._steps[own.index(id(tensor))]
        operation = tensor.op
        found = [self._coefficient(operand, own) for operand in operation.inputs]
        parts = [part for part in found if part is not None]
        if len(parts) < len(found):
            return None
        result = None
        if not any(parts):
            result = 0
        elif operation.type in SAME_ELEMENT:
            result = parts[0]
        elif operation.type in _SUMS:
            result = parts[0] + parts[1]
        elif operation.type == "Sub":
            result = parts[0] - parts[1]
        elif operation.type == "Neg":
            result = -parts[0]
        return result

    def _initial_count(self, tensor: Tensor, graph: Any) -> Count:
        """The value of a number of the condition or the body in the first iteration."""
        known = {id(t): value for t, value in zip(graph.inputs, self._inputs, strict=True)}
        (value,) = self._copier.copy(graph, known, [tensor])
        return count_of(tf.reshape(value, []))

    def _iterations(self) -> tuple[Count | None, bool]:
        """An upper bound of the number of iterations, and whether it is exact."""
        bounds: list[Count] = []
        exact = True
        waiting = [self._condition.outputs[0]]
        while waiting:
            tensor = before(waiting.pop(), SAME_ELEMENT)
            bound = None
            if tensor.op.type == "LogicalAnd":
                waiting.extend(tensor.op.inputs)
                continue
            if tf.get_static_value(tensor) is not None and tf.get_static_value(tensor).all():
                continue  # always true
            bound = self._bound(tensor.op)
            if bound is None:
                exact = False
            else:
                bounds.append(bound)
        if not bounds:
            return None, False
        smallest = min(bounds, key=lambda one: math.inf if one.static is None else one.static)
        if all(one.key == smallest.key or one.static is not None for one in bounds):
            return smallest, exact
        tensor = functools.reduce(tf.minimum, [one.tensor for one in bounds])
        return Count(tensor, object(), None), exact

    def _bound(self, comparison: Any) -> Count | None:
        """The number of iterations after which a comparison is false; None if unknown."""
        if comparison.type not in {"Less", "LessEqual", "Greater", "GreaterEqual"}:
            return None
        low, high = comparison.inputs
        if comparison.type in {"Greater", "GreaterEqual"}:
            low, high = high, low
        own = list(map(id, self._condition.inputs))
        lower, upper = self._coefficient(low, own), self._coefficient(high, own)
        if not low.dtype.is_integer or lower is None or upper is None or lower <= upper:
            return None
        gap = _difference(
            self._initial_count(high, self._condition), self._initial_count(low, self._condition)
        )
        gap = plus(gap, int(comparison.type in {"LessEqual", "GreaterEqual"}))
        step = lower - upper
        if gap.static is not None:
            return static_count(max(0, math.ceil(gap.static / step)))
        if step > 1:
            return Count(tf.maximum((gap.tensor + step - 1) // step, 0), (object(), 0), None)
        return gap if gap.is_size else replace(gap, tensor=tf.maximum(gap.tensor, 0))

    def _error(self, reason: str) -> UnsupportedLoopError:
        return self._copier.error(self._operation.name, reason)


def _difference(end: Count, start: Count) -> Count:
    if start.static is not None:
        return plus(end, -start.static)
    if end.static is None and end.key[0] == start.key[0]:
        return static_count(end.key[1] - start.key[1])
    return Count(end.tensor - start.tensor, (object(), 0), None)
