"""Which sizes the inputs and outputs have, found by asking the model.

A Keras model says which axes are free, not which of them must be equal, how short
they may be, or which axes of the outputs follow them. Its eager call says it all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bilstm_exporter.errors import OptionError, UnsupportedModelError, plain_text
from bilstm_exporter.inspection.graph_analysis import InputFacts, input_facts
from bilstm_exporter.ir.markers import Markers
from bilstm_exporter.keras_model import DeclaredInput, Source
from bilstm_runtime.sampling import random_values
from bilstm_runtime.spec import Axis, InputSpec, OutputSpec

BATCH, TIME = "batch", "time"

# Sizes of the free axes, tried in turn; the later ones serve models that pool or halve.
_SIZES = ((5, 7, 9, 6), (13, 17, 19, 15), (8, 16, 24, 32), (32, 64, 96, 48))
_LONGEST_MINIMUM = 64

# What a model may raise at an input it does not take: it may be anybody's code.
REFUSALS = (Exception,)


@dataclass(frozen=True)
class Interface:
    """The inputs and outputs of the artifacts.

    Attributes:
        inputs: As the manifest tells them.
        outputs: As the manifest tells them.
        comfortable: For each named axis a size at which the model runs.
    """

    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    comfortable: Mapping[str, int]

    @property
    def free_axes(self) -> dict[str, Axis]:
        """The axes whose size is not fixed, by name, the batch among them."""
        return {a.name: a for i in self.inputs for a in i.axes if a.size is None and a.name}

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs inside the artifacts."""
        return tuple(spec.name for spec in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs inside the artifacts, where none may be an input's too."""
        taken = set(self.input_names)
        names: list[str] = []
        for spec in self.outputs:
            name = spec.name
            while name in taken:
                name += "_output"
            taken.add(name)
            names.append(name)
        return tuple(names)

    def shapes(self, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        """The input shapes at these sizes, comfortable ones where nothing is said."""
        return _shapes(self.inputs, {**self.comfortable, **sizes})

    def declared(self) -> list[DeclaredInput]:
        """The inputs to trace with; None where an axis is free."""
        return [
            DeclaredInput(spec.name, tuple(axis.size for axis in spec.axes), spec.dtype)
            for spec in self.inputs
        ]


def find_interface(
    source: Source, *, batch: int | None = None, time: int | None = None
) -> Interface:
    """Ask the model.

    Args:
        source: The model.
        batch: Fix the batch axis at this size.
        time: Fix every free axis that follows a batch axis at this size.

    Raises:
        OptionError: An axis cannot be fixed at the size asked for.
        UnsupportedModelError: The model takes no input of any size tried.
    """
    traced = source.trace(Markers().lower, source.inputs)
    declared = _settled(source, input_facts(traced))
    if declared != list(source.inputs):
        traced = source.trace(Markers().lower, declared)
    facts = input_facts(traced)
    inputs, comfortable, answers = _tie_axes(source, declared, facts)
    inputs = _with_minimums(source, inputs, comfortable)
    outputs = _outputs(source, inputs, comfortable, answers)
    found = Interface(inputs, outputs, comfortable)
    for name, size in ((BATCH, batch), (TIME, time)):
        if size is not None:
            found = _fixed(source, found, name, size)
    return found


def _settled(source: Source, facts: Sequence[InputFacts]) -> list[DeclaredInput]:
    """Complete what the model does not declare: dtypes of ids, and which axes are free."""
    declared = list(source.inputs)
    if all(spec.declared for spec in declared):
        return declared
    declared = [
        replace(spec, dtype="int32") if fact.vocabulary is not None and not spec.declared else spec
        for spec, fact in zip(declared, facts, strict=True)
    ]
    # An axis of the example is free if the model takes it longer, by itself or, where it must
    # equal others, in all inputs at once.
    every = range(len(declared))
    free = {
        (index, position)
        for position in range(1, max(len(spec.shape) for spec in declared))
        for index in every
        if _takes_longer(source, declared, facts, position, [index])
    }
    for position in range(1, max(len(spec.shape) for spec in declared)):
        rest = [index for index in every if (index, position) not in free]
        if len(rest) > 1 and _takes_longer(source, declared, facts, position, rest):
            free.update((index, position) for index in rest)
    return [
        spec
        if spec.declared
        else replace(
            spec,
            shape=tuple(
                None if (index, position) in free else size
                for position, size in enumerate(spec.shape)
            ),
        )
        for index, spec in enumerate(declared)
    ]


def _takes_longer(
    source: Source,
    declared: Sequence[DeclaredInput],
    facts: Sequence[InputFacts],
    position: int,
    inputs: Sequence[int],
) -> bool:
    longer = [
        spec
        if spec.declared or index not in inputs
        else replace(
            spec, shape=tuple(n + 3 if p == position and n else n for p, n in enumerate(spec.shape))
        )
        for index, spec in enumerate(declared)
    ]
    if longer == list(declared):
        return False
    specs = [_named(spec, fact, {}) for spec, fact in zip(longer, facts, strict=True)]
    sizes = {axis.name: _SIZES[0][0] for spec in specs for axis in spec.axes if axis.name}
    return _answers(source, specs, {**sizes, BATCH: 2})


def _named(spec: DeclaredInput, fact: InputFacts, names: Mapping[int, str]) -> InputSpec:
    """An input of the manifest; ``names`` names its free axes by position."""
    axes = [Axis(BATCH, spec.shape[0])]
    for position, size in list(enumerate(spec.shape))[1:]:
        # The one fixed axis that sequences can be padded to.
        is_time = position == 1 and (len(spec.shape) > 2 or fact.is_ids)
        fixed_name = TIME if is_time and TIME not in names.values() else None
        name = names.get(position, f"axis_{position}") if size is None else fixed_name
        axes.append(Axis(name, size))
    mask_value, is_integer = fact.mask_value, np.dtype(spec.dtype).kind in "iu"
    return InputSpec(
        name=spec.name,
        dtype=spec.dtype,
        axes=tuple(axes),
        range=None if fact.vocabulary is None else (0, fact.vocabulary - 1),
        mask_value=int(mask_value) if mask_value is not None and is_integer else mask_value,
    )


def _tie_axes(
    source: Source, declared: Sequence[DeclaredInput], facts: Sequence[InputFacts]
) -> tuple[tuple[InputSpec, ...], dict[str, int], list[np.ndarray]]:
    """Name the free axes, with one name for those that must be equal; with an answer there."""
    free = [
        (index, position)
        for index, spec in enumerate(declared)
        for position, size in enumerate(spec.shape)
        if position and size is None
    ]
    failure: Exception | None = None
    for naming in _namings(free):
        inputs = tuple(
            _named(spec, fact, {p: name for (i, p), name in naming.items() if i == index})
            for index, (spec, fact) in enumerate(zip(declared, facts, strict=True))
        )
        inputs = _separated(inputs)
        names = list(dict.fromkeys(naming.values()))
        for sizes in _SIZES:
            batch = declared[0].shape[0] or 2
            tried = {BATCH: batch, **dict(zip(names, sizes * len(names), strict=False))}
            answer = _answer(source, inputs, tried)
            if not isinstance(answer, Exception):
                return inputs, tried, answer
            failure = answer
    message = (
        f"the model {source.name!r} takes no input of the sizes tried "
        f"(batch {declared[0].shape[0] or 2}; free axes of 5 to 96): "
        f"{plain_text(failure) if failure else 'it answers none'}"
    )
    raise UnsupportedModelError(message) from failure


def _separated(inputs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Name fixed time axes of different sizes differently: axes of one name have one size."""
    sizes: dict[str | None, int | None] = {
        axis.name: None for spec in inputs for axis in spec.axes if axis.size is None
    }

    def named(axis: Axis) -> Axis:
        name, number = axis.name, 1
        if name != TIME or axis.size is None:
            return axis
        while sizes.setdefault(name, axis.size) != axis.size:
            number += 1
            name = f"{TIME}_{number}"
        return replace(axis, name=name)

    return tuple(replace(spec, axes=tuple(map(named, spec.axes))) for spec in inputs)


def _namings(free: Sequence[tuple[int, int]]) -> Iterator[dict[tuple[int, int], str]]:
    """Ways to name the free axes ``(input, position)``, from all different to all equal."""
    bases = {axis: TIME if axis[1] == 1 else f"axis_{axis[1]}" for axis in free}
    seen: dict[str, int] = {}
    separate = {}
    for axis, base in bases.items():
        seen[base] = seen.get(base, 0) + 1
        separate[axis] = base if seen[base] == 1 else f"{base}_{seen[base]}"
    yield separate
    yield bases
    yield dict.fromkeys(free, TIME)


def _with_minimums(
    source: Source, inputs: tuple[InputSpec, ...], comfortable: Mapping[str, int]
) -> tuple[InputSpec, ...]:
    """Find the least size of every free axis but the batch."""
    minimums = {}
    for name in comfortable:
        if name != BATCH:
            candidates = range(1, min(comfortable[name], _LONGEST_MINIMUM) + 1)
            minimums[name] = next(
                size
                for size in candidates
                if size == comfortable[name]
                or (
                    _answers(source, inputs, {**comfortable, name: size})
                    and source.allows(_shapes(inputs, {**comfortable, name: size}))
                )
            )
    return tuple(
        replace(
            spec,
            axes=tuple(
                replace(a, min=minimums[a.name]) if a.size is None and a.name in minimums else a
                for a in spec.axes
            ),
        )
        for spec in inputs
    )


def _fixed(source: Source, found: Interface, base: str, size: int) -> Interface:
    """Fix every axis named ``base`` or ``base_2``, ... at a size."""
    axes = [axis for spec in found.inputs for axis in spec.axes]
    names = {a.name for a in axes if a.name and (a.name == base or a.name.startswith(f"{base}_"))}
    if not names:
        message = f"--{base} {size}: the model has no {base} axis that could be fixed"
        raise OptionError(message)
    for axis in axes:
        if axis.name in names and (axis.size not in (None, size) or size < axis.min):
            limit = f"fixed at {axis.size}" if axis.size else f"at least {axis.min}"
            message = f"--{base} {size}: the model's {axis.name} axis is {limit}"
            raise OptionError(message)

    def fixed(axis: Axis) -> Axis:
        return Axis(axis.name, size) if axis.name in names else axis

    inputs = tuple(replace(s, axes=tuple(map(fixed, s.axes))) for s in found.inputs)
    outputs = [replace(s, axes=tuple(map(fixed, s.axes))) for s in found.outputs]
    sizes = {**found.comfortable, **dict.fromkeys(names, size)}
    if not any(axis.size is None for spec in inputs for axis in spec.axes[1:]):
        # Nothing is left for an axis of the outputs to depend on but the batch.
        answers = source.reference(_arrays(inputs, sizes))
        outputs = [
            replace(
                spec,
                axes=tuple(
                    Axis(None, length) if axis.size is None and axis.name is None else axis
                    for axis, length in zip(spec.axes, answer.shape, strict=True)
                ),
            )
            for spec, answer in zip(outputs, answers, strict=True)
        ]
    return Interface(inputs, tuple(outputs), sizes)


def _outputs(
    source: Source,
    inputs: tuple[InputSpec, ...],
    comfortable: Mapping[str, int],
    comfortable_answer: list[np.ndarray],
) -> tuple[OutputSpec, ...]:
    """See which axes of the outputs follow which axis of the inputs."""
    free = {a.name for spec in inputs for a in spec.axes if a.size is None and a.name}
    variants = [dict(comfortable)]
    answers = [comfortable_answer]
    for name in sorted(free):
        for factor in (2, 3):
            variant = {**comfortable, name: comfortable[name] * factor}
            answer = _answer(source, inputs, variant)
            if not isinstance(answer, Exception):
                variants.append(variant)
                answers.append(answer)
                break
    specs = []
    for index, name in enumerate(source.output_names):
        arrays = [answer[index] for answer in answers]
        axes = tuple(
            _output_axis([array.shape[axis] for array in arrays], variants, axis)
            for axis in range(arrays[0].ndim)
        )
        specs.append(OutputSpec(name, str(arrays[0].dtype), axes))
    return tuple(specs)


def _output_axis(sizes: Sequence[int], variants: Sequence[Mapping[str, int]], axis: int) -> Axis:
    candidates = (
        [BATCH, *sorted(set(variants[0]) - {BATCH})]
        if axis == 0
        else sorted(set(variants[0]) - {BATCH}, key=lambda name: (name != TIME, name))
    )
    changing = len(set(sizes)) > 1
    for name in candidates:
        follows = all(size == variant[name] for size, variant in zip(sizes, variants, strict=True))
        varied = len({variant[name] for variant in variants}) > 1
        if follows and (varied == changing) and (varied or name == BATCH):
            return Axis(name, None if varied else sizes[0])
    return Axis(None, None if changing else sizes[0])


def _answer(
    source: Source, inputs: Sequence[InputSpec], sizes: Mapping[str, int]
) -> list[np.ndarray] | Exception:
    """What the model answers at these sizes, or why it does not."""
    try:
        answers = source.reference(_arrays(inputs, sizes))
    except REFUSALS as error:
        return error
    if any(answer.size == 0 for answer in answers):
        return ValueError("an output is empty")
    return answers


def _answers(source: Source, inputs: Sequence[InputSpec], sizes: Mapping[str, int]) -> bool:
    return not isinstance(_answer(source, inputs, sizes), Exception)


def _arrays(inputs: Sequence[InputSpec], sizes: Mapping[str, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = _shapes(inputs, sizes)
    return [random_values(spec, shape, rng) for spec, shape in zip(inputs, shapes, strict=True)]


def _shapes(inputs: Sequence[InputSpec], sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
    return [tuple(_size(axis, sizes) for axis in spec.axes) for spec in inputs]


def _size(axis: Axis, sizes: Mapping[str, int]) -> int:
    return axis.size if axis.size is not None else sizes[axis.name or ""]
