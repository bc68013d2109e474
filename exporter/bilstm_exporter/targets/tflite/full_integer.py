"""Calibrated int8 from input to output, for NPUs and microcontrollers.

TensorFlow's converter and calibrator do the quantization. This module gives them a model that they
can quantize, and fixes their errors in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from bilstm_exporter.errors import OptionError, UnsupportedModelError
from bilstm_exporter.ir.markers import MARKER_TYPE, MarkedGraph, Marker
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.targets.base import Built, Calibration, WeightForm
from bilstm_exporter.targets.operators import Form
from bilstm_exporter.targets.tflite import flatbuffer
from bilstm_exporter.targets.tflite.converter import (
    RepresentativeDataset,
    convert_function,
    fix_converted,
)
from bilstm_exporter.targets.tflite.graph_editor import operator_name
from bilstm_exporter.targets.tflite.integer_lowering import FUSED, IntegerLowering
from bilstm_exporter.targets.tflite.loop_splicing import splice_loops
from bilstm_exporter.targets.tflite.micro_forms import write_forms
from bilstm_exporter.targets.tflite.operator_forms import TFLITE_FORMS, trace_and_convert
from bilstm_exporter.targets.tflite.operators import operators_of
from bilstm_exporter.targets.tflite.step_loops import LoopSite, NoLoopError, trajectories
from bilstm_exporter.targets.tflite.weights import MIN_ELEMENTS
from bilstm_runtime.bundle.manifest import Quantization
from bilstm_runtime.spec import InputSpec

# After n examples, the next one exceeds the measured range with probability 2 / (n + 1).
MIN_EXAMPLES = 16
_NO_LOOPS = "no loop, because a runtime of --target takes none"


class FullInteger:
    """Builds the int8-full artifact of a model.

    Args:
        loaded: The model; all axes must be fixed.
        calibration: For each run the inputs ``[batch, ...]`` in file order, of the model's batch
            size.
        forms: The forms that the runtimes need.

    Raises:
        OptionError: An axis is free, or the data is unusable.
    """

    def __init__(
        self, loaded: LoadedModel, calibration: Calibration, forms: AbstractSet[Form] = frozenset()
    ) -> None:
        free = loaded.free_axes
        if free:
            message = (
                f"int8-full needs fixed shapes, and the model's axes {', '.join(free)} are free: "
                f"{loaded.fixing_advice(free)}"
            )
            raise OptionError(message)
        self._names = loaded.input_names, loaded.output_names
        self._runtime_forms = forms
        self._spec = loaded.spec
        self._examples = _checked(loaded.call_inputs, calibration)
        self._loaded, self._carries = loaded, _read_carries(loaded.first_graph)
        try:
            self._trace(_NO_LOOPS if Form.NO_LOOPS in forms else "")
        except NoLoopError as error:
            self._trace(f"no loop, because {error}")

    def _trace(self, why_unrolled: str) -> None:
        """Trace the model, and convert its parts to float32.

        Raises:
            NoLoopError: A recurrence cannot become a loop.
        """

        def trace() -> tuple[Any, tuple[IntegerLowering, list[LoopSite]]]:
            lowering = IntegerLowering(self._carries, why_unrolled)
            function, sites = lowering.markers.cut(self._loaded.trace(lowering), lowering)
            return function, (lowering, sites)

        self._function, (lowering, self._sites), self._float_content = trace_and_convert(
            trace, TFLITE_FORMS
        )
        self._forms = lowering.forms
        self._float_steps = [_converted_step(site.loop.step) for site in self._sites]

    def build(self) -> Built:
        """Calibrate, and build the artifact and its float form.

        Raises:
            UnsupportedModelError: The model cannot be written in integers.
        """
        try:
            model = self._assembled(*self._quantized())
        except NoLoopError as error:
            self._trace(f"no loop, because {error}")
            model = self._assembled(*self._quantized())
        weights, operators = _weights(model), flatbuffer.operators(model)
        uses = tuple(operators_of(model))
        signature = model.signatureDefs[0]
        inputs, outputs = (
            _quantizations(model, maps, names)
            for maps, names in zip((signature.inputs, signature.outputs), self._names, strict=True)
        )
        return Built(
            flatbuffer.finish(model, *self._names, self._spec),
            self._forms,
            weights,
            reset_between_runs=self._resets,
            operators=operators,
            operator_uses=uses,
            quantized_inputs=inputs,
            quantized_outputs=outputs,
            float_form=self._float_form(),
        )

    def _quantized(self) -> tuple[bytes, list[bytes]]:
        """The model without its loops, and the step of each, in integers."""
        inputs, calls = trajectories(
            self._sites, self._float_content, self._float_steps, self._examples
        )
        steps = [
            _converted_step(site.loop.tied_step, _dataset(seen))
            for site, seen in zip(self._sites, calls, strict=True)
        ]
        return convert_function(self._function, _dataset(inputs)), steps

    @property
    def _resets(self) -> bool:
        """Whether a run leaves state in variables, as the fused LSTM does."""
        return any(form.form == FUSED for form in self._forms)

    def _float_form(self) -> Built:
        model = self._assembled(self._float_content, self._float_steps)
        content = flatbuffer.finish(model, *self._names)
        return Built(content, self._forms, reset_between_runs=self._resets)

    def _assembled(self, content: bytes, steps: Sequence[bytes]) -> Any:
        """The model with its loops, with the converter's errors fixed."""
        own = len(self._names[0]), len(self._names[1])
        model = flatbuffer.read_converted(content, own)
        splice_loops(model, self._sites, [flatbuffer.read_converted(step) for step in steps], own)
        fix_converted(model)
        write_forms(model, self._runtime_forms)
        return model


def _converted_step(step: Any, calibration: RepresentativeDataset | None = None) -> bytes:
    try:
        return convert_function(step, calibration)
    except UnsupportedModelError as error:
        message = "TensorFlow's converter refuses one step of it"
        raise NoLoopError(message) from error


def _dataset(examples: Sequence[Sequence[np.ndarray]]) -> RepresentativeDataset:
    return RepresentativeDataset([f"input_{i}" for i in range(len(examples[0]))], examples)


def _read_carries(graph: MarkedGraph) -> frozenset[int]:
    """The LSTMs, counted from 0, whose final cell state something in the model reads."""
    tokens = [token for token, one in graph.markers.items() if isinstance(one, Marker)]
    read = set()
    for operation in graph.function.graph.get_operations():
        if operation.type == MARKER_TYPE:
            token = operation.get_attr("token").decode()
            if token not in tokens:
                continue  # a loop of a layer's own code
            number = tokens.index(token)
            # Each output of a marker is read by one EnsureShape.
            shaped = [reader.outputs[0] for reader in operation.outputs[-1].consumers()]
            if any(tensor.consumers() for tensor in shaped):
                read.add(number)
    return frozenset(read)


def _checked(inputs: Sequence[InputSpec], calibration: Calibration) -> list[list[np.ndarray]]:
    """Check the calibration data.

    Raises:
        OptionError: An array has the wrong shape, dtype or values, or there are too few examples.
    """
    examples = []
    for number, arrays in enumerate(calibration):
        if len(arrays) != len(inputs):
            message = (
                f"calibration: run {number} has {len(arrays)} arrays, the model {len(inputs)} "
                f"inputs"
            )
            raise OptionError(message)
        examples.append([np.asarray(array) for array in arrays])
        for array, spec in zip(examples[-1], inputs, strict=True):
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
    if count < MIN_EXAMPLES:
        message = (
            f"calibration: {count} examples; at least {MIN_EXAMPLES} are needed. With fewer, more "
            f"than one output in ten would exceed the measured ranges. A hundred or more is better"
        )
        raise OptionError(message)
    return examples


def _quantizations(model: Any, maps: Any, names: Sequence[str]) -> dict[str, Quantization]:
    """The quantization of a signature's int8 inputs or outputs, by the model's names."""
    quantizations = {}
    for tensor_map in maps:
        tensor = model.subgraphs[0].tensors[tensor_map.tensorIndex]
        if tensor.type == schema.TensorType.INT8:
            scale, zero_point = tensor.quantization.scale[0], tensor.quantization.zeroPoint[0]
            name = names[flatbuffer.position(tensor_map)]
            quantizations[name] = Quantization("int8", float(scale), int(zero_point))
    return dict(sorted(quantizations.items()))


def _weights(model: Any) -> list[WeightForm]:
    """Report every int8 constant; the converter's names do not identify the layers."""
    forms = []
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            for number in operator.inputs:
                tensor = subgraph.tensors[number] if number >= 0 else None
                if tensor is None or tensor.type != schema.TensorType.INT8:
                    continue
                data = model.buffers[tensor.buffer].data
                if data is not None and len(data) >= MIN_ELEMENTS:
                    name = operator_name(model, operator)
                    forms.append(WeightForm("", name, len(data), "int8"))
    return forms
