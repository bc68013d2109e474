"""The whole way from a traced model to the bytes of ``model.tflite``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bilstm_exporter.interface import Interface
from bilstm_exporter.quantization.owners import Owners
from bilstm_exporter.recipes import PrecisionPlan
from bilstm_exporter.recurrence import Lowering, Recurrence, RecurrenceResult
from bilstm_exporter.targets import Built, RecurrenceForm, target
from bilstm_exporter.tflite import flatbuffer, loop
from bilstm_exporter.tflite.conversion import convert_function
from bilstm_exporter.tflite.quantize import store_weights


@dataclass(frozen=True)
class TfliteConversion:
    """A model as the TFLite converter left it, all float32.

    Attributes:
        content: The file's bytes.
        interface: Its inputs and outputs.
        recurrences: How each recurrence was written.
    """

    content: bytes
    interface: Interface
    recurrences: list[RecurrenceForm]

    def write(self, plan: PrecisionPlan, owners: Owners) -> Built:
        """Write the artifact with these precisions; see ``Conversion``."""
        model = flatbuffer.read(self.content)
        weights = store_weights(model, plan, owners)
        operators = flatbuffer.operators(model)
        content = flatbuffer.finish(model, self.interface.input_names, self.interface.output_names)
        return Built(content, self.recurrences, weights, operators=operators)


@target("tflite")
def convert_tflite(
    trace: Callable[[Lowering], Any], interface: Interface, *, opset: int = 0
) -> TfliteConversion:
    """Trace, convert."""
    del opset  # ONNX's
    forms: list[RecurrenceForm] = []

    def lower(
        recurrence: Recurrence, sequences: Any, initial_state: Sequence[Any], mask: Any
    ) -> RecurrenceResult:
        forms.append(RecurrenceForm(recurrence.layer, "loop"))
        return loop.lower(recurrence, sequences, initial_state, mask)

    return TfliteConversion(convert_function(trace(lower)), interface, forms)
