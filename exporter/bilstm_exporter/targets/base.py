"""The interface of an export format: one call builds a file from a loaded model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.quantization.recipes import PrecisionPlan
from bilstm_exporter.targets.operators import Form, OperatorUse
from bilstm_runtime.bundle.manifest import Quantization


@dataclass(frozen=True)
class RecurrenceForm:
    """How one recurrence was written.

    Attributes:
        layer: The layer's name.
        form: Its form in the artifact, such as ``"LSTM"`` or ``"Scan"``.
        reason: Why it is not the format's fastest form, or "".
    """

    layer: str
    form: str
    reason: str = ""


@dataclass(frozen=True)
class WeightForm:
    """How one weight is stored.

    Attributes:
        layer: The layers that own it, separated by commas, or "".
        operator: The operator that reads it, such as ``"LSTM"`` or ``"FULLY_CONNECTED"``.
        elements: Number of elements.
        storage: ``"float32"``, ``"float16"``, ``"int8"`` or ``"int4"``.
        dynamic: Whether the operator quantizes its other input at run time and computes in
            integers. If False, the weight is dequantized first.
        reason: Why it is not stored as the recipe says or not computed in integers, or "".
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
        weights: How each weight is stored; empty if all are float32.
        reset_between_runs: Whether variables must be reset between runs, because a run changes
            them.
        operators: The operators that a runtime must have, without duplicates; empty for ONNX.
        operator_uses: Every operator with its dtypes and the name that tells its layer; empty for
            ONNX.
        node_names: For nodes whose name in the file does not tell their layer, a name that does;
            empty for TFLite.
        quantized_inputs: The quantization of inputs that take integers for floats, by name.
        quantized_outputs: The same for the outputs.
        float_form: For an artifact that computes in integers, the same operators in float32: an
            error there is an error of structure, not of rounding. None for any other artifact.
    """

    content: bytes
    recurrences: list[RecurrenceForm]
    weights: list[WeightForm] = field(default_factory=list)
    reset_between_runs: bool = False
    operators: tuple[str, ...] = ()
    operator_uses: tuple[OperatorUse, ...] = ()
    node_names: Mapping[str, str] = field(default_factory=dict)
    quantized_inputs: Mapping[str, Quantization] = field(default_factory=dict)
    quantized_outputs: Mapping[str, Quantization] = field(default_factory=dict)
    float_form: Built | None = None


Calibration = Sequence[Sequence[np.ndarray]]
"""Inputs for measuring the ranges of the activations: for each run one array per input."""


@dataclass(frozen=True)
class TargetOptions:
    """The options of a format.

    Attributes:
        opset: The ONNX opset; other formats ignore it.
        forms: The forms that the runtimes need.
    """

    opset: int
    forms: frozenset[Form] = frozenset()


class Target(Protocol):
    """An export format. One instance exports one model and may cache work between recipes."""

    def build(
        self, loaded: LoadedModel, plan: PrecisionPlan, calibration: Calibration | None = None
    ) -> Built:
        """Build one artifact.

        Args:
            loaded: The model; the same in every call.
            plan: The precision of every layer's weights.
            calibration: Calibration inputs; required if ``plan.integer_activations``.

        Raises:
            UnsupportedModelError: The format cannot express the model.
            OptionError: The calibration data is unusable, or an axis must be fixed and is free.
        """
        ...

    def operators(self, content: bytes) -> list[OperatorUse]:
        """List the operators of an artifact, those of inner graphs too.

        Args:
            content: The bytes of a file that `build` returned.
        """
        ...
