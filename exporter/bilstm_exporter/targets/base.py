"""The contract of a format: one call that builds a file of a loaded model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.quantization.recipes import PrecisionPlan
from bilstm_runtime.bundle.manifest import Quantization


@dataclass(frozen=True)
class RecurrenceForm:
    """How one recurrence was written.

    Attributes:
        layer: The layer's name.
        form: What stands in the artifact, such as ``"LSTM"`` or ``"Scan"``.
        reason: Why not the fastest form that the format has, or "".
    """

    layer: str
    form: str
    reason: str = ""


@dataclass(frozen=True)
class WeightForm:
    """How one weight is stored.

    Attributes:
        layer: The layer it belongs to; several, joined by commas, that share it, or "".
        operator: What reads it, such as ``"LSTM"`` or ``"FULLY_CONNECTED"``.
        elements: How many numbers it has.
        storage: ``"float32"``, ``"float16"``, ``"int8"`` or ``"int4"``.
        dynamic: Whether the operator computes in integers, its other input quantized at run time;
            otherwise the weight is dequantized first.
        reason: Why not as the recipe says, or why not the faster way; or "".
    """

    layer: str
    operator: str
    elements: int
    storage: str
    dynamic: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Built:
    """One artifact before it is verified.

    Attributes:
        content: The file's bytes.
        recurrences: How each recurrence was written.
        weights: How each weight is stored, where not all are float32.
        reset_between_runs: Whether a run leaves state behind that the next must not see.
        operators: The operators that a runtime must have, each once; empty where nobody needs
            the list.
        missing_operators: By runtime, such as ``"TFLite Micro"``, those of them that it lacks.
        quantized_inputs: By name, for inputs that take integers for floats.
        quantized_outputs: The same for the outputs.
        float_form: The same operators in float32, for an artifact that computes in integers: what
            is wrong there is wrong in structure, not in rounding. None for any other artifact.
    """

    content: bytes
    recurrences: list[RecurrenceForm]
    weights: list[WeightForm] = field(default_factory=list)
    reset_between_runs: bool = False
    operators: tuple[str, ...] = ()
    missing_operators: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    quantized_inputs: Mapping[str, Quantization] = field(default_factory=dict)
    quantized_outputs: Mapping[str, Quantization] = field(default_factory=dict)
    float_form: Built | None = None


Calibration = Sequence[Sequence[np.ndarray]]
"""Inputs to measure the ranges of the activations on: for each run one array per input."""


@dataclass(frozen=True)
class TargetOptions:
    """What a user can choose about a format.

    Attributes:
        opset: Of the ONNX operators; other formats have none.
    """

    opset: int


class Target(Protocol):
    """A format. One instance serves one model, and may keep what several recipes share."""

    def build(
        self, loaded: LoadedModel, plan: PrecisionPlan, calibration: Calibration | None = None
    ) -> Built:
        """Build one artifact.

        Args:
            loaded: The model, the same in every call.
            plan: The precision of every layer's weights.
            calibration: Given where ``plan.integer_activations``.

        Raises:
            UnsupportedModelError: The format cannot hold the model.
            OptionError: The calibration, or a free axis, cannot serve.
        """
        ...
