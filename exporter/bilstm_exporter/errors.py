"""What can go wrong in an export, one class a cause.

Every message says what was found, where, and what to do next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bilstm_exporter.evaluation.search import SearchResult
    from bilstm_exporter.explanation import Explanation
    from bilstm_exporter.targets.base import RecurrenceForm

_TERMINAL_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def plain_text(error: Exception) -> str:
    """What an error of a library says, without its terminal colours."""
    return _TERMINAL_COLOURS.sub("", str(error))


class ExportError(Exception):
    """Base of every error that an export raises on purpose.

    Attributes:
        explanation: What was known of every layer by then, where that says more than the words.
    """

    explanation: Explanation | None = None


class ModelFileError(ExportError, ValueError):
    """The file is not a model that can be read."""


class UntrustedCodeError(ExportError, PermissionError):
    """The model carries Python code, which runs only where that was allowed."""


class MissingLibraryError(ExportError, ImportError):
    """A library that this model needs is not installed."""


class UnknownObjectError(ExportError, LookupError):
    """The model uses a layer or function that nobody registered.

    Args:
        message: What to tell.
        unknown: Its name in the file, or "" where it is another matter.
    """

    def __init__(self, message: str, *, unknown: str = "") -> None:
        self.unknown = unknown
        super().__init__(message)


class UnsupportedModelError(ExportError, NotImplementedError):
    """The model can be read, but something in it cannot be exported exactly."""


class UnsupportedOperatorError(UnsupportedModelError):
    """A format has no operator for something in the model.

    Args:
        operators: For each TensorFlow operator, the name of a node that needs it.
        format_name: ``"onnx"`` or ``"tflite"``.
    """

    def __init__(self, operators: Mapping[str, str], *, format_name: str) -> None:
        self.format_name = format_name
        self.operators = dict(operators)
        where = "; ".join(
            f"{operator}{f' (in {node})' if node else ''}" for operator, node in operators.items()
        )
        super().__init__(
            f"{format_name} has no operator for: {where}. Replace the layer that computes it, "
            f"or leave this format out with --formats"
        )


class ParityError(ExportError, ArithmeticError):
    """An artifact does not give Keras's answer.

    Attributes:
        recurrences: How the recurrences of that artifact were written.
    """

    recurrences: Sequence[RecurrenceForm] = ()


class OutputFolderError(ExportError, OSError):
    """The bundle cannot be written where it should go."""


class OptionError(ExportError, ValueError):
    """An option has a value that cannot be used."""


class DataError(ExportError, ValueError):
    """The user's own data cannot be used to judge or to calibrate a recipe."""


class BudgetError(ExportError):
    """No recipe and no mix of them keeps within the limits that were given.

    Args:
        message: What to tell.
        searches: By format, all that was tried.
    """

    def __init__(self, message: str, searches: Mapping[str, SearchResult] | None = None) -> None:
        self.searches = dict(searches or {})
        super().__init__(message)


class SeamError(ExportError, RuntimeError):
    """The installed Keras is built differently from those this version knows."""
