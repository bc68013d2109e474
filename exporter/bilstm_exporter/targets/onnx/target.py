"""The whole way from a traced model to the bytes of ``model.onnx``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir

from bilstm_exporter.inspection.interface import Interface
from bilstm_exporter.ir.markers import DOMAIN, OP_TYPE, Markers
from bilstm_exporter.ir.recurrence import Lowering
from bilstm_exporter.quantization.recipes import PrecisionPlan
from bilstm_exporter.quantization.weight_owners import Owners
from bilstm_exporter.targets.base import Built, RecurrenceForm, target
from bilstm_exporter.targets.onnx.cleanup import clean
from bilstm_exporter.targets.onnx.lowering import lower_markers
from bilstm_exporter.targets.onnx.tf_conversion import to_onnx
from bilstm_exporter.targets.onnx.weights import store_weights
from bilstm_runtime.spec import Axis, InputSpec, OutputSpec


@dataclass(frozen=True)
class OnnxConversion:
    """A model in ONNX, all float32, with the names of the interface.

    Attributes:
        content: The file's bytes.
        recurrences: How each recurrence was written.
    """

    content: bytes
    recurrences: list[RecurrenceForm]

    def write(self, plan: PrecisionPlan, owners: Owners) -> Built:
        """Write the artifact with these precisions; see ``Conversion``."""
        model = ir.from_proto(onnx.load_model_from_string(self.content))
        weights = store_weights(model, plan, owners)
        if not weights:
            return Built(self.content, self.recurrences)
        return Built(_serialized(model), self.recurrences, weights)


@target("onnx")
def convert_onnx(
    trace: Callable[[Lowering], Any], interface: Interface, *, opset: int
) -> OnnxConversion:
    """Trace, convert, lower, clean, name."""
    markers = Markers()
    function = trace(markers.lower)
    model = to_onnx(function, opset, {OP_TYPE: markers.handle}, DOMAIN)
    forms = lower_markers(model, markers.by_token, opset)
    clean(model)
    _name_values(model.graph, interface)
    return OnnxConversion(_serialized(model), forms)


def _serialized(model: ir.Model) -> bytes:
    model.producer_name, model.producer_version = "bilstm-edge", ""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]  # onnxruntime infers them anyway
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString(deterministic=True))


def _name_values(graph: ir.Graph, interface: Interface) -> None:
    """Give inputs and outputs the model's own names and axes."""
    names = {*interface.input_names, *interface.output_names}
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.name in names:
                value.name = f"{value.name}/inner"
    for name in names & set(graph.initializers):
        graph.initializers[name].name = f"{name}/constant"
    _name(graph.inputs, interface.input_names, interface.inputs)
    _name(graph.outputs, interface.output_names, interface.outputs)


def _name(
    values: Sequence[ir.Value], names: Sequence[str], specs: Sequence[InputSpec | OutputSpec]
) -> None:
    for value, name, spec in zip(values, names, specs, strict=True):
        value.name = name
        value.shape = ir.Shape([_dimension(axis) for axis in spec.axes])


def _dimension(axis: Axis) -> int | str | None:
    return axis.name if axis.size is None else axis.size
