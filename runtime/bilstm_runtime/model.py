"""Loading a bundle and asking its model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from bilstm_runtime.backends import BACKENDS, Backend, find_backend
from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.bundle.tuning import find_tuning
from bilstm_runtime.carried import CarriedStates
from bilstm_runtime.errors import BackendMissingError, NoArtifactError, OptionError
from bilstm_runtime.inputs import InputReader, Values
from bilstm_runtime.runner import Runner
from bilstm_runtime.values import AnyArray

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from bilstm_runtime.backends import Session
    from bilstm_runtime.bundle.folder import Bundle
    from bilstm_runtime.bundle.manifest import Artifact, Manifest
    from bilstm_runtime.spec import InputSpec, OutputSpec

Answer: TypeAlias = AnyArray | list[AnyArray]
"""One output: an array with a batch axis, or one array an example."""

Answers: TypeAlias = Any
"""All outputs, in the structure the Keras model had: an `Answer`, or a list or dict of those.

Which of them is known only at run time, so callers need not narrow a union.
"""


class Model:
    """A loaded model; made by `load`.

    Attributes:
        name: The name of the Keras model.
        backend: The name of the backend that runs it.
        recipe: How its numbers are stored, such as "float32".
        threads: Threads the backend may use.
        tuned: Whether `bench-bilstm --tune` chose any of these three on this device.
        inputs: What it takes.
        outputs: What it answers.
        output_structure: "single", "list" or "dict": the form of all answers.
        is_stateful: Whether a prediction depends on those before it, until `reset`.
    """

    name: str
    backend: str
    recipe: str
    threads: int
    tuned: bool
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    output_structure: str
    is_stateful: bool

    def __init__(  # noqa: PLR0913 (by name)
        self,
        manifest: Manifest,
        session: Session,
        backend: Backend,
        artifact: Artifact,
        *,
        threads: int = 1,
        tuned: bool = False,
    ) -> None:
        """Keep an open session; use `load` instead."""
        self.name = manifest.name
        self.backend = backend.name
        self.recipe = artifact.recipe
        self.threads = threads
        self.tuned = tuned
        self.inputs = manifest.inputs
        self.outputs = manifest.outputs
        self.output_structure = manifest.output_structure
        self.is_stateful = bool(manifest.states)
        self._carried = CarriedStates(session, manifest.states) if manifest.states else None
        self._reader = InputReader(manifest, can_pad=manifest.spec.can_pad)
        self._runner = Runner(manifest, self._carried or session, artifact.file)

    def __repr__(self) -> str:
        """Name, backend and recipe."""
        return f"<Model {self.name!r} backend={self.backend} recipe={self.recipe}>"

    def reset(self) -> None:
        """Let a stateful model forget what it was given; nothing happens to any other."""
        if self._carried is not None:
            self._carried.reset()

    def predict(self, x: Values, *, batch_size: int | None = None) -> Answers:
        """Answer for a batch of examples.

        A model with one input takes

        - an array with a batch axis, such as `[batch, time, features]`;
        - a list or tuple, always read as a list of examples: numbers, lists or arrays without a
          batch axis, whose lengths may differ;
        - a dict with its one input.

        A model with several inputs takes a dict by input name, or a list or tuple in the order
        of `inputs`, of any of these.

        An input that the Keras model began with a text layer takes a list or array of `str`
        instead, one text an example, or the ids of that layer.

        Values are converted where that loses nothing that matters (any whole numbers that fit;
        floats to the precision of the model; whole floats to ids) and refused otherwise.

        Sequences of different lengths run in groups of near length, padded on the right with
        the mask value, if the manifest says that this changes no answer; else in groups of
        exactly equal length. Sequences shorter than a fixed time axis are padded by the same
        rule or refused.

        Args:
            x: The examples.
            batch_size: How many run at once at most; by default an array runs in one go, and
                sequences of different lengths 16 at a time.

        Returns:
            An array, a list of arrays or a dict of arrays by output name, as the Keras model
            would; `[batch, ...]`, in the order given and owned by the caller. Where the
            sequences differ in length, an output that keeps the time axis (or another axis of
            free size) is a list instead, of one array an example, cut to its own length.

        Raises:
            InputError: The examples are not what the model takes.
            OptionError: The batch size is impossible.
            BackendRunError: The backend failed.
        """
        ready = self._reader.ready(x) if batch_size is None else None
        answers: Sequence[Answer]
        if ready is not None:
            answers = self._runner.run(ready)
        else:
            answers = self._runner.answer(self._reader.read(x), batch_size)
        if self.output_structure == "single":
            return answers[0]
        if self.output_structure == "list":
            return list(answers)
        return {spec.name: answer for spec, answer in zip(self.outputs, answers, strict=True)}


def load(
    path: str | os.PathLike[str],
    *,
    backend: str | None = None,
    recipe: str | None = None,
    threads: int | None = None,
) -> Model:
    """Load the model of a bundle.

    Where `bench-bilstm --tune` stored beside the bundle what is fastest on this device, that
    takes the place of the defaults, unless it contradicts an argument.

    Args:
        path: The bundle folder.
        backend: "onnx" or "litert"; by default one that is installed and that the bundle has a
            file for, preferring "onnx".
        recipe: Which file of that format, such as "float32" or "int8"; by default the one the
            manifest recommends, or else float32, or else the first.
        threads: Threads the backend may use; 1 by default, which is fastest for small models.

    Raises:
        BundleError: The bundle, or the file in it, is missing, damaged or too new.
        NoArtifactError: The bundle has no file for that backend and recipe.
        BackendMissingError: The backend is not installed; the message says how to install it.
        UnknownBackendError: There is no backend of that name.
        OptionError: The number of threads is impossible.
    """
    if threads is not None and (type(threads) is not int or threads < 1):
        msg = f"threads is {threads!r}; expected a whole number from 1, or None"
        raise OptionError(msg)
    wanted = None if backend is None else find_backend(backend)
    bundle = open_bundle(path)
    tuning = find_tuning(bundle)
    if tuning is not None and tuning.agrees(backend, recipe, threads):
        wanted, recipe, threads = find_backend(tuning.backend), tuning.recipe, tuning.threads
    else:
        tuning = None
    chosen, artifact = choose(bundle, wanted, recipe)
    return load_artifact(bundle, chosen, artifact, threads or 1, tuned=tuning is not None)


def load_artifact(
    bundle: Bundle, backend: Backend, artifact: Artifact, threads: int, *, tuned: bool = False
) -> Model:
    """Load one file of an open bundle on one backend; raises what `load` raises."""
    session = backend.open(bundle.read(artifact), artifact, bundle.manifest, threads)
    return Model(bundle.manifest, session, backend, artifact, threads=threads, tuned=tuned)


def choose(bundle: Bundle, wanted: Backend | None, recipe: str | None) -> tuple[Backend, Artifact]:
    """The backend and the file that `load` runs where nothing is tuned; raises what it raises."""
    manifest = bundle.manifest
    backends = list(BACKENDS.values()) if wanted is None else [wanted]
    pairs = [(b, a) for b in backends for a in manifest.artifacts if a.format == b.format]
    if recipe is not None:
        pairs = [(b, a) for b, a in pairs if a.recipe == recipe]
    if not pairs:
        asked = " and ".join(
            f"{kind} {name!r}"
            for kind, name in (("backend", wanted and wanted.name), ("recipe", recipe))
            if name
        )
        held = ", ".join(f"{a.file} ({a.format}, {a.recipe})" for a in manifest.artifacts)
        msg = (
            f"{bundle.folder} has no model file for {asked or 'any backend'}; it has {held}. "
            "Choose one of these, or export the model again with what is missing."
        )
        raise NoArtifactError(msg)
    runnable = [(b, a) for b, a in pairs if b.is_installed]
    if not runnable:
        usable = list(dict.fromkeys(b.name for b, _ in pairs))
        if len(usable) == 1:
            raise find_backend(usable[0]).missing()
        commands = " or ".join(find_backend(name).install_command for name in usable)
        msg = f"none of the backends {', '.join(usable)} is installed. Install one: {commands}"
        raise BackendMissingError(msg)
    for preferred in (manifest.recommended_recipe, "float32"):
        for pair in runnable:
            if pair[1].recipe == preferred:
                return pair
    return runnable[0]
