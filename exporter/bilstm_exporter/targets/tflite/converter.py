"""Calls the TFLite converter, explains its errors, and fixes the int8 files it writes."""

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

# The converter lists operators without a builtin form as "TF Select ops: BitwiseAnd, Foo" and
# "Custom ops: Bar".
_MISSING_AT = re.compile(r'fused\["(\w+):", callsite\("([^"@]+)')
_MISSING_OPERATORS = re.compile(r"(?:TF Select|Flex|Custom) ops: ([\w, ]+)")


@dataclass(frozen=True)
class RepresentativeDataset:
    """The inputs on which TensorFlow's calibrator measures the ranges of the activations.

    Attributes:
        names: The input names in the signature.
        examples: One list of arrays per run.
    """

    names: Sequence[str]
    examples: Sequence[Sequence[np.ndarray]]

    def __call__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield the inputs of each run by name."""
        for arrays in self.examples:
            yield dict(zip(self.names, arrays, strict=True))


def convert_function(function: Any, calibration: RepresentativeDataset | None = None) -> bytes:
    """Convert a traced model; with a calibration, to int8 throughout.

    Args:
        function: A ``tf.ConcreteFunction``.
        calibration: The calibration inputs, or None for a float32 file.

    Raises:
        UnsupportedOperatorError: TFLite has no builtin operator for a TensorFlow operator.
        UnsupportedModelError: The converter failed for another reason.
    """
    # The converter keeps the signature only if a module owns the function.
    owner = tf.Module()
    owner.function = function
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], owner)
    converter.exclude_conversion_metadata = True  # `flatbuffer.finish` would remove it
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
    # Errors of the converter's C++ code have one of these types.
    except (RuntimeError, ValueError, TypeError, tf.errors.OpError) as error:
        raise _explained(log, error) from error
    except Exception as error:
        if type(error).__name__ != "ConverterError":  # the class has no public name
            raise
        raise _explained(log, error) from error


def _explained(log: str, error: Exception) -> UnsupportedModelError:
    message = f"{log}\n{error}"
    match = _MISSING_OPERATORS.search(message)
    if match:
        places = dict(_MISSING_AT.findall(message))
        operators = {name: places.get(name, "") for name in match[1].split(", ")}
        return UnsupportedOperatorError(operators, format_name="tflite")
    found = _MISSING_AT.findall(message)
    if found:  # the operator at which the converter failed
        return UnsupportedOperatorError(dict(found[:1]), format_name="tflite")
    lines = [line for line in message.splitlines() if "error:" in line] or message.splitlines()
    return UnsupportedModelError(
        f"the TFLite converter refused the model: {lines[-1][-500:]}. "
        f"Use --formats onnx to skip this format"
    )


_BUILTIN = schema.BuiltinOperator
_TENSOR = schema.TensorType
# Input indices and an intermediate index of the fused LSTM.
_STATE, _CELL, _HIDDEN = 18, 19, 4
# The kernel takes tanh of a cell state with 0 to 6 bits before the point; for any other number it
# computes nothing (PortableApplyTanh in
# tensorflow/lite/kernels/internal/reference/portable_tensor_utils.cc).
_MIN_CELL_SCALE, _MAX_CELL_SCALE = 2.0**-15, 2.0**-9
_COMPARISONS = ("EQUAL", "NOT_EQUAL")
# Operators that move integers without rescaling, and the indices of the moved inputs.
_MOVED_INPUTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(
        ("REVERSE_V2", "GATHER", "GATHER_ND", "RESHAPE", "STRIDED_SLICE", "SLICE", "TRANSPOSE",
         "SQUEEZE", "EXPAND_DIMS", "UNPACK", "SPLIT_V", "TILE", "BROADCAST_TO", "PAD",
         "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "MAX_POOL_2D", "REDUCE_MAX", "REDUCE_MIN"),
        (0,),
    ),
    "SPLIT": (1,),
    "SELECT_V2": (1, 2),
}  # fmt: skip
_JOINING_OPERATORS = ("PACK", "CONCATENATION")


def fix_converted(model: Any) -> None:
    """Fix errors of the converter in an int8 model, in place.

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
                _compare_in_integers(edit, operator)
            elif name == "DIV":
                _keep_divisor_from_zero(edit, operator)
        for operator in list(subgraph.operators):
            name = operator_name(model, operator)
            if name in _JOINING_OPERATORS:
                _rescale(edit, operator, range(len(operator.inputs)))
            elif name in _MOVED_INPUTS:
                _rescale(edit, operator, _MOVED_INPUTS[name])
        _refuse_zero_activations(subgraph.tensors)


def _fix_lstm(tensors: Any, operator: Any) -> None:
    """Correct the clip and the scale of the cell state, and the scale of the hidden state.

    The converter clips the cell state at 10, but larger values occur. A cell whose values stay
    below 0.5 or exceed 64 gets a scale for which the operator's tanh is wrong; above 64, where
    tanh is 1, the cell state then saturates. If a concatenation follows, as in every
    Bidirectional, the converter gives the output the scale of the concatenation, but the operator
    writes it in the scale of its hidden state.
    """
    operator.builtinOptions.cellClip = 0.0
    output = tensors[operator.outputs[0]]
    if output.type != _TENSOR.INT8:
        return
    cell = tensors[operator.inputs[_CELL]].quantization
    scale = np.clip(cell.scale[0], _MIN_CELL_SCALE, _MAX_CELL_SCALE)
    cell.scale = np.array([scale], np.float32)
    tensors[operator.inputs[_STATE]].quantization = output.quantization
    tensors[operator.intermediates[_HIDDEN]].quantization = output.quantization


def _rescale(edit: GraphEditor, operator: Any, inputs: Iterable[int]) -> None:
    """Insert QUANTIZE if the outputs of a moving operator have another scale than its inputs.

    The converter writes such operators, for example between the backward layer of a Bidirectional
    and the following concatenation.
    """
    tensors, operators = edit.subgraph.tensors, edit.subgraph.operators
    moved = [index for index in inputs if tensors[operator.inputs[index]].type == _TENSOR.INT8]
    if not moved or tensors[operator.outputs[0]].type != _TENSOR.INT8:
        return
    if len(moved) > 1:
        target = tensors[operator.outputs[0]].quantization
        for index in moved:
            number = operator.inputs[index]
            if not _same_scale(tensors[number].quantization, target):
                scaled = edit.add_like(tensors[number], _TENSOR.INT8)
                tensors[scaled].quantization = target
                _requantize(edit, operator, number, scaled)
                operator.inputs[index] = scaled
        return
    source = tensors[operator.inputs[moved[0]]].quantization
    for index, number in enumerate(operator.outputs):
        if not _same_scale(source, tensors[number].quantization):
            plain = edit.add_like(tensors[number], _TENSOR.INT8)
            tensors[plain].quantization = source
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


def _compare_in_integers(edit: GraphEditor, operator: Any) -> None:
    """Compare with a constant in int8 instead of float.

    The converter leaves a float comparison. A dequantized input rarely equals a mask value such as
    -1 exactly, so that comparison would find no padding.
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


def _keep_divisor_from_zero(edit: GraphEditor, operator: Any) -> None:
    """Divide by one step instead of 0, where LiteRT fails.

    The mean over the steps of a row divides by their number, which is 0 if all are padding. Keras
    then returns NaN, which integers cannot hold.
    """
    divisor = edit.subgraph.tensors[operator.inputs[1]]
    low = np.iinfo(np.int8).min
    if divisor.type != _TENSOR.INT8 or divisor.quantization.zeroPoint[0] != low:
        return  # it may be negative
    if edit.model.buffers[divisor.buffer].data is not None:
        return
    least = edit.add_constant(np.array(low + 1, np.int8), [], quantization=divisor.quantization)
    above = edit.add_like(divisor, _TENSOR.INT8)
    edit.subgraph.tensors[above].quantization = divisor.quantization
    options = schema.MaximumMinimumOptionsT()
    inputs = [int(operator.inputs[1]), least]
    edit.insert(operator, _BUILTIN.MAXIMUM, inputs, above, version=2, options=options)
    operator.inputs = [operator.inputs[0], above]


def _refuse_zero_activations(tensors: Any) -> None:
    """Refuse zero and subnormal scales, which activations of zeros have.

    Raises:
        UnsupportedModelError: A scale is zero, subnormal or not finite.
    """
    min_scale = np.finfo(np.float32).tiny
    for tensor in tensors:
        quantization = tensor.quantization
        if quantization is None or quantization.scale is None:
            continue
        scales = np.asarray(quantization.scale)
        if not (np.isfinite(scales) & (scales >= min_scale)).all():
            message = (
                "int8-full: an activation is zero in every calibration example, so that it has "
                "no scale: a layer before it has zero weights, or the data does not activate it. "
                "Use other calibration data, remove the layer, or use the recipe int8"
            )
            raise UnsupportedModelError(message)
