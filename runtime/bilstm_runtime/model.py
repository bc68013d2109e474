"""Loads the model of a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bilstm_runtime.backends import BACKENDS, Backend, find_backend
from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.bundle.tuning import find_tuning
from bilstm_runtime.errors import BackendMissingError, NoArtifactError, OptionError
from bilstm_runtime.predictor import Predictor

if TYPE_CHECKING:
    import os

    from bilstm_runtime.backends import Session
    from bilstm_runtime.bundle.folder import Bundle
    from bilstm_runtime.bundle.manifest import Artifact
    from bilstm_runtime.spec import ModelSpec


class Model(Predictor):
    """A loaded model; made by `load`.

    Attributes:
        name: The name of the Keras model.
        backend: The name of the backend that runs it.
        recipe: How its numbers are stored, such as "float32".
        threads: The number of threads that the backend may use.
        tuned: Whether backend, recipe and threads come from `bench-bilstm --tune` on this device.
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

    def __init__(  # noqa: PLR0913 (by name)
        self,
        spec: ModelSpec,
        session: Session,
        backend: Backend,
        artifact: Artifact,
        *,
        threads: int = 1,
        tuned: bool = False,
    ) -> None:
        """Wrap an open session; use `load` instead."""
        super().__init__(spec, session, label=artifact.file)
        self.name = spec.name
        self.backend = backend.name
        self.recipe = artifact.recipe
        self.threads = threads
        self.tuned = tuned

    def __repr__(self) -> str:
        """Name, backend and recipe."""
        return f"<Model {self.name!r} backend={self.backend} recipe={self.recipe}>"


def load(
    path: str | os.PathLike[str],
    *,
    backend: str | None = None,
    recipe: str | None = None,
    threads: int | None = None,
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

    Returns:
        The loaded model.

    Raises:
        BundleError: The bundle, or the file in it, is missing, damaged or too new.
        NoArtifactError: The bundle has no file for that backend and recipe.
        BackendMissingError: The backend is not installed; the message says how to install it.
        UnknownBackendError: There is no backend of that name.
        OptionError: The number of threads is impossible.
    """
    if threads is not None and (type(threads) is not int or threads < 1):
        message = f"threads is {threads!r}; expected a whole number from 1, or None"
        raise OptionError(message)
    preferred = None if backend is None else find_backend(backend)
    bundle = open_bundle(path)
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
    spec = bundle.manifest.spec
    session = backend.open(bundle.read(artifact), artifact, spec, threads)
    return Model(spec, session, backend, artifact, threads=threads, tuned=tuned)


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
