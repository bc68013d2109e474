"""Which backends exist, which model format each runs, and which package brings it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from bilstm_runtime.errors import (
    BackendMissingError,
    DuplicateBackendError,
    UnknownBackendError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bilstm_runtime.bundle.manifest import Artifact
    from bilstm_runtime.spec import ModelSpec

Array: TypeAlias = npt.NDArray[np.generic]


class Session(Protocol):
    """An opened model file."""

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Run the model once.

        Args:
            arrays: One C-contiguous array an input, in the order and dtypes of the manifest.

        Returns:
            One array an output, in the order of the manifest, owned by the caller.

        Raises:
            BackendRunError: The backend gave up.
        """
        ...


class Opener(Protocol):
    """A function that opens a model file."""

    def __call__(
        self, content: bytes, artifact: Artifact, spec: ModelSpec, threads: int
    ) -> Session:
        """Open a model from the bytes of its file.

        Raises:
            ArtifactError: The bytes are not the model that the manifest describes.
            BackendMissingError: The backend is installed but cannot be imported.
        """
        ...


@dataclass(frozen=True)
class Backend:
    """A way to run one model format.

    Attributes:
        name: What users call it, such as "onnx".
        format: The artifact format it runs, such as "tflite".
        package: The module whose presence means that it is installed.
        extra: The extra of bilstm-edge that installs it.
        open: Opens a model file.
    """

    name: str
    format: str
    package: str
    extra: str
    open: Opener

    @property
    def is_installed(self) -> bool:
        """Whether its package can be found; nothing is imported."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def install_command(self) -> str:
        """What to type to install it."""
        return f'pip install "bilstm-edge[{self.extra}]"'

    def missing(self, reason: object = None) -> BackendMissingError:
        """The error for when it cannot be imported."""
        why = "is not installed" if reason is None else f"cannot be imported ({reason})"
        return BackendMissingError(
            f"the backend {self.name!r} needs {self.package}, which {why}. "
            f"Install it: {self.install_command}"
        )


BACKENDS: dict[str, Backend] = {}
"""Every backend by name, the preferred first."""


def register(
    name: str,
    *,
    format: str,  # noqa: A002 (the word of the manifest)
    package: str,
    extra: str,
) -> Callable[[Opener], Opener]:
    """Register the decorated function as the opener of a new backend.

    Raises:
        DuplicateBackendError: The name is taken.
    """

    def add(opener: Opener) -> Opener:
        if name in BACKENDS:
            message = f"the backend {name!r} is registered already, for {BACKENDS[name].format}"
            raise DuplicateBackendError(message)
        BACKENDS[name] = Backend(name, format, package, extra, opener)
        return opener

    return add


def find_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UnknownBackendError: There is none; the message lists those there are.
    """
    if name not in BACKENDS:
        message = f"there is no backend {name!r}; choose one of: {', '.join(BACKENDS)}"
        raise UnknownBackendError(message)
    return BACKENDS[name]
