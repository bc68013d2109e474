"""The ONNX target: converts a marked graph to the bytes of ``model.onnx``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir

from bilstm_exporter.ir.markers import MARKER_TYPE
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.quantization.recipes import Precision, PrecisionPlan
from bilstm_exporter.targets.base import Built, Calibration, RecurrenceForm, TargetOptions
from bilstm_exporter.targets.onnx.cleanup import NODE_NAME, clean
from bilstm_exporter.targets.onnx.lowering import lower_markers
from bilstm_exporter.targets.onnx.marker_nodes import DOMAIN, keep_marker
from bilstm_exporter.targets.onnx.metadata import metadata
from bilstm_exporter.targets.onnx.operators import list_operators
from bilstm_exporter.targets.onnx.tf_conversion import to_onnx
from bilstm_exporter.targets.onnx.weights import store_weights
from bilstm_exporter.targets.operators import Form, OperatorUse
from bilstm_runtime.spec import Axis, InputSpec, OutputSpec, StateSpec


@dataclass(frozen=True)
class OnnxModel:
    """A float32 ONNX model with the final names of its inputs and outputs.

    Attributes:
        content: The file's bytes.
        recurrences: How each recurrence was written.
        node_names: See `Built`.
    """

    content: bytes
    recurrences: list[RecurrenceForm]
    node_names: Mapping[str, str]

    def built(self) -> Built:
        """Return the artifact."""
        return Built(self.content, self.recurrences, node_names=self.node_names)


class OnnxTarget:
    """Builds ``model.onnx``; see `bilstm_exporter.targets.base.Target`.

    Args:
        options: The opset to use.
    """

    def __init__(self, options: TargetOptions) -> None:
        self._opset, self._forms = options.opset, options.forms
        self._float32: OnnxModel | None = None

    def build(
        self, loaded: LoadedModel, plan: PrecisionPlan, calibration: Calibration | None = None
    ) -> Built:
        """Build an artifact with the precisions of the plan; the conversion is cached."""
        del calibration  # no ONNX recipe has integer activations
        converted = self.float32(loaded)
        if plan.is_all(Precision.FLOAT32):
            return converted.built()
        model = ir.from_proto(onnx.load_model_from_string(converted.content))
        ignores_lengths = {Form.NO_LENGTHS, Form.FORWARD_ONLY} & self._forms
        weights = store_weights(model, plan, loaded.weight_owners, uses_lengths=not ignores_lengths)
        if not weights:
            return converted.built()
        return replace(converted.built(), content=_serialized(model, loaded), weights=weights)

    def operators(self, content: bytes) -> list[OperatorUse]:
        """List the operators of an artifact."""
        return list_operators(content)

    def float32(self, loaded: LoadedModel) -> OnnxModel:
        """The float32 model; converted in the first call, then cached."""
        if self._float32 is None:
            graph = loaded.marked_graph
            model = to_onnx(graph.function, self._opset, {MARKER_TYPE: keep_marker}, DOMAIN)
            forms = lower_markers(model, graph.markers, self._opset, self._forms)
            clean(model, for_tract=Form.FORWARD_ONLY in self._forms)
            _name_values(model.graph, loaded)
            names = {
                node.name: node.meta[NODE_NAME]
                for node in model.graph.all_nodes()
                if node.name and NODE_NAME in node.meta
            }
            self._float32 = OnnxModel(_serialized(model, loaded), forms, names)
        return self._float32


def _serialized(model: ir.Model, loaded: LoadedModel) -> bytes:
    model.producer_name, model.producer_version = "bilstm-edge", ""
    model.metadata_props.clear()
    model.metadata_props.update(metadata(loaded.spec))
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]  # onnxruntime infers shapes itself
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString(deterministic=True))


def _name_values(graph: ir.Graph, loaded: LoadedModel) -> None:
    """Give inputs and outputs the model's own names and axes."""
    names = {*loaded.input_names, *loaded.output_names}
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.name in names:
                value.name = f"{value.name}/inner"
    for name in names & set(graph.initializers):
        graph.initializers[name].name = f"{name}/constant"
    _name(graph.inputs, loaded.input_names, loaded.spec.file_inputs)
    _name(graph.outputs, loaded.output_names, loaded.spec.file_outputs)


def _name(
    values: Sequence[ir.Value],
    names: Sequence[str],
    specs: Sequence[InputSpec | OutputSpec | StateSpec],
) -> None:
    for value, name, spec in zip(values, names, specs, strict=True):
        value.name = name
        value.shape = ir.Shape([_dimension(axis) for axis in spec.axes])


def _dimension(axis: Axis) -> int | str | None:
    return axis.name if axis.size is None else axis.size
