"""The formats a model can be exported to, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from bilstm_exporter.inspection.interface import Interface
from bilstm_exporter.ir.recurrence import Lowering
from bilstm_exporter.quantization.recipes import PrecisionPlan
from bilstm_exporter.quantization.weight_owners import Owners
from bilstm_runtime.bundle.manifest import Quantization


@dataclass(frozen=True)
class RecurrenceForm:
    """How one recurrence was written.

    Attributes:
        layer: The layer's name.
        form: What stands in the artifact, such as ``"LSTM"`` or ``"Scan"``.
        reason: Why not the fastest form the format has, or "".
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
        dynamic: Whether the operator computes in integers, its other input quantized as it runs;
            otherwise the weight is taken back to float first.
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
    """One artifact before it is checked.

    Attributes:
        content: The file's bytes.
        recurrences: How each recurrence was written.
        weights: How each weight was stored, where not all are float32.
        reset_between_runs: Whether a run leaves something behind that the next must not see.
        operators: What a runtime needs to have, each operator once; "" names none.
        quantized_inputs: By name, for those that take integers for floats.
        quantized_outputs: The same for the outputs.
    """

    content: bytes
    recurrences: list[RecurrenceForm]
    weights: list[WeightForm] = field(default_factory=list)
    reset_between_runs: bool = False
    operators: tuple[str, ...] = ()
    quantized_inputs: Mapping[str, Quantization] = field(default_factory=dict)
    quantized_outputs: Mapping[str, Quantization] = field(default_factory=dict)


class Conversion(Protocol):
    """A model converted to a format in float32, from which every recipe is written."""

    def write(self, plan: PrecisionPlan, owners: Owners) -> Built:
        """Write the artifact.

        Args:
            plan: Which precision each layer's weights get.
            owners: Which layer a constant belongs to.
        """
        ...


class Convert(Protocol):
    """Converts a traced model to a format."""

    def __call__(
        self, trace: Callable[[Lowering], Any], interface: Interface, *, opset: int
    ) -> Conversion:
        """Convert it.

        Args:
            trace: Traces the model with a lowering, at the shapes of the interface.
            interface: Names and shapes of the inputs and outputs.
            opset: Of ONNX; other formats have none.
        """
        ...


@dataclass(frozen=True)
class Target:
    """A format.

    Attributes:
        name: Of the format, and the ending of its files.
        convert: Converts a model to it.
    """

    name: str
    convert: Convert


TARGETS: dict[str, Target] = {}


def target(name: str) -> Callable[[Convert], Convert]:
    """Register what converts to a format.

    Raises:
        ValueError: The format has one already.
    """

    def register(convert: Convert) -> Convert:
        if name in TARGETS:
            message = f"the format {name!r} is registered already"
            raise ValueError(message)
        TARGETS[name] = Target(name, convert)
        return convert

    return register
