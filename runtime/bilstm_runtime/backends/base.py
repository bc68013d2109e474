"""The interface of the backends, their registry, and what all of them check."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

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
        name: The name that users give, such as "onnx".
        format: The artifact format it runs, such as "tflite".
        package: The module that is present where it is installed.
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
        """The command that installs it."""
        return f'pip install "bilstm-edge[{self.extra}]"'

    def missing(self, reason: object = None) -> BackendMissingError:
        """The error for a backend that cannot be imported."""
        why = "is not installed" if reason is None else f"cannot be imported ({reason})"
        return BackendMissingError(
            f"the backend {self.name!r} needs {self.package}, which {why}. "
            f"Install it: {self.install_command}"
        )


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
        inputs: For each name in the file its numpy dtype name and its axes: a positive int where
            the size is fixed, anything else where it is free.
        outputs: For each name in the file its numpy dtype name. Their shapes are known only at
            run time, and checked then.

    Raises:
        ArtifactError: They differ.
    """
    if set(inputs) != set(artifact.inputs):
        what = f"its inputs are {list(inputs)}, the manifest says {list(artifact.inputs)}"
        raise mismatch(artifact, what)
    if not set(outputs) >= set(artifact.outputs):
        what = f"its outputs are {list(outputs)}, the manifest says {list(artifact.outputs)}"
        raise mismatch(artifact, what)
    for name, item in zip(artifact.inputs, spec.file_inputs, strict=True):
        dtype, axes = inputs[name]
        if dtype != item.dtype:
            what = f"the input {name!r} is {dtype}, the manifest says {item.dtype}"
            raise mismatch(artifact, what)
        expected = [axis.size for axis in item.axes]
        found = [size if isinstance(size, int) and size > 0 else None for size in axes]
        if len(found) != len(expected) or any(
            f not in (None, e) for f, e in zip(found, expected, strict=True)
        ):
            what = f"the input {name!r} has the shape {found}, the manifest says {expected}"
            raise mismatch(artifact, what)
    for name, output in zip(artifact.outputs, spec.file_outputs, strict=True):
        if outputs[name] != output.dtype:
            what = f"the output {name!r} is {outputs[name]}, the manifest says {output.dtype}"
            raise mismatch(artifact, what)


def mismatch(artifact: Artifact, what: str) -> ArtifactError:
    """The error for a model file that differs from what the manifest describes."""
    return ArtifactError(
        f"{artifact.file}: {what}. "
        "The file and the manifest do not belong together: export the model again."
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
        UnknownBackendError: There is none; the message lists the registered ones.
    """
    if name not in BACKENDS:
        message = f"there is no backend {name!r}; choose one of: {', '.join(BACKENDS)}"
        raise UnknownBackendError(message)
    return BACKENDS[name]
