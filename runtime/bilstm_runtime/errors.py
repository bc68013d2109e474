"""Every error this package raises on purpose."""

from __future__ import annotations

import enum


class BilstmRuntimeError(Exception):
    """Base of every error raised on purpose by `bilstm_runtime`."""


class BundleError(BilstmRuntimeError, ValueError):
    """The bundle folder, or something in it, cannot be used."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """The bundle folder, or a file its manifest names, is not there."""


class ManifestError(BundleError):
    """manifest.json is not what the bundle format describes.

    Attributes:
        problem: What is wrong, without the remedy.
        remedy: What to do; may be empty.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        """Say what is wrong and what to do, in sentences without and with a full stop."""
        super().__init__(f"{problem}. {remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy


class BundleVersionError(BundleError):
    """The bundle was written in a newer format than this package reads."""


class ChecksumError(BundleError):
    """A file of the bundle is not the file the manifest describes."""


class ArtifactError(BundleError):
    """A model file cannot be opened, or is not the model the manifest describes."""


class NoArtifactError(BundleError, LookupError):
    """The bundle has no model file for the given backend and recipe."""


class GoldenError(BundleError):
    """The golden cases of the bundle cannot be read."""


class BackendMissingError(BilstmRuntimeError, ImportError):
    """No backend is installed that can run the bundle."""


class UnknownBackendError(BilstmRuntimeError, ValueError):
    """There is no backend of the given name."""


class DuplicateBackendError(BilstmRuntimeError, ValueError):
    """Two backends were registered under one name."""


class OptionError(BilstmRuntimeError, ValueError):
    """An option such as `threads` or `batch_size` has an impossible value."""


class InputError(BilstmRuntimeError, ValueError):
    """The data given to the model is not what the model takes."""


class InputTypeError(InputError, TypeError):
    """The data given to the model is of a kind that is never converted."""


class BackendRunError(BilstmRuntimeError, RuntimeError):
    """The backend failed while running, or returned what contradicts the manifest."""


class DataFileProblem(enum.Enum):
    """What is wrong with a file of examples or outputs, where callers have more to say on it."""

    OTHER = enum.auto()
    OBJECT_ARRAY = enum.auto()
    """A numpy file has an array of Python objects, such as lists of different lengths."""
    NOT_A_NUMBER = enum.auto()
    """A cell of a .csv file is not a number: perhaps the file has a header."""


class DataFileError(BilstmRuntimeError, ValueError):
    """A file of examples or outputs cannot be read or written.

    Attributes:
        code: What is wrong with it.
    """

    def __init__(self, message: str, code: DataFileProblem = DataFileProblem.OTHER) -> None:
        """Say what is wrong in words and as a code."""
        super().__init__(message)
        self.code = code


class TuningFileError(BilstmRuntimeError, OSError):
    """The file beside the bundle that `load` takes its tuning from cannot be written."""


class TuningWarning(UserWarning):
    """The file beside the bundle that `load` takes its tuning from is damaged, and ignored."""


class ChildProcessFailedError(BilstmRuntimeError, RuntimeError):
    """A process that was started to measure in ended without a result."""


class PeerError(BilstmRuntimeError, RuntimeError):
    """A model to compare the bundle with cannot be read, or does not run."""
