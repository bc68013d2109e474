"""The whole way from a traced model to the bytes of ``model.onnx``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import onnx_ir as ir

from bilstm_exporter.interface import Interface
from bilstm_exporter.onnx.cleanup import clean
from bilstm_exporter.onnx.lowering import lower_markers
from bilstm_exporter.onnx.marker import DOMAIN, OP_TYPE, Markers
from bilstm_exporter.onnx.tensorflow_graph import to_onnx
from bilstm_exporter.recurrence import Lowering
from bilstm_exporter.targets import Built, target
from bilstm_runtime.manifest import Axis, InputSpec, OutputSpec


@target("onnx")
def build_onnx(trace: Callable[[Lowering], Any], interface: Interface, *, opset: int) -> Built:
    """Trace, convert, lower, clean, name."""
    markers = Markers()
    function = trace(markers.lower)
    model = to_onnx(function, opset, {OP_TYPE: markers.handle}, DOMAIN)
    forms = lower_markers(model, markers.by_token, opset)
    clean(model)
    _name_values(model.graph, interface)
    model.producer_name, model.producer_version = "bilstm-edge", ""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    return Built(proto.SerializeToString(deterministic=True), forms)


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
