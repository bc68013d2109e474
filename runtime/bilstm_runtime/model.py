"""Loads the model of a bundle."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm_runtime.backends import BACKENDS, Backend, find_backend
from bilstm_runtime.backends.forking import ForkSafeSession
from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.bundle.tuning import find_tuning
from bilstm_runtime.errors import (
    BackendMissingError,
    ModelClosedError,
    NoArtifactError,
    OptionError,
    StreamStateError,
)
from bilstm_runtime.float_limits import LimitedSession
from bilstm_runtime.predictor import Predictor
from bilstm_runtime.streams import LONG, Stream, predict_long, read_state

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from bilstm_runtime.batching import Progress
    from bilstm_runtime.bundle.folder import Bundle
    from bilstm_runtime.bundle.manifest import Artifact
    from bilstm_runtime.inputs import Values
    from bilstm_runtime.predictor import Outputs
    from bilstm_runtime.spec import AnyArray
    from bilstm_runtime.stream_spec import StreamSpec


class Model(Predictor):
    """A loaded model; made by `load`.

    A model can be used from several threads and, after a fork, in child processes, which open the
    file again before their first prediction. It can be pickled: the pickle holds the path of the
    bundle, the SHA-256 of its manifest, the options, and the states of a stateful model. As a
    context manager, it is closed at the end.

    Attributes:
        name: The name of the Keras model.
        backend: The name of the backend that runs it.
        recipe: How its numbers are stored, such as "float32".
        threads: The number of threads that the backend may use.
        tuned: Whether backend, recipe and threads come from `bench-bilstm --tune` on this device.
        sha256: The SHA-256 of the bundle's manifest, which contains those of all its files.
        inputs: The inputs of the model.
        outputs: The outputs of the model.
        output_structure: The structure of the outputs: "single", "list" or "dict".
        is_stateful: Whether a prediction depends on earlier ones since the last `reset`.
    """

    name: str
    backend: str
    recipe: str
    threads: int
    tuned: bool
    sha256: str

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        artifact: Artifact,
        *,
        threads: int = 1,
        tuned: bool = False,
    ) -> None:
        """Open one file of a bundle; use `load` instead."""
        spec = bundle.manifest.spec
        # Later, the current folder may be another one.
        located = replace(bundle, folder=bundle.folder.absolute())
        self._file = ForkSafeSession(
            lambda: backend.open(bundle.read(artifact), artifact, spec, threads),
            lambda: backend.open(located.read(artifact), artifact, spec, threads),
        )
        self._limited = LimitedSession(self._file, spec, artifact)
        super().__init__(spec, self._limited, label=artifact.file, read_file=located.read)
        self.name = spec.name
        self.backend = backend.name
        self.recipe = artifact.recipe
        self.threads = threads
        self.tuned = tuned
        self.sha256 = bundle.sha256
        self._folder = str(located.folder)
        self._streaming = bundle.manifest.streaming
        self._opened_with = backend, located
        self._stream_file: ForkSafeSession | None = None
        self._is_closed = False

    def run_case(self, inputs: Sequence[AnyArray]) -> list[AnyArray]:
        """Reset the model and run one case; see `Predictor.run_case`."""
        with self._limited.silent():
            return super().run_case(inputs)

    def predict(
        self, x: Values, *, batch_size: int | None = None, progress: Progress | None = None
    ) -> Outputs:
        """Predict for a batch of examples; see `Predictor.predict`.

        Arrays of 65,536 steps and more run chunk by chunk if the bundle has stream files: memory
        then does not grow with the length. Forward layers are exact. Backward layers start 256
        steps after each chunk of 1,024 steps, or later if the export says so. A model with
        attention of steps to steps always runs the whole sequence.
        """
        arrays = self._long_arrays(x)
        if arrays is None:
            return super().predict(x, batch_size=batch_size, progress=progress)
        spec, session = self._open_stream_file()
        return self.spec.pack_outputs(predict_long(spec, session, arrays, progress))

    def _long_arrays(self, x: Values) -> dict[str, AnyArray] | None:
        """Return the inputs by name if they are arrays of a length for streams."""
        spec = self._streaming
        if spec is None or spec.attends or not self.spec.rows_independent or self._is_closed:
            return None
        names = [item.name for item in self.inputs]
        if isinstance(x, np.ndarray) and len(names) == 1:
            x = {names[0]: x}
        if not isinstance(x, dict) or set(x) != set(names):
            return None
        arrays = {name: x[name] for name in names}
        ranks = {item.name: len(item.axes) for item in self.inputs}
        if any(
            not isinstance(array, np.ndarray) or array.ndim != ranks[name]
            for name, array in arrays.items()
        ):
            return None
        lengths = {arrays[name].shape[1] for name in spec.timed}
        rows = {len(array) for array in arrays.values()}
        if len(lengths) != 1 or len(rows) != 1 or min(lengths) < LONG or not min(rows):
            return None
        has_file = any(
            (item.format, item.recipe) == (self._opened_with[0].format, self.recipe)
            for item in spec.artifacts
        )
        return arrays if has_file else None

    def close(self) -> None:
        """Free the model's memory; `predict` then raises `ModelClosedError`."""
        self._file.close()
        self._is_closed = True
        if self._stream_file is not None:
            self._stream_file.close()

    @property
    def streaming(self) -> StreamSpec | None:
        """The stream files of the model; None if it was exported without ``--streaming``."""
        return self._streaming

    def stream(
        self,
        *,
        chunk: int | None = None,
        lookahead: int | None = None,
        inputs: Mapping[str, AnyArray] | None = None,
    ) -> Stream:
        """Start a stream: a sequence that is fed piece by piece.

        Forward layers carry their states exactly. Backward layers start at the end of the
        look-ahead.

        Args:
            chunk: The number of steps that are computed at once; that of the export by default.
            lookahead: The number of steps after a chunk that must be there before its outputs are
                computed; that of the export by default. Ignored for a model that needs none.
            inputs: The values of the inputs without a time axis, by name, `[...]` each.

        Returns:
            The stream. Any number of them may be open at once.

        Raises:
            NoArtifactError: The bundle has no stream file for this backend and recipe.
            OptionError: Chunk or look-ahead are impossible.
            InputError: `inputs` are not valid for the model.
        """
        spec, session = self._open_stream_file()
        return Stream(
            spec, session, owner=self._stream_owner, chunk=chunk, lookahead=lookahead, inputs=inputs
        )

    def restore_stream(self, state: bytes) -> Stream:
        """Continue a stream from what `Stream.to_bytes` returned, here or on another machine.

        Args:
            state: The bytes.

        Raises:
            StreamStateError: They are damaged, or the state of another model or version.
            NoArtifactError: The bundle has no stream file for this backend and recipe.
        """
        spec, session = self._open_stream_file()
        header, body = read_state(state, self._stream_owner)
        options = {key: header[key] for key in ("chunk", "lookahead")}
        fixed = spec.files.inputs[: len(self.inputs)]
        allowed = {
            item.name: np.full(
                [axis.size or 1 for axis in item.axes],
                0 if item.range is None else item.range[0],
                item.dtype,
            )
            for item in fixed
            if item.name not in spec.timed
        }
        try:
            stream = Stream(spec, session, owner=self._stream_owner, **options, inputs=allowed)
        except OptionError as error:
            message = f"the state of the stream is damaged: {error}"
            raise StreamStateError(message) from error
        stream.restore(header, body)
        return stream

    @property
    def _stream_owner(self) -> str:
        return f"{self.sha256} {self.recipe}"

    def _open_stream_file(self) -> tuple[StreamSpec, LimitedSession]:
        spec = self._streaming
        if spec is None:
            message = (
                f"{self._folder} has no files for streams; export the model again with --streaming"
            )
            raise NoArtifactError(message)
        if self._is_closed:
            message = "the model is closed; load it again"
            raise ModelClosedError(message)
        backend, bundle = self._opened_with
        found = [
            item
            for item in spec.artifacts
            if item.format == backend.format and item.recipe == self.recipe
        ]
        if not found:
            present = ", ".join(f"{a.file} ({a.format}, {a.recipe})" for a in spec.artifacts)
            message = (
                f"{self._folder} has no stream file for the backend {backend.name!r} and the "
                f"recipe {self.recipe!r}; it has {present}. Load the model with one of these, "
                f"or export it again with what is missing"
            )
            raise NoArtifactError(message)
        (artifact,) = found
        if self._stream_file is None:
            self._stream_file = ForkSafeSession(
                lambda: backend.open(bundle.read(artifact), artifact, spec.files, self.threads),
                lambda: backend.open(bundle.read(artifact), artifact, spec.files, self.threads),
            )
        return spec, LimitedSession(self._stream_file, spec.files, artifact)

    def __enter__(self) -> Model:  # noqa: PYI034 (Self needs Python 3.11)
        """Return the model."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the model."""
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Store where the model is and how it was loaded, for pickle and copy."""
        options = (self.backend, self.recipe, self.threads, self.tuned)
        return _load_again, (self._folder, self.sha256, *options), self.states

    def __setstate__(self, states: list[AnyArray]) -> None:
        """Set the states of a stateful model."""
        self._restore(states)

    def __repr__(self) -> str:
        """Name, backend and recipe."""
        return f"<Model {self.name!r} backend={self.backend} recipe={self.recipe}>"


def load(
    path: str | os.PathLike[str],
    *,
    backend: str | None = None,
    recipe: str | None = None,
    threads: int | None = None,
    sha256: str | None = None,
) -> Model:
    """Load the model of a bundle.

    If `bench-bilstm --tune` has stored the fastest configuration for this device, it replaces the
    defaults, unless it contradicts an argument.

    Args:
        path: The bundle folder.
        backend: "onnx" or "litert"; by default an installed one for which the bundle has a file,
            "onnx" first.
        recipe: The recipe of the model file, such as "float32" or "int8"; by default the one the
            manifest recommends, or else float32, or else the first.
        threads: The number of threads that the backend may use; 1 by default, which is fastest
            for small models.
        sha256: The SHA-256 of the bundle's manifest, as `export-bilstm` prints it. It pins the
            whole bundle, because the manifest contains those of all other files.

    Returns:
        The loaded model.

    Raises:
        BundleError: The bundle, or the file in it, is missing, damaged, too new, or not the one
            that `sha256` names.
        NoArtifactError: The bundle has no file for that backend and recipe.
        BackendMissingError: The backend is not installed; the message says how to install it.
        UnknownBackendError: There is no backend of that name.
        OptionError: The number of threads is impossible, or `sha256` is not a SHA-256.
    """
    if threads is not None and (type(threads) is not int or threads < 1):
        message = f"threads is {threads!r}; expected a whole number from 1, or None"
        raise OptionError(message)
    preferred = None if backend is None else find_backend(backend)
    bundle = open_bundle(path, sha256=sha256)
    tuning = find_tuning(bundle)
    if tuning is not None and tuning.agrees(backend, recipe, threads):
        preferred, recipe, threads = find_backend(tuning.backend), tuning.recipe, tuning.threads
    else:
        tuning = None
    chosen, artifact = choose(bundle, preferred, recipe)
    return load_artifact(bundle, chosen, artifact, threads or 1, tuned=tuning is not None)


def load_artifact(
    bundle: Bundle, backend: Backend, artifact: Artifact, threads: int, *, tuned: bool = False
) -> Model:
    """Load one file of an open bundle on one backend; raises the errors of `load`."""
    return Model(bundle, backend, artifact, threads=threads, tuned=tuned)


def _load_again(  # noqa: PLR0913, PLR0917 (the arguments that a pickle holds)
    folder: str,
    sha256: str,
    backend: str,
    recipe: str,
    threads: int,
    tuned: bool,  # noqa: FBT001
) -> Model:
    """Load the same model in another process; raises the errors of `load`."""
    bundle = open_bundle(folder, sha256=sha256)
    chosen, artifact = choose(bundle, find_backend(backend), recipe)
    return load_artifact(bundle, chosen, artifact, threads, tuned=tuned)


def choose(
    bundle: Bundle, preferred: Backend | None, recipe: str | None
) -> tuple[Backend, Artifact]:
    """Choose the backend and file that `load` runs without tuning; raises the errors of `load`."""
    manifest = bundle.manifest
    backends = list(BACKENDS.values()) if preferred is None else [preferred]
    pairs = [(b, a) for b in backends for a in manifest.artifacts if a.format == b.format]
    if recipe is not None:
        pairs = [(b, a) for b, a in pairs if a.recipe == recipe]
    if not pairs:
        requested = " and ".join(
            f"{kind} {name!r}"
            for kind, name in (("backend", preferred and preferred.name), ("recipe", recipe))
            if name
        )
        present = ", ".join(f"{a.file} ({a.format}, {a.recipe})" for a in manifest.artifacts)
        message = (
            f"{bundle.folder} has no model file for {requested or 'any backend'}; it has "
            f"{present}. Choose one of these, or export the model again with what is missing."
        )
        raise NoArtifactError(message)
    runnable = [(b, a) for b, a in pairs if b.is_installed]
    if not runnable:
        usable = list(dict.fromkeys(b.name for b, _ in pairs))
        if len(usable) == 1:
            raise find_backend(usable[0]).missing()
        commands = " or ".join(find_backend(name).install_command for name in usable)
        message = f"none of the backends {', '.join(usable)} is installed. Install one: {commands}"
        raise BackendMissingError(message)
    for default in (manifest.recommended_recipe, "float32"):
        for pair in runnable:
            if pair[1].recipe == default:
                return pair
    return runnable[0]
