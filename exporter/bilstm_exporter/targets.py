"""The formats a model can be exported to, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from bilstm_exporter.interface import Interface
from bilstm_exporter.recurrence import Lowering


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
class Built:
    """One artifact before it is checked.

    Attributes:
        content: The file's bytes.
        recurrences: How each recurrence was written.
    """

    content: bytes
    recurrences: list[RecurrenceForm]


class Build(Protocol):
    """Builds an artifact."""

    def __call__(
        self, trace: Callable[[Lowering], Any], interface: Interface, *, opset: int
    ) -> Built:
        """Build it.

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
        build: Builds an artifact.
    """

    name: str
    build: Build


TARGETS: dict[str, Target] = {}


def target(name: str) -> Callable[[Build], Build]:
    """Register the builder of a format.

    Raises:
        ValueError: The format has a builder already.
    """

    def register(build: Build) -> Build:
        if name in TARGETS:
            message = f"the format {name!r} is registered already"
            raise ValueError(message)
        TARGETS[name] = Target(name, build)
        return build

    return register
