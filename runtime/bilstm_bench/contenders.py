"""The contenders of the rounds: the model files of a bundle, and peers of other packages.

A peer is another way to run the same model. This package runs on devices and does not depend on
Keras. The exporter, which does, registers a function under the entry point group
`bilstm_runtime.bench_peers`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from bilstm_bench.plan import artifact_of, make_inputs
from bilstm_bench.timing import Contender
from bilstm_runtime.backends import find_backend
from bilstm_runtime.comparison import Difference, compare
from bilstm_runtime.errors import PeerError
from bilstm_runtime.predictor import Predictor, RecordingSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from bilstm_bench.plan import Plan, Shape, Variant
    from bilstm_runtime.bundle.folder import Bundle
    from bilstm_runtime.comparison import Tolerance
    from bilstm_runtime.spec import AnyArray, ModelSpec

    Run = Callable[[Mapping[str, AnyArray]], Sequence[AnyArray]]

GROUP: Final = "bilstm_runtime.bench_peers"


class OpenedVariant:
    """A model file opened once, for inputs of all sizes.

    Attributes:
        variant: The file, backend and number of threads.
        spec: The inputs and outputs of the model.
        artifact: The manifest's entry for the file.
        content: The bytes of the file.
        session: The open file.
        predictor: Predicts on the session.
    """

    def __init__(self, bundle: Bundle, variant: Variant) -> None:
        """Open the file with the same checks as `bilstm_runtime.load`.

        Raises:
            BilstmRuntimeError: The file cannot be opened.
        """
        self.variant = variant
        self.spec = bundle.manifest.spec
        self.artifact = artifact_of(bundle.manifest, variant)
        self.content = bundle.read(self.artifact)
        self.session = find_backend(variant.backend).open(
            self.content, self.artifact, self.spec, variant.threads
        )
        self.predictor = Predictor(self.spec, self.session, label=variant.file)

    def record(self, inputs: dict[str, AnyArray]) -> list[list[AnyArray]]:
        """Predict once.

        Returns:
            For each run of the session, one array per input of the file.

        Raises:
            BilstmRuntimeError: The model does not run on these inputs.
        """
        recording = RecordingSession(self.session)
        Predictor(self.spec, recording, label=self.variant.file).predict(inputs)
        return recording.runs

    def contender(self, plan: Plan, shape: Shape, key: str) -> Contender:
        """Make a contender for an input of this size, and run it once.

        Raises:
            BilstmRuntimeError: The model does not run on that input.
        """
        inputs = make_inputs(self.spec, shape, padding=plan.padding, seed=plan.seed)
        runs = self.record(inputs)
        predictor, run = self.predictor, self.session.run

        def predict() -> object:
            return predictor.predict(inputs)

        def bare() -> object:
            for arrays in runs:
                run(arrays)
            return None

        return Contender(key, shape.label, predict, bare)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Discard the stderr output of a backend's native code, which would disturb the progress."""
    with tempfile.TemporaryFile() as sink:
        saved = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@dataclass(frozen=True)
class Peer:
    """Another way to run the model.

    Attributes:
        name: The name, such as "Keras predict".
        run: Takes the inputs by name, as `Predictor.predict` does, and returns one array per
            output in the order of the spec; None if the model cannot be run in this way.
        failure: The reason why it cannot be run; empty if it can.
    """

    name: str
    run: Run | None
    failure: str = ""


class PeerProvider(Protocol):
    """The registered function: a context manager that loads a model and opens its peers."""

    def __call__(
        self, model: str, spec: ModelSpec, *, threads: int, custom_objects: Sequence[str]
    ) -> AbstractContextManager[Sequence[Peer]]:
        """Open the peers of a model.

        Args:
            model: The path of the model.
            spec: The inputs and outputs of the model in the bundle.
            threads: The number of threads that a peer may use.
            custom_objects: Modules with the user's own layers, as for `export-bilstm`.

        Raises:
            PeerError: The model cannot be read; the message gives the reason.
        """
        ...


@contextlib.contextmanager
def open_peers(
    model: str, spec: ModelSpec, *, threads: int, custom_objects: Sequence[str]
) -> Iterator[list[Peer]]:
    """Open the peers of all registered providers; see `PeerProvider`.

    Raises:
        PeerError: No provider is registered, or the model cannot be read.
    """
    found = list(metadata.entry_points(group=GROUP))
    if not found:
        message = (
            f"--against {model}: no installed package can run Keras models. "
            'Install the exporter: pip install "bilstm-edge[export]"'
        )
        raise PeerError(message)
    with contextlib.ExitStack() as stack:
        peers: list[Peer] = []
        for entry in sorted(found, key=lambda item: item.name):
            try:
                provider: PeerProvider = entry.load()
                peers += stack.enter_context(
                    provider(model, spec, threads=threads, custom_objects=custom_objects)
                )
            except ImportError as error:
                message = (
                    f"--against {model}: {error}. "
                    'Install the exporter: pip install "bilstm-edge[export]"'
                )
                raise PeerError(message) from error
        yield peers


def guarded(peer: Peer) -> Run:
    """Wrap the peer's `run`: any error that it raises becomes a `PeerError`."""
    run = peer.run
    if run is None:
        raise PeerError(peer.failure)

    def call(inputs: Mapping[str, AnyArray]) -> Sequence[AnyArray]:
        try:
            return run(inputs)
        # Another library runs the user's model: it may raise anything.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            message = f"{peer.name} failed: {reason[:300]}"
            raise PeerError(message) from error

    return call


def compare_outputs(
    outputs: Sequence[AnyArray], reference: Sequence[AnyArray], tolerance: Tolerance
) -> tuple[float, str]:
    """Compare the outputs of a peer with those of the bundle.

    Returns:
        The largest absolute error, and a description of the problem; empty if the outputs agree.
    """
    if len(outputs) != len(reference):
        return float("inf"), f"it returns {len(outputs)} outputs, the bundle {len(reference)}"
    total = Difference()
    for output, expected in zip(outputs, reference, strict=True):
        total += compare(np.asarray(output), expected, tolerance)
    if total.mismatch:
        return total.max_abs_error, f"its outputs differ from the bundle's: {total.mismatch}"
    if not total.passed:
        return total.max_abs_error, (
            f"its outputs differ from the bundle's by up to {total.max_abs_error:.2g}, "
            f"{total.max_error_ratio:.2g} times the tolerance"
        )
    return total.max_abs_error, ""
