"""Puts loops into a converted file from which they were cut out before the conversion."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from bilstm_exporter.targets.tflite.flatbuffer import position
from bilstm_exporter.targets.tflite.graph_editor import GraphEditor, operator_code
from bilstm_exporter.targets.tflite.step_loops import LoopSite, NoLoopError

_BUILTIN = schema.BuiltinOperator
_TENSOR = schema.TensorType
_DTYPES = {
    _TENSOR.FLOAT32: np.float32, _TENSOR.INT8: np.int8, _TENSOR.INT16: np.int16,
    _TENSOR.INT32: np.int32, _TENSOR.INT64: np.int64, _TENSOR.BOOL: np.bool_,
}  # fmt: skip
# Two measurements of one range differ by roundings. Over the 255 steps of int8, this is far less
# than half of one.
_SAME_SCALE = 1e-5


def splice_loops(
    model: Any, sites: Sequence[LoopSite], steps: Sequence[Any], own: tuple[int, int]
) -> None:
    """Put loops into a model, in place.

    Args:
        model: The model without its loops, read by `flatbuffer.read_converted`.
        sites: The places of the loops.
        steps: The converted step of each loop, read in the same way.
        own: The number of inputs and outputs of the model with its loops.

    Raises:
        NoLoopError: The dtypes of a step and of the model do not fit.
    """
    subgraph = model.subgraphs[0]
    for site, step in zip(sites, steps, strict=True):
        _Splice(model, site, copy.deepcopy(step)).write()
    signature = model.signatureDefs[0]
    for name, count in zip(("inputs", "outputs"), own, strict=True):
        setattr(subgraph, name, list(getattr(subgraph, name))[:count])
        setattr(signature, name, [one for one in getattr(signature, name) if position(one) < count])
    _sort(subgraph)


class _Splice:
    """One loop that is put into a model.

    Args:
        model: The model without the loop.
        site: The place of the loop.
        step: The converted step, which becomes the body of the loop.
    """

    def __init__(self, model: Any, site: LoopSite, step: Any) -> None:
        self.model, self.site, self.loop = model, site, site.loop
        self.main = GraphEditor(model, model.subgraphs[0])
        inputs, outputs = (list(getattr(model.subgraphs[0], n)) for n in ("inputs", "outputs"))
        self.reads = [int(outputs[number]) for number in site.reads]
        self.given = [int(number) for number in inputs]
        body = step.subgraphs[0]
        self.body = GraphEditor(model, body)
        self.step_inputs = [int(number) for number in body.inputs]
        count = len(self.loop.step.outputs)
        self.step_results = [int(number) for number in body.outputs][:count]
        _import(model, step, self.step_results)
        # Each variable: its tensor before the loop, in the body before and after it, and after
        # the loop.
        self.variables: list[tuple[int, int, int, int]] = []

    def write(self) -> None:
        """Write the loop."""
        body = self.body
        first = body.subgraph.operators[0] if body.subgraph.operators else None
        counter = self._counter()
        sequences, *rest = self.reads
        values = iter(rest)
        self._sequences(sequences, counter, first)
        count = len(self.loop.initial)
        for number, initial in enumerate(self.loop.initial):
            inner = self.step_inputs[1 + number]
            start = (
                self._scaled(self.main, next(values), body, inner)
                if initial is None
                else self._constant(initial, inner)
            )
            after = self._scaled(body, self.step_results[number], body, inner)
            self._add(start, inner, after, self.site.finals.get(number))
        for inner in self.step_inputs[1 + count :]:
            self._add(self._scaled(self.main, next(values), body, inner), inner, inner)
        for slot, number in self.site.finals.items():
            if slot >= count:
                result = self.step_results[slot]
                inner = self._like(body, result)
                zeros = np.zeros(_shape(body, result), np.float32)
                self._add(self._constant(zeros, result), inner, result, number)
        places = self._places(counter) if self.site.results else None
        for slot, number in self.site.results.items():
            self._collect(slot, number, places)
        self._finish()

    def _counter(self) -> int:
        one = self.body.add_constant(np.array(1, np.int32), [])
        counter, following = (_new(self.body, [], _TENSOR.INT32) for _ in range(2))
        self.body.insert(
            None, _BUILTIN.ADD, [counter, one], following, version=1, options=schema.AddOptionsT()
        )
        start = self.main.add_constant(np.array(0, np.int32), [])
        self._add(start, counter, following)
        return counter

    def _sequences(self, number: int, counter: int, first: Any) -> None:
        """Read one step of ``[batch, time, ...]``.

        GATHER, because LiteRT knows the output shape of SLICE only at run time.
        """
        inner = self.step_inputs[0]
        before = self._scaled(self.main, number, self.body, inner)
        whole = _new(self.body, _shape(self.main, number), _type(self.body, inner))
        self.body.subgraph.tensors[whole].quantization = self._quantization(self.body, inner)
        options = schema.GatherOptionsT()
        options.axis = 1
        self.body.insert(
            first, _BUILTIN.GATHER, [whole, counter], inner, version=2, options=options
        )
        self._add(before, whole, whole)

    def _places(self, counter: int) -> dict[int, int]:
        """The start ``[0, step, 0, ...]`` of the step in its buffer, by rank."""
        zero = self.body.add_constant(np.array(0, np.int32), [])
        found = {}
        for slot in self.site.results:
            rank = len(_shape(self.body, self.step_results[slot])) + 1
            if rank not in found:
                found[rank] = self.body.add_vector(rank, _TENSOR.INT32)
                options = schema.PackOptionsT()
                options.valuesCount, options.axis = rank, 0
                inputs = [zero, counter, *[zero] * (rank - 2)]
                self.body.insert(
                    None, _BUILTIN.PACK, inputs, found[rank], version=1, options=options
                )
        return found

    def _collect(self, slot: int, number: int, places: Any) -> None:
        """Write the result of every step into a buffer ``[batch, time, ...]``."""
        body, result = self.body, self.step_results[slot]
        shape, kind = _shape(body, result), _type(body, result)
        quantization = self._quantization(body, result)
        row_shape, whole = [shape[0], 1, *shape[1:]], [shape[0], self.loop.steps, *shape[1:]]
        row, inner, after = (_new(body, one, kind) for one in (row_shape, whole, whole))
        buffer = _new(self.main, whole, kind)
        for edit, tensor in ((body, row), (body, inner), (body, after), (self.main, buffer)):
            edit.subgraph.tensors[tensor].quantization = quantization
        options = schema.ReshapeOptionsT()
        options.newShape = row_shape
        target = body.add_constant(np.array(row_shape, np.int32), [len(row_shape)])
        body.insert(None, _BUILTIN.RESHAPE, [result, target], row, version=1, options=options)
        body.insert(
            None, _BUILTIN.DYNAMIC_UPDATE_SLICE, [inner, row, places[len(whole)]], after,
            version=1, options=schema.DynamicUpdateSliceOptionsT(),
        )  # fmt: skip
        sizes = self.main.add_constant(np.array(whole, np.int32), [len(whole)])
        zero = self._constant(np.zeros([], np.float32), result)
        self.main.insert(
            None, _BUILTIN.FILL, [sizes, zero], buffer, version=3, options=schema.FillOptionsT()
        )
        self._add(buffer, inner, after, number)

    def _finish(self) -> None:
        model, body = self.model, self.body.subgraph
        condition = schema.SubGraphT()
        condition.tensors, condition.operators, condition.inputs = [], [], []
        edit = GraphEditor(model, condition)
        for _, inner, _, _ in self.variables:
            tensor = body.tensors[inner]
            number = _new(edit, _shape(self.body, inner), tensor.type)
            condition.tensors[number].quantization = tensor.quantization
            condition.inputs.append(number)
        end = edit.add_constant(np.array(self.loop.steps, np.int32), [])
        goes_on = _new(edit, [], _TENSOR.BOOL)
        options = schema.LessOptionsT()
        inputs = [condition.inputs[0], end]
        edit.insert(None, _BUILTIN.LESS, inputs, goes_on, version=1, options=options)
        condition.outputs = [goes_on]
        body.inputs = [inner for _, inner, _, _ in self.variables]
        body.outputs = [after for _, _, after, _ in self.variables]
        body.name = None
        options = schema.WhileOptionsT()
        options.condSubgraphIndex = len(model.subgraphs)
        options.bodySubgraphIndex = len(model.subgraphs) + 1
        model.subgraphs += [condition, body]
        first, *_ = self.variables
        operator = self.main.insert(
            None, _BUILTIN.WHILE, [one[0] for one in self.variables], first[3],
            version=1, options=options,
        )  # fmt: skip
        operator.outputs = [one[3] for one in self.variables]

    def _add(self, before: int, inner: int, after: int, number: int | None = None) -> None:
        """Add a variable; ``number`` is the model's input that is its value after the loop."""
        result = self._like(self.main, before)
        if number is not None:
            given = self.given[number]
            self._quantize_passed(given, self.main, result)
            if self._same(self.main, result, self.main, given):
                result = given
            else:
                self._requantize(self.main, result, given)
        self.variables.append((before, inner, after, result))

    def _scaled(self, edit: GraphEditor, number: int, other: GraphEditor, inner: int) -> int:
        """The tensor in the dtype and scale of another one."""
        if edit is self.main:
            tensor = edit.subgraph.tensors[number]
            data = self.model.buffers[tensor.buffer].data
            quantized = _is_quantized(self._quantization(other, inner))
            if tensor.type == _TENSOR.FLOAT32 and quantized and data is not None and len(data):
                # The converter folded what the model computes, such as zeros of a computed shape.
                value = np.frombuffer(bytes(data), np.float32)
                return self._constant(value.reshape(_shape(edit, number)), inner)
            self._quantize_passed(number, other, inner)
        if self._same(edit, number, other, inner):
            return number
        kinds = {_type(edit, number), _type(other, inner)}
        if not kinds <= {_TENSOR.INT8, _TENSOR.INT16}:
            message = "TensorFlow's converter left a part of it in float32"
            raise NoLoopError(message)
        scaled = self._like(edit, number)
        edit.subgraph.tensors[scaled].type = _type(other, inner)
        edit.subgraph.tensors[scaled].quantization = self._quantization(other, inner)
        self._requantize(edit, number, scaled)
        return scaled

    def _quantize_passed(self, number: int, other: GraphEditor, like: int) -> None:
        """Give a tensor that the converter left in float32 the dtype and scale of another one.

        The converter quantizes no input of the model that is an output as well, so that only
        copies may read it.
        """
        tensor, wanted = self.main.subgraph.tensors[number], other.subgraph.tensors[like]
        if tensor.type != _TENSOR.FLOAT32 or not _is_quantized(wanted.quantization):
            return
        copies = [op for op in self.main.subgraph.operators if number in map(int, op.inputs)]
        for passed in (number, *(int(op.outputs[0]) for op in copies)):
            found = self.main.subgraph.tensors[passed]
            found.type, found.quantization = wanted.type, wanted.quantization

    @staticmethod
    def _requantize(edit: GraphEditor, source: int, result: int) -> None:
        options = schema.QuantizeOptionsT()
        edit.insert(None, _BUILTIN.QUANTIZE, [source], result, version=2, options=options)

    def _constant(self, value: np.ndarray, like: int) -> int:
        """A constant of the model in the dtype and scale of a tensor of the body."""
        kind, quantization = _type(self.body, like), self._quantization(self.body, like)
        dtype = _DTYPES[kind]
        if _is_quantized(quantization):
            limits = np.iinfo(dtype)
            value = np.rint(value / quantization.scale[0]) + quantization.zeroPoint[0]
            value = np.clip(value, limits.min, limits.max)
        return self.main.add_constant(
            np.asarray(value).astype(dtype), np.shape(value), kind=kind, quantization=quantization
        )

    @staticmethod
    def _quantization(edit: GraphEditor, number: int) -> Any:
        return edit.subgraph.tensors[number].quantization

    @staticmethod
    def _like(edit: GraphEditor, number: int) -> int:
        tensor = edit.subgraph.tensors[number]
        new = edit.add_like(tensor, tensor.type)
        edit.subgraph.tensors[new].quantization = tensor.quantization
        return new

    def _same(self, edit: GraphEditor, number: int, other: GraphEditor, second: int) -> bool:
        if _type(edit, number) != _type(other, second):
            return False
        one, two = self._quantization(edit, number), self._quantization(other, second)
        if not (_is_quantized(one) and _is_quantized(two)):
            return True
        return bool(
            one.zeroPoint[0] == two.zeroPoint[0]
            and math.isclose(one.scale[0], two.scale[0], rel_tol=_SAME_SCALE)
        )


def _import(model: Any, step: Any, results: Sequence[int]) -> None:
    """Move the subgraph of a step into a model, without what its results do not need."""
    subgraph = step.subgraphs[0]
    needed, kept = set(results), []
    for operator in reversed(subgraph.operators):
        if needed.intersection(map(int, operator.outputs)):
            needed.update(int(number) for number in operator.inputs)
            kept.append(operator)
    subgraph.operators = kept[::-1]
    for operator in subgraph.operators:
        code = step.operatorCodes[operator.opcodeIndex]
        builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
        operator.opcodeIndex = operator_code(model, builtin, code.version)
    start = len(model.buffers)
    model.buffers += step.buffers
    for tensor in subgraph.tensors:
        tensor.buffer = tensor.buffer + start if tensor.buffer else 0


def _sort(subgraph: Any) -> None:
    """Sort operators so that each comes after those that compute its inputs."""
    operators = subgraph.operators
    producers = {int(n): i for i, operator in enumerate(operators) for n in operator.outputs}
    order: dict[int, None] = {}
    for index in range(len(operators)):
        waiting = [index]
        while waiting:
            current = waiting[-1]
            sources = {producers[int(n)] for n in operators[current].inputs if int(n) in producers}
            missing = sorted(sources - order.keys(), reverse=True)
            if missing:
                waiting += missing
            else:
                order[waiting.pop()] = None
    subgraph.operators = [operators[index] for index in order]


def _is_quantized(quantization: Any) -> bool:
    return (
        quantization is not None and quantization.scale is not None and len(quantization.scale) > 0
    )


def _shape(edit: GraphEditor, number: int) -> list[int]:
    shape = edit.subgraph.tensors[number].shape
    return [] if shape is None else [int(size) for size in shape]


def _type(edit: GraphEditor, number: int) -> int:
    return int(edit.subgraph.tensors[number].type)


def _new(edit: GraphEditor, shape: Sequence[int], kind: int) -> int:
    """Add a computed tensor."""
    number = edit.add_vector(1, kind)
    edit.subgraph.tensors[number].shape = list(shape)
    return number
