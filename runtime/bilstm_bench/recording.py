"""Opening a file as users do, and keeping what its session is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bilstm_bench.plan import Shape
from bilstm_bench.random_inputs import make_inputs
from bilstm_runtime.backends import find_backend
from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.model import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_runtime.backends import Session
    from bilstm_runtime.bundle.folder import Bundle
    from bilstm_runtime.bundle.manifest import Artifact
    from bilstm_runtime.values import AnyArray


class Recorder:
    """A session that remembers what it was given (a `Session`)."""

    def __init__(self, session: Session) -> None:
        """Run everything on this session."""
        self._session = session
        self.runs: list[Sequence[AnyArray]] = []

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Run, and remember; see `Session.run`."""
        self.runs.append(arrays)
        return self._session.run(arrays)


@dataclass(frozen=True)
class Recorded:
    """A model file, and what one `predict` makes of an input.

    Attributes:
        bundle: The bundle.
        artifact: The file.
        content: Its bytes.
        runs: For each run of the session one array an input of the file.
        session: The session.
    """

    bundle: Bundle
    artifact: Artifact
    content: bytes
    runs: list[Sequence[AnyArray]]
    session: Session


def record_runs(task: dict[str, Any]) -> Recorded:
    """Open a file with every check that `load` makes, and predict once.

    Args:
        task: See `bilstm_bench.child.cold`.

    Raises:
        BilstmRuntimeError: It cannot be opened or run.
    """
    bundle = open_bundle(task["bundle"])
    manifest = bundle.manifest
    backend = find_backend(task["backend"])
    artifact = next(item for item in manifest.artifacts if item.file == task["file"])
    content = bundle.read(artifact)
    session = backend.open(content, artifact, manifest.spec, task["threads"])
    recorder = Recorder(session)
    inputs = make_inputs(
        manifest,
        Shape(task["length"], task["batch"]),
        padding=task["padding"],
        seed=task["seed"],
    )
    Model(manifest.spec, recorder, backend, artifact).predict(inputs)
    return Recorded(bundle, artifact, content, recorder.runs, session)
