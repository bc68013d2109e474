"""The call of the TFLite converter, and what it says when it fails."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.captured_output import captured_stderr
from bilstm_exporter.errors import UnsupportedModelError, UnsupportedOperatorError

# "TF Select ops: BitwiseAnd, Foo" and "Custom ops: Bar" are how the converter lists what
# no builtin operator does.
_MISSING_AT = re.compile(r'fused\["(\w+):", callsite\("([^"@]+)')
_MISSING_OPERATORS = re.compile(r"(?:TF Select|Flex|Custom) ops: ([\w, ]+)")


@dataclass(frozen=True)
class RepresentativeDataset:
    """What the official calibrator measures the ranges of the activations on.

    Attributes:
        names: Of the inputs in the signature.
        examples: One list of arrays a run.
    """

    names: Sequence[str]
    examples: Sequence[Sequence[np.ndarray]]

    def __call__(self) -> Iterator[dict[str, np.ndarray]]:
        """The runs."""
        for arrays in self.examples:
            yield dict(zip(self.names, arrays, strict=True))


def convert_function(function: Any, calibration: RepresentativeDataset | None = None) -> bytes:
    """Convert a traced model; to integers throughout if there is a calibration.

    Raises:
        UnsupportedOperatorError: TFLite has no builtin operator for something.
        UnsupportedModelError: The converter failed for another reason.
    """
    # The converter keeps the signature only of a function that something owns.
    owner = tf.Module()
    owner.function = function
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], owner)
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
