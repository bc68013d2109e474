"""What a bundle is compared with: whatever other packages register to run the same model.

This package runs on devices and knows no Keras. A package that does, the exporter, names a
function under the entry point group `bilstm_runtime.bench_peers`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from bilstm_runtime.comparison import compare
from bilstm_runtime.errors import PeerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from bilstm_runtime.bundle.manifest import Manifest
    from bilstm_runtime.comparison import Tolerance
    from bilstm_runtime.values import AnyArray

    Run = Callable[[Mapping[str, AnyArray]], Sequence[AnyArray]]

GROUP: Final = "bilstm_runtime.bench_peers"


@dataclass(frozen=True)
class Peer:
    """Another way to run the model.

    Attributes:
        name: Such as "Keras predict".
        run: Takes the inputs by name, as `Model.predict` does, and gives one array an output
            in the order of the manifest; None where there is no such way.
        failure: Why there is none; empty where there is.
    """

    name: str
    run: Run | None
    failure: str = ""


class PeerProvider(Protocol):
    """What is registered: reads a model once, and holds its peers until it is closed."""

    def __call__(
        self, model: str, manifest: Manifest, *, threads: int, custom_objects: Sequence[str]
    ) -> AbstractContextManager[Sequence[Peer]]:
        """Open the peers of a model.

        Args:
            model: The path of the model.
            manifest: Of the bundle.
            threads: Threads they may use.
            custom_objects: Modules with the user's own layers, as `export-bilstm` takes them.

        Raises:
            PeerError: The model cannot be read; the message says why.
        """
        ...


@contextlib.contextmanager
def open_peers(
    model: str, manifest: Manifest, *, threads: int, custom_objects: Sequence[str]
) -> Iterator[list[Peer]]:
    """Open the peers of all that is registered.

    Raises:
        PeerError: Nothing is registered, or the model cannot be read.
    """
    found = list(metadata.entry_points(group=GROUP))
    if not found:
        msg = (
            f"--against {model}: nothing that is installed can run Keras models. "
            'Install the exporter: pip install "bilstm-edge[export]"'
        )
        raise PeerError(msg)
    with contextlib.ExitStack() as stack:
        peers: list[Peer] = []
        for entry in sorted(found, key=lambda item: item.name):
            try:
                provider: PeerProvider = entry.load()
                peers += stack.enter_context(
                    provider(model, manifest, threads=threads, custom_objects=custom_objects)
                )
            except ImportError as error:
                msg = (
                    f"--against {model}: {error}. "
                    'Install the exporter: pip install "bilstm-edge[export]"'
                )
                raise PeerError(msg) from error
        yield peers


def guarded(peer: Peer) -> Run:
    """The peer's `run`, whose errors of whatever kind become `PeerError`."""
    run = peer.run
    if run is None:
        raise PeerError(peer.failure)

    def call(inputs: Mapping[str, AnyArray]) -> Sequence[AnyArray]:
        try:
            return run(inputs)
        # Another library's code on a model of the user's: it may raise anything.
        except Exception as error:
            words = " ".join(str(error).split()) or type(error).__name__
            msg = f"{peer.name} failed: {words[:300]}"
            raise PeerError(msg) from error

    return call


def difference(
    answers: Sequence[AnyArray], reference: Sequence[AnyArray], tolerance: Tolerance
) -> tuple[float, str]:
    """How far answers are from the bundle's.

    Returns:
        The largest absolute difference, and what is wrong, in words; empty if they agree.
    """
    if len(answers) != len(reference):
        return float("inf"), f"it gives {len(answers)} outputs, the bundle {len(reference)}"
    largest, ratio = 0.0, 0.0
    for answer, wanted in zip(map(np.asarray, answers), reference, strict=True):
        if answer.shape != wanted.shape:
            return float("inf"), (
                f"it answers with the shape {list(answer.shape)}, the bundle {list(wanted.shape)}"
            )
        found = compare(answer.astype(wanted.dtype), wanted, tolerance)
        largest, ratio = max(largest, found.max_abs_error), max(ratio, found.max_error_ratio)
    if not ratio <= 1:
        return largest, (
            f"its answers differ from the bundle's by up to {largest:.2g}, {ratio:.2g} times what "
            "is tolerated"
        )
    return largest, ""
