"""What takes part in the rounds: something opened, on an input, ready to be called."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bilstm_bench.plan import artifact_of
from bilstm_bench.random_inputs import make_inputs
from bilstm_bench.recording import Recorder
from bilstm_runtime.backends import find_backend
from bilstm_runtime.model import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bilstm_bench.plan import Plan, Shape, Variant
    from bilstm_runtime.backends import Session
    from bilstm_runtime.bundle.folder import Bundle
    from bilstm_runtime.values import AnyArray


@dataclass(frozen=True)
class Contender:
    """Something to be timed.

    Attributes:
        key: Its name, unique within a measurement.
        group: Those of one group are run close to each other and compared.
        call: What is timed.
        bare: The same without what `predict` adds; None where there is nothing to add.
    """

    key: str
    group: str
    call: Callable[[], object]
    bare: Callable[[], object] | None = None


class OpenedVariant:
    """A model file opened once, for inputs of all sizes.

    Attributes:
        variant: Which it is.
        manifest: Of its bundle.
        model: What predicts.
    """

    def __init__(self, bundle: Bundle, variant: Variant) -> None:
        """Open it; raises what `bilstm_runtime.load` raises."""
        self.variant = variant
        self.manifest = bundle.manifest
        self._backend = find_backend(variant.backend)
        self._artifact = artifact_of(bundle.manifest, variant)
        self._session = self._backend.open(
            bundle.read(self._artifact), self._artifact, bundle.manifest.spec, variant.threads
        )
        self.model = self._model(self._session)

    def contender(self, plan: Plan, shape: Shape, key: str) -> Contender:
        """Make ready to be timed on an input of this size, by running it once.

        Raises:
            BilstmRuntimeError: It does not run on it.
        """
        inputs = make_inputs(self.manifest, shape, padding=plan.padding, seed=plan.seed)
        recorder = Recorder(self._session)
        self._model(recorder).predict(inputs)
        model, run, runs = self.model, self._session.run, recorder.runs

        def predict() -> object:
            return model.predict(inputs)

        def bare() -> object:
            for arrays in runs:
                run(arrays)
            return None

        return Contender(key, shape.label, predict, bare)

    def answers(self, inputs: dict[str, AnyArray]) -> list[AnyArray]:
        """What the model answers, from its beginning, one array an output."""
        self.model.reset()
        found = self.model.predict(inputs)
        if isinstance(found, dict):
            return list(found.values())
        return list(found) if isinstance(found, list) else [found]

    def _model(self, session: Session) -> Model:
        return Model(
            self.manifest.spec,
            session,
            self._backend,
            self._artifact,
            threads=self.variant.threads,
        )


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what a backend's own code writes to stderr from between the lines of progress."""
    with tempfile.TemporaryFile() as sink:
        saved = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
