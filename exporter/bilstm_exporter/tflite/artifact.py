"""The whole way from a traced model to the bytes of ``model.tflite``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from bilstm_exporter.errors import UnsupportedModelError, UnsupportedOperatorError
from bilstm_exporter.interface import Interface
from bilstm_exporter.quiet import captured_stderr
from bilstm_exporter.quantization.owners import Owners
from bilstm_exporter.recipes import PrecisionPlan
from bilstm_exporter.recurrence import Lowering, Recurrence, RecurrenceResult
from bilstm_exporter.targets import Built, RecurrenceForm, target
from bilstm_exporter.tflite import flatbuffer, loop
from bilstm_exporter.tflite.quantize import store_weights

# "TF Select ops: BitwiseAnd, Foo" and "Custom ops: Bar" are how the converter lists what
# no builtin operator does.
_MISSING_AT = re.compile(r'fused\["(\w+):", callsite\("([^"@]+)')
_MISSING_OPERATORS = re.compile(r"(?:TF Select|Flex|Custom) ops: ([\w, ]+)")


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
        content = flatbuffer.finish(
            model, self.interface.input_names, self.interface.output_names
        )
        return Built(content, self.recurrences, weights)


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

    return TfliteConversion(_convert(trace(lower)), interface, forms)


def _convert(function: Any) -> bytes:
    """Convert a traced model.

    Raises:
        UnsupportedOperatorError: TFLite has no builtin operator for something.
        UnsupportedModelError: The converter failed for another reason.
    """
    # The converter keeps the signature only of a function that something owns.
    owner = tf.Module()
    owner.function = function
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], owner)
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
