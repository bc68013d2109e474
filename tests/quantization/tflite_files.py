"""Helpers for TFLite files in tests: run, inspect, and round their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.quantization.recipes import Precision
from bilstm_exporter.targets.tflite import flatbuffer, weight_storage
from bilstm_exporter.targets.tflite.graph_editor import constant, operator_name
from bilstm_exporter.targets.tflite.weights import MIN_ELEMENTS

TYPES = {code: name for name, code in vars(schema.TensorType).items() if name[0] != "_"}
WEIGHTS = {("FULLY_CONNECTED", 1), ("GATHER", 0), ("CONV_2D", 1)}


def run_tflite(
    content: bytes, *inputs: np.ndarray, delegate: bool = True, reset: bool = False
) -> list[np.ndarray]:
    """One output of a file whose inputs are in tensor order."""
    kind = OpResolverType.AUTO if delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(
        model_content=content, num_threads=1, experimental_op_resolver_type=kind
    )
    details = sorted(interpreter.get_input_details(), key=lambda item: item["index"])
    for item, array in zip(details, inputs, strict=True):
        interpreter.resize_tensor_input(item["index"], array.shape)
    interpreter.allocate_tensors()
    if reset:
        interpreter.reset_all_variables()
    for item, array in zip(details, inputs, strict=True):
        interpreter.set_tensor(item["index"], array)
    interpreter.invoke()
    return [interpreter.get_tensor(item["index"]) for item in interpreter.get_output_details()]


def readers(content: bytes) -> list[tuple[str, int, str, tuple[int, ...]]]:
    """Operator, input, type and shape of every constant that is read."""
    model = flatbuffer.read(content)
    found = []
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            for index, number in enumerate(operator.inputs):
                tensor = subgraph.tensors[number] if number >= 0 else None
                if tensor is not None and model.buffers[tensor.buffer].data is not None:
                    name = operator_name(model, operator)
                    found.append((name, index, TYPES[tensor.type], tuple(tensor.shape)))
    return found


def with_rounded_weights(content: bytes, precision: Precision, loaded: LoadedModel) -> bytes:
    """The float32 file with every weight rounded as the recipe stores it.

    Written on its own for float16 and int8: it knows of rows and steps, and nothing of the
    operators; for int4 it takes the integers, and multiplies them itself.
    """
    model = flatbuffer.read(content)
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            name = operator_name(model, operator)
            for index, number in enumerate(operator.inputs):
                tensor = subgraph.tensors[number] if number >= 0 else None
                values = None if tensor is None else constant(model, tensor)
                if values is None or values.size < MIN_ELEMENTS or (name, index) not in WEIGHTS:
                    continue
                buffer = schema.BufferT()
                rounded = np.ascontiguousarray(_rounded(values, name, precision), np.float32)
                buffer.data = np.frombuffer(rounded.tobytes(), np.uint8)
                model.buffers.append(buffer)
                tensor.buffer = len(model.buffers) - 1
    return flatbuffer.finish(model, loaded.input_names, loaded.output_names)


def _rounded(values: np.ndarray, name: str, precision: Precision) -> np.ndarray:
    if precision is Precision.FLOAT16:
        return values.astype(np.float16)
    if name == "CONV_2D":
        stored = weight_storage.store_any(values, precision)
        scale = np.moveaxis(np.ones(values.shape), stored.axis, -1) * stored.scales
        return stored.data * np.moveaxis(scale, -1, stored.axis)
    rows = values.astype(np.float64)
    if precision is Precision.INT8 and name == "GATHER":
        group = max(1, -(-128 // rows.shape[1]))
        largest = np.abs(rows).max(axis=1)
        padded = np.append(largest, np.zeros(-len(rows) % group)).reshape(-1, group)
        step = (padded.max(axis=1) / 127).astype(np.float16).astype(np.float64)
        step = np.repeat(step, group)[: len(rows), None]
        return np.clip(np.rint(rows / step), -127, 127) * step
    if precision is Precision.INT8:
        whole = (np.abs(rows).max(keepdims=True) / 127).astype(np.float32)
        off = np.rint(rows / whole) * whole - rows
        # A small matrix has one scale where that leaves a fortieth of it at most.
        serves = rows.shape[1] < 384 and np.square(off).sum() <= np.square(rows / 40).sum()
        channels = (np.abs(rows).max(axis=1, keepdims=True) / 127).astype(np.float32)
        step = whole if serves else channels
        return np.clip(np.rint(rows / step), -127, 127) * step.astype(np.float64)
    stored = (weight_storage.store_table if name == "GATHER" else weight_storage.store_matrix)(
        values, precision
    )
    return integers(stored, values.shape) * _steps(stored, values.shape)


def integers(stored: weight_storage.Stored, shape: Sequence[int]) -> np.ndarray:
    """The integers of a stored weight."""
    if stored.precision is Precision.INT8:
        return stored.data.reshape(shape)
    nibbles = np.stack([stored.data & 15, stored.data >> 4], axis=1).reshape(-1)
    signed = nibbles.astype(np.int16)
    return np.where(signed > 7, signed - 16, signed)[: int(np.prod(shape))].reshape(shape)


def _steps(stored: weight_storage.Stored, shape: Sequence[int]) -> Any:
    scales = stored.scales.astype(np.float64)
    if scales.size == 1:
        return scales
    if stored.blockwise:
        return np.repeat(scales, shape[1] // scales.shape[1], axis=1)
    return np.repeat(scales, stored.group)[: shape[0], None]
