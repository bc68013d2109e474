"""What is measured: which file on which backend, with how many threads, on what input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bilstm_runtime.backends import BACKENDS, find_backend
from bilstm_runtime.bundle.tuning import EXACT_RECIPE, MAX_THREADS
from bilstm_runtime.device import usable_cores
from bilstm_runtime.errors import BackendMissingError, NoArtifactError, OptionError
from bilstm_runtime.spec import MAX_AXIS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_runtime.backends import Backend
    from bilstm_runtime.bundle.folder import Bundle
    from bilstm_runtime.bundle.manifest import Artifact, Manifest

DEFAULT_LENGTHS: Final = (10, 50, 200)
_DEFAULT_THREADS: Final = (1, 2, 4)
_MOST_VALUES: Final = 2**28
"""Values of one input at most: 1 GiB of float32."""


@dataclass(frozen=True)
class Choice:
    """What the user asked to measure; None stands for a default that fits the bundle.

    Attributes:
        lengths: Steps of the sequences.
        batches: Sequences in one call.
        threads: Threads the backend may use.
        backends: Names of the backends.
        recipes: Names of the recipes.
        padding: The share of each sequence's steps, at its end, that is padding.
        seed: For the inputs and for the order of the rounds.
    """

    lengths: tuple[int, ...] | None = None
    batches: tuple[int, ...] | None = None
    threads: tuple[int, ...] | None = None
    backends: tuple[str, ...] | None = None
    recipes: tuple[str, ...] | None = None
    padding: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Variant:
    """One model file on one backend, with a number of threads.

    Attributes:
        file: The file in the bundle.
        recipe: How its numbers are stored.
        backend: The backend.
        threads: Threads the backend may use.
    """

    file: str
    recipe: str
    backend: str
    threads: int

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.backend} {self.recipe}, {_count(self.threads, 'thread')}"


@dataclass(frozen=True)
class Shape:
    """The size of an input.

    Attributes:
        length: Steps of the sequences; None for a model without a sequence axis.
        batch: Sequences in one call.
    """

    length: int | None
    batch: int

    @property
    def steps(self) -> int:
        """All steps of the batch."""
        return (self.length or 1) * self.batch

    @property
    def label(self) -> str:
        """For people."""
        steps = "" if self.length is None else f"{_count(self.length, 'step')}, "
        return f"{steps}batch {self.batch}"


@dataclass(frozen=True)
class Plan:
    """All that is measured.

    Attributes:
        variants: The first is what the others are compared with: what `load` would run if
            nothing were tuned, if that is among them.
        shapes: The sizes of the inputs.
        padding: The share of the steps that is padding.
        seed: For the inputs and for the order of the rounds.
        notes: What is not measured, and why, in sentences.
    """

    variants: tuple[Variant, ...]
    shapes: tuple[Shape, ...]
    padding: float
    seed: int
    notes: tuple[str, ...]

    @property
    def middle(self) -> Shape:
        """An input of middling size."""
        return sorted(self.shapes, key=lambda shape: shape.steps)[(len(self.shapes) - 1) // 2]

    @property
    def longest(self) -> Shape:
        """The input of the most steps."""
        return max(self.shapes, key=lambda shape: shape.steps)

    @property
    def unthreaded(self) -> tuple[Variant, ...]:
        """Each file on each backend once, with the first number of threads."""
        return tuple(v for v in self.variants if v.threads == self.variants[0].threads)


def make_plan(bundle: Bundle, choice: Choice) -> Plan:
    """Work out what to measure.

    Raises:
        OptionError: An option is impossible for this bundle.
        NoArtifactError: The bundle has no such file.
        BackendMissingError: No backend that could run any of it is installed.
        UnknownBackendError: There is no backend of that name.
    """
    manifest = bundle.manifest
    threads = _checked("--threads", choice.threads or _default_threads(), MAX_THREADS)
    shapes = tuple(
        Shape(length, batch)
        for batch in _batches(manifest, choice.batches)
        for length in _lengths(manifest, choice.lengths)
    )
    _check_padding(manifest, choice.padding)
    for shape in shapes:
        _check_size(manifest, shape)
    pairs, notes = _runnable(bundle, choice)
    if max(threads) > usable_cores():
        notes.append(
            f"{max(threads)} threads are more than the {usable_cores()} cores this process may use"
        )
    variants = tuple(
        Variant(artifact.file, artifact.recipe, backend.name, count)
        for count in threads
        for backend, artifact in pairs
    )
    return Plan(variants, shapes, choice.padding, choice.seed, tuple(notes))


def artifact_of(manifest: Manifest, variant: Variant) -> Artifact:
    """What the manifest says of the file of a variant."""
    return next(item for item in manifest.artifacts if item.file == variant.file)


def parse_counts(option: str, text: str) -> tuple[int, ...]:
    """Read "1,2,4".

    Raises:
        OptionError: Something in it is no whole number from 1.

    >>> parse_counts("--threads", "1,2")
    (1, 2)
    """
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        msg = f"{option} {text}: expected whole numbers from 1, separated by commas"
        raise OptionError(msg) from error
    return _checked(option, values, MAX_THREADS if option == "--threads" else MAX_AXIS)


def _checked(option: str, values: Sequence[int], most: int) -> tuple[int, ...]:
    for value in values:
        if not 1 <= value <= most:
            msg = f"{option} {value}: expected whole numbers from 1 to {most:,}"
            raise OptionError(msg)
    return tuple(dict.fromkeys(values))


def _default_threads() -> tuple[int, ...]:
    return tuple(count for count in _DEFAULT_THREADS if count <= usable_cores())


def _batches(manifest: Manifest, wanted: Sequence[int] | None) -> tuple[int, ...]:
    fixed = manifest.batch.size
    if wanted is None:
        return (fixed or manifest.batch.min,)
    for batch in _checked("--batches", wanted, MAX_AXIS):
        if fixed is not None and batch != fixed:
            msg = f"--batches {batch}: this model was exported for batches of {fixed} only"
            raise OptionError(msg)
        if batch < manifest.batch.min:
            msg = f"--batches {batch}: this model takes batches of {manifest.batch.min} or more"
            raise OptionError(msg)
    return tuple(dict.fromkeys(wanted))


def _lengths(manifest: Manifest, wanted: Sequence[int] | None) -> tuple[int | None, ...]:
    axes = manifest.sequence_axes.values()
    if not axes:
        if wanted is not None:
            msg = "--lengths: the inputs of this model have no sequence axis; leave it out"
            raise OptionError(msg)
        return (None,)
    free = [axis.min for axis in axes if axis.size is None]
    if not free:
        return _fixed_lengths(min(axis.size or 1 for axis in axes), manifest, wanted)
    if wanted is None:
        return tuple(dict.fromkeys(max(length, *free) for length in DEFAULT_LENGTHS))
    for length in _checked("--lengths", wanted, MAX_AXIS):
        if length < max(free):
            msg = f"--lengths {length}: this model takes sequences of {max(free)} or more steps"
            raise OptionError(msg)
    return tuple(dict.fromkeys(wanted))


def _fixed_lengths(
    fixed: int, manifest: Manifest, wanted: Sequence[int] | None
) -> tuple[int | None, ...]:
    if wanted is None:
        return (fixed,)
    for length in _checked("--lengths", wanted, MAX_AXIS):
        if length > fixed:
            msg = (
                f"--lengths {length}: this model was exported for {fixed} steps and takes no "
                f"more. Choose {fixed} or less, or export it again with another --time"
            )
            raise OptionError(msg)
        if length < fixed and not manifest.spec.can_pad:
            msg = (
                f"--lengths {length}: this model takes exactly {fixed} steps, and padding "
                "changes its answers"
            )
            raise OptionError(msg)
    return tuple(dict.fromkeys(wanted))


def _check_padding(manifest: Manifest, padding: float) -> None:
    if not 0 <= padding < 1:
        msg = f"--padding {padding}: expected a share from 0 to less than 1, such as 0.5"
        raise OptionError(msg)
    if padding and all(spec.mask_value is None for spec in manifest.inputs):
        msg = f"--padding {padding}: no input of this model marks steps as padding; leave it out"
        raise OptionError(msg)


def _check_size(manifest: Manifest, shape: Shape) -> None:
    for spec in manifest.inputs:
        values = 1
        for axis in spec.axes[1:]:
            values *= axis.size or shape.length or axis.min
        if values * shape.batch > _MOST_VALUES:
            msg = (
                f"{shape.label}: the input {spec.name!r} would have {values * shape.batch} "
                f"values; {_MOST_VALUES} at most are measured"
            )
            raise OptionError(msg)


def _runnable(bundle: Bundle, choice: Choice) -> tuple[list[tuple[Backend, Artifact]], list[str]]:
    """Files with backends that are installed, what `load` prefers first; and what is left out."""
    manifest = bundle.manifest
    backends = [find_backend(name) for name in choice.backends or BACKENDS]
    pairs = [
        (backend, artifact)
        for artifact in manifest.artifacts
        for backend in backends
        if artifact.format == backend.format
        and (choice.recipes is None or artifact.recipe in choice.recipes)
    ]
    _check_recipes(bundle, choice)
    if not pairs:
        held = ", ".join(f"{a.file} ({a.format}, {a.recipe})" for a in manifest.artifacts)
        msg = f"{bundle.folder} has no model file for that choice; it has {held}"
        raise NoArtifactError(msg)
    notes = [
        f"{artifact.file} is not measured: {backend.missing()}"
        for backend, artifact in pairs
        if not backend.is_installed
    ]
    runnable = [pair for pair in pairs if pair[0].is_installed]
    if not runnable:
        commands = dict.fromkeys(backend.install_command for backend, _ in pairs)
        names = ", ".join(dict.fromkeys(backend.name for backend, _ in pairs))
        msg = (
            f"nothing of this bundle can be measured: of the backends {names} none is installed. "
            f"Install one: {' or '.join(commands)}"
        )
        raise BackendMissingError(msg)
    order = {manifest.recommended_recipe: 0, EXACT_RECIPE: 1}
    ranks = {name: rank for rank, name in enumerate(BACKENDS)}
    runnable.sort(key=lambda pair: (order.get(pair[1].recipe, 2), ranks[pair[0].name]))
    return runnable, notes


def _check_recipes(bundle: Bundle, choice: Choice) -> None:
    held = {artifact.recipe for artifact in bundle.manifest.artifacts}
    unknown = [recipe for recipe in choice.recipes or () if recipe not in held]
    if unknown:
        msg = (
            f"--recipes {','.join(unknown)}: {bundle.folder} has {', '.join(sorted(held))}. "
            "Choose of these, or export the model again with that recipe."
        )
        raise NoArtifactError(msg)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
