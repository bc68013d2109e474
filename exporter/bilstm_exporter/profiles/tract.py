"""tract, an inference engine in Rust, which reads ONNX files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bilstm_exporter.profiles.base import Profile, Verifier
from bilstm_exporter.profiles.registry import register
from bilstm_exporter.targets.operators import Form
from bilstm_runtime.backends import Session
from bilstm_runtime.spec import AnyArray, Artifact, ModelSpec

register(
    Profile(
        "tract",
        "tract",
        "onnx",
        "0.23",
        recipes=("float32", "float16", "int4"),
        forms=frozenset({Form.FORWARD_ONLY}),
        verifier=Verifier("tract", "tract", f"{__name__}:open_artifact"),
    )
)

_DTYPES = {"float32": "f32", "float64": "f64", "int32": "i32", "int64": "i64", "bool": "bool"}


class _Session:
    """A file that tract makes ready for each shape of the inputs, as it plans for one shape."""

    def __init__(self, content: bytes, artifact: Artifact) -> None:
        self._content = content
        self._artifact = artifact
        self._runnables: dict[tuple[tuple[int, ...], ...], Any] = {}

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run the model once; see `bilstm_runtime.backends.Session.run`."""
        shapes = tuple(array.shape for array in arrays)
        if shapes not in self._runnables:
            self._runnables[shapes] = self._prepared(arrays)
        return [output.to_numpy() for output in self._runnables[shapes].run(list(arrays))]

    def _prepared(self, arrays: Sequence[AnyArray]) -> Any:
        import tract  # noqa: PLC0415 - an optional package

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / self._artifact.file
            path.write_bytes(self._content)  # tract reads files only
            model = tract.onnx().load(path)
        for number, array in enumerate(arrays):
            dtype = _DTYPES[array.dtype.name]
            sizes = [*map(str, array.shape), dtype]
            model.set_input_fact(number, ",".join(sizes))
            # The file names its free axes, and the outputs have these names too.
        for number in range(model.output_count()):
            model.set_output_fact(number, None)
        return model.into_model().into_runnable()


def open_artifact(content: bytes, artifact: Artifact, spec: ModelSpec) -> Session:
    """Open an ONNX file with tract; see `bilstm_exporter.profiles.base.ArtifactOpener`."""
    del spec
    return _Session(content, artifact)
