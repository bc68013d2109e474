"""tract, an inference engine in Rust, which reads ONNX files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bilstm_exporter.profiles.base import Profile, Verifier
from bilstm_exporter.profiles.registry import register
from bilstm_runtime.backends import Session
from bilstm_runtime.errors import BackendRunError
from bilstm_runtime.spec import AnyArray, Artifact, ModelSpec

register(
    Profile(
        "tract",
        "tract",
        "onnx",
        "0.23",
        recipes=("float32", "float16", "int4"),
        verifier=Verifier("tract", "tract", f"{__name__}:open_artifact"),
    )
)


class _Session:
    """A model that tract has made ready to run."""

    def __init__(self, runnable: Any, artifact: Artifact) -> None:
        self._runnable = runnable
        self._artifact = artifact

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run the model once; see `bilstm_runtime.backends.Session.run`."""
        from tract.bindings import TractError  # noqa: PLC0415 - an optional package

        try:
            return [output.to_numpy() for output in self._runnable.run(list(arrays))]
        except TractError as error:
            message = f"tract failed on {self._artifact.file}: {error}"
            raise BackendRunError(message) from error


def open_artifact(content: bytes, artifact: Artifact, spec: ModelSpec) -> Session:
    """Open an ONNX file with tract; see `bilstm_exporter.profiles.base.ArtifactOpener`."""
    del spec
    import tract  # noqa: PLC0415 - an optional package
    from tract.bindings import TractError  # noqa: PLC0415 - the same

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / artifact.file
        path.write_bytes(content)  # tract reads files only
        try:
            runnable = tract.onnx().load(path).into_model().into_runnable()
        except TractError as error:
            message = f"tract does not read {artifact.file}: {error}"
            raise BackendRunError(message) from error
    return _Session(runnable, artifact)
