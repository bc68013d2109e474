"""The whole way from a traced model to the bytes of ``model.tflite``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bilstm_exporter.inspection.interface import Interface
from bilstm_exporter.ir.recurrence import Cell, Lowering, Recurrence, RecurrenceResult
from bilstm_exporter.quantization.recipes import Precision, PrecisionPlan
from bilstm_exporter.quantization.weight_owners import Owners
from bilstm_exporter.targets.base import Built, RecurrenceForm, target
from bilstm_exporter.targets.tflite import flatbuffer
from bilstm_exporter.targets.tflite.bidirectional import Pairing
from bilstm_exporter.targets.tflite.converter import convert_function
from bilstm_exporter.targets.tflite.tiling import is_cut_alike
from bilstm_exporter.targets.tflite.weights import store_weights

_FLOAT_BYTES, _INTEGER_BYTES = 4, 1


class TfliteConversion:
    """A model in float32, with loops cut up for the size of the weights they compute with.

    Args:
        trace: Traces the model with a lowering.
        interface: Its inputs and outputs.
    """

    def __init__(self, trace: Callable[[Lowering], Any], interface: Interface) -> None:
        self._trace, self._interface = trace, interface
        self._cells: list[Cell] = []
        self.recurrences: list[RecurrenceForm] = []
        self._converted = {_FLOAT_BYTES: self._convert(_FLOAT_BYTES)}

    @property
    def content(self) -> bytes:
        """The float32 file as the converter left it."""
        return self._converted[_FLOAT_BYTES]

    def write(self, plan: PrecisionPlan, owners: Owners) -> Built:
        """Write the artifact with these precisions; see ``Conversion``."""
        integers = plan.default <= Precision.INT8
        model = flatbuffer.read(self._content(_INTEGER_BYTES if integers else _FLOAT_BYTES))
        weights = store_weights(model, plan, owners)
        operators = flatbuffer.operators(model)
        names = self._interface.input_names, self._interface.output_names
        content = flatbuffer.finish(model, *names)
        return Built(content, self.recurrences, weights, operators=operators)

    def _content(self, weight_bytes: int) -> bytes:
        """The file as the converter left it."""
        if weight_bytes not in self._converted:
            same = all(is_cut_alike(cell, weight_bytes, _FLOAT_BYTES) for cell in self._cells)
            self._converted[weight_bytes] = (
                self._converted[_FLOAT_BYTES] if same else self._convert(weight_bytes)
            )
        return self._converted[weight_bytes]

    def _convert(self, weight_bytes: int) -> bytes:
        cells: list[Cell] = []
        forms: list[RecurrenceForm] = []

        pairing = Pairing(weight_bytes)

        def lower(
            recurrence: Recurrence, sequences: Any, initial_state: Sequence[Any], mask: Any
        ) -> RecurrenceResult:
            cells.append(recurrence.cell)
            forms.append(RecurrenceForm(recurrence.layer, "loop"))
            return pairing(recurrence, sequences, initial_state, mask)

        function = self._trace(lower)
        self._cells, self.recurrences = cells, forms
        return convert_function(function)


@target("tflite")
def convert_tflite(
    trace: Callable[[Lowering], Any], interface: Interface, *, opset: int = 0
) -> TfliteConversion:
    """Trace, convert."""
    del opset  # ONNX's
    return TfliteConversion(trace, interface)
