"""The interface of the backends, their registry, and the checks they share."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from bilstm_runtime.errors import (
    ArtifactError,
    BackendMissingError,
    DuplicateBackendError,
    UnknownBackendError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bilstm_runtime.spec import AnyArray, Artifact, ModelSpec


class Session(Protocol):
    """An opened model file."""

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run the model once.

        Args:
            arrays: One C-contiguous array per file input, in the order and dtypes of the model.

        Returns:
            One array per file output, in the order of the model, owned by the caller.

        Raises:
            BackendRunError: The backend failed.
        """
        ...


class StateRun(Protocol):
    """Runs of a file that keep its states, for one caller at a time."""

    @property
    def states(self) -> list[AnyArray]:
        """The states with which the next run starts; they may be set in place."""
        ...

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run the model once.

        Args:
            arrays: One array per file input that is no state, in the shapes of the file.

        Returns:
            One array per file output that is no state, owned by the caller.

        Raises:
            BackendRunError: The backend failed; the states are as before.
        """
        ...


@runtime_checkable
class StateSession(Session, Protocol):
    """A session that can keep states between runs, which saves their copies."""

    def carry(self, count: int) -> StateRun | None:
        """Return runs that start at states of zeros; None for a file of free shapes.

        Args:
            count: The number of states, the last inputs and outputs of the file.
        """
        ...


@runtime_checkable
class SizedSession(Session, Protocol):
    """A session that knows how much memory a run takes."""

    def row_bytes(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Return the bytes of the tensors of a run, for each row; 0 if they are not known.

        Args:
            shapes: One shape per file input, with the same number of rows each.

        Raises:
            BackendRunError: The backend takes no inputs of these shapes.
        """
        ...


class Opener(Protocol):
    """A function that opens a model file."""

    def __call__(
        self, content: bytes, artifact: Artifact, spec: ModelSpec, threads: int
    ) -> Session:
        """Open a model from the bytes of its file.

        Args:
            content: The bytes.
            artifact: The file, as the manifest describes it.
            spec: The model.
            threads: Threads that the backend may use.

        Raises:
            ArtifactError: The bytes are not the model that the manifest describes.
            BackendMissingError: The backend is installed but cannot be imported.
        """
        ...


@dataclass(frozen=True)
class Backend:
    """A way to run one model format.

    Attributes:
        name: The name for users, such as "onnx".
        format: The artifact format it runs, such as "tflite".
        package: The module that the installed backend provides.
        extra: The extra of bilstm-edge that installs it.
        open: Opens a model file.
        min_version: The oldest version that is run.
    """

    name: str
    format: str
    package: str
    extra: str
    open: Opener
    min_version: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether its package can be found; nothing is imported."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def install_command(self) -> str:
        """The command that installs it."""
        return f'pip install "bilstm-edge[{self.extra}]"'

    def missing(self, reason: object = None) -> BackendMissingError:
        """Make the error for a backend that cannot be imported."""
        why = "is not installed" if reason is None else f"cannot be imported ({reason})"
        return BackendMissingError(
            f"the backend {self.name!r} needs {self.package}, which {why}. "
            f"Install it: {self.install_command}"
        )

    def check_version(self, module: object) -> None:
        """Check that the imported package is not older than `min_version`.

        Args:
            module: The package's module; without a ``__version__``, nothing is checked.

        Raises:
            BackendMissingError: It is older.
        """
        version = getattr(module, "__version__", None)
        if version is None or _numbers(str(version)) >= _numbers(self.min_version):
            return
        message = (
            f"the backend {self.name!r} has {self.package} {version}, and files are run by "
            f"{self.min_version} or newer only, because older versions can compute wrong outputs. "
            f"Upgrade it: {self.install_command.replace('install', 'install --upgrade', 1)}"
        )
        raise BackendMissingError(message)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers at the start of a version, such as (1, 24, 0) for "1.24.0rc1"."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def check_signature(
    artifact: Artifact,
    spec: ModelSpec,
    inputs: Mapping[str, tuple[str, Sequence[Any]]],
    outputs: Mapping[str, str],
) -> None:
    """Check that the inputs and outputs of a model file are those of the manifest.

    Args:
        artifact: The file, as the manifest describes it.
        spec: The model.
        inputs: For each name in the file, its numpy dtype name and its axes: a positive int for a
            fixed size, any other value for a free one.
        outputs: For each name in the file, its numpy dtype name. Shapes are checked at run time.

    Raises:
        ArtifactError: They differ.
    """
    if set(inputs) != set(artifact.inputs):
        problem = f"its inputs are {list(inputs)}, the manifest says {list(artifact.inputs)}"
        raise mismatch(artifact, problem)
    if not set(outputs) >= set(artifact.outputs):
        problem = f"its outputs are {list(outputs)}, the manifest says {list(artifact.outputs)}"
        raise mismatch(artifact, problem)
    for name, item in zip(artifact.inputs, spec.file_inputs, strict=True):
        dtype, axes = inputs[name]
        if dtype != item.dtype:
            problem = f"the input {name!r} is {dtype}, the manifest says {item.dtype}"
            raise mismatch(artifact, problem)
        expected = [axis.size for axis in item.axes]
        found = [size if isinstance(size, int) and size > 0 else None for size in axes]
        if len(found) != len(expected) or any(
            f not in (None, e) for f, e in zip(found, expected, strict=True)
        ):
            problem = f"the input {name!r} has the shape {found}, the manifest says {expected}"
            raise mismatch(artifact, problem)
    for name, output in zip(artifact.outputs, spec.file_outputs, strict=True):
        if outputs[name] != output.dtype:
            problem = f"the output {name!r} is {outputs[name]}, the manifest says {output.dtype}"
            raise mismatch(artifact, problem)


def mismatch(artifact: Artifact, problem: str) -> ArtifactError:
    """Make the error for a model file that differs from the manifest's description."""
    return ArtifactError(
        f"{artifact.file}: {problem}. "
        "The file and the manifest do not belong together: export the model again."
    )


BACKENDS: dict[str, Backend] = {}
"""The backends by name, in order of preference."""


def register(
    name: str,
    *,
    format: str,  # noqa: A002 (the manifest's key)
    package: str,
    extra: str,
    min_version: str,
) -> Callable[[Opener], Opener]:
    """Register the decorated function as the opener of a new backend.

    Raises:
        DuplicateBackendError: The name is already registered.
    """

    def add(opener: Opener) -> Opener:
        if name in BACKENDS:
            message = f"the backend {name!r} is already registered, for {BACKENDS[name].format}"
            raise DuplicateBackendError(message)
        BACKENDS[name] = Backend(name, format, package, extra, opener, min_version)
        return opener

    return add


def find_backend(name: str) -> Backend:
    """Return the backend of that name.

    Raises:
        UnknownBackendError: No backend has that name; the message lists the registered ones.
    """
    if name not in BACKENDS:
        message = f"there is no backend {name!r}; choose one of: {', '.join(BACKENDS)}"
        raise UnknownBackendError(message)
    return BACKENDS[name]
