"""The errors of an export, one class per cause.

Every message reports what was found, where, and what to do next.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

_TERMINAL_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# What Keras writes around the message of an error that a layer's call raises.
_CALL_FRAME = (
    re.compile(r"^\s*Exception encountered when calling [^\n]*\n+"),
    re.compile(r"\A\s*Could not automatically infer [^\n]*Error encountered:\n+"),
    re.compile(r"\n+(?:Call arguments|Arguments) received by .*\Z", re.DOTALL),
)


def plain_text(error: Exception) -> str:
    """Return the text of a library's error, without colours and the frame of Keras's calls."""
    text = _TERMINAL_COLOURS.sub("", str(error))
    previous = ""
    while text != previous:  # one frame for each layer around the failing one
        previous = text
        for frame in _CALL_FRAME:
            text = frame.sub("", text)
    return text


class ExportError(Exception):
    """Base class of the errors that an export raises on purpose.

    Args:
        args: The message.
        layers: Names of the layers that the error is about, if they are known.

    Attributes:
        code: A short name of the cause, the same in every release.
        exit_code: The exit code of `export-bilstm`.
        layers: As in the arguments.
    """

    code: ClassVar[str] = "export"
    exit_code: ClassVar[int] = 3
    # Keras replaces an exception raised inside a layer's call with a new one, without the
    # attributes and with the call's arguments in the message. This attribute prevents that.
    _keras_call_info_injected: ClassVar[bool] = True

    def __init__(self, *args: object, layers: Sequence[str] = ()) -> None:
        super().__init__(*args)
        self.layers = tuple(layers)

    def add_advice(self, advice: str) -> None:
        """Append a sentence to the message: what to do next."""
        self.args = (f"{self.args[0]}. {advice}" if self.args else advice, *self.args[1:])


class ModelFileError(ExportError, ValueError):
    """The file is not a model that can be read."""

    code = "model-file"


class UntrustedCodeError(ExportError, PermissionError):
    """The model contains Python code, which runs only with permission."""

    code = "untrusted-code"


class MissingLibraryError(ExportError, ImportError):
    """A library that this model needs is not installed."""

    code = "missing-library"


class UnknownObjectError(ExportError, LookupError):
    """The model uses a layer or function that is not registered.

    Args:
        message: The message.
        unknown: The name in the file, or "" for another cause.
        layers: See `ExportError`.
    """

    code = "unknown-object"

    def __init__(self, message: str, *, unknown: str = "", layers: Sequence[str] = ()) -> None:
        self.unknown = unknown
        super().__init__(message, layers=layers)


class UnsupportedModelError(ExportError, NotImplementedError):
    """The model can be read, but something in it cannot be exported exactly."""

    code = "unsupported-model"


class UnsupportedOperatorError(UnsupportedModelError):
    """A format has no operator for something in the model.

    Args:
        operators: For each TensorFlow operator, the name of a node that needs it.
        format_name: The format, such as ``"onnx"``.
        places: For each operator, what to call its place in the message instead of the node.
        others: The formats that can be written without this one.
        layers: See `ExportError`.
    """

    code = "unsupported-operator"

    def __init__(
        self,
        operators: Mapping[str, str],
        *,
        format_name: str,
        places: Mapping[str, str] | None = None,
        others: Sequence[str] = (),
        layers: Sequence[str] = (),
    ) -> None:
        self.format_name = format_name
        self.operators = dict(operators)
        named = {**self.operators, **(places or {})}
        missing = "; ".join(
            f"{operator}{f' (in {place})' if place else ''}" for operator, place in named.items()
        )
        flag = f"--formats {','.join(others)}" if others else "--formats"
        super().__init__(
            f"{format_name} has no operator for: {missing}. Replace the layer that computes it, "
            f"or leave this format out with {flag}",
            layers=layers,
        )

    def located(
        self, find: Callable[[str], str | None], kinds: Mapping[str, str], others: Sequence[str]
    ) -> UnsupportedOperatorError:
        """Return the same error, which names layers instead of nodes.

        Args:
            find: Returns the layer of a node, or None.
            kinds: The class of each layer.
            others: The formats that can be written without this one.
        """
        found = {operator: find(node) for operator, node in self.operators.items()}
        places = {
            operator: f"layer {layer!r}, {kinds[layer]}"
            for operator, layer in found.items()
            if layer is not None
        }
        return UnsupportedOperatorError(
            self.operators,
            format_name=self.format_name,
            places=places,
            others=others,
            layers=[layer for layer in dict.fromkeys(found.values()) if layer is not None],
        )


class TargetError(UnsupportedModelError):
    """A runtime that the export was made for cannot run an artifact, or runs it wrongly.

    Args:
        message: The message.
        target: The name of the target.
        reasons: For each layer that the runtime refuses, the reason.
    """

    code = "target"

    def __init__(self, message: str, *, target: str, reasons: Mapping[str, str]) -> None:
        self.target = target
        self.reasons = dict(reasons)
        super().__init__(message, layers=tuple(reasons))


class ParityError(ExportError, ArithmeticError):
    """The outputs of an artifact differ from Keras's."""

    code = "parity"
    exit_code = 1


class OutputFolderError(ExportError, OSError):
    """The bundle cannot be written to its folder."""

    code = "output-folder"
    exit_code = 4


class OptionError(ExportError, ValueError):
    """An option has a value that cannot be used."""

    code = "option"
    exit_code = 2


class DataError(ExportError, ValueError):
    """The user's own data cannot be used to evaluate or to calibrate a recipe."""

    code = "data"
    exit_code = 2


class StreamingError(UnsupportedModelError):
    """The model, or a layer of it, needs the whole sequence, so it cannot be streamed."""

    code = "streaming"


class BudgetError(ExportError):
    """No recipe and no mix of recipes is within the given limits."""

    code = "budget"
    exit_code = 6


class KerasContractError(ExportError, RuntimeError):
    """The internals of the installed Keras differ from those that this version supports."""

    code = "keras-contract"
