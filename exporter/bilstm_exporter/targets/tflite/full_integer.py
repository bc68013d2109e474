"""Integers from the input to the output, calibrated, for NPUs and microcontrollers.

The official converter and calibrator do it; this gives them a model they can do it with, and
mends what they leave in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from bilstm_exporter.errors import OptionError
from bilstm_exporter.inspection.interface import Interface
from bilstm_exporter.ir.recurrence import Lowering
from bilstm_exporter.targets.base import Built, RecurrenceForm, WeightForm
from bilstm_exporter.targets.tflite import flatbuffer
from bilstm_exporter.targets.tflite.converter import Calibration, convert_function
from bilstm_exporter.targets.tflite.converter_fixes import mend
from bilstm_exporter.targets.tflite.graph_editor import operator_name
from bilstm_exporter.targets.tflite.integer_recurrence import FUSED, IntegerLowering
from bilstm_exporter.targets.tflite.weights import LEAST_ELEMENTS
from bilstm_runtime.bundle.manifest import Quantization

# A range seen in n examples is left by the next one with a chance of about 2 in n + 1.
LEAST_EXAMPLES = 16


@dataclass(frozen=True)
class FullInteger:
    """A model in the form that becomes integers.

    Attributes:
        float_content: The same operators in float32: what is wrong there is wrong in structure,
            not in rounding. Its state must be reset between runs too.
        interface: Its inputs and outputs.
        recurrences: How each recurrence was written.
        examples: What the activations' ranges are measured on, one list of arrays a run.
    """

    float_content: bytes
    interface: Interface
    recurrences: list[RecurrenceForm]
    examples: list[list[np.ndarray]]
    _function: Any

    @property
    def reset_between_runs(self) -> bool:
        """Whether a run leaves something behind that the next must not see."""
        return any(form.form == FUSED for form in self.recurrences)

    def write(self) -> Built:
        """Calibrate, and write the artifact."""
        model = flatbuffer.read(
            convert_function(self._function, Calibration(self._input_names(), self.examples))
        )
        mend(model)
        weights, operators = _weights(model), flatbuffer.operators(model)
        inputs, outputs = self.interface.input_names, self.interface.output_names
        signature = model.signatureDefs[0]
        quantized = [
            _quantizations(model, maps, names)
            for maps, names in ((signature.inputs, inputs), (signature.outputs, outputs))
        ]
        content = flatbuffer.finish(model, inputs, outputs)
        return Built(
            content, self.recurrences, weights, self.reset_between_runs, operators, *quantized
        )

    def _input_names(self) -> list[str]:
        return [f"input_{index}" for index in range(len(self.interface.inputs))]


def convert_full_integer(
    trace: Callable[[Lowering], Any],
    interface: Interface,
    calibration: Iterable[Sequence[np.ndarray]],
) -> FullInteger:
    """Bring a model into the form that becomes integers.

    Args:
        trace: Traces the model with a lowering.
        interface: Names and shapes of the inputs and outputs; all of fixed size.
        calibration: Inputs in the order of the interface, ``[batch, ...]`` of its batch size.

    Raises:
        OptionError: An axis is free, or the data cannot serve.
        UnsupportedModelError: The model has no such form.
    """
    free = interface.free_axes
    if free:
        message = (
            f"int8-full needs fixed shapes, and the model's axes {', '.join(free)} are free: add "
            f"--batch 1 --time N"
        )
        raise OptionError(message)
    examples = _checked(interface, calibration)
    lowering = IntegerLowering()
    function = trace(lowering)
    read = lowering.carries_read(function.graph)
    if read:
        lowering = IntegerLowering(read)
        function = trace(lowering)
    model = flatbuffer.read(convert_function(function))
    mend(model)
    content = flatbuffer.finish(model, interface.input_names, interface.output_names)
    return FullInteger(content, interface, lowering.forms, examples, function)


def _checked(
    interface: Interface, calibration: Iterable[Sequence[np.ndarray]]
) -> list[list[np.ndarray]]:
    """Refuse data from which no ranges can be learnt."""
    examples = []
    for number, arrays in enumerate(calibration):
        if len(arrays) != len(interface.inputs):
            message = (
                f"calibration: run {number} has {len(arrays)} arrays, the model "
                f"{len(interface.inputs)} inputs"
            )
            raise OptionError(message)
        examples.append([np.asarray(array) for array in arrays])
        for array, spec in zip(examples[-1], interface.inputs, strict=True):
            shape = tuple(axis.size for axis in spec.axes)
            if array.shape != shape or array.dtype != spec.dtype:
                message = (
                    f"calibration: the input {spec.name!r} of run {number} is {array.dtype} "
                    f"{array.shape}; the model takes {spec.dtype} {shape}"
                )
                raise OptionError(message)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                message = (
                    f"calibration: the input {spec.name!r} of run {number} has NaN or infinity: "
                    f"clean the data first"
                )
                raise OptionError(message)
    count = sum(len(arrays[0]) for arrays in examples)
    if count < LEAST_EXAMPLES:
        message = (
            f"calibration: {count} examples, where at least {LEAST_EXAMPLES} are needed: with "
            f"fewer, more than one answer in ten would leave the ranges that were seen. A "
            f"hundred or more is better"
        )
        raise OptionError(message)
    return examples


def _quantizations(model: Any, maps: Any, names: Sequence[str]) -> dict[str, Quantization]:
    """How the inputs or outputs of a signature hold floats, by the model's names."""
    found = {}
    for tensor_map in maps:
        tensor = model.subgraphs[0].tensors[tensor_map.tensorIndex]
        if tensor.type == schema.TensorType.INT8:
            scale, zero_point = tensor.quantization.scale[0], tensor.quantization.zeroPoint[0]
            name = names[flatbuffer.position(tensor_map)]
            found[name] = Quantization("int8", float(scale), int(zero_point))
    return dict(sorted(found.items()))


def _weights(model: Any) -> list[WeightForm]:
    """Every matrix of integers; the converter's names do not tell the layers."""
    forms = []
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            for number in operator.inputs:
                tensor = subgraph.tensors[number] if number >= 0 else None
                if tensor is None or tensor.type != schema.TensorType.INT8:
                    continue
                data = model.buffers[tensor.buffer].data
                if data is not None and len(data) >= LEAST_ELEMENTS:
                    name = operator_name(model, operator)
                    forms.append(WeightForm("", name, len(data), "int8"))
    return forms
