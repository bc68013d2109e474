"""The call of the TFLite converter, its errors in plain words, and fixes of its integer files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from bilstm_exporter.errors import UnsupportedModelError, UnsupportedOperatorError
from bilstm_exporter.progress import captured_stderr
from bilstm_exporter.targets.tflite.graph_editor import GraphEditor, constant, operator_name
from bilstm_exporter.targets.tflite.integer_lowering import FUSED

# "TF Select ops: BitwiseAnd, Foo" and "Custom ops: Bar" are how the converter lists what
# no builtin operator does.
_MISSING_AT = re.compile(r'fused\["(\w+):", callsite\("([^"@]+)')
_MISSING_OPERATORS = re.compile(r"(?:TF Select|Flex|Custom) ops: ([\w, ]+)")


@dataclass(frozen=True)
class RepresentativeDataset:
    """What the official calibrator measures the ranges of the activations on.

    Attributes:
        names: Of the inputs in the signature.
        examples: One list of arrays a run.
    """

    names: Sequence[str]
    examples: Sequence[Sequence[np.ndarray]]

    def __call__(self) -> Iterator[dict[str, np.ndarray]]:
        """The runs."""
        for arrays in self.examples:
            yield dict(zip(self.names, arrays, strict=True))


def convert_function(function: Any, calibration: RepresentativeDataset | None = None) -> bytes:
    """Convert a traced model; to integers throughout if there is a calibration.

    Raises:
        UnsupportedOperatorError: TFLite has no builtin operator for something.
        UnsupportedModelError: The converter failed for another reason.
    """
    # The converter keeps the signature only of a function that something owns.
    owner = tf.Module()
    owner.function = function
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], owner)
    if calibration is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = calibration
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    log = ""
    try:
        with captured_stderr() as read_log:
            try:
                return bytes(converter.convert())
            finally:
                log = read_log()
    # Whatever fails in the converter's C++ comes out as one of these.
    except (RuntimeError, ValueError, TypeError, tf.errors.OpError) as error:
        raise _explained(log, error) from error
    except Exception as error:
        if type(error).__name__ != "ConverterError":  # it has no public name
            raise
        raise _explained(log, error) from error


def _explained(log: str, error: Exception) -> UnsupportedModelError:
    message = f"{log}\n{error}"
    found = _MISSING_OPERATORS.search(message)
    if found:
        places = dict(_MISSING_AT.findall(message))
        operators = {name: places.get(name, "") for name in found[1].split(", ")}
        return UnsupportedOperatorError(operators, format_name="tflite")
    if "TensorList" in message:
        return UnsupportedModelError(
            "a layer of the model loops over time by itself, collecting its steps in a TensorArray "
            "(keras.ops.scan, keras.ops.map, tf.while_loop), which TFLite cannot hold with free "
            "axes: write the step as a cell and run it in keras.layers.RNN, or fix the shapes with "
            "--batch and --time"
        )
    lines = [line for line in message.splitlines() if "error:" in line] or message.splitlines()
    return UnsupportedModelError(
        f"the TFLite converter refused the model: {lines[-1][-500:]}. "
        f"--formats onnx leaves this format out"
    )


_BUILTIN = schema.BuiltinOperator
_TENSOR = schema.TensorType
_STATE, _HIDDEN = 18, 4  # input and intermediate of the fused LSTM
_COMPARISONS = ("EQUAL", "NOT_EQUAL")
# Operators that move integers about, and which of their inputs; they know nothing of scales.
_MOVING: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(
        ("REVERSE_V2", "GATHER", "GATHER_ND", "RESHAPE", "STRIDED_SLICE", "SLICE", "TRANSPOSE",
         "SQUEEZE", "EXPAND_DIMS", "UNPACK", "SPLIT_V", "TILE", "BROADCAST_TO", "PAD",
         "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "MAX_POOL_2D", "REDUCE_MAX", "REDUCE_MIN"),
        (0,),
    ),
    "SPLIT": (1,),
    "SELECT_V2": (1, 2),
}  # fmt: skip
_JOINING = ("PACK", "CONCATENATION")


def fix_converted(model: Any) -> None:
    """Fix what the converter leaves wrong in a model of integers, in place.

    Raises:
        UnsupportedModelError: An activation has no scale.
    """
    for subgraph in model.subgraphs:
        edit = GraphEditor(model, subgraph)
        for operator in list(subgraph.operators):
            name = operator_name(model, operator)
            if name == FUSED:
                _fix_lstm(subgraph.tensors, operator)
            elif name in _COMPARISONS:
                _compare_integers(edit, operator)
        for operator in list(subgraph.operators):
            name = operator_name(model, operator)
            if name in _JOINING:
                _rescale(edit, operator, range(len(operator.inputs)))
            elif name in _MOVING:
                _rescale(edit, operator, _MOVING[name])
        _refuse_dead(subgraph.tensors)


def _fix_lstm(tensors: Any, operator: Any) -> None:
    """No clip of the cell, and one scale for the hidden state and the output.

    The converter clips cells at 10, though larger ones occur. And where a concatenation
    follows, as in every Bidirectional, it gives the output the scale of all that is
    concatenated, but the operator goes on to write the output in the scale of its state.
    """
    operator.builtinOptions.cellClip = 0.0
    output = tensors[operator.outputs[0]]
    if output.type != _TENSOR.INT8:
        return
    tensors[operator.inputs[_STATE]].quantization = output.quantization
    tensors[operator.intermediates[_HIDDEN]].quantization = output.quantization


def _rescale(edit: GraphEditor, operator: Any, inputs: Iterable[int]) -> None:
    """Where an operator that moves integers has outputs of another scale than its inputs.

    The converter leaves that, for example, between the backward layer of a Bidirectional
    and the concatenation after it.
    """
    tensors, operators = edit.subgraph.tensors, edit.subgraph.operators
    moved = [index for index in inputs if tensors[operator.inputs[index]].type == _TENSOR.INT8]
    if not moved or tensors[operator.outputs[0]].type != _TENSOR.INT8:
        return
    if len(moved) > 1:
        wanted = tensors[operator.outputs[0]].quantization
        for index in moved:
            number = operator.inputs[index]
            if not _same_scale(tensors[number].quantization, wanted):
                scaled = edit.add_like(tensors[number], _TENSOR.INT8)
                tensors[scaled].quantization = wanted
                _requantize(edit, operator, number, scaled)
                operator.inputs[index] = scaled
        return
    given = tensors[operator.inputs[moved[0]]].quantization
    for index, number in enumerate(operator.outputs):
        if not _same_scale(given, tensors[number].quantization):
            plain = edit.add_like(tensors[number], _TENSOR.INT8)
            tensors[plain].quantization = given
            operator.outputs[index] = plain
            after = (
                operators[operators.index(operator) + 1] if operator is not operators[-1] else None
            )
            _requantize(edit, after, plain, number)


def _requantize(edit: GraphEditor, before: Any, source: int, result: int) -> None:
    options = schema.QuantizeOptionsT()
    edit.insert(before, _BUILTIN.QUANTIZE, [source], result, version=2, options=options)


def _same_scale(one: Any, other: Any) -> bool:
    return bool(one.scale[0] == other.scale[0] and one.zeroPoint[0] == other.zeroPoint[0])


def _compare_integers(edit: GraphEditor, operator: Any) -> None:
    """A comparison with a constant, in the integers of the other side.

    A mask value such as -1 is none of the numbers that a quantized input can have, so that
    the float comparison, which the converter leaves, would find no padding at all.
    """
    tensors, operators = edit.subgraph.tensors, edit.subgraph.operators
    for side in (0, 1):
        values = constant(edit.model, tensors[operator.inputs[side]])
        source = next(
            (item for item in operators if operator.inputs[1 - side] in item.outputs), None
        )
        if values is None or source is None or operator_name(edit.model, source) != "DEQUANTIZE":
            continue
        quantized = tensors[source.inputs[0]]
        if quantized.type != _TENSOR.INT8:
            continue
        scale, zero = quantized.quantization.scale[0], quantized.quantization.zeroPoint[0]
        integers = np.clip(np.rint(values / scale) + zero, -128, 127).astype(np.int8)
        number = edit.add_constant(integers, integers.shape, quantization=quantized.quantization)
        inputs = [source.inputs[0], number]
        operator.inputs = inputs if side else inputs[::-1]
        if not any(source.outputs[0] in item.inputs for item in operators):
            edit.subgraph.operators = [item for item in operators if item is not source]
        return


def _refuse_dead(tensors: Any) -> None:
    """Refuse scales that no arithmetic holds: of an activation that was zero throughout.

    Raises:
        UnsupportedModelError: There is one.
    """
    least = np.finfo(np.float32).tiny
    for tensor in tensors:
        quantization = tensor.quantization
        if quantization is None or quantization.scale is None:
            continue
        scales = np.asarray(quantization.scale)
        if not (np.isfinite(scales) & (scales >= least)).all():
            message = (
                "int8-full: an activation is zero in every calibration example, so that it has "
                "no scale: a layer before it has weights of zeros, or the data leaves it dead. "
                "Calibrate with data that moves it, take the layer out, or use the recipe int8"
            )
            raise UnsupportedModelError(message)
