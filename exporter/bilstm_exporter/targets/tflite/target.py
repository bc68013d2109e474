"""The TFLite target: converts a traced model to the bytes of ``model.tflite``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bilstm_exporter.ir.cells import Cell
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.quantization.recipes import Precision, PrecisionPlan, WeightOwners
from bilstm_exporter.targets.base import Built, Calibration, RecurrenceForm, TargetOptions
from bilstm_exporter.targets.operators import Form, OperatorUse
from bilstm_exporter.targets.tflite import flatbuffer
from bilstm_exporter.targets.tflite.bidirectional import LoopLowering
from bilstm_exporter.targets.tflite.full_integer import FullInteger
from bilstm_exporter.targets.tflite.micro_forms import write_forms
from bilstm_exporter.targets.tflite.operator_forms import TFLITE_FLOAT_FORMS, trace_and_convert
from bilstm_exporter.targets.tflite.operators import list_operators, operators_of
from bilstm_exporter.targets.tflite.tiling import has_same_tiling
from bilstm_exporter.targets.tflite.weights import store_weights

_FLOAT_BYTES, _INTEGER_BYTES = 4, 1


@dataclass(frozen=True)
class _Converted:
    """The converter's float32 file, with loops tiled for one weight size."""

    content: bytes
    cells: list[Cell]
    recurrences: list[RecurrenceForm]


class TfliteTarget:
    """Builds ``model.tflite``; see `bilstm_exporter.targets.base.Target`.

    Args:
        options: The forms that the runtimes need.
    """

    def __init__(self, options: TargetOptions) -> None:
        self._forms = options.forms
        self._converted: dict[int, _Converted] = {}

    def build(
        self, loaded: LoadedModel, plan: PrecisionPlan, calibration: Calibration | None = None
    ) -> Built:
        """Build an artifact with the precisions of the plan; conversions are cached by tiling."""
        if plan.integer_activations:
            return FullInteger(loaded, calibration or (), self._forms).build()
        converted = self.converted(loaded, _weight_bytes(plan))
        model = flatbuffer.read_converted(converted.content)
        # In float32 no precision depends on the layer of a constant.
        exact = plan.is_all(Precision.FLOAT32)
        weights = store_weights(model, plan, WeightOwners([]) if exact else loaded.weight_owners)
        write_forms(model, self._forms)
        operators, uses = flatbuffer.operators(model), tuple(operators_of(model))
        content = flatbuffer.finish(model, loaded.input_names, loaded.output_names, loaded.spec)
        return Built(
            content, converted.recurrences, weights, operators=operators, operator_uses=uses
        )

    def operators(self, content: bytes) -> list[OperatorUse]:
        """List the operators of an artifact."""
        return list_operators(content)

    def converted(self, loaded: LoadedModel, weight_bytes: int = _FLOAT_BYTES) -> _Converted:
        """The converter's float32 file, tiled for this element size of weights; cached."""
        if weight_bytes not in self._converted:
            known = self._converted.get(_FLOAT_BYTES)
            unrolled = Form.NO_LOOPS in self._forms
            same_tiling = known is not None and all(
                unrolled or has_same_tiling(cell, weight_bytes, _FLOAT_BYTES)
                for cell in known.cells
            )
            self._converted[weight_bytes] = (
                known
                if known is not None and same_tiling
                else _convert(loaded, weight_bytes, unrolled=unrolled)
            )
        return self._converted[weight_bytes]


def _weight_bytes(plan: PrecisionPlan) -> int:
    return _INTEGER_BYTES if plan.default <= Precision.INT8 else _FLOAT_BYTES


def _convert(loaded: LoadedModel, weight_bytes: int, *, unrolled: bool) -> _Converted:
    def trace() -> tuple[Any, LoopLowering]:
        lowering = LoopLowering(weight_bytes, unrolled=unrolled, usual_steps=loaded.usual_steps)
        return loaded.trace(lowering), lowering

    _, lowering, content = trace_and_convert(trace, TFLITE_FLOAT_FORMS)
    return _Converted(content, lowering.cells, lowering.forms)
