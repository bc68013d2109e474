"""The plan of a benchmark: the files, backends, numbers of threads and inputs to measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bilstm_runtime.backends import BACKENDS, find_backend
from bilstm_runtime.bundle.tuning import EXACT_RECIPE, MAX_THREADS
from bilstm_runtime.device import usable_cores
from bilstm_runtime.errors import BackendMissingError, NoArtifactError, OptionError
from bilstm_runtime.sampling import random_values
from bilstm_runtime.spec import MAX_AXIS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_runtime.backends import Backend
    from bilstm_runtime.bundle.folder import Bundle
    from bilstm_runtime.bundle.manifest import Manifest
    from bilstm_runtime.spec import AnyArray, Artifact, InputSpec, ModelSpec

DEFAULT_LENGTHS: Final = (10, 50, 200)
_DEFAULT_THREADS: Final = (1, 2, 4)
_MAX_VALUES: Final = 2**28
"""The maximum number of values of one input: 1 GiB of float32."""


@dataclass(frozen=True)
class Choice:
    """The user's selection; None for a default that depends on the bundle.

    Attributes:
        lengths: The lengths of the sequences, in steps.
        batches: The batch sizes.
        threads: The numbers of threads that the backend may use.
        backends: The names of the backends.
        recipes: The names of the recipes.
        padding: The fraction of padding at the end of each sequence.
        seed: The random seed for the inputs and the order of the rounds.
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
        threads: The number of threads that the backend may use.
    """

    file: str
    recipe: str
    backend: str
    threads: int

    @property
    def label(self) -> str:
        """For tables and messages."""
        return f"{self.backend} {self.recipe}, {_count(self.threads, 'thread')}"


@dataclass(frozen=True)
class Shape:
    """The size of an input.

    Attributes:
        length: The length of the sequences in steps; None for a model without a sequence axis.
        batch: The batch size.
    """

    length: int | None
    batch: int

    @property
    def steps(self) -> int:
        """The number of steps in the whole batch."""
        return (self.length or 1) * self.batch

    @property
    def label(self) -> str:
        """For tables and messages."""
        steps = "" if self.length is None else f"{_count(self.length, 'step')}, "
        return f"{steps}batch {self.batch}"


@dataclass(frozen=True)
class Plan:
    """The variants and inputs to measure.

    Attributes:
        variants: The variants. The first is the baseline: the one that `load` runs without
            tuning, if it is selected.
        shapes: The sizes of the inputs.
        padding: The fraction of the steps that is padding.
        seed: The random seed for the inputs and the order of the rounds.
        notes: One sentence for each file that is not measured, with the reason.
    """

    variants: tuple[Variant, ...]
    shapes: tuple[Shape, ...]
    padding: float
    seed: int
    notes: tuple[str, ...]

    @property
    def middle(self) -> Shape:
        """The input of median size."""
        return sorted(self.shapes, key=lambda shape: shape.steps)[(len(self.shapes) - 1) // 2]

    @property
    def longest(self) -> Shape:
        """The input with the most steps."""
        return max(self.shapes, key=lambda shape: shape.steps)

    @property
    def unthreaded(self) -> tuple[Variant, ...]:
        """The variants with the first number of threads, one per file and backend."""
        return tuple(v for v in self.variants if v.threads == self.variants[0].threads)


def make_plan(bundle: Bundle, choice: Choice) -> Plan:
    """Make the plan for a bundle.

    Raises:
        OptionError: An option is not valid for this bundle.
        NoArtifactError: The bundle has no file for the selection.
        BackendMissingError: No backend for the selected files is installed.
        UnknownBackendError: There is no backend of that name.
    """
    spec = bundle.manifest.spec
    threads = _checked("--threads", choice.threads or _default_threads(), MAX_THREADS)
    shapes = tuple(
        Shape(length, batch)
        for batch in _batches(spec, choice.batches)
        for length in _lengths(spec, choice.lengths)
    )
    _check_padding(spec, choice.padding)
    for shape in shapes:
        _check_size(spec, shape)
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
    """Return the manifest's entry for the file of a variant."""
    return next(item for item in manifest.artifacts if item.file == variant.file)


def make_inputs(
    spec: ModelSpec, shape: Shape, *, padding: float = 0.0, seed: int = 0
) -> dict[str, AnyArray]:
    """Make one random input of this size.

    Args:
        spec: The inputs of the model.
        shape: The size of the input.
        padding: The fraction of steps at the end of every sequence that have the mask value, in
            inputs with one; at least one step is not padding.
        seed: The random seed.

    Returns:
        By input name, an array `[batch, ...]` of the input's dtype. An input that starts with a
        text layer in the Keras model gets ids.
    """
    rng = np.random.default_rng([seed, shape.batch, shape.length or 0])
    return {item.name: _input(item, shape, padding, rng) for item in spec.inputs}


def _input(spec: InputSpec, shape: Shape, padding: float, rng: np.random.Generator) -> AnyArray:
    sizes = [shape.batch]
    for axis in spec.axes[1:]:
        if axis.name is None or shape.length is None:
            sizes.append(axis.size or axis.min)
        else:
            sizes.append(min(axis.size or shape.length, shape.length))
    values: AnyArray = random_values(spec, tuple(sizes), rng)
    if padding and spec.mask_value is not None and len(sizes) > 1:
        first = max(1, round(sizes[1] * (1 - padding)))
        values[:, first:] = spec.mask_value
    return values


def parse_counts(option: str, text: str) -> tuple[int, ...]:
    """Parse a list of counts, such as "1,2,4".

    Raises:
        OptionError: A part is not a whole number from 1.

    >>> parse_counts("--threads", "1,2")
    (1, 2)
    """
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        message = f"{option} {text}: expected whole numbers from 1, separated by commas"
        raise OptionError(message) from error
    return _checked(option, values, MAX_THREADS if option == "--threads" else MAX_AXIS)


def _checked(option: str, values: Sequence[int], maximum: int) -> tuple[int, ...]:
    for value in values:
        if not 1 <= value <= maximum:
            message = f"{option} {value}: expected whole numbers from 1 to {maximum:,}"
            raise OptionError(message)
    return tuple(dict.fromkeys(values))


def _default_threads() -> tuple[int, ...]:
    return tuple(count for count in _DEFAULT_THREADS if count <= usable_cores())


def _batches(spec: ModelSpec, requested: Sequence[int] | None) -> tuple[int, ...]:
    fixed = spec.batch.size
    if requested is None:
        return (fixed or spec.batch.min,)
    for batch in _checked("--batches", requested, MAX_AXIS):
        if fixed is not None and batch != fixed:
            message = f"--batches {batch}: this model was exported for batches of {fixed} only"
            raise OptionError(message)
        if batch < spec.batch.min:
            message = f"--batches {batch}: this model takes batches of {spec.batch.min} or more"
            raise OptionError(message)
    return tuple(dict.fromkeys(requested))


def _lengths(spec: ModelSpec, requested: Sequence[int] | None) -> tuple[int | None, ...]:
    axes = spec.sequence_axes.values()
    if not axes:
        if requested is not None:
            message = "--lengths: the inputs of this model have no sequence axis; leave it out"
            raise OptionError(message)
        return (None,)
    free = [axis.min for axis in axes if axis.size is None]
    if not free:
        return _fixed_lengths(min(axis.size or 1 for axis in axes), spec, requested)
    if requested is None:
        return tuple(dict.fromkeys(max(length, *free) for length in DEFAULT_LENGTHS))
    for length in _checked("--lengths", requested, MAX_AXIS):
        if length < max(free):
            message = f"--lengths {length}: this model takes sequences of {max(free)} or more steps"
            raise OptionError(message)
    return tuple(dict.fromkeys(requested))


def _fixed_lengths(
    fixed: int, spec: ModelSpec, requested: Sequence[int] | None
) -> tuple[int | None, ...]:
    if requested is None:
        return (fixed,)
    for length in _checked("--lengths", requested, MAX_AXIS):
        if length > fixed:
            message = (
                f"--lengths {length}: this model was exported for {fixed} steps and takes no "
                f"more. Choose {fixed} or less, or export it again with another --time"
            )
            raise OptionError(message)
        if length < fixed and not spec.can_pad:
            message = (
                f"--lengths {length}: this model takes exactly {fixed} steps, and padding "
                "changes its outputs"
            )
            raise OptionError(message)
    return tuple(dict.fromkeys(requested))


def _check_padding(spec: ModelSpec, padding: float) -> None:
    if not 0 <= padding < 1:
        message = f"--padding {padding}: expected a share from 0 to less than 1, such as 0.5"
        raise OptionError(message)
    if padding and all(item.mask_value is None for item in spec.inputs):
        message = (
            f"--padding {padding}: no input of this model marks steps as padding; leave it out"
        )
        raise OptionError(message)


def _check_size(spec: ModelSpec, shape: Shape) -> None:
    for item in spec.inputs:
        values = 1
        for axis in item.axes[1:]:
            values *= axis.size or shape.length or axis.min
        if values * shape.batch > _MAX_VALUES:
            message = (
                f"{shape.label}: the input {item.name!r} would have {values * shape.batch} "
                f"values; at most {_MAX_VALUES} are measured"
            )
            raise OptionError(message)


def _runnable(bundle: Bundle, choice: Choice) -> tuple[list[tuple[Backend, Artifact]], list[str]]:
    """Return files on installed backends, in `load`'s order, and notes on files left out."""
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
        found = ", ".join(f"{a.file} ({a.format}, {a.recipe})" for a in manifest.artifacts)
        message = f"{bundle.folder} has no model file for that choice; it has {found}"
        raise NoArtifactError(message)
    notes = [
        f"{artifact.file} is not measured: {backend.missing()}"
        for backend, artifact in pairs
        if not backend.is_installed
    ]
    runnable = [pair for pair in pairs if pair[0].is_installed]
    if not runnable:
        commands = dict.fromkeys(backend.install_command for backend, _ in pairs)
        names = ", ".join(dict.fromkeys(backend.name for backend, _ in pairs))
        message = (
            f"nothing in this bundle can be measured: none of the backends {names} is installed. "
            f"Install one: {' or '.join(commands)}"
        )
        raise BackendMissingError(message)
    order = {manifest.recommended_recipe: 0, EXACT_RECIPE: 1}
    ranks = {name: rank for rank, name in enumerate(BACKENDS)}
    runnable.sort(key=lambda pair: (order.get(pair[1].recipe, 2), ranks[pair[0].name]))
    return runnable, notes


def _check_recipes(bundle: Bundle, choice: Choice) -> None:
    available = {artifact.recipe for artifact in bundle.manifest.artifacts}
    unknown = [recipe for recipe in choice.recipes or () if recipe not in available]
    if unknown:
        message = (
            f"--recipes {','.join(unknown)}: {bundle.folder} has {', '.join(sorted(available))}. "
            "Choose from these, or export the model again with that recipe."
        )
        raise NoArtifactError(message)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
