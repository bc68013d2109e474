"""The errors that this package raises on purpose."""

from __future__ import annotations

import enum


class BilstmRuntimeError(Exception):
    """Base class of the errors that `bilstm_runtime` raises on purpose."""


class BundleError(BilstmRuntimeError, ValueError):
    """The bundle folder, or something in it, cannot be used."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """The bundle folder, or a file that its manifest names, does not exist."""


class ManifestError(BundleError):
    """manifest.json does not follow the bundle format.

    Attributes:
        problem: What is wrong, without the remedy.
        remedy: What to do; may be empty.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        """Join the problem (without a full stop) and the remedy (with one) to a message."""
        super().__init__(f"{problem}. {remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy


class BundleVersionError(BundleError):
    """The bundle was written in a newer format than this package reads."""


class ChecksumError(BundleError):
    """The size or checksum of a file differs from the manifest."""


class ArtifactError(BundleError):
    """A model file cannot be opened, or differs from the manifest's description."""


class NoArtifactError(BundleError, LookupError):
    """The bundle has no model file for the given backend and recipe."""


class GoldenError(BundleError):
    """The golden cases of the bundle cannot be read."""


class BackendMissingError(BilstmRuntimeError, ImportError):
    """No backend is installed that can run the bundle."""


class MissingPackageError(BackendMissingError):
    """A package is not installed that the input of this bundle needs."""


class UnknownBackendError(BilstmRuntimeError, ValueError):
    """There is no backend of the given name."""


class DuplicateBackendError(BilstmRuntimeError, ValueError):
    """Two backends were registered under one name."""


class OptionError(BilstmRuntimeError, ValueError):
    """An option such as `threads` or `batch_size` has an impossible value."""


class InputError(BilstmRuntimeError, ValueError):
    """The data given to the model is not valid for it."""


class InputTypeError(InputError, TypeError):
    """The data given to the model has a type that is never converted."""


class BackendRunError(BilstmRuntimeError, RuntimeError):
    """The backend failed during a run, or its outputs contradict the manifest."""


class ModelClosedError(BilstmRuntimeError, RuntimeError):
    """The model was closed with `Model.close`."""


class StreamStateError(BilstmRuntimeError, ValueError):
    """The saved state of a stream is damaged, or belongs to another model."""


class DataFileProblem(enum.Enum):
    """The problem with a file of examples or outputs, if callers add advice to the message."""

    OTHER = enum.auto()
    OBJECT_ARRAY = enum.auto()
    """A numpy file contains an array of Python objects, such as lists of different lengths."""
    NOT_A_NUMBER = enum.auto()
    """A cell of a .csv file is not a number; the file may have a header."""
    OTHER_NAMES = enum.auto()
    """The arrays or keys have other names than the inputs."""


class DataFileError(BilstmRuntimeError, ValueError):
    """A file of examples or outputs cannot be read or written.

    Attributes:
        code: The kind of problem.
    """

    def __init__(self, message: str, code: DataFileProblem = DataFileProblem.OTHER) -> None:
        """Set the message and the code."""
        super().__init__(message)
        self.code = code


class TuningFileError(BilstmRuntimeError, OSError):
    """The tuning file next to the bundle cannot be written."""


class TuningWarning(UserWarning):
    """The tuning file next to the bundle is damaged, and `load` ignores it."""


class ChildProcessFailedError(BilstmRuntimeError, RuntimeError):
    """A child process for a measurement ended without a result."""


class PeerError(BilstmRuntimeError, RuntimeError):
    """A model to compare the bundle with cannot be read, or does not run."""
